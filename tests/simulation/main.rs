//! Two appliances and two faulty links on virtual time, checked against a reference model over thousands of seeds.
//!
//! A run depends on its seed alone. `ONWIRE_SEED=7` runs one seed, `ONWIRE_SEEDS=500` runs that many from 0. Start with
//! `world`, which runs one scenario; `model` and `claims` check it.

mod block_outcomes;
mod claims;
mod endpoint;
mod expected_reception;
mod flow_model;
mod hosts;
mod keys;
mod link;
mod model;
mod one_way;
mod outcome;
mod packets;
mod protection_driver;
mod scenario;
mod side;
mod spans;
mod turn;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use outcome::Outcome;
use world::World;

const SEEDS: u64 = 10_000;

fn number_from(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number; leave it out or give one")))
}

#[test]
fn packets_arrive_and_protection_claims_hold_whatever_the_links_do() {
    let seeds = match number_from("ONWIRE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from("ONWIRE_SEEDS").unwrap_or(SEEDS),
    };
    let mut total = Outcome::default();
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| World::run(seed))).unwrap_or_else(|_| {
            panic!("seed {seed} failed; again with: ONWIRE_SEED={seed} cargo test --test simulation -- --nocapture")
        });
        total.add(&outcome);
    }
    println!("{total:?}");
    if number_from("ONWIRE_SEED").is_none() {
        assert!(
            total.delivered * 2 > total.taken,
            "most packets must arrive, otherwise the faults hide what is tested: {total:?}"
        );
        assert!(total.recovered_blocks > 0 && total.unrecoverable_blocks > 0, "{total:?}");
        assert!(total.reported_decoded > total.reported_lost && total.reported_lost > 0, "{total:?}");
        // Excused losses must be few, and repair symbols must have been needed.
        let excused = total.excused_lost + total.excused_late + total.excused_restart;
        assert!(total.kept + total.rebuilt > 3 * excused && total.rebuilt > total.excused_lost, "{total:?}");
        assert!(total.positions_kept > 5 * total.positions_excused, "{total:?}");
        assert!(total.violations > 0 && total.barriers_granted > 0 && total.barriers_denied > 0, "{total:?}");
        let checked = number_from("ONWIRE_SEEDS").unwrap_or(SEEDS) as usize;
        assert!(total.kept + total.rebuilt >= checked, "one block for each seed at least: {total:?}");
        assert!(total.late_blocks > checked / 10 && total.early_positions > 0, "late parts must occur: {total:?}");
        assert!(total.silent_tails > 0 && total.whole_although_lost > 0, "each case must occur: {total:?}");
    }
}
