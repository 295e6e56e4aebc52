//! Pacing: a token bucket that keeps trains from overflowing the first queue behind this host.
//!
//! Tokens are time. Sending `n` bytes costs `n / rate`; a train may leave while the debt is below one quantum, so that
//! trains keep their size and the long-run rate holds.

use std::time::{Duration, Instant};

/// The link time that one train may take.
const QUANTUM: Duration = Duration::from_micros(250);
/// The shortest train: two full datagrams.
const TRAIN_MIN: usize = 3000;

/// When the next train may leave.
#[derive(Debug)]
pub struct Pacer {
    bytes_per_second: Option<u64>,
    /// Until then the link is busy with what was sent.
    busy_until: Option<Instant>,
}

impl Pacer {
    /// A pacer for a link of `bytes_per_second`; `None` never delays.
    pub fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second: bytes_per_second.filter(|&rate| rate > 0), busy_until: None }
    }

    /// The bytes of the largest train: what fits the quantum, at most `limit`.
    pub fn train_max(&self, limit: usize) -> usize {
        match self.bytes_per_second {
            None => limit,
            Some(rate) => ((rate as f64 * QUANTUM.as_secs_f64()) as usize).clamp(TRAIN_MIN, limit.max(TRAIN_MIN)),
        }
    }

    /// Whether the link has a rate.
    pub fn has_rate(&self) -> bool {
        self.bytes_per_second.is_some()
    }

    /// How long a datagram waits behind `bytes` that are still to be sent.
    pub fn delay_behind(&self, bytes: usize, now: Instant) -> Duration {
        let debt = self.busy_until.map_or(Duration::ZERO, |busy| busy.saturating_duration_since(now));
        self.bytes_per_second.map_or(debt, |rate| debt + Duration::from_secs_f64(bytes as f64 / rate as f64))
    }

    /// When a train may leave, if that is later than `now`.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        let ready = self.busy_until?.checked_sub(QUANTUM)?;
        (ready > now).then_some(ready)
    }

    /// Notes that `bytes` left.
    pub fn on_sent(&mut self, bytes: usize, now: Instant) {
        if let Some(rate) = self.bytes_per_second {
            let start = self.busy_until.map_or(now, |busy| busy.max(now));
            self.busy_until = Some(start + Duration::from_secs_f64(bytes as f64 / rate as f64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_long_run_rate_holds_and_an_idle_link_earns_no_credit() {
        let (start, rate) = (Instant::now(), 12_500_000);
        let mut pacer = Pacer::new(Some(rate));
        let mut now = start + Duration::from_secs(5);
        let began = now;
        let train = pacer.train_max(65_000);
        assert_eq!(train, 3125);
        for _ in 0..4000 {
            if let Some(ready) = pacer.ready_at(now) {
                now = ready;
            }
            pacer.on_sent(train, now);
        }
        let ideal = Duration::from_secs_f64(4000.0 * train as f64 / rate as f64);
        assert!(now - began + QUANTUM + QUANTUM >= ideal, "{:?} for {ideal:?}", now - began);
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let (mut pacer, now) = (Pacer::new(None), Instant::now());
        pacer.on_sent(1 << 30, now);
        assert_eq!(pacer.ready_at(now), None);
        assert_eq!(pacer.train_max(65_000), 65_000);
    }
}
