//! What a TCP segment in either direction means for a flow's bytes, if its receiver would accept it.

use std::time::Instant;

use super::marks::FlowFlags;
use super::{Flow, bytes};
use crate::flow::coverage::Span;
use crate::flow::plausible::Ends;
use crate::flow::sequence::{self, Previous, REACH};
use crate::notify::message::{Level, Origin};
use crate::wire::packet::TcpHeader;

/// After this many stray segments in a row, a new connection has begun unseen.
const STRAYS_MAX: u8 = 8;

/// What a segment that was sent means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Sent {
    /// It carries nothing that needs protection, or only acknowledged bytes.
    Nothing,
    /// It carries these bytes.
    Bytes(Span),
    /// It is not of this connection, or its receiver would not accept it.
    Stray,
    /// It begins another connection, whose first byte has this sequence number.
    Begins(Origin, u32),
}

/// What a segment from the other end means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::flow) enum Answer {
    /// Nothing, or more of this flow is acknowledged than before.
    Fits,
    /// It acknowledges bytes that were never seen, or its receiver would not accept it.
    Implausible,
    /// It answers a SYN that was never seen: this connection is over.
    Contradicts,
    /// It answers a SYN that was sent while this connection was alive: a new connection begins, with this base and the
    /// numbers and windows of both ends.
    Begins(Origin, u32, Ends),
}

impl Flow {
    /// The segment of `header` was sent, with `payload` bytes. `scale` is the window scale of a SYN.
    pub fn on_segment_sent(&mut self, header: &TcpHeader, payload: u32, scale: Option<u8>, now: Instant) -> Sent {
        if header.flags & TcpHeader::RST != 0 {
            if !self.ends.takes_sent_reset(header, self.sequence(self.acked), self.sequence(self.sent)) {
                return Sent::Stray;
            }
            self.marks.set(FlowFlags::BROKEN_OFF, true);
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
                // An end that has reset or finished the connection sends no more data: that RST or FIN was a stray.
                self.marks.set(FlowFlags::BROKEN_OFF | FlowFlags::SENT_FIN, false);
            }
        }
        if fin && end >= 0 && end as u64 == self.sent {
            self.marks.set(FlowFlags::SENT_FIN, true);
        }
        let start = (start.max(0) as u64).max(self.acked);
        match u64::try_from(end) {
            Ok(end) if end > start => Sent::Bytes(Span { start: bytes(start), end: bytes(end) }),
            _ => Sent::Nothing,
        }
    }

    /// No window of the other end can include `start`.
    ///
    /// If forged segments could move `sent` further, genuine segments would be mapped to a later turn of the sequence
    /// numbers, gigabytes ahead. Where no acknowledgements are seen, the contiguous bytes serve as the limit instead.
    #[inline]
    fn is_out_of_reach(&self, start: i64) -> bool {
        let reaches = |floor: u64| start <= floor as i64 + REACH;
        !reaches(self.acked) && !reaches(self.rest.coverage[Level::Queued.index()].mark().offset)
    }

    fn on_syn_sent(&mut self, header: &TcpHeader, payload: u32, scale: Option<u8>, previous: Option<Previous>) -> Sent {
        let base = header.sequence.wrapping_add(1);
        if base == self.base && self.is_closed() && self.sent > self.rest.in_syn.into() {
            // The SYN of a closed connection is not repeated: this is a new connection of an end that always uses the
            // same initial number.
            return Sent::Begins(Origin::Start, base);
        }
        if base == self.base {
            self.marks.set(FlowFlags::ANCHORED, true);
            self.ends.on_sent(header, scale);
            // The other end may refuse data in a SYN (RFC 7413) even if the data arrives. It counts when it is
            // acknowledged or sent again.
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
        // A SYN can be forged. The other end of a live connection acknowledges one only if it no longer knows the
        // connection.
        let mut ends = Ends::default();
        ends.on_sent(header, scale);
        self.rest.syn = Some((base, ends));
        self.marks.set(FlowFlags::SYN_WAITS, true);
        Sent::Nothing
    }

    /// A segment with `payload` bytes came from the other end. `scale` is the window scale of a SYN.
    pub fn on_segment_received(&mut self, header: &TcpHeader, payload: u32, scale: Option<u8>, now: Instant) -> Answer {
        let has = |flag: u8| header.flags & flag != 0;
        let previous = self.previous(now);
        if has(TcpHeader::RST) {
            if !self.ends.takes_reset(header, self.base, self.sequence(self.sent)) {
                return Answer::Implausible;
            }
            // The acknowledgement of an RST shows that the bytes arrived, not that a program has them.
            self.marks.set(FlowFlags::BROKEN_OFF, true);
            return Answer::Fits;
        }
        if !has(TcpHeader::ACK) {
            // If the other end begins a new connection with this SYN, the local end's SYN|ACK will show it.
            return Answer::Fits;
        }
        if self.marks.has(FlowFlags::SYN_WAITS)
            && let Some((base, ends)) = self.rest.syn.filter(|(base, _)| header.acknowledgement == *base)
        {
            return Answer::Begins(Origin::Start, base, ends);
        }
        let acked = header.acknowledgement;
        let offset = sequence::offset(acked, self.base, self.sent);
        // The answer to a SYN acknowledges no more than the SYN carried. If this one does, it belongs to a connection
        // that began unseen, and this connection never sent the bytes that it acknowledges.
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
        // A SYN|ACK brings the other end's initial number, so it cannot be checked against one.
        let taken = has(TcpHeader::SYN) || self.ends.takes_answer(header);
        if !taken || offset > self.sent as i64 + i64::from(self.marks.has(FlowFlags::SENT_FIN)) {
            return Answer::Implausible;
        }
        if !self.ends.is_recent(offset, self.acked) {
            return Answer::Fits;
        }
        self.ends.on_answer(header, payload, scale);
        if has(TcpHeader::FIN) {
            self.marks.set(FlowFlags::RECEIVED_FIN, true);
        }
        let Ok(offset) = u64::try_from(offset) else {
            return Answer::Fits;
        };
        self.marks.set(FlowFlags::ANCHORED, true);
        self.acked = self.acked.max(offset.min(self.sent));
        Answer::Fits
    }
}
