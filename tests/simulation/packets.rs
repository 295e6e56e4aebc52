//! Random packets as a TUN gives them, each carrying its own number, and reading that number back.
//!
//! The headers are written byte by byte, so that the packets do not depend on the code under test. Checksums are left
//! unfinished: nothing in the tunnel looks at them.

use onwire::wire::virtio::VirtioHeader;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::side::Side;

/// A packet and the offload header in front of it.
#[derive(Clone, Debug)]
pub struct Packet {
    /// What the TUN said of it.
    pub header: VirtioHeader,
    /// The packet.
    pub bytes: Vec<u8>,
}

const TCP: u8 = 6;
const UDP: u8 = 17;
/// RFC 3692: for experiments. Such a packet may be as short as its IP header.
const EXPERIMENT: u8 = 253;

/// Bytes of packets and super-packets, as seen on real links and at the edges.
fn random_len(random: &mut SmallRng) -> usize {
    match random.random_range(0..40) {
        0..14 => random.random_range(0..100),
        14..22 => random.random_range(100..1400),
        22..34 => random.random_range(1400..=1460),
        34..38 => random.random_range(1461..12_000),
        38 => random.random_range(12_000..65_000),
        // More than an IPv4 packet can be: cut below to the longest.
        _ => 70_000,
    }
}

/// Packet number `number` from `from` to the other side, for the profile that its DSCP names.
pub fn random_packet(number: u16, profile: u8, from: Side, random: &mut SmallRng) -> Packet {
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
    if ipv4 {
        bytes[0] = 0x45;
        bytes[1] = profile << 2;
        bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        bytes[4..6].copy_from_slice(&number.to_be_bytes());
        bytes[8] = 64;
        bytes[9] = protocol;
        bytes[12..16].copy_from_slice(&[10, from.number() + 1, 0, random.random()]);
        bytes[16..20].copy_from_slice(&[10, from.other().number() + 1, 0, random.random()]);
    } else {
        bytes[0] = 0x60 | profile >> 2;
        bytes[1] = profile << 6;
        bytes[2..4].copy_from_slice(&number.to_be_bytes());
        bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
        bytes[6] = protocol;
        bytes[7] = 64;
        bytes[8..12].copy_from_slice(&[0xfd, 0, 0, from.number() + 1]);
        bytes[24..28].copy_from_slice(&[0xfd, 0, 0, from.other().number() + 1]);
    }
    match protocol {
        TCP => bytes[network + 12] = 5 << 4,
        UDP => bytes[network + 4..network + 6].copy_from_slice(&((8 + payload) as u16).to_be_bytes()),
        _ => {}
    }
    let header = random_header(ipv4, protocol, headers, payload, random);
    Packet { header, bytes }
}

/// An offload header that fits, already in the normal form in which it has to arrive.
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
    // The size at which a super-packet of UDP has no more segments than the kernel takes.
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

/// The number inside a packet that [`random_packet`] made; `None` for other bytes.
pub fn number_of(packet: &[u8]) -> Option<u16> {
    let at = match packet.first()? >> 4 {
        4 => 4,
        6 => 2,
        _ => return None,
    };
    Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]))
}
