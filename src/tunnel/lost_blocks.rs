//! Blocks that were given up with something missing, remembered for status and drain.
//!
//! The newest runs are kept, with the time of each; all blocks are counted. What the blocks contained is not known
//! here, nor whether it came later by another path. What is reported to the sender is in `unreported_losses`.

use std::collections::VecDeque;
use std::time::Instant;

/// Runs that are remembered.
pub const RUNS_MAX: usize = 64;

/// Consecutive blocks of one profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostBlocks {
    /// The sender's profile.
    pub profile: u8,
    /// The first of them.
    pub first: u64,
    /// The number of blocks.
    pub count: u64,
    /// When the last of them was given up.
    pub at: Instant,
}

/// What was lost since the start.
#[derive(Clone, Debug, Default)]
pub struct Losses {
    newest: VecDeque<LostBlocks>,
    blocks: u64,
}

impl Losses {
    /// Notes that `count` blocks from `first` were given up at `now`.
    pub fn add(&mut self, profile: u8, first: u64, count: u64, now: Instant) {
        self.blocks += count;
        let joins = |last: &&mut LostBlocks| last.profile == profile && last.first + last.count == first;
        if let Some(last) = self.newest.back_mut().filter(joins) {
            (last.count, last.at) = (last.count + count, now);
            return;
        }
        if self.newest.len() == RUNS_MAX {
            self.newest.pop_front();
        }
        self.newest.push_back(LostBlocks { profile, first, count, at: now });
    }

    /// Adds the losses of another receiver of the same peer.
    pub fn append(&mut self, other: &Self) {
        self.blocks += other.blocks;
        self.newest.extend(&other.newest);
        while self.newest.len() > RUNS_MAX {
            self.newest.pop_front();
        }
    }

    /// The newest runs, in the order in which they were lost.
    pub fn newest(&self) -> impl Iterator<Item = &LostBlocks> {
        self.newest.iter()
    }

    /// The number of all lost blocks.
    pub fn blocks(&self) -> u64 {
        self.blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_blocks_are_counted_and_the_newest_runs_are_kept() {
        let now = Instant::now();
        let mut losses = Losses::default();
        let rows = [(0, 5, 1), (0, 6, 2), (1, 8, 1), (1, 10, 1)];
        rows.iter().for_each(|&(profile, first, count)| losses.add(profile, first, count, now));
        let runs: Vec<_> = losses.newest().map(|run| (run.profile, run.first, run.count)).collect();
        assert_eq!((runs, losses.blocks()), (vec![(0, 5, 3), (1, 8, 1), (1, 10, 1)], 5));
        (0..5000).for_each(|number| losses.add(0, 2 * number, 1, now));
        assert_eq!((losses.newest().count(), losses.blocks()), (RUNS_MAX, 5005));
        assert_eq!(losses.newest().last().map(|run| run.first), Some(9998));
        let mut sum = losses.clone();
        sum.append(&losses);
        assert_eq!((sum.newest().count(), sum.blocks()), (RUNS_MAX, 10_010));
    }
}
