//! The values that configure the table and that it returns: limits, positions and the state of a flow.
//!
//! No decisions are made here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::key::FlowKey;
use crate::notify::message::{Level, Origin};

/// The bit of `level` in a set of levels.
pub(super) fn bit(level: Level) -> u8 {
    1 << level.index()
}

/// One instance of a flow. The instance number alone is unique among all tables with the same [`InstanceCounter`]; it is
/// never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId {
    pub(super) slot: u32,
    pub(super) instance: u64,
}

impl FlowId {
    /// The instance number among all [`InstanceCounter`]; a later instance of the same 5-tuple has a higher one.
    pub fn instance(self) -> u64 {
        self.instance
    }
}

/// Numbers the instances of all tables of an appliance, from 1. Subscribers treat a higher number under the same
/// 5-tuple as a later connection, on any lane.
#[derive(Clone, Debug, Default)]
pub struct InstanceCounter(Arc<AtomicU64>);

impl InstanceCounter {
    pub(super) fn next(&self) -> u64 {
        // Only the counter is shared, so no other memory needs ordering with it.
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A position in a flow: everything before it has reached a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Payload bytes since the flow's [`Origin`]; SYN and FIN count nothing.
    pub bytes: u64,
    /// UDP packets, counting each segment of a super-packet; 0 for TCP.
    pub packets: u64,
    /// The sequence number of the next byte; 0 for UDP.
    pub sequence: u32,
}

/// The state of one instance of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowState {
    /// The instance.
    pub id: FlowId,
    /// Its 5-tuple.
    pub key: FlowKey,
    /// The subscriber's cookie for the 5-tuple.
    pub cookie: Option<u64>,
    /// Where its count begins. A TCP flow first seen in the middle has no position until the other end has acknowledged
    /// everything before it.
    pub origin: Origin,
    /// The sequence number of position 0; none for UDP.
    pub origin_sequence: Option<u32>,
    /// Everything before position 0 is at the other end, or there was nothing. Until then no position is reported.
    pub anchored: bool,
    /// The end of the last byte or packet sent.
    pub sent: Position,
    /// Its position at each [`Level`].
    pub positions: [Position; Level::COUNT],
    /// The interruption of the link that bytes at [`Level::OnWire`] survive, whenever it comes.
    pub survives_burst: Duration,
    /// The lowest byte that was claimed as protected and then lost, until the other end has acknowledged all lost
    /// bytes. Positions reported behind it are void.
    pub violated: Option<Position>,
    /// Both ends have sent a FIN, or one has reset the connection.
    pub closed: bool,
    /// When it was last seen, to the second.
    pub seen_at: Instant,
}

impl FlowState {
    /// Its position at `level`.
    pub fn position(&self, level: Level) -> Position {
        self.positions[level.index()]
    }

    /// Its position at `level` as reported to subscribers; none where nothing is known. UDP has no acknowledgements,
    /// and a TCP flow first seen in the middle has no position before an acknowledgement has reached its first seen
    /// byte.
    pub fn reported(&self, level: Level) -> Option<Position> {
        let known = self.anchored && (level != Level::Acked || self.origin_sequence.is_some());
        known.then(|| self.position(level))
    }
}

/// How much a table remembers, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Flows; beyond, the longest idle one is evicted.
    pub flows: usize,
    /// Byte ranges in blocks that are undecided or not yet reported by the peer; beyond, the oldest ranges reported as
    /// protected are forgotten first.
    pub ranges: usize,
    /// Remembered blocks per profile.
    pub blocks: usize,
    /// Cookies for flows that do not exist yet.
    pub cookies: usize,
    /// Lifetime of a TCP flow without packets.
    pub tcp_idle: Duration,
    /// Lifetime of a UDP flow without packets, and of a cookie without a flow.
    pub udp_idle: Duration,
    /// Lifetime of a closed flow without packets.
    pub closed: Duration,
}

impl Default for Limits {
    /// For one lane: about 45 MB when every flow and range is in use, 2 MB when few are. A flow whose bytes are
    /// protected out of order may take 3 KB more.
    fn default() -> Self {
        Self {
            flows: 65_536,
            ranges: 65_536,
            blocks: 16_384,
            cookies: 4_096,
            // RFC 5382 asks for at least two hours and four minutes; TCP sends keepalives after two hours.
            tcp_idle: Duration::from_secs(7_500),
            // RFC 4787 recommends five minutes or more.
            udp_idle: Duration::from_secs(300),
            closed: Duration::from_secs(10),
        }
    }
}

/// Counts since the table was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Instances started.
    pub opened: u64,
    /// Instances that were evicted because the table was full.
    pub evicted: u64,
    /// TCP or UDP packets that were fragments; no flow counts them.
    pub fragments: u64,
    /// TCP segments that cannot be of the current connection, or may be of the previous one.
    pub strays: u64,
    /// Answers that acknowledge bytes never seen, or that their receiver would not accept.
    pub implausible_acks: u64,
    /// TCP segments in either direction with a wrong checksum: they were forwarded, but count for nothing.
    pub bad_checksums: u64,
    /// Ranges that were sent but not recorded: their bytes count only when acknowledged.
    pub unrecorded: u64,
    /// Spans that were protected out of order and forgotten because the flow had too many.
    pub forgotten_spans: u64,
    /// Blocks whose ranges were forgotten before the peer reported them.
    pub forgotten_blocks: u64,
    /// Blocks that were claimed as protected and turned out lost.
    pub violations: u64,
}
