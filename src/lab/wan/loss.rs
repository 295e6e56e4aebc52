//! The loss models of a direction: single losses, bursts by datagrams and in time, and a recorded sequence.
//!
//! [`LossDraw`] is a model's state between datagrams. It knows positions in a run and the time of entry, not packets.

use std::time::Instant;

use rand::Rng;

use super::{
    draw::{Draw, gap},
    interruptions::{Timed, TimedDraw},
    loss_trace::{LossTrace, TracePlace},
};

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
