//! Successive connections on the same ports, and which one a segment belongs to.

use super::*;

#[test]
fn a_syn_on_the_ports_of_a_live_connection_starts_a_new_one_when_acknowledged() {
    let (mut bench, id) = living();
    bench.tcp(1, SYN, 70_000_000, 0, 1);
    bench.sent(&segment(4, 1, ACK, 2000, 77, 500), VirtioHeader::default(), 1);
    bench.protect(1);
    assert_eq!(bench.on_wire(id), 1500, "the SYN is not acknowledged");
    bench.tcp(1, SYN, 90_000_000, 0, 2);
    bench.received(&shown(SYN | ACK, 5000, 90_000_001), VirtioHeader::default());
    let key = bench.table.flows().next().unwrap().key;
    let next = bench.table.find(&key).unwrap();
    assert!(next.id != id && next.origin == Origin::Start && next.origin_sequence == Some(90_000_001));
    bench.sent(&segment(4, 1, ACK, 90_000_001, 5001, 40), VirtioHeader::default(), 2);
    bench.protect(2);
    assert_eq!(bench.on_wire(next.id), 40);
    bench.received(&shown(ACK, 5001, 90_000_041), VirtioHeader::default());
    assert_eq!(bench.bytes(next.id, Level::Acked), 40);
}

#[test]
fn a_new_syn_starts_a_new_instance_and_old_packets_are_strays() {
    let mut bench = Bench::new();
    let old = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 50, 0);
    let new = bench.tcp(1, SYN, 0x7000_0000, 0, 1).unwrap();
    assert_ne!(old, new);
    assert_eq!(bench.events(), ["new 1", "Replaced 1", "new 2"]);
    assert_eq!(bench.tcp(1, SYN, 0x7000_0000, 0, 1), Some(new), "the SYN again");
    assert_eq!(bench.tcp(1, SYN, 99, 0, 1), Some(new), "the old SYN");
    bench.tcp(1, ACK, 120, 50, 1);
    bench.answer(1, ACK, 170);
    bench.tcp(1, ACK, 0x7000_0001, 10, 1);
    bench.protect(0);
    assert_eq!(bench.on_wire(new), 0, "block 0 held bytes of the old instance");
    bench.protect(1);
    assert_eq!(bench.on_wire(new), 10);
    assert_eq!(bench.table.counters().strays, 2);
    assert_eq!(bench.table.flow(old), None);
}

#[test]
fn a_connection_whose_beginning_was_not_seen_is_detected() {
    let mut bench = Bench::new();
    let old = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    let mut ids = Vec::new();
    for index in 0..8 {
        ids.push(bench.tcp(1, ACK, 0x7000_0000 + index * 10, 10, 0).unwrap());
    }
    assert!(ids[..7].iter().all(|&id| id == old));
    let new = bench.table.flow(ids[7]).unwrap();
    assert_eq!((new.origin, new.id == old), (Origin::Middle, false));

    bench.events();
    let syn = bench.tcp(2, SYN, 99, 0, 0).unwrap();
    bench.answer(2, SYN | ACK, 100);
    assert!(bench.table.flow(syn).is_some());
    bench.answer(2, SYN | ACK, 4242);
    assert_eq!(bench.table.flow(syn), None, "its SYN took another path");
    assert_eq!(bench.events(), ["new 3", "Replaced 3"]);
}

#[test]
fn a_connection_with_the_same_initial_number_is_a_new_instance() {
    for closing in [FIN | ACK, RST] {
        let mut bench = Bench::new();
        let old = bench.tcp(1, SYN, 99, 0, 0).unwrap();
        bench.tcp(1, SYN, 99, 0, 0);
        bench.tcp(1, ACK | FIN, 100, 50, 0);
        bench.answer(1, closing, 151);
        bench.answer(1, ACK, 151);
        assert!(bench.table.flow(old).unwrap().closed);
        let new = bench.tcp(1, SYN, 99, 0, 1).unwrap();
        assert_ne!(old, new, "{closing}");
        bench.tcp(1, ACK, 100, 50, 1);
        assert_eq!(bench.on_wire(new), 0, "none of its bytes have left");
    }
}

#[test]
fn instance_numbers_increase_across_all_tables() {
    let instances = InstanceCounter::default();
    let mut benches = [Bench::new(), Bench::new()];
    for bench in &mut benches {
        bench.table = FlowTable::new(Limits::default(), 1, instances.clone());
    }
    let mut open = |at: usize, syn| benches[at].tcp(1, SYN, syn, 0, 0).unwrap().instance();
    assert_eq!([open(0, 9), open(1, 9), open(0, 0x5000_0000), open(1, 0x5000_0000)], [1, 2, 3, 4]);
}

#[test]
fn closed_flows_are_evicted_first_then_the_longest_idle() {
    let mut bench = Bench::new();
    for port in 1..=4 {
        bench.tcp(port, SYN, 99, 0, 0);
        bench.now += Duration::from_secs(2);
    }
    bench.tcp(1, ACK, 100, 10, 0);
    bench.answer(4, RST | ACK, 100);
    bench.events();
    bench.tcp(5, SYN, 99, 0, 0);
    bench.tcp(6, SYN, 99, 0, 0);
    assert_eq!(bench.events(), ["Evicted 4", "new 5", "Evicted 2", "new 6"]);
    assert_eq!((bench.table.len(), bench.table.flows().count()), (4, 4));
    bench.now += Duration::from_secs(8000);
    bench.table.handle_timeout(bench.now);
    assert_eq!(bench.events(), ["Idle 3", "Idle 1", "Idle 5", "Idle 6"]);
    assert_eq!(bench.table.deadline(), None);
}

/// A server whose initial numbers lie close together, and a client that skips the range between them at once.
#[test]
fn a_late_acknowledgement_of_the_previous_connection_does_not_count_for_the_next() {
    let mut bench = Bench::new();
    bench.tcp(1, SYN, 999, 0, 0).unwrap();
    bench.tcp(1, ACK, 1000, 5000, 0);
    let next = bench.tcp(1, SYN, 4999, 0, 1).unwrap();
    bench.tcp(1, ACK, 6000 + (1 << 22) + 1, 10, 1);
    bench.answer(1, ACK, 6000);
    assert_eq!(bench.bytes(next, Level::Acked), 0);
    bench.now += Duration::from_secs(3);
    bench.answer(1, ACK, 6000);
    assert_eq!(bench.bytes(next, Level::Acked), 1000, "packets of the previous connection no longer come that late");
}

#[test]
fn single_strays_among_good_segments_never_start_an_instance() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 0);
    bench.answer(1, ACK, 110);
    for round in 0..50 {
        assert_eq!(bench.tcp(1, ACK, 0x7000_0000, 10, 1), Some(id), "round {round}");
        assert_eq!(bench.tcp(1, ACK, 110, 10, 1), Some(id));
    }
    assert_eq!(bench.table.counters().strays, 50);
}
