//! The search for the highest rate at which a device loses next to nothing, as in section 26.1 of RFC 2544. It offers nothing
//! itself.

/// A binary search over rates.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Search {
    /// The highest rate that passed, and the lowest one that failed.
    bounds: [f64; 2],
    /// The highest rate that was really offered in a trial that passed.
    carried: f64,
    rates_left: u32,
    /// The current rate has failed once.
    is_second: bool,
}

impl Search {
    /// A search below `most` in this many steps, each of which halves what is uncertain.
    pub fn below(most: f64, steps: u32) -> Self {
        Self { bounds: [0.0, most], carried: 0.0, rates_left: steps, is_second: false }
    }

    /// The rate of the next trial; none when the search is over.
    pub fn rate(&self) -> Option<f64> {
        (self.rates_left > 0).then(|| self.bounds.iter().sum::<f64>() / 2.0)
    }

    /// Takes the result of that trial: the rate that was really offered, and whether it passed. A rate fails if it fails twice:
    /// one trial may be disturbed by what else the machine does.
    pub fn record(&mut self, offered: f64, passes: bool) {
        let Some(rate) = self.rate() else { return };
        if !passes && !self.is_second {
            self.is_second = true;
            return;
        }
        self.bounds[usize::from(!passes)] = rate;
        if passes {
            self.carried = self.carried.max(offered);
        }
        self.is_second = false;
        self.rates_left -= 1;
    }

    /// The highest rate that passed; 0 if none did.
    pub fn carried(&self) -> f64 {
        self.carried
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rate found for a device that carries up to `capacity`, and the trials it took. `disturbed` says which trials fail
    /// though the device could carry the rate.
    fn found(capacity: f64, most: f64, disturbed: impl Fn(u32) -> bool) -> (f64, u32) {
        let (mut search, mut trials) = (Search::below(most, 6), 0);
        while let Some(rate) = search.rate() {
            trials += 1;
            search.record(rate, rate <= capacity && !disturbed(trials));
        }
        (search.carried(), trials)
    }

    #[test]
    fn the_capacity_of_a_device_is_found_to_a_64th_of_the_most() {
        for capacity in [0.02, 0.1, 0.33, 0.5, 0.77, 0.999].map(|share| share * 640_000.0) {
            let (rate, trials) = found(capacity, 640_000.0, |_| false);
            assert!(rate <= capacity && capacity - rate <= 10_000.0, "{capacity}: {rate}");
            assert!((6..=12).contains(&trials), "{trials}");
        }
    }

    #[test]
    fn a_device_that_carries_all_or_nothing_ends_the_search_too() {
        assert_eq!(found(1e9, 64.0, |_| false), (63.0, 6));
        assert_eq!(found(0.0, 64.0, |_| false), (0.0, 12));
    }

    #[test]
    fn one_disturbed_trial_of_a_rate_does_not_decide() {
        let calm = found(50.0, 64.0, |_| false).0;
        for trial in 1..=6 {
            assert_eq!(found(50.0, 64.0, |it| it == trial).0, calm, "{trial}");
        }
        assert!(found(50.0, 64.0, |it| it < 3).0 < 32.0, "two do");
    }

    #[test]
    fn what_was_really_offered_counts() {
        let mut search = Search::below(100.0, 1);
        search.record(48.0, true);
        assert_eq!((search.rate(), search.carried()), (None, 48.0));
        search.record(99.0, true);
        assert_eq!(search.carried(), 48.0, "it was over");
    }
}
