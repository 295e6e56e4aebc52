//! Moments that two processes of this machine agree on: the kernel's monotonic clock, in nanoseconds.
//!
//! [`Instant`] is that clock too, but does not show its number.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// How often the two clocks are read; the closest pair counts, because the thread may stand still between the readings.
const READINGS: usize = 5;

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Monotonic {
    instant: Instant,
    ns: u64,
}

impl Monotonic {
    /// Reads both clocks.
    pub fn now() -> Self {
        let read = |_| {
            let before = Instant::now();
            let time = clock_gettime(ClockId::Monotonic);
            let between = before.elapsed();
            let ns = time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64;
            (between, Self { instant: before + between / 2, ns })
        };
        let closest = (0..READINGS).map(read).min_by_key(|(between, _)| *between);
        closest.map_or_else(|| read(0).1, |(_, closest)| closest)
    }

    /// A moment in nanoseconds.
    pub fn to_ns(self, at: Instant) -> u64 {
        let behind = u64::try_from(self.instant.saturating_duration_since(at).as_nanos()).unwrap_or(u64::MAX);
        let ahead = u64::try_from(at.saturating_duration_since(self.instant).as_nanos()).unwrap_or(u64::MAX);
        self.ns.saturating_sub(behind).saturating_add(ahead)
    }

    /// A moment from nanoseconds.
    pub fn to_instant(self, ns: u64) -> Instant {
        let ahead = Duration::from_nanos(ns.saturating_sub(self.ns));
        let behind = Duration::from_nanos(self.ns.saturating_sub(ns));
        self.instant.checked_sub(behind).unwrap_or(self.instant) + ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_agree_about_a_moment() {
        let (first, at) = (Monotonic::now(), Instant::now() + Duration::from_millis(7));
        std::thread::sleep(Duration::from_millis(2));
        let second = Monotonic::now();
        assert!(first.to_ns(at).abs_diff(second.to_ns(at)) < 1_000_000);
        for ns in [first.to_ns(at), first.ns - 5_000_000] {
            assert_eq!(first.to_ns(first.to_instant(ns)), ns);
        }
        assert!(first.to_instant(first.ns - 1000) < first.to_instant(first.ns));
    }
}
