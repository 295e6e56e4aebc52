//! Packets for tests, built byte by byte so that they do not depend on the code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum;
use super::packet::{TCP, UDP};
use super::virtio::VirtioHeader;

/// The addresses of every sample.
pub(crate) const V4: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 2, 0, 10));
/// The same for IPv6.
pub(crate) const V6: (Ipv6Addr, Ipv6Addr) =
    (Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 2, 0, 0, 0, 0, 0, 0x10));

/// An IPv4 packet, with the checksum of a TCP segment filled in; the caller pads `options` to words of four bytes.
pub(crate) fn ipv4(protocol: u8, options: &[u8], body: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0; 20];
    packet[0] = 0x40 | (header_len / 4) as u8;
    packet[2..4].copy_from_slice(&((header_len + body.len()) as u16).to_be_bytes());
    packet[4..6].copy_from_slice(&0xfffeu16.to_be_bytes());
    packet[8] = 64;
    packet[9] = protocol;
    packet[12..16].copy_from_slice(&V4.0.octets());
    packet[16..20].copy_from_slice(&V4.1.octets());
    packet.extend_from_slice(options);
    let sum = !checksum::sum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(body);
    complete(&mut packet[header_len..], protocol, (V4.0.into(), V4.1.into()));
    packet
}

/// Fills in the checksum of a TCP segment whose checksum field is zero.
fn complete(segment: &mut [u8], protocol: u8, (source, destination): (IpAddr, IpAddr)) {
    if protocol == TCP && segment.len() >= 20 && segment[16..18] == [0, 0] {
        let pseudo = checksum::pseudo_header_sum(source, destination, TCP, segment.len());
        let sum = !checksum::add(checksum::sum(segment), pseudo);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An IPv6 packet, with the checksum of a TCP segment filled in; `body` begins with the header that `next` names.
pub(crate) fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 40];
    packet[0] = 0x60;
    packet[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
    packet[6] = next;
    packet[7] = 64;
    packet[8..24].copy_from_slice(&V6.0.octets());
    packet[24..40].copy_from_slice(&V6.1.octets());
    packet.extend_from_slice(body);
    complete(&mut packet[40..], next, (V6.0.into(), V6.1.into()));
    packet
}

/// A TCP header with `flags`, `options` (whole words) and a payload that differs in every place.
pub(crate) fn tcp(flags: u8, options: &[u8], payload: usize) -> Vec<u8> {
    let mut segment = vec![0; 20];
    segment[0..2].copy_from_slice(&40000u16.to_be_bytes());
    segment[2..4].copy_from_slice(&5432u16.to_be_bytes());
    segment[4..8].copy_from_slice(&0xffff_ff00u32.to_be_bytes());
    segment[8..12].copy_from_slice(&77u32.to_be_bytes());
    segment[12] = ((20 + options.len()) / 4 * 16) as u8;
    segment[13] = flags;
    segment[14..16].copy_from_slice(&512u16.to_be_bytes());
    segment.extend_from_slice(options);
    segment.extend(payload_bytes(payload));
    segment
}

/// A UDP header and a payload that differs in every place.
pub(crate) fn udp(payload: usize) -> Vec<u8> {
    let mut datagram = vec![0; 8];
    datagram[0..2].copy_from_slice(&40000u16.to_be_bytes());
    datagram[2..4].copy_from_slice(&53u16.to_be_bytes());
    datagram[4..6].copy_from_slice(&((8 + payload) as u16).to_be_bytes());
    datagram.extend(payload_bytes(payload));
    datagram
}

/// What a TUN read gives for `transport` (TCP or UDP) over IPv4 or IPv6: the checksum field holds the sum of the
/// pseudo-header, and the virtio header gives its place. With `gso_size` it is a super-packet.
pub(crate) fn partial(
    version: u8,
    protocol: u8,
    mut transport: Vec<u8>,
    gso_size: Option<u16>,
) -> (VirtioHeader, Vec<u8>) {
    let (source, destination): (IpAddr, IpAddr) = match version {
        4 => (V4.0.into(), V4.1.into()),
        _ => (V6.0.into(), V6.1.into()),
    };
    let csum_offset = if protocol == TCP { 16 } else { 6 };
    let transport_header = match protocol {
        TCP => usize::from(transport[12] >> 4) * 4,
        _ => 8,
    };
    let sum = checksum::pseudo_header_sum(source, destination, protocol, transport.len());
    transport[csum_offset..csum_offset + 2].copy_from_slice(&sum.to_be_bytes());
    let packet = match version {
        4 => ipv4(protocol, &[], &transport),
        _ => ipv6(protocol, &transport),
    };
    let csum_start = packet.len() - transport.len();
    let gso_type = match (gso_size, protocol, version) {
        (None, ..) => VirtioHeader::GSO_NONE,
        (_, UDP, _) => VirtioHeader::GSO_UDP_L4,
        (_, _, 4) => VirtioHeader::GSO_TCPV4,
        _ => VirtioHeader::GSO_TCPV6,
    };
    let header = VirtioHeader {
        flags: VirtioHeader::NEEDS_CSUM,
        gso_type,
        hdr_len: match gso_size {
            Some(_) => (csum_start + transport_header) as u16,
            None => 0,
        },
        gso_size: gso_size.unwrap_or(0),
        csum_start: csum_start as u16,
        csum_offset: csum_offset as u16,
    };
    (header, packet)
}

fn payload_bytes(len: usize) -> impl Iterator<Item = u8> {
    (0..len).map(|at| (at as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0])
}
