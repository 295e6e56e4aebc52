//! The upper confidence bound of a probability, after C. Clopper and E. Pearson (1934).
//!
//! Of `trials` independent trials, `hits` came true. The bound is the probability with which so few would come true in only
//! one of twenty such series. It is exact for small counts, where an approximation by the normal distribution would be far too
//! low: 3/n for no hit in n trials. Both counts may be broken numbers, as those of evidence that is half forgotten. That the
//! trials are independent is the caller's business.

use crate::fec::beta;

/// How likely the probability is below the bound.
pub const CONFIDENCE: f64 = 0.95;
/// More hits are scaled down to this many, and the trials with them. The bound is then at most 6 % above the exact one, and
/// its computation stays short.
const HITS_MAX: f64 = 1000.0;

/// The probability below which the true one lies with [`CONFIDENCE`]; 1 without trials.
pub fn upper_bound(hits: f64, trials: f64) -> f64 {
    let (hits, trials) = (hits.max(0.0), trials.max(0.0));
    // What is not a number is not less than anything.
    let are_counts = hits < trials && trials.is_finite();
    if !are_counts {
        return 1.0;
    }
    let scale = (HITS_MAX / hits).min(1.0);
    let (a, b) = (hits * scale + 1.0, (trials - hits) * scale);
    // Probabilities may be tiny, so their logarithm is halved.
    let (mut below, mut above) = ((hits / trials).max(1e-18).ln(), 0.0);
    for _ in 0..50 {
        let middle = f64::midpoint(below, above);
        if beta::distribution(a, b, middle.exp()) < CONFIDENCE { below = middle } else { above = middle }
    }
    above.exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fec::residual::residual;
    use proptest::prelude::*;

    #[test]
    fn known_values_are_reproduced() {
        // The exact bound without a hit is 1 - 0.05^(1/n); the others are from tables.
        for (hits, trials, bound) in [
            (0.0, 1.0, 0.95),
            (0.0, 10.0, 0.258_865_6),
            (0.0, 1e4, 2.995_284e-4),
            (0.0, 1e9, 2.995_732e-9),
            (1.0, 10.0, 0.394_163_3),
            (5.0, 10.0, 0.777_559_3),
            (10.0, 10.0, 1.0),
            (0.0, 0.0, 1.0),
        ] {
            let found = upper_bound(hits, trials);
            assert!((found / bound - 1.0).abs() < 1e-5, "{hits} of {trials}: {found}, not {bound}");
        }
    }

    #[test]
    fn what_is_no_count_bounds_nothing() {
        for (hits, trials) in [(f64::NAN, 5.0), (5.0, f64::NAN), (9.0, 5.0), (0.0, f64::INFINITY), (-1.0, -1.0)] {
            let found = upper_bound(hits, trials);
            assert!((0.0..=1.0).contains(&found), "{hits} of {trials}: {found}");
        }
    }

    #[test]
    fn factorials_are_reproduced() {
        let mut factorial = 0.0;
        for n in 1..200 {
            let found = beta::ln_gamma(f64::from(n) + 1.0);
            factorial += f64::from(n).ln();
            assert!((found - factorial).abs() < 1e-11 * factorial.max(1.0), "{n}: {found}, not {factorial}");
        }
    }

    proptest! {
        #[test]
        fn so_few_hits_are_as_unlikely_as_promised(hits in 0usize..900, more in 1usize..5000) {
            let trials = hits + more;
            let bound = upper_bound(hits as f64, trials as f64);
            // The chance of more hits than these is the tail of the binomial distribution.
            let more_hits = residual(trials - hits, hits, bound);
            prop_assert!((more_hits - CONFIDENCE).abs() < 1e-7, "{}", more_hits);
        }

        #[test]
        fn many_hits_cost_little_exactness(hits in 1000usize..20_000, share in 0.001..0.9) {
            let trials = (hits as f64 / share) as usize;
            let found = upper_bound(hits as f64, trials as f64);
            let share = hits as f64 / trials as f64;
            prop_assert!(residual(trials - hits, hits, found) >= CONFIDENCE - 1e-9);
            prop_assert!(found <= share * 1.06, "{} for {}", found, share);
        }

        #[test]
        fn every_pair_of_counts_has_a_bound(hits in 0.0..1e20, trials in 0.0..1e20) {
            let found = upper_bound(hits, trials);
            prop_assert!((0.0..=1.0).contains(&found) && found >= (hits / trials).min(1.0) * (1.0 - 1e-9), "{}", found);
        }
    }
}
