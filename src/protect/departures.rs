//! Which sends toward one peer have left this host, and so which blocks have.
//!
//! A block has left when every send that may have carried a datagram of it has: a timestamp speaks for its own send
//! alone. What the kernel dropped in silence leaves a send without one, and the blocks in it are not shown. Of a train
//! that the kernel cuts only the first datagram is stamped: the end of a block inside a train is shown when something
//! that was sent later has left, too.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Instant;

use super::ledger::STAMP_WITHIN;
use crate::wire::payload_id::BlockId;

/// Blocks remembered; beyond, the oldest is not called protected by a timestamp any more.
const BLOCKS_MAX: usize = 65_536;
/// Sends that were overtaken by later ones and are waited for; beyond, the oldest is taken for one that never leaves.
const OVERTAKEN_MAX: usize = 4_096;

/// A block that the kernel has taken.
#[derive(Clone, Debug)]
struct Waiting {
    block: BlockId,
    /// The sends that may have carried a datagram of it.
    sends: RangeInclusive<u64>,
    /// Its end travelled alone: nothing later is needed to show it.
    alone: bool,
}

/// A send whose timestamp has not come although that of a later one has.
#[derive(Clone, Copy, Debug)]
struct Overtaken {
    send: u64,
    since: Instant,
}

/// The blocks toward one peer that wait in this host, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// In the order of their last sends.
    waiting: VecDeque<Waiting>,
    /// All sends below this one have left, but for those in `overtaken` and those that were given up.
    left_below: u64,
    overtaken: VecDeque<Overtaken>,
    /// All sends below this one that are not known to have left never will be.
    given_up_below: u64,
    /// Blocks that wait for an overtaken send.
    held: Vec<Waiting>,
    /// Sends that the kernel has taken so far.
    taken: u64,
    ready: VecDeque<BlockId>,
}

impl Departures {
    /// The number of the next send: no datagram of a block that begins now is in an earlier one.
    pub fn next_send(&self) -> u64 {
        self.taken
    }

    /// The kernel has taken the sends up to this one.
    pub fn on_taken(&mut self, send: u64) {
        self.taken = self.taken.max(send + 1);
    }

    /// The kernel has taken all of `block`: from the send `first`, or later ones, to `last`.
    pub fn on_sent(&mut self, block: BlockId, first: u64, last: u64, alone: bool) {
        if self.waiting.len() >= BLOCKS_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(Waiting { block, sends: first..=last.max(first), alone });
        self.settle();
    }

    /// This send has left.
    pub fn on_left(&mut self, send: u64, now: Instant) {
        if send < self.left_below {
            if let Ok(at) = self.overtaken.binary_search_by_key(&send, |overtaken| overtaken.send) {
                self.overtaken.remove(at);
                self.settle_held();
            }
            return;
        }
        let remembered = send.saturating_sub(OVERTAKEN_MAX as u64);
        if remembered > self.left_below {
            // As after a long time without timestamps.
            self.overtaken.clear();
            self.give_up_below(remembered);
        }
        for send in self.left_below.max(remembered)..send {
            if self.overtaken.len() >= OVERTAKEN_MAX {
                self.give_up_first();
            }
            self.overtaken.push_back(Overtaken { send, since: now });
        }
        self.left_below = send + 1;
        self.settle();
    }

    /// A block may be found to have left by what is told next.
    pub fn is_waiting(&self) -> bool {
        !(self.waiting.is_empty() && self.held.is_empty() && self.ready.is_empty())
    }

    /// A block that is now known to have left.
    pub fn poll_left(&mut self) -> Option<BlockId> {
        self.ready.pop_front()
    }

    /// Overtaken sends are not waited for any longer than timestamps count.
    pub fn handle_timeout(&mut self, now: Instant) {
        while self.overtaken.front().is_some_and(|overtaken| overtaken.since + STAMP_WITHIN <= now) {
            self.give_up_first();
        }
    }

    fn give_up_first(&mut self) {
        if let Some(overtaken) = self.overtaken.pop_front() {
            self.give_up_below(overtaken.send + 1);
        }
    }

    fn give_up_below(&mut self, below: u64) {
        self.given_up_below = below;
        self.held.retain(|waiting| *waiting.sends.start() >= below);
    }

    /// Tells the blocks whose sends have left, from the oldest on.
    fn settle(&mut self) {
        while let Some(first) = self.waiting.front() {
            let (last, alone) = (*first.sends.end(), first.alone);
            if last >= self.left_below || (last + 1 == self.left_below && !alone) {
                return;
            }
            let Some(waiting) = self.waiting.pop_front() else { return };
            match self.is_shown(&waiting) {
                Some(true) => self.ready.push_back(waiting.block),
                Some(false) => self.held.push(waiting),
                None => {}
            }
        }
    }

    fn settle_held(&mut self) {
        for waiting in std::mem::take(&mut self.held) {
            match self.is_shown(&waiting) {
                Some(true) => self.ready.push_back(waiting.block),
                Some(false) => self.held.push(waiting),
                None => {}
            }
        }
    }

    /// Whether all its sends have left; none if one of them may never be known to have.
    fn is_shown(&self, waiting: &Waiting) -> Option<bool> {
        if *waiting.sends.start() < self.given_up_below {
            return None;
        }
        let from = self.overtaken.partition_point(|overtaken| overtaken.send < *waiting.sends.start());
        Some(self.overtaken.get(from).is_none_or(|overtaken| overtaken.send > *waiting.sends.end()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn block(sbn: u64) -> BlockId {
        BlockId { profile: 0, sbn }
    }

    fn told(departures: &mut Departures) -> Vec<u64> {
        std::iter::from_fn(|| departures.poll_left()).map(|block| block.sbn).collect()
    }

    #[test]
    fn a_later_timestamp_does_not_speak_for_a_send_that_never_left() {
        let now = Instant::now();
        let mut departures = Departures::default();
        departures.on_sent(block(1), 0, 0, true);
        departures.on_sent(block(2), 1, 2, true);
        departures.on_sent(block(3), 3, 3, true);
        departures.on_left(0, now);
        departures.on_left(2, now);
        departures.on_left(3, now);
        assert_eq!(told(&mut departures), [1, 3], "the first datagrams of block 2 are not known to have left");
        departures.on_left(1, now);
        assert_eq!(told(&mut departures), [2], "they were only late");
        departures.on_left(1, now);
        assert_eq!(told(&mut departures), [0u64; 0]);
    }

    #[test]
    fn the_end_of_a_block_inside_a_train_is_shown_by_what_left_later() {
        let now = Instant::now();
        let mut departures = Departures::default();
        departures.on_sent(block(1), 0, 0, false);
        departures.on_left(0, now);
        assert_eq!(told(&mut departures), [0u64; 0], "only the first datagram of the train is known to have left");
        departures.on_left(1, now);
        assert_eq!(told(&mut departures), [1]);
    }

    #[test]
    fn what_is_given_up_is_never_shown_and_holds_up_nothing_behind_it() {
        let now = Instant::now();
        let mut departures = Departures::default();
        departures.on_sent(block(1), 0, 0, true);
        departures.on_left(1, now);
        departures.handle_timeout(now + STAMP_WITHIN);
        departures.on_left(0, now);
        // It began when the send that was given up was not the last one taken.
        departures.on_sent(block(2), 0, 1, true);
        departures.on_sent(block(3), 1, 1, true);
        assert_eq!(told(&mut departures), [3]);
        assert!(departures.held.is_empty() && departures.overtaken.is_empty());
    }

    #[test]
    fn the_memory_is_bounded_and_what_is_forgotten_is_not_shown() {
        let now = Instant::now();
        let mut departures = Departures::default();
        (0..BLOCKS_MAX as u64 + 3).for_each(|sbn| departures.on_sent(block(sbn), sbn, sbn, true));
        assert_eq!(departures.waiting.len(), BLOCKS_MAX);
        departures.on_left(BLOCKS_MAX as u64 + 2, now);
        assert_eq!((departures.overtaken.len(), told(&mut departures)), (OVERTAKEN_MAX, vec![BLOCKS_MAX as u64 + 2]));
        assert!(departures.held.len() <= OVERTAKEN_MAX + 1);
        departures.on_left(BLOCKS_MAX as u64, now);
        assert_eq!(told(&mut departures), [BLOCKS_MAX as u64], "one of the newest, which is remembered");
        departures.on_left(5, now);
        assert_eq!(told(&mut departures), [0u64; 0], "one of those that were given up");
    }

    proptest! {
        /// Whatever order timestamps come in, and whichever never come: a block is told if and only if each of its sends
        /// has left, and something later where it did not end alone.
        #[test]
        fn a_block_is_told_when_all_its_sends_have_left(
            blocks in proptest::collection::vec((0u64..3, 0u64..3, any::<bool>()), 1..30),
            order in proptest::collection::vec(0u64..70, 0..90),
        ) {
            let now = Instant::now();
            let mut departures = Departures::default();
            let (mut known, mut next) = (Vec::new(), 0);
            for (sbn, (gap, length, alone)) in blocks.into_iter().enumerate() {
                let (first, last) = (next + gap, next + gap + length);
                // No datagram ends two blocks.
                let alone = alone && gap > 0;
                departures.on_sent(block(sbn as u64), first, last, alone);
                known.push((sbn as u64, first, last, alone));
                next = last + u64::from(alone);
            }
            let mut left = BTreeSet::new();
            let mut all = BTreeSet::new();
            for send in order {
                departures.on_left(send, now);
                left.insert(send);
                all.extend(told(&mut departures));
                for &(sbn, first, last, alone) in &known {
                    let later = left.last().is_some_and(|newest| *newest > last);
                    let expected = (first..=last).all(|send| left.contains(&send)) && (alone || later);
                    prop_assert_eq!(all.contains(&sbn), expected, "block {} of {}..={}", sbn, first, last);
                }
            }
        }
    }
}
