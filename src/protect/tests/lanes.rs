//! Several peers on one lane.

use super::*;
use crate::protect::{LaneProtection, TakenSend};

#[test]
fn a_lane_waits_for_every_one_of_its_peers() {
    let [first, mut second] = [Bench::up(), Bench::up()];
    second.send(0);
    let now = second.now.max(first.now);
    let due = second.protection.deadline(now);
    let mut lane_protection = LaneProtection::new(vec![Bench::new(Evidence::Timestamps).protection, second.protection]);
    assert!(due.is_some());
    assert_eq!(lane_protection.deadline(now), due, "the first has no session and nothing to wait for");
    assert!(!lane_protection.is_settled(), "the second waits for its timestamp");
    drop(first);
}

#[test]
fn peers_with_many_notifications_take_turns() {
    let mut peers = [Bench::up(), Bench::up()];
    for bench in &mut peers {
        bench.packet(0);
        (0..300).for_each(|id| bench.protection.ask_barrier(id));
    }
    let mut lane_protection = LaneProtection::new(peers.into_iter().map(|bench| bench.protection).collect());
    let order: Vec<u16> = (0..6).map(|_| lane_protection.poll_notification().unwrap().0.0).collect();
    assert_eq!(order, [0, 1, 0, 1, 0, 1]);
}

#[test]
fn a_timestamp_counts_for_the_peer_of_its_datagram() {
    let mut peers = [Bench::up(), Bench::up()];
    peers.iter_mut().for_each(|bench| bench.send(0));
    let now = peers.iter().map(|bench| bench.now).max().unwrap();
    let mut lane_protection = LaneProtection::new(peers.into_iter().map(|bench| bench.protection).collect());
    let number = lane_protection.next_stamp();
    lane_protection.on_taken(TakenSend { peer: PeerId(1), send: 0, queued: now }, 1, now);
    lane_protection.on_stamp(number, now);
    let protected: Vec<_> = lane_protection.peers().iter().map(|peer| peer.counters().protected).collect();
    assert_eq!(protected, [0, 1]);
}

#[test]
fn a_missing_timestamp_is_not_awaited_forever() {
    let bench = Bench::up();
    let mut lane_protection = LaneProtection::new(vec![bench.protection]);
    lane_protection.on_taken(TakenSend { peer: PeerId(0), send: 0, queued: bench.now }, 1, bench.now);
    assert!(lane_protection.is_waiting());
    lane_protection.handle_timeout(bench.now + crate::protect::ledger::STAMP_WITHIN);
    assert!(!lane_protection.is_waiting());
}
