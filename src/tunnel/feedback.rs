//! What the reports of a peer told of our blocks, until somebody asks.
//!
//! Reports are merged into one while nobody asks. Dropping one would lose for ever what it named lost, because our next
//! report acknowledges it; handing each on at once would let a caller that never asks decide what is remembered. What
//! a block's fate means for whoever wrote into it is not known here.

use std::time::{Duration, Instant};

use crate::wire::report::{LostRun, Progress};

/// Runs of lost blocks that wait apart; beyond, they are merged over what lies between.
const RUNS_MAX: usize = 1024;

/// What the peer told since the last time it was asked for.
///
/// Take `lost` first: a block in it has no part in `progress`, neither now nor later. A run may be told more than once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    /// When our newest report was written that went to the peer's present address and that its present run is known to have
    /// received: both directions worked then.
    pub proven_at: Option<Instant>,
    /// The least round trip of the last ten seconds, of that run and over that path.
    pub least_rtt: Option<Duration>,
    /// How far the blocks of each of our profiles have come, one entry a profile.
    pub progress: Vec<Progress>,
    /// Blocks given up by the peer.
    pub lost: Vec<LostRun>,
}

impl Feedback {
    /// Adds what one report told of a profile; `from` is the first of our blocks that the peer's run can know of.
    pub fn on_progress(&mut self, told: Progress, from: u64) {
        let told = Progress { decoded_from: told.decoded_from.max(from), ..told };
        match self.progress.iter_mut().find(|known| known.profile == told.profile) {
            Some(known) => *known = told,
            None => self.progress.push(told),
        }
    }

    /// Adds a run of lost blocks; `from` as above: what is below was not lost by this run of the peer.
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
                // A run is as long as 32 bits tell. That a sender has more blocks waiting for their fate cannot be.
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
        let mut heard = Feedback::default();
        for below in [5, 9] {
            heard.on_progress(Progress { profile: 1, highest: 20, decoded_from: 2, decoded_below: below }, 0);
            heard.on_progress(Progress { profile: 2, highest: 20, decoded_from: 2, decoded_below: below }, 4);
            heard.on_lost(lost(3, 1), 0);
        }
        let progress = |profile, decoded_from| Progress { profile, highest: 20, decoded_from, decoded_below: 9 };
        assert_eq!(heard.progress, [progress(1, 2), progress(2, 4)]);
        assert_eq!(heard.lost, [lost(3, 1)]);
    }

    #[test]
    fn what_was_sent_to_an_earlier_run_of_the_peer_was_not_lost_by_this_one() {
        let mut heard = Feedback::default();
        [lost(0, 4), lost(2, 7), lost(9, 1)].iter().for_each(|&run| heard.on_lost(run, 4));
        assert_eq!(heard.lost, [lost(4, 5), lost(9, 1)]);
    }

    #[test]
    fn a_caller_that_never_asks_costs_bounded_memory_and_hides_nothing() {
        let mut heard = Feedback::default();
        (0..5000).for_each(|number| heard.on_lost(lost(2 * number, 1), 0));
        assert!(heard.lost.len() <= RUNS_MAX);
        let covers =
            |sbn: u64| heard.lost.iter().any(|run| (run.first..run.first + u64::from(run.count)).contains(&sbn));
        assert!((0..5000).all(|number| covers(2 * number)));
    }

    #[test]
    fn what_is_merged_begins_with_the_lowest_and_never_covers_another_profile() {
        let mut heard = Feedback::default();
        (0..RUNS_MAX as u64).for_each(|number| heard.on_lost(lost(100 + 2 * number, 1), 0));
        heard.on_lost(LostRun { profile: 2, ..lost(50, 3) }, 0);
        heard.on_lost(lost(7, 2), 0);
        let covers = |profile, sbn| {
            let is_in = |run: &&LostRun| (run.first..run.first + u64::from(run.count)).contains(&sbn);
            heard.lost.iter().filter(|run| run.profile == profile).any(|run| is_in(&run))
        };
        assert!([7, 8, 100, 102].into_iter().all(|sbn| covers(1, sbn)), "{:?}", heard.lost.last());
        assert!([50, 52].into_iter().all(|sbn| covers(2, sbn)), "{:?}", heard.lost.last());
        assert!(!covers(2, 7) && !covers(2, 100));
    }
}
