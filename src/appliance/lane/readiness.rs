//! Which descriptors of a lane may have more. This file reads none of them.

use std::time::{Duration, Instant};

/// After an error that says nothing about what is there, a descriptor is read again this much later.
const AGAIN_AFTER: Duration = Duration::from_millis(10);

/// The TUN is read this often although no event reports more. When its queue is full, nothing that comes makes an event:
/// a lane that had overlooked one would never read again.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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
    /// When to look at the TUN in any case.
    look: Option<Instant>,
}

impl Readiness {
    /// All readable: no event reports what came before the descriptors were watched.
    pub fn at_start() -> Self {
        Self { tun: true, udp: true, sendable: true, commands: true, errors: false, again: None, look: None }
    }

    /// A read of the TUN or the socket failed: what is there lies unread, and the poll will not report it again.
    pub fn on_failed_read(&mut self, now: Instant) {
        self.again = self.again.or(Some(now + AGAIN_AFTER));
    }

    /// A turn begins.
    pub fn on_turn(&mut self, now: Instant) {
        if self.look.is_none_or(|look| look <= now) {
            (self.look, self.tun) = (Some(now + LOOK_EVERY), true);
        }
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
        ready.on_turn(start);
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

    #[test]
    fn a_tun_whose_event_was_overlooked_is_read_all_the_same() {
        let start = Instant::now();
        let mut ready = Readiness::at_start();
        ready.on_turn(start);
        ready.tun = false;
        ready.on_turn(start + LOOK_EVERY / 2);
        assert!(!ready.tun);
        ready.on_turn(start + LOOK_EVERY);
        assert!(ready.tun && ready.deadline().is_none(), "it makes no turn by itself");
    }
}
