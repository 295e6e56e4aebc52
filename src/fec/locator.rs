//! The engine under the crate's own decoder, with a cheaper error locator.
//!
//! The crate's decoder asks its engine for the locator polynomial at all 65,536 points of the field, which takes 0.1 to
//! 0.2 ms for every block. Only the points of the block are used. They lie in a subspace of 2^b points, which contains
//! x + y for any two of its points. So the Walsh-Hadamard transform that adds up the logarithms of the distances can
//! have 2^b points, too. Transforming forth and back multiplies by 2^b; multiplying by 2^(16-b) undoes this, because
//! 2^16 = 1 modulo 65535.
//!
//! This module does not decode; it only shortens that one step.

use reed_solomon_simd::engine::{Engine, GF_ORDER, GfElement, ShardsRefMut, tables};

use super::engine::FieldEngine;

/// The engine of this processor with another `eval_poly`.
pub(super) struct ShortLocator(FieldEngine);

impl ShortLocator {
    pub(super) fn new() -> Self {
        Self(FieldEngine::new())
    }
}

impl Engine for ShortLocator {
    fn fft(&self, data: &mut ShardsRefMut<'_>, pos: usize, size: usize, used: usize, skew: usize) {
        self.0.fft(data, pos, size, used, skew);
    }

    fn ifft(&self, data: &mut ShardsRefMut<'_>, pos: usize, size: usize, used: usize, skew: usize) {
        self.0.ifft(data, pos, size, used, skew);
    }

    fn mul(&self, x: &mut [[u8; 64]], log_m: GfElement) {
        self.0.mul(x, log_m);
    }

    fn eval_poly(erasures: &mut [GfElement; GF_ORDER], used: usize) {
        // With more repair than source symbols the crate marks all points after the block as erased. The points outside
        // the subspace contribute the same factor to every point, which cancels in the decoder's division.
        let used = if used < GF_ORDER { used } else { erasures.iter().rposition(|&e| e == 0).map_or(1, |i| i + 1) };
        let points = used.next_power_of_two();
        let (erasures, _) = erasures.split_at_mut(points);

        let mut distances = vec![0; points];
        distances.copy_from_slice(&tables::get_exp_log().log[..points]);
        distances[0] = 0;
        walsh_hadamard(&mut distances);
        walsh_hadamard(erasures);
        let undo = 1_u64 << (16 - points.trailing_zeros());
        for (e, &d) in erasures.iter_mut().zip(&distances) {
            let product = u64::from(*e) * u64::from(d) * undo;
            *e = GfElement::try_from(product % 65_535).expect("a remainder modulo 65535 fits");
        }
        walsh_hadamard(erasures);
    }
}

/// The Walsh-Hadamard transform modulo 65535, in place; the length is a power of two.
fn walsh_hadamard(values: &mut [GfElement]) {
    let mut distance = 1;
    while distance < values.len() {
        for pair in values.chunks_exact_mut(2 * distance) {
            let (low, high) = pair.split_at_mut(distance);
            for (a, b) in low.iter_mut().zip(high) {
                let (sum, carry) = a.overflowing_add(*b);
                let (difference, borrow) = a.overflowing_sub(*b);
                *a = sum.wrapping_add(GfElement::from(carry));
                *b = difference.wrapping_sub(GfElement::from(borrow));
            }
        }
        distance *= 2;
    }
}
