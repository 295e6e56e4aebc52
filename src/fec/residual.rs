//! Residual loss: the chance that a block cannot be rebuilt.
//!
//! A block of k source and m repair symbols is lost when more than m of its n = k + m symbols are lost, whichever they
//! are. If each symbol is lost with probability p, independently of the others, that is the upper tail of the binomial
//! distribution:
//!
//! ```text
//! residual(k, m, p) = P(Bin(n, p) > m) = Σ C(n, i) p^i (1-p)^(n-i)    over i = m+1 ..= n
//! ```
//!
//! Terms are summed outwards from the largest, relative to it, and the largest is kept as a logarithm: the result is
//! exact to 10 digits or more, and its logarithm stays exact however small it is. Bursts are not modelled here.

/// The chance that a block of `k` source and `m` repair symbols cannot be rebuilt at independent symbol loss `p`.
///
/// `p` is clamped to 0 to 1, and is 1 when it is not a number. Below about 1e-308 the result is 0: use [`ln_residual`]
/// there.
pub fn residual(k: usize, m: usize, p: f64) -> f64 {
    ln_residual(k, m, p).exp()
}

/// The natural logarithm of [`residual`]; minus infinity when the block cannot be lost.
pub fn ln_residual(k: usize, m: usize, p: f64) -> f64 {
    let p = if p.is_nan() { 1.0 } else { p.clamp(0.0, 1.0) };
    if k == 0 || p == 0.0 {
        return f64::NEG_INFINITY;
    }
    if p == 1.0 {
        return 0.0;
    }
    let n = k + m;
    let odds = p / (1.0 - p);

    // The distribution rises up to its mode and falls after it. The cast drops the fraction of a number below n + 1.
    let mode = ((n + 1) as f64 * p) as usize;
    let top = mode.clamp(m + 1, n);
    let mut sum = 1.0;
    let mut term = 1.0;
    for i in top..n {
        term *= (n - i) as f64 / (i + 1) as f64 * odds;
        sum += term;
        if term < sum * f64::EPSILON / 16.0 {
            break;
        }
    }
    term = 1.0;
    for i in (m + 2..=top).rev() {
        term *= i as f64 / ((n - i + 1) as f64 * odds);
        sum += term;
        if term < sum * f64::EPSILON / 16.0 {
            break;
        }
    }
    let ln_top = ln_choose(n, top) + top as f64 * p.ln() + (n - top) as f64 * (-p).ln_1p();
    (ln_top + sum.ln()).min(0.0)
}

/// The logarithm of the number of ways to take `i` out of `n`.
fn ln_choose(n: usize, i: usize) -> f64 {
    let i = i.min(n - i);
    (0..i).map(|j| ((n - j) as f64 / (j + 1) as f64).ln()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enumerated(k: usize, m: usize, p: f64) -> f64 {
        (0_u32..1 << (k + m))
            .map(|pattern| pattern.count_ones() as usize)
            .filter(|&lost| lost > m)
            .map(|lost| p.powi(lost as i32) * (1.0 - p).powi((k + m - lost) as i32))
            .sum()
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64) {
        let error = (found / expected - 1.0).abs();
        assert!(error < 1e-11, "{found:e} is not {expected:e}: off by {error:e}");
    }

    #[test]
    fn the_chance_equals_the_sum_over_all_patterns() {
        for k in 1..=8 {
            for m in 0..=5 {
                for p in [1e-9, 0.001, 0.02, 0.3, 0.5, 0.9, 0.999] {
                    assert_close(residual(k, m, p), enumerated(k, m, p));
                }
            }
        }
    }

    #[test]
    fn known_values_are_reproduced() {
        // One loss in 125 million, each symbol sent twice: 6.4e-17 (Smoke and Mirrors, FAST 2009).
        assert_close(residual(1, 1, 8e-9), 6.4e-17);
        // From exact rational arithmetic.
        for (k, m, p, expected) in [
            (32, 4, 0.01, 2.911_276_277_919_146_6e-5),
            (64, 8, 0.001, 8.042_060_035_047_44e-17),
            (20, 4, 0.02, 9.897_272_903_439_049e-5),
            (256, 32, 0.05, 9.805_320_868_933_384e-6),
            (1000, 100, 0.001, 5.236_903_702_669_289e-159),
            (1000, 100, 0.2, 1.0),
            (2000, 30, 1e-9, 3.291_329_166_479_996e-211),
        ] {
            assert_close(residual(k, m, p), expected);
        }
    }

    #[test]
    fn extreme_arguments_give_0_or_1() {
        assert_eq!(residual(0, 4, 0.5), 0.0);
        assert_eq!(residual(10, 4, 0.0), 0.0);
        assert_eq!(residual(10, 4, -1.0), 0.0);
        assert_eq!(residual(10, 4, 1.0), 1.0);
        assert_eq!(residual(10, 4, f64::NAN), 1.0);
        assert_close(residual(10_000, 4, 0.5), 1.0);
        assert!(ln_residual(1000, 500, 1e-6) < -4000.0);
    }

    #[test]
    fn the_chance_falls_with_repair_symbols_and_rises_with_loss_and_length() {
        for k in [1, 5, 32, 64, 500] {
            for m in 0..12 {
                for p in [1e-6, 0.001, 0.01, 0.05] {
                    let here = ln_residual(k, m, p);
                    assert!(ln_residual(k, m + 1, p) < here);
                    assert!(ln_residual(k, m, p * 1.1) > here);
                    assert!(ln_residual(k + 1, m, p) > here);
                }
            }
        }
    }
}
