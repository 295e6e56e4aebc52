//! How far a counted share may be from the true one: the Clopper-Pearson interval, which is exact for any count.
//!
//! Its bounds are quantiles of beta distributions, found by bisection of the regularised incomplete beta function.

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
        if incomplete_beta(middle, a, b) < share { low = middle } else { high = middle }
    }
    (low + high) / 2.0
}

/// The regularised incomplete beta function I_x(a, b), by its continued fraction (modified Lentz).
fn incomplete_beta(x: f64, a: f64, b: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    // On this side of the mean the fraction converges fast.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(1.0 - x, b, a);
    }
    let ln_front = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    let not_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / not_zero(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for step in 1..20_000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let before = fraction;
        for term in [even, odd] {
            d = 1.0 / not_zero(1.0 + term * d);
            c = not_zero(1.0 + term / c);
            fraction *= d * c;
        }
        if (fraction / before - 1.0).abs() < 1e-15 {
            break;
        }
    }
    (ln_front.exp() * fraction / a).clamp(0.0, 1.0)
}

/// The logarithm of the gamma function of a positive number (Lanczos, g = 7).
fn ln_gamma(x: f64) -> f64 {
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
    let x = x - 1.0;
    let terms = TERMS.iter().enumerate().map(|(at, term)| term / (x + at as f64 + 1.0));
    let sum = 0.999_999_999_999_809_9 + terms.sum::<f64>();
    let t = x + 7.5;
    0.5 * std::f64::consts::TAU.ln() + (x + 0.5) * t.ln() - t + sum.ln()
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
        let ln = |i: u64| ln_gamma(i as f64 + 1.0);
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
