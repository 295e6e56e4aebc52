//! One instance of a flow: what a TCP segment in either direction says of its bytes, and how far each level has come.
//!
//! Offsets count payload bytes from the byte after the SYN, or from the first byte seen; SYN and FIN count nothing. A UDP
//! packet counts its payload and its header, so that an empty one has a place, too; what is given out is without headers.
//! It does not know which block its bytes are in.

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

/// The first 128 bytes are all that a packet of a steady flow touches: among many flows the time goes into cache misses.
#[derive(Debug)]
#[repr(C, align(64))]
pub(super) struct Flow {
    pub packed: PackedKey,
    pub id: FlowId,
    /// Sequence number of offset 0.
    base: u32,
    /// The number of its last range in a block, and that block.
    pub last_range: u32,
    pub last_block: BlockId,
    /// The end of the last byte sent.
    sent: Mark,
    acked: u64,
    pub seen_at: Instant,
    pub line: Line,
    /// Levels whose change was not told yet.
    pub untold: u8,
    strays: u8,
    /// What came before offset 0 is protected or acknowledged, or there was nothing.
    anchored: bool,
    sent_fin: bool,
    received_fin: bool,
    broken_off: bool,
    /// There may still be packets of `previous`.
    guarded: bool,
    /// By level, the strongest last; each covers at least what the next one does.
    coverage: [Coverage; 3],
    told: [Mark; 4],
    /// Bytes before this were called protected and then lost: nothing behind them is protected before they are
    /// decoded or acknowledged. 0 for none.
    lost_below: u64,
    previous: Option<Previous>,
    pub cookie: Option<u64>,
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
            sent: Mark::default(),
            acked: 0,
            coverage: Default::default(),
            told: Default::default(),
            lost_below: 0,
            previous: None,
            line: if tcp { Line::Tcp } else { Line::Udp },
            seen_at: now,
            cookie,
            origin,
            key,
        }
    }

    /// The instance that takes over the ports of this one; `self` becomes it and keeps its memory.
    pub fn begin_again(&mut self, id: FlowId, origin: Origin, base: u32, now: Instant) {
        let mut next = Self::new(id, self.key, origin, base, self.cookie, now);
        for (kept, cleared) in next.coverage.iter_mut().zip(&mut self.coverage) {
            cleared.clear();
            std::mem::swap(kept, cleared);
        }
        if self.is_tcp() {
            next.guarded = true;
            next.previous = Some(Previous::new(self.base, self.sequence(self.sent.offset), now));
        }
        // It stays in the line that it is in; whoever called moves it.
        next.line = self.line;
        *self = next;
    }

    pub fn is_tcp(&self) -> bool {
        self.key.protocol == TCP
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
        let previous = self.previous.filter(|previous| !previous.is_over(now));
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
        let start = sequence::offset(header.sequence, self.base, self.sent.offset);
        let end = start + i64::from(payload);
        if start > self.sent.offset as i64 + REACH || end < self.acked as i64 - REACH {
            self.strays += 1;
            return match self.strays >= STRAYS_MAX {
                true => Sent::Begins(Origin::FirstSeen, header.sequence),
                false => Sent::Stray,
            };
        }
        self.strays = 0;
        if end > self.sent.offset as i64 {
            self.sent.offset = end as u64;
            if payload > 0 {
                // Who broke off or was done does not send more: it was a stray that said so.
                self.broken_off = false;
                self.sent_fin = false;
            }
        }
        self.sent_fin |= fin && end >= 0 && end as u64 == self.sent.offset;
        let start = (start.max(0) as u64).max(self.acked);
        match u64::try_from(end) {
            Ok(end) if end > start => Sent::Bytes(Span { start: bytes(start), end: bytes(end) }),
            _ => Sent::Nothing,
        }
    }

    fn on_syn_sent(&mut self, base: u32, payload: u32, previous: Option<Previous>) -> Sent {
        if base == self.base {
            self.anchored = true;
            // Data in a SYN (RFC 7413) may be refused by the other end even if it arrives. It counts when it
            // is acknowledged or sent again.
            self.sent.offset = self.sent.offset.max(payload.into());
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
        let offset = sequence::offset(acked, self.base, self.sent.offset);
        if has(TcpHeader::SYN) && self.origin == Origin::Syn && !(0..=self.sent.offset as i64).contains(&offset) {
            return match previous.is_some_and(|previous| previous.began_at(acked)) {
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
        if offset > self.sent.offset + u64::from(self.sent_fin) {
            return Answer::Implausible;
        }
        self.anchored = true;
        self.acked = self.acked.max(offset.min(self.sent.offset));
        Answer::Fits
    }

    /// UDP datagrams with `payload` bytes in all were sent.
    pub fn on_datagrams_sent(&mut self, payload: u64, packets: u32) -> Span {
        let start = self.sent;
        let packets = u64::from(packets);
        self.sent.offset += payload + packets * UDP_HEADER as u64;
        self.sent.packets += packets;
        Span { start, end: self.sent }
    }

    /// `span`, the last that was sent, is not followed. True if it was the first, so that the flow is as good as new.
    pub fn take_back(&mut self, span: Span) -> bool {
        let first = span.start == Mark::default();
        if first {
            self.sent = span.start;
        }
        first
    }

    /// `span` has reached `level` and had reached `known`. False if a span had to be forgotten.
    pub fn on_reached(&mut self, span: Span, known: Option<Level>, level: Level) -> bool {
        let mut kept = true;
        for (coverage, covered) in self.coverage.iter_mut().zip(COVERED) {
            if covered <= level && known.is_none_or(|known| covered > known) {
                kept &= coverage.add(span);
            }
        }
        kept
    }

    /// `span` was called protected and is lost.
    pub fn on_lost(&mut self, span: Span) {
        let end = span.end.offset;
        if end > self.coverage[Level::Decoded as usize].mark().offset.max(self.acked) {
            self.lost_below = self.lost_below.max(end);
        }
    }

    /// Works out how far each level has come. True if there is something to tell and there was nothing before.
    pub fn settle(&mut self) -> bool {
        if !self.anchored {
            return false;
        }
        let mut above = bytes(self.acked);
        let mut marks = [above; 4];
        for (coverage, mark) in self.coverage.iter_mut().zip(&mut marks).rev() {
            coverage.advance_to(above);
            above = coverage.mark();
            *mark = above;
        }
        let decoded = marks[Level::Decoded as usize];
        if decoded.offset >= self.lost_below {
            self.lost_below = 0;
        } else {
            // What is queued behind the loss is nobody's business before the loss is made good.
            marks[Level::Queued as usize] = decoded;
            marks[Level::OnWire as usize] = decoded;
        }
        let before = self.untold;
        for (level, (told, mark)) in Level::ALL.into_iter().zip(self.told.iter_mut().zip(marks)) {
            if mark.offset > told.offset {
                *told = mark;
                self.untold |= level.bit();
            }
        }
        before == 0 && self.untold != 0
    }

    pub fn position(&self, level: Level) -> Position {
        self.present(self.told[level as usize])
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
        FlowState {
            id: self.id,
            key: self.key,
            cookie: self.cookie,
            origin: self.origin,
            sent: self.present(self.sent),
            positions: self.told.map(|mark| self.present(mark)),
            closed: self.is_closed(),
            seen_at: self.seen_at,
        }
    }
}

fn bytes(offset: u64) -> Mark {
    Mark { offset, packets: 0 }
}
