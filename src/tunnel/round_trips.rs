//! The least round trip of the last ten seconds: the time that the path itself takes.
//!
//! A mean includes the time in queues, so a sender that fills a queue changes it. The least round trip stays the same
//! while at least one report passes without delay. What it is used for is not known here.

use std::time::{Duration, Instant};

/// The window moves in steps of one slot.
const SLOT: Duration = Duration::from_secs(1);
const SLOTS: usize = 10;

/// The least round trip of a window.
#[derive(Debug)]
pub struct RoundTrips {
    /// The least of each slot. The present slot is `at` and began at `since`.
    slots: [Option<Duration>; SLOTS],
    at: usize,
    since: Instant,
}

impl RoundTrips {
    /// An empty window.
    pub fn new(now: Instant) -> Self {
        Self { slots: [None; SLOTS], at: 0, since: now }
    }

    /// A round trip was measured.
    pub fn on_sample(&mut self, sample: Duration, now: Instant) {
        while now.saturating_duration_since(self.since) >= SLOT {
            self.since += SLOT;
            self.at = (self.at + 1) % SLOTS;
            self.slots[self.at] = None;
        }
        let least = self.slots[self.at].get_or_insert(sample);
        *least = sample.min(*least);
    }

    /// The least round trip in the window, as of the last sample.
    pub fn least(&self) -> Option<Duration> {
        self.slots.iter().flatten().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_round_trip_counts_for_nine_seconds_and_not_for_eleven() {
        let start = Instant::now();
        let (short, long) = (Duration::from_millis(10), Duration::from_millis(800));
        for first in (0..3000).step_by(170) {
            let at = |millis: u64| start + Duration::from_millis(first + millis);
            let mut trips = RoundTrips::new(start);
            assert_eq!(trips.least(), None);
            trips.on_sample(short, at(0));
            for millis in (20..=9000).step_by(20) {
                trips.on_sample(long, at(millis));
                assert_eq!(trips.least(), Some(short), "{millis} ms after");
            }
            (9020..=11_000).step_by(20).for_each(|millis| trips.on_sample(long, at(millis)));
            assert_eq!(trips.least(), Some(long));
        }
    }

    #[test]
    fn after_a_long_silence_old_samples_do_not_count() {
        let start = Instant::now();
        let mut trips = RoundTrips::new(start);
        trips.on_sample(Duration::from_millis(10), start);
        trips.on_sample(Duration::from_millis(90), start + Duration::from_secs(3600));
        assert_eq!(trips.least(), Some(Duration::from_millis(90)));
    }
}
