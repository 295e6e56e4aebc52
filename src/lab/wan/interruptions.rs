//! Loss in time: a link that is good or bad for random times, and windows in which nothing passes.
//!
//! `TimedDraw` is the Gilbert-Elliott model in continuous time: both states last for exponential times, and the state at the
//! moment at which a datagram enters decides its loss. [`Windows`] are single interruptions that a scenario asks for. Both
//! decide by the time that the caller gives for a datagram; neither has a timer, so how late a thread wakes changes nothing.
//! `NextLosses` are asked for by number instead.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rand::Rng;

use super::draw::Draw;

/// After this many mean cycles without a datagram, the state does not depend on the last one seen: the link is drawn anew.
const FORGOTTEN_CYCLES: f64 = 50.0;
/// How many windows of a direction are remembered.
const WINDOWS_MAX: usize = 4096;

/// A link that is good and bad in turn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timed {
    /// Mean time in the good state, not zero.
    pub good: Duration,
    /// Mean time in the bad state, not zero.
    pub bad: Duration,
    /// Loss in the bad state.
    pub bad_loss: f64,
    /// Loss in the good state.
    pub good_loss: f64,
}

impl Timed {
    /// The share of time in the bad state.
    fn bad_share(&self) -> f64 {
        self.bad.as_secs_f64() / (self.good + self.bad).as_secs_f64()
    }

    /// The share of evenly sent datagrams that it loses.
    pub fn mean_loss(&self) -> f64 {
        self.bad_share() * self.bad_loss + (1.0 - self.bad_share()) * self.good_loss
    }
}

/// The state of a [`Timed`] link between datagrams.
#[derive(Clone, Debug)]
pub(super) struct TimedDraw {
    link: Timed,
    losses: Draw,
    is_bad: bool,
    /// When the state ends; none before the first datagram.
    until: Option<Instant>,
}

impl TimedDraw {
    pub(super) fn new(link: Timed, rng: &mut impl Rng) -> Self {
        Self { link, losses: Draw::new(link.good_loss, rng), is_bad: false, until: None }
    }

    /// Passes `count` datagrams that enter at `now`, which never goes back, and calls `hit` for each lost one.
    pub(super) fn pass(&mut self, count: u64, now: Instant, rng: &mut impl Rng, hit: impl FnMut(u64)) {
        let cycles = (self.link.good + self.link.bad).mul_f64(FORGOTTEN_CYCLES);
        match self.until {
            Some(until) if now < until + cycles => {
                let mut until = until;
                while until <= now {
                    self.enter(!self.is_bad, rng);
                    until += self.stay(rng);
                }
                self.until = Some(until);
            }
            // Exponential times have no memory, so the rest of a state is as long as a whole one.
            _ => {
                let is_bad = rng.random::<f64>() < self.link.bad_share();
                self.enter(is_bad, rng);
                self.until = Some(now + self.stay(rng));
            }
        }
        self.losses.pass(count, rng, hit);
    }

    fn enter(&mut self, is_bad: bool, rng: &mut impl Rng) {
        self.is_bad = is_bad;
        self.losses = Draw::new(if is_bad { self.link.bad_loss } else { self.link.good_loss }, rng);
    }

    /// How long the state lasts, at least a nanosecond so that no loop stands still.
    fn stay(&self, rng: &mut impl Rng) -> Duration {
        let mean = if self.is_bad { self.link.bad } else { self.link.good };
        let lengths = -(1.0 - rng.random::<f64>()).ln();
        mean.mul_f64(lengths).max(Duration::from_nanos(1))
    }
}

/// One interruption: everything that enters from its beginning until before its end is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Its beginning.
    pub from: Instant,
    /// Its end.
    pub until: Instant,
    /// Datagrams that it has swallowed so far.
    pub swallowed: u64,
    /// The longest time around it in which the emulator did not look for datagrams: some may have entered so much later than they
    /// came.
    pub unseen: Duration,
}

/// The interruptions of a direction: those to come, and the last that were.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    windows: VecDeque<Window>,
    /// Nothing is to be swallowed from here on, so that most datagrams need one comparison.
    last_end: Option<Instant>,
}

impl Windows {
    /// Loses everything that enters from `from` until before `until`.
    pub fn add(&mut self, from: Instant, until: Instant) {
        if self.windows.len() == WINDOWS_MAX {
            self.windows.pop_front();
        }
        self.windows.push_back(Window { from, until, swallowed: 0, unseen: Duration::ZERO });
        self.last_end = self.last_end.max(Some(until));
    }

    /// Whether an interruption lasts or is about to begin.
    pub fn is_near(&self, now: Instant, near: Duration) -> bool {
        let is_over = self.last_end.is_none_or(|end| now >= end);
        !is_over && self.windows.iter().any(|window| window.from <= now + near && now < window.until)
    }

    /// From `from` until `now` nobody looked for datagrams. Counts for interruptions that last then or are as `near` as this.
    pub fn on_gap(&mut self, from: Instant, now: Instant, near: Duration) {
        let is_hit = |window: &&mut Window| window.from <= now + near && from < window.until;
        for window in self.windows.iter_mut().filter(is_hit) {
            window.unseen = window.unseen.max(now.saturating_duration_since(from));
        }
    }

    /// Whether datagrams that enter now are swallowed.
    #[inline]
    pub(super) fn swallow(&mut self, datagrams: u64, now: Instant) -> bool {
        if self.last_end.is_none_or(|end| now >= end) {
            return false;
        }
        let window = self.windows.iter_mut().rev().find(|window| (window.from..window.until).contains(&now));
        window.map(|window| window.swallowed += datagrams).is_some()
    }

    /// Those to come and the last that were, and what each has swallowed.
    pub fn all(&self) -> impl Iterator<Item = Window> {
        self.windows.iter().copied()
    }
}

/// The next losses that a scenario asks for, by number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct NextLosses {
    left: u64,
    least_bytes: u64,
}

impl NextLosses {
    /// Loses the next `count` datagrams of at least so many bytes.
    pub(super) fn new(count: u64, least_bytes: u64) -> Self {
        Self { left: count, least_bytes }
    }

    /// How many datagrams at the head of a train are lost.
    #[inline]
    pub(super) fn take(&mut self, datagrams: u64, bytes_of_each: u64) -> u64 {
        if self.left == 0 || bytes_of_each < self.least_bytes {
            return 0;
        }
        let lost = self.left.min(datagrams);
        self.left -= lost;
        lost
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const US: Duration = Duration::from_micros(1);

    /// Whether each of `count` datagrams that enter `apart` is lost.
    fn lost(link: Timed, count: u32, apart: Duration, seed: u64) -> Vec<bool> {
        println!("seed {seed}");
        let (mut rng, begin) = (SmallRng::seed_from_u64(seed), Instant::now());
        let mut draw = TimedDraw::new(link, &mut rng);
        let mut one = |at| {
            let mut is_lost = false;
            draw.pass(1, begin + apart * at, &mut rng, |_| is_lost = true);
            is_lost
        };
        (0..count).map(&mut one).collect()
    }

    /// How often a share of independent events may be off: five standard deviations.
    fn assert_share(found: f64, expected: f64, independent: f64) {
        let sigma = (expected * (1.0 - expected) / independent).sqrt();
        assert!((found - expected).abs() <= 5.0 * sigma, "{found} is not {expected} +- {sigma}");
    }

    #[test]
    fn the_share_of_losses_does_not_depend_on_the_rate() {
        let link = Timed { good: 40 * MS, bad: 10 * MS, bad_loss: 0.5, good_loss: 0.01 };
        for (apart, seed) in [(50 * US, 1), (MS, 2), (500 * MS, 3)] {
            let count = 400_000;
            let share = lost(link, count, apart, seed).iter().filter(|lost| **lost).count() as f64 / f64::from(count);
            // Datagrams of one state say little more than one of them; the mean of a cycle is good + bad.
            let cycles = (apart * count).as_secs_f64() / (link.good + link.bad).as_secs_f64();
            assert_share(share, link.mean_loss(), cycles.min(f64::from(count)) / 4.0);
        }
    }

    #[test]
    fn interruptions_are_as_long_as_they_should_be() {
        let link = Timed { good: 100 * MS, bad: 3 * MS, bad_loss: 1.0, good_loss: 0.0 };
        let all = lost(link, 4_000_000, 20 * US, 4);
        let runs: Vec<usize> = all.chunk_by(|a, b| a == b).filter(|run| run[0]).map(<[bool]>::len).collect();
        let mean = runs.iter().sum::<usize>() as f64 / runs.len() as f64 * 20e-6;
        assert!((mean / 3e-3 - 1.0).abs() < 5.0 / (runs.len() as f64).sqrt() + 0.01, "{mean} s in {} runs", runs.len());
        // Exponential: the share of those longer than twice the mean is e^-2.
        let long = runs.iter().filter(|run| **run as f64 * 20e-6 > 6e-3).count() as f64 / runs.len() as f64;
        assert_share(long, (-2.0_f64).exp(), runs.len() as f64);
    }

    #[test]
    fn datagrams_far_apart_are_independent_and_close_ones_share_their_fate() {
        let link = Timed { good: 9 * MS, bad: MS, bad_loss: 1.0, good_loss: 0.0 };
        let both = |apart, seed| {
            let all = lost(link, 200_000, apart, seed);
            let pairs = all.windows(2).filter(|pair| pair[0] && pair[1]).count() as f64;
            pairs / all.iter().filter(|lost| **lost).count() as f64
        };
        assert_share(both(100 * MS, 5), 0.1, 20_000.0);
        // e^(-t (1/9 + 1)) of the distance to the long-run share is left after t.
        assert_share(both(MS / 2, 6), 0.1 + 0.9 * (-0.5_f64 * (1.0 + 1.0 / 9.0)).exp(), 5_000.0);
    }

    #[test]
    fn asked_losses_are_exact() {
        let (now, mut windows) = (Instant::now(), Windows::default());
        assert!(!windows.swallow(1, now));
        windows.add(now + 5 * MS, now + 7 * MS);
        windows.add(now + 9 * MS, now + 10 * MS);
        let swallowed: Vec<u32> = (0..12_000).step_by(250).filter(|at| windows.swallow(3, now + US * *at)).collect();
        assert_eq!(swallowed, [5000, 5250, 5500, 5750, 6000, 6250, 6500, 6750, 9000, 9250, 9500, 9750]);
        assert_eq!(windows.all().map(|window| window.swallowed).collect::<Vec<_>>(), [24, 12]);
        assert!(!windows.swallow(1, now + 10 * MS));
        let near = [0, 4, 6, 7, 8, 9, 10].map(|at| windows.is_near(now + at * MS, MS));
        assert_eq!(near, [false, true, true, false, true, true, false]);
        windows.on_gap(now + 2 * MS, now + 3 * MS, MS);
        windows.on_gap(now + 6 * MS, now + 8 * MS, MS);
        assert_eq!(windows.all().map(|window| window.unseen).collect::<Vec<_>>(), [2 * MS, 2 * MS]);
        let mut next = NextLosses::new(5, 700);
        let losses = [(3, 60), (3, 1400), (9, 1400), (9, 1400)].map(|(count, bytes)| next.take(count, bytes));
        assert_eq!(losses, [0, 3, 2, 0]);
        (0..2 * WINDOWS_MAX).for_each(|_| windows.add(now, now));
        assert_eq!(windows.all().count(), WINDOWS_MAX);
    }
}
