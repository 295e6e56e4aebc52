//! What a TCP segment in either direction says of a flow's bytes, if its receiver would take it.

use std::time::Instant;

use super::marks::Marks;
use super::{Flow, bytes};
use crate::flow::coverage::Span;
use crate::flow::plausible::Ends;
use crate::flow::sequence::{self, Previous, REACH};
use crate::notify::message::{Level, Origin};
use crate::wire::packet::TcpHeader;

/// So many segments in a row that fit nowhere mean that a connection began behind our back.
const STRAYS_MAX: u8 = 8;

/// What a segment that was sent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Sent {
    /// It carries nothing that needs protection, or only what is acknowledged.
    Nothing,
    /// It carries these bytes.
    Bytes(Span),
    /// It is not of this connection, or its receiver would not take it.
    Stray,
    /// It begins another connection, whose first byte has this sequence number.
    Begins(Origin, u32),
}

/// What a segment from the other end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Answer {
    /// Nothing, or more of this flow is acknowledged than before.
    Fits,
    /// It acknowledges what was never seen, or its receiver would not take it.
    Implausible,
    /// It answers a SYN that was never seen: this connection is over.
    Contradicts,
    /// It answers a SYN that was sent while this connection lived: another begins, with this base, and both ends' numbers.
    Begins(Origin, u32, Ends),
}

impl Flow {
    /// A segment with `payload` bytes, `header` in front, was sent. `scale` is that of a SYN.
    pub fn on_segment_sent(&mut self, header: &TcpHeader, payload: u32, scale: Option<u8>, now: Instant) -> Sent {
        if header.flags & TcpHeader::RST != 0 {
            if !self.ends.takes_sent_reset(header, self.sequence(self.acked), self.sequence(self.sent)) {
                return Sent::Stray;
            }
            self.marks.set(Marks::BROKEN_OFF, true);
            return Sent::Nothing;
        }
        let previous = self.previous(now);
        if header.flags & TcpHeader::SYN != 0 {
            return self.on_syn_sent(header, payload, scale, previous);
        }
        let fin = header.flags & TcpHeader::FIN != 0;
        let taken = self.ends.takes_sent(header, payload);
        if payload == 0 && !fin {
            if taken {
                self.ends.on_sent(header, None);
            }
            return Sent::Nothing;
        }
        if previous.is_some_and(|previous| previous.covers(header.sequence, payload)) {
            return Sent::Stray;
        }
        let start = sequence::offset(header.sequence, self.base, self.sent);
        let end = start + i64::from(payload);
        if !taken || self.is_out_of_reach(start) || end < self.acked as i64 - REACH {
            self.strays += 1;
            return match self.strays >= STRAYS_MAX {
                true => Sent::Begins(Origin::Middle, header.sequence),
                false => Sent::Stray,
            };
        }
        self.strays = 0;
        self.ends.on_sent(header, None);
        if end > self.sent as i64 {
            self.sent = end as u64;
            if payload > 0 {
                // Who broke off or was done does not send more: it was a stray that said so.
                self.marks.set(Marks::BROKEN_OFF | Marks::SENT_FIN, false);
            }
        }
        if fin && end >= 0 && end as u64 == self.sent {
            self.marks.set(Marks::SENT_FIN, true);
        }
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
        !reaches(self.acked) && !reaches(self.rest.coverage[Level::Queued.index()].mark().offset)
    }

    fn on_syn_sent(&mut self, header: &TcpHeader, payload: u32, scale: Option<u8>, previous: Option<Previous>) -> Sent {
        let base = header.sequence.wrapping_add(1);
        if base == self.base && self.is_closed() && self.sent > self.rest.in_syn.into() {
            // Nobody repeats the SYN of a connection that is over: whoever numbers them all alike begins another one.
            return Sent::Begins(Origin::Start, base);
        }
        if base == self.base {
            self.marks.set(Marks::ANCHORED, true);
            self.ends.on_sent(header, scale);
            // Data in a SYN (RFC 7413) may be refused by the other end even if it arrives. It counts when it
            // is acknowledged or sent again.
            self.sent = self.sent.max(payload.into());
            self.rest.in_syn = self.rest.in_syn.max(payload);
            return Sent::Nothing;
        }
        if previous.is_some_and(|previous| previous.began_at(base)) {
            return Sent::Stray;
        }
        if !self.ends.has_edge() || self.is_closed() {
            return Sent::Begins(Origin::Start, base);
        }
        // Anybody can send a SYN. The other end of a connection that lives answers it only if it knows of none any more.
        let mut ends = Ends::default();
        ends.on_sent(header, scale);
        self.rest.syn = Some((base, ends));
        self.marks.set(Marks::SYN_WAITS, true);
        Sent::Nothing
    }

    /// A segment with `payload` bytes came from the other end. `scale` is that of a SYN.
    pub fn on_segment_received(&mut self, header: &TcpHeader, payload: u32, scale: Option<u8>, now: Instant) -> Answer {
        let has = |flag: u8| header.flags & flag != 0;
        let previous = self.previous(now);
        if has(TcpHeader::RST) {
            if !self.ends.takes_reset(header, self.base, self.sequence(self.sent)) {
                return Answer::Implausible;
            }
            // Its acknowledgement says that the bytes arrived, not that anybody has them.
            self.marks.set(Marks::BROKEN_OFF, true);
            return Answer::Fits;
        }
        if !has(TcpHeader::ACK) {
            // Where the other end begins a new connection, our SYN in answer will tell.
            return Answer::Fits;
        }
        if self.marks.has(Marks::SYN_WAITS)
            && let Some((base, ends)) = self.rest.syn.filter(|(base, _)| header.acknowledgement == *base)
        {
            return Answer::Begins(Origin::Start, base, ends);
        }
        let acked = header.acknowledgement;
        let offset = sequence::offset(acked, self.base, self.sent);
        // The answer to a SYN acknowledges no more than what the SYN carried. If it does, it belongs to a connection that
        // began behind our back, and what it acknowledges was never sent by this one.
        if has(TcpHeader::SYN) && !(0..=i64::from(self.rest.in_syn)).contains(&offset) {
            return match self.rest.origin == Origin::Middle || previous.is_some_and(|previous| previous.began_at(acked))
            {
                true => Answer::Fits,
                false => Answer::Contradicts,
            };
        }
        if !has(TcpHeader::SYN) && previous.is_some_and(|previous| previous.covers(acked, 0)) {
            return Answer::Fits;
        }
        // A SYN that acknowledges ours tells the other end's number.
        let taken = has(TcpHeader::SYN) || self.ends.takes_answer(header);
        if !taken || offset > self.sent as i64 + i64::from(self.marks.has(Marks::SENT_FIN)) {
            return Answer::Implausible;
        }
        if !self.ends.is_recent(offset, self.acked) {
            return Answer::Fits;
        }
        self.ends.on_answer(header, payload, scale);
        if has(TcpHeader::FIN) {
            self.marks.set(Marks::RECEIVED_FIN, true);
        }
        let Ok(offset) = u64::try_from(offset) else {
            return Answer::Fits;
        };
        self.marks.set(Marks::ANCHORED, true);
        self.acked = self.acked.max(offset.min(self.sent));
        Answer::Fits
    }
}
