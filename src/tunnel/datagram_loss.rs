//! Loss of datagrams, found from gaps in their counts: how many did not arrive, and in runs of which length.
//!
//! The count of a lane rises by one with each datagram, so a gap is a loss unless a late datagram fills it. A gap is
//! settled when it is so far behind that no late datagram is expected; then its length is final. The caller has checked
//! that a datagram is authentic and fresh.
//!
//! Final gaps are told to the sender, each in several reports, because a report may be lost. To that end a gap is also final
//! some time after it was seen: on a link with little traffic the next thousand datagrams may take an hour.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wire::report::{BURST_CLASSES, ENTRIES_MAX, LossRun, burst_class};

/// A gap this far behind the newest datagram is final.
const SETTLED_AFTER: u64 = 1024;
/// Gaps that may be open at a time. Beyond this, the oldest is settled early.
const OPEN_GAPS_MAX: usize = 512;
/// A gap that was there in a report this long ago is told as final.
const TOLD_AFTER: Duration = Duration::from_millis(250);
/// How many reports name a run.
const TELLINGS: u8 = 4;

/// The losses of one session's datagrams on one lane.
#[derive(Debug, Default)]
pub struct Loss {
    /// The next count if nothing is lost.
    next: u64,
    received: u64,
    /// Gaps that may still be filled, oldest first: first missing count and length.
    gaps: VecDeque<(u64, u64)>,
    burst_lengths: [u64; BURST_CLASSES],
    /// The newest final gaps that were not told often enough, oldest first, and how often each was told.
    final_gaps: VecDeque<(LossRun, u8)>,
    /// Gaps that begin below this count were final before.
    final_below: u64,
    /// The value of `next` at an earlier report, and when that was.
    noted: Option<(u64, Instant)>,
}

impl Loss {
    /// Notes the first arrival of the datagram with this count.
    pub fn on_datagram(&mut self, count: u64) {
        self.received += 1;
        if count == self.next {
            self.next += 1;
        } else if count > self.next {
            if self.gaps.len() == OPEN_GAPS_MAX {
                self.settle_oldest();
            }
            self.gaps.push_back((self.next, count - self.next));
            self.next = count + 1;
        } else {
            self.fill(count);
        }
        while self.gaps.front().is_some_and(|&(first, length)| first + length + SETTLED_AFTER < self.next) {
            self.settle_oldest();
        }
    }

    /// Datagrams that arrived.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Datagrams before the newest one that did not arrive.
    pub fn lost(&self) -> u64 {
        self.next - self.received
    }

    /// Runs of lost datagrams by length, including those that may still be filled.
    pub fn burst_lengths(&self) -> [u64; BURST_CLASSES] {
        let mut lengths = self.burst_lengths;
        for &(_, length) in &self.gaps {
            lengths[burst_class(length)] += 1;
        }
        lengths
    }

    /// Appends the newest final runs, at most `most`, for a report that is written now.
    pub fn tell_runs(&mut self, most: usize, runs: &mut Vec<LossRun>, now: Instant) {
        let noted = *self.noted.get_or_insert((self.next, now));
        if now.saturating_duration_since(noted.1) >= TOLD_AFTER {
            let old = self.gaps.iter().position(|&(first, length)| first + length > noted.0).unwrap_or(self.gaps.len());
            (0..old).for_each(|index| self.tell(self.gaps[index]));
            self.noted = Some((self.next, now));
        }
        let skipped = self.final_gaps.len().saturating_sub(most);
        for (run, tellings) in self.final_gaps.iter_mut().skip(skipped) {
            *tellings += 1;
            runs.push(*run);
        }
        self.final_gaps.retain(|&(_, tellings)| tellings < TELLINGS);
    }

    fn settle_oldest(&mut self) {
        if let Some(gap) = self.gaps.pop_front() {
            self.burst_lengths[burst_class(gap.1)] += 1;
            self.tell(gap);
        }
    }

    /// The gap is final: the next reports name it.
    fn tell(&mut self, (first, length): (u64, u64)) {
        if first < self.final_below {
            return;
        }
        self.final_below = first + length;
        if self.final_gaps.len() == ENTRIES_MAX {
            self.final_gaps.pop_front();
        }
        self.final_gaps.push_back((LossRun { first, length: u32::try_from(length).unwrap_or(u32::MAX) }, 0));
    }

    /// A late datagram shrinks its gap, closes it, or cuts it in two.
    fn fill(&mut self, count: u64) {
        let Some(index) = self.gaps.iter().position(|&(first, length)| (first..first + length).contains(&count)) else {
            return;
        };
        let (first, length) = self.gaps[index];
        let (before, behind) = (count - first, first + length - count - 1);
        match (before, behind) {
            (0, 0) => drop(self.gaps.remove(index)),
            (0, _) => self.gaps[index] = (count + 1, behind),
            (_, 0) => self.gaps[index] = (first, before),
            _ => {
                self.gaps[index] = (first, before);
                self.gaps.insert(index + 1, (count + 1, behind));
                if self.gaps.len() > OPEN_GAPS_MAX {
                    self.settle_oldest();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(counts: &[u64]) -> Loss {
        let mut loss = Loss::default();
        counts.iter().for_each(|&count| loss.on_datagram(count));
        loss
    }

    #[test]
    fn gaps_are_losses_until_they_are_filled() {
        let mut loss = after(&[0, 1, 4, 5, 9]);
        assert_eq!((loss.received(), loss.lost()), (5, 5));
        assert_eq!(loss.burst_lengths()[..3], [0, 1, 1]);
        loss.on_datagram(7);
        assert_eq!((loss.received(), loss.lost()), (6, 4));
        assert_eq!(loss.burst_lengths()[..3], [2, 1, 0]);
        [6, 8, 2, 3].iter().for_each(|&count| loss.on_datagram(count));
        assert_eq!((loss.received(), loss.lost()), (10, 0));
        assert_eq!(loss.burst_lengths(), [0; BURST_CLASSES]);
    }

    #[test]
    fn losses_before_the_first_arrival_count() {
        assert_eq!(after(&[3]).lost(), 3);
    }

    #[test]
    fn memory_is_bounded_and_every_loss_is_counted() {
        let counts: Vec<u64> = (0..100_000).filter(|count| count % 2 == 1).collect();
        let loss = after(&counts);
        assert!(loss.gaps.len() <= OPEN_GAPS_MAX);
        assert_eq!(loss.lost(), 50_000);
        assert_eq!(loss.burst_lengths()[0], 50_000);
    }

    #[test]
    fn a_final_run_is_told_in_several_reports_and_then_no_more() {
        let start = Instant::now();
        let mut loss = after(&[0, 3, 4, 9]);
        let told = |loss: &mut Loss, millis: u64, most| {
            let mut runs = Vec::new();
            loss.tell_runs(most, &mut runs, start + Duration::from_millis(millis));
            runs.into_iter().map(|run| (run.first, run.length)).collect::<Vec<_>>()
        };
        assert_eq!(told(&mut loss, 0, 16), [], "they are too young");
        loss.on_datagram(6);
        loss.on_datagram(20);
        assert_eq!(told(&mut loss, 249, 16), []);
        for millis in 250..254 {
            let most = if millis == 251 { 2 } else { 16 };
            let expected = [(1, 2), (5, 1), (7, 2)];
            assert_eq!(told(&mut loss, millis, most), expected[expected.len() - most.min(3)..], "{millis} ms");
        }
        assert_eq!(told(&mut loss, 260, 16), [(1, 2)], "one report had no room for it");
        assert_eq!(told(&mut loss, 300, 16), []);
        // The gap before 20 was younger at the report before.
        assert_eq!(told(&mut loss, 510, 16), [(10, 10)]);
        loss.on_datagram(21 + SETTLED_AFTER);
        assert_eq!(told(&mut loss, 511, 16), [(10, 10)], "what is told as final is not told anew when it is settled");
        loss.on_datagram(23 + 2 * SETTLED_AFTER);
        assert_eq!(
            told(&mut loss, 512, 16),
            [(10, 10), (21, SETTLED_AFTER as u32)],
            "enough datagrams make a gap final"
        );
    }

    #[test]
    fn of_many_runs_the_newest_are_told() {
        let mut loss = after(&(0..10_000).filter(|count| count % 2 == 1).collect::<Vec<_>>());
        let mut runs = Vec::new();
        loss.tell_runs(16, &mut runs, Instant::now());
        assert_eq!(runs.len(), 16);
        assert!(runs.windows(2).all(|pair| pair[0].first + 2 == pair[1].first), "{runs:?}");
        let newest = loss.gaps.front().expect("some gaps are open").0 - 2;
        assert_eq!(runs[15], LossRun { first: newest, length: 1 });
    }
}
