//! How many repair symbols a block gets, depending on its length.
//!
//! A plan is defined for a full block: a number of repair symbols for `block_symbols` source symbols. A shorter block
//! gets the fewest repair symbols with which it is at least as safe at the assumed loss, and so does a block that a
//! super-packet has overfilled. The numbers are computed once; a query is a table look-up.
//!
//! A plan does not watch the link: it never changes.

use super::layout::MAX_ENCODING_SYMBOLS;
use super::residual::{ln_residual, residual};

/// The most source symbols by which one super-packet overfills a block on a 1500-byte path: 64 KB in symbols of 1408
/// bytes, and one more for its header.
pub const OVERFILL: usize = 48;

/// The number of repair symbols for every number of source symbols.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    block_symbols: usize,
    assume_loss: f64,
    /// Entry k-1 is the number for k source symbols; empty in a plan without repair symbols.
    repair: Vec<u16>,
}

impl Plan {
    /// `repair_symbols` for a block of `block_symbols` source symbols. Every other length gets as many as make the
    /// block no likelier to be lost, if each symbol is lost with probability `assume_loss`.
    ///
    /// The numbers rise with the length and are never 0, unless `repair_symbols` is 0: then this is [`Plan::none`].
    /// `block_symbols` is at least 1; both numbers are cut to the limits of the code. An overfilled block gets at most
    /// `2 * repair_symbols + 48`, which is enough unless most symbols are assumed lost.
    pub fn fixed(block_symbols: usize, repair_symbols: usize, assume_loss: f64) -> Self {
        if repair_symbols == 0 {
            return Self::none();
        }
        let block_symbols = block_symbols.clamp(1, MAX_ENCODING_SYMBOLS / 2);
        let repair_symbols = repair_symbols.min(MAX_ENCODING_SYMBOLS / 4);
        let target = ln_residual(block_symbols, repair_symbols, assume_loss);
        let entry = |m: usize| u16::try_from(m).expect("no more repair symbols than the code can do");
        let enough = |k, m| ln_residual(k, m, assume_loss) <= target;

        // The number never falls as blocks get longer, so each search starts where the last one ended.
        let mut repair = Vec::with_capacity(block_symbols + OVERFILL);
        let mut m = 1;
        for k in 1..block_symbols {
            while m < repair_symbols && !enough(k, m) {
                m += 1;
            }
            repair.push(entry(m));
        }
        m = repair_symbols;
        for k in block_symbols..=block_symbols + OVERFILL {
            let most = (2 * repair_symbols + OVERFILL).min(MAX_ENCODING_SYMBOLS - k);
            while k > block_symbols && m < most && !enough(k, m) {
                m += 1;
            }
            repair.push(entry(m));
        }
        Self { block_symbols, assume_loss, repair }
    }

    /// The repair symbols of every length, the first entry for one source symbol, as found for a `loss`. Lengths beyond
    /// the table get the share of its last entry. Numbers are cut to the limits of the code.
    pub fn from_table(block_symbols: usize, loss: f64, mut repair: Vec<u16>) -> Self {
        repair.truncate(MAX_ENCODING_SYMBOLS / 2);
        if repair.iter().all(|&m| m == 0) {
            return Self::none();
        }
        repair.iter_mut().for_each(|m| *m = (*m).min((MAX_ENCODING_SYMBOLS / 4) as u16));
        Self { block_symbols: block_symbols.clamp(1, repair.len()), assume_loss: loss, repair }
    }

    /// No repair symbols for any block.
    pub fn none() -> Self {
        Self { block_symbols: 0, assume_loss: 1.0, repair: Vec::new() }
    }

    /// Whether no block gets repair symbols.
    pub fn is_none(&self) -> bool {
        self.repair.is_empty()
    }

    /// The repair symbols for a block of `k` source symbols. A block longer than the plan's longest gets the same share
    /// m/k as that one, rounded up: while that share is above the loss, longer blocks are safer at the same share.
    pub fn repair_symbols(&self, k: usize) -> usize {
        let Some(&last) = self.repair.last() else {
            return 0;
        };
        match k.checked_sub(1) {
            None => 0,
            Some(index) => match self.repair.get(index) {
                Some(&m) => m.into(),
                None => k
                    .saturating_mul(last.into())
                    .div_ceil(self.repair.len())
                    .min(MAX_ENCODING_SYMBOLS.saturating_sub(k)),
            },
        }
    }

    /// The chance that a block of `k` source symbols cannot be rebuilt at the assumed loss. A plan without repair
    /// symbols has no assumed loss and returns 1.
    pub fn residual(&self, k: usize) -> f64 {
        residual(k, self.repair_symbols(k), self.assume_loss)
    }

    /// Repair symbols per source symbol, m/k, of a full block.
    pub fn overhead(&self) -> f64 {
        self.repair_symbols(self.block_symbols) as f64 / self.block_symbols.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_plan_of_four_for_thirty_two_at_one_percent_scales_with_the_length() {
        let plan = Plan::fixed(32, 4, 0.01);
        let table: Vec<usize> = [0, 1, 2, 5, 8, 16, 31, 32, 33, 64, 80].map(|k| plan.repair_symbols(k)).into();
        assert_eq!(table, [0, 2, 2, 3, 3, 4, 4, 4, 5, 6, 6]);
        assert_eq!(plan.overhead(), 0.125);
        assert_eq!(plan.residual(32), residual(32, 4, 0.01));
    }

    #[test]
    fn a_plan_without_repair_symbols_gives_none() {
        for plan in [Plan::none(), Plan::fixed(32, 0, 0.01)] {
            assert_eq!(plan.repair_symbols(0), 0);
            assert_eq!(plan.repair_symbols(32), 0);
            assert_eq!(plan.overhead(), 0.0);
            assert_eq!(plan.residual(32), 1.0);
        }
    }

    #[test]
    fn a_plan_from_a_table_has_its_numbers_and_goes_on_beyond_it() {
        let plan = Plan::from_table(3, 0.01, vec![1, 2, 4]);
        assert_eq!([0, 1, 2, 3, 6].map(|k| plan.repair_symbols(k)), [0, 1, 2, 4, 8]);
        assert_eq!(plan.residual(2), residual(2, 2, 0.01));
        let huge = Plan::from_table(4096, 0.01, vec![u16::MAX; 20_000]);
        assert!([1, 4096, 9000].iter().all(|&k| k + huge.repair_symbols(k) <= MAX_ENCODING_SYMBOLS));
        assert!(Plan::from_table(8, 0.01, vec![0; 8]).is_none() && Plan::from_table(8, 0.01, Vec::new()).is_none());
    }

    #[test]
    fn out_of_range_arguments_are_clamped() {
        assert_eq!(Plan::fixed(0, 3, 0.01).repair_symbols(1), 3);
        for loss in [0.0, 1.0, -3.0, f64::NAN, f64::INFINITY] {
            let plan = Plan::fixed(16, 4, loss);
            assert_eq!(plan.repair_symbols(16), 4);
            assert_eq!(plan.repair_symbols(1), 1);
        }
        let huge = Plan::fixed(usize::MAX, usize::MAX, 0.01);
        for k in [1, MAX_ENCODING_SYMBOLS / 2, MAX_ENCODING_SYMBOLS / 2 + OVERFILL, 12_000] {
            assert!(k + huge.repair_symbols(k) <= MAX_ENCODING_SYMBOLS);
        }
        assert_eq!(huge.repair_symbols(usize::MAX), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn every_block_is_as_safe_as_a_full_one_with_the_fewest_symbols(
            block_symbols in 1_usize..200,
            m in 1_usize..40,
            loss in 1e-7_f64..0.2,
        ) {
            let plan = Plan::fixed(block_symbols, m, loss);
            let target = ln_residual(block_symbols, m, loss);
            // If nearly every block is lost, the differences are below the precision of the sum.
            prop_assume!(target < -1e-6);
            prop_assert_eq!(plan.repair_symbols(block_symbols), m);
            for k in 1..=block_symbols + OVERFILL {
                let here = plan.repair_symbols(k);
                prop_assert!(here >= 1 && here >= plan.repair_symbols(k - 1));
                prop_assert!(ln_residual(k, here, loss) <= target);
                prop_assert!(here == 1 || k == block_symbols || ln_residual(k, here - 1, loss) > target);
            }
            prop_assert!(plan.repair_symbols(1000) >= plan.repair_symbols(block_symbols + OVERFILL));
        }
    }
}
