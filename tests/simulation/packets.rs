//! Random packets as a TUN delivers them. Each carries a number that can be read back.
//!
//! The headers are written byte by byte, so that the packets do not depend on the code under test. The TCP checksum is
//! correct or left to be completed, and both ends offer a large window.

use onwire::wire::checksum;
use onwire::wire::packet::PacketView;
use onwire::wire::virtio::VirtioHeader;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::side::Side;

/// A packet and the offload header in front of it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The offload header from the TUN.
    pub header: VirtioHeader,
    /// The packet.
    pub bytes: Vec<u8>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// RFC 3692: for experiments. Such a packet may be as short as its IP header.
const EXPERIMENT: u8 = 253;

/// Lengths of packets and super-packets: common ones and extreme ones.
fn random_len(random: &mut SmallRng) -> usize {
    match random.random_range(0..40) {
        0..14 => random.random_range(0..100),
        14..22 => random.random_range(100..1400),
        22..34 => random.random_range(1400..=1460),
        34..38 => random.random_range(1461..12_000),
        38 => random.random_range(12_000..65_000),
        // More than an IPv4 packet can hold: shortened to the maximum below.
        _ => 70_000,
    }
}

/// A packet from `from` to the other side, with the DSCP of `profile`. It has no number yet.
pub fn random_packet(profile: u8, from: Side, random: &mut SmallRng) -> Packet {
    let ipv4 = random.random_bool(0.6);
    let protocol = match random.random_range(0..10) {
        0..6 => TCP,
        6..9 => UDP,
        _ => EXPERIMENT,
    };
    let network = if ipv4 { 20 } else { 40 };
    let transport = match protocol {
        TCP => 20,
        UDP => 8,
        _ => 0,
    };
    let headers = network + transport;
    let longest = if ipv4 { 65_535 - headers } else { 65_535 - transport };
    let payload = random_len(random).min(longest);
    let len = headers + payload;

    let mut bytes = vec![0; len];
    random.fill(&mut bytes[headers.min(len)..]);
    begin_network(&mut bytes, ipv4, protocol, profile, from);
    // Few hosts, so that a flow has more than one packet.
    let (source, destination) = if ipv4 { (15, 19) } else { (23, 39) };
    bytes[source] = random.random_range(0..2);
    bytes[destination] = random.random_range(0..2);
    match protocol {
        TCP => bytes[network + 12..network + 16].copy_from_slice(&[5 << 4, 0, 0xff, 0xff]),
        UDP => bytes[network + 4..network + 6].copy_from_slice(&((8 + payload) as u16).to_be_bytes()),
        _ => {}
    }
    let header = random_header(ipv4, protocol, headers, payload, random);
    if protocol == TCP {
        finish(header, &mut bytes, network);
    }
    Packet { header, bytes }
}

/// Fills in the TCP checksum if the offload header does not leave that to the kernel.
fn finish(header: VirtioHeader, bytes: &mut [u8], network: usize) {
    if header.flags & VirtioHeader::NEEDS_CSUM == 0 {
        let view = PacketView::parse(bytes).expect("built as a packet");
        let segment = &bytes[network..];
        let pseudo = checksum::pseudo_header_sum(view.source, view.destination, TCP, segment.len());
        let sum = !checksum::add(checksum::sum(segment), pseudo);
        bytes[network + 16..network + 18].copy_from_slice(&sum.to_be_bytes());
    }
}

/// A matching offload header, already in the normal form in which it must arrive.
fn random_header(ipv4: bool, protocol: u8, headers: usize, payload: usize, random: &mut SmallRng) -> VirtioHeader {
    if protocol == EXPERIMENT || random.random_bool(0.3) {
        return VirtioHeader::default();
    }
    let transport = if protocol == TCP { 20 } else { 8 };
    let partial = VirtioHeader {
        flags: VirtioHeader::NEEDS_CSUM,
        csum_start: (headers - transport) as u16,
        csum_offset: if protocol == TCP { 16 } else { 6 },
        ..VirtioHeader::default()
    };
    // A segment size at which a UDP super-packet has no more segments than the kernel accepts.
    let gso_size = random.random_range(500..1460).max(payload.div_ceil(128)) as u16;
    if payload <= usize::from(gso_size) {
        return partial;
    }
    let ecn = if protocol == TCP && random.random_bool(0.2) { VirtioHeader::GSO_ECN } else { 0 };
    let gso_type = match (protocol, ipv4) {
        (UDP, _) => VirtioHeader::GSO_UDP_L4,
        (_, true) => VirtioHeader::GSO_TCPV4,
        (_, false) => VirtioHeader::GSO_TCPV6,
    };
    VirtioHeader { gso_type: gso_type | ecn, gso_size, hdr_len: headers as u16, ..partial }
}

/// A TCP segment without its payload.
#[derive(Clone, Copy, Debug)]
pub struct Segment {
    /// The side that sends it.
    pub from: Side,
    /// IPv4 or IPv6.
    pub ipv4: bool,
    /// The profile that its DSCP names.
    pub profile: u8,
    /// Its ports, the sender's first.
    pub ports: [u16; 2],
    /// The sequence number of its first byte.
    pub sequence: u32,
    /// Valid only with the ACK flag.
    pub acknowledgement: u32,
    /// As in the TCP header.
    pub flags: u8,
}

/// Builds a TCP segment with this payload; a longer one is a super-packet. It has no number yet.
pub fn segment(of: Segment, payload: &[u8], random: &mut SmallRng) -> Packet {
    let network = if of.ipv4 { 20 } else { 40 };
    let headers = network + 20;
    let len = headers + payload.len();
    let mut bytes = vec![0; len];
    begin_network(&mut bytes, of.ipv4, TCP, of.profile, of.from);
    let (source, destination) = if of.ipv4 { (12..16, 16..20) } else { (8..24, 24..40) };
    bytes[source.end - 2] = 1;
    bytes[destination.end - 2] = 1;
    let tcp = &mut bytes[network..];
    tcp[..2].copy_from_slice(&of.ports[0].to_be_bytes());
    tcp[2..4].copy_from_slice(&of.ports[1].to_be_bytes());
    tcp[4..8].copy_from_slice(&of.sequence.to_be_bytes());
    tcp[8..12].copy_from_slice(&of.acknowledgement.to_be_bytes());
    tcp[12] = 5 << 4;
    tcp[13] = of.flags;
    tcp[14..16].copy_from_slice(&[0xff; 2]);
    tcp[20..].copy_from_slice(payload);
    let header = random_header(of.ipv4, TCP, headers, payload.len(), random);
    finish(header, &mut bytes, network);
    Packet { header, bytes }
}

fn begin_network(bytes: &mut [u8], ipv4: bool, protocol: u8, profile: u8, from: Side) {
    let len = bytes.len();
    if ipv4 {
        bytes[0] = 0x45;
        bytes[1] = profile << 2;
        bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        bytes[8] = 64;
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&[10, from.number() + 1, 0, 0]);
        bytes[16..20].copy_from_slice(&[10, from.other().number() + 1, 0, 0]);
    } else {
        bytes[0] = 0x60 | profile >> 2;
        bytes[1] = profile << 6;
        bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        bytes[6] = protocol;
        bytes[7] = 64;
        bytes[8..12].copy_from_slice(&[0xfd, 0, 0, from.number() + 1]);
        bytes[24..28].copy_from_slice(&[0xfd, 0, 0, from.other().number() + 1]);
    }
}

/// Writes the packet's number.
pub fn set_number(packet: &mut [u8], number: u16) {
    let at = if packet[0] >> 4 == 4 { 4 } else { 2 };
    packet[at..at + 2].copy_from_slice(&number.to_be_bytes());
}

/// The profile of the packet's DSCP.
pub fn profile_of(packet: &[u8]) -> u8 {
    if packet[0] >> 4 == 4 { packet[1] >> 2 } else { (packet[0] & 15) << 2 | packet[1] >> 6 }
}

/// The number that [`set_number`] wrote; `None` if the bytes are not a packet.
pub fn number_of(packet: &[u8]) -> Option<u16> {
    let at = match packet.first()? >> 4 {
        4 => 4,
        6 => 2,
        _ => return None,
    };
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}
