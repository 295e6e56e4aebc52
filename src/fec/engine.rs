//! The engine of the code: the transforms and products of GF(2^16) by the fastest instructions of this processor.
//!
//! The engines of `reed-solomon-simd` know SSSE3, AVX2 and Neon; [`super::gfni`] stands beside them. All give the same
//! bytes.

use reed_solomon_simd::engine::{DefaultEngine, Engine, GfElement, ShardsRefMut};

#[cfg(target_arch = "x86_64")]
use super::gfni::Gfni;
use super::layout::Piece;

/// The engine of this processor.
pub(super) enum FieldEngine {
    #[cfg(target_arch = "x86_64")]
    Gfni(Gfni),
    OfCrate(DefaultEngine),
}

impl FieldEngine {
    /// The first one fills the tables of the field: up to 9 MB, some milliseconds.
    pub(super) fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(engine) = Gfni::new() {
            return Self::Gfni(engine);
        }
        Self::OfCrate(DefaultEngine::new())
    }
}

impl Engine for FieldEngine {
    fn fft(&self, data: &mut ShardsRefMut<'_>, pos: usize, size: usize, used: usize, skew: usize) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Gfni(engine) => engine.fft(data, pos, size, used, skew),
            Self::OfCrate(engine) => engine.fft(data, pos, size, used, skew),
        }
    }

    fn ifft(&self, data: &mut ShardsRefMut<'_>, pos: usize, size: usize, used: usize, skew: usize) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Gfni(engine) => engine.ifft(data, pos, size, used, skew),
            Self::OfCrate(engine) => engine.ifft(data, pos, size, used, skew),
        }
    }

    fn mul(&self, symbol: &mut [Piece], log: GfElement) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Gfni(engine) => engine.mul(symbol, log),
            Self::OfCrate(engine) => engine.mul(symbol, log),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{RngCore, SeedableRng, rngs::SmallRng};
    use reed_solomon_simd::engine::{GF_MODULUS, NoSimd};

    use super::*;

    /// Symbols of three pieces each.
    const PIECES: usize = 3;

    fn random(symbols: usize, seed: u64) -> Vec<Piece> {
        let mut bytes = vec![[0; 64]; symbols * PIECES];
        SmallRng::seed_from_u64(seed).fill_bytes(bytes.as_flattened_mut());
        bytes
    }

    /// What the engine of this processor and the one without vector instructions make of the same symbols.
    fn both(symbols: usize, seed: u64, run: impl Fn(&dyn Engine, &mut [Piece])) -> [Vec<Piece>; 2] {
        let engines: [&dyn Engine; 2] = [&FieldEngine::new(), &NoSimd::new()];
        engines.map(|engine| {
            let mut data = random(symbols, seed);
            run(engine, &mut data);
            data
        })
    }

    #[test]
    fn transforms_are_those_of_the_crate() {
        for size in (0..9).map(|log| 1 << log) {
            for (pos, skew) in [(0, 0), (0, size), (size, 3 * size), (2 * size, 64 * size)] {
                for used in [1, size / 2 + 1, size] {
                    let [own, reference] = both(4 * size, 7, |engine, data| {
                        engine.fft(&mut ShardsRefMut::new(4 * size, PIECES, data), pos, size, used, skew);
                    });
                    // What lies behind the used part is not defined.
                    let (from, to) = (pos * PIECES, (pos + used) * PIECES);
                    assert!(own[from..to] == reference[from..to], "fft of {size}, {used} used, at {pos}, skew {skew}");
                    let [own, reference] = both(4 * size, 8, |engine, data| {
                        data[to..(pos + size) * PIECES].fill([0; 64]);
                        engine.ifft(&mut ShardsRefMut::new(4 * size, PIECES, data), pos, size, used, skew);
                    });
                    assert!(own == reference, "ifft of {size}, {used} used, at {pos}, skew {skew}");
                }
            }
        }
    }

    #[test]
    fn products_are_those_of_the_crate() {
        for log in (0..GF_MODULUS).step_by(97).chain([1, 255, 256, 257, GF_MODULUS - 1, GF_MODULUS]) {
            let [own, reference] = both(2, log.into(), |engine, data| engine.mul(data, log));
            assert!(own == reference, "log {log}");
        }
    }
}
