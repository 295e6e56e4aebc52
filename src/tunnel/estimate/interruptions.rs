//! Interruptions of the last minute, the last hour, and since the start.
//!
//! A window moves in slots, so it is up to a twentieth shorter than its name says. What a run of lost datagrams says about time
//! is decided in [`super::send_times`].

use std::time::{Duration, Instant};

use super::send_times::Interruption;

const SLOTS: usize = 20;
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The interruptions of one window: runs of at least two lost datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Interruptions {
    /// How many.
    pub count: u64,
    /// The mean length.
    pub mean: Duration,
    /// The longest. Its `at_least` is sure; `at_most` may be long only because little was sent.
    pub longest: Interruption,
}

impl Interruptions {
    fn add(&mut self, interruption: Interruption) {
        self.merge(&Self { count: 1, mean: interruption.middle(), longest: interruption });
    }

    /// Adds those of another lane or time.
    pub fn merge(&mut self, other: &Self) {
        let count = self.count.saturating_add(other.count);
        if count == 0 {
            return;
        }
        let share = other.count as f64 / count as f64;
        let mean = self.mean.as_secs_f64() * (1.0 - share) + other.mean.as_secs_f64() * share;
        self.mean = Duration::try_from_secs_f64(mean).unwrap_or(Duration::MAX);
        self.count = count;
        self.longest = self.longest.max(other.longest);
    }
}

/// The slots of one window.
#[derive(Debug)]
struct Window {
    slots: [Interruptions; SLOTS],
    slot: Duration,
    /// The present slot, and when it began.
    at: usize,
    since: Instant,
}

impl Window {
    fn new(length: Duration, now: Instant) -> Self {
        Self { slots: [Interruptions::default(); SLOTS], slot: length / SLOTS as u32, at: 0, since: now }
    }

    /// How many slots have ended since `since`.
    fn ended(&self, now: Instant) -> u128 {
        now.saturating_duration_since(self.since).as_nanos() / self.slot.as_nanos()
    }

    fn add(&mut self, interruption: Interruption, now: Instant) {
        let ended = self.ended(now);
        if ended >= SLOTS as u128 {
            *self = Self::new(self.slot * SLOTS as u32, now);
        } else {
            for _ in 0..ended {
                self.since += self.slot;
                self.at = (self.at + 1) % SLOTS;
                self.slots[self.at] = Interruptions::default();
            }
        }
        self.slots[self.at].add(interruption);
    }

    fn sum(&self, now: Instant) -> Interruptions {
        let live = SLOTS.saturating_sub(usize::try_from(self.ended(now)).unwrap_or(SLOTS));
        let mut sum = Interruptions::default();
        (0..live).for_each(|back| sum.merge(&self.slots[(self.at + SLOTS - back) % SLOTS]));
        sum
    }
}

/// The interruptions of one direction.
#[derive(Debug)]
pub struct History {
    minute: Window,
    hour: Window,
    ever: Interruptions,
}

impl History {
    /// None so far.
    pub fn new(now: Instant) -> Self {
        Self { minute: Window::new(MINUTE, now), hour: Window::new(HOUR, now), ever: Interruptions::default() }
    }

    /// Notes an interruption that was reported now.
    pub fn add(&mut self, interruption: Interruption, now: Instant) {
        self.minute.add(interruption, now);
        self.hour.add(interruption, now);
        self.ever.add(interruption);
    }

    /// Those of the last minute.
    pub fn last_minute(&self, now: Instant) -> Interruptions {
        self.minute.sum(now)
    }

    /// Those of the last hour.
    pub fn last_hour(&self, now: Instant) -> Interruptions {
        self.hour.sum(now)
    }

    /// All.
    pub fn ever(&self) -> Interruptions {
        self.ever
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn windows_equal_a_list_of_all(steps in prop::collection::vec((0u64..400, 1u64..5000), 1..60), wait in 0u64..5000) {
            let start = Instant::now();
            let mut history = History::new(start);
            let mut all = Vec::new();
            let mut now = start;
            for (seconds, micros) in steps {
                now += Duration::from_secs(seconds);
                let at_least = Duration::from_micros(micros);
                let interruption = Interruption { at_least, at_most: at_least * 3 };
                history.add(interruption, now);
                all.push((now, interruption));
            }
            now += Duration::from_secs(wait);
            let ever = (history.ever(), Duration::MAX, Duration::MAX);
            let hour = (history.last_hour(now), HOUR - HOUR / 20, HOUR);
            let minute = (history.last_minute(now), MINUTE - MINUTE / 20, MINUTE);
            for (found, sure, possible) in [ever, hour, minute] {
                let newer = |age: Duration| all.iter().filter(move |(at, _)| now - *at <= age).map(|(_, it)| it);
                prop_assert!(found.count >= newer(sure).count() as u64 && found.count <= newer(possible).count() as u64);
                prop_assert!(found.longest >= newer(sure).max().copied().unwrap_or_default());
                prop_assert!(found.longest <= newer(possible).max().copied().unwrap_or_default());
                // The newest are in the window.
                let counted = &all[all.len() - found.count as usize..];
                let sum: f64 = counted.iter().map(|(_, it)| it.middle().as_secs_f64()).sum();
                let mean = if counted.is_empty() { 0.0 } else { sum / counted.len() as f64 };
                prop_assert!((found.mean.as_secs_f64() - mean).abs() < 1e-6 + mean * 1e-3);
            }
        }
    }
}
