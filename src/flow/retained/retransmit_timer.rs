//! When the lowest unacknowledged packet of a flow is sent again: after a time that doubles with each try, as in TCP
//! (RFC 6298), or at once when the local end has just acknowledged the previous repeat. The number of tries is limited.
//!
//! One packet of a flow is under way at a time. Once it is acknowledged, the next missing packet is known.

use std::time::{Duration, Instant};

/// From a flow's last packet to its first repeat: longer than a TCP delays an acknowledgement.
pub const FIRST: Duration = Duration::from_millis(200);
/// The longest time between two tries.
const LONGEST: Duration = Duration::from_secs(4);
/// Tries without a segment from the local end: four minutes. Each segment from it allows one more.
const TRIES_MAX: u32 = 64;

/// The state of one flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct RetransmitTimer {
    /// When a packet of it was last sent, by its sender or as a repeat.
    sent_at: Instant,
    wait: Duration,
    tries: u32,
    /// The local end has closed its window.
    is_shut: bool,
}

impl RetransmitTimer {
    pub fn new(now: Instant) -> Self {
        Self { sent_at: now, wait: FIRST, tries: 0, is_shut: false }
    }

    /// The sender has sent a packet: it is alive.
    #[inline]
    pub fn on_handed_on(&mut self, now: Instant) {
        (self.sent_at, self.wait, self.tries) = (now, FIRST, 0);
    }

    /// When to send again; never once the tries are used up.
    pub fn due_at(&self) -> Option<Instant> {
        (self.tries < TRIES_MAX).then(|| self.sent_at + self.wait)
    }

    /// A packet was sent again; returns the time of the next repeat.
    pub fn on_repeated(&mut self, now: Instant) -> Instant {
        self.sent_at = now;
        self.wait = (self.wait * 2).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        now + self.wait
    }

    /// The local end sent a segment, and unacknowledged packets remain; `is_news` if the segment acknowledged something
    /// new. Returns when to send again, if that has changed.
    pub fn on_ack(&mut self, is_news: bool, is_open: bool, now: Instant) -> Option<Instant> {
        let was_shut = std::mem::replace(&mut self.is_shut, !is_open);
        // No repeat was sent yet: the sender may be alive and retransmits itself.
        if self.tries == 0 {
            return None;
        }
        let had_given_up = self.tries >= TRIES_MAX;
        self.tries = self.tries.min(TRIES_MAX - 1);
        if is_news && is_open {
            (self.wait, self.tries) = (FIRST, 1);
        }
        match is_open && (is_news || was_shut) {
            true => Some(now),
            false => had_given_up.then(|| self.sent_at + self.wait),
        }
    }
}
