//! How far a lane is behind what has come to its socket.
//!
//! A hole is not given up while what fills it may lie unread in the socket because the lane itself was late, but for a
//! bounded time: a socket that is never empty must not hold a stream for ever. It reads nothing and no clock.

use std::time::{Duration, Instant};

/// How long a hole that is due may go on holding because the socket was not yet read to its end.
const LATENESS_MAX: Duration = Duration::from_millis(100);

/// What is known of the socket.
#[derive(Debug)]
pub struct Lateness {
    /// Everything that came before this has been read.
    read_until: Instant,
    /// Since when there was always more to read.
    behind_since: Option<Instant>,
}

impl Lateness {
    /// Nothing has come before `now`.
    pub fn new(now: Instant) -> Self {
        Self { read_until: now, behind_since: None }
    }

    /// The socket was read to its end in the turn that began at `now`.
    pub fn on_dry(&mut self, now: Instant) {
        (self.read_until, self.behind_since) = (now, None);
    }

    /// The time until which nothing more can come, for whoever waits; `dry` if the socket has no more.
    pub fn heard_until(&mut self, dry: bool, now: Instant) -> Instant {
        if dry {
            return now;
        }
        let behind_since = *self.behind_since.get_or_insert(now);
        if now.saturating_duration_since(behind_since) < LATENESS_MAX { self.read_until } else { now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_that_woke_late_gave_up_blocks_whose_symbols_lay_in_its_socket() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut lateness = Lateness::new(start);
        lateness.on_dry(at(10));
        // It slept for a quarter of a second, and finds the socket full.
        assert_eq!(lateness.heard_until(false, at(260)), at(10));
        assert_eq!(lateness.heard_until(false, at(261)), at(10));
        lateness.on_dry(at(262));
        assert_eq!(lateness.heard_until(true, at(262)), at(262));
        // A flood that never ends holds up nothing for long.
        assert_eq!(lateness.heard_until(false, at(300)), at(262));
        assert_eq!(lateness.heard_until(false, at(399)), at(262));
        assert_eq!(lateness.heard_until(false, at(400)), at(400));
    }
}
