//! How late symbols come after the end of their block, and how long a hole waits because of it.
//!
//! A path that reorders delivers some symbols long after later ones. A shorter wait would give up a block that lost
//! nothing. So the wait follows what was seen: it grows at once, to a quarter more than the greatest lateness, and
//! shrinks by a sixteenth in each second in which something comes. The configuration bounds it on both sides.
//!
//! Lateness is the time since the first symbol of a later block came, not since the symbol was expected: a path or a
//! sender that stops delays all symbols alike, and reorders nothing.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// The most moments that are remembered.
const MOMENTS_MAX: u32 = 512;
/// How often the wait shrinks.
const SHRINK_EVERY: Duration = Duration::from_secs(1);
/// The wait shrinks by this part of itself.
const SHRINK_BY: u32 = 16;

/// The lateness seen in one profile.
#[derive(Debug)]
pub struct Reordering {
    bounds: RangeInclusive<Duration>,
    /// The wait for the lateness seen; it may be less than the lower bound.
    wanted: Duration,
    shrunk_at: Option<Instant>,
    /// The resolution of lateness: a quarter of the shortest wait, or the longest wait divided by `MOMENTS_MAX` if that
    /// is more.
    step: Duration,
    /// The newest block at a moment, and the moment; oldest first, at least a step apart.
    moments: VecDeque<(u64, Instant)>,
}

fn step(bounds: &RangeInclusive<Duration>) -> Duration {
    (*bounds.start() / 4).max(*bounds.end() / MOMENTS_MAX)
}

impl Reordering {
    /// `bounds` are the shortest and the longest wait.
    pub fn new(bounds: RangeInclusive<Duration>) -> Self {
        let step = step(&bounds);
        Self { bounds, wanted: Duration::ZERO, shrunk_at: None, step, moments: VecDeque::new() }
    }

    /// The shortest and the longest wait from now on.
    pub fn set_bounds(&mut self, bounds: RangeInclusive<Duration>) {
        self.step = step(&bounds);
        self.bounds = bounds;
    }

    /// The least time that a hole waits.
    pub fn least(&self) -> Duration {
        *self.bounds.start()
    }

    /// How long a hole waits.
    #[inline]
    pub fn hold(&self) -> Duration {
        self.wanted.clamp(*self.bounds.start(), *self.bounds.end())
    }

    /// A block began that is newer than all others: those have ended.
    pub fn on_newer(&mut self, sbn: u64, now: Instant) {
        let shrunk_at = self.shrunk_at.get_or_insert(now);
        if now.saturating_duration_since(*shrunk_at) >= SHRINK_EVERY {
            *shrunk_at = now;
            self.wanted -= self.wanted / SHRINK_BY;
        }
        if self.moments.back().is_some_and(|&(_, at)| now.saturating_duration_since(at) < self.step) {
            return;
        }
        self.moments.push_back((sbn, now));
        // Moments older than the longest wait are too old to matter.
        while self.moments.get(1).is_some_and(|&(_, at)| now.saturating_duration_since(at) > *self.bounds.end()) {
            self.moments.pop_front();
        }
    }

    /// A symbol of this block came. If the block is not the newest, the time since its end is known to one step.
    pub fn on_symbol(&mut self, sbn: u64, now: Instant) {
        let newer = self.moments.partition_point(|&(newest, _)| newest <= sbn);
        let Some(&(_, ended)) = self.moments.get(newer) else { return };
        let late = now.saturating_duration_since(ended);
        if late >= self.step {
            self.wanted = self.wanted.max((late + late / 4 + self.step).min(*self.bounds.end()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn bench() -> (Reordering, Instant) {
        (Reordering::new(20 * MS..=250 * MS), Instant::now())
    }

    /// Begins a block in each millisecond of `times`. Each has one symbol, `late` ms after the next block begins.
    fn run(reordering: &mut Reordering, start: Instant, times: std::ops::Range<u32>, late: u32) {
        for time in times {
            let now = start + time * MS;
            reordering.on_newer(time.into(), now);
            if let Some(sbn) = time.checked_sub(late + 1) {
                reordering.on_symbol(sbn.into(), now);
            }
        }
    }

    #[test]
    fn a_path_in_order_keeps_the_shortest_wait() {
        let (mut reordering, start) = bench();
        run(&mut reordering, start, 0..2000, 0);
        assert_eq!(reordering.hold(), 20 * MS);
    }

    #[test]
    fn the_wait_covers_the_lateness_seen_within_its_bounds() {
        for late in [10, 30, 60, 120, 190, 240, 1000, 5000] {
            let (mut reordering, start) = bench();
            run(&mut reordering, start, 0..late + 500, late);
            let hold = reordering.hold();
            assert!(hold >= (late * MS).min(250 * MS), "{late} ms late: {hold:?}");
            assert!(hold <= (late * MS * 5 / 4 + 8 * MS).clamp(20 * MS, 250 * MS), "{late} ms late: {hold:?}");
        }
    }

    #[test]
    fn the_wait_shrinks_when_symbols_come_in_time_again_and_only_then() {
        let (mut reordering, start) = bench();
        run(&mut reordering, start, 0..1000, 100);
        let hold = reordering.hold();
        // An hour in which nothing came is one step.
        let later = start + Duration::from_secs(3600);
        reordering.on_newer(1000, later);
        assert_eq!(reordering.hold(), hold - hold / SHRINK_BY);
        for second in 1..60 {
            reordering.on_newer(1000 + second, later + Duration::from_secs(second));
        }
        assert_eq!(reordering.hold(), 20 * MS);
    }

    #[test]
    fn a_sender_that_stands_still_reorders_nothing() {
        let (mut reordering, start) = bench();
        reordering.on_newer(7, start);
        reordering.on_symbol(7, start + 200 * MS);
        assert_eq!(reordering.hold(), 20 * MS);
    }

    #[test]
    fn a_little_lateness_is_seen_under_a_long_longest_wait() {
        let bounds = 20 * MS..=Duration::from_secs(10);
        let (mut reordering, start) = (Reordering::new(bounds), Instant::now());
        run(&mut reordering, start, 0..2000, 60);
        let hold = reordering.hold();
        assert!((60 * MS..=100 * MS).contains(&hold), "{hold:?}");
    }

    #[test]
    fn the_remembered_moments_are_bounded() {
        for bounds in [20 * MS..=250 * MS, MS..=Duration::from_secs(10), 20 * MS..=20 * MS] {
            let (mut reordering, start) = (Reordering::new(bounds.clone()), Instant::now());
            run(&mut reordering, start, 0..100_000, 200);
            assert!(reordering.moments.len() <= MOMENTS_MAX as usize + 2, "{bounds:?}: {}", reordering.moments.len());
        }
    }
}
