//! Whether the receiving TCP would accept a segment as part of its connection: by the checksum, and by comparing
//! sequence and acknowledgement numbers with those that each end was seen to send and allow (RFC 9293, section
//! 3.10.7.4; RFC 5961, section 5).
//!
//! An attacker off the path must guess both numbers within the windows. An attacker on the path can forge what the ends
//! accept, and so what is accepted here. This module checks one segment at a time and moves no position.

use crate::wire::checksum;
use crate::wire::packet::{PacketView, TcpHeader};
use crate::wire::virtio::VirtioHeader;

/// The unit of stored windows, in bytes: 16 bits then hold the largest scaled window.
const UNIT: u32 = 1 << 14;
/// The smallest window assumed. The two ends never differ by more than a window in what they have seen.
const WINDOW_MIN: u32 = 1 << 16;
/// The scale assumed where the SYN was not seen: the largest one (RFC 7323, section 2.3).
const SCALE_MAX: u8 = 14;
/// The nibble for an unknown scale.
const SCALE_UNKNOWN: u8 = 15;

/// Whether the checksum of a TCP segment is right. Also true if this host's kernel or network card has verified it
/// (`DATA_VALID`), or if it is not computed yet (`NEEDS_CSUM`) because the segment was made on this machine or merged
/// by its network card.
#[inline]
pub(super) fn has_sound_checksum(packet: &[u8], view: &PacketView, virtio: VirtioHeader) -> bool {
    if virtio.flags & (VirtioHeader::NEEDS_CSUM | VirtioHeader::DATA_VALID) != 0 {
        return true;
    }
    // With a routing header, the sum covers another address: the segment is rejected.
    let Some(segment) = packet.get(view.transport_offset..) else { return false };
    let pseudo = checksum::pseudo_header_sum(view.source, view.destination, view.protocol, segment.len());
    checksum::add(checksum::sum(segment), pseudo) == u16::MAX
}

/// The parsed fields of a TCP segment.
pub(super) struct Segment {
    pub header: TcpHeader,
    /// Payload bytes.
    pub payload: u32,
    /// The window scale of a SYN.
    pub scale: Option<u8>,
}

impl Segment {
    #[inline]
    pub fn new(packet: &[u8], view: &PacketView, header: TcpHeader) -> Self {
        let payload = packet.len().saturating_sub(view.transport_offset + header.header_len) as u32;
        let is_syn = header.flags & TcpHeader::SYN != 0;
        let scale = packet.get(view.transport_offset..).filter(|_| is_syn).and_then(|bytes| header.window_scale(bytes));
        Self { header, payload, scale }
    }
}

/// The sequence numbers and windows seen from the two ends of a connection: the *sender*, whose bytes are counted, and
/// the *receiver*, which answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    /// The sequence number of the receiver's next byte.
    answer_next: u32,
    /// One past the last number that the receiver's window allows the sender.
    edge: u32,
    /// The largest window that the sender has offered, in [`UNIT`]s.
    window: u16,
    /// The window scale of each end, the receiver's in the high half.
    scales: u8,
    /// Which of `answer_next` and `edge` are known.
    known: u8,
}

const ANSWER: u8 = 1;
const EDGE: u8 = 2;

impl Default for Ends {
    fn default() -> Self {
        let scales = SCALE_UNKNOWN << 4 | SCALE_UNKNOWN;
        Self { answer_next: 0, edge: 0, window: 0, scales, known: 0 }
    }
}

impl Ends {
    /// The receiver has answered with its window.
    pub fn has_edge(&self) -> bool {
        self.known & EDGE != 0
    }

    fn has_answer(&self) -> bool {
        self.known & ANSWER != 0
    }

    /// How far apart two acceptable sequence numbers of the receiver may be.
    fn span(&self) -> u32 {
        (u32::from(self.window) * UNIT).max(WINDOW_MIN)
    }

    fn is_near_answer(&self, number: u32) -> bool {
        !self.has_answer() || distance(number, self.answer_next).unsigned_abs() <= self.span()
    }

    /// Whether the receiver would accept a segment of the sender with `len` bytes that is neither SYN nor RST.
    #[inline]
    pub fn takes_sent(&self, header: &TcpHeader, len: u32) -> bool {
        // A window probe may lie one byte beyond the window.
        let fits = !self.has_edge() || distance(self.edge, header.sequence.wrapping_add(len)) >= -1;
        fits && header.flags & TcpHeader::ACK != 0 && self.is_near_answer(header.acknowledgement)
    }

    /// Whether the receiver would accept an RST of the sender. The sender has sent everything before `next`; everything
    /// before `acked` is acknowledged.
    pub fn takes_sent_reset(&self, header: &TcpHeader, acked: u32, next: u32) -> bool {
        let ahead = if self.has_edge() { distance(self.edge, next).max(0) as u32 } else { WINDOW_MIN };
        let from = acked.wrapping_sub(self.span());
        header.sequence.wrapping_sub(from) <= next.wrapping_sub(from).wrapping_add(ahead).wrapping_add(1)
    }

    /// Whether the sender would accept a segment of the receiver, judging by its sequence number.
    #[inline]
    pub fn takes_answer(&self, header: &TcpHeader) -> bool {
        self.is_near_answer(header.sequence)
    }

    /// Whether the sender would accept an RST of the receiver. The sender has sent everything from `base` to before
    /// `next`.
    pub fn takes_reset(&self, header: &TcpHeader, base: u32, next: u32) -> bool {
        match self.has_answer() {
            true => self.is_near_answer(header.sequence),
            // An RST that refuses a SYN has no sequence number of its own.
            false => {
                header.flags & TcpHeader::ACK != 0
                    && header.acknowledgement.wrapping_sub(base) <= next.wrapping_sub(base)
            }
        }
    }

    /// Whether an acknowledgement of `offset` may still come when everything before `acked` is acknowledged: it may be
    /// one window behind.
    pub fn is_recent(&self, offset: i64, acked: u64) -> bool {
        offset >= acked as i64 - i64::from(self.span())
    }

    /// A segment of the sender was accepted. `scale` is the window scale of a SYN.
    #[inline]
    pub fn on_sent(&mut self, header: &TcpHeader, scale: Option<u8>) {
        if header.flags & TcpHeader::SYN != 0 {
            self.scales = self.scales & 0xf0 | scale.unwrap_or(0).min(SCALE_MAX);
        }
        let window = scaled(header, self.scales & 0x0f).div_ceil(UNIT);
        self.window = self.window.max(u16::try_from(window).unwrap_or(u16::MAX));
        if header.flags & TcpHeader::ACK != 0 {
            self.advance_answer(header.acknowledgement);
        }
    }

    /// A segment of the receiver with `len` bytes was accepted, and its acknowledgement too. `scale` is the window
    /// scale of a SYN.
    #[inline]
    pub fn on_answer(&mut self, header: &TcpHeader, len: u32, scale: Option<u8>) {
        if header.flags & TcpHeader::SYN != 0 {
            self.scales = self.scales & 0x0f | scale.unwrap_or(0).min(SCALE_MAX) << 4;
        }
        let one = u32::from(header.flags & (TcpHeader::SYN | TcpHeader::FIN) != 0);
        self.advance_answer(header.sequence.wrapping_add(len).wrapping_add(one));
        let edge = header.acknowledgement.wrapping_add(scaled(header, self.scales >> 4));
        if !self.has_edge() || distance(edge, self.edge) > 0 {
            self.edge = edge;
            self.known |= EDGE;
        }
    }

    fn advance_answer(&mut self, next: u32) {
        if !self.has_answer() || distance(next, self.answer_next) > 0 {
            self.answer_next = next;
            self.known |= ANSWER;
        }
    }
}

/// The window that a segment offers; a SYN's window is never scaled.
fn scaled(header: &TcpHeader, scale: u8) -> u32 {
    let scale = match scale {
        _ if header.flags & TcpHeader::SYN != 0 => 0,
        SCALE_UNKNOWN => SCALE_MAX,
        scale => scale,
    };
    u32::from(header.window) << scale
}

/// The signed distance from `other` to `one`, the shorter way around the wrap.
fn distance(one: u32, other: u32) -> i32 {
    one.wrapping_sub(other) as i32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::TCP;
    use crate::wire::samples;

    fn header(flags: u8, sequence: u32, acknowledgement: u32, window: u16) -> TcpHeader {
        TcpHeader { sequence, acknowledgement, flags, header_len: 20, window }
    }

    const ACK: u8 = TcpHeader::ACK;
    const SYN: u8 = TcpHeader::SYN;
    /// The end of the bytes that the sender sent and the receiver acknowledged, and of those that the receiver sent:
    /// around the wrap.
    const NEXT: u32 = 100;
    const ANSWERED: u32 = u32::MAX - 5;

    /// Both ends offer windows of 100 KB; each SYN announces a scale of 2.
    fn ends() -> Ends {
        let mut ends = Ends::default();
        ends.on_sent(&header(SYN, NEXT.wrapping_sub(1), 0, 60_000), Some(2));
        ends.on_answer(&header(SYN | ACK, ANSWERED.wrapping_sub(1), NEXT, 60_000), 0, Some(2));
        ends.on_sent(&header(ACK, NEXT, ANSWERED, 25_000), None);
        ends.on_answer(&header(ACK, ANSWERED, NEXT, 25_000), 0, None);
        ends
    }

    #[test]
    fn a_sent_segment_must_fit_the_window_and_acknowledge_a_plausible_number() {
        let ends = ends();
        let edge = NEXT + 100_000;
        for (sequence, len, acknowledgement, taken) in [
            (NEXT, 1000, ANSWERED, true),
            (edge - 1000, 1000, ANSWERED, true),
            (edge, 1, ANSWERED, true),
            (edge, 2, ANSWERED, false),
            (NEXT, 1000, ANSWERED.wrapping_sub(100_000), true),
            (NEXT, 1000, ANSWERED.wrapping_sub(120_000), false),
            (NEXT, 1000, ANSWERED.wrapping_add(120_000), false),
            (NEXT.wrapping_sub(1 << 30), 1000, ANSWERED, true),
            (NEXT.wrapping_add(1 << 31), 1000, ANSWERED, false),
        ] {
            let found = ends.takes_sent(&header(ACK, sequence, acknowledgement, 1), len);
            assert_eq!(found, taken, "{sequence} {len} {acknowledgement}");
        }
        assert!(!ends.takes_sent(&header(0, NEXT, ANSWERED, 1), 1000), "without an acknowledgement");
    }

    #[test]
    fn an_answer_must_have_a_number_in_the_senders_window() {
        let ends = ends();
        for (sequence, taken) in [
            (ANSWERED, true),
            (ANSWERED.wrapping_add(100_000), true),
            (ANSWERED.wrapping_sub(100_000), true),
            (ANSWERED.wrapping_add(120_000), false),
            (ANSWERED.wrapping_sub(120_000), false),
        ] {
            assert_eq!(ends.takes_answer(&header(ACK, sequence, NEXT, 1)), taken, "{sequence}");
            assert_eq!(ends.takes_reset(&header(TcpHeader::RST, sequence, 0, 0), NEXT, NEXT), taken, "{sequence}");
        }
        for (sequence, taken) in [
            (NEXT, true),
            (NEXT + 100_001, true),
            (NEXT + 100_002, false),
            (NEXT.wrapping_sub(100_000), true),
            (NEXT.wrapping_sub(120_000), false),
        ] {
            let reset = header(TcpHeader::RST, sequence, 0, 0);
            assert_eq!(ends.takes_sent_reset(&reset, NEXT, NEXT), taken, "{sequence}");
        }
    }

    #[test]
    fn late_segments_lower_no_known_window_or_number() {
        let mut ends = ends();
        ends.on_answer(&header(ACK, ANSWERED.wrapping_sub(900), NEXT.wrapping_sub(900), 10), 0, None);
        ends.on_sent(&header(ACK, NEXT, ANSWERED.wrapping_sub(90_000), 10), None);
        assert!(ends.takes_sent(&header(ACK, NEXT + 100_000, ANSWERED, 10), 1));
        assert!(ends.takes_answer(&header(ACK, ANSWERED.wrapping_add(100_000), NEXT, 10)));
        // Acknowledgements are accepted up to one window behind, rounded up to whole units.
        let window = 7 * UNIT;
        assert!(ends.is_recent(5, 5 + u64::from(window)) && !ends.is_recent(5, 6 + u64::from(window)));
    }

    #[test]
    fn a_reset_that_refuses_a_syn_must_acknowledge_it() {
        let mut ends = Ends::default();
        ends.on_sent(&header(SYN, 9, 0, 60_000), Some(7));
        let refusal = |flags, acknowledgement| ends.takes_reset(&header(flags, 0, acknowledgement, 0), 10, 10);
        assert!(refusal(TcpHeader::RST | ACK, 10));
        assert!(
            !refusal(TcpHeader::RST | ACK, 11) && !refusal(TcpHeader::RST | ACK, 9) && !refusal(TcpHeader::RST, 10)
        );
    }

    #[test]
    fn an_unknown_window_scale_counts_as_the_largest() {
        let mut ends = Ends::default();
        ends.on_sent(&header(ACK, 0, 500, 10), None);
        ends.on_answer(&header(ACK, 500, 0, 10), 0, None);
        let widest = 10 << 14;
        assert!(ends.takes_sent(&header(ACK, 0, 500, 10), widest + 1));
        assert!(!ends.takes_sent(&header(ACK, 0, 500, 10), widest + 2));
        assert!(ends.takes_answer(&header(ACK, 500 + widest, 0, 10)));
        assert!(!ends.takes_answer(&header(ACK, 501 + widest, 0, 10)));
        // The window of a SYN is never scaled, and a SYN without the option scales none (RFC 7323, section 1.3).
        ends = Ends::default();
        ends.on_sent(&header(SYN, 0, 0, 65_535), None);
        ends.on_answer(&header(SYN | ACK, 499, 1, 50_000), 0, None);
        assert!(ends.takes_sent(&header(ACK, 1, 500, 1), 50_001) && !ends.takes_sent(&header(ACK, 1, 500, 1), 50_002));
        ends.on_answer(&header(ACK, 500, 1, 60_000), 0, None);
        assert!(ends.takes_sent(&header(ACK, 1, 500, 1), 60_001) && !ends.takes_sent(&header(ACK, 1, 500, 1), 60_002));
    }

    #[test]
    fn a_wrong_checksum_is_detected_unless_it_is_pending_or_already_verified() {
        let segment = samples::tcp(ACK, &[1; 12], 333);
        for packet in [samples::ipv4(TCP, &[1; 8], &segment), samples::ipv6(TCP, &segment)] {
            let view = PacketView::parse(&packet).unwrap();
            let sound = |packet: &[u8], flags| {
                has_sound_checksum(packet, &view, VirtioHeader { flags, ..VirtioHeader::default() })
            };
            assert!(sound(&packet, 0));
            for at in [view.transport_offset, view.transport_offset + 16, packet.len() - 1] {
                let mut wrong = packet.clone();
                wrong[at] ^= 4;
                assert!(!sound(&wrong, 0), "{at}");
                assert!(sound(&wrong, VirtioHeader::NEEDS_CSUM) && sound(&wrong, VirtioHeader::DATA_VALID));
            }
        }
    }
}
