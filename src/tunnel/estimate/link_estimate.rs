//! What is known of the link to a peer, as a value.

use std::time::Duration;

use super::confidence::upper_bound;
use super::fit::LinkFit;
use super::interruptions::Interruptions;
use super::send_times::Interruption;
use crate::wire::report::BURST_CLASSES;

/// What is known of one direction of a link. Evidence is forgotten as `evidence` says.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkEstimate {
    /// Datagrams whose fate is known, newer ones in full and older ones in part.
    pub datagrams: f64,
    /// Those of them that did not arrive.
    pub lost: f64,
    /// The share that is lost; 0 without evidence.
    pub loss: f64,
    /// The loss is below this with a confidence of 95 %; 1 without evidence. It takes into account that losses come in runs.
    pub loss_upper: f64,
    /// How many losses come with one loss, itself included, in the mean.
    pub clumping: f64,
    /// How long ago evidence last came.
    pub age: Option<Duration>,
    /// Runs of lost datagrams by [`burst_class`](crate::wire::report::burst_class); older ones count in part.
    pub run_classes: [f64; BURST_CLASSES],
    /// Interruptions of the last minute.
    pub last_minute: Interruptions,
    /// Interruptions of the last hour.
    pub last_hour: Interruptions,
    /// All interruptions.
    pub ever: Interruptions,
    /// A link with two states that would lose so; `None` without enough evidence, and where runs are only known by their number:
    /// of a peer of an earlier release.
    pub fit: Option<LinkFit>,
    /// A run that was so long that the runs before it made it less likely than one in a million: of the last minute, and longer
    /// ago, up to an hour, while the runs since do not make it likely.
    pub violated_by: Option<Interruption>,
    /// Datagrams that are sent, a second.
    pub datagrams_per_second: f64,
    /// UDP payload bytes that are sent, a second.
    pub bytes_per_second: f64,
    /// Losses are those of a full queue, or were a few seconds ago.
    pub congested: bool,
}

impl Default for LinkEstimate {
    fn default() -> Self {
        Self {
            datagrams: 0.0,
            lost: 0.0,
            loss: 0.0,
            loss_upper: 1.0,
            clumping: 1.0,
            age: None,
            run_classes: [0.0; BURST_CLASSES],
            last_minute: Interruptions::default(),
            last_hour: Interruptions::default(),
            ever: Interruptions::default(),
            fit: None,
            violated_by: None,
            datagrams_per_second: 0.0,
            bytes_per_second: 0.0,
            congested: false,
        }
    }
}

impl LinkEstimate {
    /// Adds another lane of the same link. Lanes have no common counters, so an interruption counts on each lane; the fit is that
    /// of the lane with more runs.
    pub fn merge(&mut self, other: &Self) {
        let lost = self.lost + other.lost;
        if lost > 0.0 {
            self.clumping = (self.clumping * self.lost + other.clumping * other.lost) / lost;
        }
        self.lost = lost;
        self.datagrams += other.datagrams;
        self.judge_loss();
        self.age = [self.age, other.age].into_iter().flatten().min();
        for (sum, runs) in self.run_classes.iter_mut().zip(other.run_classes) {
            *sum += runs;
        }
        self.last_minute.merge(&other.last_minute);
        self.last_hour.merge(&other.last_hour);
        self.ever.merge(&other.ever);
        let runs = |fit: &Option<LinkFit>| fit.as_ref().map_or(-1.0, |fit| fit.runs);
        if runs(&other.fit) > runs(&self.fit) {
            self.fit = other.fit;
        }
        self.violated_by = self.violated_by.max(other.violated_by);
        self.datagrams_per_second += other.datagrams_per_second;
        self.bytes_per_second += other.bytes_per_second;
        self.congested |= other.congested;
    }

    /// The loss and its bound, from the counts.
    pub(super) fn judge_loss(&mut self) {
        self.loss = if self.datagrams > 0.0 { (self.lost / self.datagrams).min(1.0) } else { 0.0 };
        self.loss_upper = upper_bound(self.lost / self.clumping, self.datagrams / self.clumping);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lanes_know_more_than_one() {
        let lane = |lost, datagrams, age, congested| {
            let (age, count) = (Some(Duration::from_secs(age)), 1);
            let mean = Duration::from_millis(lost as u64);
            let ever = Interruptions { count, mean, ..Interruptions::default() };
            let mut lane = LinkEstimate { lost, datagrams, age, congested, ever, ..LinkEstimate::default() };
            lane.judge_loss();
            lane
        };
        let (mut both, other) = (lane(10.0, 1000.0, 9, false), lane(30.0, 1000.0, 2, true));
        both.merge(&other);
        assert_eq!((both.loss, both.age, both.congested), (0.02, Some(Duration::from_secs(2)), true));
        assert!(both.loss_upper > 0.02 && both.loss_upper < other.loss_upper);
        assert_eq!((both.ever.count, both.ever.mean), (2, Duration::from_millis(20)));
        let before = both.clone();
        both.merge(&LinkEstimate::default());
        assert_eq!(both, before, "a lane without evidence changes nothing");
    }
}
