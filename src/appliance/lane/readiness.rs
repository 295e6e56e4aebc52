//! Which descriptors of a lane may have more. This file reads none of them.

use std::time::{Duration, Instant};

/// After an error that says nothing about what is there, a descriptor is read again this much later.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Descriptors that may have more. They are edge-triggered: a flag stays set until a read finds nothing.
#[derive(Debug)]
pub struct Readiness {
    /// The TUN.
    pub tun: bool,
    /// The socket, to read from.
    pub udp: bool,
    /// The socket takes more: the last send did not fill its buffer.
    pub sendable: bool,
    /// Commands of the control thread.
    pub commands: bool,
    /// The error queue may hold something.
    pub errors: bool,
    /// When to read the TUN and the socket again although no event reports more.
    again: Option<Instant>,
}

impl Readiness {
    /// All readable: no event reports what came before the descriptors were watched.
    pub fn at_start() -> Self {
        Self { tun: true, udp: true, sendable: true, commands: true, errors: false, again: None }
    }

    /// A read of the TUN or the socket failed: what is there lies unread, and the poll will not report it again.
    pub fn on_failed_read(&mut self, now: Instant) {
        self.again = self.again.or(Some(now + AGAIN_AFTER));
    }

    /// A turn begins.
    pub fn on_turn(&mut self, now: Instant) {
        if self.again.is_some_and(|again| again <= now) {
            (self.again, self.tun, self.udp) = (None, true, true);
        }
    }

    /// When a turn is needed although no event comes.
    pub fn deadline(&self) -> Option<Instant> {
        self.again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_read_is_read_again_soon_without_an_event() {
        let start = Instant::now();
        let mut ready = Readiness::at_start();
        (ready.tun, ready.udp) = (false, false);
        ready.on_turn(start + AGAIN_AFTER);
        assert!(!ready.tun && !ready.udp && ready.deadline().is_none(), "nothing failed");
        ready.on_failed_read(start);
        ready.on_failed_read(start + AGAIN_AFTER / 2);
        assert_eq!(ready.deadline(), Some(start + AGAIN_AFTER), "a later failure does not put it off");
        ready.on_turn(start + AGAIN_AFTER / 2);
        assert!(!ready.tun && !ready.udp);
        ready.on_turn(start + AGAIN_AFTER);
        assert!(ready.tun && ready.udp && ready.deadline().is_none());
    }
}
