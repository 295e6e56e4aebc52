//! The arrivals of a flow: in order, with gaps, across sequence wraps, and bounded.

use super::*;
use crate::wire::samples;
use proptest::prelude::*;
use std::collections::BTreeSet;

const BASE: u32 = u32::MAX - 500;

/// A packet from the peer, or from the local end back to it.
fn packet(ipv4: bool, port: u16, back: bool, flags: u8, numbers: [u32; 2], len: usize) -> Vec<u8> {
    let mut transport = samples::tcp(flags, &[], len);
    let ports = if back { [5432, port] } else { [port, 5432] };
    transport[..2].copy_from_slice(&ports[0].to_be_bytes());
    transport[2..4].copy_from_slice(&ports[1].to_be_bytes());
    transport[4..8].copy_from_slice(&numbers[0].to_be_bytes());
    transport[8..12].copy_from_slice(&numbers[1].to_be_bytes());
    let mut packet = if ipv4 { samples::ipv4(TCP, &[], &transport) } else { samples::ipv6(TCP, &transport) };
    if back {
        let (at, len) = if ipv4 { (12, 4) } else { (8, 16) };
        let (source, destination) = packet[at..at + 2 * len].split_at_mut(len);
        source.swap_with_slice(destination);
    }
    packet
}

struct Bench {
    arrivals: Arrivals,
    ipv4: bool,
    now: Instant,
}

impl Bench {
    fn new(ipv4: bool) -> Self {
        Self { arrivals: Arrivals::new(4, 7), ipv4, now: Instant::now() }
    }

    /// A segment from the peer: flags, where it begins and how long it is.
    fn came(&mut self, port: u16, flags: u8, begin: u32, len: usize) -> Option<ArrivedSegment> {
        let bytes = packet(self.ipv4, port, false, flags, [BASE.wrapping_add(begin), 1], len);
        let view = PacketView::parse(&bytes).unwrap();
        self.arrivals.on_incoming(&view, &bytes, VirtioHeader::default(), true, self.now)
    }

    fn acked(&mut self, port: u16, flags: u8, upto: u32) -> Option<Acknowledged> {
        let bytes = packet(self.ipv4, port, true, flags, [9, BASE.wrapping_add(upto)], 0);
        self.arrivals.on_outgoing(&PacketView::parse(&bytes).unwrap(), &bytes, VirtioHeader::default(), self.now)
    }

    fn flow(&self, port: u16) -> Arrival {
        self.arrivals.flows().find(|flow| flow.key.source_port == port).unwrap().clone()
    }

    fn state(&self) -> (u64, Vec<Span>, Option<u64>) {
        let flow = self.flow(1);
        (flow.contiguous, flow.missing().collect(), flow.acked)
    }
}

const ACK: u8 = TcpHeader::ACK;

#[test]
fn gaps_are_reported_in_bytes_and_filled_across_the_sequence_wrap() {
    for ipv4 in [true, false] {
        let mut bench = Bench::new(ipv4);
        bench.came(1, TcpHeader::SYN, u32::MAX, 0);
        bench.came(1, ACK, 0, 400);
        assert_eq!(bench.state(), (400, vec![], None));
        bench.came(1, ACK, 600, 100);
        bench.came(1, ACK, 900, 100);
        assert_eq!(bench.state(), (400, vec![(400, 600), (700, 900)], None));
        assert_eq!(bench.flow(1).sequence(600), BASE.wrapping_add(600));
        assert!(bench.flow(1).from_syn && bench.flow(1).gap_since.is_some());
        bench.came(1, ACK, 350, 250);
        assert_eq!(bench.state(), (700, vec![(700, 900)], None));
        bench.acked(1, ACK, 500);
        assert_eq!((bench.state().2, bench.flow(1).unacknowledged()), (Some(500), 200));
        // These bytes took a path around the appliance.
        bench.acked(1, ACK, 950);
        assert_eq!(bench.state(), (1000, vec![], Some(950)));
        assert_eq!(bench.flow(1).gap_since, None);
    }
}

#[test]
fn a_flow_is_over_when_its_fin_is_acknowledged_or_it_is_reset() {
    let mut bench = Bench::new(true);
    assert!((1..4).all(|port| bench.came(port, ACK, 0, 100).is_some()));
    bench.came(1, ACK | TcpHeader::FIN, 100, 50);
    assert!(!bench.flow(1).is_over());
    bench.acked(1, ACK, 151);
    assert!(bench.flow(1).is_over() && bench.flow(1).acked == Some(150));
    bench.came(2, TcpHeader::RST, 100, 0);
    bench.acked(3, TcpHeader::RST, 0);
    assert!(bench.flow(2).is_over() && bench.flow(3).is_over());
}

#[test]
fn a_reset_by_the_sender_does_not_hide_bytes_lost_on_the_lan() {
    let mut bench = Bench::new(true);
    bench.came(1, ACK, 0, 100);
    bench.acked(1, ACK, 60);
    bench.came(1, TcpHeader::RST, 100, 0);
    assert!(!bench.flow(1).is_over() && bench.flow(1).unacknowledged() == 40);
    bench.acked(1, TcpHeader::RST, 0);
    assert!(bench.flow(1).is_over());
}

#[test]
fn byte_ranges_and_acknowledgements_count_the_fin_as_one() {
    let mut bench = Bench::new(true);
    let told = |slot, begin, upto, is_new| Some(ArrivedSegment { slot, begin, upto, is_new, clock: None });
    assert_eq!(bench.came(1, TcpHeader::SYN, u32::MAX, 0), told(0, 0, 0, true));
    assert_eq!(bench.came(2, TcpHeader::SYN, u32::MAX, 0), told(1, 0, 0, true));
    assert_eq!(bench.came(1, ACK, 0, 100), told(0, 0, 100, false));
    assert_eq!(bench.came(1, ACK | TcpHeader::FIN, 100, 50), told(0, 100, 151, false));
    assert_eq!(bench.came(3, ACK, 5, 0), None, "no bytes of an unknown flow");
    let told = |upto, is_open, reset| Some(Acknowledged { slot: 0, upto, is_open, reset });
    assert_eq!(bench.acked(1, ACK, 150), told(Some(150), true, false));
    assert_eq!(bench.acked(1, ACK, 151), told(Some(151), true, false));
    assert_eq!(bench.acked(1, 0, 151), told(None, true, false));
    let mut shut = packet(true, 1, true, ACK, [9, BASE], 0);
    shut[34..36].fill(0);
    // Its checksum is not computed yet.
    let partial = VirtioHeader { flags: VirtioHeader::NEEDS_CSUM, ..VirtioHeader::default() };
    let shut = bench.arrivals.on_outgoing(&PacketView::parse(&shut).unwrap(), &shut, partial, bench.now);
    assert_eq!(shut, told(Some(0), false, false));
    assert_eq!(bench.acked(1, TcpHeader::RST, 0), told(None, true, true));
    assert_eq!(bench.came(1, TcpHeader::SYN, 70_000, 0).map(|brought| brought.is_new), Some(true));
}

#[test]
fn a_new_syn_on_the_same_ports_starts_a_new_count_and_a_repeated_syn_does_not() {
    let mut bench = Bench::new(true);
    bench.came(1, TcpHeader::SYN, u32::MAX, 0);
    bench.came(1, ACK, 0, 100);
    bench.came(1, TcpHeader::SYN, u32::MAX, 0);
    assert_eq!(bench.state().0, 100);
    bench.came(1, TcpHeader::SYN | ACK, 999_999, 0);
    bench.came(1, ACK, 1_000_000, 10);
    assert_eq!((bench.state(), bench.flow(1).sequence(0)), ((10, vec![], None), BASE.wrapping_add(1_000_000)));
    // A segment outside every window belongs to no known connection.
    bench.came(1, ACK, 1 << 31, 10);
    assert_eq!(bench.state().0, 10);
}

#[test]
fn a_forged_acknowledgement_or_fin_does_not_hide_missing_bytes() {
    let mut bench = Bench::new(true);
    bench.came(1, TcpHeader::SYN, u32::MAX, 0);
    bench.came(1, ACK, 0, 400);
    bench.came(1, ACK, 600, 100);
    bench.acked(1, ACK, 300);
    let missing = (400, vec![(400, 600)], Some(300));
    bench.acked(1, ACK, 701);
    assert_eq!(bench.state(), missing, "more than has arrived");
    for flags in [ACK, TcpHeader::RST] {
        // A sequence number that the peer's end would not accept.
        let bytes = packet(true, 1, true, flags, [1 << 28, BASE.wrapping_add(700)], 0);
        let view = PacketView::parse(&bytes).unwrap();
        bench.arrivals.on_outgoing(&view, &bytes, VirtioHeader::default(), bench.now);
    }
    bench.came(1, TcpHeader::RST, 1 << 28, 0);
    // A FIN inside the window that acknowledges bytes which the local end never sent.
    let bytes = packet(true, 1, false, ACK | TcpHeader::FIN, [BASE.wrapping_add(300), 1 << 28], 0);
    let view = PacketView::parse(&bytes).unwrap();
    bench.arrivals.on_incoming(&view, &bytes, VirtioHeader::default(), true, bench.now);
    // Inside the windows, with a wrong checksum.
    for (back, flags, numbers, len) in
        [(true, ACK, [9, 700], 0), (false, ACK, [400, 1], 200), (false, ACK | TcpHeader::FIN, [300, 1], 0)]
    {
        let numbers =
            if back { [numbers[0], BASE.wrapping_add(numbers[1])] } else { [BASE.wrapping_add(numbers[0]), 1] };
        let mut bytes = packet(true, 1, back, flags, numbers, len);
        bytes[37] ^= 1;
        let view = PacketView::parse(&bytes).unwrap();
        match back {
            true => drop(bench.arrivals.on_outgoing(&view, &bytes, VirtioHeader::default(), bench.now)),
            false => drop(bench.arrivals.on_incoming(&view, &bytes, VirtioHeader::default(), true, bench.now)),
        }
    }
    assert_eq!((bench.state(), bench.arrivals.bad_checksums()), (missing, 3));
    assert!(!bench.flow(1).is_over() && bench.flow(1).end.is_none());
}

#[test]
fn the_table_is_bounded_and_evicts_the_longest_idle_flow() {
    let mut bench = Bench::new(true);
    assert!((1..=4).all(|port| bench.came(port, ACK, 0, 1).is_some_and(|brought| brought.is_new)));
    bench.came(1, ACK, 1, 1);
    bench.came(5, ACK, 0, 1);
    let mut ports: Vec<u16> = bench.arrivals.flows().map(|flow| flow.key.source_port).collect();
    ports.sort();
    assert_eq!((ports, bench.arrivals.evicted()), (vec![1, 3, 4, 5], 1));
}

#[test]
fn the_arrivals_of_two_lanes_are_merged() {
    let (mut near, mut far) = (Bench::new(true), Bench::new(true));
    near.came(1, TcpHeader::SYN, u32::MAX, 0);
    near.came(1, ACK, 0, 100);
    far.came(1, ACK, 100, 300);
    far.came(1, ACK, 500, 100);
    far.acked(1, ACK, 250);
    let mut flow = near.flow(1);
    flow.merge(&far.flow(1));
    assert_eq!((flow.contiguous, flow.missing().collect::<Vec<_>>()), (400, vec![(400, 500)]));
    assert_eq!((flow.acked, flow.from_syn, flow.highest), (Some(250), true, 600));
    let mut other = near.flow(1);
    far.came(2, ACK, 100, 300);
    other.merge(&far.flow(2));
    assert_eq!(other.contiguous, 100);
}

proptest! {
    #[test]
    fn agrees_with_a_set_of_bytes_and_never_claims_more(
        steps in prop::collection::vec((0u32..300, 1usize..40, any::<bool>()), 1..60),
    ) {
        let mut bench = Bench::new(true);
        bench.came(1, TcpHeader::SYN, u32::MAX, 0);
        let mut bytes: BTreeSet<u64> = BTreeSet::new();
        let mut many = 0;
        for (begin, len, ack) in steps {
            let first = (0..).find(|byte| !bytes.contains(byte)).unwrap();
            if ack {
                bench.acked(1, ACK, first as u32);
            } else {
                bench.came(1, ACK, begin, len);
                bytes.extend(u64::from(begin)..u64::from(begin) + len as u64);
            }
            let first = (0..).find(|byte| !bytes.contains(byte)).unwrap();
            let highest = bytes.last().map_or(0, |byte| byte + 1);
            let flow = bench.flow(1);
            let missing: BTreeSet<u64> = flow.missing().flat_map(|(from, to)| from..to).collect();
            let wanted: BTreeSet<u64> = (0..highest).filter(|byte| !bytes.contains(byte)).collect();
            let gaps = wanted.iter().filter(|byte| !wanted.contains(&(*byte + 1))).count();
            many = many.max(gaps);
            prop_assert_eq!(flow.highest, highest);
            prop_assert!(missing.is_superset(&wanted), "{:?} of {:?}", missing, wanted);
            if many <= ISLANDS_MAX {
                prop_assert_eq!((flow.contiguous, &missing), (first, &wanted));
            }
            prop_assert_eq!(flow.has_gap(), flow.gap_since.is_some());
        }
    }
}
