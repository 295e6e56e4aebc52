//! Durations gathered into a histogram, of a microsecond to a minute, exact to a thousandth.
//!
//! Longer ones count as a minute. Says nothing of what was measured.

use std::time::Duration;

use hdrhistogram::Histogram;

const LONGEST: u64 = 60_000_000;

/// A histogram of durations.
#[derive(Clone, Debug, PartialEq)]
pub struct Times(Histogram<u64>);

impl Default for Times {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LONGEST, 3).expect("the bounds and three digits are allowed"))
    }
}

impl Times {
    /// Takes one in.
    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(LONGEST));
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration that this share (0 to 1) of all does not exceed; zero of none.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// The same in whole microseconds, for a result.
    pub fn micros(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }

    /// How many there are in each span between two of these ends, in microseconds: the first begins at zero, and a last one
    /// follows that has no end.
    pub fn spans(&self, ends: &[u64]) -> Vec<(Option<u64>, u64)> {
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let ends = ends.iter().copied().map(Some).chain([None]);
        let count = |start, end: Option<u64>| self.0.count_between(start, end.map_or(u64::MAX, |end| end - 1));
        starts.zip(ends).map(|(start, end)| (end, count(start, end))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_in_one_span_and_none_is_too_long() {
        let mut times = Times::default();
        for micros in [0, 99, 100, 30_000, u64::MAX] {
            times.record(Duration::from_micros(micros));
        }
        assert_eq!(times.spans(&[100, 1000, 40_000]), [(Some(100), 2), (Some(1000), 1), (Some(40_000), 1), (None, 1)]);
        assert_eq!((times.count(), times.micros(0.6)), (5, 100));
        assert!(times.quantile(1.0) >= Duration::from_secs(60));
        assert_eq!(Times::default().quantile(0.99), Duration::ZERO);
    }
}
