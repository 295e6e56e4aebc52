//! Datagrams on their way out to one peer, sealed, in trains of equal length: what one system call can take.
//!
//! A datagram is written where it will be sent from. A train holds datagrams of one length, the last may be shorter;
//! the bound on the queue is kept by whoever reads the TUN, through [`is_full`](Outbox::is_full).
//!
//! The last datagram of a block for which protection is claimed travels alone: the kernel stamps only the first datagram
//! of a train that it cuts, and this is the one whose departure shows that the block has left.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

use super::pacer::Pacer;
use crate::wire::payload_id::BlockId;

/// The most datagrams in a train (the kernel's `UDP_MAX_SEGMENTS` before 6.9 is 64).
pub const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The most bytes in a train: an IP packet less its headers, with some room.
pub const TRAIN_BYTES_MAX: usize = 65_000;
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
    /// It is the last datagram of this block, alone.
    ends: Option<BlockId>,
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
    /// It is one datagram, the last of this block: its departure is worth a timestamp.
    pub ends: Option<BlockId>,
}

/// What waits to be sent to one peer.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Train>,
    spare: Vec<Train>,
    pacer: Pacer,
    train_max: usize,
}

impl Outbox {
    /// An empty outbox with this pacing.
    pub fn new(pacer: Pacer) -> Self {
        let train_max = pacer.train_max(TRAIN_BYTES_MAX);
        Self { queue: VecDeque::new(), spare: Vec::new(), pacer, train_max }
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
            let mut bytes = self.spare.pop().unwrap_or_default().bytes;
            bytes.resize(self.train_max.max(len), 0);
            self.queue.push_back(Train {
                bytes,
                fill: 0,
                datagram_len: len,
                datagrams: 0,
                ended: false,
                sent: 0,
                ends: None,
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

    /// The datagram appended last, the only one of its train, is the last of `block`.
    pub fn end_block(&mut self, block: BlockId) {
        if let Some(train) = self.queue.back_mut() {
            train.ended = true;
            train.ends = Some(block);
        }
    }

    /// A train waits that nothing more will be added to.
    pub fn has_full_train(&self) -> bool {
        self.queue.len() > 1 || self.queue.front().is_some_and(|train| train.datagrams == TRAIN_DATAGRAMS_MAX)
    }

    /// So much waits that no more should be made.
    pub fn is_full(&self) -> bool {
        // The ends of blocks are short: counted like the others they would halve what may wait.
        self.queue.len() >= TRAINS_MAX && self.queue.iter().filter(|train| train.ends.is_none()).count() >= TRAINS_MAX
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The next train, if pacing lets it leave.
    pub fn front(&self, to: SocketAddr, now: Instant) -> Option<Transmit<'_>> {
        let train = self.queue.front()?;
        if self.pacer.ready_at(now).is_some() {
            return None;
        }
        Some(Transmit {
            to,
            bytes: &train.bytes[train.sent..train.fill],
            datagram_len: train.datagram_len,
            ends: train.ends,
        })
    }

    /// When pacing lets the next train leave, if one waits for that.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() { None } else { self.pacer.ready_at(now) }
    }

    /// Notes that the socket took `bytes` of the front train. Returns the block whose last datagram that was.
    pub fn on_sent(&mut self, bytes: usize, now: Instant) -> Option<BlockId> {
        self.pacer.on_sent(bytes, now);
        let train = self.queue.front_mut()?;
        train.sent += bytes;
        train.ended = true;
        if train.sent < train.fill {
            return None;
        }
        let train = self.queue.pop_front()?;
        let ends = train.ends;
        self.spare.push(train);
        ends
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
        while let Some(train) = outbox.front(to, now) {
            trains.push((train.bytes.len(), train.datagram_len));
            let len = train.bytes.len();
            outbox.on_sent(len, now);
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
        while let Some(train) = outbox.front(to, now) {
            let count = train.bytes.len().div_ceil(train.datagram_len);
            assert!(train.bytes.len() <= TRAIN_BYTES_MAX && count <= TRAIN_DATAGRAMS_MAX);
            datagrams += count;
            let half = train.datagram_len;
            outbox.on_sent(half, now);
        }
        assert!(datagrams >= 2000);
        assert!(outbox.is_empty());
    }
}
