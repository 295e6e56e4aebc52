//! Cutting a super-packet into ordinary packets, or into smaller super-packets, in software.
//!
//! The result equals the kernel's own segmentation: identification and sequence numbers advance, FIN and PSH stay on
//! the last segment, CWR on the first, lengths and header checksums are adjusted. A TUN without offload uses
//! [`segment_range`] for one segment and then [`complete_checksum`]; the WAN emulator takes ranges around the segments
//! that it drops. Headers should have passed [`super::offload::check_offload`]; others cause no panic, but are not
//! repaired. This file does not join packets into super-packets.

use std::ops::Range;

use super::checksum;
use super::offload::{TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET, UDP_HEADER};
use super::packet::TcpHeader;
use super::virtio::VirtioHeader;

/// How many packets `packet` becomes on the wire: 1 unless it is a super-packet.
///
/// A packet whose header does not fit it counts as 1 too: it cannot be cut.
pub fn segment_count(header: VirtioHeader, packet: &[u8]) -> usize {
    Cut::plan(header, packet).map_or(1, |cut| cut.count)
}

/// Appends segments `range` of `packet` to `out` as one packet and returns the virtio header that belongs to it.
///
/// Several segments make a smaller super-packet, one segment makes an ordinary packet; both keep the partial checksum
/// (`NEEDS_CSUM`) if `packet` had one. A range ends at [`segment_count`] at the latest; an empty range appends nothing.
pub fn segment_range(header: VirtioHeader, packet: &[u8], range: Range<usize>, out: &mut Vec<u8>) -> VirtioHeader {
    let plan = Cut::plan(header, packet);
    let count = plan.as_ref().map_or(1, |cut| cut.count);
    let range = range.start..range.end.min(count);
    if range.is_empty() {
        return VirtioHeader::default();
    }
    match plan {
        Some(_) if range == (0..count) => {
            out.extend_from_slice(packet);
            header
        }
        Some(cut) => cut.emit(header, packet, range, out),
        None => {
            out.extend_from_slice(packet);
            without_segmentation(header)
        }
    }
}

/// Finishes the checksum of an ordinary packet if `header` has `NEEDS_CSUM`; the packet needs no virtio header
/// afterwards.
///
/// Does nothing without `NEEDS_CSUM` or if the checksum would lie outside the packet. A super-packet must be cut first:
/// each of its segments has its own checksum.
pub fn complete_checksum(header: VirtioHeader, packet: &mut [u8]) {
    if header.flags & VirtioHeader::NEEDS_CSUM == 0 {
        return;
    }
    let Some(covered) = packet.get_mut(usize::from(header.csum_start)..) else {
        return;
    };
    // The field holds the sum of the pseudo-header, and is summed with the rest.
    let sum = !checksum::sum(covered);
    let at = usize::from(header.csum_offset);
    if let Some(field) = covered.get_mut(at..).and_then(|rest| rest.first_chunk_mut::<2>()) {
        // In UDP zero means "no checksum", so the other form of zero is sent instead (RFC 768). TCP keeps zero.
        let udp = header.csum_offset == UDP_CHECKSUM_OFFSET;
        *field = if udp && sum == 0 { 0xffff } else { sum }.to_be_bytes();
    }
}

fn without_segmentation(header: VirtioHeader) -> VirtioHeader {
    VirtioHeader { gso_type: VirtioHeader::GSO_NONE, gso_size: 0, hdr_len: 0, ..header }
}

/// Where a super-packet is cut.
struct Cut {
    ipv4: bool,
    tcp: bool,
    /// Where the transport header begins.
    transport: usize,
    /// Where the payload begins.
    payload: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
    count: usize,
}

impl Cut {
    /// None when `packet` is not a super-packet of at least two segments.
    fn plan(header: VirtioHeader, packet: &[u8]) -> Option<Self> {
        let gso_type = header.gso_type & !VirtioHeader::GSO_ECN;
        if gso_type == VirtioHeader::GSO_NONE || header.flags & VirtioHeader::NEEDS_CSUM == 0 {
            return None;
        }
        let (ipv4, tcp) = match (gso_type, packet.first()? >> 4) {
            (VirtioHeader::GSO_TCPV4, 4) => (true, true),
            (VirtioHeader::GSO_TCPV6, 6) => (false, true),
            (VirtioHeader::GSO_UDP_L4, version @ (4 | 6)) => (version == 4, false),
            _ => return None,
        };
        let transport = usize::from(header.csum_start);
        let network_fits = match ipv4 {
            true => transport >= 20 && transport == usize::from(packet[0] & 0x0f) * 4,
            false => transport >= 40,
        };
        let checksum_offset = match tcp {
            true => TCP_CHECKSUM_OFFSET,
            false => UDP_CHECKSUM_OFFSET,
        };
        if !network_fits || header.csum_offset != checksum_offset {
            return None;
        }
        let payload = transport
            + match tcp {
                true => TcpHeader::parse(packet.get(transport..)?)?.header_len,
                false => UDP_HEADER,
            };
        let size = usize::from(header.gso_size);
        let count = packet.len().checked_sub(payload)?.checked_add(size.checked_sub(1)?)? / size;
        (count > 1).then_some(Self { ipv4, tcp, transport, payload, size, count })
    }

    /// `range` is not empty and ends at `count` or before.
    fn emit(&self, header: VirtioHeader, packet: &[u8], range: Range<usize>, out: &mut Vec<u8>) -> VirtioHeader {
        let from = self.payload + range.start * self.size;
        let to = (self.payload + range.end * self.size).min(packet.len());
        let begin = out.len();
        out.reserve(self.payload + to - from);
        out.extend_from_slice(&packet[..self.payload]);
        out.extend_from_slice(&packet[from..to]);
        let part = &mut out[begin..];

        self.fit_network_header(part, range.start);
        let old_len = (packet.len() - self.transport) as u16;
        self.fit_transport_header(&mut part[self.transport..], old_len, &range);

        let mut gso_type = header.gso_type;
        if range.start > 0 {
            gso_type &= !VirtioHeader::GSO_ECN;
        }
        match range.len() {
            1 => without_segmentation(header),
            _ => VirtioHeader { gso_type, ..header },
        }
    }

    /// Length and, in IPv4, identification and header checksum of the part that begins at segment `first`.
    fn fit_network_header(&self, part: &mut [u8], first: usize) {
        // The part is never longer than the super-packet, whose length fitted its length field.
        let len = part.len();
        if self.ipv4 {
            put(part, 2, len as u16);
            let id = at(part, 4).wrapping_add(first as u16);
            put(part, 4, id);
            put(part, 10, 0);
            let sum = !checksum::sum(&part[..self.transport]);
            put(part, 10, sum);
        } else {
            put(part, 4, (len - 40) as u16);
        }
    }

    /// Sequence and flags, or the length of UDP, and the partial checksum. The checksum is updated from the old one,
    /// not summed again: with an IPv6 routing header its destination is not the one in the IP header.
    fn fit_transport_header(&self, transport: &mut [u8], old_len: u16, range: &Range<usize>) {
        let new_len = transport.len() as u16;
        let field = if self.tcp {
            let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]])
                .wrapping_add((range.start * self.size) as u32);
            transport[4..8].copy_from_slice(&sequence.to_be_bytes());
            if range.end < self.count {
                transport[13] &= !(TcpHeader::FIN | TcpHeader::PSH);
            }
            if range.start > 0 {
                transport[13] &= !TcpHeader::CWR;
            }
            usize::from(TCP_CHECKSUM_OFFSET)
        } else {
            put(transport, 4, new_len);
            usize::from(UDP_CHECKSUM_OFFSET)
        };
        let partial = checksum::replace(at(transport, field), old_len, new_len);
        put(transport, field, partial);
    }
}

fn at(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::super::offload::check_offload;
    use super::super::packet::{PacketView, TCP, UDP};
    use super::super::samples;
    use super::*;
    use etherparse::{Ipv4Header, Ipv6Header, UdpHeader};
    use proptest::prelude::*;

    /// Segment `index` made from scratch with etherparse's headers and complete checksums.
    fn reference(header: VirtioHeader, packet: &[u8], index: usize) -> Vec<u8> {
        let transport = usize::from(header.csum_start);
        let headers = usize::from(header.hdr_len);
        let size = usize::from(header.gso_size);
        let payloads: Vec<&[u8]> = packet[headers..].chunks(size).collect();
        let payload = payloads[index];
        let (first, last) = (index == 0, index + 1 == payloads.len());
        let length = (headers - transport + payload.len()) as u16;

        let mut segment = vec![];
        let mut ipv4 = Ipv4Header::from_slice(packet).ok().map(|(header, _)| header);
        let mut ipv6 = Ipv6Header::from_slice(packet).ok().map(|(header, _)| header);
        if let Some(ipv4) = &mut ipv4 {
            ipv4.identification = ipv4.identification.wrapping_add(index as u16);
            ipv4.total_len = (headers + payload.len()) as u16;
            ipv4.header_checksum = ipv4.calc_header_checksum();
            segment.extend_from_slice(&ipv4.to_bytes());
        }
        if let Some(ipv6) = &mut ipv6 {
            ipv6.payload_length = (headers + payload.len() - 40) as u16;
            segment.extend_from_slice(&ipv6.to_bytes());
            segment.extend_from_slice(&packet[40..transport]);
        }
        if header.gso_type == VirtioHeader::GSO_UDP_L4 {
            let (mut udp, _) = UdpHeader::from_slice(&packet[transport..]).unwrap();
            udp.length = length;
            udp.checksum = match (&ipv4, &ipv6) {
                (Some(ip), _) => udp.calc_checksum_ipv4(ip, payload).unwrap(),
                (_, Some(ip)) => udp.calc_checksum_ipv6(ip, payload).unwrap(),
                _ => unreachable!("a sample is IPv4 or IPv6"),
            };
            segment.extend_from_slice(&udp.to_bytes());
        } else {
            let (mut tcp, _) = etherparse::TcpHeader::from_slice(&packet[transport..]).unwrap();
            tcp.sequence_number = tcp.sequence_number.wrapping_add((index * size) as u32);
            tcp.fin &= last;
            tcp.psh &= last;
            tcp.cwr &= first;
            tcp.checksum = match (&ipv4, &ipv6) {
                (Some(ip), _) => tcp.calc_checksum_ipv4(ip, payload).unwrap(),
                (_, Some(ip)) => tcp.calc_checksum_ipv6(ip, payload).unwrap(),
                _ => unreachable!("a sample is IPv4 or IPv6"),
            };
            segment.extend_from_slice(&tcp.to_bytes());
        }
        segment.extend_from_slice(payload);
        segment
    }

    fn completed(header: VirtioHeader, packet: &[u8], index: usize) -> Vec<u8> {
        let mut out = vec![];
        let plain = segment_range(header, packet, index..index + 1, &mut out);
        assert_eq!(plain.gso_type, VirtioHeader::GSO_NONE);
        let view = PacketView::parse(&out).unwrap();
        assert_eq!(check_offload(plain, &out, &view), Ok(plain));
        complete_checksum(plain, &mut out);
        out
    }

    /// IPv6 with a destination options header in front of the transport, as some mobile networks send.
    fn with_extension((header, packet): (VirtioHeader, Vec<u8>)) -> (VirtioHeader, Vec<u8>) {
        let mut body = vec![packet[6], 0, 1, 4, 0, 0, 0, 0];
        body.extend_from_slice(&packet[40..]);
        let extended = VirtioHeader { hdr_len: header.hdr_len + 8, csum_start: header.csum_start + 8, ..header };
        (extended, samples::ipv6(60, &body))
    }

    fn super_packet() -> impl Strategy<Value = (VirtioHeader, Vec<u8>)> {
        let inputs = (
            prop_oneof![Just(4u8), Just(6)],
            any::<bool>(),
            any::<bool>(),
            any::<u8>(),
            0usize..=10,
            32u16..1500,
            2usize..3000,
        );
        inputs.prop_map(|(version, tcp, extended, flags, options, gso_size, payload)| {
            let payload = payload + usize::from(gso_size);
            let (protocol, transport) = match tcp {
                true => (TCP, samples::tcp(flags, &vec![1; options * 4], payload)),
                false => (UDP, samples::udp(payload)),
            };
            let (mut header, packet) = samples::partial(version, protocol, transport, Some(gso_size));
            if tcp && flags & TcpHeader::CWR != 0 {
                header.gso_type |= VirtioHeader::GSO_ECN;
            }
            match version == 6 && extended {
                true => with_extension((header, packet)),
                false => (header, packet),
            }
        })
    }

    #[test]
    fn segments_of_a_full_super_packet_equal_the_reference() {
        for version in [4, 6] {
            let all_flags = samples::tcp(0xff, &[1; 12], 65_000);
            let table = [(TCP, all_flags, 1448), (UDP, samples::udp(65_000), 1200)];
            for (protocol, transport, size) in table {
                let (header, packet) = samples::partial(version, protocol, transport, Some(size));
                let count = segment_count(header, &packet);
                assert_eq!(count, 65_000usize.div_ceil(usize::from(size)));
                for index in 0..count {
                    let expected = reference(header, &packet, index);
                    assert_eq!(completed(header, &packet, index), expected, "{index}");
                }
            }
        }
    }

    #[test]
    fn an_ordinary_packet_is_one_segment_and_gets_its_checksum() {
        for version in [4, 6] {
            let table = [(TCP, samples::tcp(0xff, &[1; 20], 99)), (UDP, samples::udp(99))];
            for (protocol, transport) in table {
                // The reference makes one segment of what could have been a super-packet.
                let (uncut, packet) = samples::partial(version, protocol, transport, Some(99));
                let header = without_segmentation(uncut);
                assert_eq!(segment_count(header, &packet), 1);
                assert_eq!(completed(header, &packet, 0), reference(uncut, &packet, 0));
            }
        }
    }

    #[test]
    fn a_checksum_of_zero_is_all_ones_in_udp_and_stays_zero_in_tcp() {
        let table = [(UDP, samples::udp(2), 26, 0xffff), (TCP, samples::tcp(0x10, &[], 2), 36, 0)];
        for (protocol, transport, field, expected) in table {
            let (header, mut packet) = samples::partial(4, protocol, transport, None);
            // The two payload bytes bring the sum to 0xffff, whose inverse is zero.
            let payload = packet.len() - 2;
            put(&mut packet, payload, 0);
            let rest = !checksum::sum(&packet[20..]);
            put(&mut packet, payload, rest);
            complete_checksum(header, &mut packet);
            assert_eq!(at(&packet, field), expected);
        }
    }

    #[test]
    fn ranges_outside_the_packet_give_nothing() {
        let (header, packet) = samples::partial(4, TCP, samples::tcp(0x10, &[], 3000), Some(1000));
        let mut out = vec![];
        for range in [0..0, 3..9, 7..7, usize::MAX..usize::MAX] {
            let returned = segment_range(header, &packet, range, &mut out);
            assert_eq!((returned, out.len()), (VirtioHeader::default(), 0));
        }
        assert_eq!(segment_range(header, &packet, 0..99, &mut out), header);
        assert_eq!(out, packet);
    }

    proptest! {
        #[test]
        fn every_segment_equals_the_reference((header, packet) in super_packet()) {
            let view = PacketView::parse(&packet).unwrap();
            prop_assert_eq!(check_offload(header, &packet, &view), Ok(header));
            for index in 0..segment_count(header, &packet) {
                prop_assert_eq!(completed(header, &packet, index), reference(header, &packet, index));
            }
        }

        #[test]
        fn a_range_is_a_valid_super_packet_of_the_same_segments(
            (header, packet) in super_packet(),
            a in any::<prop::sample::Index>(),
            b in any::<prop::sample::Index>(),
        ) {
            let count = segment_count(header, &packet);
            let (a, b) = (a.index(count), b.index(count));
            let range = a.min(b)..a.max(b) + 1;
            let mut part = b"before".to_vec();
            let part_header = segment_range(header, &packet, range.clone(), &mut part);
            prop_assert_eq!(&part[..6], b"before");
            let part = &part[6..];
            let view = PacketView::parse(part).unwrap();
            prop_assert_eq!(check_offload(part_header, part, &view), Ok(part_header));
            prop_assert_eq!(segment_count(part_header, part), range.len());
            for (index, original) in range.enumerate() {
                prop_assert_eq!(
                    completed(part_header, part, index),
                    completed(header, &packet, original)
                );
            }
        }

        #[test]
        fn no_header_and_no_bytes_make_cutting_panic(
            native in any::<[u8; VirtioHeader::LEN]>(),
            kind in 0usize..6,
            start in 0u16..80,
            mut packet in prop::collection::vec(any::<u8>(), 0..300),
            range in (0usize..400, 0usize..400),
        ) {
            let mut header = VirtioHeader::from_native(native);
            if kind > 0 {
                header.flags |= VirtioHeader::NEEDS_CSUM;
                header.gso_type = [1, 1, 4, 5, 5, 0x81][kind];
                header.csum_start = start;
                header.csum_offset = if kind == 3 || kind == 4 { 6 } else { 16 };
                header.gso_size %= 64;
                if let Some(first) = packet.first_mut() {
                    *first = if kind == 2 || kind == 3 { 0x60 } else { 0x40 | (start / 4) as u8 & 15 };
                }
            }
            let count = segment_count(header, &packet);
            prop_assert!(count >= 1);
            let mut out = vec![];
            let part = segment_range(header, &packet, range.0..range.1, &mut out);
            prop_assert!(out.len() <= packet.len());
            complete_checksum(part, &mut out);
            complete_checksum(header, &mut packet);
        }
    }
}
