//! One instance of a flow, and its position at each level. TCP segments are interpreted in [`segments`].
//!
//! Offsets count payload bytes from the byte after the SYN, or from the first byte seen; SYN and FIN count nothing. A
//! UDP packet counts its payload and its header, so that an empty packet has an offset of its own; positions given out
//! exclude the headers. The flow does not know which block holds its bytes.

mod holes;
mod marks;
mod segments;

use std::time::{Duration, Instant};

use super::coverage::{Coverage, Mark, Span};
use super::idle_order::IdleClass;
use super::key::{FlowKey, PackedKey};
use super::plausible::Ends;
use super::sequence::Previous;
use super::state::{FlowId, FlowState, Position, bit};
use crate::notify::message::{Level, Origin};
use crate::wire::offload::UDP_HEADER;
use crate::wire::packet::TCP;
use crate::wire::payload_id::BlockId;

use marks::FlowFlags;
pub(super) use segments::{Answer, Sent};

/// Levels that blocks reach. [`Level::Acked`] needs no coverage: acknowledgements are cumulative.
const COVERED: [Level; 4] = [Level::Queued, Level::Early, Level::OnWire, Level::Decoded];

/// The fields that a packet of a steady flow touches, in two cache lines: with many flows, cache misses dominate the
/// time. All other fields are in [`Rest`].
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Flow {
    pub packed: PackedKey,
    pub id: FlowId,
    /// The sequence number of offset 0.
    base: u32,
    /// The number of its last range in a block, and that block, packed.
    last_range: u32,
    last_block: u64,
    /// The end of the last byte sent.
    sent: u64,
    acked: u64,
    pub seen_at: Instant,
    rest: Box<Rest>,
    /// Sequence numbers and windows seen from both ends of a TCP connection.
    ends: Ends,
    pub line: IdleClass,
    /// Levels whose change was not reported yet.
    pub unreported: u8,
    strays: u8,
    marks: FlowFlags,
}

// One more field would cost every packet a third cache line.
const _: () = assert!(size_of::<Option<Flow>>() == 128);

/// Fields that are needed when a connection begins or ends, when a block is decided, and when the state is queried.
#[derive(Debug)]
pub(super) struct Rest {
    /// By level, weakest first; each covers at least what the next one does.
    coverage: [Coverage; COVERED.len()],
    told: [Mark; Level::COUNT],
    /// Packets sent, in a flow that counts packets.
    packets: u64,
    /// The shortest interruption that one of its protected blocks was promised to survive.
    survives_burst: Option<Duration>,
    /// The lowest byte that was claimed as protected and then lost, until everything lost is acknowledged.
    violated: Option<Mark>,
    /// Bytes before this were claimed as protected and then lost: nothing behind them is protected before they are
    /// decoded or acknowledged. 0 for none.
    lost_below: u64,
    /// The end of all bytes ever claimed and then lost.
    violated_below: u64,
    /// The end of all bytes that were ever in a failed block.
    failed_below: u64,
    /// The table lists this flow as one that may have a hole.
    is_holed: bool,
    /// Payload bytes of the SYN.
    in_syn: u32,
    /// The block that last raised a position, unless an acknowledgement did.
    raised_by: Option<BlockId>,
    previous: Option<Previous>,
    /// A SYN was sent while the connection was alive: the base of the new connection, and its sequence numbers and
    /// windows.
    syn: Option<(u32, Ends)>,
    cookie: Option<u64>,
    origin: Origin,
    key: FlowKey,
}

impl Flow {
    pub fn new(id: FlowId, key: FlowKey, origin: Origin, base: u32, cookie: Option<u64>, now: Instant) -> Self {
        let tcp = key.protocol == TCP;
        Self {
            id,
            packed: PackedKey::new(&key),
            base,
            strays: 0,
            unreported: 0,
            marks: FlowFlags::default().with(FlowFlags::ANCHORED, origin == Origin::Start),
            ends: Ends::default(),
            last_range: u32::MAX,
            last_block: 0,
            sent: 0,
            acked: 0,
            line: if tcp { IdleClass::Tcp } else { IdleClass::Udp },
            seen_at: now,
            rest: Box::new(Rest {
                coverage: Default::default(),
                told: Default::default(),
                packets: 0,
                survives_burst: None,
                violated: None,
                lost_below: 0,
                violated_below: 0,
                failed_below: 0,
                is_holed: false,
                in_syn: 0,
                raised_by: None,
                previous: None,
                syn: None,
                cookie,
                origin,
                key,
            }),
        }
    }

    /// Starts the next instance on the same ports; `self` becomes it and keeps its memory.
    pub fn begin_again(&mut self, id: FlowId, origin: Origin, base: u32, now: Instant) {
        let mut next = Self::new(id, self.rest.key, origin, base, self.rest.cookie, now);
        for (kept, cleared) in next.rest.coverage.iter_mut().zip(&mut self.rest.coverage) {
            cleared.clear();
            std::mem::swap(kept, cleared);
        }
        if self.is_tcp() {
            next.marks.set(FlowFlags::HAS_PREVIOUS, true);
            next.rest.previous = Some(Previous::new(self.base, self.sequence(self.sent), now));
        }
        // It stays in its current list; the caller moves it.
        next.line = self.line;
        *self = next;
    }

    pub fn is_tcp(&self) -> bool {
        self.packed.protocol() == TCP
    }

    pub fn is_closed(&self) -> bool {
        self.marks.has(FlowFlags::BROKEN_OFF)
            || (self.marks.has(FlowFlags::SENT_FIN) && self.marks.has(FlowFlags::RECEIVED_FIN))
    }

    /// The number of its last range if that is in `block`. Reading a range of another block would only cost a cache
    /// miss.
    #[inline]
    pub fn range_in(&self, block: BlockId) -> Option<u32> {
        (self.last_block == packed(block)).then_some(self.last_range)
    }

    /// Sets its last range and the block of it.
    #[inline]
    pub fn set_range(&mut self, range: u32, block: BlockId) {
        (self.last_range, self.last_block) = (range, packed(block));
    }

    /// Sets the sequence numbers and windows that were seen before this instance began.
    pub fn set_ends(&mut self, ends: Ends) {
        self.ends = ends;
    }

    /// The previous connection, while its packets may still come.
    #[inline]
    fn previous(&mut self, now: Instant) -> Option<Previous> {
        if !self.marks.has(FlowFlags::HAS_PREVIOUS) {
            return None;
        }
        let previous = self.rest.previous.filter(|previous| !previous.is_over(now));
        self.marks.set(FlowFlags::HAS_PREVIOUS, previous.is_some());
        previous
    }

    /// UDP datagrams were sent, with `payload` bytes in total.
    pub fn on_datagrams_sent(&mut self, payload: u64, packets: u32) -> Span {
        let start = self.sent();
        let packets = u64::from(packets);
        self.sent += payload + packets * UDP_HEADER as u64;
        self.rest.packets += packets;
        Span { start, end: self.sent() }
    }

    /// `span`, the last one sent, is not recorded. Returns true if it was the first: the flow is then empty again.
    pub fn take_back(&mut self, span: Span) -> bool {
        let first = span.start == Mark::default();
        if first {
            (self.sent, self.rest.packets) = (0, 0);
        }
        first
    }

    /// The end of the last byte or packet sent.
    fn sent(&self) -> Mark {
        Mark { offset: self.sent, packets: self.rest.packets }
    }

    /// `span` has reached `level`; it had reached `known` before. Returns false if a span had to be forgotten.
    pub fn on_reached(&mut self, span: Span, known: Option<Level>, level: Level) -> bool {
        let mut kept = true;
        for (coverage, covered) in self.rest.coverage.iter_mut().zip(COVERED) {
            if covered <= level && known.is_none_or(|known| covered > known) {
                kept &= coverage.add(span);
            }
        }
        kept
    }

    /// Bytes of it are protected, and survive an interruption of this length.
    pub fn on_promise(&mut self, survives_burst: Duration) {
        let shortest = self.rest.survives_burst.map_or(survives_burst, |shortest| shortest.min(survives_burst));
        self.rest.survives_burst = Some(shortest);
    }

    /// `span` was claimed as protected and is lost.
    pub fn on_lost(&mut self, span: Span) {
        let arrived = self.arrived();
        if span.end.offset <= arrived.offset {
            return;
        }
        let rest = &mut *self.rest;
        rest.lost_below = rest.lost_below.max(span.end.offset);
        rest.violated_below = rest.violated_below.max(span.end.offset);
        let start = if span.start.offset < arrived.offset { arrived } else { span.start };
        let lowest = rest.violated.filter(|lowest| lowest.offset < start.offset);
        rest.violated = Some(lowest.unwrap_or(start));
    }

    /// The span that is not known to have arrived, if there is one. If unknown claimed bytes are lost, they lie in it.
    pub fn unarrived(&self) -> Option<Span> {
        let span = Span { start: self.arrived(), end: self.sent() };
        (span.end.offset > span.start.offset).then_some(span)
    }

    /// Everything before this is known to be at the other end.
    fn arrived(&self) -> Mark {
        let decoded = self.rest.coverage[Level::Decoded.index()].mark();
        if decoded.offset < self.acked { bytes(self.acked) } else { decoded }
    }

    /// Updates the position of each level. Returns true if there are changes to report and there were none before.
    pub fn settle(&mut self, by: Option<BlockId>) -> bool {
        if !self.marks.has(FlowFlags::ANCHORED) {
            return false;
        }
        let rest = &mut *self.rest;
        let mut above = bytes(self.acked);
        let mut marks = [above; Level::COUNT];
        for (coverage, mark) in rest.coverage.iter_mut().zip(&mut marks).rev() {
            coverage.advance_to(above);
            above = coverage.mark();
            *mark = above;
        }
        let decoded = marks[Level::Decoded.index()];
        if decoded.offset >= rest.lost_below {
            rest.lost_below = 0;
        } else {
            // Bytes behind the loss are not reported as having left before the loss is repaired.
            marks[..Level::Decoded.index()].fill(decoded);
        }
        if self.acked >= rest.violated_below {
            rest.violated = None;
        }
        let before = self.unreported;
        for (level, (told, mark)) in Level::ALL.into_iter().zip(rest.told.iter_mut().zip(marks)) {
            if mark.offset > told.offset {
                *told = mark;
                self.unreported |= bit(level);
                rest.raised_by = by;
            }
        }
        before == 0 && self.unreported != 0
    }

    /// The block that last raised a position.
    pub fn raised_by(&self) -> Option<BlockId> {
        self.rest.raised_by
    }

    pub fn set_cookie(&mut self, cookie: u64) {
        self.rest.cookie = Some(cookie);
    }

    /// A mark as it is reported to callers.
    pub fn present(&self, mark: Mark) -> Position {
        let Mark { offset, packets } = mark;
        match self.is_tcp() {
            true => Position { bytes: offset, packets: 0, sequence: self.sequence(offset) },
            false => Position { bytes: offset - packets * UDP_HEADER as u64, packets, sequence: 0 },
        }
    }

    fn sequence(&self, offset: u64) -> u32 {
        self.base.wrapping_add(offset as u32)
    }

    pub fn state(&self) -> FlowState {
        let rest = &*self.rest;
        FlowState {
            id: self.id,
            key: rest.key,
            cookie: rest.cookie,
            origin: rest.origin,
            origin_sequence: self.is_tcp().then_some(self.base),
            anchored: self.marks.has(FlowFlags::ANCHORED),
            sent: self.present(self.sent()),
            positions: rest.told.map(|mark| self.present(mark)),
            survives_burst: rest.survives_burst.unwrap_or_default(),
            violated: rest.violated.map(|mark| self.present(mark)),
            closed: self.is_closed(),
            seen_at: self.seen_at,
        }
    }
}

/// A block's identity in 64 bits; block numbers stay below 2^56, so no bits are lost.
fn packed(block: BlockId) -> u64 {
    u64::from(block.profile) << 56 ^ block.sbn
}

fn bytes(offset: u64) -> Mark {
    Mark { offset, packets: 0 }
}
