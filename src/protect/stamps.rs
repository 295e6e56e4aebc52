//! Numbers for the sends of a lane, and the timestamps of each that have not come.
//!
//! A send is shown to have left when all of its timestamps have come: one of a train that the kernel cuts, one of each
//! datagram otherwise. A timestamp that does not come costs a place here and nothing else.

use std::collections::VecDeque;
use std::time::Instant;

use super::ledger::STAMP_WITHIN;
use crate::tunnel::PeerId;

/// Sends that may be waited for; beyond, the oldest is no longer believed.
const WAITING_MAX: usize = 65_536;

/// One timestamp.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    peer: PeerId,
    send: u64,
    since: Instant,
    has_come: bool,
    /// How many places behind the last timestamp of the send is.
    to_last: usize,
    /// With the last one: those of the send that have not come.
    missing: usize,
}

impl Waiting {
    fn is_done(&self) -> bool {
        self.has_come && self.missing == 0
    }
}

/// The timestamps that a lane waits for.
#[derive(Debug, Default)]
pub struct Stamps {
    /// The number of the first of `waiting`; the others follow without gaps.
    first: u32,
    waiting: VecDeque<Waiting>,
}

impl Stamps {
    /// The number to ask for the timestamps of the next send with; those that follow it are free as well.
    pub fn next(&self) -> u32 {
        self.first.wrapping_add(self.waiting.len() as u32)
    }

    /// The kernel took a send toward `peer`, for which so many timestamps were asked from [`next`](Self::next) on.
    pub fn begin(&mut self, peer: PeerId, send: u64, timestamps: usize, now: Instant) {
        for place in 0..timestamps {
            if self.waiting.len() >= WAITING_MAX {
                self.drop_first();
            }
            let to_last = timestamps - 1 - place;
            let missing = if to_last == 0 { timestamps } else { 0 };
            self.waiting.push_back(Waiting { peer, send, since: now, has_come: false, to_last, missing });
        }
    }

    /// A timestamp with this number came: which send has left, if it was the last one of it. Each number counts once.
    pub fn take(&mut self, number: u32) -> Option<(PeerId, u64)> {
        let at = number.wrapping_sub(self.first) as usize;
        let waiting = self.waiting.get_mut(at).filter(|waiting| !waiting.has_come)?;
        waiting.has_come = true;
        let last_at = at + waiting.to_last;
        let last = self.waiting.get_mut(last_at)?;
        last.missing -= 1;
        let left = (last.missing == 0).then_some((last.peer, last.send));
        while self.waiting.front().is_some_and(Waiting::is_done) {
            self.drop_first();
        }
        left
    }

    /// What is late does not count any more, and is not waited for.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_over = |first: &Waiting| first.is_done() || first.since + STAMP_WITHIN <= now;
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

    fn begin(stamps: &mut Stamps, send: u64, timestamps: usize, now: Instant) -> u32 {
        let number = stamps.next();
        stamps.begin(PEER, send, timestamps, now);
        number
    }

    #[test]
    fn each_number_counts_once_also_around_the_end_of_the_numbers() {
        let now = Instant::now();
        let mut stamps = Stamps { first: u32::MAX - 1, waiting: VecDeque::new() };
        let numbers: Vec<u32> = (0..4).map(|send| begin(&mut stamps, send, 1, now)).collect();
        assert_eq!(numbers, [u32::MAX - 1, u32::MAX, 0, 1]);
        assert_eq!(stamps.take(0), Some((PEER, 2)));
        assert_eq!(stamps.take(0), None);
        assert_eq!(stamps.take(u32::MAX - 1), Some((PEER, 0)));
        assert_eq!(stamps.take(u32::MAX - 1), None, "forgotten");
        assert_eq!(stamps.take(2), None, "never given");
        assert_eq!(stamps.take(1), Some((PEER, 3)));
    }

    #[test]
    fn a_send_of_several_datagrams_has_left_with_the_last_of_its_timestamps_and_none_counts_twice() {
        let now = Instant::now();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut stamps = Stamps { first: u32::MAX, waiting: VecDeque::new() };
            let train = begin(&mut stamps, 0, 3, now);
            assert_eq!(begin(&mut stamps, 1, 0, now), train.wrapping_add(3), "no timestamp was asked for");
            let next = begin(&mut stamps, 2, 1, now);
            for (place, number) in order.into_iter().enumerate() {
                let left = (place == 2).then_some((PEER, 0));
                assert_eq!(stamps.take(train.wrapping_add(number)), left, "{order:?}");
                assert_eq!(stamps.take(train.wrapping_add(number)), None, "the same again");
            }
            assert_eq!(stamps.take(next), Some((PEER, 2)));
            assert!(!stamps.is_waiting());
        }
    }

    #[test]
    fn a_send_of_which_a_timestamp_was_given_up_has_not_left() {
        let start = Instant::now();
        let mut stamps = Stamps::default();
        let train = begin(&mut stamps, 0, 2, start);
        assert_eq!(stamps.take(train + 1), None);
        stamps.handle_timeout(start + STAMP_WITHIN);
        assert_eq!(stamps.take(train), None);
        let long = begin(&mut stamps, 1, WAITING_MAX + 1, start);
        for number in 0..=WAITING_MAX as u32 {
            assert_eq!(stamps.take(long + number), None, "the first had to give way");
        }
    }

    #[test]
    fn timestamps_that_never_come_are_forgotten_and_not_mistaken() {
        let start = Instant::now();
        let mut stamps = Stamps::default();
        let first = begin(&mut stamps, 0, 1, start);
        for send in 1..=WAITING_MAX as u64 {
            begin(&mut stamps, send, 1, start);
        }
        assert_eq!(stamps.waiting.len(), WAITING_MAX);
        assert_eq!(stamps.take(first), None);
        assert_eq!(stamps.take(first + 1), Some((PEER, 1)));
        let late = begin(&mut stamps, 9, 1, start + STAMP_WITHIN / 2);
        stamps.handle_timeout(start + STAMP_WITHIN);
        assert_eq!(stamps.waiting.len(), 1);
        assert_eq!(stamps.take(late), Some((PEER, 9)));
        assert!(!stamps.is_waiting());
    }
}
