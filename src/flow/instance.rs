//! One instance of a flow: what a TCP segment in either direction says of its bytes, and how far each level has come.
//!
//! Offsets count payload bytes from the byte after the SYN, or from the first byte seen; SYN and FIN count nothing. A UDP
//! packet counts its payload and its header, so that an empty one has a place, too; what is given out is without headers.
//! It does not know which block its bytes are in.

mod holes;

use std::time::Instant;

use super::ages::Line;
use super::coverage::{Coverage, Mark, Span};
use super::key::{FlowKey, PackedKey};
use super::sequence::{self, Previous, REACH};
use super::state::{FlowId, FlowState, Level, Origin, Position};
use crate::wire::offload::UDP_HEADER;
use crate::wire::packet::{TCP, TcpHeader};
use crate::wire::payload_id::BlockId;

/// So many segments in a row that fit nowhere mean that a connection began behind our back.
const STRAYS_MAX: u8 = 8;

/// Levels that blocks reach; what the other end acknowledged needs no coverage.
const COVERED: [Level; 3] = [Level::Queued, Level::OnWire, Level::Decoded];

/// What a segment that was sent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// It carries nothing that needs protection, or only what is acknowledged.
    Nothing,
    /// It carries these bytes.
    Bytes(Span),
    /// It is not of this connection.
    Stray,
    /// It begins another connection, whose first byte has this sequence number.
    Begins(Origin, u32),
}

/// What a segment from the other end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing, or more of this flow is acknowledged than before.
    Fits,
    /// It acknowledges what was never seen.
    Implausible,
    /// It answers a SYN that was never seen: this connection is over.
    Contradicts,
}

/// What a packet of a steady flow touches, in two cache lines: among many flows the time goes into cache misses. All else
/// is in [`Rest`].
#[derive(Debug)]
#[repr(C, align(128))]
pub(super) struct Flow {
    pub packed: PackedKey,
    pub id: FlowId,
    /// Sequence number of offset 0.
    base: u32,
    /// The number of its last range in a block, and that block.
    pub last_range: u32,
    pub last_block: BlockId,
    /// The end of the last byte sent.
    sent: u64,
    acked: u64,
    pub seen_at: Instant,
    rest: Box<Rest>,
    pub line: Line,
    /// Levels whose change was not told yet.
    pub untold: u8,
    strays: u8,
    /// What came before offset 0 is protected or acknowledged, or there was nothing.
    anchored: bool,
    sent_fin: bool,
    received_fin: bool,
    broken_off: bool,
    /// There may still be packets of the connection before.
    guarded: bool,
}

// A field more would be a third cache line for every packet.
const _: () = assert!(size_of::<Option<Flow>>() == 128);

/// What is needed when a connection begins or ends, when a block's fate is known, and when somebody asks.
#[derive(Debug)]
pub(super) struct Rest {
    /// By level, the strongest last; each covers at least what the next one does.
    coverage: [Coverage; 3],
    told: [Mark; 4],
    /// Of a flow that counts packets, those sent.
    packets: u64,
    /// The lowest byte that was called protected and then lost, until everything lost is acknowledged.
    violated: Option<Mark>,
    /// Bytes before this were called protected and then lost: nothing behind them is protected before they are
    /// decoded or acknowledged. 0 for none.
    lost_below: u64,
    /// The end of all that was ever lost.
    violated_below: u64,
    /// The end of what was ever in a block that failed.
    failed_below: u64,
    /// The table remembers that there may be a hole.
    is_holed: bool,
    /// Bytes that the SYN carried.
    in_syn: u32,
    /// The block whose fate raised a position last, unless an acknowledgement did.
    raised_by: Option<BlockId>,
    previous: Option<Previous>,
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
            untold: 0,
            anchored: origin == Origin::Syn || !tcp,
            sent_fin: false,
            received_fin: false,
            broken_off: false,
            last_range: u32::MAX,
            last_block: BlockId { profile: 0, sbn: 0 },
            guarded: false,
            sent: 0,
            acked: 0,
            line: if tcp { Line::Tcp } else { Line::Udp },
            seen_at: now,
            rest: Box::new(Rest {
                coverage: Default::default(),
                told: Default::default(),
                packets: 0,
                violated: None,
                lost_below: 0,
                violated_below: 0,
                failed_below: 0,
                is_holed: false,
                in_syn: 0,
                raised_by: None,
                previous: None,
                cookie,
                origin,
                key,
            }),
        }
    }

    /// The instance that takes over the ports of this one; `self` becomes it and keeps its memory.
    pub fn begin_again(&mut self, id: FlowId, origin: Origin, base: u32, now: Instant) {
        let mut next = Self::new(id, self.rest.key, origin, base, self.rest.cookie, now);
        for (kept, cleared) in next.rest.coverage.iter_mut().zip(&mut self.rest.coverage) {
            cleared.clear();
            std::mem::swap(kept, cleared);
        }
        if self.is_tcp() {
            next.guarded = true;
            next.rest.previous = Some(Previous::new(self.base, self.sequence(self.sent), now));
        }
        // It stays in the line that it is in; whoever called moves it.
        next.line = self.line;
        *self = next;
    }

    pub fn is_tcp(&self) -> bool {
        self.packed.protocol() == TCP
    }

    pub fn is_closed(&self) -> bool {
        self.broken_off || (self.sent_fin && self.received_fin)
    }

    /// The connection before, while its packets may still come.
    #[inline]
    fn previous(&mut self, now: Instant) -> Option<Previous> {
        if !self.guarded {
            return None;
        }
        let previous = self.rest.previous.filter(|previous| !previous.is_over(now));
        self.guarded = previous.is_some();
        previous
    }

    /// A segment with `payload` bytes, `header` in front, was sent.
    pub fn on_segment_sent(&mut self, header: &TcpHeader, payload: u32, now: Instant) -> Sent {
        if header.flags & TcpHeader::RST != 0 {
            self.broken_off = true;
            return Sent::Nothing;
        }
        let previous = self.previous(now);
        if header.flags & TcpHeader::SYN != 0 {
            return self.on_syn_sent(header.sequence.wrapping_add(1), payload, previous);
        }
        let fin = header.flags & TcpHeader::FIN != 0;
        if payload == 0 && !fin {
            return Sent::Nothing;
        }
        if previous.is_some_and(|previous| previous.covers(header.sequence, payload)) {
            return Sent::Stray;
        }
        let start = sequence::offset(header.sequence, self.base, self.sent);
        let end = start + i64::from(payload);
        if self.is_out_of_reach(start) || end < self.acked as i64 - REACH {
            self.strays += 1;
            return match self.strays >= STRAYS_MAX {
                true => Sent::Begins(Origin::FirstSeen, header.sequence),
                false => Sent::Stray,
            };
        }
        self.strays = 0;
        if end > self.sent as i64 {
            self.sent = end as u64;
            if payload > 0 {
                // Who broke off or was done does not send more: it was a stray that said so.
                self.broken_off = false;
                self.sent_fin = false;
            }
        }
        self.sent_fin |= fin && end >= 0 && end as u64 == self.sent;
        let start = (start.max(0) as u64).max(self.acked);
        match u64::try_from(end) {
            Ok(end) if end > start => Sent::Bytes(Span { start: bytes(start), end: bytes(end) }),
            _ => Sent::Nothing,
        }
    }

    /// No window that the other end offers can include `start`.
    ///
    /// Whoever could move `sent` further, by forged segments, would have true ones taken for those of another turn of the
    /// sequence numbers, gigabytes ahead. Where no acknowledgement comes by, what is contiguous is as good as one.
    #[inline]
    fn is_out_of_reach(&self, start: i64) -> bool {
        let reaches = |floor: u64| start <= floor as i64 + REACH;
        !reaches(self.acked) && !reaches(self.rest.coverage[Level::Queued as usize].mark().offset)
    }

    fn on_syn_sent(&mut self, base: u32, payload: u32, previous: Option<Previous>) -> Sent {
        if base == self.base && self.is_closed() && self.sent > self.rest.in_syn.into() {
            // Nobody repeats the SYN of a connection that is over: whoever numbers them all alike begins another one.
            return Sent::Begins(Origin::Syn, base);
        }
        if base == self.base {
            self.anchored = true;
            // Data in a SYN (RFC 7413) may be refused by the other end even if it arrives. It counts when it
            // is acknowledged or sent again.
            self.sent = self.sent.max(payload.into());
            self.rest.in_syn = self.rest.in_syn.max(payload);
            return Sent::Nothing;
        }
        match previous.is_some_and(|previous| previous.began_at(base)) {
            true => Sent::Stray,
            false => Sent::Begins(Origin::Syn, base),
        }
    }

    /// A segment came from the other end.
    pub fn on_segment_received(&mut self, header: &TcpHeader, now: Instant) -> Answer {
        let has = |flag: u8| header.flags & flag != 0;
        let previous = self.previous(now);
        if has(TcpHeader::RST) {
            // Its acknowledgement says that the bytes arrived, not that anybody has them.
            self.broken_off = true;
            return Answer::Fits;
        }
        if !has(TcpHeader::ACK) {
            // The other end begins a new connection; our SYN in answer will tell its number.
            self.broken_off |= has(TcpHeader::SYN);
            return Answer::Fits;
        }
        let acked = header.acknowledgement;
        let offset = sequence::offset(acked, self.base, self.sent);
        // The answer to a SYN acknowledges no more than what the SYN carried. If it does, it belongs to a connection that
        // began behind our back, and what it acknowledges was never sent by this one.
        if has(TcpHeader::SYN) && !(0..=i64::from(self.rest.in_syn)).contains(&offset) {
            return match self.rest.origin == Origin::FirstSeen
                || previous.is_some_and(|previous| previous.began_at(acked))
            {
                true => Answer::Fits,
                false => Answer::Contradicts,
            };
        }
        if previous.is_some_and(|previous| previous.covers(acked, 0)) {
            return Answer::Fits;
        }
        self.received_fin |= has(TcpHeader::FIN);
        let Ok(offset) = u64::try_from(offset) else {
            return Answer::Fits;
        };
        if offset > self.sent + u64::from(self.sent_fin) {
            return Answer::Implausible;
        }
        self.anchored = true;
        self.acked = self.acked.max(offset.min(self.sent));
        Answer::Fits
    }

    /// UDP datagrams with `payload` bytes in all were sent.
    pub fn on_datagrams_sent(&mut self, payload: u64, packets: u32) -> Span {
        let start = self.sent();
        let packets = u64::from(packets);
        self.sent += payload + packets * UDP_HEADER as u64;
        self.rest.packets += packets;
        Span { start, end: self.sent() }
    }

    /// `span`, the last that was sent, is not followed. True if it was the first, so that the flow is as good as new.
    pub fn take_back(&mut self, span: Span) -> bool {
        let first = span.start == Mark::default();
        if first {
            (self.sent, self.rest.packets) = (0, 0);
        }
        first
    }

    /// The end of the last byte or packet that was sent.
    fn sent(&self) -> Mark {
        Mark { offset: self.sent, packets: self.rest.packets }
    }

    /// `span` has reached `level` and had reached `known`. False if a span had to be forgotten.
    pub fn on_reached(&mut self, span: Span, known: Option<Level>, level: Level) -> bool {
        let mut kept = true;
        for (coverage, covered) in self.rest.coverage.iter_mut().zip(COVERED) {
            if covered <= level && known.is_none_or(|known| covered > known) {
                kept &= coverage.add(span);
            }
        }
        kept
    }

    /// `span` was called protected and is lost.
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

    /// Something was called protected and is lost, and it is not known what: it may be all that is not known to have
    /// arrived. Returns that, if there is any.
    pub fn unarrived(&self) -> Option<Span> {
        let span = Span { start: self.arrived(), end: self.sent() };
        (span.end.offset > span.start.offset).then_some(span)
    }

    /// Everything before this is known to be at the other end.
    fn arrived(&self) -> Mark {
        let decoded = self.rest.coverage[Level::Decoded as usize].mark();
        if decoded.offset < self.acked { bytes(self.acked) } else { decoded }
    }

    /// Works out how far each level has come. True if there is something to tell and there was nothing before.
    pub fn settle(&mut self, by: Option<BlockId>) -> bool {
        if !self.anchored {
            return false;
        }
        let rest = &mut *self.rest;
        let mut above = bytes(self.acked);
        let mut marks = [above; 4];
        for (coverage, mark) in rest.coverage.iter_mut().zip(&mut marks).rev() {
            coverage.advance_to(above);
            above = coverage.mark();
            *mark = above;
        }
        let decoded = marks[Level::Decoded as usize];
        if decoded.offset >= rest.lost_below {
            rest.lost_below = 0;
        } else {
            // What is queued behind the loss is nobody's business before the loss is made good.
            marks[Level::Queued as usize] = decoded;
            marks[Level::OnWire as usize] = decoded;
        }
        if self.acked >= rest.violated_below {
            rest.violated = None;
        }
        let before = self.untold;
        for (level, (told, mark)) in Level::ALL.into_iter().zip(rest.told.iter_mut().zip(marks)) {
            if mark.offset > told.offset {
                *told = mark;
                self.untold |= level.bit();
                rest.raised_by = by;
            }
        }
        before == 0 && self.untold != 0
    }

    pub fn position(&self, level: Level) -> Position {
        self.present(self.rest.told[level as usize])
    }

    /// The block that raised a position last.
    pub fn raised_by(&self) -> Option<BlockId> {
        self.rest.raised_by
    }

    pub fn set_cookie(&mut self, cookie: u64) {
        self.rest.cookie = Some(cookie);
    }

    /// A place as it is given out.
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
            anchored: self.anchored,
            sent: self.present(self.sent()),
            positions: rest.told.map(|mark| self.present(mark)),
            violated: rest.violated.map(|mark| self.present(mark)),
            closed: self.is_closed(),
            seen_at: self.seen_at,
        }
    }
}

fn bytes(offset: u64) -> Mark {
    Mark { offset, packets: 0 }
}
