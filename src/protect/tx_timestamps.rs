//! From the kernel's transmit timestamps to blocks that have left this host.
//!
//! [`Stamps`], one per lane, assigns timestamp ids. A send has left when all of its timestamps have come: one for a
//! train that the kernel segments, otherwise one per datagram. A timestamp that never comes occupies its entry until it
//! is overdue, and has no other effect.
//!
//! [`Departures`], one per peer: a block has left when every send that may have carried one of its datagrams has left.
//! A timestamp proves only its own send. A send that the kernel dropped silently gets no timestamp, so its blocks never
//! count as left. In a train that the kernel segments, only the first datagram is stamped: a block that ends inside a
//! train has left once a later send has left, too.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Instant;

use super::ledger::STAMP_WITHIN;
use crate::tunnel::PeerId;
use crate::tunnel::block_event::Part;
use crate::wire::payload_id::BlockId;

/// Timestamps that may be waited for; beyond, the oldest no longer counts.
const STAMPS_MAX: usize = 65_536;

/// A send that the kernel has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakenSend {
    /// Where it goes.
    pub peer: PeerId,
    /// Its number among the sends to that peer.
    pub send: u64,
    /// When its first datagram was appended to the queue toward the peer.
    pub queued: Instant,
}

/// A timestamp that was requested.
#[derive(Clone, Copy, Debug)]
struct PendingStamp {
    peer: PeerId,
    send: u64,
    /// When its first datagram was appended to the queue toward the peer.
    queued: Instant,
    since: Instant,
    has_come: bool,
    /// The distance to the last timestamp of the send.
    to_last: usize,
    /// In the entry of the last timestamp: how many timestamps of the send have not come.
    missing: usize,
}

impl PendingStamp {
    fn is_done(&self) -> bool {
        self.has_come && self.missing == 0
    }
}

/// The timestamps that a lane waits for.
#[derive(Debug, Default)]
pub struct Stamps {
    /// The id of the first of `waiting`; the others follow without gaps.
    first: u32,
    waiting: VecDeque<PendingStamp>,
}

impl Stamps {
    /// The timestamp id for the next send; the following ids are free as well.
    pub fn next(&self) -> u32 {
        self.first.wrapping_add(self.waiting.len() as u32)
    }

    /// The kernel took a send, with this many timestamps requested from id [`next`](Self::next) on.
    pub fn begin(&mut self, taken: TakenSend, timestamps: usize, now: Instant) {
        let TakenSend { peer, send, queued } = taken;
        for place in 0..timestamps {
            if self.waiting.len() >= STAMPS_MAX {
                self.drop_first();
            }
            let to_last = timestamps - 1 - place;
            let missing = if to_last == 0 { timestamps } else { 0 };
            let stamp = PendingStamp { peer, send, queued, since: now, has_come: false, to_last, missing };
            self.waiting.push_back(stamp);
        }
    }

    /// The timestamp with id `number` came. Returns the send if this was its last missing timestamp. Each id counts
    /// once.
    pub fn take(&mut self, number: u32) -> Option<TakenSend> {
        let at = number.wrapping_sub(self.first) as usize;
        let waiting = self.waiting.get_mut(at).filter(|waiting| !waiting.has_come)?;
        waiting.has_come = true;
        let last_at = at + waiting.to_last;
        let last = self.waiting.get_mut(last_at)?;
        last.missing -= 1;
        let left = (last.missing == 0).then_some(TakenSend { peer: last.peer, send: last.send, queued: last.queued });
        while self.waiting.front().is_some_and(PendingStamp::is_done) {
            self.drop_first();
        }
        left
    }

    /// Overdue timestamps no longer count; they are dropped.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_over = |first: &PendingStamp| first.is_done() || first.since + STAMP_WITHIN <= now;
        while self.waiting.front().is_some_and(is_over) {
            self.drop_first();
        }
    }

    /// A timestamp may still come.
    pub fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn drop_first(&mut self) {
        self.waiting.pop_front();
        self.first = self.first.wrapping_add(1);
    }
}

/// Blocks remembered; beyond, the oldest can no longer be shown to have left.
const BLOCKS_MAX: usize = 65_536;
/// Overtaken sends that are waited for; beyond, the oldest counts as one that never left.
const OVERTAKEN_MAX: usize = 4_096;

/// A part of a block that the kernel has taken.
#[derive(Clone, Debug)]
struct PendingBlock {
    block: BlockId,
    part: Part,
    /// The sends that may have carried one of its datagrams.
    sends: RangeInclusive<u64>,
    /// Its last datagram was a send of its own: no later send is needed to show that it has left.
    alone: bool,
}

/// A send without a timestamp although a later send has one.
#[derive(Clone, Copy, Debug)]
struct Overtaken {
    send: u64,
    since: Instant,
}

/// The blocks toward one peer that may still wait in this host.
#[derive(Debug, Default)]
pub(super) struct Departures {
    /// In the order of their last sends.
    waiting: VecDeque<PendingBlock>,
    /// All sends below this one have left, except those in `overtaken` and those given up.
    left_below: u64,
    overtaken: VecDeque<Overtaken>,
    /// All sends below this one that are not known to have left count as never left.
    given_up_below: u64,
    /// Blocks that wait for an overtaken send.
    held: Vec<PendingBlock>,
    /// Sends that the kernel has taken so far.
    taken: u64,
    ready: VecDeque<(BlockId, Part)>,
}

impl Departures {
    /// The number of the next send: no earlier send carries a datagram of a block that begins now.
    pub fn next_send(&self) -> u64 {
        self.taken
    }

    /// The kernel has taken the sends up to this one.
    pub fn on_taken(&mut self, send: u64) {
        self.taken = self.taken.max(send + 1);
    }

    /// The kernel has taken all of a part of `block`, in sends from `first` or later up to `last`.
    pub fn on_sent(&mut self, (block, part): (BlockId, Part), first: u64, last: u64, alone: bool) {
        if self.waiting.len() >= BLOCKS_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back(PendingBlock { block, part, sends: first..=last.max(first), alone });
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
            // This happens after a long time without timestamps.
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

    /// A later timestamp may still show that a block has left.
    pub fn is_waiting(&self) -> bool {
        !(self.waiting.is_empty() && self.held.is_empty() && self.ready.is_empty())
    }

    /// The next part of a block that is now known to have left.
    pub fn poll_left(&mut self) -> Option<(BlockId, Part)> {
        self.ready.pop_front()
    }

    /// Gives up overtaken sends whose timestamp is overdue.
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

    /// Finds the blocks whose sends have left, oldest first.
    fn settle(&mut self) {
        while let Some(first) = self.waiting.front() {
            let (last, alone) = (*first.sends.end(), first.alone);
            if last >= self.left_below || (last + 1 == self.left_below && !alone) {
                return;
            }
            let Some(waiting) = self.waiting.pop_front() else { return };
            match self.is_shown(&waiting) {
                Some(true) => self.ready.push_back((waiting.block, waiting.part)),
                Some(false) => self.held.push(waiting),
                None => {}
            }
        }
    }

    fn settle_held(&mut self) {
        for waiting in std::mem::take(&mut self.held) {
            match self.is_shown(&waiting) {
                Some(true) => self.ready.push_back((waiting.block, waiting.part)),
                Some(false) => self.held.push(waiting),
                None => {}
            }
        }
    }

    /// Whether all its sends have left; none if one of them was given up.
    fn is_shown(&self, waiting: &PendingBlock) -> Option<bool> {
        if *waiting.sends.start() < self.given_up_below {
            return None;
        }
        let from = self.overtaken.partition_point(|overtaken| overtaken.send < *waiting.sends.start());
        Some(self.overtaken.get(from).is_none_or(|overtaken| overtaken.send > *waiting.sends.end()))
    }
}

#[cfg(test)]
mod stamps_tests {
    use super::*;

    const PEER: PeerId = PeerId(0);

    fn take(stamps: &mut Stamps, number: u32) -> Option<(PeerId, u64)> {
        stamps.take(number).map(|taken| (taken.peer, taken.send))
    }

    fn begin(stamps: &mut Stamps, send: u64, timestamps: usize, now: Instant) -> u32 {
        let number = stamps.next();
        stamps.begin(TakenSend { peer: PEER, send, queued: now }, timestamps, now);
        number
    }

    #[test]
    fn each_timestamp_id_counts_once_across_the_wrap() {
        let now = Instant::now();
        let mut stamps = Stamps { first: u32::MAX - 1, waiting: VecDeque::new() };
        let numbers: Vec<u32> = (0..4).map(|send| begin(&mut stamps, send, 1, now)).collect();
        assert_eq!(numbers, [u32::MAX - 1, u32::MAX, 0, 1]);
        assert_eq!(take(&mut stamps, 0), Some((PEER, 2)));
        assert_eq!(take(&mut stamps, 0), None);
        assert_eq!(take(&mut stamps, u32::MAX - 1), Some((PEER, 0)));
        assert_eq!(take(&mut stamps, u32::MAX - 1), None, "forgotten");
        assert_eq!(take(&mut stamps, 2), None, "never assigned");
        assert_eq!(take(&mut stamps, 1), Some((PEER, 3)));
    }

    #[test]
    fn a_send_has_left_when_all_its_timestamps_have_come_and_each_counts_once() {
        let now = Instant::now();
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut stamps = Stamps { first: u32::MAX, waiting: VecDeque::new() };
            let train = begin(&mut stamps, 0, 3, now);
            assert_eq!(begin(&mut stamps, 1, 0, now), train.wrapping_add(3), "no timestamp was asked for");
            let next = begin(&mut stamps, 2, 1, now);
            for (place, number) in order.into_iter().enumerate() {
                let left = (place == 2).then_some((PEER, 0));
                assert_eq!(take(&mut stamps, train.wrapping_add(number)), left, "{order:?}");
                assert_eq!(take(&mut stamps, train.wrapping_add(number)), None, "the same again");
            }
            assert_eq!(take(&mut stamps, next), Some((PEER, 2)));
            assert!(!stamps.is_waiting());
        }
    }

    #[test]
    fn a_send_with_an_overdue_timestamp_has_not_left() {
        let start = Instant::now();
        let mut stamps = Stamps::default();
        let train = begin(&mut stamps, 0, 2, start);
        assert_eq!(take(&mut stamps, train + 1), None);
        stamps.handle_timeout(start + STAMP_WITHIN);
        assert_eq!(take(&mut stamps, train), None);
        let long = begin(&mut stamps, 1, STAMPS_MAX + 1, start);
        for number in 0..=STAMPS_MAX as u32 {
            assert_eq!(take(&mut stamps, long + number), None, "the first timestamp was dropped");
        }
    }

    #[test]
    fn missing_timestamps_are_dropped_and_later_ids_stay_correct() {
        let start = Instant::now();
        let mut stamps = Stamps::default();
        let first = begin(&mut stamps, 0, 1, start);
        for send in 1..=STAMPS_MAX as u64 {
            begin(&mut stamps, send, 1, start);
        }
        assert_eq!(stamps.waiting.len(), STAMPS_MAX);
        assert_eq!(take(&mut stamps, first), None);
        assert_eq!(take(&mut stamps, first + 1), Some((PEER, 1)));
        let late = begin(&mut stamps, 9, 1, start + STAMP_WITHIN / 2);
        stamps.handle_timeout(start + STAMP_WITHIN);
        assert_eq!(stamps.waiting.len(), 1);
        assert_eq!(take(&mut stamps, late), Some((PEER, 9)));
        assert!(!stamps.is_waiting());
    }
}

#[cfg(test)]
mod departures_tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn block(sbn: u64) -> BlockId {
        BlockId { profile: 0, sbn }
    }

    fn told(departures: &mut Departures) -> Vec<u64> {
        std::iter::from_fn(|| departures.poll_left()).map(|(block, _)| block.sbn).collect()
    }

    #[test]
    fn a_later_timestamp_proves_no_earlier_send() {
        let now = Instant::now();
        let mut departures = Departures::default();
        departures.on_sent((block(1), Part::Early), 0, 0, true);
        departures.on_sent((block(2), Part::Early), 1, 2, true);
        departures.on_sent((block(3), Part::Early), 3, 3, true);
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
    fn a_block_that_ends_inside_a_train_has_left_with_a_later_send() {
        let now = Instant::now();
        let mut departures = Departures::default();
        departures.on_sent((block(1), Part::Early), 0, 0, false);
        departures.on_left(0, now);
        assert_eq!(told(&mut departures), [0u64; 0], "only the first datagram of the train is known to have left");
        departures.on_left(1, now);
        assert_eq!(told(&mut departures), [1]);
    }

    #[test]
    fn a_given_up_block_never_counts_as_left_and_delays_no_later_block() {
        let now = Instant::now();
        let mut departures = Departures::default();
        departures.on_sent((block(1), Part::Early), 0, 0, true);
        departures.on_left(1, now);
        departures.handle_timeout(now + STAMP_WITHIN);
        departures.on_left(0, now);
        // Block 2 may have a datagram in send 0, which was given up.
        departures.on_sent((block(2), Part::Early), 0, 1, true);
        departures.on_sent((block(3), Part::Early), 1, 1, true);
        assert_eq!(told(&mut departures), [3]);
        assert!(departures.held.is_empty() && departures.overtaken.is_empty());
    }

    #[test]
    fn memory_is_bounded_and_a_forgotten_block_never_counts_as_left() {
        let now = Instant::now();
        let mut departures = Departures::default();
        (0..BLOCKS_MAX as u64 + 3).for_each(|sbn| departures.on_sent((block(sbn), Part::Early), sbn, sbn, true));
        assert_eq!(departures.waiting.len(), BLOCKS_MAX);
        departures.on_left(BLOCKS_MAX as u64 + 2, now);
        assert_eq!((departures.overtaken.len(), told(&mut departures)), (OVERTAKEN_MAX, vec![BLOCKS_MAX as u64 + 2]));
        assert!(departures.held.len() <= OVERTAKEN_MAX + 1);
        departures.on_left(BLOCKS_MAX as u64, now);
        assert_eq!(told(&mut departures), [BLOCKS_MAX as u64], "one of the newest, still remembered");
        departures.on_left(5, now);
        assert_eq!(told(&mut departures), [0u64; 0], "one of the sends given up");
    }

    proptest! {
        /// For any order of timestamps, and any that never come: a block is reported if and only if each of its sends
        /// has left, and, unless it ended alone, a later send too.
        #[test]
        fn a_block_is_reported_when_all_its_sends_have_left(
            blocks in proptest::collection::vec((0u64..3, 0u64..3, any::<bool>()), 1..30),
            order in proptest::collection::vec(0u64..70, 0..90),
        ) {
            let now = Instant::now();
            let mut departures = Departures::default();
            let (mut known, mut next) = (Vec::new(), 0);
            for (sbn, (gap, length, alone)) in blocks.into_iter().enumerate() {
                let (first, last) = (next + gap, next + gap + length);
                // A datagram never ends two blocks.
                let alone = alone && gap > 0;
                departures.on_sent((block(sbn as u64), Part::Early), first, last, alone);
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
