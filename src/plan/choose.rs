//! The plan for targets on a link, at a rate or between two rates.
//!
//! 1. Short blocks, where their repair is within `max_overhead` or what is always allowed: the least delay.
//! 2. Else the shortest block that is long enough: late repair costs the symbols of an interruption, whatever the length.
//! 3. Else without late repair; else with as few early symbols as are allowed. Each such step is an [`Unreached`].
//!
//! `max_overhead` outranks the other targets, and `min` outranks it.

use std::time::Duration;

use super::early::{self, Early, fewest};
use super::unreached::{Cause, Remedy, Target, Unreached};
use super::{FREE_REPAIR, Limits, Link, MOST_LOSS, SendPlan, Targets, apart, late_symbols, symbols_within};
use crate::fec::block_failures::BlockFailures;
use crate::fec::plan::Plan;
use crate::fec::residual::residual;

/// The longest block and time that a configuration may have.
const MOST_SYMBOLS: usize = 4096;
const LONGEST: Duration = Duration::from_secs(1);
/// The largest `max_overhead` that a configuration may have.
const MOST_OVERHEAD: f64 = 10.0;
/// The longest `survive_burst` that a configuration may have.
const LONGEST_BURST: Duration = Duration::from_millis(400);
/// A smaller loss is not told from this.
const LEAST_LOSS: f64 = 1e-9;
/// More symbols a second than any link carries.
const MOST_RATE: f64 = 1e9;

/// The rates for which a plan must hold, in source symbols a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// The lowest.
    pub low: f64,
    /// The highest.
    pub high: f64,
}

/// The plan for the link as it is.
pub fn choose(targets: &Targets, limits: &Limits, link: &Link) -> SendPlan {
    let rate = link.symbols_per_second;
    choose_between(targets, limits, link, Rates { low: rate, high: rate })
}

/// The plan for the link at every rate between two; the rate of `link` is not looked at.
pub fn choose_between(targets: &Targets, limits: &Limits, link: &Link, rates: Rates) -> SendPlan {
    Choice::new(targets, limits, link, rates).plan()
}

/// The inputs, within their ranges.
struct Choice {
    residual: Option<f64>,
    survive_burst: Duration,
    max_overhead: f64,
    min: usize,
    limits: Limits,
    link: Link,
    /// The loss as it was given.
    loss: f64,
    rates: [f64; 3],
}

/// Repair symbols and close times that are within what is allowed.
struct Fitting {
    early: Early,
    close_when_idle: Duration,
    close_after: Duration,
}

impl Choice {
    fn new(targets: &Targets, limits: &Limits, link: &Link, rates: Rates) -> Self {
        let close_after = limits.close_after.min(LONGEST);
        let base_close_after = limits.base_close_after.min(close_after);
        let rate = |rate: f64| if rate > 0.0 { rate.min(MOST_RATE) } else { 0.0 };
        let (low, high) = (rate(rates.low), rate(rates.high).max(rate(rates.low)));
        // The least where it is no number: of two errors, the one that promises less.
        let share = if targets.max_overhead >= 0.01 { targets.max_overhead.min(MOST_OVERHEAD) } else { 0.01 };
        Self {
            residual: targets.residual.map(|chance| if chance >= 1e-30 { chance.min(0.5) } else { 1e-30 }),
            survive_burst: targets.survive_burst.min(LONGEST_BURST),
            max_overhead: share,
            min: targets.min.min(MOST_SYMBOLS),
            limits: Limits {
                block_symbols: limits.block_symbols.clamp(1, MOST_SYMBOLS),
                close_after,
                base_close_after,
                base_close_when_idle: limits.base_close_when_idle.min(base_close_after),
                symbol_bytes: limits.symbol_bytes.max(1),
            },
            link: Link { loss: if link.loss <= MOST_LOSS { link.loss.max(LEAST_LOSS) } else { MOST_LOSS }, ..*link },
            loss: link.loss,
            rates: [low, (low * high).sqrt(), high],
        }
    }

    fn plan(&self) -> SendPlan {
        let mut unreached = Vec::new();
        if self.link.congested {
            let wanted = [(Target::Residual, self.residual.is_some()), (Target::SurviveBurst, self.wants_late())];
            for (target, _) in wanted.into_iter().filter(|(_, wanted)| *wanted) {
                unreached.push(Unreached { target, cause: Cause::Congested, remedies: vec![Remedy::Pace] });
            }
            let early = Early::only(self.min, self.limits.block_symbols);
            // The longest blocks have the least repair. Nothing is called protected before the peer has it, so nobody waits for
            // the end of a block; without a target somebody may.
            let span = if unreached.is_empty() { self.span(&early, Duration::ZERO) } else { None };
            let span = span.unwrap_or(self.limits.close_after);
            let fitting = Fitting { early, close_when_idle: span, close_after: span };
            return self.finish(fitting, Duration::ZERO, unreached);
        }
        let mut late = self.survive_burst;
        if self.wants_late() && !self.link.peer_knows_late {
            let (target, cause) = (Target::SurviveBurst, Cause::PeerWithoutLate);
            unreached.push(Unreached { target, cause, remedies: vec![Remedy::NewerPeer] });
            late = Duration::ZERO;
        }
        let mut too_dear = match self.fit(late) {
            Ok(fitting) => return self.finish(fitting, late, unreached),
            Err(early) => early,
        };
        if !late.is_zero() {
            unreached.push(self.too_dear(Target::SurviveBurst, &too_dear, late));
            too_dear = match self.fit(Duration::ZERO) {
                Ok(fitting) => return self.finish(fitting, Duration::ZERO, unreached),
                Err(early) => early,
            };
        }
        if self.residual.is_some() {
            unreached.push(self.too_dear(Target::Residual, &too_dear, Duration::ZERO));
        }
        let fitting = self.cut();
        let is_within = |&rate: &f64| {
            let k = symbols_within(fitting.close_after, rate, self.limits.block_symbols);
            self.overhead(&fitting.early, k, rate, Duration::ZERO) <= self.allowed(rate)
        };
        if !self.rates.iter().all(is_within) {
            let min = Early::only(self.min, self.limits.block_symbols);
            unreached.push(self.too_dear(Target::MaxOverhead, &min, Duration::ZERO));
        }
        self.finish(fitting, Duration::ZERO, unreached)
    }

    fn wants_late(&self) -> bool {
        !self.survive_burst.is_zero()
    }

    fn finish(&self, mut fitting: Fitting, late: Duration, mut unreached: Vec<Unreached>) -> SendPlan {
        if self.loss > MOST_LOSS || self.loss.is_nan() {
            let symbols = self.limits.block_symbols;
            let early = usize::from(fitting.early.symbols[symbols - 1]);
            fitting.early.unreached = Some((symbols, residual(symbols, early, self.loss)));
        }
        let knows = unreached.iter().any(|unreached| unreached.target == Target::Residual);
        if let (false, Some(target), Some((symbols, chance))) = (knows, self.residual, fitting.early.unreached) {
            let remedies = self.remedies_for(target, symbols, chance, late);
            let cause = Cause::Link { symbols, chance };
            unreached.push(Unreached { target: Target::Residual, cause, remedies });
        }
        unreached.sort_by_key(|unreached| unreached.target);
        let block_symbols = self.limits.block_symbols;
        SendPlan {
            block_symbols,
            close_when_idle: fitting.close_when_idle,
            close_after: fitting.close_after,
            repair: Plan::from_table(block_symbols, self.link.loss, fitting.early.symbols),
            survive_burst: late,
            unreached,
        }
    }

    /// The share of the source bytes that repair may have at this rate.
    fn allowed(&self, rate: f64) -> f64 {
        self.max_overhead.max(FREE_REPAIR / (rate * self.limits.symbol_bytes as f64))
    }

    fn overhead(&self, early: &Early, k: usize, rate: f64, late: Duration) -> f64 {
        let symbols = usize::from(early.symbols[k - 1]) + late_symbols(k, apart(rate), late);
        symbols as f64 / k as f64
    }

    /// What single losses need.
    fn single(&self) -> Early {
        let longest = self.limits.block_symbols;
        match self.residual {
            None => Early::only(self.min, longest),
            Some(target) => Early::for_loss(target, self.link.loss, self.min, longest),
        }
    }

    fn add_bursts(&self, early: &mut Early, apart: Duration, late: Duration) {
        if let (Some(target), Some(link)) = (self.residual, self.link.bursts) {
            early.add_for_bursts(target, link, apart, late);
        }
    }

    fn short(&self, early: Early) -> Fitting {
        let Limits { base_close_when_idle, base_close_after, .. } = self.limits;
        Fitting { early, close_when_idle: base_close_when_idle, close_after: base_close_after }
    }

    /// The shortest blocks with which everything is within what is allowed; else the symbols that were too many.
    fn fit(&self, late: Duration) -> Result<Fitting, Early> {
        let single = self.single();
        // What bursts need comes on top, so what single losses need must fit in any case.
        if self.fits(&single, self.limits.base_close_after, late) {
            let mut early = single.clone();
            self.add_bursts(&mut early, Duration::ZERO, late);
            if self.fits(&early, self.limits.base_close_after, late) {
                return Ok(self.short(early));
            }
        }
        if self.span(&single, late).is_none() {
            return Err(single);
        }
        let mut early = single;
        self.add_bursts(&mut early, apart(self.rates[2]), late);
        match self.span(&early, late) {
            Some(span) => Ok(Fitting { early, close_when_idle: span, close_after: span }),
            None => Err(early),
        }
    }

    fn fits(&self, early: &Early, close_after: Duration, late: Duration) -> bool {
        self.rates.iter().all(|&rate| {
            let k = symbols_within(close_after, rate, self.limits.block_symbols);
            self.overhead(early, k, rate, late) <= self.allowed(rate)
        })
    }

    /// The shortest time within which a block becomes long enough.
    fn span(&self, early: &Early, late: Duration) -> Option<Duration> {
        self.spans().find(|&span| self.fits(early, span, late))
    }

    /// The times that a block may take, each with one more symbol in it than the one before.
    fn spans(&self) -> impl Iterator<Item = Duration> {
        let Limits { base_close_after, close_after, block_symbols, .. } = self.limits;
        let slowest = self.rates[0];
        let spans = (1..=block_symbols).map(move |k| span_of(k, slowest).max(base_close_after));
        spans.take_while(move |span| *span < close_after).chain([close_after])
    }

    /// As many early symbols as are allowed, in the longest blocks.
    fn cut(&self) -> Fitting {
        let mut early = self.single();
        let allowed = self.allowed(self.rates[2]);
        for (at, m) in early.symbols.iter_mut().enumerate() {
            let most = ((at + 1) as f64 * allowed) as usize;
            *m = usize::from(*m).min(most.max(self.min)) as u16;
        }
        let close_after = self.limits.close_after;
        Fitting { early, close_when_idle: close_after, close_after }
    }

    /// The target needs more repair than is allowed, with these early symbols and late ones.
    fn too_dear(&self, target: Target, early: &Early, late: Duration) -> Unreached {
        let [low, _, high] = self.rates;
        let longest = symbols_within(self.limits.close_after, low, self.limits.block_symbols);
        let allowed = self.allowed(high);
        let dearest = |span| {
            let shares = self.rates.iter().map(|&rate| {
                let k = symbols_within(span, rate, self.limits.block_symbols);
                self.overhead(early, k, rate, late)
            });
            shares.fold(0.0, f64::max)
        };
        let needed = self.spans().map(dearest).fold(f64::INFINITY, f64::min);
        let mut remedies: Vec<_> = self.longer_block(early, longest, late).into_iter().collect();
        if needed <= MOST_OVERHEAD {
            remedies.push(Remedy::MaxOverhead(needed));
        }
        Unreached { target, cause: Cause::Overhead { needed, allowed }, remedies }
    }

    /// The shortest block beyond the limits that is long enough for single losses and late repair.
    fn longer_block(&self, early: &Early, longest: usize, late: Duration) -> Option<Remedy> {
        let [low, _, high] = self.rates;
        let allowed = self.allowed(high);
        // With bursts a longer block may need more than this estimates, so nothing is promised.
        let needs_more = self.residual.is_some() && early.symbols != self.single().symbols;
        // However long a block is, what is lost on the average must be repaired.
        let is_hopeless = self.residual.is_some() && allowed < self.link.loss / (1.0 - self.link.loss);
        let mut m = usize::from(early.symbols[longest - 1]);
        let lengths = std::iter::successors(Some(longest + 1), |k| Some(k + 1 + k / 32));
        for k in lengths.take_while(|&k| !needs_more && !is_hopeless && k <= MOST_SYMBOLS && span_of(k, low) <= LONGEST)
        {
            if let Some(target) = self.residual {
                // A plan may give it what a length up to a sixteenth longer needs.
                m = fewest(k + k / 16 + 1, m, self.link.loss, target.ln());
            }
            if (m + late_symbols(k, apart(high), late)) as f64 <= allowed * k as f64 {
                let block_symbols = (k > self.limits.block_symbols).then_some(k);
                return Some(Remedy::LongerBlock { close_after: span_of(k, low), block_symbols });
            }
        }
        None
    }

    /// What helps where the link loses too much for a block of `k` symbols. A longer `survive_burst` is tried on a lone block.
    fn remedies_for(&self, target: f64, k: usize, chance: f64, late: Duration) -> Vec<Remedy> {
        let easier = (chance < 0.1).then_some(Remedy::Residual(chance * 1.5));
        let Some(link) = self.link.bursts.filter(|_| self.link.peer_knows_late) else {
            return easier.into_iter().collect();
        };
        let first = late.max(Duration::from_millis(1)) * 2;
        let longer = std::iter::successors(Some(first), |time| Some(*time * 2));
        let mut longer = longer.take_while(|time| *time <= LONGEST_BURST);
        let mut lone = BlockFailures::new(link, Duration::ZERO, late);
        (0..k).for_each(|_| lone.add_source());
        let enough = longer.find(|time| {
            lone.set_late_after(*time);
            lone.failure(early::most(k), k) <= target
        });
        enough.map(Remedy::SurviveBurst).into_iter().chain(easier).collect()
    }
}

/// The time in which `k` symbols come at this rate, with half a symbol to spare for rounding.
fn span_of(k: usize, rate: f64) -> Duration {
    let seconds = (k as f64 + 0.01) / rate;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}
