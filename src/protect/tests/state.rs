//! Since when the link has its state, and since when for its reason.

use super::*;

#[test]
fn a_state_and_its_reason_have_their_own_times() {
    let mut bench = Bench::up();
    bench.pass(1000);
    assert_eq!(bench.state(), (LinkState::Degraded, StateReason::NoReports));
    let degraded_at = bench.now;
    let since = bench.protection.state_since().unwrap();
    assert_eq!((since.state, since.reason), (degraded_at, degraded_at));
    bench.pass(50);
    bench.protection.set_bypassed(true);
    assert_eq!(bench.state(), (LinkState::Degraded, StateReason::Bypass));
    let since = bench.protection.state_since().unwrap();
    assert_eq!((since.state, since.reason), (degraded_at, bench.now), "it is degraded as before, for another reason");
    bench.pass(50);
    bench.state();
    assert_eq!(bench.protection.state_since(), Some(since), "nothing has changed");
    bench.protection.set_bypassed(false);
    bench.prove(3);
    assert_eq!(bench.state().0, LinkState::Up);
    assert_eq!(bench.protection.state_since().unwrap().state, bench.now);
}
