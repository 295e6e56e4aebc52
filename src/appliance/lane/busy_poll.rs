//! Whether a lane waits awake for what is due soon: to fall asleep and be woken by the timer takes about as long as a
//! block stays open for a neighbour.
//!
//! Worth it for a lone write that somebody waits for. In a stream of them the processor is better used by whoever makes
//! it.

use std::time::{Duration, Instant};

/// What is due sooner is waited for awake,
const SPIN: Duration = Duration::from_micros(60);
/// no more often than this,
const EVERY: Duration = Duration::from_millis(1);
/// and only if no more packets than these came meanwhile.
const FEW: u32 = 4;

/// When a lane last waited awake, and what it read since.
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

    /// Whether to wait awake for what is due at `due`.
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
    fn a_lone_write_is_waited_for_awake_and_a_stream_is_not() {
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
}
