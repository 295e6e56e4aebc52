//! A view of the headers of one IP packet: addresses, protocol, ports, fragment, where the transport begins.
//!
//! Written by hand because it runs once for every packet in each direction; its tests compare it with `etherparse`. It
//! does not verify checksums, read IP options or reassemble fragments. [`super::offload`] checks virtio headers. A
//! packet with a transport header that is cut short, or with invalid extension headers, is still a packet, as for any
//! router; only what follows them is unknown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use thiserror::Error;

/// Protocol number of ICMP.
pub const ICMP: u8 = 1;
/// Protocol number of TCP.
pub const TCP: u8 = 6;
/// Protocol number of UDP.
pub const UDP: u8 = 17;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;

/// Why some bytes are not an IP packet that can be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PacketError {
    /// The version is neither 4 nor 6, or there is no byte at all.
    #[error("not an IP packet")]
    NotIp,
    /// The bytes end before the IP header does.
    #[error("the IP header is cut short")]
    Truncated,
    /// IPv4 claims a header shorter than 20 bytes.
    #[error("the IPv4 header claims an impossible length")]
    HeaderLength,
    /// The length in the IP header differs from the number of bytes given.
    #[error("the IP length differs from the bytes received")]
    LengthMismatch,
}

/// Source and destination port of TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The port that the packet comes from.
    pub source: u16,
    /// The port that it goes to.
    pub destination: u16,
}

/// Which part of a fragmented packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Where the fragment belongs in the whole packet, in bytes.
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// The contents of one IP packet's headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketView {
    /// Source address.
    pub source: IpAddr,
    /// Destination address of the IP header; a routing header may name another.
    pub destination: IpAddr,
    /// The protocol after the IPv6 extension headers. In a fragment that is not the first: the header with which the
    /// whole packet continues. Behind an invalid extension header nothing is read: then it is that header.
    pub protocol: u8,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// Where the transport header begins, from the start of the packet; at most the packet's length.
    pub transport_offset: usize,
    /// Ports of TCP and UDP; `None` in fragments after the first and if the bytes end before the ports.
    pub ports: Option<Ports>,
    /// Set if this is part of a packet; an IPv6 "atomic fragment" (RFC 6946) is whole and has none.
    pub fragment: Option<Fragment>,
}

impl PacketView {
    /// Reads the headers of `packet`, which must be exactly one IPv4 or IPv6 packet, at most one super-packet long.
    pub fn parse(packet: &[u8]) -> Result<Self, PacketError> {
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => Self::parse_ipv4(packet),
            Some(6) => Self::parse_ipv6(packet),
            _ => Err(PacketError::NotIp),
        }
    }

    fn parse_ipv4(packet: &[u8]) -> Result<Self, PacketError> {
        let Some(header) = packet.first_chunk::<IPV4_HEADER>() else {
            return Err(PacketError::Truncated);
        };
        let header_len = usize::from(header[0] & 0x0f) * 4;
        if header_len < IPV4_HEADER {
            return Err(PacketError::HeaderLength);
        }
        if header_len > packet.len() {
            return Err(PacketError::Truncated);
        }
        if usize::from(u16::from_be_bytes([header[2], header[3]])) != packet.len() {
            return Err(PacketError::LengthMismatch);
        }
        let flags = u16::from_be_bytes([header[6], header[7]]);
        let fragment =
            fragment(u32::from(u16::from_be_bytes([header[4], header[5]])), (flags & 0x1fff) << 3, flags & 0x2000 != 0);
        let protocol = header[9];
        Ok(Self {
            source: Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(),
            destination: Ipv4Addr::new(header[16], header[17], header[18], header[19]).into(),
            protocol,
            dscp: header[1] >> 2,
            transport_offset: header_len,
            ports: ports(packet, protocol, header_len, fragment),
            fragment,
        })
    }

    fn parse_ipv6(packet: &[u8]) -> Result<Self, PacketError> {
        let Some(header) = packet.first_chunk::<IPV6_HEADER>() else {
            return Err(PacketError::Truncated);
        };
        if usize::from(u16::from_be_bytes([header[4], header[5]])) != packet.len() - IPV6_HEADER {
            return Err(PacketError::LengthMismatch);
        }
        let chain = Chain::follow(packet, header[6]);
        let (mut source, mut destination) = ([0; 16], [0; 16]);
        source.copy_from_slice(&header[8..24]);
        destination.copy_from_slice(&header[24..40]);
        Ok(Self {
            source: Ipv6Addr::from(source).into(),
            destination: Ipv6Addr::from(destination).into(),
            protocol: chain.protocol,
            dscp: (header[0] & 0x0f) << 2 | header[1] >> 6,
            transport_offset: chain.end,
            ports: ports(packet, chain.protocol, chain.end, chain.fragment),
            fragment: chain.fragment,
        })
    }

    /// The TCP header of `packet`, the bytes that this view was made from. `None` if it is not TCP, or a fragment after
    /// the first, or if the header is cut short or claims less than 20 bytes.
    pub fn tcp(&self, packet: &[u8]) -> Option<TcpHeader> {
        if self.protocol != TCP || !self.begins_transport() {
            return None;
        }
        TcpHeader::parse(packet.get(self.transport_offset..)?)
    }

    /// Whether the transport header begins at `transport_offset`; in a later fragment payload lies there.
    pub fn begins_transport(&self) -> bool {
        self.fragment.is_none_or(|fragment| fragment.offset == 0)
    }
}

fn fragment(id: u32, offset: u16, more: bool) -> Option<Fragment> {
    (offset != 0 || more).then_some(Fragment { id, offset, more })
}

fn ports(packet: &[u8], protocol: u8, at: usize, fragment: Option<Fragment>) -> Option<Ports> {
    if !matches!(protocol, TCP | UDP) || fragment.is_some_and(|fragment| fragment.offset != 0) {
        return None;
    }
    let bytes = packet.get(at..)?.first_chunk::<4>()?;
    Some(Ports {
        source: u16::from_be_bytes([bytes[0], bytes[1]]),
        destination: u16::from_be_bytes([bytes[2], bytes[3]]),
    })
}

/// The IPv6 extension headers, followed to their end or to an invalid one: a router reads none of them and forwards the
/// packet. Each has at least eight bytes, so following them takes no longer than encrypting the packet.
struct Chain {
    protocol: u8,
    end: usize,
    fragment: Option<Fragment>,
}

impl Chain {
    fn follow(packet: &[u8], first: u8) -> Self {
        let mut chain = Self { protocol: first, end: IPV6_HEADER, fragment: None };
        let mut fragment_seen = false;
        // What follows the header of a later fragment is payload from the middle of the packet, not a header.
        while chain.fragment.is_none_or(|fragment| fragment.offset == 0) {
            // The fragment header needs all eight bytes; the other headers have their length in the first two.
            let Some(header) = packet.get(chain.end..).and_then(|rest| rest.first_chunk::<8>()) else { break };
            let len = match chain.protocol {
                HOP_BY_HOP if chain.end > IPV6_HEADER => break,
                HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => (usize::from(header[1]) + 1) * 8,
                // RFC 4302: in words of four bytes, minus two; it cannot be shorter than its fixed part.
                AUTHENTICATION if header[1] > 0 => (usize::from(header[1]) + 2) * 4,
                FRAGMENT if !fragment_seen => 8,
                _ => break,
            };
            if chain.end + len > packet.len() {
                break;
            }
            if chain.protocol == FRAGMENT {
                fragment_seen = true;
                let offset = u16::from_be_bytes([header[2], header[3]]);
                let id = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
                chain.fragment = fragment(id, offset & 0xfff8, offset & 1 != 0);
            }
            chain.end += len;
            chain.protocol = header[0];
        }
        chain
    }
}

/// The fixed part of a TCP header (RFC 9293, section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpHeader {
    /// Sequence number of the first payload byte, or of the SYN.
    pub sequence: u32,
    /// The next byte the sender expects, when [`ACK`](Self::ACK) is set.
    pub acknowledgement: u32,
    /// The eight flag bits.
    pub flags: u8,
    /// Bytes of the header with its options: 20 to 60, all of them present.
    pub header_len: usize,
    /// The receive window, before scaling.
    pub window: u16,
}

impl TcpHeader {
    /// The sender has no more to send.
    pub const FIN: u8 = 0x01;
    /// A new connection.
    pub const SYN: u8 = 0x02;
    /// The connection is refused or aborted.
    pub const RST: u8 = 0x04;
    /// Push.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// Congestion window reduced (RFC 3168).
    pub const CWR: u8 = 0x80;

    /// Reads the header at the beginning of `transport`.
    pub fn parse(transport: &[u8]) -> Option<Self> {
        let header = transport.first_chunk::<TCP_HEADER>()?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < TCP_HEADER || header_len > transport.len() {
            return None;
        }
        Some(Self {
            sequence: u32::from_be_bytes([header[4], header[5], header[6], header[7]]),
            acknowledgement: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
            flags: header[13],
            header_len,
            window: u16::from_be_bytes([header[14], header[15]]),
        })
    }

    /// The window scale, in bits, in the SYN at the beginning of `transport`; `None` without that option (RFC 7323,
    /// section 2.2).
    pub fn window_scale(&self, transport: &[u8]) -> Option<u8> {
        const END: u8 = 0;
        const PADDING: u8 = 1;
        const WINDOW_SCALE: u8 = 3;
        let mut options = transport.get(TCP_HEADER..self.header_len)?;
        loop {
            options = match *options {
                [] | [END, ..] => return None,
                [PADDING, ref rest @ ..] => rest,
                [WINDOW_SCALE, 3, scale, ..] => return Some(scale),
                // An option has at least the two bytes of kind and length; behind a shorter one nothing can be read.
                [_, len, ..] if len >= 2 => options.get(usize::from(len)..)?,
                _ => return None,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;
    use etherparse::{IpSlice, NetSlice, SlicedPacket, TransportSlice};
    use proptest::prelude::*;

    #[test]
    fn a_tcp_packet_over_ipv4_with_options_is_read() {
        let packet = samples::ipv4(TCP, &[1; 8], &samples::tcp(TcpHeader::ACK, &[1; 12], 100));
        let view = PacketView::parse(&packet).unwrap();
        assert_eq!(view.source, IpAddr::from(samples::V4.0));
        assert_eq!(view.destination, IpAddr::from(samples::V4.1));
        assert_eq!((view.protocol, view.transport_offset), (TCP, 28));
        assert_eq!(view.ports, Some(Ports { source: 40000, destination: 5432 }));
        assert_eq!(
            view.tcp(&packet),
            Some(TcpHeader {
                sequence: 0xffff_ff00,
                acknowledgement: 77,
                flags: TcpHeader::ACK,
                header_len: 32,
                window: 512
            })
        );
    }

    #[test]
    fn bytes_that_are_not_a_packet_give_the_reason() {
        let good = samples::ipv4(UDP, &[], &samples::udp(10));
        let with = |at: usize, value: u8| {
            let mut packet = good.clone();
            packet[at] = value;
            packet
        };
        let table: [(&str, Vec<u8>, Result<u8, PacketError>); 9] = [
            ("empty", vec![], Err(PacketError::NotIp)),
            ("version 5", with(0, 0x55), Err(PacketError::NotIp)),
            ("short IPv4", good[..19].to_vec(), Err(PacketError::Truncated)),
            ("IHL 4", with(0, 0x44), Err(PacketError::HeaderLength)),
            ("IHL past the end", with(0, 0x4f), Err(PacketError::Truncated)),
            ("length too large", with(3, 39), Err(PacketError::LengthMismatch)),
            ("trailing bytes", [&good[..], &[0]].concat(), Err(PacketError::LengthMismatch)),
            ("short IPv6", samples::ipv6(UDP, &[])[..39].to_vec(), Err(PacketError::Truncated)),
            ("no next header", samples::ipv6(59, &[]), Ok(59)),
        ];
        for (name, packet, expected) in table {
            let found = PacketView::parse(&packet).map(|view| view.protocol);
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn a_packet_with_any_extension_headers_is_a_packet() {
        let options = |count: usize| {
            let mut body = [DESTINATION_OPTIONS, 0, 1, 4, 0, 0, 0, 0].repeat(count);
            body[8 * (count - 1)] = UDP;
            body.extend(samples::udp(1));
            samples::ipv6(DESTINATION_OPTIONS, &body)
        };
        let fragment = |next| [next, 0, 0, 1, 0, 0, 0, 7];
        let twice = samples::ipv6(FRAGMENT, &[fragment(FRAGMENT), fragment(UDP)].concat());
        // The view reads as far as the headers are valid.
        let rows: [(&str, Vec<u8>, u8, usize); 8] = [
            ("eight headers", options(8), UDP, 104),
            ("nine headers", options(9), UDP, 112),
            ("a hundred headers", options(100), UDP, 840),
            ("a late hop-by-hop header", samples::ipv6(60, &[0; 16]), HOP_BY_HOP, 48),
            ("a second fragment header", twice, FRAGMENT, 48),
            ("a header that is cut short", samples::ipv6(60, &[UDP, 0, 0, 0]), DESTINATION_OPTIONS, 40),
            ("a header longer than the packet", samples::ipv6(43, &[UDP, 1, 0, 0, 0, 0, 0, 0]), ROUTING, 40),
            ("an authentication header of no length", samples::ipv6(51, &[UDP; 16].map(|_| 0)), AUTHENTICATION, 40),
        ];
        for (name, packet, protocol, at) in rows {
            let view = PacketView::parse(&packet).expect(name);
            assert_eq!((view.protocol, view.transport_offset), (protocol, at), "{name}");
            assert_eq!(view.ports.is_some(), protocol == UDP, "{name}");
        }
    }

    #[test]
    fn a_later_fragment_ends_the_chain() {
        let later = [DESTINATION_OPTIONS, 0, 0, 0x11, 0, 0, 0, 7];
        let packet = samples::ipv6(FRAGMENT, &[&later[..], &[0xff; 8]].concat());
        let view = PacketView::parse(&packet).unwrap();
        assert_eq!(view.protocol, DESTINATION_OPTIONS);
        assert_eq!(view.fragment, Some(Fragment { id: 7, offset: 0x10, more: true }));
        assert!(!view.begins_transport());
    }

    #[test]
    fn the_window_scale_is_found_among_valid_and_invalid_options() {
        for (options, wanted) in [
            (&[][..], None),
            (&[2, 4, 5, 180, 1, 3, 3, 7], Some(7)),
            (&[3, 3, 14, 0], Some(14)),
            (&[1, 1, 1, 0, 3, 3, 7, 1], None),
            (&[2, 1, 3, 3, 7, 1, 1, 1], None),
            (&[2, 0, 3, 3, 7, 1, 1, 1], None),
            (&[4, 200, 3, 3], None),
            (&[1, 1, 3, 3], None),
            (&[1, 1, 1, 3], None),
        ] {
            let transport = samples::tcp(TcpHeader::SYN, options, 5);
            let header = TcpHeader::parse(&transport).unwrap();
            assert_eq!(header.window_scale(&transport), wanted, "{options:?}");
        }
    }

    #[test]
    fn a_cut_transport_header_leaves_a_packet_without_ports() {
        for len in 0..4 {
            let packet = samples::ipv4(UDP, &[], &samples::udp(0)[..len]);
            assert_eq!(PacketView::parse(&packet).unwrap().ports, None);
        }
        let packet = samples::ipv4(TCP, &[], &samples::tcp(0, &[], 0)[..19]);
        let view = PacketView::parse(&packet).unwrap();
        assert!(view.ports.is_some());
        assert_eq!(view.tcp(&packet), None);
    }

    #[derive(Clone, Debug)]
    struct Sample {
        packet: Vec<u8>,
        later_fragment: bool,
    }

    fn transport() -> impl Strategy<Value = (u8, Vec<u8>)> {
        prop_oneof![
            (any::<u8>(), 0usize..10, 0usize..60)
                .prop_map(|(flags, options, payload)| { (TCP, samples::tcp(flags, &vec![1; options * 4], payload)) }),
            (0usize..60).prop_map(|payload| (UDP, samples::udp(payload))),
            (0usize..60).prop_map(|payload| (ICMP, vec![8; 8 + payload])),
            (0usize..60).prop_map(|payload| (132, vec![3; payload])),
        ]
    }

    fn ipv4_sample() -> impl Strategy<Value = Sample> {
        let fragment = prop_oneof![3 => Just(0u16), 1 => any::<u16>()];
        (transport(), 0usize..=10, any::<u8>(), fragment).prop_map(|((protocol, body), options, tos, fragment)| {
            let mut packet = samples::ipv4(protocol, &vec![1; options * 4], &body);
            packet[1] = tos;
            packet[6..8].copy_from_slice(&(fragment & 0x7fff).to_be_bytes());
            Sample { packet, later_fragment: fragment & 0x1fff != 0 }
        })
    }

    fn ipv6_sample() -> impl Strategy<Value = Sample> {
        let extension = (prop_oneof![Just(ROUTING), Just(DESTINATION_OPTIONS), Just(AUTHENTICATION)], 0u8..4);
        let fragment = prop_oneof![2 => Just(None), 1 => any::<u16>().prop_map(Some)];
        let inputs = (transport(), any::<bool>(), prop::collection::vec(extension, 0..5), fragment, any::<u16>());
        inputs.prop_map(|((protocol, body), hop_by_hop, extensions, fragment, class)| {
            // From the innermost header outwards; the fragment header comes directly before the transport.
            let mut next = protocol;
            let mut bytes = body;
            let mut prepend = |kind: u8, mut header: Vec<u8>| {
                header[0] = next;
                next = kind;
                bytes.splice(0..0, header);
            };
            if let Some(fragment) = fragment {
                let [high, low] = fragment.to_be_bytes();
                prepend(FRAGMENT, vec![0, 0, high, low, 1, 2, 3, 4]);
            }
            for (kind, words) in extensions {
                let len = match kind {
                    // In IPv6 the authentication header is a multiple of eight bytes, too.
                    AUTHENTICATION => 16 + usize::from(words) * 8,
                    _ => 8 + usize::from(words) * 8,
                };
                let mut header = vec![0; len];
                header[1] = match kind {
                    AUTHENTICATION => (len / 4 - 2) as u8,
                    _ => words,
                };
                prepend(kind, header);
            }
            if hop_by_hop {
                prepend(HOP_BY_HOP, vec![0; 8]);
            }
            let mut packet = samples::ipv6(next, &bytes);
            let [high, low] = (class & 0x0fff).to_be_bytes();
            packet[0] |= high & 0x0f;
            packet[1] = low;
            Sample { packet, later_fragment: fragment.is_some_and(|fragment| fragment & 0xfff8 != 0) }
        })
    }

    fn equal_to_oracle(sample: &Sample) -> Result<(), TestCaseError> {
        let packet = &sample.packet;
        let slice = IpSlice::from_slice(packet);
        prop_assert!(slice.is_ok(), "{slice:?}");
        let slice = slice.unwrap();
        let view = PacketView::parse(packet);
        prop_assert!(view.is_ok(), "{view:?}");
        let view = view.unwrap();
        prop_assert_eq!(view.source, slice.source_addr());
        prop_assert_eq!(view.destination, slice.destination_addr());
        prop_assert_eq!(view.protocol, slice.payload_ip_number().0);
        let payload = slice.payload();
        prop_assert_eq!(view.transport_offset, packet.len() - payload.payload.len());
        prop_assert_eq!(view.fragment.is_some(), payload.fragmented);
        let dscp = match &slice {
            IpSlice::Ipv4(slice) => slice.header().dcp().value(),
            IpSlice::Ipv6(slice) => slice.header().dscp().value(),
        };
        prop_assert_eq!(view.dscp, dscp);
        prop_assert_eq!(view.begins_transport(), !sample.later_fragment);
        if payload.fragmented {
            return Ok(());
        }
        let whole = SlicedPacket::from_ip(packet);
        prop_assert!(whole.is_ok(), "{whole:?}");
        let whole = whole.unwrap();
        prop_assert!(matches!(whole.net, Some(NetSlice::Ipv4(_) | NetSlice::Ipv6(_))));
        match whole.transport {
            Some(TransportSlice::Tcp(tcp)) => {
                let ports = Ports { source: tcp.source_port(), destination: tcp.destination_port() };
                prop_assert_eq!(view.ports, Some(ports));
                let header = view.tcp(packet).unwrap();
                prop_assert_eq!(header.sequence, tcp.sequence_number());
                prop_assert_eq!(header.acknowledgement, tcp.acknowledgment_number());
                prop_assert_eq!(header.header_len, tcp.slice().len() - tcp.payload().len());
                prop_assert_eq!(header.flags & TcpHeader::SYN != 0, tcp.syn());
                prop_assert_eq!(header.flags & TcpHeader::FIN != 0, tcp.fin());
                prop_assert_eq!(header.flags & TcpHeader::RST != 0, tcp.rst());
                prop_assert_eq!(header.flags & TcpHeader::PSH != 0, tcp.psh());
                prop_assert_eq!(header.flags & TcpHeader::ACK != 0, tcp.ack());
                prop_assert_eq!(header.flags & TcpHeader::CWR != 0, tcp.cwr());
            }
            Some(TransportSlice::Udp(udp)) => {
                let ports = Ports { source: udp.source_port(), destination: udp.destination_port() };
                prop_assert_eq!(view.ports, Some(ports));
                prop_assert_eq!(view.tcp(packet), None);
            }
            _ => prop_assert_eq!(view.ports, None),
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn ipv4_views_equal_etherparse(sample in ipv4_sample()) {
            equal_to_oracle(&sample)?;
        }

        #[test]
        fn ipv6_views_equal_etherparse(sample in ipv6_sample()) {
            equal_to_oracle(&sample)?;
        }

        #[test]
        fn a_packet_that_is_shorter_or_longer_than_its_length_field_is_refused(
            sample in prop_oneof![ipv4_sample(), ipv6_sample()],
            cut in any::<prop::sample::Index>(),
            extra in 1usize..20,
        ) {
            let packet = sample.packet;
            prop_assert!(PacketView::parse(&packet[..cut.index(packet.len())]).is_err());
            let longer = [&packet[..], &vec![0; extra]].concat();
            prop_assert_eq!(PacketView::parse(&longer), Err(PacketError::LengthMismatch));
        }

        #[test]
        fn a_packet_with_a_changed_byte_is_valid_only_if_etherparse_accepts_it(
            sample in prop_oneof![ipv4_sample(), ipv6_sample()],
            at in any::<prop::sample::Index>(),
            value in any::<u8>(),
        ) {
            let mut packet = sample.packet;
            let at = at.index(packet.len().min(60));
            packet[at] = value;
            if let Ok(view) = PacketView::parse(&packet) {
                prop_assert!(view.transport_offset <= packet.len());
                let _ = view.tcp(&packet);
                let is_extension =
                    matches!(view.protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS);
                if view.begins_transport() && !is_extension {
                    let slice = IpSlice::from_slice(&packet);
                    prop_assert!(slice.is_ok(), "{slice:?}");
                }
            }
        }

        #[test]
        fn random_bytes_never_panic(mut packet in prop::collection::vec(any::<u8>(), 0..200), kind in 0u8..3) {
            if let (Some(first), 1..) = (packet.first_mut(), kind) {
                *first = if kind == 1 { 0x45 } else { 0x60 };
                let len = packet.len();
                if kind == 1 && len >= 4 {
                    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                } else if kind == 2 && len >= 40 {
                    packet[4..6].copy_from_slice(&(len as u16 - 40).to_be_bytes());
                }
            }
            if let Ok(view) = PacketView::parse(&packet) {
                prop_assert!(view.transport_offset <= packet.len());
                let _ = view.tcp(&packet);
            }
        }
    }
}
