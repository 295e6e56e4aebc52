//! What subscribers of the appliance may want to know, in the core's own values.

use crate::flow::{BlockRange, FlowState, Violation};
use crate::notify::message::{Event, Level, LinkState, StateReason};
use crate::wire::payload_id::BlockId;

/// Something that became known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub enum Notification {
    /// A flow changed, or is reported again.
    Flow {
        /// All that is known of it.
        state: FlowState,
        /// What happened to it.
        event: Event,
        /// k and m of the block whose fate raised a position last, while the block is remembered.
        block: Option<(u16, u16)>,
    },
    /// A block was decided.
    Block {
        /// The block.
        block: BlockId,
        /// k, its source symbols.
        source_symbols: u16,
        /// m, its repair symbols.
        repair_symbols: u16,
        /// The level that it has reached; none: it will not be called protected.
        level: Option<Level>,
        /// The first ranges of flows that it holds.
        ranges: Vec<BlockRange>,
    },
    /// The link has another state or another reason for it.
    State(LinkState, StateReason),
    /// A block that was called protected is lost.
    Violation(Violation),
    /// The answer to a barrier: everything asked about has reached the level, or some of it never will. [`Level::Acked`]:
    /// no packet was ever read, so the barrier is about nothing.
    Barrier(u64, Option<Level>),
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks called protected.
    pub protected: u64,
    /// Blocks that had left when the link could not be trusted or too late, or whose way changed before they had.
    pub untrusted: u64,
    /// Blocks of which a datagram could not be sent.
    pub unsendable: u64,
    /// Timestamps that did not come in time.
    pub stamps_missing: u64,
    /// Blocks the peer gave up.
    pub lost: u64,
    /// Of them, those that had been called protected.
    pub violations: u64,
    /// Blocks that were forgotten before their fate was known.
    pub forgotten: u64,
}

impl Counters {
    /// Adds the counts of another lane.
    pub fn add(&mut self, other: &Self) {
        self.protected += other.protected;
        self.untrusted += other.untrusted;
        self.unsendable += other.unsendable;
        self.stamps_missing += other.stamps_missing;
        self.lost += other.lost;
        self.violations += other.violations;
        self.forgotten += other.forgotten;
    }
}
