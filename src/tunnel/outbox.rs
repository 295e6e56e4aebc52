//! Datagrams on their way out to one peer, sealed, in trains of equal length: what one system call can take.
//!
//! A datagram is written where it will be sent from. A train holds datagrams of one length, the last may be shorter.
//! The bounds on the queue are kept by whoever reads the TUN. Where the path has a rate of its own, what would wait for
//! longer than `queue_max` is dropped ([`is_over`](Outbox::is_over)): other peers must not wait for this one. Elsewhere
//! only the socket can hold datagrams up, which all peers share, and no more is read ([`is_full`](Outbox::is_full)).
//!
//! Sends are counted, and each block that ends is told with the number of the send that took its last datagram: the
//! departure of a block is shown send by send. The kernel stamps only the first datagram of a train that it cuts; that
//! the others have left is shown by the next send. So the datagram that ends the last block that waits travels alone,
//! because nothing else may follow for long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::pacer::Pacer;
use crate::wire::payload_id::BlockId;

/// The most datagrams in a train (the kernel's `UDP_MAX_SEGMENTS` before 6.9 is 64).
pub const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The most bytes in a train: an IP packet less its headers, with some room.
pub const TRAIN_BYTES_MAX: usize = 65_000;
/// Trains that may wait for the socket before no more packets are read.
const TRAINS_MAX: usize = 4;
/// Bytes that may wait, however fast the path is.
const BYTES_MAX: usize = 64 << 20;
/// Trains that are kept for their memory.
const SPARE_MAX: usize = 64;

/// Equal datagrams for one address.
#[derive(Debug, Default)]
struct Train {
    /// As long as the longest train; the first `fill` bytes are datagrams.
    bytes: Vec<u8>,
    fill: usize,
    datagram_len: usize,
    datagrams: usize,
    /// Nothing more may be added: a shorter datagram ended it, or part of it was sent.
    ended: bool,
    sent: usize,
    /// The blocks whose last datagram is in it.
    ends: Vec<BlockId>,
}

impl Train {
    fn left(&self) -> usize {
        self.fill - self.sent
    }

    /// Bytes of what is left but for the last datagram.
    fn but_last(&self) -> usize {
        (self.left().saturating_sub(1)) / self.datagram_len.max(1) * self.datagram_len
    }
}

/// Which trains to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trains {
    /// Those that nothing more is added to: more is about to come.
    Full,
    /// All.
    All,
}

/// A train for the socket.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// Where to, and from which address.
    pub to: Endpoint,
    /// Datagrams end to end.
    pub bytes: &'a [u8],
    /// Bytes of each datagram; the last may be shorter.
    pub datagram_len: usize,
    /// The number of this send, if the kernel takes anything of it.
    pub send: u64,
}

/// What waits to be sent to one peer.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Train>,
    spare: Vec<Train>,
    pacer: Pacer,
    train_max: usize,
    /// How long a datagram may wait for the path's rate.
    queue_max: Duration,
    /// Bytes that wait.
    waiting: usize,
    /// Sends of which the kernel took something.
    sends: u64,
}

impl Outbox {
    /// An empty outbox with this pacing; where there is a rate, nothing waits for it for much longer than `queue_max`.
    pub fn new(pacer: Pacer, queue_max: Duration) -> Self {
        let train_max = pacer.train_max(TRAIN_BYTES_MAX);
        Self { queue: VecDeque::new(), spare: Vec::new(), pacer, train_max, queue_max, waiting: 0, sends: 0 }
    }

    /// Room for one more datagram of `len` bytes, which hold anything.
    pub fn append(&mut self, len: usize) -> &mut [u8] {
        let fits = self.queue.back().is_some_and(|train| {
            !train.ended
                && len <= train.datagram_len
                && train.datagrams < TRAIN_DATAGRAMS_MAX
                && train.fill + len <= self.train_max
        });
        if !fits {
            let Train { mut bytes, mut ends, .. } = self.spare.pop().unwrap_or_default();
            bytes.resize(self.train_max.max(len), 0);
            ends.clear();
            self.queue.push_back(Train {
                bytes,
                fill: 0,
                datagram_len: len,
                datagrams: 0,
                ended: false,
                sent: 0,
                ends,
            });
        }
        let train = self.queue.back_mut().expect("a train was pushed when none fitted");
        train.ended |= len < train.datagram_len;
        train.datagrams += 1;
        let start = train.fill;
        train.fill += len;
        self.waiting += len;
        &mut train.bytes[start..train.fill]
    }

    /// Ends the train that could be added to: the next datagram begins another.
    pub fn end_train(&mut self) {
        if let Some(train) = self.queue.back_mut() {
            train.ended = true;
        }
    }

    /// The datagram appended last is the last of `block`.
    pub fn end_block(&mut self, block: BlockId) {
        if let Some(train) = self.queue.back_mut() {
            train.ends.push(block);
        }
    }

    /// A train waits that nothing more will be added to.
    pub fn has_full_train(&self) -> bool {
        self.queue.len() > 1 || self.queue.front().is_some_and(|train| train.datagrams == TRAIN_DATAGRAMS_MAX)
    }

    /// So much waits for the socket that no more should be made. The rate of one path holds up nobody else.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= TRAINS_MAX && !self.pacer.has_rate()
    }

    /// What is made now would wait for too long behind what waits for the path's rate.
    pub fn is_over(&self, now: Instant) -> bool {
        self.pacer.has_rate()
            && (self.waiting > BYTES_MAX || self.pacer.delay_behind(self.waiting, now) > self.queue_max)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next of `trains`, or the beginning of it, if pacing lets it leave.
    pub fn front(&self, to: Endpoint, trains: Trains, now: Instant) -> Option<Transmit<'_>> {
        let train = self.queue.front()?;
        if (trains == Trains::Full && !self.has_full_train()) || self.pacer.ready_at(now).is_some() {
            return None;
        }
        let is_last = trains == Trains::All && self.queue.len() == 1;
        let len = match train.but_last() {
            but_last @ 1.. if is_last && !train.ends.is_empty() => but_last,
            _ => train.left(),
        };
        let bytes = &train.bytes[train.sent..train.sent + len];
        Some(Transmit { to, bytes, datagram_len: train.datagram_len, send: self.sends })
    }

    /// When pacing lets the next train leave, if one waits for that.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() { None } else { self.pacer.ready_at(now) }
    }

    /// Notes that the socket took `bytes` of the front train. Calls `taken` with each block whose last datagram was there,
    /// when all of the train was taken, with the number of this send and whether it was of that datagram alone.
    pub fn on_sent(&mut self, bytes: usize, now: Instant, taken: impl FnMut(BlockId, u64, bool)) {
        let send = self.sends;
        self.sends += u64::from(bytes > 0);
        self.advance(send, bytes, now, taken);
    }

    /// Passes over `bytes` of the front train, which cannot be sent: this is no send.
    pub fn skip(&mut self, bytes: usize, now: Instant, taken: impl FnMut(BlockId, u64, bool)) {
        self.advance(self.sends, bytes, now, taken);
    }

    fn advance(&mut self, send: u64, bytes: usize, now: Instant, mut taken: impl FnMut(BlockId, u64, bool)) {
        self.pacer.on_sent(bytes, now);
        let Some(train) = self.queue.front_mut() else { return };
        self.waiting -= bytes.min(train.left());
        train.sent += bytes;
        train.ended = true;
        if train.sent < train.fill {
            return;
        }
        let alone = bytes <= train.datagram_len;
        train.ends.drain(..).for_each(|block| taken(block, send, alone));
        if let Some(train) = self.queue.pop_front() {
            self.keep(train);
        }
    }

    fn keep(&mut self, train: Train) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(train);
        }
    }

    /// Throws away the front train, which cannot be sent; returns how many datagrams that were.
    pub fn discard_front(&mut self) -> u64 {
        let Some(train) = self.queue.pop_front() else { return 0 };
        let datagrams = train.left().div_ceil(train.datagram_len.max(1));
        self.waiting -= train.left();
        self.keep(train);
        datagrams as u64
    }

    /// Throws away everything; returns how many datagrams that were.
    pub fn discard_all(&mut self) -> u64 {
        let mut datagrams = 0;
        while !self.queue.is_empty() {
            datagrams += self.discard_front();
        }
        datagrams
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn equal_datagrams_share_a_train_and_a_shorter_one_ends_it() {
        let (to, now) = (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(None), Duration::ZERO);
        for len in [100, 100, 40, 40, 100] {
            outbox.append(len).fill(len as u8);
        }
        let mut trains = Vec::new();
        while let Some(train) = outbox.front(to, Trains::All, now) {
            trains.push((train.bytes.len(), train.datagram_len));
            let len = train.bytes.len();
            outbox.on_sent(len, now, |_, _, _| {});
        }
        assert_eq!(trains, [(240, 100), (40, 40), (100, 100)]);
    }

    #[test]
    fn trains_keep_the_limits_of_the_kernel() {
        let (to, now) = (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(None), Duration::ZERO);
        for _ in 0..1000 {
            outbox.append(1452);
        }
        for _ in 0..1000 {
            outbox.append(100);
        }
        let mut datagrams = 0;
        while let Some(train) = outbox.front(to, Trains::All, now) {
            let count = train.bytes.len().div_ceil(train.datagram_len);
            assert!(train.bytes.len() <= TRAIN_BYTES_MAX && count <= TRAIN_DATAGRAMS_MAX);
            datagrams += count;
            let half = train.datagram_len;
            outbox.on_sent(half, now, |_, _, _| {});
        }
        assert!(datagrams >= 2000);
        assert!(outbox.is_empty());
    }

    #[test]
    fn a_path_that_is_slower_than_what_is_offered_held_up_all_others() {
        let (to, mut now, queue_max) =
            (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now(), Duration::from_millis(50));
        // 1 Mbit/s, offered ten times as much.
        let mut outbox = Outbox::new(Pacer::new(Some(125_000)), queue_max);
        let (mut waits, mut offered, mut dropped, mut left) = (VecDeque::new(), 0, 0, 0);
        let mut longest = Duration::ZERO;
        for _ in 0..5_000 {
            now += Duration::from_millis(1);
            assert!(!outbox.is_full(), "others are read on");
            offered += 1250;
            if outbox.is_over(now) {
                dropped += 1250;
            } else {
                outbox.append(1250).fill(0);
                waits.push_back(now);
            }
            while let Some(train) = outbox.front(to, Trains::All, now) {
                let len = train.bytes.len();
                outbox.on_sent(len, now, |_, _, _| {});
                left += len;
                waits.drain(..len / 1250).for_each(|since| longest = longest.max(now - since));
            }
        }
        assert_eq!(offered, dropped + left + outbox.waiting);
        assert!((595_000..=635_000).contains(&left), "{left} bytes in five seconds");
        assert!(longest >= queue_max / 2 && longest <= queue_max + Duration::from_millis(25), "{longest:?}");
        assert!(outbox.spare.len() <= SPARE_MAX);
        outbox.discard_all();
        assert_eq!(outbox.waiting, 0);
    }

    #[test]
    fn a_fast_path_holds_no_more_than_its_memory_however_long_a_packet_may_wait() {
        let now = Instant::now();
        let mut outbox = Outbox::new(Pacer::new(Some(12_500_000_000)), Duration::from_secs(1));
        while !outbox.is_over(now) {
            outbox.append(65_000);
        }
        assert!(outbox.waiting <= BYTES_MAX + 65_000, "{}", outbox.waiting);
        assert!(outbox.waiting > BYTES_MAX, "the rate alone would take more");
    }

    /// Sends all of `trains`; of each its datagrams, and the blocks that the kernel has then, alone or not.
    fn sent(outbox: &mut Outbox, trains: Trains, now: Instant) -> Vec<(usize, Vec<(u64, bool)>)> {
        let to = Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117)));
        let mut sent = Vec::new();
        while let Some(train) = outbox.front(to, trains, now) {
            let (len, datagrams, number) =
                (train.bytes.len(), train.bytes.len().div_ceil(train.datagram_len), train.send);
            let mut taken = Vec::new();
            outbox.on_sent(len, now, |block, send, alone| {
                assert_eq!(send, number);
                taken.push((block.sbn, alone));
            });
            sent.push((datagrams, taken));
        }
        sent
    }

    fn append(outbox: &mut Outbox, datagrams: usize, ends: Option<u64>) {
        (0..datagrams).for_each(|_| outbox.append(1000).fill(0));
        ends.into_iter().for_each(|sbn| outbox.end_block(BlockId { profile: 0, sbn }));
    }

    #[test]
    fn only_the_datagram_that_ends_the_last_block_travels_alone() {
        let now = Instant::now();
        let mut outbox = Outbox::new(Pacer::new(None), Duration::ZERO);
        append(&mut outbox, 30, Some(0));
        append(&mut outbox, 30, Some(1));
        assert_eq!(sent(&mut outbox, Trains::Full, now), [], "one train, not full");
        append(&mut outbox, 30, None);
        assert_eq!(sent(&mut outbox, Trains::Full, now), [(64, vec![(0, false), (1, false)])]);
        assert_eq!(sent(&mut outbox, Trains::All, now), [(26, vec![])], "nothing ends in it, and it shows what did");
        append(&mut outbox, 1, Some(2));
        assert_eq!(sent(&mut outbox, Trains::All, now), [(1, vec![(2, true)])]);
        append(&mut outbox, 70, Some(3));
        let all = sent(&mut outbox, Trains::All, now);
        assert_eq!(all, [(64, vec![]), (5, vec![]), (1, vec![(3, true)])]);
        assert_eq!(outbox.sends, 6);
    }

    #[test]
    fn sends_are_counted_when_the_kernel_took_something_and_a_block_ends_with_the_one_that_took_its_end() {
        let (to, now) = (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(None), Duration::ZERO);
        append(&mut outbox, 4, Some(0));
        let train = outbox.front(to, Trains::All, now).unwrap();
        assert_eq!((train.bytes.len(), train.send), (3000, 0));
        outbox.on_sent(0, now, |block, _, _| panic!("{block:?}"));
        assert_eq!(outbox.front(to, Trains::All, now).unwrap().send, 0, "the socket was full");
        outbox.on_sent(1000, now, |block, _, _| panic!("{block:?}"));
        append(&mut outbox, 3, None);
        assert_eq!(outbox.front(to, Trains::All, now).unwrap().send, 1);
        // The rest of the first train is not the last that waits any more.
        assert_eq!(sent(&mut outbox, Trains::All, now), [(3, vec![(0, false)]), (3, vec![])]);
        assert_eq!(outbox.sends, 3);
        outbox.on_sent(0, now, |block, _, _| panic!("{block:?}"));
    }
}
