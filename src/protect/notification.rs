//! Notifications for subscribers of the appliance, in the core's own types.

use std::time::Instant;

use crate::flow::{BlockRange, FlowState, Violation};
use crate::notify::message::{Event, Level, LinkState, StateReason};
use crate::wire::payload_id::BlockId;

/// A change of flows, blocks or the link, or the answer to a barrier.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant, reason = "the large one is the usual one")]
pub enum Notification {
    /// A flow changed, or is reported again.
    Flow {
        /// Its full state.
        state: FlowState,
        /// What changed.
        event: Event,
        /// k and m of the block that last raised a position, while the block is remembered.
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
        /// The level that it has reached; none if it will not be claimed as protected.
        level: Option<Level>,
        /// Its first ranges of flows.
        ranges: Vec<BlockRange>,
    },
    /// The state of the link changed, or the reason for it.
    State(LinkState, StateReason),
    /// A block that was claimed as protected is lost.
    Violation(Violation),
    /// The answer to a barrier: the level that all its blocks have reached; none if one of them never will.
    /// [`Level::Acked`]: no packet had been read, so the barrier covers nothing.
    Barrier(u64, Option<Level>),
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks claimed as protected.
    pub protected: u64,
    /// Blocks that left too late or while the link was not trusted, or whose path changed before they left.
    pub untrusted: u64,
    /// Blocks whose late part did not leave, or too close to the early one: they are protected early at most.
    pub promises_broken: u64,
    /// Blocks with a datagram that could not be sent.
    pub unsendable: u64,
    /// Overdue timestamps.
    pub stamps_missing: u64,
    /// Blocks that the peer gave up.
    pub lost: u64,
    /// Those of them that had been claimed as protected.
    pub violations: u64,
    /// Blocks that were forgotten while undecided.
    pub forgotten: u64,
}

impl Counters {
    /// Adds the counts of another lane.
    pub fn add(&mut self, other: &Self) {
        self.protected += other.protected;
        self.untrusted += other.untrusted;
        self.promises_broken += other.promises_broken;
        self.unsendable += other.unsendable;
        self.stamps_missing += other.stamps_missing;
        self.lost += other.lost;
        self.violations += other.violations;
        self.forgotten += other.forgotten;
    }
}

/// Since when a link has its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateTimes {
    /// When it became up, degraded or down.
    pub state: Instant,
    /// When the reason became what it is: at that time or later.
    pub reason: Instant,
}
