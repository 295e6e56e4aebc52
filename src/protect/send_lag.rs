//! How long what was sent has waited in this host, from the queue toward the peer until it was known to have left.
//!
//! Only the greatest lag of the last seconds counts: whoever judges how far apart the symbols of a block have left must assume that
//! any of them lagged that long.

use std::time::{Duration, Instant};

/// A lag counts for at least this long and at most twice as long. No block takes longer until it has left.
const SPAN: Duration = Duration::from_millis(500);

/// The greatest lag lately.
#[derive(Debug, Default)]
pub(super) struct SendLag {
    /// The greatest since `since`, and the greatest of the span before.
    present: Duration,
    before: Duration,
    since: Option<Instant>,
}

impl SendLag {
    /// Something left at `now` that was queued at `queued`.
    pub fn on_left(&mut self, queued: Instant, now: Instant) {
        self.pass(now);
        self.present = self.present.max(now.saturating_duration_since(queued));
    }

    /// The greatest lag lately.
    pub fn greatest(&mut self, now: Instant) -> Duration {
        self.pass(now);
        self.present.max(self.before)
    }

    fn pass(&mut self, now: Instant) {
        let age = now.saturating_duration_since(*self.since.get_or_insert(now));
        if age >= SPAN {
            self.before = if age < 2 * SPAN { self.present } else { Duration::ZERO };
            self.present = Duration::ZERO;
            self.since = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_counts_for_half_a_second_at_least_and_not_for_ever() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut lag = SendLag::default();
        assert_eq!(lag.greatest(start), Duration::ZERO);
        lag.on_left(start, start + ms(7));
        lag.on_left(start + ms(400), start + ms(403));
        for at in [403, 499, 507, 800] {
            assert_eq!(lag.greatest(start + ms(at)), ms(7), "{at}");
        }
        lag.on_left(start + ms(900), start + ms(902));
        assert_eq!(lag.greatest(start + ms(1010)), ms(2));
        assert_eq!(lag.greatest(start + ms(5000)), Duration::ZERO);
    }
}
