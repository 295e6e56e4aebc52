//! When the lowest packet of a flow that is not acknowledged is sent again: after a time that doubles from try to try, as
//! TCP does it (RFC 6298), at once when our end has just acknowledged what was sent again before, and not for ever.
//!
//! One packet of a flow is on its way at a time. What is missing behind it shows when it is acknowledged.

use std::time::{Duration, Instant};

/// From the last packet of a flow until the first is sent again: longer than a TCP delays an acknowledgement.
pub const FIRST: Duration = Duration::from_millis(200);
/// The longest time between two tries.
const LONGEST: Duration = Duration::from_secs(4);
/// Tries without any word from our end: four minutes. Each word of it allows one more.
const TRIES_MAX: u32 = 64;

/// The state of one flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Repeats {
    /// When something of it was last sent, by its sender or again.
    sent_at: Instant,
    wait: Duration,
    tries: u32,
    /// Our end has said that it has no room.
    is_shut: bool,
}

impl Repeats {
    pub fn new(now: Instant) -> Self {
        Self { sent_at: now, wait: FIRST, tries: 0, is_shut: false }
    }

    /// The sender lives.
    #[inline]
    pub fn on_handed_on(&mut self, now: Instant) {
        (self.sent_at, self.wait, self.tries) = (now, FIRST, 0);
    }

    /// When to send again; never if it was tried often enough.
    pub fn due_at(&self) -> Option<Instant> {
        (self.tries < TRIES_MAX).then(|| self.sent_at + self.wait)
    }

    /// It was sent again; gives when it will be next.
    pub fn on_repeated(&mut self, now: Instant) -> Instant {
        self.sent_at = now;
        self.wait = (self.wait * 2).min(LONGEST);
        self.tries = self.tries.saturating_add(1);
        now + self.wait
    }

    /// Our end has spoken, and there is more that it has not acknowledged; `is_news` if it has acknowledged something.
    /// Gives when to send again, where that has changed.
    pub fn on_word(&mut self, is_news: bool, is_open: bool, now: Instant) -> Option<Instant> {
        let was_shut = std::mem::replace(&mut self.is_shut, !is_open);
        // Not while its sender may live: that is the one to judge.
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
