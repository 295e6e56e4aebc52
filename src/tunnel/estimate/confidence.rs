//! The upper confidence bound of a probability, after C. Clopper and E. Pearson (1934).
//!
//! Of `trials` independent trials, `hits` came true. The bound is the probability with which so few would come true in only
//! one of twenty such series. It is exact for small counts, where an approximation by the normal distribution would be far too
//! low: 3/n for no hit in n trials. Both counts may be broken numbers, as those of evidence that is half forgotten. That the
//! trials are independent is the caller's business.

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
        if beta_distribution(a, b, middle.exp()) < CONFIDENCE { below = middle } else { above = middle }
    }
    above.exp()
}

/// The regularized incomplete beta function: the chance that a value of the beta distribution with the parameters `a` and
/// `b` is below `x`.
fn beta_distribution(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let ln_factor = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    // The fraction converges quickly only on this side of the mean.
    if x < (a + 1.0) / (a + b + 2.0) {
        ln_factor.exp() * beta_fraction(a, b, x) / a
    } else {
        1.0 - ln_factor.exp() * beta_fraction(b, a, 1.0 - x) / b
    }
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by the method of Lentz.
fn beta_fraction(a: f64, b: f64, x: f64) -> f64 {
    let not_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut numerator = 1.0;
    let mut denominator = not_zero(1.0 - (a + b) * x / (a + 1.0)).recip();
    let mut fraction = denominator;
    for step in 1..2000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            denominator = not_zero(1.0 + term * denominator).recip();
            numerator = not_zero(1.0 + term / numerator);
            change = denominator * numerator;
            fraction *= change;
        }
        if (change - 1.0).abs() < 1e-14 {
            break;
        }
    }
    fraction
}

/// The logarithm of the gamma function of a positive number, after C. Lanczos.
fn ln_gamma(x: f64) -> f64 {
    const SHIFT: f64 = 7.0;
    const FIRST: f64 = 0.999_999_999_999_809_9;
    const TERMS: [f64; 8] = [
        676.520_368_121_885_1,
        -1_259.139_216_722_402_8,
        771.323_428_777_653_1,
        -176.615_029_162_140_6,
        12.507_343_278_686_905,
        -0.138_571_095_265_720_12,
        9.984_369_578_019_572e-6,
        1.505_632_735_149_311_6e-7,
    ];
    let terms = TERMS.iter().zip(0_u8..).map(|(term, number)| term / (x + f64::from(number)));
    let sum = FIRST + terms.sum::<f64>();
    let base = x + SHIFT - 0.5;
    (std::f64::consts::TAU.sqrt() * sum).ln() + (x - 0.5) * base.ln() - base
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
            let found = ln_gamma(f64::from(n) + 1.0);
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
