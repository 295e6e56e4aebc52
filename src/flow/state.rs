//! The values that the table is made from and gives out: limits, levels, positions, what is known of a flow.
//!
//! Nothing is decided here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::key::FlowKey;
use crate::notify::message::{Level, Origin};

/// The bit of `level` in a set of levels.
pub(super) fn bit(level: Level) -> u8 {
    1 << level.index()
}

/// One instance of a flow. The instance number alone is unique among all tables with the same [`Instances`], and is never
/// used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    pub(super) slot: u32,
    pub(super) instance: u64,
}

impl FlowId {
    /// Its number among all [`Instances`]; of the same 5-tuple, a later one is higher.
    pub fn instance(self) -> u64 {
        self.instance
    }
}

/// Numbers the instances of all tables of an appliance, from 1: subscribers take a higher number under the same 5-tuple
/// for a later connection, whichever lane it is on.
#[derive(Clone, Debug, Default)]
pub struct Instances(Arc<AtomicU64>);

impl Instances {
    pub(super) fn next(&self) -> u64 {
        // Only the numbers are shared, so their order needs none beside them.
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Everything of a flow before this has reached a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Payload bytes since the flow's [`Origin`]. SYN and FIN count nothing.
    pub bytes: u64,
    /// Packets of UDP, each segment of a super-packet counted; 0 for TCP.
    pub packets: u64,
    /// The sequence number of the next byte; 0 for UDP.
    pub sequence: u32,
}

/// What is known of one instance of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// The instance.
    pub id: FlowId,
    /// Its 5-tuple.
    pub key: FlowKey,
    /// What a subscriber called the 5-tuple.
    pub cookie: Option<u64>,
    /// Where its count begins. A TCP flow first seen in its middle has no position until the other end has acknowledged what
    /// came before.
    pub origin: Origin,
    /// The sequence number of position 0; none for UDP.
    pub origin_sequence: Option<u32>,
    /// What came before position 0 is at the other end, or there was nothing. Before that no position is told.
    pub anchored: bool,
    /// The end of the last byte or packet that was sent.
    pub sent: Position,
    /// How far it has come, by [`Level`].
    pub positions: [Position; 4],
    /// The lowest byte that was called protected and then lost, until the other end has acknowledged all that was lost.
    /// What was said of bytes behind it is void.
    pub violated: Option<Position>,
    /// Ended by both sides or broken off by one.
    pub closed: bool,
    /// When it was last seen, to the second.
    pub seen_at: Instant,
}

impl FlowState {
    /// How far it has come at `level`.
    pub fn position(&self, level: Level) -> Position {
        self.positions[level.index()]
    }

    /// How far it has come at `level`, as it may be told to others; none where nothing can be said: of UDP nobody
    /// acknowledges anything, and of a TCP flow first seen in its middle nothing is known before an acknowledgement has
    /// reached its first byte seen.
    pub fn told(&self, level: Level) -> Option<Position> {
        let known = self.anchored && (level != Level::Acked || self.origin_sequence.is_some());
        known.then(|| self.position(level))
    }
}

/// How much a table may remember, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows; beyond, the longest idle gives way.
    pub flows: usize,
    /// Byte ranges in blocks that are undecided or that the peer has not reported; beyond, the oldest reported
    /// protected are forgotten first.
    pub ranges: usize,
    /// Blocks of one profile that are remembered.
    pub blocks: usize,
    /// Cookies for flows that do not exist yet.
    pub cookies: usize,
    /// Life of a TCP flow without packets.
    pub tcp_idle: Duration,
    /// Life of a UDP flow without packets, and of a cookie without a flow.
    pub udp_idle: Duration,
    /// Life of a closed flow without packets.
    pub closed: Duration,
}

impl Default for Limits {
    /// For one lane; about 45 MB when every flow and range is in use, and two while few are. A flow whose bytes are
    /// protected out of order may take 3 KB more.
    fn default() -> Self {
        Self {
            flows: 65_536,
            ranges: 65_536,
            blocks: 16_384,
            cookies: 4_096,
            // RFC 5382: no less than two hours and four minutes, the time after which TCP sends its keepalives.
            tcp_idle: Duration::from_secs(7_500),
            // RFC 4787: five minutes or more are recommended.
            udp_idle: Duration::from_secs(300),
            closed: Duration::from_secs(10),
        }
    }
}

/// What a table has seen since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instances begun.
    pub opened: u64,
    /// Instances that gave way to another flow because the table was full.
    pub evicted: u64,
    /// Packets of TCP or UDP that were fragments; no flow counts them.
    pub fragments: u64,
    /// TCP segments that cannot be of the present connection, or may be of the one before.
    pub strays: u64,
    /// Answers that acknowledge bytes that were never seen, or that their receiver would not take.
    pub implausible_acks: u64,
    /// TCP segments in either direction with a wrong checksum: they were sent on and count for nothing.
    pub bad_checksums: u64,
    /// Ranges that were sent but not remembered: their bytes count only when acknowledged.
    pub unrecorded: u64,
    /// Spans that were protected out of order and forgotten, because a flow had too many.
    pub forgotten_spans: u64,
    /// Blocks whose ranges were forgotten before the peer reported them.
    pub forgotten_blocks: u64,
    /// Blocks that were protected and turned out lost.
    pub violations: u64,
}
