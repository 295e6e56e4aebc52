//! Follows a link as it changes: a worse one at once, a better one only after it has held for a minute.
//!
//! Estimates are rounded to steps, always to the worse side, and the rate to bands of a factor of two that overlap. While
//! steps and band stay, nothing is computed. A change of the plan is an event with its reason. What makes protection better
//! or keeps overhead within bounds is done at once; everything else waits while there were [`CHANGES_A_MINUTE`].

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::choose::{Rates, choose_between};
use super::held::Held;
use super::unreached::Target;
use super::{GilbertElliott, Limits, Link, MOST_LOSS, SendPlan, Targets};

/// How long a better link must hold.
pub const FALLS_AFTER: Duration = Duration::from_secs(60);
/// How long a lower rate, or the end of a congestion, must hold.
const CALMS_AFTER: Duration = Duration::from_secs(5);
/// How long a higher rate must hold; the overhead is counted over a second.
const RISES_AFTER: Duration = Duration::from_secs(1);
/// After so many changes within a minute, those that can wait do.
pub const CHANGES_A_MINUTE: usize = 6;
/// Steps of an estimate for each factor of ten.
const STEPS: f64 = 8.0;
/// How far a rate may be outside its band before the band changes.
const OVERLAP: f64 = 1.25;
/// Below this rate, in symbols a second, all is one band: nearly idle.
const IDLE: f64 = 1.0;

/// Plans for one profile toward one peer.
#[derive(Clone, Debug)]
pub struct Planner {
    targets: Targets,
    limits: Limits,
    estimates: Estimates,
    inputs: Inputs,
    plan: SendPlan,
    /// When the plan changed within the last minute.
    changes: VecDeque<Instant>,
    computations: u64,
}

/// What counts of all that was seen.
#[derive(Clone, Debug)]
struct Estimates {
    /// Loss, loss while good, loss while bad, how often the link gets bad, how long it is: as steps.
    levels: [Held; 5],
    has_bursts: Held,
    congested: Held,
    band: Band,
}

/// What a plan was computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Inputs {
    levels: [i32; 5],
    has_bursts: bool,
    congested: bool,
    peer_knows_late: bool,
    band: i32,
}

/// The band of the rate: 0 is idle, and band n is from 2^(n-1) symbols a second to twice as many.
#[derive(Clone, Copy, Debug)]
struct Band {
    number: i32,
    /// Since when the rate was outside, and on which side.
    outside: Option<(Instant, bool)>,
}

/// The plan has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The plan before.
    pub from: SendPlan,
    /// The plan now.
    pub to: SendPlan,
    /// Why.
    pub reason: Reason,
}

/// Why a plan has changed. Numbers are the rounded ones that the plans were computed from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// The loss of single datagrams, before and now.
    Loss(f64, f64),
    /// The link loses in bursts, or in others than before.
    Bursts,
    /// The rate in symbols a second, before and now.
    Rate(f64, f64),
    /// A full queue began to lose datagrams, or no longer does.
    Congestion(bool),
    /// Whether the peer accepts late repair.
    Peer(bool),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Loss(before, now) => write!(f, "the loss is at most {now:.1e}, before {before:.1e}"),
            Self::Bursts => f.write_str("the link loses in other bursts"),
            Self::Rate(before, now) => write!(f, "up to {now:.0} symbols a second, before {before:.0}"),
            Self::Congestion(true) => f.write_str("a full queue loses datagrams"),
            Self::Congestion(false) => f.write_str("no full queue loses datagrams any more"),
            Self::Peer(true) => f.write_str("the peer accepts late repair"),
            Self::Peer(false) => f.write_str("the peer does not accept late repair"),
        }
    }
}

impl Change {
    /// Targets that were reached and are not now.
    pub fn lost(&self) -> impl Iterator<Item = Target> {
        Target::ALL.into_iter().filter(|target| self.from.reaches(*target) && !self.to.reaches(*target))
    }

    /// Targets that were not reached and are now.
    pub fn regained(&self) -> impl Iterator<Item = Target> {
        Target::ALL.into_iter().filter(|target| !self.from.reaches(*target) && self.to.reaches(*target))
    }
}

impl Planner {
    /// Begins with the plan for `link`.
    pub fn new(targets: Targets, limits: Limits, link: &Link, now: Instant) -> Self {
        let mut estimates = Estimates {
            levels: levels(link).map(|level| Held::new(level, FALLS_AFTER)),
            has_bursts: Held::new(link.bursts.is_some().into(), FALLS_AFTER),
            congested: Held::new(link.congested.into(), CALMS_AFTER),
            band: Band { number: Band::of(link.symbols_per_second), outside: None },
        };
        let inputs = estimates.inputs(link, now);
        let plan = inputs.plan(&targets, &limits);
        Self { targets, limits, estimates, inputs, plan, changes: VecDeque::new(), computations: 1 }
    }

    /// The plan as it is.
    pub fn plan(&self) -> &SendPlan {
        &self.plan
    }

    /// How often a plan was computed.
    pub fn computations(&self) -> u64 {
        self.computations
    }

    /// Takes the link as it is now, and returns the change of the plan, if it has changed.
    pub fn update(&mut self, link: &Link, now: Instant) -> Option<Change> {
        let inputs = self.estimates.inputs(link, now);
        let before = self.inputs;
        if inputs == before {
            return None;
        }
        while self.changes.front().is_some_and(|at| now.saturating_duration_since(*at) >= FALLS_AFTER) {
            self.changes.pop_front();
        }
        if !inputs.is_worse_than(&before) && self.changes.len() >= CHANGES_A_MINUTE {
            return None;
        }
        self.inputs = inputs;
        self.computations += 1;
        let to = inputs.plan(&self.targets, &self.limits);
        if to == self.plan {
            return None;
        }
        self.changes.push_back(now);
        // What is worse comes at once, so the list is not bounded by the changes that may wait.
        self.changes.truncate(2 * CHANGES_A_MINUTE);
        let from = std::mem::replace(&mut self.plan, to.clone());
        Some(Change { from, to, reason: inputs.reason(&before) })
    }
}

impl Estimates {
    fn inputs(&mut self, link: &Link, now: Instant) -> Inputs {
        let seen = levels(link);
        let mut levels = [0; 5];
        for (at, held) in self.levels.iter_mut().enumerate() {
            // Without bursts their numbers say nothing, and stay.
            let says = at == 0 || link.bursts.is_some();
            levels[at] = if says { held.update(seen[at], now) } else { held.level() };
        }
        let has_bursts = self.has_bursts.update(link.bursts.is_some().into(), now) > 0;
        if !has_bursts {
            levels[1..].fill(0);
        }
        Inputs {
            levels,
            has_bursts,
            congested: self.congested.update(link.congested.into(), now) > 0,
            peer_knows_late: link.peer_knows_late,
            band: self.band.update(link.symbols_per_second, now),
        }
    }
}

impl Inputs {
    /// Whether it may not wait: the link is worse, or the overhead could exceed its limit.
    fn is_worse_than(&self, before: &Self) -> bool {
        let worse = self.levels.iter().zip(&before.levels).any(|(now, before)| now > before);
        let bursts = self.has_bursts && !before.has_bursts;
        let congested = self.congested && !before.congested;
        worse || bursts || congested || self.band > before.band || self.peer_knows_late != before.peer_knows_late
    }

    fn reason(&self, before: &Self) -> Reason {
        if self.congested != before.congested {
            Reason::Congestion(self.congested)
        } else if self.levels[0] != before.levels[0] {
            Reason::Loss(value(before.levels[0]), value(self.levels[0]))
        } else if self.has_bursts != before.has_bursts || self.levels != before.levels {
            Reason::Bursts
        } else if self.peer_knows_late != before.peer_knows_late {
            Reason::Peer(self.peer_knows_late)
        } else {
            Reason::Rate(Band::rates(before.band).high, Band::rates(self.band).high)
        }
    }

    fn plan(&self, targets: &Targets, limits: &Limits) -> SendPlan {
        let rates = Band::rates(self.band);
        choose_between(targets, limits, &self.link(rates.high), rates)
    }

    fn link(&self, symbols_per_second: f64) -> Link {
        let [loss, good_loss, bad_loss, good, bad] = self.levels.map(value);
        // The step of the greatest loss lies above it, and would be a broken link.
        let loss = if self.levels[0] <= step(MOST_LOSS) { loss.min(MOST_LOSS) } else { 1.0 };
        let time = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX);
        let bursts = || GilbertElliott::new(good_loss.min(1.0), time(good.recip()), bad_loss.min(1.0), time(bad));
        Link {
            loss,
            bursts: self.has_bursts.then(bursts).flatten(),
            symbols_per_second,
            congested: self.congested,
            peer_knows_late: self.peer_knows_late,
        }
    }
}

/// The link in steps, each rounded to the worse side.
fn levels(link: &Link) -> [i32; 5] {
    // A loss that is too great to plan for is one level, and so is one that is no number.
    let loss = if link.loss <= MOST_LOSS { step(link.loss) } else { step(1.0) };
    let of = |number: fn(&GilbertElliott) -> f64| link.bursts.as_ref().map_or(0, |bursts| step(number(bursts)));
    let good = link.bursts.as_ref().map_or(0, |bursts| step(bursts.good_seconds().recip()));
    [loss, of(GilbertElliott::good_loss), of(GilbertElliott::bad_loss), good, of(GilbertElliott::bad_seconds)]
}

/// The number of the step at or above a value.
fn step(value: f64) -> i32 {
    (value.clamp(1e-9, 1e9).log10() * STEPS - 1e-6).ceil() as i32
}

/// The value of a step.
fn value(step: i32) -> f64 {
    10_f64.powf(f64::from(step) / STEPS)
}

impl Band {
    fn of(rate: f64) -> i32 {
        if rate >= IDLE { (rate.min(1e9) / IDLE).log2() as i32 + 1 } else { 0 }
    }

    /// The rates that are in a band, with what it overlaps.
    fn rates(number: i32) -> Rates {
        let low = IDLE * 2_f64.powi(number - 1);
        match number {
            0 => Rates { low: 0.0, high: IDLE * OVERLAP },
            _ => Rates { low: low / OVERLAP, high: 2.0 * low * OVERLAP },
        }
    }

    fn update(&mut self, rate: f64, now: Instant) -> i32 {
        let rates = Self::rates(self.number);
        let is_above = rate > rates.high;
        let is_inside = !is_above && (rate >= rates.low || rate.is_nan());
        if is_inside {
            self.outside = None;
            return self.number;
        }
        let since = match self.outside {
            Some((since, above)) if above == is_above => since,
            _ => now,
        };
        self.outside = Some((since, is_above));
        let holds = now.saturating_duration_since(since);
        if holds >= if is_above { RISES_AFTER } else { CALMS_AFTER } {
            *self = Self { number: Self::of(rate), outside: None };
        }
        self.number
    }
}
