//! Loss of datagrams, found from gaps in their counts: how many did not arrive, and in runs of which length.
//!
//! The count of a lane rises by one with each datagram, so a gap is a loss unless a late datagram fills it. A gap is
//! settled when it is so far behind that no late datagram is expected; then its length is final. The caller has checked
//! that a datagram is authentic and fresh.

use std::collections::VecDeque;

use crate::wire::report::{BURST_CLASSES, burst_class};

/// A gap this far behind the newest datagram is final.
const SETTLED_AFTER: u64 = 1024;
/// Gaps that may be open at a time. Beyond this, the oldest is settled early.
const OPEN_GAPS_MAX: usize = 512;

/// The losses of one session's datagrams on one lane.
#[derive(Debug, Default)]
pub struct Loss {
    /// The next count if nothing is lost.
    next: u64,
    received: u64,
    /// Gaps that may still be filled, oldest first: first missing count and length.
    gaps: VecDeque<(u64, u64)>,
    burst_lengths: [u64; BURST_CLASSES],
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

    fn settle_oldest(&mut self) {
        if let Some((_, length)) = self.gaps.pop_front() {
            self.burst_lengths[burst_class(length)] += 1;
        }
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
}
