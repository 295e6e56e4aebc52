//! Whether the lanes turn: a lane that is woken again and again and makes no turn stands still.
//!
//! This file has no clock. What follows from a lane that stands still is decided elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// In the time after which a lane counts as standing still, it is looked at this often.
const LOOKS: u32 = 4;

/// What a look has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// The lane stands still.
    Stuck(usize),
    /// The lane turns again, after this time.
    Again(usize, Duration),
}

#[derive(Debug)]
struct Entry {
    turns: Arc<AtomicU64>,
    seen: u64,
    /// When it was last seen with another count.
    since: Instant,
    is_stuck: bool,
}

/// The pulse of all lanes.
#[derive(Debug)]
pub struct Pulse {
    lanes: Vec<Entry>,
    stuck_after: Duration,
    looked_at: Instant,
}

impl Pulse {
    /// Each lane adds one to its number at each turn.
    pub fn new(turns: impl IntoIterator<Item = Arc<AtomicU64>>, stuck_after: Duration, now: Instant) -> Self {
        let entry = |turns| Entry { turns, seen: 0, since: now, is_stuck: false };
        Self { lanes: turns.into_iter().map(entry).collect(), stuck_after, looked_at: now }
    }

    /// A lane that makes no turn for this long stands still.
    pub fn set_stuck_after(&mut self, stuck_after: Duration) {
        self.stuck_after = stuck_after;
    }

    /// When to look next.
    pub fn poll_timeout(&self) -> Instant {
        self.looked_at + self.stuck_after / LOOKS
    }

    /// Looks at all lanes, and wakes them, so that an idle one makes a turn before the next look. `None` if it is not time.
    pub fn look(&mut self, mut wake: impl FnMut(usize), now: Instant) -> Option<Vec<News>> {
        if now < self.poll_timeout() {
            return None;
        }
        // Whoever looks too late has stood still itself, and the lanes perhaps with it: they get another chance.
        let is_late = now > self.looked_at + self.stuck_after / 2;
        self.looked_at = now;
        let mut news = Vec::new();
        for (number, lane) in self.lanes.iter_mut().enumerate() {
            let turns = lane.turns.load(Ordering::Relaxed);
            if turns != lane.seen {
                if std::mem::take(&mut lane.is_stuck) {
                    news.push(News::Again(number, now - lane.since));
                }
                (lane.seen, lane.since) = (turns, now);
            } else if is_late && !lane.is_stuck {
                lane.since = now;
            } else if now >= lane.since + self.stuck_after && !std::mem::replace(&mut lane.is_stuck, true) {
                news.push(News::Stuck(number));
            }
            wake(number);
        }
        Some(news)
    }

    /// Some lane stands still.
    pub fn is_stuck(&self) -> bool {
        self.lanes.iter().any(|lane| lane.is_stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(400);
    const STEP: Duration = Duration::from_millis(100);

    #[test]
    fn a_lane_without_turns_stands_still_until_its_next_turn() {
        let mut now = Instant::now();
        let turns = [Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0))];
        let mut pulse = Pulse::new(turns.clone(), LIMIT, now);
        let mut woken = Vec::new();
        assert_eq!((pulse.look(|lane| woken.push(lane), now), woken.len()), (None, 0), "not yet");
        let mut seen = Vec::new();
        for step in 1..=10 {
            now += STEP;
            assert_eq!(pulse.poll_timeout(), now);
            turns[0].fetch_add(1, Ordering::Relaxed);
            if step == 8 {
                turns[1].fetch_add(3, Ordering::Relaxed);
            }
            let news = pulse.look(|lane| woken.push(lane), now).unwrap();
            seen.extend(news.into_iter().map(|news| (step, news)));
            assert_eq!(pulse.is_stuck(), (4..8).contains(&step), "{step}");
        }
        assert_eq!(seen, [(4, News::Stuck(1)), (8, News::Again(1, STEP * 8))]);
        assert_eq!(woken, [0, 1].repeat(10));
    }

    #[test]
    fn whoever_looks_too_late_blames_no_lane() {
        let mut now = Instant::now();
        let mut pulse = Pulse::new([Arc::new(AtomicU64::new(0))], LIMIT, now);
        now += LIMIT * 10;
        assert_eq!(pulse.look(drop, now), Some(vec![]));
        for step in 1..=4 {
            now += STEP;
            let expected = if step == 4 { vec![News::Stuck(0)] } else { vec![] };
            assert_eq!(pulse.look(drop, now), Some(expected));
        }
        // One that is known to stand still goes on standing still.
        now += LIMIT * 10;
        assert_eq!((pulse.look(drop, now), pulse.is_stuck()), (Some(vec![]), true));
        pulse.set_stuck_after(LIMIT * 2);
        assert_eq!(pulse.poll_timeout(), now + STEP * 2);
    }
}
