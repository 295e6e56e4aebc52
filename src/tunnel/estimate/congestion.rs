//! Whether losses are those of a full queue.
//!
//! A queue that is full has a delay, and it is full because of what is sent. So losses are taken for those of a queue if far more
//! of the datagrams are lost while the round trip is clearly above its least, or while more is sent for a while, than otherwise.
//! Losses that come as often without delay and at a low rate are not. Where hardly anything comes without delay, as in slow start,
//! only a great delay counts, because a path may have jitter of its own.
//!
//! A run of losses is one event, however many datagrams it took: a queue that overflows for the first time may take hundreds. So
//! runs are compared.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::evidence::Interval;

/// Reports are taken together until they cover this time: a shorter one has too few datagrams.
const STEP: Duration = Duration::from_millis(50);
/// A delay shows so long after the losses of the same queue at the latest: the queue also drops and holds up what would show it.
const SHOWS_WITHIN: Duration = Duration::from_millis(200);
/// A peer that reports more often is judged with less.
const STEPS_MAX: usize = 64;
/// A longer silence says nothing about the rate.
const STEP_MAX: Duration = Duration::from_secs(1);
/// After this time half of what was compared is forgotten.
const HALF_LIFE: Duration = Duration::from_secs(10);
/// After this time the highest rate counts half. It must be known longer than the losses at that rate.
const PEAK_HALF_LIFE: Duration = Duration::from_secs(30);
/// Congestion lasts this long after it was last found.
const LASTS: Duration = Duration::from_secs(5);
/// The least delay that can be a queue: timers and schedulers of hosts delay reports by less.
const DELAY_MIN: Duration = Duration::from_millis(3);
/// The least delay that is a queue without any comparison.
const DELAY_SURE: Duration = Duration::from_millis(10);
/// The least round trip rises to a longer one within this time: the route may have changed.
const ROUTE_CHANGES: Duration = Duration::from_secs(60);
/// The same while congested: a standing queue must not pass for a longer route.
const ROUTE_CHANGES_CONGESTED: Duration = Duration::from_secs(600);
/// More than this share of the highest rate is a high one, less than that share a low one.
const HIGH_RATE: f64 = 0.7;
const LOW_RATE: f64 = 0.5;
/// Below this share hardly more than keepalives are sent, and they are nothing to compare with: what interrupts the link seldom
/// hits one.
const IDLE_RATE: f64 = 0.05;
/// A high rate counts when it has lasted so long: an interruption that hits one message is no sign of a queue, although hardly
/// anything is sent between messages.
const HIGH_FOR: Duration = Duration::from_secs(1);
/// Numbers of runs so many standard deviations apart are different.
const DEVIATIONS: f64 = 5.0;
/// Fewer runs than this show nothing.
const RUNS_MIN: f64 = 8.0;
/// Behind a great delay, so many are enough.
const RUNS_SURE: f64 = 4.0;
/// If fewer runs than this are to be expected without delay, that there are none says nothing.
const EXPECTED_MIN: f64 = 10.0;
/// Fewer datagrams than this without delay are nothing to compare with.
const COMPARED_MIN: f64 = 200.0;
/// The usual loss is known from so many.
const USUAL_MIN: f64 = 1000.0;
/// So many datagrams without delay, or at a low rate, are not forgotten.
const REFERENCE: f64 = 2000.0;

/// Datagrams that were sent under some condition.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    datagrams: f64,
    lost: f64,
    /// Runs of those, and those of five and more.
    runs: f64,
    long_runs: f64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        self.datagrams += other.datagrams;
        self.lost = (self.lost + other.lost).clamp(0.0, self.datagrams);
        self.runs = (self.runs + other.runs).clamp(0.0, self.datagrams);
        self.long_runs = (self.long_runs + other.long_runs).clamp(0.0, self.runs);
    }

    fn keep(&mut self, share: f64) {
        self.datagrams *= share;
        self.lost *= share;
        self.runs *= share;
        self.long_runs *= share;
    }

    /// Runs for each datagram.
    fn share(&self) -> f64 {
        self.runs / self.datagrams
    }

    /// Clearly more runs begin in these than in `others`.
    fn loses_more_than(&self, others: &Self) -> bool {
        let (ours, theirs) = (self.share(), others.share());
        let all = (self.runs + others.runs) / (self.datagrams + others.datagrams);
        let spread = all * (1.0 - all) * (self.datagrams.recip() + others.datagrams.recip());
        // Where nothing was sent, a share is not a number, and nothing is greater.
        self.runs >= RUNS_MIN && ours > 2.0 * theirs && (ours - theirs).powi(2) > DEVIATIONS.powi(2) * spread
    }
}

/// How much is sent, of what was sent at most lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Much, for a while.
    Fast,
    /// Little.
    Slow,
    /// Neither.
    Other,
}

/// What reports say of a short time.
#[derive(Clone, Copy, Debug)]
struct Step {
    tally: Tally,
    /// The least in it: a host that stands still for a moment delays one report, a queue delays all.
    delay: Duration,
    pace: Pace,
    at: Instant,
}

/// The search for congestion on the way to the peer.
#[derive(Debug)]
pub struct Congestion {
    /// With and without delay.
    delayed: Tally,
    prompt: Tally,
    /// While much and while little was sent.
    fast: Tally,
    slow: Tally,
    /// The last delayed losses had a delay that is a queue without comparison.
    is_sure: bool,
    /// The highest rate, in datagrams a second; older ones count less.
    peak: f64,
    /// Since when the rate has been high.
    high_since: Option<Instant>,
    /// The round trip without a queue.
    least: Option<Duration>,
    heard_at: Instant,
    /// Steps that are not compared yet.
    steps: VecDeque<Step>,
    /// The present step, its time, and the least delay in it.
    step: Tally,
    covers: Duration,
    delay: Option<Duration>,
    at: Instant,
    /// When congestion was last found.
    found: Option<Instant>,
}

impl Congestion {
    /// Nothing was sent.
    pub fn new(now: Instant) -> Self {
        Self {
            delayed: Tally::default(),
            prompt: Tally::default(),
            fast: Tally::default(),
            slow: Tally::default(),
            is_sure: false,
            peak: 0.0,
            high_since: None,
            least: None,
            heard_at: now,
            steps: VecDeque::new(),
            step: Tally::default(),
            covers: Duration::ZERO,
            delay: None,
            at: now,
            found: None,
        }
    }

    /// Losses are those of a full queue, or were a moment ago.
    pub fn is_found(&self, now: Instant) -> bool {
        self.found.is_some_and(|at| now.saturating_duration_since(at) < LASTS)
    }

    /// The round trips of a report.
    pub fn on_round_trip(&mut self, rtt: Duration, least: Duration, now: Instant) {
        let elapsed = now.saturating_duration_since(std::mem::replace(&mut self.heard_at, now));
        let within = if self.is_found(now) { ROUTE_CHANGES_CONGESTED } else { ROUTE_CHANGES };
        let known = self.least.unwrap_or(least);
        let risen =
            known + least.saturating_sub(known).mul_f64((elapsed.as_secs_f64() / within.as_secs_f64()).min(1.0));
        let least = risen.min(least);
        self.least = Some(least);
        let delay = rtt.saturating_sub(least);
        self.delay = Some(self.delay.map_or(delay, |known| known.min(delay)));
    }

    /// What a report says of the time `covers`. `rate` is what is sent: in datagrams a
    /// second. It is not taken from the report, because the peer learns of losses only when something arrives again.
    pub fn on_interval(&mut self, interval: &Interval, covers: Duration, rate: f64, now: Instant) {
        let Interval { datagrams, lost, runs, long_runs } = *interval;
        self.step.add(&Tally { datagrams, lost, runs, long_runs });
        self.covers = self.covers.saturating_add(covers);
        if self.covers < STEP {
            return;
        }
        let tally = std::mem::take(&mut self.step);
        let covers = std::mem::take(&mut self.covers);
        let delay = self.delay.take().unwrap_or_default();
        self.peak = self.peak.max(rate);
        let is_high = covers <= STEP_MAX && rate >= self.peak * HIGH_RATE;
        let since = if is_high { *self.high_since.get_or_insert(now) } else { now };
        self.high_since = is_high.then_some(since);
        let pace = if is_high && now.saturating_duration_since(since) >= HIGH_FOR {
            Pace::Fast
        } else if covers <= STEP_MAX && (self.peak * IDLE_RATE..=self.peak * LOW_RATE).contains(&rate) {
            Pace::Slow
        } else {
            Pace::Other
        };
        self.steps.push_back(Step { tally, delay, pace, at: now });
        while self.steps.front().is_some_and(|step| step.at + SHOWS_WITHIN <= now || self.steps.len() > STEPS_MAX) {
            // Its own delay or that of a later one: a queue that has just filled also holds up what would show its delay.
            let delay = self.steps.iter().map(|step| step.delay).max().unwrap_or_default();
            let Some(step) = self.steps.pop_front() else { break };
            self.judge(&Step { delay, ..step }, now);
        }
    }

    fn judge(&mut self, step: &Step, now: Instant) {
        self.forget(now);
        let tally = &step.tally;
        let threshold = self.least.map_or(Duration::MAX, |least| (least / 4).max(DELAY_MIN));
        let is_delayed = step.delay >= threshold;
        if is_delayed {
            self.delayed.add(tally);
            if tally.runs > 0.0 {
                self.is_sure = step.delay >= DELAY_SURE.max(threshold.saturating_mul(2));
            }
        } else {
            self.prompt.add(tally);
        }
        match step.pace {
            Pace::Fast => self.fast.add(tally),
            Pace::Slow => self.slow.add(tally),
            Pace::Other => {}
        }
        // Where too little came without delay to compare with, a great delay is enough for long runs.
        let is_comparable = self.prompt.datagrams >= COMPARED_MIN
            && self.prompt.runs + self.prompt.datagrams * self.delayed.share() >= EXPECTED_MIN;
        let behind_delay = match is_comparable {
            false => self.is_sure && self.delayed.long_runs >= RUNS_SURE,
            true => self.delayed.loses_more_than(&self.prompt),
        };
        // Congestion that is over must not go on because of the losses that there always are.
        let usual = 2.0 * self.prompt.share();
        let is_typical = |all: &Tally| tally.runs > 0.0 && tally.share() >= (all.share() / 2.0).min(usual);
        if (is_delayed && behind_delay && is_typical(&self.delayed))
            || (step.pace == Pace::Fast && self.fast.loses_more_than(&self.slow) && is_typical(&self.fast))
        {
            self.found = Some(now);
        }
    }

    #[cfg(test)]
    pub fn find(&mut self, now: Instant) {
        self.found = Some(now);
    }

    /// The share of datagrams that may be lost without congestion, generously; `None` where that is not known.
    pub fn usual_loss(&self) -> Option<f64> {
        let enough = |tally: &&Tally| tally.datagrams >= USUAL_MIN;
        let most = |tally: &Tally| {
            let share = tally.lost / tally.datagrams;
            (share + 3.0 * (share / tally.datagrams).sqrt() + 3.0 / tally.datagrams) * 1.5
        };
        [&self.prompt, &self.slow].into_iter().filter(enough).map(most).max_by(f64::total_cmp)
    }

    fn forget(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        let kept = |half_life: Duration| (-elapsed.as_secs_f64() / half_life.as_secs_f64()).exp2();
        self.peak *= kept(PEAK_HALF_LIFE);
        let kept = kept(HALF_LIFE);
        self.delayed.keep(kept);
        self.fast.keep(kept);
        // What others are compared with is kept until there is something newer: a link may be busy for hours.
        for tally in [&mut self.prompt, &mut self.slow] {
            tally.keep(kept.max((REFERENCE / tally.datagrams).min(1.0)));
        }
        self.at = now;
    }

    /// Round trips to the peer's new run may be others.
    pub fn on_new_epoch(&mut self) {
        self.least = None;
        self.delay = None;
        self.steps.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_reports_without_end_fills_no_queue() {
        let now = Instant::now();
        let mut congestion = Congestion::new(now);
        let interval = Interval { datagrams: 10.0, lost: 1.0, runs: 1.0, long_runs: 0.0 };
        for _ in 0..10_000 {
            // It says that each covers a second, and all come at once.
            congestion.on_round_trip(Duration::from_millis(20), Duration::from_millis(20), now);
            congestion.on_interval(&interval, Duration::from_secs(1), 1000.0, now);
        }
        assert_eq!(congestion.steps.len(), STEPS_MAX);
        assert!(congestion.prompt.datagrams > 90_000.0, "what did not fit is judged: {congestion:?}");
    }
}
