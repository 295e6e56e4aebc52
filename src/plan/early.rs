//! The repair symbols that leave at once, for blocks of every length: the fewest that reach a residual.
//!
//! Against single losses they must be enough alone, so that what late repair adds is a reserve. Against bursts late repair
//! counts, because early repair leaves together with what the burst takes.

use std::time::Duration;

use super::late_symbols;
use crate::fec::block_failures::BlockFailures;
use crate::fec::gilbert_elliott::GilbertElliott;
use crate::fec::plan::OVERFILL;
use crate::fec::residual::ln_residual;

/// The most early repair symbols of a block; as many as the code can do.
const MOST: usize = 4096;
/// Up to here each length is computed. Beyond it one length in sixteen is, and shorter ones get what that one has.
const EXACT: usize = 64;
/// With bursts, the early symbols that are tried beyond two for each source symbol.
const TRIED: usize = 256;

/// The early repair symbols of every length up to `longest` and what may overfill it. They rise with the length.
#[derive(Clone, Debug, PartialEq)]
pub struct Early {
    /// Entry k-1 is the number for k source symbols.
    pub symbols: Vec<u16>,
    /// The likeliest loss of a block that no number of early symbols brings below the target: its length, and the chance.
    pub unreached: Option<(usize, f64)>,
}

impl Early {
    /// At least `min` for every length.
    pub fn only(min: usize, longest: usize) -> Self {
        Self { symbols: vec![entry(min); longest + OVERFILL], unreached: None }
    }

    /// The fewest symbols with which a block is lost no likelier than `target` if each symbol is lost with `loss`; for a
    /// shorter block beyond `EXACT`, those of the next longer one that is computed. At least `min`.
    pub fn for_loss(target: f64, loss: f64, min: usize, longest: usize) -> Self {
        let mut early = Self::only(min, longest);
        let ln_target = target.ln();
        let (mut filled, mut m) = (0, min.min(MOST));
        while filled < early.symbols.len() {
            let k = rung_after(filled).min(early.symbols.len());
            m = fewest(k, m, loss, ln_target);
            if ln_residual(k, m, loss) > ln_target {
                early.note(k, ln_residual(k, m, loss).exp());
            }
            early.symbols[filled..k].fill(entry(m));
            filled = k;
        }
        early
    }

    /// Adds what is needed on a link with bursts, where source symbols leave `apart` from each other, and the late ones
    /// `survive_burst` after the last. A length that cannot be helped keeps its number.
    pub fn add_for_bursts(&mut self, target: f64, link: GilbertElliott, apart: Duration, survive_burst: Duration) {
        let late = |k| late_symbols(k, apart, survive_burst);
        let mut failures = BlockFailures::new(link, apart, survive_burst);
        let (mut filled, mut least, mut hopeless_below) = (0, 0, 0);
        while filled < self.symbols.len() {
            let k = rung_after(filled).min(self.symbols.len());
            let mut each = failures.clone();
            (filled..k).for_each(|_| failures.add_source());
            // A length up to k is no likelier lost: fewer source symbols, and at least as many late ones as the shortest has.
            let before = least.max(usize::from(self.symbols[k - 1]));
            let fewest_late = late(filled + 1);
            let enough = if k < hopeless_below {
                None
            } else {
                search(before, most(k), |m| failures.failure(m, fewest_late) <= target)
            };
            if let Some(m) = enough {
                least = m;
                self.symbols[filled..k].fill(entry(m));
                filled = k;
                continue;
            }
            for k in filled + 1..=k {
                each.add_source();
                least = least.max(usize::from(self.symbols[k - 1]));
                // A length that is a little longer than a hopeless one is not tried: each trial is dear.
                if k >= hopeless_below {
                    match search(least, most(k), |m| each.failure(m, late(k)) <= target) {
                        Some(m) => least = m,
                        None => {
                            self.note(k, each.failure(most(k).max(least), late(k)));
                            hopeless_below = k + k / 4 + 1;
                        }
                    }
                }
                self.symbols[k - 1] = entry(least);
            }
            filled = k;
        }
    }

    fn note(&mut self, k: usize, chance: f64) {
        if self.unreached.is_none_or(|(_, worst)| chance > worst) {
            self.unreached = Some((k, chance));
        }
    }
}

/// The fewest symbols, `least` or more, that are enough for k; `MOST` if none are.
pub fn fewest(k: usize, least: usize, loss: f64, ln_target: f64) -> usize {
    let is_enough = |m: usize| ln_residual(k, m, loss) <= ln_target;
    if is_enough(least) {
        return least;
    }
    bisect(least, MOST.max(least), is_enough)
}

/// The most early symbols that are tried for k source symbols where there are bursts.
pub fn most(k: usize) -> usize {
    (2 * k + TRIED).min(MOST)
}

/// The fewest from `least` to `most` that is enough, if `most` is.
fn search(least: usize, most: usize, mut is_enough: impl FnMut(usize) -> bool) -> Option<usize> {
    let most = most.max(least);
    if is_enough(least) {
        return Some(least);
    }
    is_enough(most).then(|| bisect(least, most, is_enough))
}

/// The fewest that is enough: more than `too_few`, at most `most`, which counts as enough. It looks near `too_few` first.
fn bisect(too_few: usize, most: usize, mut is_enough: impl FnMut(usize) -> bool) -> usize {
    let (mut low, mut step) = (too_few, 1);
    let mut high = most;
    while low + step < high {
        if is_enough(low + step) {
            high = low + step;
            break;
        }
        low += step;
        step *= 2;
    }
    while high.saturating_sub(low) > 1 {
        let middle = low.midpoint(high);
        if is_enough(middle) { high = middle } else { low = middle }
    }
    high
}

/// The next length that is computed.
fn rung_after(k: usize) -> usize {
    if k < EXACT { k + 1 } else { k + k / 16 }
}

fn entry(m: usize) -> u16 {
    m.min(MOST) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn each_length_has_enough_for_single_losses_and_not_many_more(
            exponent in 1_i32..30,
            loss in prop_oneof![1e-7_f64..0.5, Just(0.5), Just(1e-9)],
            (longest, min) in (1_usize..600, 0_usize..6),
        ) {
            let target = 10_f64.powi(-exponent);
            let early = Early::for_loss(target, loss, min, longest);
            prop_assert_eq!(early.symbols.len(), longest + OVERFILL);
            prop_assert_eq!(early.unreached, None);
            for (at, &m) in early.symbols.iter().enumerate() {
                let (k, m) = (at + 1, usize::from(m));
                prop_assert!(m >= min && ln_residual(k, m, loss) <= target.ln() * (1.0 - 1e-12));
                let spare = m == min || (m > 0 && ln_residual(k, m - 1, loss) > target.ln());
                prop_assert!(spare || k > EXACT, "one fewer is enough for {k}");
            }
        }

        #[test]
        fn each_length_has_enough_for_bursts(
            exponent in 1_i32..12,
            (good_loss, bad_loss) in (0.0..0.01, prop_oneof![Just(1.0), 0.0..=1.0]),
            (good_ms, bad_us) in (1u32..100_000, 1u32..20_000),
            (apart_us, survive_us) in (prop_oneof![Just(0), 1u64..2000], 0u64..5000),
            longest in 1_usize..40,
        ) {
            let target = 10_f64.powi(-exponent);
            let ms = Duration::from_millis(1);
            let link = GilbertElliott::new(good_loss, ms * good_ms, bad_loss, ms * bad_us / 1000).unwrap();
            let (apart, survive) = (Duration::from_micros(apart_us), Duration::from_micros(survive_us));
            let single = Early::for_loss(target, 0.01, 1, longest);
            let mut early = single.clone();
            early.add_for_bursts(target, link, apart, survive);
            for (at, &m) in early.symbols.iter().enumerate() {
                let (k, m) = (at + 1, usize::from(m));
                prop_assert!(early.symbols[at] >= single.symbols[at]);
                prop_assert!(at == 0 || early.symbols[at] >= early.symbols[at - 1]);
                let last = apart * (k as u32 - 1);
                let late = late_symbols(k, apart, survive);
                let schedule: Vec<_> = (0..k as u32).map(|at| apart * at).chain((0..m).map(|_| last))
                    .chain((0..late).map(|_| last + survive)).collect();
                let chance = link.block_failure(&schedule, m + late);
                prop_assert!(early.unreached.is_some() || chance <= target * (1.0 + 1e-9), "{k} is lost with {chance:e}");
            }
        }
    }

    #[test]
    fn what_no_repair_can_help_is_told_with_its_length_and_chance() {
        // Bursts of ten milliseconds take all of a lone block.
        let ms = Duration::from_millis(1);
        let link = GilbertElliott::new(0.0, ms * 990, 1.0, ms * 10).unwrap();
        let mut early = Early::for_loss(1e-6, 0.01, 2, 8);
        early.add_for_bursts(1e-6, link, Duration::ZERO, Duration::ZERO);
        let (_, chance) = early.unreached.unwrap();
        assert!((chance / 0.01 - 1.0).abs() < 1e-9, "{chance}");
        assert_eq!(early.symbols, Early::for_loss(1e-6, 0.01, 2, 8).symbols);
        // A second later the link is most likely good.
        early.unreached = None;
        early.add_for_bursts(1e-3, link, Duration::ZERO, ms * 1000);
        assert_eq!(early.unreached, None);
    }
}
