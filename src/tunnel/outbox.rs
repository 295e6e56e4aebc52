//! Datagrams on their way out to one peer, sealed, in trains of equal length: what one system call can take.
//!
//! A datagram is written where it will be sent from. A train holds datagrams of one length, the last may be shorter;
//! the bound on the queue is kept by whoever reads the TUN, through [`is_full`](Outbox::is_full).
//!
//! Where protection is claimed, now and then a datagram travels alone: the kernel stamps only the first datagram of a
//! train that it cuts. Datagrams leave in order, so the departure of that one shows that all blocks have left whose last
//! datagram is not behind it. It is the last one that waits, because nothing else may follow for long, and one among
//! many when much or old is not shown yet.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::pacer::Pacer;
use crate::wire::payload_id::BlockId;

/// The most datagrams in a train (the kernel's `UDP_MAX_SEGMENTS` before 6.9 is 64).
pub const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The most bytes in a train: an IP packet less its headers, with some room.
pub const TRAIN_BYTES_MAX: usize = 65_000;
/// While more trains wait, departures are shown each time so many bytes have left.
const UNPROVEN_BYTES: usize = 1 << 20;
/// And no later than this after the end of a block has left.
const UNPROVEN_FOR: Duration = Duration::from_micros(500);
/// Trains that may wait before no more packets are read for this peer.
const TRAINS_MAX: usize = 4;

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
    /// Where to.
    pub to: SocketAddr,
    /// Datagrams end to end.
    pub bytes: &'a [u8],
    /// Bytes of each datagram; the last may be shorter.
    pub datagram_len: usize,
    /// It is one datagram, whose departure shows that so many blocks have left since the start, in the order in which
    /// [`Outbox::on_sent`] names them.
    pub proves: Option<u64>,
}

/// What waits to be sent to one peer.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Train>,
    spare: Vec<Train>,
    pacer: Pacer,
    train_max: usize,
    /// Blocks that the kernel has taken whole, and how many of them the departure of a datagram will show.
    taken: u64,
    proven: u64,
    /// Since when the kernel has had a block whose departure nothing will show, and what it has taken since.
    unproven_since: Option<Instant>,
    unproven_bytes: usize,
}

impl Outbox {
    /// An empty outbox with this pacing.
    pub fn new(pacer: Pacer) -> Self {
        let train_max = pacer.train_max(TRAIN_BYTES_MAX);
        Self {
            queue: VecDeque::new(),
            spare: Vec::new(),
            pacer,
            train_max,
            taken: 0,
            proven: 0,
            unproven_since: None,
            unproven_bytes: 0,
        }
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

    /// So much waits that no more should be made.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= TRAINS_MAX
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next of `trains`, or the beginning of it, if pacing lets it leave.
    pub fn front(&self, to: SocketAddr, trains: Trains, now: Instant) -> Option<Transmit<'_>> {
        let train = self.queue.front()?;
        if (trains == Trains::Full && !self.has_full_train()) || self.pacer.ready_at(now).is_some() {
            return None;
        }
        let is_last = trains == Trains::All && self.queue.len() == 1;
        let len = match train.but_last() {
            0 => train.left(),
            but_last if self.shows(train).is_some() && (is_last || self.is_overdue(now)) => but_last,
            _ => train.left(),
        };
        Some(Transmit {
            to,
            bytes: &train.bytes[train.sent..train.sent + len],
            datagram_len: train.datagram_len,
            proves: self.shows(train).filter(|_| train.but_last() == 0),
        })
    }

    /// How many blocks will have left with the last datagram of `train`, if that is not shown by another already.
    fn shows(&self, train: &Train) -> Option<u64> {
        let through = self.taken + train.ends.len() as u64;
        (through > self.proven).then_some(through)
    }

    fn is_overdue(&self, now: Instant) -> bool {
        self.unproven_bytes >= UNPROVEN_BYTES || self.unproven_since.is_some_and(|since| now >= since + UNPROVEN_FOR)
    }

    /// When pacing lets the next train leave, if one waits for that.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() { None } else { self.pacer.ready_at(now) }
    }

    /// Notes that the socket took `bytes` of the front train. Calls `taken` with each block whose last datagram was there,
    /// when all of the train was taken.
    pub fn on_sent(&mut self, bytes: usize, now: Instant, taken: impl FnMut(BlockId)) {
        self.pacer.on_sent(bytes, now);
        let Some(train) = self.queue.front() else { return };
        if bytes > 0
            && train.but_last() == 0
            && let Some(through) = self.shows(train)
        {
            self.proven = through;
            (self.unproven_since, self.unproven_bytes) = (None, 0);
        }
        if self.unproven_since.is_some() {
            self.unproven_bytes += bytes;
        }
        let Some(train) = self.queue.front_mut() else { return };
        train.sent += bytes;
        train.ended = true;
        if train.sent < train.fill {
            return;
        }
        self.taken += train.ends.len() as u64;
        if self.taken > self.proven {
            self.unproven_since.get_or_insert(now);
        }
        train.ends.drain(..).for_each(taken);
        self.spare.extend(self.queue.pop_front());
    }

    /// Throws away the front train, which cannot be sent; returns how many datagrams that were.
    pub fn discard_front(&mut self) -> u64 {
        let Some(train) = self.queue.pop_front() else { return 0 };
        let datagrams = (train.fill - train.sent).div_ceil(train.datagram_len.max(1));
        self.spare.push(train);
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
    use super::*;

    #[test]
    fn equal_datagrams_share_a_train_and_a_shorter_one_ends_it() {
        let (to, now) = (SocketAddr::from(([192, 0, 2, 1], 7117)), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(None));
        for len in [100, 100, 40, 40, 100] {
            outbox.append(len).fill(len as u8);
        }
        let mut trains = Vec::new();
        while let Some(train) = outbox.front(to, Trains::All, now) {
            trains.push((train.bytes.len(), train.datagram_len));
            let len = train.bytes.len();
            outbox.on_sent(len, now, |_| {});
        }
        assert_eq!(trains, [(240, 100), (40, 40), (100, 100)]);
    }

    #[test]
    fn trains_keep_the_limits_of_the_kernel() {
        let (to, now) = (SocketAddr::from(([192, 0, 2, 1], 7117)), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(None));
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
            outbox.on_sent(half, now, |_| {});
        }
        assert!(datagrams >= 2000);
        assert!(outbox.is_empty());
    }

    /// Sends all of `trains`; of each its datagrams, what it proves, and the blocks that the kernel has then.
    fn sent(outbox: &mut Outbox, trains: Trains, now: Instant) -> Vec<(usize, Option<u64>, Vec<u64>)> {
        let to = SocketAddr::from(([192, 0, 2, 1], 7117));
        let mut sent = Vec::new();
        while let Some(train) = outbox.front(to, trains, now) {
            let (len, datagrams, proves) =
                (train.bytes.len(), train.bytes.len().div_ceil(train.datagram_len), train.proves);
            let mut taken = Vec::new();
            outbox.on_sent(len, now, |block| taken.push(block.sbn));
            sent.push((datagrams, proves, taken));
        }
        sent
    }

    fn append(outbox: &mut Outbox, datagrams: usize, ends: Option<u64>) {
        (0..datagrams).for_each(|_| outbox.append(1000).fill(0));
        ends.into_iter().for_each(|sbn| outbox.end_block(BlockId { profile: 0, sbn }));
    }

    #[test]
    fn only_the_last_datagram_travels_alone_and_shows_all_blocks_before_it() {
        let now = Instant::now();
        let mut outbox = Outbox::new(Pacer::new(None));
        append(&mut outbox, 30, Some(0));
        append(&mut outbox, 30, Some(1));
        assert_eq!(sent(&mut outbox, Trains::Full, now), [], "one train, not full");
        append(&mut outbox, 30, None);
        assert_eq!(sent(&mut outbox, Trains::Full, now), [(64, None, vec![0, 1])]);
        assert_eq!(sent(&mut outbox, Trains::All, now), [(25, None, vec![]), (1, Some(2), vec![])]);
        append(&mut outbox, 5, None);
        assert_eq!(sent(&mut outbox, Trains::All, now), [(5, None, vec![])], "nothing to show");
        append(&mut outbox, 1, Some(2));
        assert_eq!(sent(&mut outbox, Trains::All, now), [(1, Some(3), vec![2])]);
    }

    #[test]
    fn in_a_stream_departures_are_shown_before_too_much_or_too_old_is_not() {
        let start = Instant::now();
        let mut outbox = Outbox::new(Pacer::new(None));
        append(&mut outbox, 1280, Some(0));
        append(&mut outbox, 1280, Some(1));
        append(&mut outbox, 1, None);
        let trains = sent(&mut outbox, Trains::Full, start);
        let alone: Vec<usize> = (0..trains.len()).filter(|at| trains[*at].1.is_some()).collect();
        assert_eq!(trains.iter().map(|train| train.0).sum::<usize>(), 2560);
        assert_eq!(alone.len(), 1, "{trains:?}");
        assert_eq!(trains[alone[0]].1, Some(1), "1 MB behind the first");
        append(&mut outbox, 100, None);
        let later = start + UNPROVEN_FOR;
        assert_eq!(sent(&mut outbox, Trains::Full, later), [(63, None, vec![]), (1, Some(2), vec![])]);
    }

    #[test]
    fn what_follows_a_train_that_was_sent_in_part_shows_it_too() {
        let (to, now) = (SocketAddr::from(([192, 0, 2, 1], 7117)), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(None));
        append(&mut outbox, 4, Some(0));
        let train = outbox.front(to, Trains::All, now).unwrap();
        assert_eq!((train.bytes.len(), train.proves), (3000, None));
        outbox.on_sent(1000, now, |block| panic!("{block:?}"));
        append(&mut outbox, 3, None);
        // The rest of the first train is not the last that waits any more.
        assert_eq!(sent(&mut outbox, Trains::All, now), [(3, None, vec![0]), (2, None, vec![]), (1, Some(1), vec![])]);
        outbox.on_sent(0, now, |block| panic!("{block:?}"));
    }
}
