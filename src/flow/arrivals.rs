//! What of each TCP flow from a peer was handed on here: up to which byte without a gap, what is missing behind it, and
//! how much the TCP at our end has acknowledged.
//!
//! The other half of [`FlowTable`](super::FlowTable), for the end that receives: asked when the sender is gone for good. One parse was
//! made for every packet anyway; in order it costs a look-up and an addition. It promises nothing and judges nothing, and
//! knows neither blocks nor the link. The table is bounded: the flow that was idle for longest gives way, and is counted.

use std::time::Instant;

use super::ages::{Ages, Line};
use super::index::Index;
use super::key::{FlowKey, Hash, PackedKey};
use super::plausible::{Ends, Segment, has_sound_checksum};
use super::sequence::{REACH, offset};
use crate::wire::packet::{PacketView, TCP, TcpHeader};
use crate::wire::timestamp::Clock;
use crate::wire::virtio::VirtioHeader;

/// Runs of bytes behind a gap that are kept apart. More are taken for missing.
pub const ISLANDS_MAX: usize = 8;

/// Bytes of a flow, from the first to before the second, counted from its beginning.
pub type Span = (u64, u64);

/// One flow, as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its 5-tuple as the peer's packets carry it: the source is at the peer's side.
    pub key: FlowKey,
    /// The sequence number of byte 0.
    pub base: u32,
    /// Byte 0 is the first of the connection; otherwise the first that was seen.
    pub from_syn: bool,
    /// Everything before this byte was handed on, or acknowledged by our end.
    pub contiguous: u64,
    /// The end of the highest byte handed on.
    pub highest: u64,
    /// What our end has acknowledged, if that was seen.
    pub acked: Option<u64>,
    /// Where the sender has ended the stream.
    pub end: Option<u64>,
    /// Either end broke it off, and ours lacks nothing or has done it itself.
    pub reset: bool,
    /// Since when the first gap is there.
    pub gap_since: Option<Instant>,
    /// When anything of it was last seen.
    pub seen: Instant,
    /// What the peer's end, the sender, and ours have shown.
    ends: Ends,
    /// Of the bytes that our end has not acknowledged, how many are kept to be sent again; for whoever keeps them to set.
    pub kept: u64,
    islands: [Span; ISLANDS_MAX],
    count: usize,
}

impl Arrival {
    fn new(key: FlowKey, base: u32, from_syn: bool, now: Instant) -> Self {
        Self {
            key,
            base,
            from_syn,
            contiguous: 0,
            highest: 0,
            acked: None,
            end: None,
            reset: false,
            gap_since: None,
            seen: now,
            ends: Ends::default(),
            kept: 0,
            islands: [(0, 0); ISLANDS_MAX],
            count: 0,
        }
    }

    /// What is missing before [`highest`](Self::highest), from the lowest on.
    pub fn missing(&self) -> impl Iterator<Item = Span> + '_ {
        let islands = self.islands[..self.count].iter();
        let begins = islands.clone().map(|island| island.0).chain([self.highest]);
        let ends = [self.contiguous].into_iter().chain(islands.map(|island| island.1));
        ends.zip(begins).filter(|(from, to)| from < to)
    }

    /// Something before the highest byte is missing.
    pub fn has_gap(&self) -> bool {
        self.highest > self.contiguous
    }

    /// Bytes that were handed on and that our end has not acknowledged; none where its acknowledgements are not seen.
    pub fn unacknowledged(&self) -> u64 {
        self.acked.map_or(0, |acked| self.contiguous.saturating_sub(acked))
    }

    /// Nothing of it is wanted any more: broken off, or all of it acknowledged to its end.
    pub fn is_over(&self) -> bool {
        self.reset || self.end.is_some_and(|end| self.acked.is_some_and(|acked| acked >= end))
    }

    /// The sequence number of a byte.
    pub fn sequence(&self, byte: u64) -> u32 {
        self.base.wrapping_add(byte as u32)
    }

    /// Adds what another lane was given of the same connection; nothing if it is another one.
    pub fn merge(&mut self, other: &Self) {
        let distance = offset(other.base, self.base, self.highest);
        if self.key != other.key || distance.abs() > REACH {
            return;
        }
        let moved = |byte: u64| u64::try_from(distance + byte as i64).unwrap_or(0);
        let islands = other.islands[..other.count].iter().copied();
        for (from, to) in [(0, other.contiguous)].into_iter().chain(islands) {
            self.add(moved(from), moved(to), other.gap_since.unwrap_or(other.seen));
        }
        self.highest = self.highest.max(moved(other.highest));
        self.acked = self.acked.max(other.acked.map(moved));
        self.contiguous = self.contiguous.max(self.acked.unwrap_or(0));
        self.end = self.end.or(other.end.map(moved));
        self.reset |= other.reset;
        self.kept += other.kept;
        self.seen = self.seen.max(other.seen);
        self.settle(self.seen);
    }

    /// Whoever forges what arrives can only make something seem to be missing: that errs on the safe side. What ends a
    /// flow, so that nothing of it is asked about any more, must be what our end would take. Gives the first byte, and what
    /// an acknowledgement of all of it acknowledges.
    fn on_segment(&mut self, header: &TcpHeader, len: u32, scale: Option<u8>, now: Instant) -> Option<Span> {
        self.seen = now;
        if header.flags & TcpHeader::RST != 0 {
            // A TCP that lacks something does not believe that its sender has broken off, and asks.
            let is_even = self.acked.is_none_or(|acked| acked >= self.highest);
            let acked = self.sequence(self.acked.unwrap_or(0));
            self.reset |= is_even && self.ends.takes_sent_reset(header, acked, self.sequence(self.highest));
            return None;
        }
        let taken = header.flags & TcpHeader::SYN != 0 || self.ends.takes_sent(header, len);
        if taken {
            self.ends.on_sent(header, scale);
        }
        let begin = offset(header.sequence, self.base, self.contiguous);
        let end = begin + i64::from(len);
        if (begin - self.contiguous as i64).abs() > REACH || end < 0 {
            return None;
        }
        let is_last = taken && header.flags & TcpHeader::FIN != 0;
        if is_last {
            self.end = Some(end as u64);
        }
        if len > 0 {
            self.add(begin.max(0) as u64, end as u64, now);
        }
        Some((begin.max(0) as u64, end as u64 + u64::from(is_last)))
    }

    /// Gives what is acknowledged, the end of the stream counted as one.
    fn on_answer(&mut self, header: &TcpHeader, len: u32, scale: Option<u8>, now: Instant) -> Option<u64> {
        if header.flags & TcpHeader::RST != 0 {
            self.reset |= self.ends.takes_reset(header, self.base, self.sequence(self.highest));
            return None;
        }
        let is_syn = header.flags & TcpHeader::SYN != 0;
        if header.flags & TcpHeader::ACK == 0 || !(is_syn || self.ends.takes_answer(header)) {
            return None;
        }
        let acked = offset(header.acknowledgement, self.base, self.contiguous);
        // Nobody acknowledges what has not come; what came by another way is acknowledged with what comes behind it.
        let most = self.highest as i64 + i64::from(self.end.is_some());
        if (acked - self.contiguous as i64).abs() > REACH || acked < 0 || acked > most {
            return None;
        }
        self.ends.on_answer(header, len, scale);
        let told = acked as u64;
        // An acknowledgement of the end counts one more than there are bytes.
        let acked = self.end.map_or(acked as u64, |end| end.min(acked as u64));
        self.acked = self.acked.max(Some(acked));
        if acked > self.contiguous {
            // It came by another way, or before we were here.
            self.contiguous = acked;
            self.settle(now);
        }
        Some(told)
    }

    fn add(&mut self, from: u64, to: u64, now: Instant) {
        self.highest = self.highest.max(to);
        if from <= self.contiguous {
            self.contiguous = self.contiguous.max(to);
            if self.count > 0 || self.gap_since.is_some() {
                self.settle(now);
            }
            return;
        }
        self.gap_since.get_or_insert(now);
        let place = self.islands[..self.count].partition_point(|island| island.1 < from);
        let joined = self.islands[place..self.count].iter().take_while(|island| island.0 <= to).count();
        if joined > 0 {
            let last = self.islands[place + joined - 1];
            self.islands[place] = (self.islands[place].0.min(from), last.1.max(to));
            self.islands.copy_within(place + joined..self.count, place + 1);
            self.count -= joined - 1;
            return;
        }
        // The highest gives way: then it is told as missing, which is less than what is there.
        let kept = self.count.min(ISLANDS_MAX - 1);
        if place <= kept {
            self.islands.copy_within(place..kept, place + 1);
            self.islands[place] = (from, to);
            self.count = kept + 1;
        }
    }

    /// Takes in what the contiguous bytes have reached.
    fn settle(&mut self, now: Instant) {
        let reached = self.islands[..self.count].iter().take_while(|island| island.0 <= self.contiguous);
        let (count, to) = reached.fold((0, 0), |(count, to), island| (count + 1, to.max(island.1)));
        self.contiguous = self.contiguous.max(to);
        self.islands.copy_within(count..self.count, 0);
        self.count -= count;
        self.gap_since = self.has_gap().then(|| self.gap_since.unwrap_or(now));
    }
}

/// What a packet from a peer brought of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Brought {
    /// The flow's number; another flow may have had it before.
    pub slot: u32,
    /// Its first byte.
    pub begin: u64,
    /// What an acknowledgement of all of it acknowledges: the end of the stream counts as one.
    pub upto: u64,
    /// The number was given to this flow just now.
    pub is_new: bool,
    /// The sender's clock.
    pub clock: Option<Clock>,
}

/// What a packet to a peer told of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The flow's number.
    pub slot: u32,
    /// Our end has everything before this; the end of the stream counts as one.
    pub upto: Option<u64>,
    /// It has room for more.
    pub is_open: bool,
    /// It has broken the flow off.
    pub reset: bool,
}

/// The flows of one lane, of all peers.
#[derive(Debug)]
pub struct Arrivals {
    flows: Vec<(u32, PackedKey, Arrival)>,
    index: Index,
    ages: Ages,
    hash: Hash,
    flows_max: usize,
    evicted: u64,
    bad_checksums: u64,
    refused_at: Option<Instant>,
}

impl Arrivals {
    /// An empty table for so many flows; `seed` hides how it is ordered from whoever chooses ports.
    pub fn new(flows_max: usize, seed: u64) -> Self {
        Self {
            flows: Vec::new(),
            index: Index::new(),
            ages: Ages::new(0),
            hash: Hash::new(seed),
            flows_max: flows_max.max(1),
            evicted: 0,
            bad_checksums: 0,
            refused_at: None,
        }
    }

    /// A packet from a peer was handed on, or `is_written` tells that it could not be.
    #[inline]
    pub fn on_incoming(
        &mut self,
        view: &PacketView,
        packet: &[u8],
        virtio: VirtioHeader,
        is_written: bool,
        now: Instant,
    ) -> Option<Brought> {
        if !is_written {
            self.refused_at = Some(now);
        }
        if view.protocol != TCP || !is_written {
            return None;
        }
        let (key, header) = (FlowKey::sent(view)?, view.tcp(packet)?);
        if !has_sound_checksum(packet, view, virtio) {
            // Our end will not take it: it has not arrived.
            self.bad_checksums += 1;
            return None;
        }
        let Segment { header, payload: len, scale } = Segment::new(packet, view, header);
        let is_syn = header.flags & TcpHeader::SYN != 0;
        let base = header.sequence.wrapping_add(is_syn.into());
        let (slot, mut is_new) = match self.find(&key) {
            Some(slot) => (slot, false),
            None if is_syn || len > 0 => (self.open(Arrival::new(key, base, is_syn, now)), true),
            None => return None,
        };
        let flow = &mut self.flows[slot as usize].2;
        if is_syn && (flow.base != base || !flow.from_syn) {
            *flow = Arrival::new(key, base, true, now);
            is_new = true;
        }
        let segment = TcpHeader { sequence: base, ..header };
        let (begin, upto) = flow.on_segment(&segment, len, scale, now).unwrap_or_default();
        self.ages.remove(Line::Tcp, slot);
        self.ages.append(Line::Tcp, slot);
        Some(Brought { slot, begin, upto, is_new, clock: Clock::find(view, &header, packet) })
    }

    /// When a packet could last not be handed on.
    pub fn refused_at(&self) -> Option<Instant> {
        self.refused_at
    }

    /// A packet goes to a peer: its acknowledgement tells what our end has.
    #[inline]
    pub fn on_outgoing(
        &mut self,
        view: &PacketView,
        packet: &[u8],
        virtio: VirtioHeader,
        now: Instant,
    ) -> Option<Acknowledged> {
        if view.protocol != TCP {
            return None;
        }
        let (key, header) = (FlowKey::received(view)?, view.tcp(packet)?);
        let slot = self.find(&key)?;
        if !has_sound_checksum(packet, view, virtio) {
            self.bad_checksums += 1;
            return None;
        }
        let Segment { header, payload: len, scale } = Segment::new(packet, view, header);
        let flow = &mut self.flows[slot as usize].2;
        let upto = flow.on_answer(&header, len, scale, now);
        Some(Acknowledged { slot, upto, is_open: header.window != 0, reset: flow.reset })
    }

    /// Every flow that is known.
    pub fn flows(&self) -> impl Iterator<Item = &Arrival> {
        self.flows.iter().map(|(_, _, flow)| flow)
    }

    /// TCP segments with a wrong checksum: they count for nothing.
    pub fn bad_checksums(&self) -> u64 {
        self.bad_checksums
    }

    /// The same with their numbers, to say what is kept of each.
    pub fn numbered_mut(&mut self) -> impl Iterator<Item = (u32, &mut Arrival)> {
        (0..).zip(self.flows.iter_mut().map(|(_, _, flow)| flow))
    }

    /// Flows that gave way.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    #[inline]
    fn find(&self, key: &FlowKey) -> Option<u32> {
        let packed = PackedKey::new(key);
        self.index.find(self.hash.of(&packed), |slot| self.flows[slot as usize].1 == packed)
    }

    fn open(&mut self, flow: Arrival) -> u32 {
        let packed = PackedKey::new(&flow.key);
        let hash = self.hash.of(&packed);
        let slot = match self.ages.oldest(Line::Tcp).filter(|_| self.flows.len() >= self.flows_max) {
            Some(oldest) => {
                self.ages.remove(Line::Tcp, oldest);
                let place = &mut self.flows[oldest as usize];
                self.index.remove(place.0, oldest);
                self.evicted += u64::from(!place.2.is_over());
                *place = (hash, packed, flow);
                oldest
            }
            None => {
                self.flows.push((hash, packed, flow));
                self.flows.len() as u32 - 1
            }
        };
        self.index.insert(hash, slot);
        self.ages.append(Line::Tcp, slot);
        slot
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::samples;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const BASE: u32 = u32::MAX - 500;

    /// A packet of the peer, or of our end back to it.
    fn packet(ipv4: bool, port: u16, back: bool, flags: u8, numbers: [u32; 2], len: usize) -> Vec<u8> {
        let mut transport = samples::tcp(flags, &[], len);
        let ports = if back { [5432, port] } else { [port, 5432] };
        transport[..2].copy_from_slice(&ports[0].to_be_bytes());
        transport[2..4].copy_from_slice(&ports[1].to_be_bytes());
        transport[4..8].copy_from_slice(&numbers[0].to_be_bytes());
        transport[8..12].copy_from_slice(&numbers[1].to_be_bytes());
        let mut packet = if ipv4 { samples::ipv4(TCP, &[], &transport) } else { samples::ipv6(TCP, &transport) };
        if back {
            let (at, len) = if ipv4 { (12, 4) } else { (8, 16) };
            let (source, destination) = packet[at..at + 2 * len].split_at_mut(len);
            source.swap_with_slice(destination);
        }
        packet
    }

    struct Bench {
        arrivals: Arrivals,
        ipv4: bool,
        now: Instant,
    }

    impl Bench {
        fn new(ipv4: bool) -> Self {
            Self { arrivals: Arrivals::new(4, 7), ipv4, now: Instant::now() }
        }

        /// From the peer: flags, where the segment begins, how long it is.
        fn came(&mut self, port: u16, flags: u8, begin: u32, len: usize) -> Option<Brought> {
            let bytes = packet(self.ipv4, port, false, flags, [BASE.wrapping_add(begin), 1], len);
            let view = PacketView::parse(&bytes).unwrap();
            self.arrivals.on_incoming(&view, &bytes, VirtioHeader::default(), true, self.now)
        }

        fn acked(&mut self, port: u16, flags: u8, upto: u32) -> Option<Acknowledged> {
            let bytes = packet(self.ipv4, port, true, flags, [9, BASE.wrapping_add(upto)], 0);
            self.arrivals.on_outgoing(&PacketView::parse(&bytes).unwrap(), &bytes, VirtioHeader::default(), self.now)
        }

        fn flow(&self, port: u16) -> Arrival {
            self.arrivals.flows().find(|flow| flow.key.source_port == port).unwrap().clone()
        }

        fn state(&self) -> (u64, Vec<Span>, Option<u64>) {
            let flow = self.flow(1);
            (flow.contiguous, flow.missing().collect(), flow.acked)
        }
    }

    const ACK: u8 = TcpHeader::ACK;

    #[test]
    fn gaps_are_named_by_their_bytes_and_filled_over_the_wrap_of_the_numbers() {
        for ipv4 in [true, false] {
            let mut bench = Bench::new(ipv4);
            bench.came(1, TcpHeader::SYN, u32::MAX, 0);
            bench.came(1, ACK, 0, 400);
            assert_eq!(bench.state(), (400, vec![], None));
            bench.came(1, ACK, 600, 100);
            bench.came(1, ACK, 900, 100);
            assert_eq!(bench.state(), (400, vec![(400, 600), (700, 900)], None));
            assert_eq!(bench.flow(1).sequence(600), BASE.wrapping_add(600));
            assert!(bench.flow(1).from_syn && bench.flow(1).gap_since.is_some());
            bench.came(1, ACK, 350, 250);
            assert_eq!(bench.state(), (700, vec![(700, 900)], None));
            bench.acked(1, ACK, 500);
            assert_eq!((bench.state().2, bench.flow(1).unacknowledged()), (Some(500), 200));
            // It went round the appliance.
            bench.acked(1, ACK, 950);
            assert_eq!(bench.state(), (1000, vec![], Some(950)));
            assert_eq!(bench.flow(1).gap_since, None);
        }
    }

    #[test]
    fn a_flow_is_over_when_its_end_is_acknowledged_or_it_is_broken_off() {
        let mut bench = Bench::new(true);
        assert!((1..4).all(|port| bench.came(port, ACK, 0, 100).is_some()));
        bench.came(1, ACK | TcpHeader::FIN, 100, 50);
        assert!(!bench.flow(1).is_over());
        bench.acked(1, ACK, 151);
        assert!(bench.flow(1).is_over() && bench.flow(1).acked == Some(150));
        bench.came(2, TcpHeader::RST, 100, 0);
        bench.acked(3, TcpHeader::RST, 0);
        assert!(bench.flow(2).is_over() && bench.flow(3).is_over());
    }

    #[test]
    fn a_sender_that_broke_off_behind_a_packet_that_the_lan_lost_hid_that_it_was_lost() {
        let mut bench = Bench::new(true);
        bench.came(1, ACK, 0, 100);
        bench.acked(1, ACK, 60);
        bench.came(1, TcpHeader::RST, 100, 0);
        assert!(!bench.flow(1).is_over() && bench.flow(1).unacknowledged() == 40);
        bench.acked(1, TcpHeader::RST, 0);
        assert!(bench.flow(1).is_over());
    }

    #[test]
    fn what_is_to_be_kept_and_what_is_acknowledged_is_told_with_the_end_of_the_stream() {
        let mut bench = Bench::new(true);
        let told = |slot, begin, upto, is_new| Some(Brought { slot, begin, upto, is_new, clock: None });
        assert_eq!(bench.came(1, TcpHeader::SYN, u32::MAX, 0), told(0, 0, 0, true));
        assert_eq!(bench.came(2, TcpHeader::SYN, u32::MAX, 0), told(1, 0, 0, true));
        assert_eq!(bench.came(1, ACK, 0, 100), told(0, 0, 100, false));
        assert_eq!(bench.came(1, ACK | TcpHeader::FIN, 100, 50), told(0, 100, 151, false));
        assert_eq!(bench.came(3, ACK, 5, 0), None, "of a flow that is not known, without a byte");
        let told = |upto, is_open, reset| Some(Acknowledged { slot: 0, upto, is_open, reset });
        assert_eq!(bench.acked(1, ACK, 150), told(Some(150), true, false));
        assert_eq!(bench.acked(1, ACK, 151), told(Some(151), true, false));
        assert_eq!(bench.acked(1, 0, 151), told(None, true, false));
        let mut shut = packet(true, 1, true, ACK, [9, BASE], 0);
        shut[34..36].fill(0);
        // Whose checksum is not made yet.
        let partial = VirtioHeader { flags: VirtioHeader::NEEDS_CSUM, ..VirtioHeader::default() };
        let shut = bench.arrivals.on_outgoing(&PacketView::parse(&shut).unwrap(), &shut, partial, bench.now);
        assert_eq!(shut, told(Some(0), false, false));
        assert_eq!(bench.acked(1, TcpHeader::RST, 0), told(None, true, true));
        assert_eq!(bench.came(1, TcpHeader::SYN, 70_000, 0).map(|brought| brought.is_new), Some(true));
    }

    #[test]
    fn a_new_connection_on_the_same_ports_begins_anew_and_a_repeated_beginning_does_not() {
        let mut bench = Bench::new(true);
        bench.came(1, TcpHeader::SYN, u32::MAX, 0);
        bench.came(1, ACK, 0, 100);
        bench.came(1, TcpHeader::SYN, u32::MAX, 0);
        assert_eq!(bench.state().0, 100);
        bench.came(1, TcpHeader::SYN | ACK, 999_999, 0);
        bench.came(1, ACK, 1_000_000, 10);
        assert_eq!((bench.state(), bench.flow(1).sequence(0)), ((10, vec![], None), BASE.wrapping_add(1_000_000)));
        // What is out of every window is of no connection that we know.
        bench.came(1, ACK, 1 << 31, 10);
        assert_eq!(bench.state().0, 10);
    }

    #[test]
    fn a_forged_acknowledgement_or_end_does_not_hide_what_is_missing() {
        let mut bench = Bench::new(true);
        bench.came(1, TcpHeader::SYN, u32::MAX, 0);
        bench.came(1, ACK, 0, 400);
        bench.came(1, ACK, 600, 100);
        bench.acked(1, ACK, 300);
        let missing = (400, vec![(400, 600)], Some(300));
        bench.acked(1, ACK, 701);
        assert_eq!(bench.state(), missing, "more than has come");
        for flags in [ACK, TcpHeader::RST] {
            // A number that the peer's end did not ask for.
            let bytes = packet(true, 1, true, flags, [1 << 28, BASE.wrapping_add(700)], 0);
            let view = PacketView::parse(&bytes).unwrap();
            bench.arrivals.on_outgoing(&view, &bytes, VirtioHeader::default(), bench.now);
        }
        bench.came(1, TcpHeader::RST, 1 << 28, 0);
        // An end in the window that acknowledges what our end never sent.
        let bytes = packet(true, 1, false, ACK | TcpHeader::FIN, [BASE.wrapping_add(300), 1 << 28], 0);
        let view = PacketView::parse(&bytes).unwrap();
        bench.arrivals.on_incoming(&view, &bytes, VirtioHeader::default(), true, bench.now);
        // In the windows, with a wrong checksum.
        for (back, flags, numbers, len) in
            [(true, ACK, [9, 700], 0), (false, ACK, [400, 1], 200), (false, ACK | TcpHeader::FIN, [300, 1], 0)]
        {
            let numbers =
                if back { [numbers[0], BASE.wrapping_add(numbers[1])] } else { [BASE.wrapping_add(numbers[0]), 1] };
            let mut bytes = packet(true, 1, back, flags, numbers, len);
            bytes[37] ^= 1;
            let view = PacketView::parse(&bytes).unwrap();
            match back {
                true => drop(bench.arrivals.on_outgoing(&view, &bytes, VirtioHeader::default(), bench.now)),
                false => drop(bench.arrivals.on_incoming(&view, &bytes, VirtioHeader::default(), true, bench.now)),
            }
        }
        assert_eq!((bench.state(), bench.arrivals.bad_checksums()), (missing, 3));
        assert!(!bench.flow(1).is_over() && bench.flow(1).end.is_none());
    }

    #[test]
    fn the_table_is_bounded_and_the_longest_idle_gives_way() {
        let mut bench = Bench::new(true);
        assert!((1..=4).all(|port| bench.came(port, ACK, 0, 1).is_some_and(|brought| brought.is_new)));
        bench.came(1, ACK, 1, 1);
        bench.came(5, ACK, 0, 1);
        let mut ports: Vec<u16> = bench.arrivals.flows().map(|flow| flow.key.source_port).collect();
        ports.sort();
        assert_eq!((ports, bench.arrivals.evicted()), (vec![1, 3, 4, 5], 1));
    }

    #[test]
    fn what_two_lanes_were_given_is_put_together() {
        let (mut near, mut far) = (Bench::new(true), Bench::new(true));
        near.came(1, TcpHeader::SYN, u32::MAX, 0);
        near.came(1, ACK, 0, 100);
        far.came(1, ACK, 100, 300);
        far.came(1, ACK, 500, 100);
        far.acked(1, ACK, 250);
        let mut flow = near.flow(1);
        flow.merge(&far.flow(1));
        assert_eq!((flow.contiguous, flow.missing().collect::<Vec<_>>()), (400, vec![(400, 500)]));
        assert_eq!((flow.acked, flow.from_syn, flow.highest), (Some(250), true, 600));
        let mut other = near.flow(1);
        far.came(2, ACK, 100, 300);
        other.merge(&far.flow(2));
        assert_eq!(other.contiguous, 100);
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes_and_never_says_more(
            steps in prop::collection::vec((0u32..300, 1usize..40, any::<bool>()), 1..60),
        ) {
            let mut bench = Bench::new(true);
            bench.came(1, TcpHeader::SYN, u32::MAX, 0);
            let mut bytes: BTreeSet<u64> = BTreeSet::new();
            let mut many = 0;
            for (begin, len, ack) in steps {
                let first = (0..).find(|byte| !bytes.contains(byte)).unwrap();
                if ack {
                    bench.acked(1, ACK, first as u32);
                } else {
                    bench.came(1, ACK, begin, len);
                    bytes.extend(u64::from(begin)..u64::from(begin) + len as u64);
                }
                let first = (0..).find(|byte| !bytes.contains(byte)).unwrap();
                let highest = bytes.last().map_or(0, |byte| byte + 1);
                let flow = bench.flow(1);
                let missing: BTreeSet<u64> = flow.missing().flat_map(|(from, to)| from..to).collect();
                let wanted: BTreeSet<u64> = (0..highest).filter(|byte| !bytes.contains(byte)).collect();
                let gaps = wanted.iter().filter(|byte| !wanted.contains(&(*byte + 1))).count();
                many = many.max(gaps);
                prop_assert_eq!(flow.highest, highest);
                prop_assert!(missing.is_superset(&wanted), "{:?} of {:?}", missing, wanted);
                if many <= ISLANDS_MAX {
                    prop_assert_eq!((flow.contiguous, &missing), (first, &wanted));
                }
                prop_assert_eq!(flow.has_gap(), flow.gap_since.is_some());
            }
        }
    }
}
