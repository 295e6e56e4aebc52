//! The byte of an IP header that routers read: six bits of DSCP (RFC 2474) and two of ECN (RFC 3168). It is read, and
//! ECN is set to "congestion experienced", in IPv4 and IPv6 packets and super-packets.
//!
//! When a packet is marked is not decided here.

use super::checksum;

const ECN: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The DSCP and the ECN field of a packet or datagram: `tos` in IPv4, the traffic class in IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TrafficClass(pub u8);

impl TrafficClass {
    /// Of this DSCP, 0 to 63, with ECT(0) if `ect`.
    pub fn new(dscp: u8, ect: bool) -> Self {
        Self(dscp << 2 | if ect { ECT_0 } else { NOT_ECT })
    }

    /// That of an IP packet; the default for bytes that are none.
    pub fn of(packet: &[u8]) -> Self {
        match packet {
            [first, second, ..] if first >> 4 == 4 => Self(*second),
            [first, second, ..] if first >> 4 == 6 => Self(first << 4 | second >> 4),
            _ => Self::default(),
        }
    }

    /// The differentiated services code point.
    pub fn dscp(self) -> u8 {
        self.0 >> 2
    }

    /// Its sender understands marks. True for packets that are marked already.
    pub fn is_ect(self) -> bool {
        self.0 & ECN != NOT_ECT
    }

    /// It was marked by a full queue.
    pub fn is_ce(self) -> bool {
        self.0 & ECN == CE
    }
}

/// Marks an IP packet or super-packet as having met congestion, if its sender understands that. The checksum of an IPv4
/// header stays as right as it was; no other checksum covers these bits. Returns whether the packet is marked now.
pub fn mark_congestion(packet: &mut [u8]) -> bool {
    let class = TrafficClass::of(packet);
    if !class.is_ect() {
        return false;
    }
    if class.is_ce() {
        return true;
    }
    if packet[0] >> 4 == 6 {
        packet[1] |= CE << 4;
        return true;
    }
    let Some(header) = packet.first_chunk_mut::<20>() else { return false };
    let before = [header[0], header[1]];
    header[1] |= CE;
    // The field holds the complement of the sum.
    let sum = !u16::from_be_bytes([header[10], header[11]]);
    let sum = checksum::replace(sum, u16::from_be_bytes(before), u16::from_be_bytes([header[0], header[1]]));
    header[10..12].copy_from_slice(&(!sum).to_be_bytes());
    true
}

#[cfg(test)]
mod tests {
    use super::super::packet::{PacketView, TCP, UDP};
    use super::super::samples;
    use super::super::segment::{complete_checksum, segment_count, segment_range};
    use super::*;
    use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice};
    use proptest::prelude::*;

    /// A packet with this class, its IPv4 checksum right.
    fn with_class(mut packet: Vec<u8>, class: u8) -> Vec<u8> {
        if packet[0] >> 4 == 4 {
            packet[1] = class;
            let len = usize::from(packet[0] & 0xf) * 4;
            packet[10..12].fill(0);
            let sum = !checksum::sum(&packet[..len]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
        } else {
            packet[0] = 0x60 | class >> 4;
            packet[1] = packet[1] & 0x0f | class << 4;
        }
        packet
    }

    proptest! {
        #[test]
        fn a_mark_changes_two_bits_and_the_header_checksum_stays_right(
            version in prop_oneof![Just(4u8), Just(6)],
            class: u8,
            id: u16,
            options in 0usize..10,
            body in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let plain = match version {
                4 => {
                    let mut packet = samples::ipv4(UDP, &vec![1; 4 * options], &body);
                    packet[4..6].copy_from_slice(&id.to_be_bytes());
                    packet
                }
                _ => samples::ipv6(UDP, &body),
            };
            let packet = with_class(plain.clone(), class);
            prop_assert_eq!(TrafficClass::of(&packet), TrafficClass(class));
            prop_assert_eq!(PacketView::parse(&packet).unwrap().dscp, TrafficClass(class).dscp());
            let mut marked = packet.clone();
            let is_marked = mark_congestion(&mut marked);
            prop_assert_eq!(is_marked, class & 3 != 0, "only who understands marks gets one");
            let expected = if is_marked { with_class(plain, class | 3) } else { packet };
            // Both forms of zero are right in a checksum; all else must be equal to the packet made anew.
            if version == 4 {
                let header = Ipv4HeaderSlice::from_slice(&marked).unwrap();
                let sum = header.to_header().calc_header_checksum();
                prop_assert!(header.header_checksum() == sum || header.header_checksum() == !sum || sum == 0);
                prop_assert_eq!(header.ecn().value(), expected[1] & 3);
                let len = header.slice().len();
                prop_assert_eq!(checksum::sum(&marked[..len]), 0xffff);
                marked[10..12].copy_from_slice(&expected[10..12]);
            } else {
                prop_assert_eq!(Ipv6HeaderSlice::from_slice(&marked).unwrap().traffic_class(), expected[0] << 4 | expected[1] >> 4);
            }
            prop_assert_eq!(marked, expected);
        }

        #[test]
        fn bytes_that_are_no_packet_are_left_alone(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            let mut marked = bytes.clone();
            if !mark_congestion(&mut marked) {
                prop_assert_eq!(marked, bytes);
            }
        }
    }

    #[test]
    fn every_segment_of_a_marked_super_packet_is_marked_and_whole() {
        for version in [4, 6] {
            let (header, packet) = samples::partial(version, TCP, samples::tcp(0x10, &[], 9500), Some(1000));
            let mut packet = with_class(packet, 0x2a);
            assert!(mark_congestion(&mut packet));
            assert_eq!(segment_count(header, &packet), 10);
            for number in 0..10 {
                let mut segment = Vec::new();
                let header = segment_range(header, &packet, number..number + 1, &mut segment);
                complete_checksum(header, &mut segment);
                assert_eq!(TrafficClass::of(&segment), TrafficClass(0x2b));
                let view = PacketView::parse(&segment).unwrap();
                let transport = &segment[view.transport_offset..];
                let pseudo = checksum::pseudo_header_sum(view.source, view.destination, TCP, transport.len());
                assert_eq!(checksum::add(checksum::sum(transport), pseudo), 0xffff);
                assert!(version == 6 || checksum::sum(&segment[..20]) == 0xffff);
            }
        }
    }
}
