//! A level that rises at once and falls late: only when everything below it has held for a while.

use std::time::{Duration, Instant};

/// A level, the higher the worse.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    level: i32,
    falls_after: Duration,
    /// Since when the level was lower all the time, and the highest that it was since.
    lower: Option<(Instant, i32)>,
}

impl Held {
    /// A level that falls after so long.
    pub fn new(level: i32, falls_after: Duration) -> Self {
        Self { level, falls_after, lower: None }
    }

    /// The level that counts.
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Takes the level as it is now, and returns the one that counts.
    pub fn update(&mut self, seen: i32, now: Instant) -> i32 {
        if seen >= self.level {
            (self.level, self.lower) = (seen, None);
            return seen;
        }
        let (since, highest) = self.lower.map_or((now, seen), |(since, highest)| (since, highest.max(seen)));
        self.lower = Some((since, highest));
        if now.saturating_duration_since(since) >= self.falls_after {
            // What is lower still has to hold for its own time.
            (self.level, self.lower) = (highest, None);
        }
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rises_at_once_and_falls_when_the_lower_ones_have_held() {
        let begin = Instant::now();
        let at = |seconds: u64| begin + Duration::from_secs(seconds);
        let mut held = Held::new(3, Duration::from_secs(60));
        let seen = [(0, 5, 5), (1, 2, 5), (30, 4, 5), (40, 1, 5), (60, 1, 5), (61, 1, 4), (62, 1, 4), (122, 1, 1)];
        for (seconds, level, expected) in seen {
            assert_eq!(held.update(level, at(seconds)), expected, "at {seconds} s");
        }
        assert_eq!(held.update(5, at(123)), 5);
        assert_eq!(held.update(1, at(130)), 5);
        assert_eq!(held.update(5, at(180)), 5, "the evidence did not hold");
        assert_eq!(held.update(1, at(195)), 5);
    }
}
