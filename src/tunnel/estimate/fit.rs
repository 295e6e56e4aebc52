//! A link with two states, fitted to runs of lost datagrams.
//!
//! The fitted link is a Gilbert-Elliott link that loses everything while it is bad, and single datagrams while it is good. So the
//! lengths of runs are a mixture of two geometric distributions: that of independent losses, whose ratio is the loss itself, and
//! that of interruptions. The mixture is found by expectation maximisation over the classes of lengths. If it explains the classes
//! not clearly better than independent losses do, the fit has no bursts. How long an interruption lasts comes from the runs
//! whose time is known.
//!
//! A link that loses only a part while it is bad looks like one with more and shorter interruptions. The error of the fit shows
//! when the classes are not those of any such link.

use std::time::Duration;

use super::runs::{Runs, bounds};
use crate::fec::gilbert_elliott::GilbertElliott;
use crate::wire::report::BURST_CLASSES;

/// Without this many datagrams nothing is fitted.
const DATAGRAMS_MIN: f64 = 1000.0;
const ITERATIONS: usize = 40;
/// Bursts must make the classes likelier by this, as a logarithm: they have two parameters more.
const GAIN_MIN: f64 = 5.0;
/// The mean times of a link without bursts; they have no meaning there.
const ANY_TIME: Duration = Duration::from_secs(1);
/// The longest time that is told apart from for ever.
const TIME_MAX: f64 = 1e9;

/// A link with two states, as the observed runs suggest it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkFit {
    /// The link.
    pub link: GilbertElliott,
    /// The loss while it is good; of a link without bursts, the loss.
    pub good_loss: f64,
    /// How long it is good in the mean; `None`: there are no bursts.
    pub good: Option<Duration>,
    /// How long it is bad in the mean: then nothing arrives. `None`: there are no bursts.
    pub bad: Option<Duration>,
    /// The share of runs that would have to be of another class to be as the link predicts: 0 to 1.
    pub error: f64,
    /// How many runs are behind it.
    pub runs: f64,
}

/// How the lengths of runs are distributed.
#[derive(Clone, Copy)]
struct Mixture {
    /// The share of runs that are independent losses, and the ratio of their lengths.
    independent: f64,
    loss: f64,
    /// The ratio of the lengths of interruptions.
    ratio: f64,
}

impl Mixture {
    /// The chances of a class: from independent losses, from interruptions.
    fn parts(&self, class: usize) -> [f64; 2] {
        let of = |share: f64, ratio: f64| {
            let (shortest, longest) = bounds(class);
            share * (ratio.powi(shortest as i32 - 1) - longest.map_or(0.0, |longest| ratio.powi(longest as i32)))
        };
        [of(self.independent, self.loss), of(1.0 - self.independent, self.ratio)]
    }

    fn of_class(&self, class: usize) -> f64 {
        self.parts(class).iter().sum()
    }

    /// How likely a run of each class is an interruption.
    fn interruptions(&self) -> [f64; BURST_CLASSES] {
        std::array::from_fn(|class| {
            let [_, interruption] = self.parts(class);
            let share = interruption / self.of_class(class);
            // What no part can explain is too long for single losses.
            if share.is_finite() { share } else { 1.0 }
        })
    }

    /// The logarithm of the chance of these classes.
    fn ln_chance(&self, runs: &Runs) -> f64 {
        let terms = runs.classes.iter().enumerate().filter(|(_, count)| **count > 0.0);
        terms.map(|(class, count)| count * self.of_class(class).max(1e-300).ln()).sum()
    }

    fn error(&self, runs: &Runs) -> f64 {
        let count = runs.count();
        let apart = |(class, found): (usize, &f64)| (found / count - self.of_class(class)).abs();
        runs.classes.iter().enumerate().map(apart).sum::<f64>() / 2.0
    }
}

/// Fits a link to `runs`, in which `lost` of `datagrams` were lost.
pub fn fit(runs: &Runs, lost: f64, datagrams: f64) -> Option<LinkFit> {
    if datagrams.is_nan() || datagrams < DATAGRAMS_MIN {
        return None;
    }
    let loss = (lost / datagrams).clamp(0.0, 1.0);
    let count = runs.count();
    let without_bursts = Mixture { independent: 1.0, loss, ratio: 0.5 };
    let independent = |error: f64| {
        let link = GilbertElliott::new(loss, ANY_TIME, loss, ANY_TIME)?;
        Some(LinkFit { link, good_loss: loss, good: None, bad: None, error, runs: count })
    };
    if count <= 0.0 {
        return independent(0.0);
    }
    let lengths = runs.lengths(lost);
    let mixture = mixture(runs, &lengths, count, datagrams);
    if mixture.ln_chance(runs) - without_bursts.ln_chance(runs) < GAIN_MIN {
        return independent(without_bursts.error(runs));
    }
    let share = mixture.interruptions();
    let interrupted = sum(|class| share[class] * runs.classes[class]);
    let lost_in_them = sum(|class| share[class] * runs.classes[class] * lengths[class]);
    let timed = sum(|class| share[class] * runs.timed[class].runs);
    let middle = sum(|class| share[class] * runs.timed[class].seconds) / timed;
    // An interruption that is short against the time between two datagrams loses one, and is taken for as long as that time.
    let length = (lost_in_them / interrupted).max(1.0 + 1e-9);
    let bad = middle / (-length * (-length.recip()).ln_1p());
    let bad_share = (lost_in_them / datagrams).clamp(1e-15, 0.999_999);
    let good = bad * (1.0 - bad_share) / bad_share;
    let good_loss = (mixture.independent * count / (datagrams * (1.0 - bad_share))).clamp(0.0, 1.0);
    let time = |seconds: f64| Duration::try_from_secs_f64(seconds.clamp(1e-7, TIME_MAX)).ok();
    // Without a timed run, `middle` is not a number, and there is no fit.
    let (good, bad) = (time(good)?, time(bad)?);
    let link = GilbertElliott::new(good_loss, good, 1.0, bad)?;
    Some(LinkFit { link, good_loss, good: Some(good), bad: Some(bad), error: mixture.error(runs), runs: count })
}

/// The likeliest mixture.
fn mixture(runs: &Runs, lengths: &[f64; BURST_CLASSES], count: f64, datagrams: f64) -> Mixture {
    let ratio = |length: f64| (1.0 - length.recip()).clamp(1e-3, 1.0 - 1e-6);
    let longer = count - runs.classes[0];
    let mean_longer = sum(|class| if class == 0 { 0.0 } else { runs.classes[class] * lengths[class] }) / longer;
    let mut mixture = Mixture {
        independent: 0.5,
        loss: (0.5 * count / datagrams).min(0.999),
        ratio: if mean_longer.is_finite() { ratio(mean_longer - 1.0) } else { 0.5 },
    };
    for _ in 0..ITERATIONS {
        let share = mixture.interruptions();
        let interrupted = sum(|class| share[class] * runs.classes[class]);
        mixture.independent = (1.0 - interrupted / count).clamp(0.0, 1.0);
        mixture.loss = (mixture.independent * count / datagrams).min(0.999);
        if interrupted > 0.0 {
            let lost = sum(|class| share[class] * runs.classes[class] * lengths[class]);
            mixture.ratio = ratio(lost / interrupted);
        }
    }
    mixture
}

fn sum(of_class: impl Fn(usize) -> f64) -> f64 {
    (0..BURST_CLASSES).map(of_class).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::estimate::runs::Timed;
    use crate::wire::report::burst_class;
    use proptest::prelude::*;

    /// The runs of a link: so many of each length; all are timed at this many microseconds a datagram.
    fn runs(of: &[(u64, f64)], micros: u64) -> (Runs, f64) {
        let (mut runs, mut lost) = (Runs::default(), 0.0);
        for &(length, count) in of {
            let class = burst_class(length);
            runs.classes[class] += count;
            lost += length as f64 * count;
            runs.timed[class].runs += count;
            runs.timed[class].seconds += count * (length * micros) as f64 / 1e6;
        }
        (runs, lost)
    }

    /// How many of `count` runs have which length, if each loss is followed by another with probability `ratio`.
    fn geometric(count: f64, ratio: f64) -> Vec<(u64, f64)> {
        (1..2000).map(|length| (length, count * (1.0 - ratio) * ratio.powi(length as i32 - 1))).collect()
    }

    #[test]
    fn independent_losses_have_no_bursts() {
        for loss in [0.001, 0.01, 0.05, 0.3] {
            let (runs, lost) = runs(&geometric(1e6 * loss * (1.0 - loss), loss), 10);
            let found = fit(&runs, lost, 1e6).unwrap();
            assert_eq!((found.good, found.bad), (None, None), "{found:?}");
            assert!((found.good_loss / loss - 1.0).abs() < 0.01 && found.error < 0.01, "{found:?}");
        }
    }

    #[test]
    fn interruptions_and_single_losses_are_told_apart() {
        // A millisecond at a datagram each 10 us, once in a second, and one loss in a thousand.
        let (mut all, ratio) = (geometric(100.0, 0.99), 0.99);
        all.push((1, 9990.0));
        let (runs, lost) = runs(&all, 10);
        let found = fit(&runs, lost, 1e7).unwrap();
        let near = |found: Option<Duration>, micros: f64| {
            let found = found.expect("it has bursts").as_secs_f64() * 1e6;
            assert!((found / micros - 1.0).abs() < 0.2, "{found} us, not {micros}");
        };
        near(found.bad, -10.0 / f64::ln(ratio));
        near(found.good, 1e6);
        assert!((found.good_loss / 0.001 - 1.0).abs() < 0.05, "{found:?}");
        assert!(found.error < 0.01 && (found.link.mean_loss() * 1e7 / lost - 1.0).abs() < 0.01, "{found:?}");
    }

    #[test]
    fn runs_of_one_length_do_not_fit() {
        let (runs, lost) = runs(&[(20, 1000.0)], 10);
        assert!(fit(&runs, lost, 1e6).unwrap().error > 0.5);
    }

    #[test]
    fn too_little_evidence_gives_no_fit() {
        let (mut runs, lost) = runs(&[(20, 10.0)], 10);
        assert_eq!(fit(&runs, lost, 999.0), None);
        runs.timed = Default::default();
        assert_eq!(fit(&runs, lost, 1e6), None, "no run has a time");
        assert_eq!(fit(&Runs::default(), 0.0, 1000.0).map(|it| it.link.mean_loss()), Some(0.0));
        assert_eq!(fit(&Runs::default(), f64::NAN, f64::NAN), None);
    }

    proptest! {
        #[test]
        fn any_counts_give_a_link_or_none(
            classes in prop::array::uniform8(prop_oneof![Just(0.0), 0.0..1e9, Just(1e-12), Just(1.8e19)]),
            timed in prop::array::uniform8((0.0..1e3, 0.0..1e12)),
            (lost, datagrams) in (0.0..1e20, prop_oneof![0.0..1e4, 0.0..1e20]),
        ) {
            let timed = timed.map(|(runs, seconds)| Timed { runs, seconds });
            if let Some(found) = fit(&Runs { classes, timed }, lost, datagrams) {
                prop_assert!((0.0..=1.0).contains(&found.good_loss) && (0.0..=1.0).contains(&found.link.mean_loss()));
                prop_assert!(found.error.is_finite() && found.runs.is_finite());
            }
        }
    }
}
