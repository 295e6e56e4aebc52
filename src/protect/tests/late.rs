//! Blocks with a late part: what counts when, and what breaks the promise.

use super::*;
use crate::tunnel::late_repair::LATE_SLACK;

const SURVIVE: Duration = Duration::from_millis(2);

impl Bench {
    /// The early part of a block of one packet is taken by the kernel. Its profile promises to survive an interruption.
    fn send_early(&mut self, sbn: u64) {
        self.send_early_of(sbn, SURVIVE);
    }

    fn send_early_of(&mut self, sbn: u64, survives: Duration) {
        self.packet(sbn);
        let (source_symbols, repair_symbols) = (2, 5);
        let keeps_promise = true;
        let has_late = true;
        self.event(BlockEvent::Closed {
            block: block(sbn),
            source_symbols,
            repair_symbols,
            has_late,
            keeps_promise,
            survives,
        });
        self.sent(sbn);
    }

    /// The late part is taken by the kernel. Returns the number of its send.
    fn send_late(&mut self, sbn: u64) -> u64 {
        let last = self.sends.len() as u64;
        self.sends.push(u64::MAX);
        self.protection.on_taken(last);
        self.event(BlockEvent::Sent { block: block(sbn), last, alone: true, part: Part::Late });
        last
    }

    fn early_left(&mut self) -> Vec<(u64, Duration)> {
        std::iter::from_fn(|| self.protection.poll_early_left(self.now)).map(|(block, lag)| (block.sbn, lag)).collect()
    }

    fn levels(&mut self) -> (u64, u64) {
        (self.reached(Level::Early), self.reached(Level::OnWire))
    }
}

#[test]
fn a_block_is_early_with_its_early_part_and_on_the_wire_with_its_late_part() {
    let mut bench = Bench::up();
    bench.send_early(0);
    assert_eq!((bench.levels(), bench.early_left()), ((0, 0), vec![]));
    bench.left(0);
    assert_eq!((bench.levels(), bench.early_left()), ((10, 0), vec![(0, Duration::ZERO)]));
    assert!(!bench.protection.is_settled(), "its late part is to come");
    bench.left(0);
    assert_eq!((bench.levels(), bench.early_left()), ((10, 0), vec![]), "the same timestamp again");
    bench.pass(2);
    let late = bench.send_late(0);
    assert_eq!(bench.levels(), (10, 0), "only taken by the kernel");
    bench.protection.on_left(late, bench.now, bench.now);
    assert_eq!(bench.levels(), (10, 10));
    assert!(bench.protection.is_settled());
    let state = bench.protection.flows().flows().next().unwrap();
    assert_eq!(state.survives_burst, SURVIVE);
}

#[test]
fn the_greatest_lag_of_what_has_left_goes_with_the_early_part() {
    let mut bench = Bench::up();
    bench.send_early(0);
    let queued = bench.now;
    bench.pass(7);
    bench.protection.on_left(0, queued, bench.now);
    assert_eq!(bench.early_left(), [(0, Duration::from_millis(7))]);
    bench.send_early(1);
    bench.left(1);
    assert_eq!(bench.early_left(), [(1, Duration::from_millis(7))], "symbols of this block may have lagged so, too");
}

#[test]
fn a_late_part_that_leaves_too_late_for_the_peer_does_not_count() {
    for (after, on_wire) in [(SURVIVE + LATE_SLACK, 10), (SURVIVE + LATE_SLACK + Duration::from_micros(1), 0)] {
        let mut bench = Bench::up();
        bench.send_early(0);
        bench.left(0);
        bench.now += after;
        let late = bench.send_late(0);
        bench.protection.on_left(late, bench.now, bench.now);
        assert_eq!(bench.levels(), (10, on_wire), "{after:?}");
    }
}

#[test]
fn a_broken_promise_leaves_a_block_early_and_nothing_waits_for_it() {
    let broken: [fn(&mut Bench); 4] = [
        |bench| bench.event(BlockEvent::PromiseBroken { block: block(0) }),
        |bench| bench.event(BlockEvent::Unsendable),
        |bench| bench.event(BlockEvent::Moved),
        |bench| bench.protection.on_dropped_here(bench.now),
    ];
    for (number, what) in broken.into_iter().enumerate() {
        let mut bench = Bench::up();
        bench.send_early(0);
        bench.left(0);
        what(&mut bench);
        bench.pass(2);
        let late = bench.send_late(0);
        bench.prove(10);
        bench.protection.on_left(late, bench.now, bench.now);
        assert_eq!(bench.levels(), (10, 0), "case {number}");
        assert!(bench.protection.is_settled(), "case {number}");
        bench.hear(vec![], 0, 1);
        assert_eq!(bench.levels(), (10, 10), "the peer has it, case {number}");
    }
}

#[test]
fn a_profile_that_is_not_kept_is_early_at_most() {
    let mut bench = Bench::up();
    bench.packet(0);
    let (has_late, keeps_promise) = (false, false);
    bench.event(BlockEvent::Closed {
        block: block(0),
        source_symbols: 2,
        repair_symbols: 5,
        has_late,
        keeps_promise,
        survives: SURVIVE,
    });
    bench.sent(0);
    bench.left(0);
    assert_eq!((bench.levels(), bench.early_left()), ((10, 0), vec![]));
    assert!(bench.protection.is_settled());
}

#[test]
fn the_loss_of_a_block_that_was_early_is_a_violation() {
    let mut bench = Bench::up();
    bench.send_early(0);
    bench.left(0);
    bench.notifications();
    bench.hear(vec![run(0, 1, 0)], 0, 1);
    let told = bench.notifications();
    assert!(
        told.iter().any(|it| matches!(it, Notification::Violation(it) if it.level == Some(Level::Early))),
        "{told:?}"
    );
    assert_eq!(bench.protection.counters().violations, 1);
}

#[test]
fn an_early_part_that_never_leaves_has_no_late_part() {
    let mut bench = Bench::up();
    bench.send_early(0);
    (0..60).for_each(|_| bench.prove(1));
    bench.notifications();
    bench.left(0);
    assert_eq!((bench.levels(), bench.early_left()), ((0, 0), vec![]));
    assert_eq!(bench.protection.counters().stamps_missing, 1);
}

#[test]
fn a_late_part_whose_timestamp_is_missing_does_not_count_and_is_not_waited_for() {
    let mut bench = Bench::up();
    bench.send_early(0);
    bench.left(0);
    let late = bench.send_late(0);
    assert!(bench.protection.deadline(bench.now).is_some() && !bench.protection.is_settled());
    (0..60).for_each(|_| bench.prove(1));
    bench.notifications();
    assert!(bench.protection.is_settled());
    bench.protection.on_left(late, bench.now, bench.now);
    assert_eq!((bench.levels(), bench.protection.counters().stamps_missing), ((10, 0), 1));
}

#[test]
fn with_the_kernel_as_only_evidence_a_block_is_queued_when_its_late_part_is_taken() {
    let mut bench = Bench::new(Evidence::HandOver);
    bench.protection.on_session(true);
    bench.prove(3);
    bench.send_early(0);
    assert_eq!(bench.reached(Level::Queued), 0);
    bench.send_late(0);
    assert_eq!((bench.reached(Level::Queued), bench.reached(Level::Early)), (10, 0));
}

#[test]
fn with_the_kernel_as_only_evidence_a_block_without_what_it_was_promised_is_not_queued() {
    for (has_late, broken) in [(false, false), (true, false), (true, true)] {
        let mut bench = Bench::new(Evidence::HandOver);
        bench.protection.on_session(true);
        bench.prove(3);
        bench.packet(0);
        // Either the plan reaches less, or it turns out when the early part was taken.
        let keeps_promise = broken;
        bench.event(BlockEvent::Closed {
            block: block(0),
            source_symbols: 2,
            repair_symbols: 5,
            has_late,
            keeps_promise,
            survives: SURVIVE,
        });
        bench.sent(0);
        if broken {
            bench.event(BlockEvent::PromiseBroken { block: block(0) });
        }
        bench.send_late(0);
        assert_eq!(bench.reached(Level::Queued), 0, "{has_late} {broken}");
    }
}

#[test]
fn a_promise_that_is_broken_before_the_early_part_has_left_leaves_nothing_to_wait_for() {
    let mut bench = Bench::up();
    bench.send_early(0);
    bench.event(BlockEvent::PromiseBroken { block: block(0) });
    bench.left(0);
    assert_eq!((bench.levels(), bench.early_left()), ((10, 0), vec![]));
    assert!(bench.protection.is_settled());
}

#[test]
fn a_barrier_waits_for_late_parts() {
    let mut bench = Bench::up();
    bench.send_early(0);
    bench.left(0);
    bench.protection.ask_barrier(1);
    let is_answer = |it: &Notification| matches!(it, Notification::Barrier(1, Some(Level::OnWire)));
    assert!(!bench.notifications().iter().any(is_answer));
    let late = bench.send_late(0);
    bench.protection.on_left(late, bench.now, bench.now);
    assert!(bench.notifications().iter().any(is_answer));
}

#[test]
fn a_block_keeps_the_promise_of_the_profile_under_which_it_closed() {
    // The profile changes while blocks are on their way, from one to the other or back.
    for promised in [[SURVIVE, 2 * SURVIVE], [2 * SURVIVE, SURVIVE]] {
        let mut bench = Bench::up();
        for (sbn, survives) in (0..).zip(promised) {
            bench.send_early_of(sbn, survives);
            bench.left(sbn);
            let late = bench.send_late(sbn);
            bench.protection.on_left(late, bench.now, bench.now);
        }
        let told = |notification: &Notification| match notification {
            Notification::Flow { state, event: Event::Protected, .. } => Some(state.survives_burst),
            _ => None,
        };
        let last = bench.notifications().iter().filter_map(told).next_back();
        assert_eq!(last, Some(SURVIVE), "a flow is promised what all of its blocks survive");
    }
}
