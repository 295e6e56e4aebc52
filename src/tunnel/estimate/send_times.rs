//! When our own datagrams left, by the counter that each was sealed with: so that a run of lost datagrams becomes a time.
//!
//! Datagrams leave in trains, and consecutive ones share an entry while they leave within a grain of time. So a note costs a
//! comparison, and the memory is bounded. The grain grows where the entries would not reach back far enough for the peer's
//! reports. A counter that falls is that of a new session: what was noted before cannot be meant any more.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most entries.
const ENTRIES_MAX: usize = 4096;
/// The least and the greatest grain.
const GRAINS: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(2)];
/// An entry that had to leave sooner makes the grain coarser, one that left later than this makes it finer.
const REACH: [Duration; 2] = [Duration::from_millis(1500), Duration::from_secs(6)];

/// Consecutive datagrams that left within a grain of time.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// The first counter, and the one behind the last.
    first: u64,
    below: u64,
    /// When the first and the last left.
    from: Instant,
    until: Instant,
}

/// How long nothing arrived: in truth from `at_least` to `at_most`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interruption {
    /// From the first to the last lost datagram.
    pub at_least: Duration,
    /// From the datagram before them to the one behind them.
    pub at_most: Duration,
}

impl Interruption {
    /// The mean of both bounds.
    pub fn middle(&self) -> Duration {
        self.at_least + self.at_most.saturating_sub(self.at_least) / 2
    }
}

/// When the newest datagrams left.
#[derive(Debug)]
pub struct SendTimes {
    entries: VecDeque<Entry>,
    grain: Duration,
}

impl Default for SendTimes {
    fn default() -> Self {
        Self { entries: VecDeque::new(), grain: GRAINS[0] }
    }
}

impl SendTimes {
    /// `datagrams` left, the first of them with the counter `first`.
    pub fn on_sent(&mut self, first: u64, datagrams: u64, now: Instant) {
        let below = first.saturating_add(datagrams);
        if below == first {
            return;
        }
        match self.entries.back_mut() {
            Some(last) if first < last.below => self.entries.clear(),
            Some(last) if first == last.below && now.saturating_duration_since(last.from) <= self.grain => {
                (last.below, last.until) = (below, now.max(last.until));
                return;
            }
            _ => {}
        }
        if self.entries.len() == ENTRIES_MAX {
            self.drop_oldest(now);
        }
        self.entries.push_back(Entry { first, below, from: now, until: now });
    }

    fn drop_oldest(&mut self, now: Instant) {
        let Some(oldest) = self.entries.pop_front() else { return };
        let age = now.saturating_duration_since(oldest.until);
        // Small steps: the grain shows its effect only when all entries are replaced.
        let step = self.grain / (ENTRIES_MAX as u32 / 2);
        if age < REACH[0] {
            self.grain = (self.grain + step).min(GRAINS[1]);
        } else if age > REACH[1] {
            self.grain = (self.grain - step).max(GRAINS[0]);
        }
    }

    /// The interruption that lost `length` datagrams from `first` on; `None` if these did not leave, or the times of those
    /// around them are not known.
    pub fn interruption(&self, first: u64, length: u64) -> Option<Interruption> {
        let behind = first.checked_add(length)?;
        let last = behind.checked_sub(1)?;
        let [first_lost, last_lost, behind] = [self.at(first)?, self.at(last)?, self.at(behind)?];
        // Nothing left before the first datagram of a session.
        let before = first.checked_sub(1).map_or(Some(first_lost), |before| self.at(before))?;
        (length > 0).then(|| Interruption {
            at_least: last_lost.from.saturating_duration_since(first_lost.until),
            at_most: behind.until.saturating_duration_since(before.from),
        })
    }

    /// The entry of the datagram with this counter.
    fn at(&self, counter: u64) -> Option<&Entry> {
        let after = self.entries.partition_point(|entry| entry.first <= counter);
        self.entries.get(after.checked_sub(1)?).filter(|entry| counter < entry.below)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const US: Duration = Duration::from_micros(1);

    #[test]
    fn a_run_lies_between_the_datagrams_around_it() {
        let start = Instant::now();
        let mut times = SendTimes::default();
        for (first, datagrams, millis) in [(0, 1, 0), (1, 2, 10), (3, 1, 20), (4, 1, 50)] {
            times.on_sent(first, datagrams, start + Duration::from_millis(millis));
        }
        let rows = [
            (1, 1, Some((0, 10))),
            (1, 2, Some((0, 20))),
            (2, 2, Some((10, 40))),
            (0, 1, Some((0, 10))),
            (0, 4, Some((20, 50))),
            (3, 2, None),
            (4, 1, None),
            (5, 1, None),
            (2, 0, None),
            (0, u64::MAX, None),
            (u64::MAX, 1, None),
            (u64::MAX, u64::MAX, None),
        ];
        for (first, length, bounds) in rows {
            let found = times.interruption(first, length);
            let millis = found.map(|it| (it.at_least.as_millis(), it.at_most.as_millis()));
            assert_eq!(millis, bounds, "{length} from {first}");
        }
    }

    #[test]
    fn a_new_session_makes_earlier_counters_unknown() {
        let start = Instant::now();
        let mut times = SendTimes::default();
        times.on_sent(0, 1000, start);
        times.on_sent(0, 1, start + US * 900);
        assert_eq!(times.interruption(10, 5), None);
        times.on_sent(u64::MAX, 9, start);
        times.on_sent(u64::MAX - 1, u64::MAX, start);
        assert_eq!(times.interruption(u64::MAX - 1, 1), None);
    }

    #[test]
    fn memory_is_bounded_and_the_times_reach_back_at_any_rate() {
        let start = Instant::now();
        for apart in [US * 2, US * 10, US * 50, US * 300, US * 20_000] {
            let mut times = SendTimes::default();
            let sent = 12_000_000 / apart.as_micros() as u64;
            (0..sent).for_each(|counter| times.on_sent(counter, 1, start + apart * counter as u32));
            assert!(times.entries.len() <= ENTRIES_MAX);
            let second = 1_000_000 / apart.as_micros() as u64;
            let found = times.interruption(sent - second, 20).expect("it left a second ago");
            let (at_least, at_most) = (apart * 19, apart * 21);
            assert!(found.at_least <= at_least && found.at_most >= at_most, "{apart:?} apart: {found:?}");
            assert!(
                found.at_least + GRAINS[1] * 2 >= at_least && found.at_most <= at_most + GRAINS[1] * 2,
                "{found:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_bounds_hold_whatever_the_trains(
            trains in prop::collection::vec((1u64..5, 0u32..60, 0u64..2), 3..60),
            (first, length) in (0u64..100, 1u64..20),
        ) {
            let start = Instant::now();
            let mut times = SendTimes::default();
            let mut left = Vec::new();
            let (mut counter, mut now) = (0, start);
            for (datagrams, micros, unsent) in trains {
                now += US * micros;
                // Some datagrams were discarded before they left.
                counter += unsent;
                times.on_sent(counter, datagrams, now);
                left.resize(counter as usize, None);
                left.resize((counter + datagrams) as usize, Some(now));
                counter += datagrams;
            }
            let at = |counter: u64| left.get(counter as usize).copied().flatten();
            if let Some(found) = times.interruption(first, length) {
                let [begin, end] = [at(first), at(first + length - 1)].map(|at| at.expect("it left"));
                prop_assert!(found.at_least <= end - begin);
                let before = first.checked_sub(1).map_or(Some(begin), at).expect("it left");
                prop_assert!(found.at_most >= at(first + length).expect("it left") - before);
            } else {
                let around = (first.saturating_sub(1)..=first + length).map(at);
                prop_assert!(around.clone().any(|at| at.is_none()), "all of them left");
            }
        }
    }
}
