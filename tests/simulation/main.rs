//! Two appliances, two bad links and a reference model on virtual time, thousands of times.
//!
//! A run is told by its seed alone. `ONWIRE_SEED=7` runs one seed, `ONWIRE_SEEDS=500` as many from 0.

mod block_outcomes;
mod claims;
mod delivered_bytes;
mod endpoint;
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
fn whatever_the_links_do_the_promises_hold() {
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
        assert!(total.delivered * 2 > total.taken, "most packets arrive, or the storm hides what is tested: {total:?}");
        assert!(total.recovered_blocks > 0 && total.unrecoverable_blocks > 0, "{total:?}");
        assert!(total.told_decoded > total.told_lost && total.told_lost > 0, "{total:?}");
        // What is excused must not swallow the test, and what protects must have been needed.
        let excused = total.excused_lost + total.excused_late + total.excused_restart;
        assert!(total.kept + total.rebuilt > 3 * excused && total.rebuilt > total.excused_lost, "{total:?}");
        assert!(total.positions_kept > 5 * total.positions_excused, "{total:?}");
        assert!(total.violations > 0 && total.barriers_granted > 0 && total.barriers_denied > 0, "{total:?}");
        let checked = number_from("ONWIRE_SEEDS").unwrap_or(SEEDS) as usize;
        assert!(total.kept + total.rebuilt >= checked, "one block for each seed at least: {total:?}");
        assert!(total.silent_tails > 0 && total.whole_although_lost > 0, "each happens now and then: {total:?}");
    }
}
