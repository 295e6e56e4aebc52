//! Blocks of one profile that were given up with something missing, kept until the sender has acknowledged a report
//! that names them.
//!
//! A run is named in every report, from the first that has room for it until an echo shows that one of these reports
//! has arrived. New runs are named in order, so the named runs are always the oldest. If there are too many, runs are
//! merged, and so are the blocks between: naming a good block costs the sender a false alarm, leaving out a lost one
//! costs data. Which blocks are lost, and what else a report contains, is not known here.

use std::collections::VecDeque;

use crate::wire::report::LostRun;

/// Runs that are kept apart.
pub const RUNS_MAX: usize = 1024;

/// Consecutive blocks.
#[derive(Debug)]
struct Run {
    first: u64,
    count: u64,
    symbols: u16,
    /// The `sent_at` of the first report that named it. The runs with a value are a prefix of all runs.
    named_at: Option<u64>,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// Given-up blocks whose report is not acknowledged.
#[derive(Debug, Default)]
pub struct UnreportedLosses {
    runs: VecDeque<Run>,
    named: usize,
}

impl UnreportedLosses {
    /// Notes `count` blocks from `first`; `symbols` as in [`LostRun`], 0 unless `count` is 1.
    pub fn add(&mut self, first: u64, count: u64, symbols: u16) {
        let full = self.runs.len() >= RUNS_MAX;
        if let Some(last) = self.runs.back_mut().filter(|last| last.named_at.is_none()) {
            let joins = last.end() == first && last.symbols == 0 && symbols == 0;
            if joins || full {
                let end = last.end().max(first + count);
                last.first = last.first.min(first);
                last.count = end - last.first;
                last.symbols = 0;
                return;
            }
        }
        self.runs.push_back(Run { first, count, symbols, named_at: None });
    }

    /// Runs that were named and must be named again.
    pub fn named(&self) -> usize {
        self.named
    }

    /// There are runs that no report has named.
    pub fn has_unnamed(&self) -> bool {
        self.named < self.runs.len()
    }

    /// No run waits for an acknowledgement.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Adds to `lost`, for the report written at `sent_at`, all runs that must be named again, and as many new ones as
    /// `room` allows.
    pub fn name(&mut self, profile: u8, sent_at: u64, room: &mut usize, lost: &mut Vec<LostRun>) {
        while *room > 0 && self.named < self.runs.len() {
            let run = &mut self.runs[self.named];
            run.named_at = Some(sent_at);
            let beyond = run.count.saturating_sub(u32::MAX.into());
            if beyond > 0 {
                run.count -= beyond;
                let first = run.end();
                self.runs.insert(self.named + 1, Run { first, count: beyond, symbols: 0, named_at: None });
            }
            self.named += 1;
            *room -= 1;
        }
        lost.extend(self.runs.iter().take(self.named).map(|run| LostRun {
            profile,
            first: run.first,
            count: run.count as u32,
            symbols: run.symbols,
        }));
    }

    /// The first block at or above `from` that no report has named.
    pub fn first_unnamed(&self, from: u64) -> Option<u64> {
        self.runs.range(self.named..).filter(|run| run.end() > from).map(|run| run.first.max(from)).min()
    }

    /// The report written at `sent_at` has arrived: removes the runs that it named.
    pub fn on_acknowledged(&mut self, sent_at: u64) {
        while self.runs.front().is_some_and(|run| run.named_at.is_some_and(|named| named <= sent_at)) {
            self.runs.pop_front();
            self.named -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(losses: &mut UnreportedLosses, sent_at: u64, mut room: usize) -> Vec<(u64, u32, u16)> {
        let mut lost = Vec::new();
        losses.name(3, sent_at, &mut room, &mut lost);
        assert!(lost.iter().all(|run| run.profile == 3));
        lost.iter().map(|run| (run.first, run.count, run.symbols)).collect()
    }

    #[test]
    fn consecutive_blocks_are_one_run_unless_they_may_be_whole() {
        type Row<'a> = (&'a [(u64, u64, u16)], &'a [(u64, u32, u16)]);
        let rows: [Row<'_>; 4] = [
            (&[(4, 1, 0), (5, 1, 0), (6, 3, 0)], &[(4, 5, 0)]),
            (&[(4, 1, 0), (6, 1, 0)], &[(4, 1, 0), (6, 1, 0)]),
            (&[(4, 1, 0), (5, 1, 9), (6, 1, 0)], &[(4, 1, 0), (5, 1, 9), (6, 1, 0)]),
            (&[(1, 1 << 33, 0)], &[(1, u32::MAX, 0), (1 << 32, u32::MAX, 0), ((1 << 33) - 1, 2, 0)]),
        ];
        for (added, wanted) in rows {
            let mut losses = UnreportedLosses::default();
            added.iter().for_each(|&(first, count, symbols)| losses.add(first, count, symbols));
            assert_eq!(named(&mut losses, 1, 16), wanted);
        }
    }

    #[test]
    fn a_run_is_named_again_until_a_report_that_named_it_has_arrived() {
        let mut losses = UnreportedLosses::default();
        [2, 4, 6].iter().for_each(|&first| losses.add(first, 1, 0));
        assert_eq!(losses.first_unnamed(0), Some(2));
        assert_eq!(named(&mut losses, 10, 2), [(2, 1, 0), (4, 1, 0)]);
        assert_eq!((losses.first_unnamed(0), losses.first_unnamed(7)), (Some(6), None));
        losses.on_acknowledged(9);
        assert_eq!(named(&mut losses, 11, 1), [(2, 1, 0), (4, 1, 0), (6, 1, 0)]);
        losses.add(7, 1, 0);
        assert_eq!(losses.first_unnamed(0), Some(7), "a named run does not grow");
        losses.on_acknowledged(10);
        assert_eq!(named(&mut losses, 12, 0), [(6, 1, 0)]);
        losses.on_acknowledged(12);
        assert_eq!(named(&mut losses, 13, 1), [(7, 1, 0)]);
        losses.on_acknowledged(13);
        assert!(losses.is_empty() && losses.named() == 0);
    }

    #[test]
    fn too_many_runs_are_merged_and_no_lost_block_is_left_out() {
        let mut losses = UnreportedLosses::default();
        let added: Vec<u64> = (0..5000).map(|number| 100 + 2 * number).chain([5]).collect();
        added.iter().for_each(|&first| losses.add(first, 1, 1));
        assert_eq!(losses.runs.len(), RUNS_MAX);
        assert_eq!(losses.first_unnamed(20), Some(20), "the run from 5 to the end was not named");
        let runs = named(&mut losses, 1, usize::MAX);
        let covers = |sbn: u64| runs.iter().any(|&(first, count, _)| (first..first + u64::from(count)).contains(&sbn));
        assert!(added.into_iter().all(covers));
    }
}
