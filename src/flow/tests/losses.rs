//! Lost, dropped and forgotten data: holes, violations, and their repair.

use super::*;

#[test]
fn a_failed_block_holds_its_flow_until_its_bytes_are_sent_again_or_acknowledged() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..4 {
        bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
    }
    let now = bench.now;
    bench.table.on_block_failed(block(0), now);
    bench.table.on_block_failed(block(2), now);
    for sbn in [0, 1, 3] {
        bench.protect(sbn);
    }
    assert_eq!(bench.on_wire(id), 0, "a failed block stays failed");
    bench.tcp(1, ACK, 100, 10, 4);
    bench.protect(4);
    assert_eq!(bench.on_wire(id), 20);
    bench.answer(1, ACK, 130);
    assert_eq!(bench.on_wire(id), 40);
}

#[test]
fn bytes_that_cannot_be_recorded_are_not_protected() {
    let mut bench = Bench::with(Limits { flows: 8, ranges: 2, ..Limits::default() });
    let tcp = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 0);
    let udp = bench.udp(1, 10, 0).unwrap();
    bench.tcp(1, ACK, 110, 10, 1);
    let again = bench.udp(1, 10, 1).unwrap();
    assert_eq!(bench.udp(1, 10, 1), Some(again), "it restarts only once");
    for sbn in 0..2 {
        bench.protect(sbn);
    }
    assert_eq!(bench.on_wire(tcp), 10);
    assert_eq!(bench.table.flow(udp), None);
    let id = bench.udp(1, 3, 2).unwrap();
    bench.protect(2);
    assert_eq!((id, bench.on_wire(id)), (again, 3));
    assert_eq!((bench.table.counters().unrecorded, bench.table.counters().forgotten_blocks), (3, 1));
}

#[test]
fn a_violation_lists_ranges_and_holds_the_flow_until_repaired() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..3 {
        bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
    }
    let udp = bench.udp(7, 33, 1).unwrap();
    for sbn in 0..3 {
        bench.protect(sbn);
    }
    bench.events();
    bench.table.on_block_failed(block(1), bench.now);
    assert_eq!(bench.on_wire(id), 30, "a protected block can no longer fail");
    let violation = bench.table.violation(block(1), bench.now);
    assert!(violation.voids_claim());
    let ranges: Vec<_> = violation.ranges.iter().map(|lost| (lost.flow.id, lost.start.bytes, lost.end.bytes)).collect();
    assert_eq!(ranges, [(id, 10, 20), (udp, 0, 33)]);
    assert_eq!((violation.ranges[0].start.sequence, violation.ranges[0].end.sequence), (110, 120));
    bench.table.on_blocks_decoded(0, 3);
    bench.tcp(1, ACK, 130, 10, 3);
    bench.protect(3);
    assert_eq!(bench.on_wire(id), 30, "held");
    bench.tcp(1, ACK, 110, 10, 4);
    bench.protect(4);
    assert_eq!(bench.on_wire(id), 30, "held until the bytes have arrived");
    bench.table.on_block_protected(block(4), Level::Decoded, Duration::ZERO);
    assert_eq!(bench.on_wire(id), 40);
    let again = bench.table.violation(block(1), bench.now);
    assert!(!again.voids_claim() && again.ranges.is_empty());
    assert_eq!(bench.table.counters().violations, 1);
}

#[test]
fn a_violation_of_a_forgotten_block_holds_every_flow() {
    let narrow = Limits { flows: 4, ..Limits::default() };
    for (case, limits) in
        [("its ranges", Limits { ranges: 2, ..narrow }), ("the block", Limits { blocks: 2, ..narrow })]
    {
        let mut bench = Bench::with(limits);
        let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
        for sbn in 0..3 {
            bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
            bench.protect(sbn);
        }
        assert_eq!((bench.on_wire(id), bench.table.counters().forgotten_blocks), (30, 1), "{case}");
        bench.answer(1, ACK, 105);
        let violation = bench.table.violation(block(0), bench.now);
        assert!(violation.voids_claim() && violation.forgotten, "{case}");
        let flow = bench.table.flow(id).unwrap();
        assert_eq!(flow.violated.map(|lowest| (lowest.bytes, lowest.sequence)), Some((5, 105)), "{case}");
        bench.tcp(1, ACK, 130, 10, 3);
        bench.protect(3);
        assert_eq!(bench.on_wire(id), 30, "{case}: held");
        bench.answer(1, ACK, 140);
        assert_eq!((bench.on_wire(id), bench.table.flow(id).unwrap().violated), (40, None), "{case}");
    }
}

#[test]
fn a_forgotten_block_that_was_decoded_is_no_violation() {
    let mut bench = Bench::with(Limits { flows: 4, blocks: 2, ..Limits::default() });
    bench.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..3 {
        bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        bench.protect(sbn);
    }
    bench.table.on_blocks_decoded(0, 1);
    assert!(!bench.table.violation(block(0), bench.now).voids_claim());
}

#[test]
fn the_lowest_lost_byte_is_reported_until_all_lost_bytes_are_acknowledged() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..3 {
        bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        bench.protect(sbn);
    }
    let mut violated = |sbn| bench.table.violation(block(sbn), bench.now).ranges[0].flow.violated.unwrap().bytes;
    assert_eq!((violated(2), violated(1)), (20, 10));
    for (acknowledgement, expected) in [(110, Some(10)), (129, Some(10)), (130, None)] {
        bench.answer(1, ACK, acknowledgement);
        let violated = bench.table.flow(id).unwrap().violated;
        assert_eq!(violated.map(|lowest| lowest.bytes), expected, "{acknowledgement}");
    }
}

#[test]
fn a_block_decided_after_its_flow_was_evicted_does_not_affect_the_next_flow() {
    let mut bench = Bench::with(Limits { flows: 1, ..Limits::default() });
    let old = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 0);
    let new = bench.tcp(2, SYN, 99, 0, 1).unwrap();
    bench.tcp(2, ACK, 100, 10, 1);
    bench.protect(0);
    assert_eq!((bench.table.flow(old), bench.on_wire(new)), (None, 0));
    assert_eq!(bench.table.violation(block(0), bench.now).gone, 1);
    assert_eq!(bench.table.flow(new).unwrap().violated, None);
    bench.protect(1);
    assert_eq!(bench.on_wire(new), 10);
}

#[test]
fn an_event_carries_the_block_that_raised_the_position() {
    let mut bench = Bench::new();
    bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 7);
    bench.protect(7);
    let raised = |bench: &mut Bench| {
        let events = std::iter::from_fn(|| bench.table.poll_event());
        let of = |event| match event {
            Event::Protected { raised, block, .. } => Some((raised, block)),
            _ => None,
        };
        events.filter_map(of).collect::<Vec<_>>()
    };
    let by = Some(block(7));
    let levels = |from: Level, to: Level| Level::ALL.map(|level| (from..=to).contains(&level));
    assert_eq!(raised(&mut bench), [(levels(Level::Queued, Level::OnWire), by)]);
    bench.answer(1, ACK, 110);
    assert_eq!(raised(&mut bench), [(levels(Level::Decoded, Level::Acked), None)]);
}

#[test]
fn a_violation_above_another_does_not_hide_it() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..4 {
        bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        bench.protect(sbn);
    }
    for lost in [1, 3, 2] {
        bench.table.violation(block(lost), bench.now);
        assert_eq!(bench.table.flow(id).unwrap().violated.map(|lowest| lowest.bytes), Some(10), "after block {lost}");
    }
}

/// A barrier needs all failed bytes: those of the last failed block and of all before it.
#[test]
fn a_hole_is_repaired_only_when_all_failed_bytes_are_covered_in_any_order() {
    for order in [[0, 2], [2, 0]] {
        let mut bench = Bench::new();
        bench.tcp(1, SYN, 99, 0, 0).unwrap();
        for sbn in 0..3 {
            bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        }
        order.into_iter().for_each(|sbn| bench.table.on_block_failed(block(sbn), bench.now));
        bench.protect(1);
        assert_eq!(bench.table.repaired_level(), None);
        bench.tcp(1, ACK, 100, 10, 3);
        bench.protect(3);
        assert_eq!(bench.table.repaired_level(), None, "{order:?}: the last ten bytes are missing");
        bench.tcp(1, ACK, 120, 10, 4);
        bench.protect(4);
        assert_eq!(bench.table.repaired_level(), Some(Level::OnWire), "{order:?}");
    }
}

/// Its late part will never follow, for example because the peer was restarted.
#[test]
fn a_block_of_which_only_the_early_part_was_claimed_is_a_hole_once_it_fails() {
    let mut bench = Bench::new();
    let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 0);
    bench.table.on_block_protected(block(0), Level::Early, Duration::ZERO);
    assert_eq!(bench.table.repaired_level(), Some(Level::Decoded), "nothing failed yet");
    bench.table.on_block_failed(block(0), bench.now);
    assert_eq!(bench.table.repaired_level(), None, "a barrier must wait for these bytes");
    let state = bench.table.flow(id).unwrap();
    assert_eq!((state.position(Level::Early).bytes, state.violated), (10, None), "what was claimed stands");
    bench.tcp(1, ACK, 100, 10, 1);
    bench.protect(1);
    assert_eq!((bench.on_wire(id), bench.table.repaired_level()), (10, Some(Level::OnWire)));
}

/// The same where the table no longer knows which bytes the block had: any that have not arrived may be the ones.
#[test]
fn a_forgotten_block_that_fails_before_it_is_on_the_wire_is_a_hole_in_every_flow() {
    for level in [Level::Queued, Level::Early] {
        let mut bench = Bench::with(Limits { flows: 4, ranges: 2, ..Limits::default() });
        let id = bench.tcp(1, SYN, 99, 0, 0).unwrap();
        for sbn in 0..3 {
            bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
            bench.table.on_block_protected(block(sbn), level, Duration::ZERO);
        }
        assert_eq!(bench.table.counters().forgotten_blocks, 1, "{level:?}");
        bench.table.on_blocks_void(block(1), bench.now);
        assert_eq!(bench.table.repaired_level(), None, "{level:?}: a barrier must wait for these bytes");
        assert_eq!(bench.table.flow(id).unwrap().violated, None, "{level:?}: nothing is taken back");
        // A loss at the same moment takes back what was claimed, although all flows are held already.
        assert_eq!(bench.table.violation(block(1), bench.now).voids_claim(), level == Level::Early);
        bench.answer(1, ACK, 130);
        assert_eq!(bench.table.repaired_level(), Some(Level::Decoded), "{level:?}");
    }
}

#[test]
fn bytes_that_could_not_be_recorded_are_a_hole() {
    let mut bench = Bench::with(Limits { flows: 8, ranges: 1, ..Limits::default() });
    bench.tcp(1, SYN, 99, 0, 0).unwrap();
    bench.tcp(1, ACK, 100, 10, 0);
    assert_eq!(bench.table.repaired_level(), Some(Level::Decoded), "nothing failed yet");
    bench.tcp(1, ACK, 110, 10, 1);
    assert_eq!(bench.table.counters().unrecorded, 1);
    assert_eq!(bench.table.repaired_level(), None);
    bench.answer(1, ACK, 120);
    assert_eq!(bench.table.repaired_level(), Some(Level::Decoded));
}

/// The bytes of a forgotten block are not known: any UDP packet that has not arrived may be lost, and is not sent
/// again.
#[test]
fn a_violation_of_a_forgotten_block_restarts_every_udp_flow_and_leaves_a_hole_in_every_tcp_flow() {
    let mut bench = Bench::with(Limits { flows: 4, blocks: 2, ..Limits::default() });
    bench.tcp(1, SYN, 99, 0, 0).unwrap();
    let (mut udp, mut sbn) = (None, 0);
    while sbn < 3 {
        bench.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        udp = bench.udp(2, 10, sbn);
        bench.protect(sbn);
        sbn += 1;
    }
    let udp = udp.unwrap();
    assert_eq!(bench.table.flow(udp).unwrap().position(Level::OnWire).packets, 3);
    let violation = bench.table.violation(block(0), bench.now);
    assert!(violation.voids_claim() && violation.forgotten);
    assert_eq!(bench.table.flow(udp), None, "its count restarts");
    assert_eq!(bench.table.repaired_level(), None);
    bench.answer(1, ACK, 130);
    assert_eq!(bench.table.repaired_level(), Some(Level::Decoded));
}
