//! Numbers for the datagrams of a lane whose departure was asked to be timestamped, and how many blocks each shows to
//! have left.
//!
//! A timestamp that does not come costs a place here and nothing else.

use std::collections::VecDeque;
use std::time::Instant;

use super::ledger::STAMP_WITHIN;
use crate::tunnel::PeerId;

/// Timestamps that may be waited for; beyond, the oldest is no longer believed.
const WAITING_MAX: usize = 65_536;

#[derive(Clone, Copy, Debug)]
struct Waiting {
    peer: PeerId,
    blocks: u64,
    since: Instant,
}

/// The timestamps that a lane waits for.
#[derive(Debug, Default)]
pub struct Stamps {
    /// The number of the first of `waiting`; the others follow without gaps.
    first: u32,
    waiting: VecDeque<Option<Waiting>>,
}

impl Stamps {
    /// The number to ask for the departure of a datagram with that shows so many `blocks` of `peer` to have left.
    pub fn begin(&mut self, peer: PeerId, blocks: u64, now: Instant) -> u32 {
        if self.waiting.len() >= WAITING_MAX {
            self.drop_first();
        }
        let number = self.first.wrapping_add(self.waiting.len() as u32);
        self.waiting.push_back(Some(Waiting { peer, blocks, since: now }));
        number
    }

    /// The datagram with this number has left: how many blocks of which peer have. Each number counts once.
    pub fn take(&mut self, number: u32) -> Option<(PeerId, u64)> {
        let at = number.wrapping_sub(self.first) as usize;
        let taken = self.waiting.get_mut(at)?.take();
        while self.waiting.front().is_some_and(Option::is_none) {
            self.drop_first();
        }
        taken.map(|waiting| (waiting.peer, waiting.blocks))
    }

    /// What is late does not count any more, and is not waited for.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_over = |first: &Option<Waiting>| first.is_none_or(|waiting| waiting.since + STAMP_WITHIN <= now);
        while self.waiting.front().is_some_and(is_over) {
            self.drop_first();
        }
    }

    /// Some timestamp may still come.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn drop_first(&mut self) {
        self.waiting.pop_front();
        self.first = self.first.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: PeerId = PeerId(0);

    #[test]
    fn each_number_counts_once_also_around_the_end_of_the_numbers() {
        let now = Instant::now();
        let mut stamps = Stamps { first: u32::MAX - 1, waiting: VecDeque::new() };
        let numbers: Vec<u32> = (0..4).map(|sbn| stamps.begin(PEER, sbn, now)).collect();
        assert_eq!(numbers, [u32::MAX - 1, u32::MAX, 0, 1]);
        assert_eq!(stamps.take(0), Some((PEER, 2)));
        assert_eq!(stamps.take(0), None);
        assert_eq!(stamps.take(u32::MAX - 1), Some((PEER, 0)));
        assert_eq!(stamps.take(u32::MAX - 1), None, "forgotten");
        assert_eq!(stamps.take(2), None, "never given");
        assert_eq!(stamps.take(1), Some((PEER, 3)));
    }

    #[test]
    fn timestamps_that_never_come_are_forgotten_and_not_mistaken() {
        let start = Instant::now();
        let mut stamps = Stamps::default();
        let first = stamps.begin(PEER, 0, start);
        for sbn in 1..=WAITING_MAX as u64 {
            stamps.begin(PEER, sbn, start);
        }
        assert_eq!(stamps.waiting.len(), WAITING_MAX);
        assert_eq!(stamps.take(first), None);
        assert_eq!(stamps.take(first + 1), Some((PEER, 1)));
        let late = stamps.begin(PEER, 9, start + STAMP_WITHIN / 2);
        stamps.handle_timeout(start + STAMP_WITHIN);
        assert_eq!(stamps.waiting.len(), 1);
        assert_eq!(stamps.take(late), Some((PEER, 9)));
        assert!(!stamps.is_waiting());
    }
}
