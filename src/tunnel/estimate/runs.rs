//! Runs of lost datagrams: how many of which length, and how long the longer ones lasted.
//!
//! Reports count all runs by length. Only the newest are named, so only some have a time: these are a sample, from which the mean
//! time of each length is taken. All is forgotten as the caller says. The distribution behind them is fitted in [`super::fit`].

use super::send_times::Interruption;
use crate::wire::report::BURST_CLASSES;

/// Runs that lasted a known time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timed {
    /// How many.
    pub runs: f64,
    /// Their time together, in seconds.
    pub seconds: f64,
}

/// Runs by their class ([`burst_class`](crate::wire::report::burst_class)).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Runs {
    /// All runs.
    pub classes: [f64; BURST_CLASSES],
    /// Those of which the time is known.
    pub timed: [Timed; BURST_CLASSES],
}

/// The shortest and the longest run of a class; `None`: there is no longest.
pub fn bounds(class: usize) -> (u32, Option<u32>) {
    let longest = |class: usize| 1_u32 << class;
    let shortest = class.checked_sub(1).map_or(1, |before| longest(before) + 1);
    (shortest, (class < BURST_CLASSES - 1).then(|| longest(class)))
}

impl Runs {
    /// Keeps this share of everything.
    pub fn forget(&mut self, kept: f64) {
        self.classes.iter_mut().for_each(|runs| *runs *= kept);
        for timed in &mut self.timed {
            timed.runs *= kept;
            timed.seconds *= kept;
        }
    }

    /// A run of this class was timed.
    pub fn on_timed(&mut self, class: usize, interruption: Interruption) {
        let timed = &mut self.timed[class];
        timed.runs += 1.0;
        timed.seconds += interruption.middle().as_secs_f64();
    }

    /// How many runs there are.
    pub fn count(&self) -> f64 {
        self.classes.iter().sum()
    }

    /// The mean length of the runs of each class, where all of them lost `lost` datagrams.
    pub fn lengths(&self, lost: f64) -> [f64; BURST_CLASSES] {
        let mut lengths: [f64; BURST_CLASSES] = std::array::from_fn(|class| {
            let (shortest, longest) = bounds(class);
            (f64::from(shortest) + f64::from(longest.unwrap_or(shortest))) / 2.0
        });
        let last = BURST_CLASSES - 1;
        let in_shorter: f64 = self.classes[..last].iter().zip(&lengths).map(|(runs, length)| runs * length).sum();
        let of_long = (lost - in_shorter) / self.classes[last];
        if of_long.is_finite() {
            lengths[last] = of_long.max(lengths[last]);
        }
        lengths
    }

    /// How many losses come with one loss, itself included, in the mean: 1 if all are single. Losses in runs are so much less
    /// evidence than independent ones.
    pub fn clumping(&self, lost: f64) -> f64 {
        let lengths = self.lengths(lost);
        let sum =
            |power: i32| self.classes.iter().zip(lengths).map(|(runs, length)| runs * length.powi(power)).sum::<f64>();
        let clumping = sum(2) / sum(1);
        if clumping.is_finite() { clumping.max(1.0) } else { 1.0 }
    }

    /// The chance that a run is as long as this one, after the runs so far, if losses are independent with probability `loss` or
    /// come from interruptions of an exponentially distributed length.
    pub fn chance(&self, length: u64, interruption: Interruption, loss: f64) -> f64 {
        let single = loss.powf(length.saturating_sub(1) as f64);
        let longer = &self.timed[1..];
        let (runs, seconds) =
            longer.iter().fold((0.0, 0.0), |(runs, seconds), timed| (runs + timed.runs, seconds + timed.seconds));
        if runs < RUNS_MIN {
            return single;
        }
        // The mean length is itself not known better than from so many runs.
        let excess = interruption.at_least.as_secs_f64() / seconds.max(1e-9);
        single + (-runs * excess.ln_1p()).exp()
    }
}

/// Fewer timed runs than this are forgotten ones.
const RUNS_MIN: f64 = 0.1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::report::burst_class;
    use std::time::Duration;

    #[test]
    fn the_bounds_are_those_of_the_classes() {
        for class in 0..BURST_CLASSES {
            let (shortest, longest) = bounds(class);
            let lengths = shortest.into()..=u64::from(longest.unwrap_or(9000));
            assert!(lengths.clone().all(|length| burst_class(length) == class));
            assert!(longest.is_none_or(|longest| burst_class(u64::from(longest) + 1) == class + 1));
        }
    }

    #[test]
    fn the_length_of_long_runs_follows_from_all_losses() {
        let runs = Runs { classes: [10.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0], ..Runs::default() };
        assert_eq!(runs.lengths(10.0 + 4.0 + 2.0 * 300.0)[7], 300.0);
        assert_eq!(runs.lengths(3.0)[7], 65.0, "never shorter than the class");
        assert_eq!(Runs::default().lengths(9.0)[7], 65.0);
    }

    #[test]
    fn single_losses_do_not_clump() {
        let single = Runs { classes: [10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], ..Runs::default() };
        assert_eq!((single.clumping(10.0), Runs::default().clumping(0.0)), (1.0, 1.0));
        let pairs = Runs { classes: [0.0, 10.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], ..Runs::default() };
        assert_eq!(pairs.clumping(20.0), 2.0);
    }

    #[test]
    fn a_run_is_unlikely_only_where_the_runs_so_far_say_so() {
        let lasted = |millis| {
            let at_least = Duration::from_millis(millis);
            Interruption { at_least, at_most: at_least }
        };
        let mut runs = Runs::default();
        assert!(runs.chance(2, lasted(1), 0.01) > 1e-3, "two losses in a row at one percent");
        assert!(runs.chance(20, lasted(1), 0.01) < 1e-30, "twenty");
        assert_eq!(runs.chance(20, lasted(1), 1.0), 1.0, "nothing is known of the loss");
        runs.on_timed(4, lasted(2));
        assert!(runs.chance(2000, lasted(200), 0.01) > 1e-3, "one run says little");
        (0..100).for_each(|_| runs.on_timed(4, lasted(2)));
        assert!(runs.chance(40, lasted(4), 0.01) > 0.1);
        assert!(runs.chance(2000, lasted(200), 0.01) < 1e-20, "a hundred say much");
    }
}
