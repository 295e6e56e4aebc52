//! How much is sent: datagrams and bytes a second, smoothed.

use std::time::{Duration, Instant};

/// What was sent this long ago counts a third (1/e) of what is sent now.
const SMOOTHED_OVER: Duration = Duration::from_millis(200);
/// Several sends within this time are smoothed as one, so that most sends cost an addition.
const STEP: Duration = Duration::from_millis(1);

/// A smoothed rate.
#[derive(Debug)]
pub struct SendRate {
    datagrams: f64,
    bytes: f64,
    /// Up to when they have decayed.
    at: Instant,
}

impl SendRate {
    /// Nothing was sent.
    pub fn new(now: Instant) -> Self {
        Self { datagrams: 0.0, bytes: 0.0, at: now }
    }

    /// This much was sent.
    pub fn on_sent(&mut self, datagrams: u64, bytes: u64, now: Instant) {
        if now.saturating_duration_since(self.at) >= STEP {
            let kept = self.kept(now);
            self.datagrams *= kept;
            self.bytes *= kept;
            self.at = now;
        }
        self.datagrams += datagrams as f64;
        self.bytes += bytes as f64;
    }

    /// Datagrams a second, and bytes a second.
    pub fn per_second(&self, now: Instant) -> (f64, f64) {
        let scale = self.kept(now) / SMOOTHED_OVER.as_secs_f64();
        (self.datagrams * scale, self.bytes * scale)
    }

    fn kept(&self, now: Instant) -> f64 {
        let elapsed = now.saturating_duration_since(self.at);
        (-elapsed.as_secs_f64() / SMOOTHED_OVER.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_moments() {
        let start = Instant::now();
        let mut rate = SendRate::new(start);
        let mut now = start;
        for (micros, datagrams) in [(50, 40), (1000, 7), (7300, 1)] {
            for _ in 0..2_000_000 / micros {
                now += Duration::from_micros(micros);
                rate.on_sent(datagrams, datagrams * 100, now);
            }
            let expected = datagrams as f64 * 1e6 / micros as f64;
            let found = rate.per_second(now);
            assert!((found.0 / expected - 1.0).abs() < 0.03, "{found:?}, not {expected}");
            assert!((found.1 / found.0 - 100.0).abs() < 1e-6);
        }
        let idle = rate.per_second(now + Duration::from_secs(2)).0;
        assert!(idle < rate.per_second(now).0 / 10_000.0, "{idle}");
        assert_eq!(rate.per_second(now + Duration::from_secs(1 << 40)), (0.0, 0.0));
    }
}
