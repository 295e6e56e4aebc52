//! How long datagrams wait in the socket of a lane before they are read, and whether such a queue stands.
//!
//! A burst that is read a moment later is no queue. So the least wait of an interval counts: it is zero if the socket was
//! found empty once. The peer learns it from reports ([`super::reporting`]); the packets that make its senders slow down are
//! picked there, before they are put into a block: what was called protected is never dropped to shorten a queue.

use std::time::{Duration, Instant};

use super::reporting::WHILE_ACTIVE;

/// The waits of one lane's socket.
#[derive(Debug, Default)]
pub struct ReceiveWait {
    /// When the interval began, and the least wait in it.
    current: Option<(Instant, Duration)>,
    /// When the interval before it ended, and the least wait in that.
    last: Option<(Instant, Duration)>,
}

impl ReceiveWait {
    /// A train was read that had waited so long, or the socket was found empty: zero.
    pub fn on_read(&mut self, wait: Duration, now: Instant) {
        match &mut self.current {
            Some((begun, least)) if now.saturating_duration_since(*begun) < WHILE_ACTIVE => *least = wait.min(*least),
            current => {
                // A wait of long ago is none of the last interval.
                let is_recent = |begun: Instant| now.saturating_duration_since(begun) < 2 * WHILE_ACTIVE;
                self.last = current.filter(|(begun, _)| is_recent(*begun)).map(|(_, least)| (now, least));
                *current = Some((now, wait));
            }
        }
    }

    /// The least wait of the last whole interval; zero if nothing was read in it or since.
    pub fn standing(&self, now: Instant) -> Duration {
        let recent = self.last.filter(|(ended, _)| now.saturating_duration_since(*ended) < 2 * WHILE_ACTIVE);
        recent.map_or(Duration::ZERO, |(_, least)| least)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_queue_stands_if_it_was_never_empty_for_an_interval() {
        let (start, mut waits) = (Instant::now(), ReceiveWait::default());
        for step in 0..60 {
            waits.on_read(7 * MS + step * MS / 10, start + step * MS);
        }
        let now = start + 60 * MS;
        assert_eq!(waits.standing(now), 9 * MS, "the least of 20 to 40 ms");
        assert_eq!(waits.standing(now + 2 * WHILE_ACTIVE), Duration::ZERO, "nothing came since");
    }

    #[test]
    fn a_burst_is_no_standing_queue() {
        let (start, mut waits) = (Instant::now(), ReceiveWait::default());
        for step in 0..100 {
            let wait = if step % 10 == 0 { Duration::ZERO } else { 9 * MS };
            waits.on_read(wait, start + step * MS);
            assert_eq!(waits.standing(start + step * MS), Duration::ZERO);
        }
    }

    #[test]
    fn what_was_long_ago_is_not_of_now() {
        let (start, mut waits) = (Instant::now(), ReceiveWait::default());
        (0..20).for_each(|step| waits.on_read(9 * MS, start + step * MS));
        waits.on_read(9 * MS, start + Duration::from_secs(5));
        assert_eq!(waits.standing(start + Duration::from_secs(5)), Duration::ZERO);
    }
}
