//! TCP flows from peers as they were delivered here: contiguous bytes, gaps, and what the local TCP has acknowledged.
//!
//! The receiving counterpart of [`FlowTable`](super::FlowTable), read when the sender is gone for good. Every packet is
//! parsed anyway; for a packet in order, this table adds one look-up and one addition. It makes no claims and no
//! decisions, and knows neither blocks nor the link. The table is bounded: the longest idle flow is evicted, and
//! counted.

use std::time::Instant;

use super::idle_order::{Ages, IdleClass};
use super::index::Index;
use super::key::{FlowKey, Hash, PackedKey};
use super::plausible::{Ends, Segment, has_sound_checksum};
use super::sequence::{REACH, offset};
use crate::wire::packet::{PacketView, TCP, TcpHeader};
use crate::wire::timestamp::Clock;
use crate::wire::virtio::VirtioHeader;

/// Runs of bytes behind a gap that are recorded. Bytes of further runs count as missing.
pub const ISLANDS_MAX: usize = 8;

/// Bytes of a flow, counted from its beginning: from the first number to before the second.
pub type Span = (u64, u64);

/// One flow as it arrived.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its 5-tuple as the peer's packets carry it: the source is at the peer's side.
    pub key: FlowKey,
    /// The sequence number of byte 0.
    pub base: u32,
    /// Byte 0 is the first byte of the connection. Otherwise it is the first byte that was seen.
    pub from_syn: bool,
    /// Everything before this byte was delivered, or acknowledged by the local end.
    pub contiguous: u64,
    /// The end of the highest byte delivered.
    pub highest: u64,
    /// What the local end has acknowledged, if an acknowledgement was seen.
    pub acked: Option<u64>,
    /// Where the sender's FIN ends the stream.
    pub end: Option<u64>,
    /// The connection was reset: by the local end, or by the sender when the local end lacked nothing.
    pub reset: bool,
    /// Since when there is a gap.
    pub gap_since: Option<Instant>,
    /// When a packet of it was last seen.
    pub seen: Instant,
    /// Sequence numbers and windows of the peer's end (the sender) and of the local end.
    ends: Ends,
    /// Unacknowledged bytes that are retained for retransmission. The owner of [`Retained`](super::retained::Retained)
    /// sets it.
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

    /// The gaps before [`highest`](Self::highest), lowest first.
    pub fn missing(&self) -> impl Iterator<Item = Span> + '_ {
        let islands = self.islands[..self.count].iter();
        let begins = islands.clone().map(|island| island.0).chain([self.highest]);
        let ends = [self.contiguous].into_iter().chain(islands.map(|island| island.1));
        ends.zip(begins).filter(|(from, to)| from < to)
    }

    /// A byte before the highest one is missing.
    pub fn has_gap(&self) -> bool {
        self.highest > self.contiguous
    }

    /// Bytes that were delivered and not yet acknowledged by the local end; 0 if no acknowledgement was seen.
    pub fn unacknowledged(&self) -> u64 {
        self.acked.map_or(0, |acked| self.contiguous.saturating_sub(acked))
    }

    /// The flow needs nothing more: it was reset, or acknowledged up to its FIN.
    pub fn is_over(&self) -> bool {
        self.reset || self.end.is_some_and(|end| self.acked.is_some_and(|acked| acked >= end))
    }

    /// The sequence number of a byte.
    pub fn sequence(&self, byte: u64) -> u32 {
        self.base.wrapping_add(byte as u32)
    }

    /// Adds the arrivals of the same connection on another lane. Ignores another connection.
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

    /// A forged segment can only make bytes seem missing, which is the safe error. A segment that ends the flow stops
    /// all reports about it, so it counts only if the local TCP would accept it.
    ///
    /// Returns the first byte and the offset that acknowledges the whole segment.
    fn on_segment(&mut self, header: &TcpHeader, len: u32, scale: Option<u8>, now: Instant) -> Option<Span> {
        self.seen = now;
        if header.flags & TcpHeader::RST != 0 {
            // A TCP that lacks bytes does not accept the sender's reset; it sends a challenge ACK.
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

    /// Returns the acknowledged offset; a FIN counts as one.
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
        // An end never acknowledges bytes it does not have. Bytes that came by another path are acknowledged together
        // with the bytes behind them.
        let most = self.highest as i64 + i64::from(self.end.is_some());
        if (acked - self.contiguous as i64).abs() > REACH || acked < 0 || acked > most {
            return None;
        }
        self.ends.on_answer(header, len, scale);
        let told = acked as u64;
        // Acknowledging the FIN counts one more than there are bytes.
        let acked = self.end.map_or(acked as u64, |end| end.min(acked as u64));
        self.acked = self.acked.max(Some(acked));
        if acked > self.contiguous {
            // These bytes came by another path, or before this appliance saw the flow.
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
        // The highest island is dropped: its bytes then count as missing although they arrived.
        let kept = self.count.min(ISLANDS_MAX - 1);
        if place <= kept {
            self.islands.copy_within(place..kept, place + 1);
            self.islands[place] = (from, to);
            self.count = kept + 1;
        }
    }

    /// Joins the islands that the contiguous bytes have reached.
    fn settle(&mut self, now: Instant) {
        let reached = self.islands[..self.count].iter().take_while(|island| island.0 <= self.contiguous);
        let (count, to) = reached.fold((0, 0), |(count, to), island| (count + 1, to.max(island.1)));
        self.contiguous = self.contiguous.max(to);
        self.islands.copy_within(count..self.count, 0);
        self.count -= count;
        self.gap_since = self.has_gap().then(|| self.gap_since.unwrap_or(now));
    }
}

/// The bytes of a flow in a packet from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivedSegment {
    /// The flow's slot; another flow may have had it before.
    pub slot: u32,
    /// Its first byte.
    pub begin: u64,
    /// The offset that acknowledges the whole packet; a FIN counts as one.
    pub upto: u64,
    /// The slot has started a new flow with this packet.
    pub is_new: bool,
    /// The sender's clock.
    pub clock: Option<Clock>,
}

/// The acknowledgement of a flow in a packet to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    /// The flow's slot.
    pub slot: u32,
    /// The local end has everything before this; a FIN counts as one.
    pub upto: Option<u64>,
    /// Its window is open.
    pub is_open: bool,
    /// The flow has been reset.
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
    /// An empty table for at most `flows_max` flows. A secret `seed` keeps its hash order unpredictable to those who
    /// choose ports.
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

    /// A packet from a peer was delivered; if `is_written` is false, it could not be.
    #[inline]
    pub fn on_incoming(
        &mut self,
        view: &PacketView,
        packet: &[u8],
        virtio: VirtioHeader,
        is_written: bool,
        now: Instant,
    ) -> Option<ArrivedSegment> {
        if !is_written {
            self.refused_at = Some(now);
        }
        if view.protocol != TCP || !is_written {
            return None;
        }
        let (key, header) = (FlowKey::sent(view)?, view.tcp(packet)?);
        if !has_sound_checksum(packet, view, virtio) {
            // The local end will discard the packet: it has not arrived.
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
        self.ages.remove(IdleClass::Tcp, slot);
        self.ages.append(IdleClass::Tcp, slot);
        Some(ArrivedSegment { slot, begin, upto, is_new, clock: Clock::find(view, &header, packet) })
    }

    /// When the last packet that could not be delivered came.
    pub fn refused_at(&self) -> Option<Instant> {
        self.refused_at
    }

    /// A packet goes to a peer; its acknowledgement shows what the local end has.
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

    /// All known flows.
    pub fn flows(&self) -> impl Iterator<Item = &Arrival> {
        self.flows.iter().map(|(_, _, flow)| flow)
    }

    /// TCP segments with a wrong checksum: they count for nothing.
    pub fn bad_checksums(&self) -> u64 {
        self.bad_checksums
    }

    /// All known flows with their slots, to set [`kept`](Arrival::kept).
    pub fn numbered_mut(&mut self) -> impl Iterator<Item = (u32, &mut Arrival)> {
        (0..).zip(self.flows.iter_mut().map(|(_, _, flow)| flow))
    }

    /// Flows that were evicted.
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
        let slot = match self.ages.oldest(IdleClass::Tcp).filter(|_| self.flows.len() >= self.flows_max) {
            Some(oldest) => {
                self.ages.remove(IdleClass::Tcp, oldest);
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
        self.ages.append(IdleClass::Tcp, slot);
        slot
    }
}

#[cfg(test)]
mod tests;
