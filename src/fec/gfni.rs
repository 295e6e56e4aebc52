//! The engine of the code on x86-64 processors that multiply bit matrices (GFNI, since 2019).
//!
//! The product with one element of GF(2^16) is linear over bits: a matrix of 16 x 16 bits, here four of 8 x 8, one for each
//! pair of input and output bytes. `GF2P8AFFINEQB` applies an 8 x 8 matrix to 32 bytes at once. So a product of 32
//! elements takes four of them, where the crate's engine for AVX2 takes eight look-ups and six operations around them. Two
//! layers of a transform run in registers, with one pass over the memory.
//!
//! The transforms are those of the crate's engines (see `Engine`), and give the same bytes. The `unsafe` in this file is of
//! two kinds: vector instructions behind the check for them, and loads and stores of a whole piece.
#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m256i, _mm256_gf2p8affine_epi64_epi8, _mm256_loadu_si256, _mm256_set1_epi64x, _mm256_storeu_si256,
    _mm256_xor_si256,
};
use std::sync::LazyLock;

use reed_solomon_simd::engine::{Engine, GF_MODULUS, GF_ORDER, GfElement, ShardsRefMut, tables};

use super::layout::Piece;

/// The matrices of the product with one element, from the low and the high byte to both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Factor {
    low_to_low: u64,
    high_to_low: u64,
    low_to_high: u64,
    high_to_high: u64,
}

impl Factor {
    /// The product with zero: a skew factor of [`GF_MODULUS`] stands for it.
    const ZERO: Self = Self { low_to_low: 0, high_to_low: 0, low_to_high: 0, high_to_high: 0 };

    fn new(log: GfElement) -> Self {
        let (exp, logs) = (&tables::get_exp_log().exp, &tables::get_exp_log().log);
        let column = |bit: usize| tables::mul(1 << bit, log, exp, logs).to_le_bytes();
        let matrix = |first: usize, byte: usize| {
            let columns: [u8; 8] = std::array::from_fn(|bit| column(first + bit)[byte]);
            rows(u64::from_le_bytes(columns))
        };
        Self {
            low_to_low: matrix(0, 0),
            high_to_low: matrix(8, 0),
            low_to_high: matrix(0, 1),
            high_to_high: matrix(8, 1),
        }
    }
}

/// Turns the columns of a matrix, one in each byte, into the form of the instruction: its rows, the first in the highest
/// byte. The transposition swaps blocks of 1, 2 and 4 bits ("Hacker's Delight", section 7-3).
const fn rows(columns: u64) -> u64 {
    const fn swap(bits: u64, mask: u64, by: u32) -> u64 {
        let differ = (bits ^ (bits >> by)) & mask;
        bits ^ differ ^ (differ << by)
    }
    let bits = swap(columns, 0x00aa_00aa_00aa_00aa, 7);
    let bits = swap(bits, 0x0000_cccc_0000_cccc, 14);
    swap(bits, 0x0000_0000_f0f0_f0f0, 28).swap_bytes()
}

/// The factors of all elements by their logarithms: 2 MB, computed once.
static FACTORS: LazyLock<Box<[Factor]>> =
    LazyLock::new(|| (0..GF_ORDER).map(|log| Factor::new(log as GfElement)).collect());

/// An engine; it exists only where the processor has the instructions.
pub(super) struct Gfni {
    factors: &'static [Factor],
    skew: &'static tables::Skew,
}

impl Gfni {
    /// `None` where the processor does not have them.
    pub(super) fn new() -> Option<Self> {
        let has = is_x86_feature_detected!("gfni") && is_x86_feature_detected!("avx2");
        has.then(|| Self { factors: &FACTORS, skew: tables::get_skew() })
    }

    fn skew(&self, at: usize) -> Factor {
        match self.skew[at] {
            GF_MODULUS => Factor::ZERO,
            log => self.factors[usize::from(log)],
        }
    }

    /// The factors of two layers: of the near pairs 0-1 and 2-3, and of both far pairs.
    fn two_layers(&self, start: usize, distance: usize) -> [Factor; 3] {
        [start, start + distance * 2, start + distance].map(|at| self.skew(at))
    }
}

impl Engine for Gfni {
    fn fft(&self, data: &mut ShardsRefMut<'_>, pos: usize, size: usize, used: usize, skew: usize) {
        let (mut whole, mut distance) = (size, size >> 2);
        while distance != 0 {
            for start in (0..used).step_by(whole) {
                let factors = self.two_layers(start + distance + skew - 1, distance);
                for at in pos + start..pos + start + distance {
                    let (a, b, c, d) = data.dist4_mut(at, distance);
                    // SAFETY: an engine exists only where the processor has these instructions.
                    unsafe { forward_4([a, b, c, d], &factors) };
                }
            }
            (whole, distance) = (distance, distance >> 2);
        }
        if whole == 2 {
            for start in (0..used).step_by(2) {
                let factor = self.skew(start + skew);
                let (a, b) = data.dist2_mut(pos + start, 1);
                // SAFETY: as above.
                unsafe { forward_2(a, b, &factor) };
            }
        }
    }

    fn ifft(&self, data: &mut ShardsRefMut<'_>, pos: usize, size: usize, used: usize, skew: usize) {
        let mut distance = 1;
        while distance * 4 <= size {
            for start in (0..used).step_by(distance * 4) {
                let factors = self.two_layers(start + distance + skew - 1, distance);
                for at in pos + start..pos + start + distance {
                    let (a, b, c, d) = data.dist4_mut(at, distance);
                    // SAFETY: an engine exists only where the processor has these instructions.
                    unsafe { inverse_4([a, b, c, d], &factors) };
                }
            }
            distance *= 4;
        }
        if distance < size {
            let factor = self.skew(distance + skew - 1);
            for at in pos..pos + distance {
                let (a, b) = data.dist2_mut(at, distance);
                // SAFETY: as above.
                unsafe { inverse_2(a, b, &factor) };
            }
        }
    }

    fn mul(&self, x: &mut [Piece], log: GfElement) {
        // SAFETY: an engine exists only where the processor has these instructions.
        unsafe { multiply(x, &self.factors[usize::from(log)]) };
    }
}

/// 32 elements: their low bytes and their high bytes.
#[derive(Clone, Copy)]
struct Elements {
    low: __m256i,
    high: __m256i,
}

impl Elements {
    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn load(piece: &Piece) -> Self {
        let half = piece.as_ptr().cast::<__m256i>();
        // SAFETY: a piece has 64 bytes, and neither load needs an alignment.
        unsafe { Self { low: _mm256_loadu_si256(half), high: _mm256_loadu_si256(half.add(1)) } }
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn store(self, piece: &mut Piece) {
        let half = piece.as_mut_ptr().cast::<__m256i>();
        // SAFETY: a piece has 64 bytes, and neither store needs an alignment.
        unsafe {
            _mm256_storeu_si256(half, self.low);
            _mm256_storeu_si256(half.add(1), self.high);
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn plus(self, other: Self) -> Self {
        Self { low: _mm256_xor_si256(self.low, other.low), high: _mm256_xor_si256(self.high, other.high) }
    }

    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn times(self, factor: &WideFactor) -> Self {
        let [low_to_low, high_to_low, low_to_high, high_to_high] = factor.0;
        Self {
            low: _mm256_xor_si256(
                _mm256_gf2p8affine_epi64_epi8::<0>(self.low, low_to_low),
                _mm256_gf2p8affine_epi64_epi8::<0>(self.high, high_to_low),
            ),
            high: _mm256_xor_si256(
                _mm256_gf2p8affine_epi64_epi8::<0>(self.low, low_to_high),
                _mm256_gf2p8affine_epi64_epi8::<0>(self.high, high_to_high),
            ),
        }
    }
}

/// A factor with each matrix repeated for all groups of eight bytes.
struct WideFactor([__m256i; 4]);

impl WideFactor {
    #[inline]
    #[target_feature(enable = "avx2,gfni")]
    fn new(factor: &Factor) -> Self {
        let &Factor { low_to_low, high_to_low, low_to_high, high_to_high } = factor;
        let [a, b] = [_mm256_set1_epi64x(low_to_low.cast_signed()), _mm256_set1_epi64x(high_to_low.cast_signed())];
        let [c, d] = [_mm256_set1_epi64x(low_to_high.cast_signed()), _mm256_set1_epi64x(high_to_high.cast_signed())];
        Self([a, b, c, d])
    }
}

#[target_feature(enable = "avx2,gfni")]
fn multiply(symbol: &mut [Piece], factor: &Factor) {
    let factor = WideFactor::new(factor);
    for piece in symbol {
        Elements::load(piece).times(&factor).store(piece);
    }
}

/// A layer of the transform: a += b · factor, then b += a.
#[target_feature(enable = "avx2,gfni")]
fn forward_2(a: &mut [Piece], b: &mut [Piece], factor: &Factor) {
    let factor = WideFactor::new(factor);
    for (a, b) in a.iter_mut().zip(b) {
        let [x, y] = forward([Elements::load(a), Elements::load(b)], &factor);
        x.store(a);
        y.store(b);
    }
}

/// A layer of the inverse transform: b += a, then a += b · factor.
#[target_feature(enable = "avx2,gfni")]
fn inverse_2(a: &mut [Piece], b: &mut [Piece], factor: &Factor) {
    let factor = WideFactor::new(factor);
    for (a, b) in a.iter_mut().zip(b) {
        let [x, y] = inverse([Elements::load(a), Elements::load(b)], &factor);
        x.store(a);
        y.store(b);
    }
}

/// Two layers of the transform.
#[target_feature(enable = "avx2,gfni")]
fn forward_4([a, b, c, d]: [&mut [Piece]; 4], [near_0, near_2, far]: &[Factor; 3]) {
    let (near_0, near_2, far) = (WideFactor::new(near_0), WideFactor::new(near_2), WideFactor::new(far));
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        let [x, z] = forward([Elements::load(a), Elements::load(c)], &far);
        let [y, w] = forward([Elements::load(b), Elements::load(d)], &far);
        let [x, y] = forward([x, y], &near_0);
        let [z, w] = forward([z, w], &near_2);
        x.store(a);
        y.store(b);
        z.store(c);
        w.store(d);
    }
}

/// Two layers of the inverse transform.
#[target_feature(enable = "avx2,gfni")]
fn inverse_4([a, b, c, d]: [&mut [Piece]; 4], [near_0, near_2, far]: &[Factor; 3]) {
    let (near_0, near_2, far) = (WideFactor::new(near_0), WideFactor::new(near_2), WideFactor::new(far));
    for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
        let [x, y] = inverse([Elements::load(a), Elements::load(b)], &near_0);
        let [z, w] = inverse([Elements::load(c), Elements::load(d)], &near_2);
        let [x, z] = inverse([x, z], &far);
        let [y, w] = inverse([y, w], &far);
        x.store(a);
        y.store(b);
        z.store(c);
        w.store(d);
    }
}

#[inline]
#[target_feature(enable = "avx2,gfni")]
fn forward([x, y]: [Elements; 2], factor: &WideFactor) -> [Elements; 2] {
    let x = x.plus(y.times(factor));
    [x, y.plus(x)]
}

#[inline]
#[target_feature(enable = "avx2,gfni")]
fn inverse([x, y]: [Elements; 2], factor: &WideFactor) -> [Elements; 2] {
    let y = y.plus(x);
    [x.plus(y.times(factor)), y]
}
