//! Checks whether a virtio header fits the packet behind it, before the kernel gets the two.
//!
//! Both sides use it: for packets that the TUN read, and for packets from the peer. Linux accepts in a TUN write what
//! passes here, except that older kernels (before about 6.9) refuse UDP super-packets of more than 64 segments.
//! [`super::segment`] can cut all that passes. This file neither changes the packet nor verifies a checksum.
//! [`super::finish`] finishes a checksum that the kernel left open elsewhere than in TCP or UDP. Source: Virtio 1.2,
//! section 5.1.6.4; `virtio_net_hdr_to_skb` in Linux.

use std::net::IpAddr;

use thiserror::Error;

use super::packet::{PacketError, PacketView, TCP, UDP};
use super::virtio::VirtioHeader;

/// Linux refuses a UDP super-packet of more segments than this; older kernels, before about 6.9, take 64.
pub const MAX_UDP_SEGMENTS: usize = 128;

/// Where the checksum lies in a TCP header.
pub const TCP_CHECKSUM_OFFSET: u16 = 16;
/// Where the checksum lies in a UDP header.
pub const UDP_CHECKSUM_OFFSET: u16 = 6;

/// Bytes of a UDP header.
pub const UDP_HEADER: usize = 8;

/// The most segments of a TCP super-packet: the longest packet in pieces of eight bytes. Pieces may be smaller, down to
/// one byte, if a network card has joined the segments of an interactive connection; but then there are fewer of them.
pub const MAX_TCP_SEGMENTS: usize = 8192;

/// The most bytes of headers that cutting one super-packet may produce. The kernel's own super-packets produce a tenth
/// of it. IPv6 extension headers of some kilobytes, times thousands of segments, would be hundreds of megabytes.
const MAX_CUT_HEADERS: usize = 4 << 20;

/// The kernel's own mark for "sizes are in the fragments"; never valid in a virtio header.
const GSO_BY_FRAGS: u16 = 0xffff;

/// Why a virtio header may not be passed on with its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OffloadError {
    /// A flag that was not negotiated.
    #[error("unknown virtio flags {0:#04x}")]
    Flags(u8),
    /// A kind of super-packet that was not negotiated, or the obsolete UDP fragmentation.
    #[error("unknown or obsolete GSO type {0:#04x}")]
    GsoType(u8),
    /// The kind of super-packet does not match the packet's IP version and protocol.
    #[error("the GSO type does not match the packet")]
    GsoMismatch,
    /// A super-packet without an open checksum.
    #[error("a super-packet without a checksum to finish")]
    GsoWithoutChecksum,
    /// Segments of no bytes, or of the value that the kernel reserves.
    #[error("GSO size {0} is not acceptable")]
    GsoSize(u16),
    /// A super-packet of more segments than the kernel accepts or produces, or with headers so long that cutting it
    /// would produce megabytes of headers.
    #[error("a super-packet of {0} segments: too many for its protocol or its headers")]
    Segments(usize),
    /// A super-packet without payload, or with a transport header that is cut short.
    #[error("the transport header of a super-packet is cut short or has no payload")]
    Transport,
    /// The checksum's place does not match the packet's transport header.
    #[error("the checksum position does not match the packet")]
    Checksum,
    /// A fragment can neither be cut nor checksummed.
    #[error("offload asked for a fragment")]
    Fragment,
    /// The bytes are not a packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
}

/// Checks `header` against the `packet` that `view` was parsed from and returns it normalised.
///
/// Normalised: `hdr_len` is computed from the packet (0 if it is not a super-packet), `DATA_VALID` is cleared because
/// it is about another machine's network card, unused fields are zero, and a "super-packet" of one segment is an
/// ordinary packet. An unknown flag or type is refused, never cleared: it may change the meaning of the bytes.
pub fn check_offload(header: VirtioHeader, packet: &[u8], view: &PacketView) -> Result<VirtioHeader, OffloadError> {
    let unknown = header.flags & !(VirtioHeader::NEEDS_CSUM | VirtioHeader::DATA_VALID);
    if unknown != 0 {
        return Err(OffloadError::Flags(unknown));
    }
    if header.flags & VirtioHeader::NEEDS_CSUM == 0 {
        return match header.gso_type {
            VirtioHeader::GSO_NONE => Ok(VirtioHeader::default()),
            _ => Err(OffloadError::GsoWithoutChecksum),
        };
    }
    if view.fragment.is_some() {
        return Err(OffloadError::Fragment);
    }
    let plain = check_checksum(header, packet, view)?;
    if header.gso_type == VirtioHeader::GSO_NONE {
        return Ok(plain);
    }
    check_segmentation(header, plain, packet, view)
}

/// The checksum part alone: an ordinary packet with an open checksum.
fn check_checksum(header: VirtioHeader, packet: &[u8], view: &PacketView) -> Result<VirtioHeader, OffloadError> {
    let (checksum_offset, transport_header) = match view.protocol {
        TCP => (TCP_CHECKSUM_OFFSET, 20),
        UDP => (UDP_CHECKSUM_OFFSET, UDP_HEADER),
        _ => return Err(OffloadError::Checksum),
    };
    if usize::from(header.csum_start) != view.transport_offset
        || header.csum_offset != checksum_offset
        || view.transport_offset + transport_header > packet.len()
    {
        return Err(OffloadError::Checksum);
    }
    Ok(VirtioHeader {
        flags: VirtioHeader::NEEDS_CSUM,
        csum_start: header.csum_start,
        csum_offset: header.csum_offset,
        ..VirtioHeader::default()
    })
}

/// The segmentation part: `plain` is what the checksum part accepted.
fn check_segmentation(
    header: VirtioHeader,
    plain: VirtioHeader,
    packet: &[u8],
    view: &PacketView,
) -> Result<VirtioHeader, OffloadError> {
    let gso_type = header.gso_type & !VirtioHeader::GSO_ECN;
    let ecn = header.gso_type & VirtioHeader::GSO_ECN;
    let matches = match gso_type {
        VirtioHeader::GSO_TCPV4 => matches!(view.source, IpAddr::V4(_)) && view.protocol == TCP,
        VirtioHeader::GSO_TCPV6 => matches!(view.source, IpAddr::V6(_)) && view.protocol == TCP,
        VirtioHeader::GSO_UDP_L4 => view.protocol == UDP && ecn == 0,
        _ => return Err(OffloadError::GsoType(header.gso_type)),
    };
    if !matches {
        return Err(OffloadError::GsoMismatch);
    }
    let (transport_header, most) = match gso_type {
        VirtioHeader::GSO_UDP_L4 => (UDP_HEADER, MAX_UDP_SEGMENTS),
        _ => {
            let tcp = view.tcp(packet).ok_or(OffloadError::Transport)?;
            (tcp.header_len, MAX_TCP_SEGMENTS)
        }
    };
    let headers = view.transport_offset + transport_header;
    let payload = packet.len().saturating_sub(headers);
    if payload == 0 {
        return Err(OffloadError::Transport);
    }
    if header.gso_size == 0 || header.gso_size == GSO_BY_FRAGS {
        return Err(OffloadError::GsoSize(header.gso_size));
    }
    if payload <= usize::from(header.gso_size) {
        return Ok(plain);
    }
    let segments = payload.div_ceil(usize::from(header.gso_size));
    if segments > most || segments * headers > MAX_CUT_HEADERS {
        return Err(OffloadError::Segments(segments));
    }
    Ok(VirtioHeader {
        gso_type: header.gso_type,
        gso_size: header.gso_size,
        hdr_len: u16::try_from(headers).map_err(|_| OffloadError::Transport)?,
        ..plain
    })
}

#[cfg(test)]
mod tests {
    use super::super::packet::PacketView;
    use super::super::samples;
    use super::*;
    use proptest::prelude::*;

    fn check(header: VirtioHeader, packet: &[u8]) -> Result<VirtioHeader, OffloadError> {
        check_offload(header, packet, &PacketView::parse(packet).unwrap())
    }

    #[test]
    fn headers_from_a_tun_pass_unchanged() {
        for version in [4, 6] {
            let table = [
                (TCP, samples::tcp(0x18, &[1; 12], 20_000), Some(1448)),
                (TCP, samples::tcp(0x02, &[1; 20], 0), None),
                (UDP, samples::udp(12_000), Some(1200)),
                (UDP, samples::udp(0), None),
            ];
            for (protocol, transport, gso_size) in table {
                let (header, packet) = samples::partial(version, protocol, transport, gso_size);
                assert_eq!(check(header, &packet), Ok(header));
            }
        }
    }

    #[test]
    fn unused_fields_of_a_plain_packet_become_zero() {
        let packet = samples::ipv4(UDP, &[], &samples::udp(10));
        let header = VirtioHeader {
            flags: VirtioHeader::DATA_VALID,
            hdr_len: 9999,
            csum_start: 9999,
            csum_offset: 9999,
            gso_size: 7,
            ..VirtioHeader::default()
        };
        assert_eq!(check(header, &packet), Ok(VirtioHeader::default()));
    }

    #[test]
    fn the_header_length_is_computed_not_trusted() {
        let (good, packet) = samples::partial(4, TCP, samples::tcp(0x10, &[], 3000), Some(1000));
        for hdr_len in [0, 10, 39, 41, 65535] {
            assert_eq!(check(VirtioHeader { hdr_len, ..good }, &packet), Ok(good));
        }
    }

    #[test]
    fn a_super_packet_of_one_segment_is_an_ordinary_packet() {
        let (good, packet) = samples::partial(4, TCP, samples::tcp(0x10, &[], 1000), Some(1000));
        let plain = check(good, &packet).unwrap();
        assert_eq!((plain.gso_type, plain.gso_size, plain.hdr_len), (0, 0, 0));
        assert_eq!(plain.flags, VirtioHeader::NEEDS_CSUM);
    }

    #[test]
    fn headers_that_the_kernel_would_refuse_are_refused() {
        type Change = fn(&mut VirtioHeader);
        let table: [(u8, Change, OffloadError); 16] = [
            (TCP, |h| h.flags |= 4, OffloadError::Flags(4)),
            (TCP, |h| h.flags |= 0x88, OffloadError::Flags(0x88)),
            (TCP, |h| h.flags = 0, OffloadError::GsoWithoutChecksum),
            (TCP, |h| h.flags = 2, OffloadError::GsoWithoutChecksum),
            (TCP, |h| h.gso_type = 3, OffloadError::GsoType(3)),
            (TCP, |h| h.gso_type = 0x80, OffloadError::GsoType(0x80)),
            (TCP, |h| h.gso_type = 0x21, OffloadError::GsoType(0x21)),
            (TCP, |h| h.gso_type = 4, OffloadError::GsoMismatch),
            (TCP, |h| h.gso_type = 5, OffloadError::GsoMismatch),
            (UDP, |h| h.gso_type = 1, OffloadError::GsoMismatch),
            (UDP, |h| h.gso_type = 0x85, OffloadError::GsoMismatch),
            (TCP, |h| h.gso_size = 0, OffloadError::GsoSize(0)),
            (TCP, |h| h.gso_size = 0xffff, OffloadError::GsoSize(0xffff)),
            (UDP, |h| h.gso_size = 31, OffloadError::Segments(130)),
            (TCP, |h| h.csum_start -= 1, OffloadError::Checksum),
            (UDP, |h| h.csum_offset = 16, OffloadError::Checksum),
        ];
        for (row, (protocol, change, expected)) in table.into_iter().enumerate() {
            let transport = match protocol {
                TCP => samples::tcp(0x10, &[], 4000),
                _ => samples::udp(4000),
            };
            let (mut header, packet) = samples::partial(4, protocol, transport, Some(1000));
            change(&mut header);
            assert_eq!(check(header, &packet), Err(expected), "row {row}");
        }
    }

    #[test]
    fn a_super_packet_of_small_segments_passes() {
        for (payload, gso_size) in [(2, 1), (64, 1), (8192, 1), (500, 7)] {
            let (header, packet) = samples::partial(4, TCP, samples::tcp(0x10, &[], payload), Some(gso_size));
            assert_eq!(check(header, &packet), Ok(header), "{payload} bytes in pieces of {gso_size}");
        }
        let (header, packet) = samples::partial(4, TCP, samples::tcp(0x10, &[], 8193), Some(1));
        assert_eq!(check(header, &packet), Err(OffloadError::Segments(8193)));
    }

    #[test]
    fn a_super_packet_whose_headers_would_become_megabytes_is_refused() {
        let extended = |headers: usize| {
            let (header, packet) = samples::partial(6, TCP, samples::tcp(0x10, &[], 8000), Some(1));
            let mut body = [60, 0, 1, 4, 0, 0, 0, 0].repeat(headers);
            body[8 * (headers - 1)] = TCP;
            body.extend_from_slice(&packet[40..]);
            let at = 40 + 8 * headers as u16;
            let header = VirtioHeader { csum_start: at, hdr_len: at + 20, ..header };
            (header, samples::ipv6(60, &body))
        };
        let (header, packet) = extended(40);
        assert_eq!(check(header, &packet), Ok(header));
        let (header, packet) = extended(400);
        assert_eq!(check(header, &packet), Err(OffloadError::Segments(8000)), "3260 bytes of headers, 8000 times");
    }

    #[test]
    fn ecn_is_kept_with_tcp() {
        let (mut header, packet) = samples::partial(6, TCP, samples::tcp(0x90, &[], 3000), Some(1000));
        header.gso_type |= VirtioHeader::GSO_ECN;
        assert_eq!(check(header, &packet), Ok(header));
    }

    #[test]
    fn cut_headers_and_fragments_are_refused() {
        let (header, packet) = samples::partial(4, TCP, samples::tcp(0x10, &[], 3000), Some(1000));
        let shortened = samples::ipv4(TCP, &[], &packet[20..35]);
        assert_eq!(check(header, &shortened), Err(OffloadError::Checksum));
        let without_payload = samples::ipv4(TCP, &[], &packet[20..40]);
        assert_eq!(check(header, &without_payload), Err(OffloadError::Transport));
        let mut impossible = packet.clone();
        impossible[32] = 0x40;
        assert_eq!(check(header, &impossible), Err(OffloadError::Transport));
        let mut fragment = packet;
        fragment[6] = 0x20;
        assert_eq!(check(header, &fragment), Err(OffloadError::Fragment));
    }

    proptest! {
        #[test]
        fn an_accepted_header_points_inside_the_packet_and_passes_again(
            native in any::<[u8; VirtioHeader::LEN]>(),
            sensible in any::<bool>(),
            version in prop_oneof![Just(4u8), Just(6)],
            tcp in any::<bool>(),
            payload in 0usize..5000,
        ) {
            let (protocol, transport) = match tcp {
                true => (TCP, samples::tcp(0x10, &[], payload)),
                false => (UDP, samples::udp(payload)),
            };
            let (good, packet) = samples::partial(version, protocol, transport, Some(1000));
            let mut header = VirtioHeader::from_native(native);
            if sensible {
                header.flags = good.flags;
                header.gso_type = good.gso_type;
                header.csum_start = good.csum_start;
                header.csum_offset = good.csum_offset;
            }
            if let Ok(checked) = check(header, &packet) {
                prop_assert_eq!(check(checked, &packet), Ok(checked));
                prop_assert!(usize::from(checked.hdr_len) <= packet.len());
                let end = checked.csum_start + checked.csum_offset;
                prop_assert!(usize::from(end) + 2 <= packet.len());
            }
        }
    }
}
