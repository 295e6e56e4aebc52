//! Sealed datagrams that wait to be sent to one peer, in trains of equal length: one train for one system call.
//!
//! A datagram is written into the memory that it is sent from. A train holds datagrams of one length and one traffic
//! class; the last may be shorter. The caller that reads the TUN keeps the bounds on the queue. If the path has a rate, a packet that would
//! wait longer than `queue_max` is dropped ([`is_over`](Outbox::is_over)): other peers must not wait for this one.
//! Without a rate only the socket, which all peers share, can hold datagrams up; then no more packets are read
//! ([`is_full`](Outbox::is_full)). If the wait for the rate stays long, packets are picked that tell their senders
//! ([`picks`](Outbox::picks)), and blocks close without repair symbols ([`sheds_repair`](Outbox::sheds_repair)): more
//! bytes behind a full queue would rebuild nothing.
//!
//! Sends are counted. Each block that ends is reported with the number of the send that took its last datagram, because
//! timestamps show send by send what has left. The kernel stamps only the first datagram of a train that it cuts; the
//! next send shows that the others have left. So the datagram that ends the last waiting block travels alone: the next
//! send may be far away.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::block_event::Part;
use super::codel::Codel;
use super::endpoint::Endpoint;
use super::pacer::Pacer;
use crate::wire::payload_id::BlockId;
use crate::wire::traffic_class::TrafficClass;

/// The most datagrams in a train (the kernel's `UDP_MAX_SEGMENTS` before 6.9 is 64).
pub const TRAIN_DATAGRAMS_MAX: usize = 64;
/// The most bytes in a train: an IP packet less its headers, with a margin.
pub const TRAIN_BYTES_MAX: usize = 65_000;
/// No more packets are read when this many trains wait for the socket.
const TRAINS_MAX: usize = 4;
/// Bytes that may wait, however fast the path is.
const BYTES_MAX: usize = 64 << 20;
/// Empty trains that are kept for their memory.
const SPARE_MAX: usize = 64;

/// Datagrams of equal length for one address.
#[derive(Debug, Default)]
struct Train {
    /// A buffer for the longest train; the first `fill` bytes are datagrams.
    bytes: Vec<u8>,
    fill: usize,
    datagram_len: usize,
    class: TrafficClass,
    datagrams: usize,
    /// Nothing more may be added: a shorter datagram ended it, or part of it was sent.
    ended: bool,
    sent: usize,
    /// The parts of blocks whose last datagram is in this train.
    ends: Vec<(BlockId, Part)>,
    /// When its first datagram was appended.
    since: Option<Instant>,
}

impl Train {
    fn left(&self) -> usize {
        self.fill - self.sent
    }

    /// The bytes left, without the last datagram.
    fn but_last(&self) -> usize {
        (self.left().saturating_sub(1)) / self.datagram_len.max(1) * self.datagram_len
    }
}

/// Which trains to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trains {
    /// Only complete trains: more packets are about to come.
    Full,
    /// All.
    All,
}

/// A train for the socket.
#[derive(Debug)]
pub struct Transmit<'a> {
    /// The destination, and our own address.
    pub to: Endpoint,
    /// Datagrams end to end.
    pub bytes: &'a [u8],
    /// Bytes of each datagram; the last may be shorter.
    pub datagram_len: usize,
    /// DSCP and ECN field of each.
    pub class: TrafficClass,
    /// The number of this send, if the kernel takes anything of it.
    pub send: u64,
    /// When its first datagram was appended.
    pub since: Instant,
}

/// What waits to be sent to one peer.
#[derive(Debug)]
pub struct Outbox {
    queue: VecDeque<Train>,
    spare: Vec<Train>,
    pacer: Pacer,
    codel: Codel,
    train_max: usize,
    /// How long a datagram may wait for the path's rate.
    queue_max: Duration,
    /// Bytes that wait.
    waiting: usize,
    /// Sends of which the kernel took something.
    sends: u64,
}

impl Outbox {
    /// An empty outbox. If `pacer` has a rate, datagrams wait for it for not much longer than `queue_max`.
    pub fn new(pacer: Pacer, queue_max: Duration) -> Self {
        let train_max = pacer.train_max(TRAIN_BYTES_MAX);
        let codel = Codel::new(queue_max);
        Self { queue: VecDeque::new(), spare: Vec::new(), pacer, codel, train_max, queue_max, waiting: 0, sends: 0 }
    }

    /// From now on the path has this pace. What waits stays, and leaves at it.
    pub fn set_pace(&mut self, pacer: Pacer, queue_max: Duration) {
        // Its buffer may be too short for what a train may hold now.
        self.queue.iter_mut().for_each(|train| train.ended = true);
        self.train_max = pacer.train_max(TRAIN_BYTES_MAX);
        self.codel = Codel::new(queue_max);
        (self.pacer, self.queue_max) = (pacer, queue_max);
    }

    /// Appends a datagram of `len` bytes and returns it for filling; it holds old bytes.
    pub fn append(&mut self, len: usize, class: TrafficClass, now: Instant) -> &mut [u8] {
        let fits = self.queue.back().is_some_and(|train| {
            !train.ended
                && len <= train.datagram_len
                && class == train.class
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
                class,
                datagrams: 0,
                ended: false,
                sent: 0,
                ends,
                since: Some(now),
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

    /// Ends the open train: the next datagram begins another.
    pub fn end_train(&mut self) {
        if let Some(train) = self.queue.back_mut() {
            train.ended = true;
        }
    }

    /// Notes that the datagram appended last is the last of a part of `block`.
    pub fn end_part(&mut self, block: BlockId, part: Part) {
        if let Some(train) = self.queue.back_mut() {
            train.ends.push((block, part));
        }
    }

    /// A complete train waits: nothing more is added to it.
    pub fn has_full_train(&self) -> bool {
        self.queue.len() > 1 || self.queue.front().is_some_and(|train| train.datagrams == TRAIN_DATAGRAMS_MAX)
    }

    /// Enough trains wait for the socket: no more packets should be read. Never true with a rate, because one slow path
    /// must not hold up other peers.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= TRAINS_MAX && !self.pacer.has_rate()
    }

    /// A datagram appended now would wait too long for the path's rate.
    pub fn is_over(&self, now: Instant) -> bool {
        self.pacer.has_rate()
            && (self.waiting > BYTES_MAX || self.pacer.delay_behind(self.waiting, now) > self.queue_max)
    }

    /// How long a datagram appended now would wait, as far as that is more than the trains that the pace makes anyway: a
    /// slow path takes longer than the target for one.
    fn wait(&self, now: Instant) -> Duration {
        match self.pacer.has_rate() && self.waiting > self.train_max {
            true => self.pacer.delay_behind(self.waiting, now),
            false => Duration::ZERO,
        }
    }

    /// A packet is about to be put into a block. Returns whether it is to tell its sender that the queue stands.
    pub fn picks(&mut self, now: Instant) -> bool {
        let wait = self.wait(now);
        self.codel.on_packet(wait, now)
    }

    /// The queue stands: a block that closes now gets no repair symbols.
    pub fn sheds_repair(&self, now: Instant) -> bool {
        self.codel.stands(self.wait(now), now)
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The front train or its beginning, if it is one of `trains` and pacing lets it leave.
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
        let since = train.since.unwrap_or(now);
        let (datagram_len, class) = (train.datagram_len, train.class);
        Some(Transmit { to, bytes, datagram_len, class, send: self.sends, since })
    }

    /// When pacing lets the front train leave, if it has to wait for that.
    pub fn ready_at(&self, now: Instant) -> Option<Instant> {
        if self.queue.is_empty() { None } else { self.pacer.ready_at(now) }
    }

    /// Notes that the socket took `bytes` of the front train. When all of the train is taken, calls `taken` for each
    /// part of a block that ends in it, with the number of this send and whether this send was a single datagram.
    pub fn on_sent(&mut self, bytes: usize, now: Instant, taken: impl FnMut((BlockId, Part), u64, bool)) {
        let send = self.sends;
        self.sends += u64::from(bytes > 0);
        self.advance(send, bytes, now, taken);
    }

    /// Skips `bytes` of the front train, which cannot be sent. This is not a send.
    pub fn skip(&mut self, bytes: usize, now: Instant, taken: impl FnMut((BlockId, Part), u64, bool)) {
        self.advance(self.sends, bytes, now, taken);
    }

    fn advance(&mut self, send: u64, bytes: usize, now: Instant, mut taken: impl FnMut((BlockId, Part), u64, bool)) {
        self.pacer.on_sent(bytes, now);
        let Some(train) = self.queue.front_mut() else { return };
        self.waiting -= bytes.min(train.left());
        train.sent += bytes;
        train.ended = true;
        if train.sent < train.fill {
            return;
        }
        let alone = bytes <= train.datagram_len;
        train.ends.drain(..).for_each(|end| taken(end, send, alone));
        if let Some(train) = self.queue.pop_front() {
            self.keep(train);
        }
    }

    fn keep(&mut self, train: Train) {
        if self.spare.len() < SPARE_MAX {
            self.spare.push(train);
        }
    }

    /// Drops the front train, which cannot be sent; returns its number of datagrams.
    pub fn discard_front(&mut self) -> u64 {
        let Some(train) = self.queue.pop_front() else { return 0 };
        let datagrams = train.left().div_ceil(train.datagram_len.max(1));
        self.waiting -= train.left();
        self.keep(train);
        datagrams as u64
    }

    /// Drops everything; returns the number of datagrams.
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

    const PLAIN: TrafficClass = TrafficClass(0);

    #[test]
    fn a_datagram_of_another_class_begins_another_train() {
        let (to, now) = (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(None), Duration::ZERO);
        for (count, class) in [(3, 0), (2, 2), (1, 0), (4, 0xb8)] {
            (0..count).for_each(|_| outbox.append(100, TrafficClass(class), now).fill(class));
        }
        let mut trains = Vec::new();
        while let Some(train) = outbox.front(to, Trains::All, now) {
            let (len, class) = (train.bytes.len(), train.class.0);
            assert!(train.bytes.iter().all(|&byte| byte == class));
            outbox.on_sent(len, now, |_, _, _| {});
            trains.push((len / 100, class));
        }
        assert_eq!(trains, [(3, 0), (2, 2), (1, 0), (4, 0xb8)]);
    }

    #[test]
    fn a_pace_changes_while_a_short_train_waits() {
        let (to, now) = (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(Some(1_000_000)), Duration::from_millis(50));
        outbox.append(1400, PLAIN, now).fill(1);
        outbox.set_pace(Pacer::new(None), Duration::from_millis(50));
        // As many as one train of the new pace has; the buffer of the one that waits is too short for them.
        (0..40).for_each(|_| outbox.append(1400, PLAIN, now).fill(2));
        let mut sent = Vec::new();
        while let Some(train) = outbox.front(to, Trains::All, now) {
            sent.extend_from_slice(train.bytes);
            let len = train.bytes.len();
            outbox.on_sent(len, now, |_, _, _| {});
        }
        assert_eq!(sent, [vec![1; 1400], vec![2; 40 * 1400]].concat());
    }

    /// Offers bytes at `load` times the rate of the path, in packets of `packet` bytes, for `time`. Sends as the pace
    /// allows. Returns how many were picked, and how often repair would have been shed.
    fn offered(rate: u64, load: f64, packet: usize, time: Duration) -> (u32, u32) {
        let (to, start) = (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(Some(rate)), Duration::from_millis(50));
        let step = Duration::from_secs_f64(packet as f64 / (rate as f64 * load));
        let (mut now, mut next, mut picked, mut shed) = (start, start, 0, 0);
        while now < start + time {
            if next <= now {
                next += step;
                if !outbox.is_over(now) {
                    picked += u32::from(outbox.picks(now));
                    (0..packet.div_ceil(1250)).for_each(|_| outbox.append(1250, PLAIN, now).fill(0));
                    shed += u32::from(outbox.sheds_repair(now));
                }
            }
            while let Some(train) = outbox.front(to, Trains::All, now) {
                assert!(train.bytes.len() <= (rate as usize / 4000).max(3000), "a train of at most a quantum");
                let len = train.bytes.len();
                outbox.on_sent(len, now, |_, _, _| {});
            }
            now += Duration::from_micros(50);
        }
        (picked, shed)
    }

    #[test]
    fn only_a_load_above_the_rate_makes_the_queue_stand() {
        let time = Duration::from_secs(1);
        for rate in [20_000, 125_000, 1_250_000, 12_500_000] {
            for packet in [1250, 12_500] {
                assert_eq!(offered(rate, 0.9, packet, time), (0, 0), "{rate} bytes a second, {packet} at once");
            }
        }
        for rate in [1_250_000, 12_500_000] {
            for packet in [1250, 12_500] {
                let (picked, shed) = offered(rate, 2.0, packet, time);
                assert!(picked > 2 && shed > 2, "{picked} picked, {shed} shed at {rate} bytes a second");
            }
        }
    }

    #[test]
    fn equal_datagrams_share_a_train_and_a_shorter_one_ends_it() {
        let (to, now) = (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now());
        let mut outbox = Outbox::new(Pacer::new(None), Duration::ZERO);
        for len in [100, 100, 40, 40, 100] {
            outbox.append(len, PLAIN, now).fill(len as u8);
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
            outbox.append(1452, PLAIN, now);
        }
        for _ in 0..1000 {
            outbox.append(100, PLAIN, now);
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
    fn a_path_slower_than_its_load_does_not_hold_up_other_peers() {
        let (to, mut now, queue_max) =
            (Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117))), Instant::now(), Duration::from_millis(50));
        // The path carries 1 Mbit/s; the load is ten times as much.
        let mut outbox = Outbox::new(Pacer::new(Some(125_000)), queue_max);
        let (mut waits, mut offered, mut dropped, mut left) = (VecDeque::new(), 0, 0, 0);
        let mut longest = Duration::ZERO;
        for _ in 0..5_000 {
            now += Duration::from_millis(1);
            assert!(!outbox.is_full(), "packets for other peers are still read");
            offered += 1250;
            if outbox.is_over(now) {
                dropped += 1250;
            } else {
                outbox.append(1250, PLAIN, now).fill(0);
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
    fn a_fast_path_holds_at_most_its_memory_bound_for_any_waiting_time() {
        let now = Instant::now();
        let mut outbox = Outbox::new(Pacer::new(Some(12_500_000_000)), Duration::from_secs(1));
        while !outbox.is_over(now) {
            outbox.append(65_000, PLAIN, now);
        }
        assert!(outbox.waiting <= BYTES_MAX + 65_000, "{}", outbox.waiting);
        assert!(outbox.waiting > BYTES_MAX, "the rate alone would allow more");
    }

    /// Sends all of `trains`. Returns for each send its datagrams, and the blocks that end with it: `true` if the end
    /// was alone.
    fn sent(outbox: &mut Outbox, trains: Trains, now: Instant) -> Vec<(usize, Vec<(u64, bool)>)> {
        let to = Endpoint::from(SocketAddr::from(([192, 0, 2, 1], 7117)));
        let mut sent = Vec::new();
        while let Some(train) = outbox.front(to, trains, now) {
            let (len, datagrams, number) =
                (train.bytes.len(), train.bytes.len().div_ceil(train.datagram_len), train.send);
            let mut taken = Vec::new();
            outbox.on_sent(len, now, |(block, _), send, alone| {
                assert_eq!(send, number);
                taken.push((block.sbn, alone));
            });
            sent.push((datagrams, taken));
        }
        sent
    }

    fn append(outbox: &mut Outbox, datagrams: usize, ends: Option<u64>) {
        (0..datagrams).for_each(|_| outbox.append(1000, PLAIN, Instant::now()).fill(0));
        ends.into_iter().for_each(|sbn| outbox.end_part(BlockId { profile: 0, sbn }, Part::Early));
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
        assert_eq!(sent(&mut outbox, Trains::All, now), [(26, vec![])], "it follows blocks 0 and 1; none ends in it");
        append(&mut outbox, 1, Some(2));
        assert_eq!(sent(&mut outbox, Trains::All, now), [(1, vec![(2, true)])]);
        append(&mut outbox, 70, Some(3));
        let all = sent(&mut outbox, Trains::All, now);
        assert_eq!(all, [(64, vec![]), (5, vec![]), (1, vec![(3, true)])]);
        assert_eq!(outbox.sends, 6);
    }

    #[test]
    fn a_send_counts_if_the_kernel_took_bytes_and_a_block_ends_with_the_send_of_its_last_datagram() {
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
        // Another train waits behind the first, so the rest of the first leaves in one send.
        assert_eq!(sent(&mut outbox, Trains::All, now), [(3, vec![(0, false)]), (3, vec![])]);
        assert_eq!(outbox.sends, 3);
        outbox.on_sent(0, now, |block, _, _| panic!("{block:?}"));
    }
}
