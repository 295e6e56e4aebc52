//! The chance that a block is lost on a link with bursts, for blocks of every length in one pass.
//!
//! [`GilbertElliott::block_failure`] needs k + m steps for each block and each number of repair symbols. This computes the same
//! for the schedule that our blocks have, and shares the work: source symbols leave evenly, early repair symbols together with
//! the last of them, and late repair symbols together some time after that. The losses among k source symbols follow from
//! those among k - 1, and the losses among repair symbols that leave together are binomial in each state.
//!
//! Terms below 1e-60 are left out, so results are exact down to 1e-40 and below.

use std::time::Duration;

use super::gilbert_elliott::GilbertElliott;

/// What is too small to count.
const NEGLIGIBLE: f64 = 1e-60;
/// What is dropped while symbols are added.
const VANISHING: f64 = 1e-100;

/// Blocks of rising length on a link, and the chance that each is lost.
#[derive(Clone, Debug)]
pub struct BlockFailures {
    link: GilbertElliott,
    /// The chances to change from good to bad, and from bad to good, between two source symbols; and until the late symbols.
    between: (f64, f64),
    until_late: (f64, f64),
    /// How likely the link is in the state, good or bad, when the last source symbol leaves, after so many losses.
    after: [Vec<f64>; 2],
    source_symbols: usize,
    ln_factorials: Vec<f64>,
    /// How likely more than so many late symbols are lost if the link was in the state, good or bad, at the early ones.
    late: [Vec<f64>; 2],
}

impl BlockFailures {
    /// A block without symbols. Source symbols leave `apart` from each other, late repair symbols `late_after` the early ones.
    pub fn new(link: GilbertElliott, apart: Duration, late_after: Duration) -> Self {
        let bad = link.bad_share();
        Self {
            link,
            between: link.changes(apart),
            until_late: link.changes(late_after),
            after: [vec![1.0 - bad], vec![bad]],
            source_symbols: 0,
            ln_factorials: vec![0.0],
            late: [Vec::new(), Vec::new()],
        }
    }

    /// One more source symbol.
    pub fn add_source(&mut self) {
        let [good, bad] = &mut self.after;
        self.source_symbols += 1;
        if self.source_symbols > 1 {
            let (to_bad, to_good) = self.between;
            for (good, bad) in good.iter_mut().zip(bad.iter_mut()) {
                let change = (*good * to_bad, *bad * to_good);
                *good = *good * (1.0 - to_bad) + change.1;
                *bad = *bad * (1.0 - to_good) + change.0;
            }
        }
        for (state, loss) in [(good, self.link.good_loss), (bad, self.link.bad_loss)] {
            let mut fewer = 0.0;
            for chance in state.iter_mut() {
                let here = *chance;
                let now = here * (1.0 - loss) + fewer * loss;
                // Numbers that are nearly zero are slow to compute with.
                *chance = if now < VANISHING { 0.0 } else { now };
                fewer = here;
            }
            state.push(if fewer * loss < VANISHING { 0.0 } else { fewer * loss });
        }
        let [good, bad] = &mut self.after;
        while good.len() > 1 && good.last() == Some(&0.0) && bad.last() == Some(&0.0) {
            good.pop();
            bad.pop();
        }
    }

    /// From now on late repair symbols leave so long after the early ones.
    pub fn set_late_after(&mut self, late_after: Duration) {
        self.until_late = self.link.changes(late_after);
        self.late = [Vec::new(), Vec::new()];
    }

    /// Source symbols so far, k.
    pub fn source_symbols(&self) -> usize {
        self.source_symbols
    }

    /// The chance that more than `early + late` of the symbols are lost, if so many repair symbols leave at the two moments.
    pub fn failure(&mut self, early: usize, late: usize) -> f64 {
        if self.late[0].len() != late + 1 {
            self.set_late(late);
        }
        let mut failed = 0.0;
        for (state, loss) in [self.link.good_loss, self.link.bad_loss].into_iter().enumerate() {
            let (first, chances) = self.binomial(early, loss);
            let too_many = &self.late[state];
            for (lost, &likely) in self.after[state].iter().enumerate() {
                if likely < NEGLIGIBLE {
                    continue;
                }
                // Up to `early` losses, the late symbols may all be lost.
                let skip = (early + 1).saturating_sub(lost + first).min(chances.len());
                let beyond = &chances[skip..];
                // The more early symbols are lost, the fewer late ones may be; beyond that, the block is lost in any case.
                let bearable = (early + late + 1).saturating_sub(lost + first + skip).min(too_many.len());
                let (some, rest) = beyond.split_at(bearable.min(beyond.len()));
                let with_late: f64 = some.iter().zip(too_many[..bearable].iter().rev()).map(|(a, b)| a * b).sum();
                failed += likely * (with_late + rest.iter().sum::<f64>());
            }
        }
        failed.min(1.0)
    }

    fn set_late(&mut self, late: usize) {
        let tails = [self.link.good_loss, self.link.bad_loss].map(|loss| {
            let (first, chances) = self.binomial(late, loss);
            let mut more_than = vec![0.0; late + 1];
            let mut sum = 0.0;
            for count in (0..late).rev() {
                let likely = (count + 1).checked_sub(first).and_then(|at| chances.get(at));
                sum += likely.copied().unwrap_or(0.0);
                more_than[count] = sum;
            }
            more_than
        });
        let (to_bad, to_good) = self.until_late;
        let mix = |stays: &[f64], changes: &[f64], change: f64| {
            stays.iter().zip(changes).map(|(stays, changes)| stays * (1.0 - change) + changes * change).collect()
        };
        let [good, bad] = &tails;
        self.late = [mix(good, bad, to_bad), mix(bad, good, to_good)];
    }

    /// The chances that so many of `n` are lost, from the first count that is not negligible on.
    fn binomial(&mut self, n: usize, loss: f64) -> (usize, Vec<f64>) {
        if n == 0 || loss <= 0.0 {
            return (0, vec![1.0]);
        }
        if loss >= 1.0 {
            return (n, vec![1.0]);
        }
        while self.ln_factorials.len() <= n {
            let next = self.ln_factorials.len();
            self.ln_factorials.push(self.ln_factorials[next - 1] + (next as f64).ln());
        }
        let ln = &self.ln_factorials;
        let mode = (((n + 1) as f64 * loss) as usize).min(n);
        let ln_top = ln[n] - ln[mode] - ln[n - mode] + mode as f64 * loss.ln() + (n - mode) as f64 * (-loss).ln_1p();
        let (top, odds) = (ln_top.exp(), loss / (1.0 - loss));
        let mut below = Vec::new();
        let mut chance = top;
        for count in (0..mode).rev() {
            chance *= (count + 1) as f64 / ((n - count) as f64 * odds);
            if chance < NEGLIGIBLE {
                break;
            }
            below.push(chance);
        }
        let first = mode - below.len();
        let mut chances: Vec<f64> = below.into_iter().rev().collect();
        chances.push(top);
        chance = top;
        for count in mode..n {
            chance *= (n - count) as f64 / (count + 1) as f64 * odds;
            if chance < NEGLIGIBLE {
                break;
            }
            chances.push(chance);
        }
        (first, chances)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fec::residual::residual;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn schedule(k: usize, early: usize, late: usize, apart: Duration, late_after: Duration) -> Vec<Duration> {
        let last = apart * (k as u32 - 1);
        let sources = (0..k as u32).map(|number| apart * number);
        sources.chain((0..early).map(|_| last)).chain((0..late).map(|_| last + late_after)).collect()
    }

    fn at(link: GilbertElliott, k: usize, apart: Duration, late_after: Duration) -> BlockFailures {
        let mut failures = BlockFailures::new(link, apart, late_after);
        (0..k).for_each(|_| failures.add_source());
        failures
    }

    proptest! {
        #[test]
        fn the_chance_equals_that_of_the_schedule(
            (good_loss, bad_loss) in (0.0..=0.2, prop_oneof![Just(0.0), Just(1.0), 0.0..=1.0]),
            (good_ms, bad_ms) in (1u32..1000, 1u32..50),
            (apart_us, late_ms) in (0u32..3000, 0u32..20),
            (k, early, late) in (1usize..60, 0usize..20, 0usize..70),
        ) {
            let link = GilbertElliott::new(good_loss, MS * good_ms, bad_loss, MS * bad_ms).unwrap();
            let (apart, late_after) = (Duration::from_micros(apart_us.into()), MS * late_ms);
            let mut failures = at(link, k, apart, MS * 3);
            failures.failure(early, late);
            failures.set_late_after(late_after);
            let found = failures.failure(early, late);
            let expected = link.block_failure(&schedule(k, early, late, apart, late_after), early + late);
            let error = (found - expected).abs();
            prop_assert!(error <= expected * 1e-9 + 1e-40, "{found:e} is not {expected:e}");
        }
    }

    #[test]
    fn a_link_without_bursts_has_the_residual_of_single_losses_down_to_tiny_ones() {
        for (k, m, p) in [(1, 1, 8e-9), (32, 8, 0.001), (512, 60, 0.01), (2000, 120, 0.02), (300, 18, 1e-3)] {
            let link = GilbertElliott::new(p, MS * 100, p, MS * 7).unwrap();
            for (early, late) in [(m, 0), (0, m), (m / 2, m - m / 2)] {
                let mut failures = at(link, k, Duration::from_micros(10), MS);
                assert_eq!(failures.source_symbols(), k);
                let (found, expected) = (failures.failure(early, late), residual(k, m, p));
                assert!((found / expected - 1.0).abs() < 1e-8, "{found:e} is not {expected:e} for {k}, {m}, {p}");
            }
        }
    }
}
