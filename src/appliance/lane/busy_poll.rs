//! Whether a lane spins instead of sleeping before a very near deadline. Sleeping and being woken by the timer takes
//! about as long as a block stays open for another packet. So a lane also wakes a little before a far deadline: that of a
//! late part, for which a commit waits.
//!
//! Spinning helps a single write whose writer waits for an answer. In a stream of packets the processor is better left
//! to the program that sends them.

use std::time::{Duration, Instant};

/// The lane spins only before a deadline that is at most this near,
const SPIN: Duration = Duration::from_micros(60);
/// at most once in this time,
const EVERY: Duration = Duration::from_millis(1);
/// and only if at most this many packets came meanwhile.
const FEW: u32 = 4;

/// When a lane last began to spin, and what it has read since.
#[derive(Debug, Default)]
pub struct BusyPoll {
    began: Option<Instant>,
    packets: u32,
    is_busy: bool,
}

impl BusyPoll {
    /// A packet was read from the TUN.
    #[inline]
    pub fn on_packet(&mut self) {
        self.packets = self.packets.saturating_add(1);
    }

    /// When to wake for `due`: a little earlier where the lane would spin then.
    pub fn wakes_at(&self, due: Instant, now: Instant) -> Instant {
        if self.packets <= FEW && due.saturating_duration_since(now) > SPIN { due - SPIN } else { due }
    }

    /// Whether to spin until `due`.
    pub fn should_spin(&mut self, due: Instant, now: Instant) -> bool {
        if due.saturating_duration_since(now) > SPIN {
            return false;
        }
        let since = self.began.map(|at| now.saturating_duration_since(at));
        if since.is_none_or(|since| since >= EVERY) {
            self.began = Some(now);
            self.is_busy = std::mem::take(&mut self.packets) > FEW;
        }
        !self.is_busy && since.is_none_or(|since| since < SPIN || since >= EVERY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_spins_for_a_single_write_and_not_for_a_stream() {
        let start = Instant::now();
        let micros = |micros| start + Duration::from_micros(micros);
        let mut busy_poll = BusyPoll::default();
        busy_poll.on_packet();
        assert!(!busy_poll.should_spin(micros(61), start), "too far away");
        for at in [0, 30, 59] {
            assert!(busy_poll.should_spin(micros(60), micros(at)), "{at}");
        }
        assert!(!busy_poll.should_spin(micros(510), micros(500)), "not that often");
        busy_poll.on_packet();
        assert!(busy_poll.should_spin(micros(1050), micros(1000)));
        (0..=FEW).for_each(|_| busy_poll.on_packet());
        assert!(!busy_poll.should_spin(micros(2050), micros(2000)));
        assert!(!busy_poll.should_spin(micros(2050), micros(2010)));
        assert!(busy_poll.should_spin(micros(3050), micros(3000)), "calm again");
    }

    #[test]
    fn a_lane_wakes_early_for_a_far_deadline_and_not_in_a_stream() {
        let start = Instant::now();
        let micros = |micros| start + Duration::from_micros(micros);
        let mut busy_poll = BusyPoll::default();
        busy_poll.on_packet();
        assert_eq!(busy_poll.wakes_at(micros(2000), start), micros(1940));
        assert!(busy_poll.should_spin(micros(2000), micros(1940)));
        assert_eq!(busy_poll.wakes_at(micros(2000), micros(1990)), micros(2000), "near enough to spin, or not to");
        (0..=FEW).for_each(|_| busy_poll.on_packet());
        assert_eq!(busy_poll.wakes_at(micros(4000), micros(2000)), micros(4000));
    }
}
