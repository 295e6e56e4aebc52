//! One direction of the emulated WAN as a pure state machine on the caller's clock.
//!
//! A train passes the entrance (passage, MTU), the queue of the limited rate, then chance: lost, duplicated, corrupted or
//! reordered datagrams are cut out of it, what lies between stays whole. It waits out its delay and is drained in order.
//! Does no I/O, reads no clock and takes its randomness from one seed; never answers a sender (no ICMP).

use std::{
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    counters::Counters,
    draw::{Draw, LossDraw},
    impairment::{Impairment, Passage},
    train::{Pool, Shape, Train, headers_of},
};
use crate::wire::{
    segment::{complete_checksum, segment_count, segment_range},
    virtio::VirtioHeader,
};

/// Bytes that one direction holds at most: 50 ms at 40 Gbit/s.
const MEMORY: usize = 256 << 20;
/// A train that takes longer than this at the limited rate travels in several parts, as it would on a wire.
const TRAIN_TIME: Duration = Duration::from_millis(1);

/// One direction of the WAN.
#[derive(Debug)]
pub struct Link {
    impairment: Impairment,
    counters: Counters,
    rng: SmallRng,
    loss: LossDraw,
    duplicate: Draw,
    corrupt: Draw,
    reorder: Draw,
    /// When the limited rate has sent everything that was let in.
    busy_until: Option<Instant>,
    /// When the latest train in `ordered` leaves: none behind it leaves earlier.
    last_release: Option<Instant>,
    ordered: VecDeque<Transit>,
    held_back: BinaryHeap<Transit>,
    memory: usize,
    entered_trains: u64,
    fates: Vec<Fate>,
    pool: Pool,
}

/// A train between entrance and exit.
#[derive(Debug)]
struct Transit {
    release: Instant,
    /// Orders trains that leave at the same time.
    number: u64,
    shape: Shape,
    train: Train,
}

/// What chance has decided for a datagram of the train at hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fate {
    lost: bool,
    duplicated: bool,
    corrupted: bool,
    reordered: bool,
}

impl Link {
    /// A link with these properties; the same seed and the same datagrams give the same fates.
    pub fn new(impairment: Impairment, seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let loss = LossDraw::new(impairment.loss, &mut rng);
        let [duplicate, corrupt, reorder] = [impairment.duplicate, impairment.corrupt, impairment.reorder]
            .map(|probability| Draw::new(probability, &mut rng));
        Self {
            impairment,
            counters: Counters::default(),
            rng,
            loss,
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

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Changes the properties. What is in flight keeps its delay, except that a blackhole swallows it.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        let old = std::mem::replace(&mut self.impairment, impairment);
        let new = &self.impairment;
        // A model that did not change keeps its state, so that setting the delay does not end a burst.
        if old.loss != new.loss {
            self.loss = LossDraw::new(new.loss, &mut self.rng);
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

    /// A buffer for a packet of `length` bytes, from those that came back by [`recycle`](Self::recycle).
    pub fn buffer(&mut self, length: usize) -> Vec<u8> {
        self.pool.take(length)
    }

    /// Takes the buffer of a train that has left.
    pub fn recycle(&mut self, train: Train) {
        self.pool.put(train.packet);
    }

    /// Tells that the receiving kernel refused a train that [`poll_train`](Self::poll_train) gave.
    pub fn on_refused(&mut self, train: &Train) {
        let shape = shape_of(&train.header, &train.packet);
        self.counters.delivered -= shape.segments;
        self.counters.delivered_bytes -= shape.bytes;
        self.counters.lost.refused += shape.segments;
    }

    /// Lets a train enter.
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
            Passage::Open => None,
        };
        if let Some(cause) = refused {
            *cause += shape.segments;
            self.recycle(train);
            return;
        }
        self.draw_fates(shape.segments);
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

    /// When the next train arrives, if one is on its way.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ordered = self.ordered.front().map(|transit| transit.release);
        let held = self.held_back.peek().map(|transit| transit.release);
        ordered.into_iter().chain(held).min()
    }

    /// Decides for each datagram at once; `fates` stays empty when nothing befalls any.
    fn draw_fates(&mut self, segments: u64) {
        let Self { rng, fates, loss, duplicate, corrupt, reorder, .. } = self;
        let count = segments as usize;
        fates.clear();
        let mut mark = |at: u64, set: fn(&mut Fate)| {
            fates.resize(count, Fate::default());
            set(&mut fates[at as usize]);
        };
        loss.pass(segments, rng, |at| mark(at, |fate| fate.lost = true));
        duplicate.pass(segments, rng, |at| mark(at, |fate| fate.duplicated = true));
        corrupt.pass(segments, rng, |at| mark(at, |fate| fate.corrupted = true));
        reorder.pass(segments, rng, |at| mark(at, |fate| fate.reordered = true));
    }

    /// No limited rate: a train that nothing befalls is moved, not copied.
    fn pass_whole(&mut self, train: Train, shape: Shape, now: Instant) {
        if self.fates.is_empty() {
            let release = self.release(now);
            self.send_off(train, shape, release, false);
        } else {
            self.pass_part(&train, shape, 0, shape.segments, now);
            self.recycle(train);
        }
    }

    /// The queue in front of the limited rate: datagrams that find it full are lost, the others wait their turn.
    fn pass_queue(&mut self, train: Train, shape: Shape, rate: u64, now: Instant) {
        let sending_time = |bytes: u64| Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        let start = self.busy_until.map_or(now, |until| until.max(now));
        let waiting = ((start - now).as_secs_f64() * rate as f64 / 8.0) as u64;
        // The datagram being sent does not wait: a queue of any size lets one through.
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

    /// Sends the datagrams `from..to` on their way, in as few pieces as their fates allow.
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

    /// A datagram that something befalls, but which is not lost.
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

    /// A blackhole takes what is in flight.
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

/// Flips one to three bits of the payload; `false` when there is none.
///
/// A UDP checksum that the kernel left unfinished stays so, and is finished over the flipped bits: this is the router
/// with bad memory that a checksum does not catch, and what a tunnel's own authentication is for. Any other packet
/// keeps the checksum it was sent with.
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
    // Bits of one byte only: what flips in several can add up to the same Internet checksum, and TCP would believe it.
    let at = rng.random_range(payload..train.packet.len());
    train.packet[at] ^= rng.random_range(1..=0x7f);
    true
}

// The heap gives the greatest first: the earliest is the greatest.
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(byte: u8, length: usize) -> Train {
        Train { header: VirtioHeader::default(), packet: vec![byte; length] }
    }

    /// A UDP super-packet of `segments` datagrams of 1000 bytes, the last of 500; each is filled with its number.
    fn train(segments: usize) -> Train {
        let payload: Vec<u8> =
            (0..segments).flat_map(|at| vec![at as u8; if at + 1 == segments { 500 } else { 1000 }]).collect();
        let builder = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(7117, 7117);
        let mut packet = Vec::new();
        builder.write(&mut packet, &payload).unwrap();
        let header = VirtioHeader {
            flags: VirtioHeader::NEEDS_CSUM,
            gso_type: if segments > 1 { VirtioHeader::GSO_UDP_L4 } else { VirtioHeader::GSO_NONE },
            hdr_len: 28,
            gso_size: if segments > 1 { 1000 } else { 0 },
            csum_start: 20,
            csum_offset: 6,
        };
        Train { header, packet }
    }

    fn with(settings: &[(&str, &str)]) -> Impairment {
        let mut impairment = Impairment::default();
        settings.iter().for_each(|(key, value)| impairment.set(key, value).unwrap());
        impairment
    }

    fn drain(link: &mut Link, now: Instant) -> Vec<Train> {
        std::iter::from_fn(|| link.poll_train(now)).collect()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_packet_arrives_after_the_delay_and_in_order() {
        let now = Instant::now();
        let mut link = Link::new(with(&[("delay", "25ms"), ("jitter", "10ms")]), 1);
        for at in 0..100u8 {
            link.handle_train(plain(at, 100), now + MS * u32::from(at));
        }
        assert!(link.poll_train(now + 24 * MS).is_none());
        assert!(link.poll_timeout().unwrap() >= now + 25 * MS);
        let arrived: Vec<u8> = drain(&mut link, now + 200 * MS).iter().map(|train| train.packet[0]).collect();
        assert_eq!(arrived, (0..100).collect::<Vec<_>>());
        assert!(link.counters().balanced());
    }

    #[test]
    fn losing_one_datagram_leaves_two_trains() {
        let now = Instant::now();
        // The seed is searched for, so that the test does not depend on the generator.
        let (trains, counters) = (0..10_000)
            .find_map(|seed| {
                let mut link = Link::new(with(&[("loss", "2%")]), seed);
                link.handle_train(train(44), now);
                let is_hit = link.counters().lost.chance == 1;
                let trains = drain(&mut link, now);
                (is_hit && trains.len() == 2).then(|| (trains, link.counters()))
            })
            .unwrap();
        assert_eq!((counters.entered, counters.delivered, counters.lost.total()), (44, 43, 1));
        let segments: usize = trains.iter().map(|train| segment_count(train.header, &train.packet)).sum();
        assert_eq!(segments, 43);
        assert_eq!(counters.entered_bytes - counters.delivered_bytes, 1028);
        for train in &trains {
            assert!(etherparse::SlicedPacket::from_ip(&train.packet).is_ok());
        }
    }

    #[test]
    fn what_was_lost_behind_the_last_that_passed_is_counted_and_nothing_else() {
        let now = Instant::now();
        let mut seen = [0; 3];
        for seed in 0..200 {
            let mut link = Link::new(with(&[("loss", "40%")]), seed);
            link.handle_train(train(44), now);
            let last = drain(&mut link, now).last().and_then(|train| train.packet.last().copied()).unwrap();
            let behind = 43 - u64::from(last);
            assert_eq!(link.counters().lost_last, behind, "seed {seed}");
            seen[behind.min(2) as usize] += 1;
            // What meets a cut is no loss that anybody was promised protection from.
            link.set_impairment(with(&[("passage", "cut")]));
            link.handle_train(train(10), now);
            assert_eq!(link.counters().lost_last, behind, "seed {seed}");
            link.set_impairment(with(&[]));
            link.handle_train(train(1), now);
            assert_eq!(link.counters().lost_last, 0, "seed {seed}");
        }
        assert!(seen.iter().all(|times| *times > 0), "{seen:?}");
    }

    #[test]
    fn an_untouched_train_stays_whole() {
        let now = Instant::now();
        let mut link = Link::new(with(&[("delay", "1ms"), ("loss", "0.0001%")]), 1);
        let sent = train(44);
        let bytes = sent.packet.clone();
        link.handle_train(sent, now);
        let arrived = drain(&mut link, now + MS);
        assert_eq!(arrived.len(), 1);
        assert_eq!(arrived[0].packet, bytes);
        assert_eq!(link.counters().delivered, 44);
    }

    #[test]
    fn a_cut_lets_what_is_in_flight_arrive_and_a_blackhole_does_not() {
        let now = Instant::now();
        for (passage, arrives) in [("cut", 44), ("blackhole", 0)] {
            let mut link = Link::new(with(&[("delay", "25ms")]), 1);
            link.handle_train(train(44), now);
            link.set_impairment(with(&[("delay", "25ms"), ("passage", passage)]));
            link.handle_train(train(10), now + MS);
            drain(&mut link, now + 100 * MS);
            let counters = link.counters();
            assert_eq!(counters.delivered, arrives, "{passage}");
            assert_eq!(counters.lost.cut + counters.lost.blackhole, 54 - arrives);
            link.set_impairment(with(&[("delay", "25ms")]));
            link.handle_train(train(3), now + 200 * MS);
            assert_eq!(drain(&mut link, now + 300 * MS).len(), 1);
            assert!(link.counters().balanced());
        }
    }

    #[test]
    fn the_rate_paces_and_its_queue_is_bounded() {
        let now = Instant::now();
        let mut link = Link::new(with(&[("rate", "8mbit"), ("queue", "10kB")]), 1);
        for _ in 0..20 {
            link.handle_train(plain(0, 1000), now);
        }
        // The one being sent is among the ten.
        assert_eq!(link.counters().lost.queue, 10);
        assert_eq!(drain(&mut link, now + 5 * MS).len(), 5);
        assert_eq!(drain(&mut link, now + 11 * MS).len(), 5);
        link.handle_train(train(5), now + 20 * MS);
        assert_eq!(drain(&mut link, now + 22 * MS).len(), 1, "a slow train arrives datagram by datagram");
        assert_eq!(drain(&mut link, now + 30 * MS).len(), 4);
        assert!(link.counters().balanced());
    }

    #[test]
    fn reordered_datagrams_are_overtaken_and_duplicates_follow() {
        let now = Instant::now();
        let mut link = Link::new(with(&[("reorder", "10%"), ("reorder_delay", "5ms"), ("duplicate", "10%")]), 3);
        for at in 0..200u8 {
            link.handle_train(plain(at, 100), now + MS * u32::from(at));
        }
        let arrived: Vec<u8> = drain(&mut link, now + 1000 * MS).iter().map(|train| train.packet[0]).collect();
        let counters = link.counters();
        assert!(counters.reordered > 5 && counters.duplicated > 5);
        assert_eq!(arrived.len() as u64, 200 + counters.duplicated);
        assert!(arrived.windows(2).any(|pair| pair[1] < pair[0]));
    }

    #[test]
    fn corruption_flips_payload_bits_of_single_datagrams() {
        let now = Instant::now();
        let mut link = Link::new(with(&[("corrupt", "100%")]), 3);
        let sent = train(1);
        let original = sent.packet.clone();
        link.handle_train(sent, now);
        let arrived = link.poll_train(now).unwrap();
        assert_eq!(arrived.packet[..28], original[..28]);
        assert_ne!(arrived.packet, original);
        assert_eq!(link.counters().corrupted, 1);
        link.handle_train(plain(0x45, 21), now);
        assert_eq!(link.counters().corrupted, 1, "no payload, nothing to corrupt");
    }

    #[test]
    fn packets_above_the_mtu_do_not_enter() {
        let mut link = Link::new(with(&[("mtu", "1000")]), 3);
        let now = Instant::now();
        link.handle_train(train(4), now);
        link.handle_train(plain(0, 1000), now);
        assert_eq!((link.counters().lost.mtu, link.counters().in_flight), (4, 1));
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut link = Link::new(with(&[("delay", "10s")]), 3);
        for _ in 0..6000 {
            let mut packet = link.buffer(60_000);
            packet.resize(60_000, 0);
            link.handle_train(Train { header: VirtioHeader::default(), packet }, now);
        }
        assert!(link.counters().lost.overflow > 0 && link.memory <= MEMORY);
        link.set_impairment(with(&[("passage", "blackhole")]));
        assert!(link.counters().balanced() && link.poll_timeout().is_none());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Whatever happens, every datagram is accounted for, and the same seed does the same again.
        #[test]
        fn every_datagram_is_accounted_for(
            seed: u64,
            loss in 0..40u32,
            others in 0..30u32,
            rate in prop::option::of(1..400u32),
            steps in prop::collection::vec((1..60usize, 0..4000u32, 0..12u8), 1..60),
        ) {
            let run = || {
                let mut impairment = with(&[("delay", "3ms"), ("jitter", "1ms"), ("queue", "100kB")]);
                impairment.set("loss", &format!("{loss}%")).unwrap();
                for key in ["reorder", "duplicate", "corrupt"] {
                    impairment.set(key, &format!("{others}%")).unwrap();
                }
                impairment.rate = rate.map(|rate| u64::from(rate) * 1_000_000);
                let mut link = Link::new(impairment.clone(), seed);
                let start = Instant::now();
                let mut now = start;
                let mut log = Vec::new();
                for (segments, wait, action) in &steps {
                    now += Duration::from_micros(u64::from(*wait));
                    impairment.passage = match action { 0 => Passage::Cut, 1 => Passage::Blackhole, _ => Passage::Open };
                    link.set_impairment(impairment.clone());
                    link.handle_train(train(*segments), now);
                    for train in drain(&mut link, now) {
                        log.push((now - start, train.packet.clone()));
                        link.recycle(train);
                    }
                    assert!(link.counters().balanced(), "{:?}", link.counters());
                }
                for train in drain(&mut link, now + Duration::from_secs(60)) {
                    assert!(segment_count(train.header, &train.packet) >= 1);
                    log.push((now - start, train.packet));
                }
                assert_eq!(link.counters().in_flight, 0);
                assert_eq!(link.memory, 0);
                (log, link.counters())
            };
            prop_assert_eq!(run(), run());
        }
    }
}
