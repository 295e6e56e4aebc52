//! Random events, drawn ahead: how many datagrams pass before the next one is hit.
//!
//! Gaps between events of a fixed probability are geometric, so one random number serves a whole run of datagrams, and
//! the cost is per event, not per datagram. This module knows positions in a run, not packets.

use std::time::Instant;

use rand::Rng;

use super::{
    interruptions::{Timed, TimedDraw},
    loss_trace::{LossTrace, TracePlace},
};

/// Events of one fixed probability per datagram.
#[derive(Clone, Debug)]
pub struct Draw {
    probability: f64,
    /// Datagrams that pass before the next event.
    clear: u64,
}

impl Draw {
    /// Creates events that hit each datagram independently with `probability`.
    pub fn new(probability: f64, rng: &mut impl Rng) -> Self {
        Self { probability, clear: gap(probability, rng) }
    }

    /// Passes `count` datagrams and calls `hit` with the position of each hit datagram, in rising order.
    #[inline]
    pub fn pass(&mut self, count: u64, rng: &mut impl Rng, mut hit: impl FnMut(u64)) {
        let mut at = 0;
        while self.clear < count - at {
            at += self.clear;
            hit(at);
            at += 1;
            self.clear = gap(self.probability, rng);
        }
        self.clear = self.clear.saturating_sub(count - at);
        if self.probability <= 0.0 {
            self.clear = u64::MAX;
        }
    }
}

/// The loss model of a direction.
#[derive(Clone, Debug, PartialEq)]
pub enum Loss {
    /// Each datagram is lost independently with this probability.
    Independent(f64),
    /// The Gilbert-Elliott model (Gilbert 1960, Elliott 1963): a Markov chain of a good and a bad state.
    Bursts {
        /// Chance per datagram that the good state turns bad.
        start: f64,
        /// Chance per datagram that the bad state turns good; the mean burst length is its inverse.
        stop: f64,
        /// Loss in the bad state.
        bad: f64,
        /// Loss in the good state.
        good: f64,
    },
    /// The same in time: how long a state lasts does not depend on the datagrams.
    Timed(Timed),
    /// A recorded sequence.
    Trace(LossTrace),
}

impl Loss {
    /// The long-run share of datagrams that this model loses.
    pub fn mean(&self) -> f64 {
        match self {
            Loss::Independent(probability) => *probability,
            Loss::Bursts { start, good, .. } if *start <= 0.0 => *good,
            Loss::Bursts { start, stop, bad, good } => (start * bad + stop * good) / (start + stop),
            Loss::Timed(timed) => timed.mean_loss(),
            Loss::Trace(trace) => {
                let (datagrams, lost) = trace.counts();
                lost as f64 / datagrams.max(1) as f64
            }
        }
    }
}

/// The state of a [`Loss`] model between datagrams.
#[derive(Clone, Debug)]
pub struct LossDraw(State);

#[derive(Clone, Debug)]
enum State {
    Independent(Draw),
    Bursts(BurstDraw),
    Timed(TimedDraw),
    Trace(TracePlace),
}

impl LossDraw {
    /// Creates the model: bursts begin in the good state, a trace at its beginning.
    pub fn new(loss: &Loss, rng: &mut impl Rng) -> Self {
        Self(match loss {
            Loss::Independent(probability) => State::Independent(Draw::new(*probability, rng)),
            Loss::Bursts { start, stop, bad, good } => {
                State::Bursts(BurstDraw::new([*start, *stop], [*good, *bad], rng))
            }
            Loss::Timed(timed) => State::Timed(TimedDraw::new(*timed, rng)),
            Loss::Trace(trace) => State::Trace(trace.begin()),
        })
    }

    /// Passes `count` datagrams that enter at `now`, and calls `hit` with the position of each lost datagram, in rising order.
    #[inline]
    pub fn pass(&mut self, count: u64, now: Instant, rng: &mut impl Rng, hit: impl FnMut(u64)) {
        match &mut self.0 {
            State::Independent(draw) => draw.pass(count, rng, hit),
            State::Bursts(draw) => draw.pass(count, rng, hit),
            State::Timed(draw) => draw.pass(count, now, rng, hit),
            State::Trace(place) => place.pass(count, hit),
        }
    }
}

/// The state of [`Loss::Bursts`]. Index 0 of each pair belongs to the good state.
#[derive(Clone, Debug)]
struct BurstDraw {
    /// Chance per datagram to leave the state.
    leave: [f64; 2],
    loss: [f64; 2],
    current: Draw,
    is_bad: bool,
    /// Datagrams until the state changes.
    stay: u64,
}

impl BurstDraw {
    fn new(leave: [f64; 2], loss: [f64; 2], rng: &mut impl Rng) -> Self {
        let stay = gap(leave[0], rng);
        Self { leave, loss, current: Draw::new(loss[0], rng), is_bad: false, stay }
    }

    fn pass(&mut self, count: u64, rng: &mut impl Rng, mut hit: impl FnMut(u64)) {
        let mut at = 0;
        while self.stay < count - at {
            let run = self.stay;
            self.current.pass(run, rng, |position| hit(at + position));
            at += run;
            self.turn(rng);
        }
        self.current.pass(count - at, rng, |position| hit(at + position));
        if self.stay != u64::MAX {
            self.stay -= count - at;
        }
    }

    fn turn(&mut self, rng: &mut impl Rng) {
        self.is_bad = !self.is_bad;
        let state = usize::from(self.is_bad);
        // A state lasts for at least one datagram; otherwise two changes with probability 1 would loop for ever.
        self.stay = gap(self.leave[state], rng).saturating_add(1);
        self.current = Draw::new(self.loss[state], rng);
    }
}

/// Datagrams that pass before an event of this probability: geometric, from 0.
fn gap(probability: f64, rng: &mut impl Rng) -> u64 {
    if probability <= 0.0 {
        return u64::MAX;
    }
    if probability >= 1.0 {
        return 0;
    }
    // In (0, 1]: the logarithm of zero would give an infinite gap.
    let uniform = 1.0 - rng.random::<f64>();
    let gap = uniform.ln() / (-probability).ln_1p();
    if gap >= 1e18 { u64::MAX - 1 } else { gap as u64 }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::SmallRng};

    use super::*;

    fn lost(loss: Loss, runs: &[u64], seed: u64) -> Vec<u64> {
        let mut rng = SmallRng::seed_from_u64(seed);
        let mut draw = LossDraw::new(&loss, &mut rng);
        let mut hits = Vec::new();
        let mut base = 0;
        let now = Instant::now();
        for &run in runs {
            draw.pass(run, now, &mut rng, |at| hits.push(base + at));
            base += run;
        }
        hits
    }

    #[test]
    fn the_long_run_loss_equals_the_probability() {
        for probability in [0.0, 0.001, 0.01, 0.05, 0.5, 1.0] {
            let hits = lost(Loss::Independent(probability), &[44; 20_000], 7).len() as f64;
            let expected = probability * 880_000.0;
            let sigma = (expected * (1.0 - probability)).sqrt();
            assert!((hits - expected).abs() <= 5.0 * sigma, "{probability}: {hits} of {expected}");
        }
    }

    #[test]
    fn bursts_have_the_modelled_mean_loss_and_length() {
        let loss = Loss::Bursts { start: 0.0025, stop: 0.25, bad: 1.0, good: 0.0 };
        let hits = lost(loss.clone(), &[44; 20_000], 3);
        let bursts = 1 + hits.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        let mean = hits.len() as f64 / bursts as f64;
        assert!((3.6..4.4).contains(&mean), "mean burst {mean}");
        let share = hits.len() as f64 / 880_000.0;
        assert!((share / loss.mean() - 1.0).abs() < 0.1, "share {share} of {}", loss.mean());
    }

    #[test]
    fn the_size_of_trains_does_not_change_the_losses() {
        for loss in [Loss::Independent(0.03), Loss::Bursts { start: 0.02, stop: 0.3, bad: 0.8, good: 0.001 }] {
            let whole = lost(loss.clone(), &[9_000], 11);
            assert_eq!(whole, lost(loss.clone(), &[1; 9_000], 11));
            assert_eq!(whole, lost(loss, &[45; 200], 11));
            assert!(!whole.is_empty());
        }
    }

    #[test]
    fn probabilities_of_zero_and_one_terminate() {
        assert!(lost(Loss::Independent(0.0), &[u64::MAX / 4; 3], 1).is_empty());
        assert_eq!(lost(Loss::Bursts { start: 1.0, stop: 1.0, bad: 1.0, good: 0.0 }, &[10], 1), [0, 2, 4, 6, 8]);
        assert_eq!(lost(Loss::Bursts { start: 1.0, stop: 0.0, bad: 1.0, good: 0.0 }, &[4], 1), [0, 1, 2, 3]);
        assert!(lost(Loss::Bursts { start: 0.0, stop: 0.0, bad: 1.0, good: 0.0 }, &[40], 1).is_empty());
    }
}
