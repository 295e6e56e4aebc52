//! What the reports of a peer say about our blocks, kept until the next poll.
//!
//! Reports are merged into one [`Feedback`] until the caller polls. If a report were dropped, the lost blocks that it
//! names would be unknown for ever, because our next report acknowledges it. If reports were queued, a caller that does
//! not poll would decide how much memory they take. What the fate of a block means for its flows is not known here.

use std::time::{Duration, Instant};

use crate::wire::report::{LostRun, Progress};

/// Runs of lost blocks that are kept apart. Beyond this, a new run is merged with an older one, and so are the blocks
/// between.
const RUNS_MAX: usize = 1024;

/// What the peer has reported since the last poll.
///
/// Read `lost` first: `progress` does not hold for a block in `lost`, neither now nor later. A run may come more than
/// once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// When we wrote the newest report that went to the peer's present address and that its present run has echoed:
    /// both directions worked then.
    pub proven_at: Option<Instant>,
    /// The least round trip of the last ten seconds, with that run and over that path.
    pub least_rtt: Option<Duration>,
    /// How far the blocks of each of our profiles have come, one entry per profile.
    pub progress: Vec<Progress>,
    /// Blocks that the peer has given up.
    pub lost: Vec<LostRun>,
}

impl Feedback {
    /// Adds the progress of one profile from a report. `from` is our first block that was sent to the peer's present
    /// run.
    pub fn on_progress(&mut self, told: Progress, from: u64) {
        let told = Progress { decoded_from: told.decoded_from.max(from), ..told };
        match self.progress.iter_mut().find(|known| known.profile == told.profile) {
            Some(known) => *known = told,
            None => self.progress.push(told),
        }
    }

    /// Adds a run of lost blocks. `from` as above: blocks below it were not lost by the present run.
    pub fn on_lost(&mut self, told: LostRun, from: u64) {
        let end = told.first + u64::from(told.count);
        if end <= from {
            return;
        }
        let first = told.first.max(from);
        let run = LostRun { first, count: (end - first) as u32, ..told };
        if self.lost.contains(&run) {
            return;
        }
        let full = self.lost.len() >= RUNS_MAX;
        match self.lost.iter_mut().rev().find(|known| full && known.profile == run.profile) {
            Some(known) => {
                let begin = known.first.min(run.first);
                let end = (known.first + u64::from(known.count)).max(end);
                // 32 bits are enough: no sender has more blocks that wait for their fate.
                let count = u32::try_from(end - begin).unwrap_or(u32::MAX);
                *known = LostRun { profile: run.profile, first: begin, count, symbols: 0 };
            }
            None => self.lost.push(run),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(first: u64, count: u32) -> LostRun {
        LostRun { profile: 1, first, count, symbols: 0 }
    }

    #[test]
    fn reports_that_wait_are_merged() {
        let mut feedback = Feedback::default();
        for below in [5, 9] {
            feedback.on_progress(Progress { profile: 1, highest: 20, decoded_from: 2, decoded_below: below }, 0);
            feedback.on_progress(Progress { profile: 2, highest: 20, decoded_from: 2, decoded_below: below }, 4);
            feedback.on_lost(lost(3, 1), 0);
        }
        let progress = |profile, decoded_from| Progress { profile, highest: 20, decoded_from, decoded_below: 9 };
        assert_eq!(feedback.progress, [progress(1, 2), progress(2, 4)]);
        assert_eq!(feedback.lost, [lost(3, 1)]);
    }

    #[test]
    fn blocks_sent_to_an_earlier_run_of_the_peer_are_not_lost() {
        let mut feedback = Feedback::default();
        [lost(0, 4), lost(2, 7), lost(9, 1)].iter().for_each(|&run| feedback.on_lost(run, 4));
        assert_eq!(feedback.lost, [lost(4, 5), lost(9, 1)]);
    }

    #[test]
    fn without_a_poll_memory_is_bounded_and_no_loss_is_forgotten() {
        let mut feedback = Feedback::default();
        (0..5000).for_each(|number| feedback.on_lost(lost(2 * number, 1), 0));
        assert!(feedback.lost.len() <= RUNS_MAX);
        let covers =
            |sbn: u64| feedback.lost.iter().any(|run| (run.first..run.first + u64::from(run.count)).contains(&sbn));
        assert!((0..5000).all(|number| covers(2 * number)));
    }

    #[test]
    fn a_merged_run_begins_at_the_lowest_block_and_covers_only_its_own_profile() {
        let mut feedback = Feedback::default();
        (0..RUNS_MAX as u64).for_each(|number| feedback.on_lost(lost(100 + 2 * number, 1), 0));
        feedback.on_lost(LostRun { profile: 2, ..lost(50, 3) }, 0);
        feedback.on_lost(lost(7, 2), 0);
        let covers = |profile, sbn| {
            let is_in = |run: &&LostRun| (run.first..run.first + u64::from(run.count)).contains(&sbn);
            feedback.lost.iter().filter(|run| run.profile == profile).any(|run| is_in(&run))
        };
        assert!([7, 8, 100, 102].into_iter().all(|sbn| covers(1, sbn)), "{:?}", feedback.lost.last());
        assert!([50, 52].into_iter().all(|sbn| covers(2, sbn)), "{:?}", feedback.lost.last());
        assert!(!covers(2, 7) && !covers(2, 100));
    }
}
