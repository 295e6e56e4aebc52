//! The timestamps option of TCP (RFC 7323): reads the sender's clock from a segment, and sets a later one.
//!
//! A TCP drops a segment with an older clock than that of the last segment in order. So an appliance that repeats a
//! sender's packet sets the newest clock that it has seen, as the sender would.

use super::checksum;
use super::packet::{PacketView, TcpHeader};
use super::virtio::VirtioHeader;

const END: u8 = 0;
const PADDING: u8 = 1;
const TIMESTAMPS: u8 = 8;
/// Signatures (RFC 2385, RFC 5925): the bytes that they cover must not change.
const SIGNATURES: [u8; 2] = [19, 29];
const FIXED: usize = 20;
const CHECKSUM_AT: usize = 16;

/// A sender's clock, and its place in the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// The clock's value.
    pub value: u32,
    at: u16,
    transport: u16,
}

impl Clock {
    /// Finds the clock in a TCP packet with these headers; `None` if there is none, or the segment is signed.
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

    /// Whether `value` is later than `other`, in 32-bit wrapping order.
    pub fn is_later_than(value: u32, other: u32) -> bool {
        value.wrapping_sub(other) as i32 > 0
    }

    /// Sets the clock in the packet that it was found in, and updates the checksum.
    pub fn set(&mut self, value: u32, virtio: VirtioHeader, packet: &mut [u8]) {
        let (at, transport) = (usize::from(self.at), usize::from(self.transport));
        // The 16-bit words of the sum that contain the clock.
        let first = at - (at - transport) % 2;
        let words = first..packet.len().min(first + 6);
        let Some(before) = packet.get(words.clone()).map(checksum::sum) else { return };
        let Some(place) = packet.get_mut(at..at + 4) else { return };
        place.copy_from_slice(&value.to_be_bytes());
        self.value = value;
        // A partial checksum covers only the pseudo-header so far: it is finished later, over the new clock.
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
    fn a_packet_with_a_new_clock_has_the_right_checksum() {
        let clock = [TIMESTAMPS, 10, 0xff, 0xfe, 0xfd, 0xfc, 9, 9, 9, 9];
        let rows: [(Vec<u8>, usize); 3] = [
            ([&[1, 1][..], &clock].concat(), 100),
            // At an odd offset, and at the end of the packet.
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
                // A partial checksum stays.
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
    fn a_missing_cut_or_signed_clock_is_not_found() {
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
