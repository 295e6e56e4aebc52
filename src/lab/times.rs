//! A histogram of durations from a microsecond to a minute, with a precision of one thousandth.
//!
//! Longer durations count as a minute.

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
    /// Adds a duration.
    pub fn record(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(LONGEST));
    }

    /// The number of durations.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The duration that this share (0 to 1) of all does not exceed; zero if there are none.
    pub fn quantile(&self, share: f64) -> Duration {
        Duration::from_micros(self.0.value_at_quantile(share))
    }

    /// Like [`quantile`](Self::quantile), in whole microseconds.
    pub fn micros(&self, share: f64) -> u64 {
        self.0.value_at_quantile(share)
    }

    /// The number of durations in each span between two neighbouring `ends`, in microseconds. The first span begins at
    /// zero; a last span without an end follows.
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
    fn every_duration_counts_in_exactly_one_span() {
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
