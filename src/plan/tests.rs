//! Properties of plans, whatever the targets and the link.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::planner::{CHANGES_A_MINUTE, Change, Reason};
use super::prediction::{Prediction, Traffic};
use super::*;
use crate::fec::residual::residual;

const MS: Duration = Duration::from_millis(1);

fn limits(block_symbols: usize, close_after_ms: u32) -> Limits {
    Limits {
        block_symbols,
        close_after: MS * close_after_ms,
        base_close_when_idle: CLOSE_WHEN_IDLE,
        base_close_after: CLOSE_AFTER,
        symbol_bytes: 1408,
    }
}

fn link(loss: f64, symbols_per_second: f64) -> Link {
    Link { loss, bursts: None, symbols_per_second, congested: false, peer_knows_late: true }
}

fn targets(residual: Option<f64>, burst_ms: u32, max_overhead: f64, min: usize) -> Targets {
    Targets { residual, survive_burst: MS * burst_ms, max_overhead, min }
}

/// Symbols a second of a stream of so many megabits a second.
fn megabits(rate: f64) -> f64 {
    rate * 1e6 / 8.0 / 1408.0
}

fn any_bursts() -> impl Strategy<Value = Option<GilbertElliott>> {
    let link =
        (0.0..0.02, 0.0..=1.0, 1u32..100_000, 1u32..20_000).prop_map(|(good_loss, bad_loss, good_ms, bad_us)| {
            GilbertElliott::new(good_loss, MS * good_ms, bad_loss, MS * bad_us / 1000)
        });
    prop_oneof![2 => Just(None), 1 => link]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_a_plan_says_it_reaches_it_reaches(
        exponent in prop::option::of(1_i32..20),
        (burst_ms, share, min) in (0u32..8, 0.02_f64..3.0, 0usize..5),
        (loss, bursts) in (1e-6_f64..0.2, any_bursts()),
        rate in prop_oneof![Just(0.0), (0_f64..5.5).prop_map(|exponent| 10_f64.powf(exponent))],
        (block_symbols, after_ms) in (1usize..300, 1u32..60),
        (congested, peer_knows_late) in (prop::bool::weighted(0.1), prop::bool::weighted(0.9)),
    ) {
        let residual_target = exponent.map(|exponent| 10_f64.powi(-exponent));
        let targets = targets(residual_target, burst_ms, share, min);
        let link = Link { loss, bursts, symbols_per_second: rate, congested, peer_knows_late };
        let limits = limits(block_symbols, after_ms);
        let plan = choose(&targets, &limits, &link);

        prop_assert!(plan.block_symbols <= block_symbols && plan.close_after <= limits.close_after);
        prop_assert!(plan.close_when_idle <= plan.close_after);
        let early = |k| plan.repair.repair_symbols(k);
        prop_assert!((1..=block_symbols).all(|k| early(k) >= min));
        if let (Some(target), true) = (residual_target, plan.reaches(Target::Residual)) {
            for k in 1..=block_symbols {
                prop_assert!(residual(k, early(k), loss) <= target * (1.0 + 1e-9));
            }
            if let Some(bursts) = bursts {
                let stream = Prediction::new(&plan, Traffic::Stream(rate));
                // The plan counts early symbols as if they left with the last source symbol.
                let last = stream.schedule[stream.source - 1].0;
                let is_stream = plan.close_after > CLOSE_AFTER;
                let schedule: Vec<_> = stream.schedule.iter()
                    .map(|(at, _)| (*at).min(last).max(at.saturating_sub(stream.closes - last))).collect();
                let chance = bursts.block_failure(&schedule, stream.repair());
                prop_assert!(!is_stream || chance <= target * (1.0 + 1e-9), "{chance:e}");
            }
        }
        if plan.reaches(Target::SurviveBurst) {
            prop_assert_eq!(plan.survive_burst, targets.survive_burst);
            for traffic in [Traffic::Lone(4), Traffic::Lone(1), Traffic::Stream(rate)] {
                let block = Prediction::new(&plan, traffic);
                prop_assert!(block.survives >= targets.survive_burst, "{:?} survives {:?}", traffic, block.survives);
            }
        } else {
            prop_assert!(plan.survive_burst.is_zero());
        }
        if plan.reaches(Target::MaxOverhead) && !congested {
            let allowed = share.max(FREE_REPAIR / (rate * 1408.0));
            prop_assert!(plan.overhead_at(rate) <= allowed * (1.0 + 1e-9), "{} of {allowed}", plan.overhead_at(rate));
        }
        if congested {
            prop_assert!((1..=block_symbols).all(|k| early(k) == min) && plan.survive_burst.is_zero());
            prop_assert_eq!(plan.reaches(Target::Residual), residual_target.is_none());
            // The least repair while nothing is promised anyway.
            let is_promised = plan.unreached.is_empty();
            prop_assert!(is_promised || plan.close_when_idle == limits.close_after);
        }
    }

    #[test]
    fn a_remedy_reaches_the_target(
        (burst_ms, share) in (1u32..8, 0.02_f64..0.5),
        rate in (2.5_f64..5.0).prop_map(|exponent| 10_f64.powf(exponent)),
        (block_symbols, after_ms) in (1usize..200, 1u32..30),
    ) {
        let targets = targets(Some(1e-9), burst_ms, share, 2);
        let limits = limits(block_symbols, after_ms);
        let plan = choose(&targets, &limits, &link(0.001, rate));
        for remedy in plan.unreached.iter().filter(|it| it.target == Target::SurviveBurst).flat_map(|it| &it.remedies) {
            let (mut targets, mut limits) = (targets, limits);
            match *remedy {
                Remedy::LongerBlock { close_after, block_symbols } => {
                    limits.close_after = close_after;
                    limits.block_symbols = block_symbols.unwrap_or(limits.block_symbols);
                }
                Remedy::MaxOverhead(share) => targets.max_overhead = share * (1.0 + 1e-9),
                _ => panic!("{remedy:?}"),
            }
            let mended = choose(&targets, &limits, &link(0.001, rate));
            prop_assert!(mended.reaches(Target::SurviveBurst), "{remedy:?} does not: {:?}", mended.unreached);
        }
    }

    #[test]
    fn lies_in_the_input_neither_panic_nor_promise(
        (loss, rate, share) in (lie(), lie(), lie()),
        (block_symbols, symbol_bytes, min) in (0usize..6000, 0usize..9000, 0usize..9000),
        (residual, burst_s) in (prop::option::of(lie()), 0u64..3),
    ) {
        // The largest tables take a while to compute without optimisation.
        let block_symbols = if block_symbols > 600 { block_symbols % 600 } else { block_symbols };
        let targets = Targets { residual, survive_burst: MS * 1000 * burst_s as u32, max_overhead: share, min };
        let limits = Limits { symbol_bytes, ..limits(block_symbols, 20) };
        let plan = choose(&targets, &limits, &link(loss, rate));
        prop_assert!(plan.block_symbols >= 1 && plan.repair.repair_symbols(1) >= min.min(4096));
        if residual.is_some() && (loss.is_nan() || loss > MOST_LOSS) {
            prop_assert!(!plan.reaches(Target::Residual));
        }
        let now = Instant::now();
        let mut planner = Planner::new(targets, limits, &link(rate, loss), now);
        planner.update(&link(loss, rate), now);
    }
}

fn lie() -> impl Strategy<Value = f64> {
    let lies = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.0, 1e-300, 0.01, 0.5, 1.0, 1e300];
    (0..lies.len()).prop_map(move |at| lies[at])
}

#[test]
fn an_idle_link_has_short_blocks_and_a_stream_long_ones() {
    let targets = targets(Some(1e-9), 2, 0.5, 2);
    let idle = choose(&targets, &limits(512, 20), &link(0.01, 5.0));
    assert_eq!((idle.close_when_idle, idle.close_after), (CLOSE_WHEN_IDLE, CLOSE_AFTER));
    assert_eq!((idle.unreached.len(), idle.survive_burst), (0, 2 * MS));
    let stream = choose(&targets, &limits(512, 20), &link(0.01, megabits(200.0)));
    assert!(stream.unreached.is_empty() && stream.close_after > CLOSE_AFTER && stream.close_after < 20 * MS);
    assert!(stream.overhead_at(megabits(200.0)) <= 0.5);
}

#[test]
fn two_milliseconds_ten_percent_and_five_megabits_are_not_reached_and_that_is_told() {
    let plan = choose(&targets(Some(1e-9), 2, 0.1, 2), &limits(512, 20), &link(0.001, megabits(5.0)));
    assert!(!plan.reaches(Target::SurviveBurst));
    assert!(plan.survive_burst.is_zero());
    let words = plan.unreached.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(words.contains("survive_burst is not reached: it needs") && words.contains("close_after: "), "{words}");
}

#[test]
fn an_old_peer_gets_no_late_repair() {
    let old = Link { peer_knows_late: false, ..link(0.01, 5.0) };
    let plan = choose(&targets(Some(1e-9), 2, 0.5, 2), &limits(64, 20), &old);
    assert!(plan.reaches(Target::Residual) && !plan.reaches(Target::SurviveBurst));
    assert_eq!(plan.unreached[0].cause, Cause::PeerWithoutLate);
}

#[test]
fn each_target_alone_has_an_effect() {
    let nothing = targets(None, 0, 1.0, 0);
    let plan = |targets| choose(&targets, &limits(64, 20), &link(0.01, 5.0));
    assert!(plan(nothing).repair.is_none());
    assert_eq!(plan(Targets { min: 3, ..nothing }).repair.repair_symbols(1), 3);
    assert!(plan(Targets { residual: Some(1e-9), ..nothing }).repair.repair_symbols(1) >= 4);
    assert_eq!(plan(Targets { survive_burst: MS, ..nothing }).survive_burst, MS);
    let stream = |share| choose(&targets(Some(1e-9), 0, share, 0), &limits(64, 20), &link(0.01, megabits(50.0)));
    assert!(stream(0.3).close_after > stream(3.0).close_after);
}

/// A planner and its clock.
struct Bench {
    planner: Planner,
    begin: Instant,
}

impl Bench {
    fn new(link: &Link) -> Self {
        let begin = Instant::now();
        Self { planner: Planner::new(targets(Some(1e-9), 2, 0.5, 2), limits(256, 20), link, begin), begin }
    }

    fn at(&mut self, milliseconds: u64, link: &Link) -> Option<Change> {
        self.planner.update(link, self.begin + Duration::from_millis(milliseconds))
    }
}

#[test]
fn a_worse_link_changes_the_plan_at_once_and_a_better_one_after_a_minute() {
    let mut bench = Bench::new(&link(0.001, 5.0));
    let before = bench.planner.plan().repair.repair_symbols(4);
    let change = bench.at(1, &link(0.02, 5.0)).unwrap();
    assert!(matches!(change.reason, Reason::Loss(from, to) if from < 0.002 && to >= 0.02));
    assert!(change.to.repair.repair_symbols(4) > before);
    assert_eq!(bench.at(1000, &link(0.001, 5.0)), None);
    assert_eq!(bench.at(60_999, &link(0.001, 5.0)), None);
    let change = bench.at(61_000, &link(0.001, 5.0)).unwrap();
    assert_eq!(change.to.repair.repair_symbols(4), before);
}

#[test]
fn bursts_and_congestion_change_the_plan_and_its_promises() {
    let mut bench = Bench::new(&link(0.001, 5.0));
    let bursts = GilbertElliott::new(0.0, MS * 990, 1.0, MS * 10);
    let change = bench.at(1, &Link { bursts, ..link(0.001, 5.0) }).unwrap();
    assert_eq!((change.reason, change.lost().collect::<Vec<_>>()), (Reason::Bursts, vec![Target::Residual]));
    let change = bench.at(2, &Link { congested: true, ..link(0.001, 5.0) }).unwrap();
    assert_eq!(change.reason, Reason::Congestion(true));
    assert_eq!(change.lost().collect::<Vec<_>>(), [Target::SurviveBurst]);
    assert_eq!(bench.at(3, &link(0.001, 5.0)), None);
    let change = bench.at(5003, &link(0.001, 5.0)).unwrap();
    assert_eq!(change.regained().collect::<Vec<_>>(), [Target::SurviveBurst]);
}

#[test]
fn a_rate_changes_the_plan_when_it_has_held() {
    let mut bench = Bench::new(&link(0.001, 5.0));
    let fast = link(0.001, megabits(200.0));
    assert_eq!(bench.at(0, &fast), None);
    assert_eq!(bench.at(900, &link(0.001, 5.0)), None, "a moment is no rate");
    assert_eq!(bench.at(1000, &fast), None);
    assert!(matches!(bench.at(2000, &fast).unwrap().reason, Reason::Rate(from, to) if from < to));
    assert!(bench.planner.plan().close_after > CLOSE_AFTER);
    assert_eq!(bench.at(2001, &link(0.001, 5.0)), None);
    assert!(bench.at(7001, &link(0.001, 5.0)).is_some());
    assert_eq!(bench.planner.plan().close_after, CLOSE_AFTER);
}

#[test]
fn an_unchanged_link_costs_no_computation() {
    let mut bench = Bench::new(&link(0.001, 100.0));
    for turn in 0..10_000_u32 {
        // The estimates move within their steps, and the rate within its band.
        let trembling = link(0.001 * (1.0 - 0.1 * f64::from(turn % 3)), 100.0 + f64::from(turn % 40));
        assert_eq!(bench.at(turn.into(), &trembling), None);
    }
    assert_eq!(bench.planner.computations(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn noise_changes_the_plan_seldom(
        noise in prop::collection::vec((0.2_f64..5.0, 0.2_f64..5.0, prop::bool::weighted(0.1)), 600),
    ) {
        let mut bench = Bench::new(&link(0.002, 1000.0));
        let mut changes = Vec::new();
        for (turn, &(loss, rate, congested)) in noise.iter().enumerate() {
            // Ten estimates a second; the rate stays for two seconds.
            let rate = 1000.0 * if turn % 20 == 0 { rate } else { noise[turn / 20 * 20].1 };
            let noisy = Link { congested, ..link(0.002 * loss, rate) };
            changes.extend(bench.at(100 * turn as u64, &noisy).map(|_| turn));
        }
        // In a minute: what may wait, each followed by a worse link again, and the steps up to the worst loss.
        let steps = (5_f64.log10() * 8.0) as usize + 2;
        prop_assert!(changes.len() <= 3 * CHANGES_A_MINUTE + steps, "{} changes", changes.len());
    }
}
