//! When barriers are answered, and with which level; and packets that were read but put into no block.

use super::*;

#[test]
fn a_barrier_that_covers_nothing_is_answered_as_acked() {
    let mut bench = Bench::up();
    bench.protection.ask_barrier(1);
    bench.packet(0);
    assert!(bench.notifications().contains(&Notification::Barrier(1, Some(Level::Acked))));
    bench.protection.ask_barrier(2);
    bench.event(BlockEvent::Abandoned { block: block(0) });
    assert!(bench.notifications().contains(&Notification::Barrier(2, None)));
    bench.protection.ask_barrier(3);
    assert!(bench.notifications().contains(&Notification::Barrier(3, Some(Level::Decoded))));
}

#[test]
fn a_barrier_waits_only_for_everything_read_before_it() {
    let mut bench = Bench::up();
    bench.leave(0);
    bench.send(1);
    bench.packet(2);
    bench.notifications();
    bench.protection.ask_barrier(1);
    bench.left(1);
    assert_eq!(
        bench.notifications().iter().filter(|notification| matches!(notification, Notification::Barrier(..))).count(),
        0
    );
    bench.close(2);
    bench.sent(2);
    bench.packet(3);
    bench.left(2);
    assert_eq!(bench.notifications().last(), Some(&Notification::Barrier(1, Some(Level::OnWire))));
    bench.protection.ask_barrier(2);
    bench.event(BlockEvent::Abandoned { block: block(3) });
    assert!(bench.notifications().contains(&Notification::Barrier(2, None)));
    bench.hear(vec![], 0, 4);
    bench.protection.ask_barrier(3);
    assert!(bench.notifications().contains(&Notification::Barrier(3, Some(Level::Decoded))));
}

#[test]
fn a_barrier_waits_for_lost_bytes_to_be_sent_again() {
    for claimed in [false, true] {
        let mut bench = Bench::tcp();
        bench.send(0);
        if claimed {
            bench.left(0);
        }
        bench.hear(vec![run(0, 1, 0)], 0, 1);
        bench.pass(1001);
        bench.prove(3);
        bench.protection.ask_barrier(1);
        assert!(
            !bench.notifications().iter().any(|notification| matches!(notification, Notification::Barrier(..))),
            "TCP will send it again"
        );
        bench.leave(1);
        bench.hear(vec![], 0, 2);
        // A broken claim is repaired only by a report of the peer.
        let level = if claimed { Level::Decoded } else { Level::OnWire };
        assert!(bench.notifications().contains(&Notification::Barrier(1, Some(level))));
    }
}

#[test]
fn the_loss_of_a_forgotten_block_fails_its_barrier() {
    let mut bench = Bench::tcp();
    bench.send(0);
    bench.protection.ask_barrier(1);
    // Another flow continues.
    (bench.packet, bench.view) = (Bench::up().packet, Bench::up().view);
    fill(&mut bench, 1);
    (1..=BLOCKS_MAX as u64).for_each(|sbn| bench.left(sbn));
    bench.hear(vec![run(0, 1, 0)], 0, 1);
    let reported = bench.notifications();
    assert!(reported.contains(&Notification::Barrier(1, None)), "{reported:?}");
    assert!(
        !reported.iter().any(|notification| matches!(notification, Notification::Violation(_))),
        "it was never claimed as protected"
    );
    bench.protection.ask_barrier(2);
    bench.protection.handle_timeout(bench.now);
    let reported = bench.notifications();
    assert!(
        !reported.iter().any(|notification| matches!(notification, Notification::Barrier(..))),
        "no other block covers its bytes: {reported:?}"
    );
}

#[test]
fn a_barrier_beyond_the_limit_fails_at_once() {
    let mut bench = Bench::up();
    bench.packet(0);
    (0..300).for_each(|id| bench.protection.ask_barrier(id));
    let reported = bench.notifications();
    let refused = reported
        .iter()
        .filter(|notification| matches!(notification, Notification::Barrier(id, None) if *id >= 256))
        .count();
    let answered = reported.iter().filter(|notification| matches!(notification, Notification::Barrier(..))).count();
    assert_eq!((refused, answered), (44, 44));
}

#[test]
fn a_barrier_over_resent_bytes_is_decoded_only_after_they_are_decoded() {
    let mut bench = Bench::tcp();
    bench.send(0);
    bench.hear(vec![run(0, 1, 0)], 0, 1);
    let other = Bench::up();
    let tcp = (std::mem::replace(&mut bench.packet, other.packet), std::mem::replace(&mut bench.view, other.view));
    bench.send(1);
    bench.protection.ask_barrier(1);
    bench.hear(vec![], 0, 2);
    (bench.packet, bench.view) = tcp;
    bench.leave(2);
    assert!(bench.notifications().contains(&Notification::Barrier(1, Some(Level::OnWire))));
    bench.protection.ask_barrier(2);
    bench.hear(vec![], 0, 3);
    bench.protection.handle_timeout(bench.now);
    assert!(bench.notifications().contains(&Notification::Barrier(2, Some(Level::Decoded))));
}

#[test]
fn a_barrier_waits_for_a_forgotten_block_until_it_is_decoded() {
    let mut bench = Bench::up();
    bench.send(0);
    bench.protection.ask_barrier(1);
    fill(&mut bench, 1);
    bench.protection.ask_barrier(2);
    (1..=BLOCKS_MAX as u64).for_each(|sbn| bench.left(sbn));
    bench.protection.handle_timeout(bench.now);
    assert!(
        !bench.notifications().iter().any(|notification| matches!(notification, Notification::Barrier(..))),
        "the outcome of block 0 is unknown"
    );
    assert_eq!(bench.protection.counters().forgotten, 1);
    bench.hear(vec![], 0, 1);
    bench.protection.handle_timeout(bench.now);
    let answers = bench.notifications();
    assert!(answers.contains(&Notification::Barrier(1, Some(Level::Decoded))), "{answers:?}");
    assert!(answers.contains(&Notification::Barrier(2, Some(Level::OnWire))), "{answers:?}");
}

#[test]
fn claims_voided_by_a_restart_do_not_count_as_decoded() {
    let mut bench = Bench::up();
    bench.leave(0);
    bench.event(BlockEvent::PeerRestarted);
    bench.event(BlockEvent::Void { below: block(1) });
    bench.prove(3);
    bench.leave(1);
    bench.hear(vec![], 1, 2);
    bench.protection.ask_barrier(5);
    assert!(bench.notifications().contains(&Notification::Barrier(5, Some(Level::OnWire))));
}

#[test]
fn an_abandoned_block_does_not_count_as_decoded() {
    let mut bench = Bench::up();
    bench.packet(0);
    bench.event(BlockEvent::Abandoned { block: block(0) });
    bench.leave(1);
    bench.hear(vec![run(0, 1, 0)], 0, 2);
    assert_eq!(bench.reached(Level::Decoded), 10, "one of two packets arrived");
}

#[test]
fn a_packet_that_was_read_and_dropped_is_a_hole_for_barriers() {
    let mut bench = Bench::tcp();
    bench.leave(0);
    bench.next_segment(TcpHeader::ACK, 110, 10);
    bench.drop_packet();
    bench.notifications();
    bench.protection.ask_barrier(1);
    assert!(
        !bench.notifications().iter().any(|notification| matches!(notification, Notification::Barrier(..))),
        "TCP will send it again"
    );
    bench.leave(1);
    assert!(bench.notifications().contains(&Notification::Barrier(1, Some(Level::OnWire))));
    assert_eq!(bench.protected(), 20);
}

#[test]
fn a_udp_flow_restarts_behind_a_datagram_that_was_read_and_dropped() {
    let mut bench = Bench::up();
    bench.leave(0);
    let instance = bench.protection.flows().flows().next().unwrap().id.instance();
    bench.drop_packet();
    bench.leave(1);
    let flow = bench.protection.flows().flows().next().unwrap();
    assert!(flow.id.instance() != instance && flow.position(Level::OnWire).bytes == 10, "{flow:?}");
}
