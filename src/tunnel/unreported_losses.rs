//! Blocks of one profile that were given up with something missing, until the sender is known to have heard of them.
//!
//! A run is named in every report from the first that has room for it, until an echo shows that one of these has
//! arrived. So each run comes to its turn once, in order, and stays; the named ones are always the oldest. When there
//! are too many, runs are merged over what lies between: naming a good block costs the sender a false alarm, leaving
//! out a lost one costs data. Which blocks are lost, and what else a report tells, is not known here.

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
    /// The `sent_at` of the first report that named it; what is set is set for a prefix of the runs.
    named_at: Option<u64>,
}

impl Run {
    fn end(&self) -> u64 {
        self.first + self.count
    }
}

/// What was given up and is not known to be known.
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

    /// Runs that were named and have to be named again.
    pub fn named(&self) -> usize {
        self.named
    }

    /// There are runs that no report has named.
    pub fn has_unnamed(&self) -> bool {
        self.named < self.runs.len()
    }

    /// Nothing waits to be acknowledged.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Names in the report written at `sent_at` what has to be named again, and as many more runs as there is `room` for.
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

    /// The first block from `from` on that no report has named.
    pub fn first_unnamed(&self, from: u64) -> Option<u64> {
        self.runs.range(self.named..).filter(|run| run.end() > from).map(|run| run.first.max(from)).min()
    }

    /// The report written at `sent_at` has arrived: what it named is known.
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

    fn named(given_up: &mut UnreportedLosses, sent_at: u64, mut room: usize) -> Vec<(u64, u32, u16)> {
        let mut lost = Vec::new();
        given_up.name(3, sent_at, &mut room, &mut lost);
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
            let mut given_up = UnreportedLosses::default();
            added.iter().for_each(|&(first, count, symbols)| given_up.add(first, count, symbols));
            assert_eq!(named(&mut given_up, 1, 16), wanted);
        }
    }

    #[test]
    fn a_run_is_named_again_until_a_report_that_named_it_has_arrived() {
        let mut given_up = UnreportedLosses::default();
        [2, 4, 6].iter().for_each(|&first| given_up.add(first, 1, 0));
        assert_eq!(given_up.first_unnamed(0), Some(2));
        assert_eq!(named(&mut given_up, 10, 2), [(2, 1, 0), (4, 1, 0)]);
        assert_eq!((given_up.first_unnamed(0), given_up.first_unnamed(7)), (Some(6), None));
        given_up.on_acknowledged(9);
        assert_eq!(named(&mut given_up, 11, 1), [(2, 1, 0), (4, 1, 0), (6, 1, 0)]);
        given_up.add(7, 1, 0);
        assert_eq!(given_up.first_unnamed(0), Some(7), "what was named does not grow");
        given_up.on_acknowledged(10);
        assert_eq!(named(&mut given_up, 12, 0), [(6, 1, 0)]);
        given_up.on_acknowledged(12);
        assert_eq!(named(&mut given_up, 13, 1), [(7, 1, 0)]);
        given_up.on_acknowledged(13);
        assert!(given_up.is_empty() && given_up.named() == 0);
    }

    #[test]
    fn too_many_runs_are_merged_over_what_lies_between_and_nothing_lost_is_left_out() {
        let mut given_up = UnreportedLosses::default();
        let added: Vec<u64> = (0..5000).map(|number| 100 + 2 * number).chain([5]).collect();
        added.iter().for_each(|&first| given_up.add(first, 1, 1));
        assert_eq!(given_up.runs.len(), RUNS_MAX);
        assert_eq!(given_up.first_unnamed(20), Some(20), "the run from 5 to the end was not named");
        let runs = named(&mut given_up, 1, usize::MAX);
        let covers = |sbn: u64| runs.iter().any(|&(first, count, _)| (first..first + u64::from(count)).contains(&sbn));
        assert!(added.into_iter().all(covers));
    }
}
