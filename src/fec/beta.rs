//! The beta distribution, from which confidence bounds of a probability follow (C. Clopper and E. Pearson, 1934).

/// The regularized incomplete beta function: the chance that a value of the beta distribution with the parameters `a` and
/// `b` is below `x`.
pub fn distribution(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    let ln_factor = ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p();
    // The fraction converges quickly only on this side of the mean.
    if x < (a + 1.0) / (a + b + 2.0) {
        ln_factor.exp() * fraction(a, b, x) / a
    } else {
        1.0 - ln_factor.exp() * fraction(b, a, 1.0 - x) / b
    }
}

/// The continued fraction of the incomplete beta function (DLMF 8.17.22), by the method of Lentz.
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    let not_zero = |value: f64| if value.abs() < 1e-300 { 1e-300 } else { value };
    let mut numerator = 1.0;
    let mut denominator = not_zero(1.0 - (a + b) * x / (a + 1.0)).recip();
    let mut value = denominator;
    for step in 1..2000 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            denominator = not_zero(1.0 + term * denominator).recip();
            numerator = not_zero(1.0 + term / numerator);
            change = denominator * numerator;
            value *= change;
        }
        if (change - 1.0).abs() < 1e-14 {
            break;
        }
    }
    value
}

/// The logarithm of the gamma function of a positive number, after C. Lanczos.
pub fn ln_gamma(x: f64) -> f64 {
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
