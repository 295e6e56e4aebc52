//! A rate limit for costly work: a burst at once, then a number per second.
//!
//! It does not distinguish senders; it only protects the processor.

use std::time::{Duration, Instant};

/// The virtual-scheduling form of a leaky bucket (ITU-T I.371, annex A): its only state is one instant.
pub(super) struct RateLimit {
    interval: Duration,
    tolerance: Duration,
    due: Instant,
}

impl RateLimit {
    /// Allows `burst` (at least 1) at once, then `per_second`.
    pub fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let interval = Duration::from_secs(1) / per_second;
        Self { interval, tolerance: interval * (burst - 1), due: now }
    }

    /// Whether one more may be done; if so it is counted.
    pub fn allow(&mut self, now: Instant) -> bool {
        let due = self.due.max(now);
        let allowed = due.saturating_duration_since(now) <= self.tolerance;
        if allowed {
            self.due = due + self.interval;
        }
        allowed
    }

    /// The whole burst is allowed again.
    pub fn is_idle(&self, now: Instant) -> bool {
        self.due <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_only_the_rate() {
        let start = Instant::now();
        let mut limit = RateLimit::new(200, 50, start);
        let allowed = |limit: &mut RateLimit, now| (0..1000).filter(|_| limit.allow(now)).count();
        assert_eq!(allowed(&mut limit, start), 50);
        assert_eq!(allowed(&mut limit, start + Duration::from_millis(100)), 20);
        assert_eq!(allowed(&mut limit, start + Duration::from_secs(60)), 50);
    }
}
