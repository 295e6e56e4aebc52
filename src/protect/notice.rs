//! What a subscriber may want to know, as values.

use super::health::{LinkState, StateReason};
use crate::flow::{BlockRange, Event, Level, Violation};
use crate::wire::payload_id::BlockId;

/// Something that became known.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one, and none is kept")]
pub enum Notice {
    /// Of a flow.
    Flow(Event),
    /// A block was decided.
    Block {
        /// The block.
        block: BlockId,
        /// k, its source symbols.
        source_symbols: u16,
        /// m, its repair symbols.
        repair_symbols: u16,
        /// What it has reached; none: it will not be called protected.
        level: Option<Level>,
        /// What it holds of flows, the first few.
        ranges: Vec<BlockRange>,
    },
    /// The link has another state or another reason for it.
    State(LinkState, StateReason),
    /// A block that was called protected is lost.
    Violation(Violation),
    /// A barrier is answered: everything asked about has reached the level, or something never will. [`Level::Acked`]:
    /// nothing was ever read, so it was about nothing.
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
