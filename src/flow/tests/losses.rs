//! Lost, dropped and forgotten data: holes, violations, and their repair.

use super::*;

#[test]
fn a_failed_block_holds_its_flow_until_its_bytes_are_sent_again_or_acknowledged() {
    let mut desk = Desk::new();
    let id = desk.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..4 {
        desk.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
    }
    let now = desk.now;
    desk.table.on_block_failed(block(0), now);
    desk.table.on_block_failed(block(2), now);
    for sbn in [0, 1, 3] {
        desk.protect(sbn);
    }
    assert_eq!(desk.on_wire(id), 0, "a failed block stays failed");
    desk.tcp(1, ACK, 100, 10, 4);
    desk.protect(4);
    assert_eq!(desk.on_wire(id), 20);
    desk.answer(1, ACK, 130);
    assert_eq!(desk.on_wire(id), 40);
}

#[test]
fn bytes_that_cannot_be_recorded_are_not_protected() {
    let mut desk = Desk::with(Limits { flows: 8, ranges: 2, ..Limits::default() });
    let tcp = desk.tcp(1, SYN, 99, 0, 0).unwrap();
    desk.tcp(1, ACK, 100, 10, 0);
    let udp = desk.udp(1, 10, 0).unwrap();
    desk.tcp(1, ACK, 110, 10, 1);
    let again = desk.udp(1, 10, 1).unwrap();
    assert_eq!(desk.udp(1, 10, 1), Some(again), "it restarts only once");
    for sbn in 0..2 {
        desk.protect(sbn);
    }
    assert_eq!(desk.on_wire(tcp), 10);
    assert_eq!(desk.table.flow(udp), None);
    let id = desk.udp(1, 3, 2).unwrap();
    desk.protect(2);
    assert_eq!((id, desk.on_wire(id)), (again, 3));
    assert_eq!((desk.table.counters().unrecorded, desk.table.counters().forgotten_blocks), (3, 1));
}

#[test]
fn a_violation_lists_ranges_and_holds_the_flow_until_repaired() {
    let mut desk = Desk::new();
    let id = desk.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..3 {
        desk.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
    }
    let udp = desk.udp(7, 33, 1).unwrap();
    for sbn in 0..3 {
        desk.protect(sbn);
    }
    desk.told();
    desk.table.on_block_failed(block(1), desk.now);
    assert_eq!(desk.on_wire(id), 30, "a protected block can no longer fail");
    let violation = desk.table.violation(block(1), desk.now);
    assert!(violation.breaks_promise());
    let ranges: Vec<_> = violation.ranges.iter().map(|lost| (lost.flow.id, lost.start.bytes, lost.end.bytes)).collect();
    assert_eq!(ranges, [(id, 10, 20), (udp, 0, 33)]);
    assert_eq!((violation.ranges[0].start.sequence, violation.ranges[0].end.sequence), (110, 120));
    desk.table.on_blocks_decoded(0, 3);
    desk.tcp(1, ACK, 130, 10, 3);
    desk.protect(3);
    assert_eq!(desk.on_wire(id), 30, "held");
    desk.tcp(1, ACK, 110, 10, 4);
    desk.protect(4);
    assert_eq!(desk.on_wire(id), 30, "held until the bytes have arrived");
    desk.table.on_block_protected(block(4), Level::Decoded);
    assert_eq!(desk.on_wire(id), 40);
    let again = desk.table.violation(block(1), desk.now);
    assert!(!again.breaks_promise() && again.ranges.is_empty());
    assert_eq!(desk.table.counters().violations, 1);
}

#[test]
fn a_violation_of_a_forgotten_block_holds_every_flow() {
    let narrow = Limits { flows: 4, ..Limits::default() };
    for (case, limits) in
        [("its ranges", Limits { ranges: 2, ..narrow }), ("the block", Limits { blocks: 2, ..narrow })]
    {
        let mut desk = Desk::with(limits);
        let id = desk.tcp(1, SYN, 99, 0, 0).unwrap();
        for sbn in 0..3 {
            desk.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
            desk.protect(sbn);
        }
        assert_eq!((desk.on_wire(id), desk.table.counters().forgotten_blocks), (30, 1), "{case}");
        desk.answer(1, ACK, 105);
        let violation = desk.table.violation(block(0), desk.now);
        assert!(violation.breaks_promise() && violation.forgotten, "{case}");
        let flow = desk.table.flow(id).unwrap();
        assert_eq!(flow.violated.map(|lowest| (lowest.bytes, lowest.sequence)), Some((5, 105)), "{case}");
        desk.tcp(1, ACK, 130, 10, 3);
        desk.protect(3);
        assert_eq!(desk.on_wire(id), 30, "{case}: held");
        desk.answer(1, ACK, 140);
        assert_eq!((desk.on_wire(id), desk.table.flow(id).unwrap().violated), (40, None), "{case}");
    }
}

#[test]
fn a_forgotten_block_that_was_decoded_is_no_violation() {
    let mut desk = Desk::with(Limits { flows: 4, blocks: 2, ..Limits::default() });
    desk.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..3 {
        desk.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        desk.protect(sbn);
    }
    desk.table.on_blocks_decoded(0, 1);
    assert!(!desk.table.violation(block(0), desk.now).breaks_promise());
}

#[test]
fn the_lowest_lost_byte_is_reported_until_all_lost_bytes_are_acknowledged() {
    let mut desk = Desk::new();
    let id = desk.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..3 {
        desk.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        desk.protect(sbn);
    }
    let mut violated = |sbn| desk.table.violation(block(sbn), desk.now).ranges[0].flow.violated.unwrap().bytes;
    assert_eq!((violated(2), violated(1)), (20, 10));
    for (acknowledgement, expected) in [(110, Some(10)), (129, Some(10)), (130, None)] {
        desk.answer(1, ACK, acknowledgement);
        let violated = desk.table.flow(id).unwrap().violated;
        assert_eq!(violated.map(|lowest| lowest.bytes), expected, "{acknowledgement}");
    }
}

#[test]
fn a_block_decided_after_its_flow_was_evicted_does_not_affect_the_next_flow() {
    let mut desk = Desk::with(Limits { flows: 1, ..Limits::default() });
    let old = desk.tcp(1, SYN, 99, 0, 0).unwrap();
    desk.tcp(1, ACK, 100, 10, 0);
    let new = desk.tcp(2, SYN, 99, 0, 1).unwrap();
    desk.tcp(2, ACK, 100, 10, 1);
    desk.protect(0);
    assert_eq!((desk.table.flow(old), desk.on_wire(new)), (None, 0));
    assert_eq!(desk.table.violation(block(0), desk.now).gone, 1);
    assert_eq!(desk.table.flow(new).unwrap().violated, None);
    desk.protect(1);
    assert_eq!(desk.on_wire(new), 10);
}

#[test]
fn an_event_carries_the_block_that_raised_the_position() {
    let mut desk = Desk::new();
    desk.tcp(1, SYN, 99, 0, 0).unwrap();
    desk.tcp(1, ACK, 100, 10, 7);
    desk.protect(7);
    let raised = |desk: &mut Desk| {
        let events = std::iter::from_fn(|| desk.table.poll_event());
        let of = |event| match event {
            Event::Protected { level, block, flow, position } => Some((level, block, flow.position(level) == position)),
            _ => None,
        };
        events.filter_map(of).collect::<Vec<_>>()
    };
    let by = Some(block(7));
    assert_eq!(raised(&mut desk), [(Level::Queued, by, true), (Level::OnWire, by, true)]);
    desk.answer(1, ACK, 110);
    assert_eq!(raised(&mut desk), [(Level::Decoded, None, true), (Level::Acked, None, true)]);
}

#[test]
fn a_violation_above_another_does_not_hide_it() {
    let mut desk = Desk::new();
    let id = desk.tcp(1, SYN, 99, 0, 0).unwrap();
    for sbn in 0..4 {
        desk.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        desk.protect(sbn);
    }
    for lost in [1, 3, 2] {
        desk.table.violation(block(lost), desk.now);
        assert_eq!(desk.table.flow(id).unwrap().violated.map(|lowest| lowest.bytes), Some(10), "after block {lost}");
    }
}

/// A barrier needs all failed bytes: those of the last failed block and of all before it.
#[test]
fn a_hole_is_repaired_only_when_all_failed_bytes_are_covered_in_any_order() {
    for order in [[0, 2], [2, 0]] {
        let mut desk = Desk::new();
        desk.tcp(1, SYN, 99, 0, 0).unwrap();
        for sbn in 0..3 {
            desk.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        }
        order.into_iter().for_each(|sbn| desk.table.on_block_failed(block(sbn), desk.now));
        desk.protect(1);
        assert_eq!(desk.table.made_good(), None);
        desk.tcp(1, ACK, 100, 10, 3);
        desk.protect(3);
        assert_eq!(desk.table.made_good(), None, "{order:?}: the last ten bytes are missing");
        desk.tcp(1, ACK, 120, 10, 4);
        desk.protect(4);
        assert_eq!(desk.table.made_good(), Some(Level::OnWire), "{order:?}");
    }
}

#[test]
fn bytes_that_could_not_be_recorded_are_a_hole() {
    let mut desk = Desk::with(Limits { flows: 8, ranges: 1, ..Limits::default() });
    desk.tcp(1, SYN, 99, 0, 0).unwrap();
    desk.tcp(1, ACK, 100, 10, 0);
    assert_eq!(desk.table.made_good(), Some(Level::Decoded), "nothing failed yet");
    desk.tcp(1, ACK, 110, 10, 1);
    assert_eq!(desk.table.counters().unrecorded, 1);
    assert_eq!(desk.table.made_good(), None);
    desk.answer(1, ACK, 120);
    assert_eq!(desk.table.made_good(), Some(Level::Decoded));
}

/// The bytes of a forgotten block are not known: any UDP packet that has not arrived may be lost, and is not sent
/// again.
#[test]
fn a_violation_of_a_forgotten_block_restarts_every_udp_flow_and_leaves_a_hole_in_every_tcp_flow() {
    let mut desk = Desk::with(Limits { flows: 4, blocks: 2, ..Limits::default() });
    desk.tcp(1, SYN, 99, 0, 0).unwrap();
    let (mut udp, mut sbn) = (None, 0);
    while sbn < 3 {
        desk.tcp(1, ACK, 100 + 10 * sbn as u32, 10, sbn);
        udp = desk.udp(2, 10, sbn);
        desk.protect(sbn);
        sbn += 1;
    }
    let udp = udp.unwrap();
    assert_eq!(desk.table.flow(udp).unwrap().position(Level::OnWire).packets, 3);
    let violation = desk.table.violation(block(0), desk.now);
    assert!(violation.breaks_promise() && violation.forgotten);
    assert_eq!(desk.table.flow(udp), None, "its count restarts");
    assert_eq!(desk.table.made_good(), None);
    desk.answer(1, ACK, 130);
    assert_eq!(desk.table.made_good(), Some(Level::Decoded));
}
