//! The timestamps option of TCP (RFC 7323): the sender's clock in a segment, and the same segment with a later one.
//!
//! A TCP throws away what bears an older clock than what it had last in order. So whoever repeats a sender's packet in its
//! stead gives it the newest clock that was seen, as the sender would.

use super::checksum;
use super::packet::{PacketView, TcpHeader};
use super::virtio::VirtioHeader;

const END: u8 = 0;
const PADDING: u8 = 1;
const TIMESTAMPS: u8 = 8;
/// Signatures (RFC 2385, RFC 5925): what they cover must stay as it is.
const SIGNATURES: [u8; 2] = [19, 29];
const FIXED: usize = 20;
const CHECKSUM_AT: usize = 16;

/// A sender's clock, and where it stands in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// What it shows.
    pub value: u32,
    at: u16,
    transport: u16,
}

impl Clock {
    /// Finds it in a TCP packet of which these are the headers; nothing if it is not there, or is signed.
    #[inline]
    pub fn find(view: &PacketView, header: &TcpHeader, packet: &[u8]) -> Option<Self> {
        let transport = view.transport_offset;
        let options = packet.get(transport + FIXED..transport + header.header_len)?;
        let mut found = None;
        let mut at = 0;
        while let Some(&kind) = options.get(at) {
            let len = match kind {
                END => break,
                PADDING => 1,
                _ => usize::from(*options.get(at + 1)?).max(2),
            };
            match kind {
                TIMESTAMPS if len == 10 => found = Some(at + 2),
                kind if SIGNATURES.contains(&kind) => return None,
                _ => {}
            }
            at += len;
        }
        let at = transport + FIXED + found?;
        let value = u32::from_be_bytes(*packet.get(at..)?.first_chunk()?);
        Some(Self { value, at: u16::try_from(at).ok()?, transport: u16::try_from(transport).ok()? })
    }

    /// Whether it shows a later time than `other`, in a circle of 32 bits.
    pub fn is_later_than(value: u32, other: u32) -> bool {
        value.wrapping_sub(other) as i32 > 0
    }

    /// Sets it in the packet that it was found in, and the checksum with it.
    pub fn set(&mut self, value: u32, virtio: VirtioHeader, packet: &mut [u8]) {
        let (at, transport) = (usize::from(self.at), usize::from(self.transport));
        // The words that the sum is made of.
        let first = at - (at - transport) % 2;
        let words = first..packet.len().min(first + 6);
        let Some(before) = packet.get(words.clone()).map(checksum::sum) else { return };
        let Some(place) = packet.get_mut(at..at + 4) else { return };
        place.copy_from_slice(&value.to_be_bytes());
        self.value = value;
        // A sum that is finished later, over what is in the packet then, is of the pseudo-header so far.
        if virtio.flags & VirtioHeader::NEEDS_CSUM != 0 && usize::from(virtio.csum_start) == transport {
            return;
        }
        let after = checksum::sum(&packet[words]);
        if let Some(field) = packet.get_mut(transport + CHECKSUM_AT..).and_then(<[u8]>::first_chunk_mut) {
            let sum = checksum::replace(!u16::from_be_bytes(*field), before, after);
            *field = (!sum).to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::TCP;
    use super::super::samples;
    use super::*;

    fn find(packet: &[u8]) -> Option<Clock> {
        let view = PacketView::parse(packet).unwrap();
        Clock::find(&view, &view.tcp(packet)?, packet)
    }

    #[test]
    fn a_packet_with_another_clock_has_the_right_checksum() {
        let clock = [TIMESTAMPS, 10, 0xff, 0xfe, 0xfd, 0xfc, 9, 9, 9, 9];
        let rows: [(Vec<u8>, usize); 3] = [
            ([&[1, 1][..], &clock].concat(), 100),
            // At an odd place, and at the end of the packet.
            ([&[1][..], &clock, &[1]].concat(), 3),
            ([&[3, 3, 7, 1, 1, 1][..], &clock].concat(), 0),
        ];
        for ipv4 in [true, false] {
            for (options, payload) in &rows {
                let mut segment = samples::tcp(TcpHeader::ACK, options, *payload);
                let (source, destination) = match ipv4 {
                    true => (samples::V4.0.into(), samples::V4.1.into()),
                    false => (samples::V6.0.into(), samples::V6.1.into()),
                };
                let pseudo = checksum::pseudo_header_sum(source, destination, TCP, segment.len());
                let whole = |segment: &[u8]| checksum::add(pseudo, checksum::sum(segment));
                let sum = !whole(&segment);
                segment[16..18].copy_from_slice(&sum.to_be_bytes());
                let wrap = |segment: &[u8]| match ipv4 {
                    true => samples::ipv4(TCP, &[], segment),
                    false => samples::ipv6(TCP, segment),
                };
                let (mut packet, start) = (wrap(&segment), if ipv4 { 20 } else { 40 });
                let mut found = find(&packet).unwrap();
                assert_eq!(found.value, 0xfffe_fdfc, "{options:?}");
                found.set(77, VirtioHeader::default(), &mut packet);
                assert_eq!(find(&packet), Some(found));
                assert_eq!((found.value, whole(&packet[start..])), (77, 0xffff), "{options:?}");
                // A sum that is not finished stays.
                let mut partial = wrap(&segment);
                let csum_start = start as u16;
                let virtio = VirtioHeader { flags: VirtioHeader::NEEDS_CSUM, csum_start, ..VirtioHeader::default() };
                found.set(77, virtio, &mut partial);
                assert_eq!(partial[start + 16..start + 18], segment[16..18]);
                assert_eq!(find(&partial), Some(found));
            }
        }
    }

    #[test]
    fn a_clock_that_is_not_there_cut_short_or_signed_is_left_alone() {
        for options in [
            &[][..],
            &[1, 1, 1, 0, TIMESTAMPS, 10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            &[TIMESTAMPS, 9, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
            &[5, 0, 1, TIMESTAMPS],
            &[TIMESTAMPS, 10, 1, 1, 1, 1, 1, 1, 1, 1, 29, 2],
            &[1, 1, 1, TIMESTAMPS],
        ] {
            let packet = samples::ipv4(TCP, &[], &samples::tcp(TcpHeader::ACK, options, 0));
            assert_eq!(find(&packet), None, "{options:?}");
        }
        assert!(Clock::is_later_than(3, u32::MAX) && !Clock::is_later_than(u32::MAX, 3) && !Clock::is_later_than(3, 3));
    }
}
