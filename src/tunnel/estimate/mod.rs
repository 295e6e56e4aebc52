//! What reports say about the link to a peer: loss, interruptions, congestion.
//!
//! One [`Estimator`] for each peer and lane. It notes when datagrams left, takes the peer's reports, and makes of both a
//! [`LinkEstimate`]. All of it is about the direction from this node to the peer. Datagrams that the
//! peer's own full receive buffer dropped are in it, because reports do not tell them apart. What follows from an estimate is
//! decided elsewhere.

mod confidence;
mod congestion;
mod evidence;
pub mod fit;
pub mod interruptions;
pub mod link_estimate;
mod rate;
mod repaired;
mod runs;
pub mod send_times;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use congestion::Congestion;
use evidence::Evidence;
use interruptions::History;
use link_estimate::LinkEstimate;
use rate::SendRate;
use repaired::RepairedLosses;
use send_times::{Interruption, SendTimes};

use crate::wire::datagram::count_of;
use crate::wire::report::{ENTRIES_MAX, LossRun, Report, burst_class};

/// A run less likely than this violates the model.
const CHANCE_MIN: f64 = 1e-6;
/// A violation lasts until this much was reported without another one and the runs since make it likely enough,
const VIOLATED_FOR: Duration = Duration::from_secs(60);
/// or until this much was.
const VIOLATED_MAX: Duration = Duration::from_secs(3600);
/// Two reports further apart say nothing about the time between them beyond this.
const REPORTED_APART: Duration = Duration::from_secs(1);
/// With fewer datagrams there is no model to violate.
const DATAGRAMS_MIN: f64 = 10_000.0;

/// What is known of the link to one peer on one lane.
#[derive(Debug)]
pub struct Estimator {
    times: SendTimes,
    rate: SendRate,
    evidence: Evidence,
    history: History,
    congestion: Congestion,
    repaired: RepairedLosses,
    /// `sent_at` of the last report.
    reported_at: Option<u64>,
    /// The peer named runs of the present session up to this count.
    named_below: u64,
    /// The count of the newest datagram.
    newest: u64,
    violation: Option<Violation>,
}

/// A run that is longer than those before it allow; of several, the longest. Time that merely passes does not end it.
#[derive(Clone, Copy, Debug)]
struct Violation {
    length: u64,
    interruption: Interruption,
    /// For how long reports have come since the last of them, and the newest report.
    reported: Duration,
    heard_at: Instant,
}

impl Estimator {
    /// Nothing is known.
    pub fn new(now: Instant) -> Self {
        Self {
            times: SendTimes::default(),
            rate: SendRate::new(now),
            evidence: Evidence::default(),
            history: History::new(now),
            congestion: Congestion::new(now),
            repaired: RepairedLosses::default(),
            reported_at: None,
            named_below: 0,
            newest: 0,
            violation: None,
        }
    }

    /// `datagrams` of together `bytes` left; the first was sealed with `counter`, and each other with the next. A count that falls
    /// is that of a new session.
    pub fn on_sent(&mut self, counter: u64, datagrams: u64, bytes: u64, now: Instant) {
        let first = count_of(counter);
        if first <= self.newest {
            self.named_below = 0;
        }
        self.newest = first.saturating_add(datagrams.saturating_sub(1));
        self.times.on_sent(first, datagrams, now);
        self.rate.on_sent(datagrams, bytes, now);
        self.evidence.on_sent(datagrams);
    }

    /// Takes a report; its runs must be of the session under which datagrams leave now. `rtt` is the round trip, less
    /// the time in queues of this node, and `least_rtt` the least of the last seconds.
    pub fn on_report(&mut self, report: &Report, rtt: Option<Duration>, least_rtt: Option<Duration>, now: Instant) {
        // Before the counts: each run is compared with what was known without it.
        let runs = report.extension.iter().flat_map(|extension| &extension.runs);
        runs.take(ENTRIES_MAX).for_each(|&run| self.on_run(run, now));
        let covers = self.reported_at.replace(report.sent_at).and_then(|last| report.sent_at.checked_sub(last));
        if let (Some(rtt), Some(least)) = (rtt, least_rtt) {
            self.congestion.on_round_trip(rtt, least, now);
        }
        self.watch_violation(now);
        let interval = self.evidence.on_report(&report.reception, now);
        if let (Some(interval), Some(covers)) = (interval, covers) {
            let (rate, _) = self.rate.per_second(now);
            self.congestion.on_interval(&interval, Duration::from_micros(covers), rate, now);
            let usual = self.congestion.usual_loss().map(|share| share * interval.datagrams);
            let repaired = report.reception.recovered_symbols;
            self.repaired.on_report(repaired, usual, &interval, self.congestion.is_found(now));
        }
    }

    fn on_run(&mut self, run: LossRun, now: Instant) {
        let length = u64::from(run.length);
        if run.first < self.named_below {
            return;
        }
        // Only what left can have been lost on the way, so a lie is ignored.
        let Some(interruption) = self.times.interruption(run.first, length) else { return };
        self.named_below = run.first.saturating_add(length);
        if self.evidence.datagrams() >= DATAGRAMS_MIN && self.chance(length, interruption) < CHANCE_MIN {
            let before = self.violation.filter(|before| before.interruption.at_least > interruption.at_least);
            let (length, interruption) = before.map_or((length, interruption), |it| (it.length, it.interruption));
            self.violation = Some(Violation { length, interruption, reported: Duration::ZERO, heard_at: now });
        }
        self.evidence.runs_mut().on_timed(burst_class(length), interruption);
        if length > 1 {
            self.history.add(interruption, now);
        }
    }

    /// The chance of a run as long as this one.
    fn chance(&self, length: u64, interruption: Interruption) -> f64 {
        // About the upper confidence bound of the loss, whatever the count.
        let lost = self.evidence.lost();
        let loss = ((lost + 3.0 + 2.0 * lost.sqrt()) / self.evidence.datagrams()).min(1.0);
        self.evidence.runs().chance(length, interruption, loss)
    }

    /// A report came.
    fn watch_violation(&mut self, now: Instant) {
        let Some(mut violation) = self.violation else { return };
        violation.reported += now.saturating_duration_since(violation.heard_at).min(REPORTED_APART);
        violation.heard_at = now;
        let is_likely = || self.chance(violation.length, violation.interruption) >= CHANCE_MIN;
        let is_over = violation.reported >= VIOLATED_MAX || (violation.reported >= VIOLATED_FOR && is_likely());
        self.violation = (!is_over).then_some(violation);
    }

    /// The peer was restarted: it counts from zero.
    pub fn on_new_epoch(&mut self, _now: Instant) {
        self.times.clear();
        self.evidence.on_new_epoch();
        self.congestion.on_new_epoch();
        self.repaired.on_new_epoch();
        self.reported_at = None;
        self.named_below = 0;
    }

    /// Losses are those of a full queue, or were a few seconds ago.
    pub fn is_congested(&self, now: Instant) -> bool {
        self.congestion.is_found(now)
    }

    /// Whether the sender of a packet is due to hear of a loss that a full queue caused and the code has repaired; it does now.
    pub fn takes_repaired_loss(&mut self, now: Instant) -> bool {
        self.is_congested(now) && self.repaired.take()
    }

    /// So many losses are due to be heard.
    #[cfg(test)]
    pub(in crate::tunnel) fn owe_repaired_losses(&mut self, due: u64, now: Instant) {
        self.congestion.find(now);
        let interval = evidence::Interval { datagrams: 1e6, lost: due as f64, runs: 1.0, long_runs: 1.0 };
        self.repaired.on_report(0, Some(0.0), &interval, true);
        self.repaired.on_report(due, Some(0.0), &interval, true);
    }

    /// All that is known.
    pub fn estimate(&self, now: Instant) -> LinkEstimate {
        let (lost, datagrams, runs) = (self.evidence.lost(), self.evidence.datagrams(), self.evidence.runs());
        let (datagrams_per_second, bytes_per_second) = self.rate.per_second(now);
        let mut estimate = LinkEstimate {
            datagrams,
            lost,
            clumping: runs.clumping(lost),
            age: self.evidence.age(now),
            run_classes: runs.classes,
            last_minute: self.history.last_minute(now),
            last_hour: self.history.last_hour(now),
            ever: self.history.ever(),
            fit: fit::fit(runs, lost, datagrams),
            violated_by: self.violation.map(|violation| violation.interruption),
            datagrams_per_second,
            bytes_per_second,
            congested: self.is_congested(now),
            ..LinkEstimate::default()
        };
        estimate.judge_loss();
        estimate
    }
}
