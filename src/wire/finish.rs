//! Finishes, in software, a checksum that our headers cannot describe.
//!
//! The kernel leaves a checksum open if the device offers to finish it, wherever it lies in the packet: in the TCP
//! header inside VXLAN, GENEVE, GRE, IPIP, SIT or ip6tnl, in GRE itself, in ICMPv6, behind extension headers, in a
//! fragment. Our headers to the peer can only mean "the checksum of the TCP or UDP header", which covers nearly all
//! packets. The others are rare enough to be summed here, as the kernel's `skb_checksum_help` does for a device without
//! checksum offload. An outer checksum over an open inner one is right once the inner one is finished: the kernel
//! computes it so (local checksum offload).
//!
//! It cuts nothing: super-packets of tunnels are not requested from the kernel and do not arrive.

use etherparse::{IpNumber, LaxIpSlice};

use super::checksum;
use super::offload::{OffloadError, check_offload};
use super::packet::PacketView;
use super::virtio::VirtioHeader;

/// Where the checksum lies in an SCTP header, and its length in bytes.
const SCTP_CHECKSUM: usize = 8;
const SCTP_CHECKSUM_LEN: usize = 4;

/// The most nested IP headers that are followed to find the protocol of a checksum.
const MAX_NESTED: usize = 8;

/// Makes a packet from this host's kernel ready to be carried. It leaves a packet that [`check_offload`] accepts as it
/// is, and finishes any other checksum whose field lies inside the packet. Returns the resulting header and view.
pub fn settle_offload(header: VirtioHeader, packet: &mut [u8]) -> Result<(VirtioHeader, PacketView), OffloadError> {
    let view = PacketView::parse(packet)?;
    match check_offload(header, packet, &view) {
        Err(OffloadError::Checksum | OffloadError::Fragment)
            if header.gso_type == VirtioHeader::GSO_NONE && finish_checksum(header, packet) =>
        {
            // The field may lie in the IP header, so parse again: the view must match the packet that is sent.
            Ok((VirtioHeader::default(), PacketView::parse(packet)?))
        }
        outcome => outcome.map(|header| (header, view)),
    }
}

/// Sums as `header` asks. `false`, without a change, if the field is not inside the packet.
fn finish_checksum(header: VirtioHeader, packet: &mut [u8]) -> bool {
    let (start, offset) = (usize::from(header.csum_start), usize::from(header.csum_offset));
    let is_sctp = offset == SCTP_CHECKSUM && is_sctp_at(packet, start);
    let Some(covered) = packet.get_mut(start..) else { return false };
    if is_sctp {
        let Some(field) = covered.get_mut(offset..offset + SCTP_CHECKSUM_LEN) else { return false };
        field.fill(0);
        let sum = crc32c(covered).to_le_bytes();
        covered[offset..offset + SCTP_CHECKSUM_LEN].copy_from_slice(&sum);
        return true;
    }
    // The field holds the sum of the pseudo-header, or zero if there is none, and is summed with the rest.
    let sum = !checksum::sum(covered);
    let Some(field) = covered.get_mut(offset..offset + 2) else { return false };
    // Both forms of zero are right, except in UDP, where zero means "no checksum".
    field.copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
    true
}

/// Whether an SCTP header begins at `start`, behind one or several nested IP headers. Its checksum is a CRC, not a sum.
fn is_sctp_at(packet: &[u8], start: usize) -> bool {
    let mut rest = packet;
    for _ in 0..MAX_NESTED {
        let Ok((ip, _)) = LaxIpSlice::from_slice(rest) else { return false };
        let payload = ip.payload();
        let Some(inner) = rest.get(rest.len() - payload.payload.len()..).filter(|inner| !inner.is_empty()) else {
            return false;
        };
        if packet.len() - inner.len() == start {
            return payload.ip_number == IpNumber::SCTP;
        }
        if !matches!(payload.ip_number, IpNumber::IPV4 | IpNumber::IPV6) {
            return false;
        }
        rest = inner;
    }
    false
}

/// CRC-32C, Castagnoli (RFC 9260, appendix A).
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut value, mut bit) = (byte as u32, 0);
            while bit < 8 {
                value = value >> 1 ^ if value & 1 == 0 { 0 } else { 0x82f6_3b78 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |crc, byte| crc >> 8 ^ TABLE[usize::from(crc as u8 ^ byte)])
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    use super::super::offload::{TCP_CHECKSUM_OFFSET, UDP_CHECKSUM_OFFSET};
    use super::super::packet::{TCP, UDP};
    use super::super::samples;
    use super::*;

    /// A header that asks for the checksum at `offset` from `start`.
    fn open(start: usize, offset: u16) -> VirtioHeader {
        VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            csum_start: start as u16,
            csum_offset: offset,
            ..VirtioHeader::default()
        }
    }

    /// A whole inner packet from etherparse, and where its transport header begins.
    fn inner(version: u8, tcp: bool, payload: &[u8]) -> (Vec<u8>, usize) {
        let ip = match version {
            4 => PacketBuilder::ipv4([10, 9, 0, 1], [10, 9, 0, 2], 64),
            _ => PacketBuilder::ipv6([0xfd; 16], [0xfe; 16], 64),
        };
        let mut packet = Vec::new();
        match tcp {
            true => ip.tcp(1000, 2000, 77, 500).write(&mut packet, payload).unwrap(),
            false => ip.udp(1000, 2000).write(&mut packet, payload).unwrap(),
        }
        (packet, if version == 4 { 20 } else { 40 })
    }

    /// The bytes between the outer IP header and an inner one, and the outer header's protocol.
    fn encapsulation(kind: usize, version: u8, length: usize) -> (u8, Vec<u8>) {
        let ether = if version == 4 { [8, 0] } else { [0x86, 0xdd] };
        let over_udp = |port: u16, header: Vec<u8>| {
            let total = (8 + header.len() + length) as u16;
            let udp = [50_000u16.to_be_bytes(), port.to_be_bytes(), total.to_be_bytes(), [0, 0]].concat();
            (UDP, [udp, header].concat())
        };
        let ethernet = [&[2; 12][..], &ether].concat();
        match kind {
            0 => over_udp(4789, [&[8, 0, 0, 0, 0, 0, 1, 0][..], &ethernet].concat()),
            1 => over_udp(6081, [&[0, 0, 0x65, 0x58, 0, 0, 1, 0][..], &ethernet].concat()),
            2 => (47, [[0, 0], ether].concat()),
            _ => (if version == 4 { 4 } else { 41 }, vec![]),
        }
    }

    /// Opens the checksum again, as a sender does that leaves it to the device.
    fn reopen(packet: &mut [u8], transport: usize, offset: u16) {
        let view = PacketView::parse(packet).unwrap();
        let sum = checksum::pseudo_header_sum(view.source, view.destination, view.protocol, packet.len() - transport);
        packet[transport + usize::from(offset)..][..2].copy_from_slice(&sum.to_be_bytes());
    }

    proptest! {
        #[test]
        fn checksums_of_tcp_and_udp_inside_a_tunnel_are_finished(
            outer in prop_oneof![Just(4u8), Just(6)],
            version in prop_oneof![Just(4u8), Just(6)],
            tcp: bool,
            kind in 0usize..4,
            payload in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let (whole, transport) = inner(version, tcp, &payload);
            let offset = if tcp { TCP_CHECKSUM_OFFSET } else { UDP_CHECKSUM_OFFSET };
            let (protocol, between) = encapsulation(kind, version, whole.len());
            let wrap = |packet: &[u8]| {
                let body = [&between[..], packet].concat();
                if outer == 4 { samples::ipv4(protocol, &[], &body) } else { samples::ipv6(protocol, &body) }
            };
            let expected = wrap(&whole);
            let start = expected.len() - whole.len() + transport;
            let mut opened = whole.clone();
            reopen(&mut opened, transport, offset);
            let mut packet = wrap(&opened);
            let (header, view) = settle_offload(open(start, offset), &mut packet).unwrap();
            prop_assert_eq!(header, VirtioHeader::default());
            prop_assert_eq!(view, PacketView::parse(&expected).unwrap());
            prop_assert_eq!(&packet, &expected, "equal to the packet from etherparse");
        }

        #[test]
        fn every_checksum_inside_the_packet_is_finished_and_sums_to_zero(
            outer in prop_oneof![Just(4u8), Just(6)],
            protocol: u8,
            body in prop::collection::vec(any::<u8>(), 0..100),
            start in 0usize..200,
            offset in 0u16..120,
            fragment: bool,
        ) {
            let mut packet = if outer == 4 { samples::ipv4(protocol, &[], &body) } else { samples::ipv6(protocol, &body) };
            if fragment && outer == 4 {
                packet[6] = 0x20;
            }
            let before = packet.clone();
            let header = open(start, offset);
            let inside = start + usize::from(offset) + 2 <= packet.len();
            match settle_offload(header, &mut packet) {
                Ok((VirtioHeader { flags: 0, .. }, _)) => {
                    prop_assert!(inside);
                    prop_assert!(before[..start] == packet[..start]);
                    let crc = offset == 8 && is_sctp_at(&before, start);
                    // The field held the sum of a pseudo-header. At an odd offset it is summed with its bytes swapped.
                    let field = start + usize::from(offset);
                    let pseudo = u16::from_be_bytes([before[field], before[field + 1]]);
                    let sum = checksum::add(checksum::sum(&packet[start..]), pseudo);
                    prop_assert!(crc || offset % 2 == 1 || sum == 0xffff, "{sum:#x}");
                }
                Ok((kept, _)) => {
                    prop_assert_eq!((kept.csum_start, kept.csum_offset), (header.csum_start, header.csum_offset));
                    prop_assert_eq!(packet, before);
                }
                // A checksum written over the IP header may leave bytes that are not a packet.
                Err(_) => prop_assert!(!inside || start < 40 || packet == before),
            }
        }
    }

    #[test]
    fn the_checksum_of_every_protocol_that_a_device_may_finish_is_finished() {
        let pseudo = |protocol: u8, length: usize| {
            let addresses = (IpAddr::from(samples::V6.0), IpAddr::from(samples::V6.1));
            checksum::pseudo_header_sum(addresses.0, addresses.1, protocol, length).to_be_bytes()
        };
        // Protocol, offset of its checksum, and whether a pseudo-header is summed.
        for (name, protocol, offset, has_pseudo) in [
            ("ICMPv6", 58u8, 2u16, true),
            ("GRE with a checksum", 47, 4, false),
            ("UDP-Lite", 136, 6, true),
            ("DCCP", 33, 6, true),
            ("IGMP", 2, 2, false),
            ("OSPF", 89, 12, false),
            ("ESP", 50, 14, false),
        ] {
            let mut body: Vec<u8> = (0..61u8).map(|at| at.wrapping_mul(7) ^ protocol).collect();
            let field = usize::from(offset)..usize::from(offset) + 2;
            let open_field = if has_pseudo { pseudo(protocol, body.len()) } else { [0, 0] };
            body[field].copy_from_slice(&open_field);
            let mut packet = samples::ipv6(protocol, &body);
            let (header, _) = settle_offload(open(40, offset), &mut packet).expect(name);
            assert_eq!(header, VirtioHeader::default(), "{name}");
            let sum = checksum::sum(&packet[40..]);
            let all =
                if has_pseudo { checksum::add(sum, u16::from_be_bytes(pseudo(protocol, body.len()))) } else { sum };
            assert_eq!(all, 0xffff, "{name}: the receiver's sum is right");
        }
        // An ICMPv6 message with the reference's own checksum.
        let mut expected = Vec::new();
        PacketBuilder::ipv6([1; 16], [2; 16], 9).icmpv6_echo_request(3, 4).write(&mut expected, b"ping").unwrap();
        let mut packet = expected.clone();
        reopen(&mut packet, 40, 2);
        assert!(matches!(SlicedPacket::from_ip(&packet).unwrap().transport, Some(TransportSlice::Icmpv6(_))));
        settle_offload(open(40, 2), &mut packet).unwrap();
        assert_eq!(packet, expected);
    }

    #[test]
    fn the_checksum_of_sctp_is_a_crc() {
        // The check value of CRC-32C.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        let body: Vec<u8> = (0..40).collect();
        let mut whole = body.clone();
        whole[8..12].fill(0);
        let sum = crc32c(&whole).to_le_bytes();
        whole[8..12].copy_from_slice(&sum);
        let plain = |body: &[u8]| samples::ipv4(132, &[], body);
        let tunnel = |body: &[u8]| samples::ipv6(4, &plain(body));
        for (wrap, start) in [(&plain as &dyn Fn(&[u8]) -> Vec<u8>, 20), (&tunnel, 60)] {
            let mut packet = wrap(&body);
            settle_offload(open(start, 8), &mut packet).unwrap();
            assert_eq!(packet, wrap(&whole));
            let mut cut = wrap(&body[..11]);
            assert_eq!(settle_offload(open(start, 8), &mut cut).unwrap_err(), OffloadError::Checksum);
        }
        // In another protocol the field at the same offset is a sum of two bytes.
        let mut other = samples::ipv4(6, &[], &body);
        settle_offload(open(20, 8), &mut other).unwrap();
        assert_eq!(checksum::add(checksum::sum(&other[20..]), 0x0809), 0xffff);
    }

    #[test]
    fn an_acceptable_packet_stays_unchanged() {
        for (protocol, transport) in [(TCP, samples::tcp(0x18, &[], 3000)), (UDP, samples::udp(3000))] {
            let (header, packet) = samples::partial(4, protocol, transport, Some(1000));
            let mut settled = packet.clone();
            let view = PacketView::parse(&packet).unwrap();
            assert_eq!(settle_offload(header, &mut settled), Ok((header, view)));
            assert_eq!(settled, packet);
            // A super-packet with a wrong header is refused, not summed.
            let wrong = VirtioHeader { csum_start: header.csum_start + 2, ..header };
            assert_eq!(settle_offload(wrong, &mut settled), Err(OffloadError::Checksum));
            assert_eq!(settled, packet);
        }
        assert!(matches!(settle_offload(VirtioHeader::default(), &mut []), Err(OffloadError::Packet(_))));
    }
}
