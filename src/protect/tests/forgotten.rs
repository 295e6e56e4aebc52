//! Blocks that had to be forgotten before the peer reported on them.

use super::*;

#[test]
fn the_loss_of_a_forgotten_protected_block_is_reported_once() {
    let mut bench = Bench::tcp();
    bench.leave(0);
    assert!(bench.protected() > 0);
    fill(&mut bench, 1);
    bench.hear(vec![run(0, 1, 0)], 0, 1);
    let violations = |reported: &[Notification]| {
        reported.iter().filter(|notification| matches!(notification, Notification::Violation(_))).count()
    };
    assert_eq!(violations(&bench.notifications()), 1);
    bench.hear(vec![run(0, 1, 0)], 0, 1);
    assert_eq!(violations(&bench.notifications()), 0, "it is reported once");
    assert_eq!(bench.protection.counters().violations, 1);
}

/// For a single block, a report contains how many of its first symbols came. For a run of blocks it cannot.
#[test]
fn a_run_of_lost_blocks_is_lost_whatever_its_symbol_count() {
    let mut bench = Bench::up();
    [0, 1].into_iter().for_each(|sbn| bench.leave(sbn));
    bench.hear(vec![run(0, 2, 2)], 0, 2);
    let reported = bench.notifications();
    assert_eq!(
        reported.iter().filter(|notification| matches!(notification, Notification::Violation(_))).count(),
        2,
        "{reported:?}"
    );
}
