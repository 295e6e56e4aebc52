//! One direction of the emulated WAN as a pure state machine on the caller's clock.
//!
//! A train passes the entry (passage, MTU), then the queue of the limited rate, then the random events: lost,
//! duplicated, corrupted or reordered datagrams are cut out of it, and the pieces between them stay whole. The pieces
//! wait for their delay and leave in order. No I/O, no clock, all randomness from one seed; never answers a sender (no
//! ICMP).

use std::{
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    counters::Counters,
    draw::Draw,
    impairment::{Impairment, Passage},
    interruptions::{NextLosses, Windows},
    loss::LossDraw,
    train::{Pool, Shape, Train, headers_of},
};
use crate::wire::{
    segment::{complete_checksum, segment_count, segment_range},
    virtio::VirtioHeader,
};

/// Upper bound of the bytes in one direction: 50 ms at 40 Gbit/s.
const MEMORY: usize = 256 << 20;
/// A train that takes longer than this at the limited rate is split into parts, as on a wire.
const TRAIN_TIME: Duration = Duration::from_millis(1);

/// One direction of the WAN.
#[derive(Debug)]
pub struct Link {
    impairment: Impairment,
    counters: Counters,
    rng: SmallRng,
    loss: LossDraw,
    interruptions: Windows,
    next_losses: NextLosses,
    duplicate: Draw,
    corrupt: Draw,
    reorder: Draw,
    /// When the limited rate has sent everything that was accepted.
    busy_until: Option<Instant>,
    /// When the latest train in `ordered` leaves; later trains never leave earlier.
    last_release: Option<Instant>,
    ordered: VecDeque<Transit>,
    held_back: BinaryHeap<Transit>,
    memory: usize,
    entered_trains: u64,
    fates: Vec<Fate>,
    pool: Pool,
}

/// A train between entry and exit.
#[derive(Debug)]
struct Transit {
    release: Instant,
    /// Orders trains that leave at the same time.
    number: u64,
    shape: Shape,
    train: Train,
}

/// What the random events do to one datagram of the current train.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fate {
    lost: bool,
    duplicated: bool,
    corrupted: bool,
    reordered: bool,
}

impl Link {
    /// A link with these properties; the same seed and the same datagrams give the same events.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let loss = LossDraw::new(&impairment.loss, &mut rng);
        let [duplicate, corrupt, reorder] = [impairment.duplicate, impairment.corrupt, impairment.reorder]
            .map(|probability| Draw::new(probability, &mut rng));
        Self {
            impairment,
            counters: Counters::default(),
            rng,
            loss,
            interruptions: Windows::default(),
            next_losses: NextLosses::default(),
            duplicate,
            corrupt,
            reorder,
            busy_until: None,
            last_release: None,
            ordered: VecDeque::new(),
            held_back: BinaryHeap::new(),
            memory: 0,
            entered_trains: 0,
            fates: Vec::new(),
            pool: Pool::default(),
        }
    }

    /// The properties in force.
    pub fn impairment(&self) -> &Impairment {
        &self.impairment
    }

    /// The counters so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Changes the properties. Datagrams in flight keep their delay, except that a blackhole drops them.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        let old = std::mem::replace(&mut self.impairment, impairment);
        let new = &self.impairment;
        // A model that did not change keeps its state, so that a new delay does not end a burst.
        if old.loss != new.loss {
            self.loss = LossDraw::new(&new.loss, &mut self.rng);
        }
        for (draw, before, after) in [
            (&mut self.duplicate, old.duplicate, new.duplicate),
            (&mut self.corrupt, old.corrupt, new.corrupt),
            (&mut self.reorder, old.reorder, new.reorder),
        ] {
            if before != after {
                *draw = Draw::new(after, &mut self.rng);
            }
        }
        if old.rate != new.rate {
            self.busy_until = None;
        }
        if new.passage == Passage::Blackhole {
            self.swallow();
        }
    }

    /// The interruptions, to be added to and to be asked.
    pub fn interruptions(&mut self) -> &mut Windows {
        &mut self.interruptions
    }

    /// Loses the next `count` datagrams of at least `bytes` bytes.
    pub fn lose_next(&mut self, count: u64, bytes: u64) {
        self.next_losses = NextLosses::new(count, bytes);
    }

    /// A buffer for a packet of `length` bytes, from those returned by [`recycle`](Self::recycle).
    pub fn buffer(&mut self, length: usize) -> Vec<u8> {
        self.pool.take(length)
    }

    /// Takes back the buffer of a train that has left.
    pub fn recycle(&mut self, train: Train) {
        self.pool.put(train.packet);
    }

    /// Records that the receiving kernel refused a train that [`poll_train`](Self::poll_train) returned.
    pub fn on_refused(&mut self, train: &Train) {
        let shape = shape_of(&train.header, &train.packet);
        self.counters.delivered -= shape.segments;
        self.counters.delivered_bytes -= shape.bytes;
        self.counters.lost.refused += shape.segments;
    }

    /// Takes a train at the entry.
    pub fn handle_train(&mut self, train: Train, now: Instant) {
        let shape = shape_of(&train.header, &train.packet);
        self.counters.trains += 1;
        self.counters.entered += shape.segments;
        self.counters.entered_bytes += shape.bytes;
        let lost = &mut self.counters.lost;
        let refused = match self.impairment.passage {
            Passage::Cut => Some(&mut lost.cut),
            Passage::Blackhole => Some(&mut lost.blackhole),
            Passage::Open if shape.each > self.impairment.mtu as u64 => Some(&mut lost.mtu),
            Passage::Open if self.memory + train.packet.capacity() > MEMORY => Some(&mut lost.overflow),
            Passage::Open if self.interruptions.swallow(shape.segments, now) => {
                self.counters.lost_last += shape.segments;
                Some(&mut lost.interrupted)
            }
            Passage::Open => None,
        };
        if let Some(cause) = refused {
            *cause += shape.segments;
            self.recycle(train);
            return;
        }
        self.draw_fates(shape, now);
        match self.impairment.rate {
            None => self.pass_whole(train, shape, now),
            Some(rate) => self.pass_queue(train, shape, rate, now),
        }
    }

    /// The next train that has arrived, or `None` until [`poll_timeout`](Self::poll_timeout).
    pub fn poll_train(&mut self, now: Instant) -> Option<Train> {
        let held_is_next = match (self.ordered.front(), self.held_back.peek()) {
            (Some(first), Some(held)) => held > first,
            (None, Some(_)) => true,
            _ => false,
        };
        let transit = if held_is_next {
            if self.held_back.peek()?.release > now {
                return None;
            }
            self.held_back.pop()?
        } else {
            if self.ordered.front()?.release > now {
                return None;
            }
            self.ordered.pop_front()?
        };
        self.memory -= transit.train.packet.capacity();
        self.counters.in_flight -= transit.shape.segments;
        self.counters.delivered += transit.shape.segments;
        self.counters.delivered_bytes += transit.shape.bytes;
        Some(transit.train)
    }

    /// When the next train arrives, if one is in flight.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ordered = self.ordered.front().map(|transit| transit.release);
        let held = self.held_back.peek().map(|transit| transit.release);
        ordered.into_iter().chain(held).min()
    }

    /// Draws the events of all datagrams at once; `fates` stays empty without events.
    fn draw_fates(&mut self, shape: Shape, now: Instant) {
        let Self { rng, fates, loss, next_losses, duplicate, corrupt, reorder, .. } = self;
        let Shape { segments, each, .. } = shape;
        let count = segments as usize;
        fates.clear();
        let mut mark = |at: u64, set: fn(&mut Fate)| {
            fates.resize(count, Fate::default());
            set(&mut fates[at as usize]);
        };
        (0..next_losses.take(segments, each)).for_each(|at| mark(at, |fate| fate.lost = true));
        loss.pass(segments, now, rng, |at| mark(at, |fate| fate.lost = true));
        duplicate.pass(segments, rng, |at| mark(at, |fate| fate.duplicated = true));
        corrupt.pass(segments, rng, |at| mark(at, |fate| fate.corrupted = true));
        reorder.pass(segments, rng, |at| mark(at, |fate| fate.reordered = true));
    }

    /// Without a limited rate: a train without events is moved, not copied.
    fn pass_whole(&mut self, train: Train, shape: Shape, now: Instant) {
        if self.fates.is_empty() {
            let release = self.release(now);
            self.send_off(train, shape, release, false);
        } else {
            self.pass_part(&train, shape, 0, shape.segments, now);
            self.recycle(train);
        }
    }

    /// The queue in front of the limited rate: datagrams are lost if it is full, otherwise they wait.
    fn pass_queue(&mut self, train: Train, shape: Shape, rate: u64, now: Instant) {
        let sending_time = |bytes: u64| Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        let start = self.busy_until.map_or(now, |until| until.max(now));
        let waiting = ((start - now).as_secs_f64() * rate as f64 / 8.0) as u64;
        // The datagram being sent does not count as waiting, so a queue of any size lets one through.
        let room = self.impairment.queue.saturating_sub(waiting).max(if waiting == 0 { shape.each } else { 0 });
        let fitting = if shape.bytes <= room { shape.segments } else { (room / shape.each.max(1)).min(shape.segments) };
        self.counters.lost.queue += shape.segments - fitting;
        let part = (TRAIN_TIME.as_secs_f64() * rate as f64 / 8.0 / shape.each.max(1) as f64) as u64;
        let part = part.max(1);
        let mut sent = start;
        if fitting == shape.segments && part >= fitting {
            sent += sending_time(shape.bytes);
            self.busy_until = Some(sent);
            self.pass_whole(train, shape, sent);
            return;
        }
        let mut from = 0;
        while from < fitting {
            let to = (from + part).min(fitting);
            sent += sending_time(shape.bytes_of(from, to));
            self.pass_part(&train, shape, from, to, sent);
            from = to;
        }
        self.busy_until = Some(sent);
        self.recycle(train);
    }

    /// Sends the datagrams `from..to`, in as few pieces as their events allow.
    fn pass_part(&mut self, train: &Train, shape: Shape, from: u64, to: u64, sent: Instant) {
        let release = self.release(sent);
        let mut at = from;
        while at < to {
            let fate = self.fate(at);
            if fate.lost {
                self.counters.lost.chance += 1;
                self.counters.lost_last += 1;
                at += 1;
                continue;
            }
            if fate != Fate::default() {
                self.pass_alone(train, shape, at, fate, release);
                at += 1;
                continue;
            }
            let mut end = at + 1;
            while end < to && self.fate(end) == Fate::default() {
                end += 1;
            }
            let piece = self.cut(train, shape, at, end);
            self.send_off(piece.0, piece.1, release, false);
            at = end;
        }
    }

    fn fate(&self, at: u64) -> Fate {
        self.fates.get(at as usize).copied().unwrap_or_default()
    }

    /// Sends a single datagram that has an event but is not lost.
    fn pass_alone(&mut self, train: &Train, shape: Shape, at: u64, fate: Fate, release: Instant) {
        let (mut alone, alone_shape) = self.cut(train, shape, at, at + 1);
        if fate.corrupted && corrupt(&mut alone, &mut self.rng) {
            self.counters.corrupted += 1;
        }
        if fate.duplicated {
            let mut packet = self.pool.take(alone.packet.len());
            packet.extend_from_slice(&alone.packet);
            self.counters.duplicated += 1;
            self.send_off(Train { header: alone.header, packet }, alone_shape, release, false);
        }
        let late = self.impairment.reorder_delay;
        if fate.reordered && !late.is_zero() {
            self.counters.reordered += 1;
            let late = late.mul_f64(1.0 - self.rng.random::<f64>());
            self.send_off(alone, alone_shape, release + late, true);
        } else {
            self.send_off(alone, alone_shape, release, false);
        }
    }

    fn cut(&mut self, train: &Train, shape: Shape, from: u64, to: u64) -> (Train, Shape) {
        let bytes = shape.bytes_of(from, to);
        let mut packet = self.pool.take(bytes as usize);
        let header = if shape.segments == 1 {
            packet.extend_from_slice(&train.packet);
            train.header
        } else {
            segment_range(train.header, &train.packet, from as usize..to as usize, &mut packet)
        };
        let headers = if to - from == 1 { 0 } else { shape.headers };
        let each = if to - from == 1 { bytes } else { shape.each };
        (Train { header, packet }, Shape { segments: to - from, headers, each, bytes })
    }

    /// When a train that was sent at `sent` arrives: never before one that was sent earlier.
    fn release(&mut self, sent: Instant) -> Instant {
        let mut release = sent + self.impairment.delay;
        if !self.impairment.jitter.is_zero() {
            release += self.impairment.jitter.mul_f64(self.rng.random::<f64>());
        }
        let release = self.last_release.map_or(release, |last| release.max(last));
        self.last_release = Some(release);
        release
    }

    fn send_off(&mut self, train: Train, shape: Shape, release: Instant, held_back: bool) {
        self.counters.lost_last = 0;
        self.memory += train.packet.capacity();
        self.counters.in_flight += shape.segments;
        self.entered_trains += 1;
        let transit = Transit { release, number: self.entered_trains, shape, train };
        if held_back {
            self.held_back.push(transit);
        } else {
            self.ordered.push_back(transit);
        }
    }

    /// Drops everything in flight, for a blackhole.
    fn swallow(&mut self) {
        self.counters.lost.blackhole += self.counters.in_flight;
        self.counters.in_flight = 0;
        self.memory = 0;
        self.busy_until = None;
        for transit in self.ordered.drain(..).chain(self.held_back.drain()) {
            self.pool.put(transit.train.packet);
        }
    }
}

fn shape_of(header: &VirtioHeader, packet: &[u8]) -> Shape {
    let segments = if header.gso_type == VirtioHeader::GSO_NONE { 1 } else { segment_count(*header, packet) };
    Shape::new(header, packet, segments)
}

/// Flips one to seven bits of one payload byte; `false` if there is no payload.
///
/// An unfinished UDP checksum stays unfinished, and the kernel completes it over the flipped bits: this models a router
/// with bad memory, which the checksum does not detect but the tunnel's authentication must. Any other packet keeps the
/// checksum it was sent with.
fn corrupt(train: &mut Train, rng: &mut SmallRng) -> bool {
    let partial = train.header.flags & VirtioHeader::NEEDS_CSUM != 0;
    let is_udp = train.header.csum_offset == 6;
    let payload = match (partial, is_udp) {
        (true, true) => usize::from(train.header.csum_start) + 8,
        (true, false) => {
            let as_tcp = VirtioHeader { gso_type: VirtioHeader::GSO_TCPV4, ..train.header };
            let payload = headers_of(&as_tcp, &train.packet);
            complete_checksum(train.header, &mut train.packet);
            train.header = VirtioHeader::default();
            payload
        }
        (false, _) => 40,
    };
    if payload >= train.packet.len() {
        return false;
    }
    train.header.flags &= !VirtioHeader::DATA_VALID;
    // Only one byte changes: changes in several bytes can give the same Internet checksum, and TCP would accept them.
    let at = rng.random_range(payload..train.packet.len());
    train.packet[at] ^= rng.random_range(1..=0x7f);
    true
}

// The heap returns the greatest element first, so the earliest transit must be the greatest.
impl Ord for Transit {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.release, other.number).cmp(&(self.release, self.number))
    }
}

impl PartialOrd for Transit {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Transit {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Transit {}

#[cfg(test)]
mod tests;
