//! Evidence of loss: how many of our datagrams the peer should have and how many it misses, with older evidence forgotten.
//!
//! Half is forgotten after thirty seconds, or after 3000 datagrams if that takes longer: where nothing is sent, nothing is
//! learned, and nothing is forgotten. Its age says how old it is. What the peer reports is not believed beyond what was sent, so
//! a lie can make the loss at most total. Counts that fall begin anew.

use std::time::{Duration, Instant};

use super::runs::{Runs, bounds};
use crate::wire::report::Reception;

const HALF_LIFE: Duration = Duration::from_secs(30);
/// The fewest datagrams after which half is forgotten.
const HALF_LIFE_DATAGRAMS: f64 = 3000.0;

/// Independent losses hardly ever make a run of this length.
const LONG_RUN: u32 = 5;

/// What one report says about the time since the one before.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Datagrams whose fate it tells.
    pub datagrams: f64,
    /// Those that did not arrive; below zero if late datagrams have arrived after all.
    pub lost: f64,
    /// Runs of those.
    pub runs: f64,
    /// Runs of five and more.
    pub long_runs: f64,
}

/// The evidence of one direction.
#[derive(Debug, Default)]
pub struct Evidence {
    datagrams: f64,
    lost: f64,
    runs: Runs,
    /// When evidence last came.
    at: Option<Instant>,
    /// The counts of the last report of the peer's present run.
    last: Option<Reception>,
    /// Datagrams that were sent and that no report has told of.
    untold: u64,
}

impl Evidence {
    /// So many datagrams were sent.
    pub fn on_sent(&mut self, datagrams: u64) {
        self.untold = self.untold.saturating_add(datagrams);
    }

    /// Takes the counts of a report.
    pub fn on_report(&mut self, reception: &Reception, now: Instant) -> Option<Interval> {
        let last = self.last.replace(*reception)?;
        let told = |reception: &Reception| u128::from(reception.received) + u128::from(reception.lost);
        let grown = told(reception).checked_sub(told(&last))?;
        if reception.received < last.received || grown == 0 {
            return None;
        }
        // What we never sent can only be missing: it was discarded here, or the peer lies.
        let unsent = grown.saturating_sub(self.untold.into());
        let datagrams = (grown - unsent) as u64;
        self.untold -= datagrams;
        let lost = (i128::from(reception.lost) - i128::from(last.lost) - unsent as i128).min(datagrams.into());
        let lost = (lost as f64).max(-self.lost);
        let lost = if unsent > 0 { lost.max(0.0) } else { lost };
        let mut interval = Interval { datagrams: datagrams as f64, lost, runs: 0.0, long_runs: 0.0 };
        if datagrams == 0 {
            return None;
        }
        self.forget(interval.datagrams, now);
        self.datagrams += interval.datagrams;
        self.lost = (self.lost + interval.lost).clamp(0.0, self.datagrams);
        for (class, runs) in self.runs.classes.iter_mut().enumerate() {
            let more = i128::from(reception.burst_lengths[class]) - i128::from(last.burst_lengths[class]);
            let more = more.min(datagrams.into()) as f64;
            *runs = (*runs + more).clamp(0.0, self.datagrams);
            interval.runs += more;
            interval.long_runs += if bounds(class).0 >= LONG_RUN { more } else { 0.0 };
        }
        interval.runs = interval.runs.clamp(0.0, interval.datagrams);
        interval.long_runs = interval.long_runs.clamp(0.0, interval.runs);
        Some(interval)
    }

    fn forget(&mut self, datagrams: f64, now: Instant) {
        let elapsed = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let half_lives = (elapsed.as_secs_f64() / HALF_LIFE.as_secs_f64()).min(datagrams / HALF_LIFE_DATAGRAMS);
        let kept = (-half_lives).exp2();
        self.datagrams *= kept;
        self.lost *= kept;
        self.runs.forget(kept);
        self.at = Some(now);
    }

    /// The peer was restarted and counts from zero. What is known of the link stays.
    pub fn on_new_epoch(&mut self) {
        self.last = None;
        self.untold = 0;
    }

    /// Datagrams whose fate is known.
    pub fn datagrams(&self) -> f64 {
        self.datagrams
    }

    /// Those that did not arrive.
    pub fn lost(&self) -> f64 {
        self.lost
    }

    /// Runs of lost datagrams.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// Runs of lost datagrams, to note their times.
    pub fn runs_mut(&mut self) -> &mut Runs {
        &mut self.runs
    }

    /// How long ago evidence last came.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.at.map(|at| now.saturating_duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reception(received: u64, lost: u64) -> Reception {
        Reception { received, lost, ..Reception::default() }
    }

    #[test]
    fn counts_before_the_first_report_are_no_evidence() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        evidence.on_sent(1000);
        assert_eq!(evidence.on_report(&reception(500, 500), now), None);
        assert_eq!((evidence.datagrams(), evidence.age(now)), (0.0, None));
        let interval = evidence.on_report(&reception(590, 510), now);
        assert_eq!(interval, Some(Interval { datagrams: 100.0, lost: 10.0, runs: 0.0, long_runs: 0.0 }));
        let late = evidence.on_report(&reception(600, 505), now);
        assert_eq!(late, Some(Interval { datagrams: 5.0, lost: -5.0, runs: 0.0, long_runs: 0.0 }));
        assert_eq!((evidence.datagrams(), evidence.lost()), (105.0, 5.0));
    }

    #[test]
    fn half_is_forgotten_in_half_a_minute_of_traffic_and_nothing_without() {
        let start = Instant::now();
        let mut evidence = Evidence::default();
        let mut counts = reception(0, 0);
        let mut now = start;
        let mut report = |evidence: &mut Evidence, received, lost, later| {
            now += later;
            evidence.on_sent(received + lost);
            (counts.received, counts.lost) = (counts.received + received, counts.lost + lost);
            evidence.on_report(&counts, now);
        };
        report(&mut evidence, 0, 0, Duration::ZERO);
        report(&mut evidence, 1_000_000, 1000, Duration::ZERO);
        (0..300).for_each(|_| report(&mut evidence, 100_000, 0, Duration::from_millis(100)));
        assert!((evidence.lost() - 500.0).abs() < 1.0, "{}", evidence.lost());
        (0..600).for_each(|_| report(&mut evidence, 1, 0, Duration::from_secs(3600)));
        assert!((evidence.lost() - 435.0).abs() < 5.0, "a few keepalives make little forgotten: {}", evidence.lost());
    }

    #[test]
    fn a_restart_of_the_peer_begins_anew_and_keeps_the_evidence() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        evidence.on_sent(10_000);
        evidence.on_report(&reception(0, 0), now);
        evidence.on_report(&reception(90, 10), now);
        assert_eq!(evidence.on_report(&reception(5, 0), now), None, "the counts fell");
        assert_eq!(
            evidence.on_report(&reception(15, 0), now),
            Some(Interval { datagrams: 10.0, lost: 0.0, runs: 0.0, long_runs: 0.0 })
        );
        evidence.on_new_epoch();
        evidence.on_sent(100);
        assert_eq!(evidence.on_report(&reception(30, 3), now), None);
        assert_eq!(
            evidence.on_report(&reception(50, 3), now),
            Some(Interval { datagrams: 20.0, lost: 0.0, runs: 0.0, long_runs: 0.0 })
        );
        assert_eq!(evidence.lost().round(), 10.0);
    }

    #[test]
    fn datagrams_that_never_left_are_not_lost_on_the_way() {
        let now = Instant::now();
        let mut evidence = Evidence::default();
        evidence.on_report(&reception(0, 0), now);
        evidence.on_sent(90);
        assert_eq!(
            evidence.on_report(&reception(88, 12), now),
            Some(Interval { datagrams: 90.0, lost: 2.0, runs: 0.0, long_runs: 0.0 })
        );
    }

    proptest! {
        #[test]
        fn a_lie_is_at_most_total_loss(
            steps in prop::collection::vec(
                (0u64..1000, any::<[u64; 2]>(), any::<[u64; 8]>(), 0u32..6, 0u64..40_000), 1..40
            ),
        ) {
            let mut now = Instant::now();
            let mut evidence = Evidence::default();
            let mut sent = 0.0;
            for (more, [received, lost], burst_lengths, shift, millis) in steps {
                evidence.on_sent(more);
                sent += more as f64;
                now += Duration::from_millis(millis);
                let shift = shift * 12;
                let told = Reception { burst_lengths, ..reception(received >> shift, lost >> shift) };
                if let Some(interval) = evidence.on_report(&told, now) {
                    prop_assert!(interval.datagrams > 0.0 && interval.lost <= interval.datagrams);
                }
                prop_assert!(evidence.datagrams() <= sent);
                prop_assert!((0.0..=evidence.datagrams()).contains(&evidence.lost()));
                prop_assert!(evidence.runs().classes.iter().all(|runs| (0.0..=sent).contains(runs)));
            }
        }
    }
}
