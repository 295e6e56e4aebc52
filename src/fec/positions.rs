//! The points of a block's symbols in the field, and the coefficients that follow from them.
//!
//! `reed-solomon-simd` (after Leopard-RS; Lin, Chung and Han, "Novel polynomial basis", FOCS 2014) gives every symbol a
//! point of GF(2^16), written as the symbol's position. The smaller side, source or repair, rounded up to a power of
//! two `span`, has the points `0..span`, a linear subspace; the other side has `span..`. Lagrange interpolation over
//! that subspace gives the factor with which one source symbol adds to one repair symbol:
//!
//! ```text
//! a = s(x) / (s' · (x + y))      x: the point at or after span    s(x) = Π (x + v) over v in 0..span
//!                                y: the point before span         s'   = Π v       over v in 1..span
//! ```
//!
//! s(x) depends on one point only, so apart from a factor per symbol this is a Cauchy matrix, whose inverse is known in
//! closed form. So nothing is inverted here and no matrix is stored. All arithmetic is on logarithms: a product is a
//! sum modulo 65535, and zero does not occur, because all points differ.
//!
//! This module does not touch the bytes of symbols.

use reed_solomon_simd::engine::tables;

/// Logarithms are modulo this.
const MODULUS: u64 = 65_535;

/// The points of k source and m repair symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Positions {
    /// Points in the subspace: the smaller side, rounded up to a power of two.
    pub(super) span: usize,
    /// The repair symbols are in the subspace and the source symbols after it; otherwise the other way round.
    pub(super) repair_first: bool,
}

impl Positions {
    /// The points of `k` source and `m` repair symbols, both at least one. It must be the choice of the crate's
    /// `DefaultRate`, or its decoder could not read our repair symbols.
    pub(super) fn new(k: usize, m: usize) -> Self {
        let (k_span, m_span) = (k.next_power_of_two(), m.next_power_of_two());
        let repair_first = k_span > m_span || (k_span == m_span && k <= m);
        let span = if repair_first { m_span } else { k_span };
        Self { span, repair_first }
    }

    fn source(self, index: usize) -> usize {
        if self.repair_first { self.span + index } else { index }
    }

    fn repair(self, index: usize) -> usize {
        if self.repair_first { index } else { self.span + index }
    }
}

/// The coefficients that compute e lost source symbols from e syndromes: `lost[i] = Σ_j coefficient(i, j) ·
/// syndrome[j]`. Holds e values per side and keeps its memory from block to block.
#[derive(Debug, Default)]
pub(super) struct Coefficients {
    lost: Vec<Factor>,
    repair: Vec<Factor>,
}

#[derive(Clone, Copy, Debug)]
struct Factor {
    point: usize,
    /// The logarithm of the factor of this row or column.
    log: u64,
}

impl Coefficients {
    /// Solves for the source symbols `lost` (ascending) with the same number of repair symbols `repair`, without
    /// repetition. Takes O(e²) table look-ups.
    pub(super) fn solve(&mut self, positions: Positions, lost: &[usize], repair: &[usize]) {
        debug_assert_eq!(lost.len(), repair.len());
        let factor = |point| Factor { point, log: 0 };
        self.lost.clear();
        self.lost.extend(lost.iter().map(|&i| factor(positions.source(i))));
        self.repair.clear();
        self.repair.extend(repair.iter().map(|&j| factor(positions.repair(j))));

        let log = &*tables::get_exp_log().log;
        cross(log, &mut self.lost, &self.repair);
        cross(log, &mut self.repair, &self.lost);

        let outside = if positions.repair_first { &mut self.lost } else { &mut self.repair };
        divide_by_scale(log, positions.span, outside);
    }

    /// The logarithm of the factor of syndrome `j` in lost symbol `i`: the product of the three below.
    pub(super) fn coefficient(&self, i: usize, j: usize) -> u16 {
        reduce(self.lost[i].log + self.repair[j].log + self.inverse_distance(i, j))
    }

    /// The logarithm of the factor that syndrome `j` has in every lost symbol.
    pub(super) fn of_syndrome(&self, j: usize) -> u16 {
        reduce(self.repair[j].log)
    }

    /// The logarithm of the factor that lost symbol `i` has for every syndrome.
    pub(super) fn of_lost(&self, i: usize) -> u16 {
        reduce(self.lost[i].log)
    }

    /// The logarithm of the coefficient without those two factors. It has at most as many values as the block has
    /// points, and few in a burst, where [`Self::coefficient`] has up to e².
    pub(super) fn between(&self, i: usize, j: usize) -> u16 {
        reduce(self.inverse_distance(i, j))
    }

    fn inverse_distance(&self, i: usize, j: usize) -> u64 {
        let log = &*tables::get_exp_log().log;
        MODULUS - u64::from(log[self.lost[i].point ^ self.repair[j].point])
    }
}

/// Cauchy's formula for one side: for each point, the product of its distances to the other side, divided by the
/// product of its distances to its own side.
fn cross(log: &[u16; 65_536], side: &mut [Factor], other: &[Factor]) {
    for i in 0..side.len() {
        let point = side[i].point;
        let above: u64 = other.iter().map(|o| u64::from(log[point ^ o.point])).sum();
        let below: u64 = side.iter().filter(|s| s.point != point).map(|s| u64::from(log[point ^ s.point])).sum();
        side[i].log = (above + MODULUS - below % MODULUS) % MODULUS;
    }
}

/// Divides by s(x)/s', the factor in which the code differs from a Cauchy matrix. It is the same for all points in the
/// same multiple of the span. Symbols lost together are mostly neighbours, so it is computed once per such run.
fn divide_by_scale(log: &[u16; 65_536], span: usize, side: &mut [Factor]) {
    let sum = |from: usize, x: usize| -> u64 { (from..span).map(|v| u64::from(log[x ^ v])).sum() };
    let constant = sum(1, 0) % MODULUS;
    let mut known = (usize::MAX, 0);
    for factor in side {
        let run = factor.point / span;
        if known.0 != run {
            known = (run, (sum(0, factor.point) + MODULUS - constant) % MODULUS);
        }
        factor.log = (factor.log + MODULUS - known.1) % MODULUS;
    }
}

fn reduce(sum: u64) -> u16 {
    u16::try_from(sum % MODULUS).expect("a remainder modulo 65535 fits 16 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_side_is_in_the_subspace() {
        let positions = |k, m| {
            let p = Positions::new(k, m);
            (p.span, p.repair_first)
        };
        assert_eq!(positions(20, 4), (4, true));
        assert_eq!(positions(1, 4), (1, false));
        assert_eq!(positions(1, 1), (1, true));
        assert_eq!(positions(3, 4), (4, true));
        assert_eq!(positions(4, 3), (4, false));
        assert_eq!(positions(1000, 100), (128, true));
    }

    #[test]
    fn one_repair_symbol_is_the_plain_sum() {
        let mut coefficients = Coefficients::default();
        for lost in 0..40 {
            coefficients.solve(Positions::new(40, 1), &[lost], &[0]);
            assert_eq!(coefficients.coefficient(0, 0), 0, "logarithm of one");
        }
    }
}
