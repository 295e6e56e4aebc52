//! How far a counted share may be from the true one: the Clopper-Pearson interval, which is exact for any count.
//!
//! Its bounds are quantiles of beta distributions, found by bisection of the regularised incomplete beta function.

use crate::fec::beta;

/// The interval that contains the true share with at least this confidence, if `count` of `of` independent trials had the
/// event.
pub fn clopper_pearson(count: u64, of: u64, confidence: f64) -> [f64; 2] {
    if of == 0 {
        return [0.0, 1.0];
    }
    let tail = (1.0 - confidence) / 2.0;
    let (x, n) = (count.min(of) as f64, of as f64);
    let low = if x == 0.0 { 0.0 } else { quantile(tail, x, n - x + 1.0) };
    let high = if x == n { 1.0 } else { quantile(1.0 - tail, x + 1.0, n - x) };
    [low, high]
}

/// The value below which a beta distribution has this share.
fn quantile(share: f64, a: f64, b: f64) -> f64 {
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..200 {
        let middle = (low + high) / 2.0;
        if beta::distribution(a, b, middle) < share { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn assert_near(found: [f64; 2], expected: [f64; 2]) {
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 2e-4, "{found} is not {expected}");
        }
    }

    #[test]
    fn published_intervals_are_reproduced() {
        assert_near(clopper_pearson(5, 10, 0.95), [0.1871, 0.8129]);
        assert_near(clopper_pearson(1, 20, 0.95), [0.0013, 0.2487]);
        assert_near(clopper_pearson(0, 100, 0.95), [0.0, 0.0362]);
        // No failure in N trials: 3/N is the well-known upper bound of one side at 95 %, which is both sides at 90 %.
        let [low, high] = clopper_pearson(0, 1_000_000, 0.9);
        assert!(low == 0.0 && (high * 1e6 - 2.9957).abs() < 1e-3, "{high}");
        assert_eq!(clopper_pearson(7, 7, 0.9)[1], 1.0);
        assert_eq!(clopper_pearson(0, 0, 0.9), [0.0, 1.0]);
    }

    /// P(Bin(n, p) >= x), summed.
    fn at_least(x: u64, n: u64, p: f64) -> f64 {
        let ln = |i: u64| beta::ln_gamma(i as f64 + 1.0);
        let term = |i: u64| (ln(n) - ln(i) - ln(n - i) + i as f64 * p.ln() + (n - i) as f64 * (-p).ln_1p()).exp();
        (x..=n).map(term).sum()
    }

    proptest! {
        #[test]
        fn each_bound_leaves_half_of_the_rest_in_its_tail((n, x) in (1u64..400).prop_flat_map(|n| (Just(n), 0..=n))) {
            let [low, high] = clopper_pearson(x, n, 0.99);
            prop_assert!(low <= x as f64 / n as f64 && x as f64 / n as f64 <= high);
            if x > 0 {
                prop_assert!((at_least(x, n, low) - 0.005).abs() < 1e-6);
            }
            if x < n {
                prop_assert!((1.0 - at_least(x + 1, n, high) - 0.005).abs() < 1e-6);
            }
        }
    }
}
