//! The time from the first event of a kind until none has come for a minute: what the log says when it has ended. Whether and
//! how the events themselves are logged is decided elsewhere.

use std::time::{Duration, Instant};

/// It has ended when nothing came for this long.
pub const QUIET: Duration = Duration::from_secs(60);

/// Events that come again and again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Episode {
    /// When the first and the last event came.
    active: Option<(Instant, Instant)>,
}

impl Episode {
    /// An event came. True if it is the first.
    pub fn note(&mut self, now: Instant) -> bool {
        match &mut self.active {
            Some((_, last)) => {
                *last = now;
                false
            }
            None => {
                self.active = Some((now, now));
                true
            }
        }
    }

    /// When it may have ended.
    pub fn deadline(&self) -> Option<Instant> {
        self.active.map(|(_, last)| last + QUIET)
    }

    /// The time between the first event and the last, once it has ended.
    pub fn poll_ended(&mut self, now: Instant) -> Option<Duration> {
        self.active.take_if(|(_, last)| *last + QUIET <= now).map(|(first, last)| last - first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_episode_lasts_from_the_first_event_to_a_minute_after_the_last() {
        let (mut episode, start) = (Episode::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!((episode.deadline(), episode.poll_ended(at(0))), (None, None));
        assert!(episode.note(at(0)) && !episode.note(at(59)) && !episode.note(at(118)));
        assert_eq!((episode.deadline(), episode.poll_ended(at(177))), (Some(at(178)), None));
        assert_eq!(episode.poll_ended(at(178)), Some(Duration::from_secs(118)));
        assert_eq!((episode.deadline(), episode.poll_ended(at(999))), (None, None));
        assert!(episode.note(at(999)), "another one");
    }
}
