//! The flow table: takes packets of both directions, returns changes of flows.
//!
//! 1. [`on_sent`](FlowTable::on_sent) records which bytes of which flow a block holds.
//! 2. A decided block ([`super::block_outcome`]) or an acknowledgement ([`on_received`](FlowTable::on_received)) moves
//!    positions.
//! 3. [`poll_event`](FlowTable::poll_event) returns the changes; [`flows`](FlowTable::flows) lists all flows.
//!
//! All memory is bounded by [`Limits`]. The meaning of a flow's bytes is in [`super::instance`].

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::blocks::Blocks;
use super::coverage::Span;
use super::events::{Event, Events};
use super::idle_order::{self, Ages, IdleClass};
use super::index::Index;
use super::instance::{Answer, Flow, Sent};
use super::key::{FlowKey, Hash, PackedKey};
use super::plausible::{Segment, has_sound_checksum};
use super::state::{Counters, FlowId, FlowState, InstanceCounter, Limits, bit};
use crate::notify::message::{GoneReason, Level, Origin};
use crate::wire::offload::UDP_HEADER;
use crate::wire::packet::{PacketView, TCP, TcpHeader, UDP};
use crate::wire::payload_id::BlockId;
use crate::wire::segment::segment_count;
use crate::wire::virtio::VirtioHeader;

/// A flow's age may be this much too high, so that the flow need not be moved for every packet.
const AGE_STEP: Duration = Duration::from_secs(1);

/// Flows that one call of [`FlowTable::handle_timeout`] removes at most.
const REMOVALS_MAX: usize = 256;

/// All flows of one lane toward one peer.
#[derive(Debug)]
pub struct FlowTable {
    pub(super) limits: Limits,
    hash: Hash,
    index: Index,
    pub(super) flows: Vec<Option<Flow>>,
    free: Vec<u32>,
    ages: Ages,
    pub(super) blocks: Blocks,
    pub(super) events: Events,
    pub(super) counters: Counters,
    pub(super) cookies: BTreeMap<PackedKey, (u64, Instant)>,
    instances: InstanceCounter,
    /// TCP flows that may have a hole.
    pub(super) holed: Vec<FlowId>,
    /// When all flows were last held because a forgotten block failed, and whether what was claimed of them was taken back.
    pub(super) held_at: Option<(Instant, bool)>,
}

impl FlowTable {
    /// An empty table. `seed` must be secret, so that others cannot choose ports that are slow to look up. All tables
    /// of an appliance share `instances`.
    pub fn new(limits: Limits, seed: u64, instances: InstanceCounter) -> Self {
        let flows = limits.flows.clamp(1, 1 << 24);
        let limits = Limits { flows, ..limits };
        Self {
            hash: Hash::new(seed),
            index: Index::new(),
            flows: Vec::with_capacity(flows),
            free: Vec::with_capacity(flows),
            ages: Ages::new(flows),
            blocks: Blocks::new(limits.ranges, limits.blocks),
            events: Events::new(flows),
            counters: Counters::default(),
            cookies: BTreeMap::new(),
            instances,
            holed: Vec::new(),
            held_at: None,
            limits,
        }
    }

    /// `packet` was put into the open `block`; `view` and `virtio` describe it. Without a block the packet was dropped
    /// here, which counts as if its block had failed.
    ///
    /// Returns its flow, if it has one; a TCP segment that its receiver would not accept has none.
    #[inline]
    pub fn on_sent(
        &mut self,
        packet: &[u8],
        view: &PacketView,
        virtio: VirtioHeader,
        block: impl Into<Option<BlockId>>,
        now: Instant,
    ) -> Option<FlowId> {
        let block = block.into();
        let Some(key) = FlowKey::sent(view) else {
            self.counters.fragments += u64::from(view.fragment.is_some() && matches!(view.protocol, TCP | UDP));
            return None;
        };
        match view.protocol {
            TCP => {
                let header = view.tcp(packet)?;
                if !has_sound_checksum(packet, view, virtio) {
                    self.counters.bad_checksums += 1;
                    return None;
                }
                self.on_segment_sent(key, &Segment::new(packet, view, header), block, now)
            }
            _ => {
                let payload = packet.len().checked_sub(view.transport_offset + UDP_HEADER)?;
                self.on_datagrams_sent(key, payload, segment_count(virtio, packet), block, now)
            }
        }
    }

    fn on_segment_sent(
        &mut self,
        key: FlowKey,
        Segment { header, payload, scale }: &Segment,
        block: Option<BlockId>,
        now: Instant,
    ) -> Option<FlowId> {
        let slot = match self.find_slot(&PackedKey::new(&key)) {
            Some(slot) => slot,
            None if header.flags & TcpHeader::RST != 0 => return None,
            None if header.flags & TcpHeader::SYN != 0 => {
                self.open(key, Origin::Start, header.sequence.wrapping_add(1), now)
            }
            None if *payload > 0 => self.open(key, Origin::Middle, header.sequence, now),
            None => return None,
        };
        let flow = self.flow_mut(slot)?;
        let mut sent = flow.on_segment_sent(header, *payload, *scale, now);
        if let Sent::Begins(origin, base) = sent {
            self.begin_again(slot, origin, base, GoneReason::Replaced, now);
            // The new instance has only seen this segment.
            sent = self.flow_mut(slot)?.on_segment_sent(header, *payload, *scale, now);
        }
        match sent {
            Sent::Bytes(span) => {
                if !block.is_some_and(|block| self.record(slot, block, span)) {
                    self.on_hole(slot, span);
                }
            }
            Sent::Stray => self.counters.strays += 1,
            Sent::Nothing | Sent::Begins(..) => {}
        }
        self.touch(slot, now);
        self.id(slot)
    }

    fn on_datagrams_sent(
        &mut self,
        key: FlowKey,
        payload: usize,
        packets: usize,
        block: Option<BlockId>,
        now: Instant,
    ) -> Option<FlowId> {
        let slot = match self.find_slot(&PackedKey::new(&key)) {
            Some(slot) => slot,
            None => self.open(key, Origin::Start, 0, now),
        };
        let span = self.flow_mut(slot)?.on_datagrams_sent(payload as u64, packets as u32);
        // Datagrams that are not recorded can never be shown to be protected, and are not sent again: the count
        // restarts behind them.
        if !block.is_some_and(|block| self.record(slot, block, span)) && !self.flow_mut(slot)?.take_back(span) {
            self.begin_again(slot, Origin::Start, 0, GoneReason::Replaced, now);
        }
        self.touch(slot, now);
        self.id(slot)
    }

    /// `packet` came from the peer; `view` and `virtio` describe it.
    #[inline]
    pub fn on_received(&mut self, packet: &[u8], view: &PacketView, virtio: VirtioHeader, now: Instant) {
        let Some(key) = FlowKey::received(view) else {
            return;
        };
        let Some(slot) = self.find_slot(&PackedKey::new(&key)) else {
            return;
        };
        if let Some(header) = view.tcp(packet) {
            if !has_sound_checksum(packet, view, virtio) {
                self.counters.bad_checksums += 1;
                return;
            }
            let Segment { header, payload, scale } = Segment::new(packet, view, header);
            let Some(flow) = self.flow_mut(slot) else { return };
            match flow.on_segment_received(&header, payload, scale, now) {
                Answer::Fits => {}
                Answer::Implausible => {
                    self.counters.implausible_acks += 1;
                    return;
                }
                Answer::Contradicts => {
                    self.remove(slot, GoneReason::Replaced);
                    return;
                }
                Answer::Begins(origin, base, ends) => {
                    self.begin_again(slot, origin, base, GoneReason::Replaced, now);
                    if let Some(flow) = self.flow_mut(slot) {
                        flow.set_ends(ends);
                        flow.on_segment_received(&header, payload, scale, now);
                    }
                }
            }
            self.settle(slot, None);
        }
        self.touch(slot, now);
    }

    /// The next change. Events of a flow after it is [gone](Event::Gone) belong to another instance.
    #[inline]
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop() {
            return Some(event);
        }
        loop {
            let id = self.events.first_changed()?;
            let flow = self.flows.get_mut(id.slot as usize).and_then(Option::as_mut).filter(|flow| flow.id == id);
            self.events.pop_changed();
            if let Some(flow) = flow.filter(|flow| flow.unreported != 0) {
                // One event for all levels: each has the full state.
                let raised = Level::ALL.map(|level| flow.unreported & bit(level) != 0);
                flow.unreported = 0;
                return Some(Event::Protected { flow: flow.state(), raised, block: flow.raised_by() });
            }
        }
    }

    /// The state of an instance, while it exists.
    pub fn flow(&self, id: FlowId) -> Option<FlowState> {
        Some(self.flows.get(id.slot as usize)?.as_ref().filter(|flow| flow.id == id)?.state())
    }

    /// The current instance of a 5-tuple.
    pub fn find(&self, key: &FlowKey) -> Option<FlowState> {
        Some(self.flows.get(self.find_slot(&PackedKey::new(key))? as usize)?.as_ref()?.state())
    }

    /// All flows, in an order that is stable while they exist.
    pub fn flows(&self) -> impl Iterator<Item = FlowState> {
        self.flows_from(0).map(|(_, flow)| flow)
    }

    /// The flows from `place` on, each with the place after it, to dump the table in parts: begin with 0, and continue
    /// with the place of the last flow dumped. A flow that exists throughout appears exactly once; others may or may
    /// not appear.
    pub fn flows_from(&self, place: usize) -> impl Iterator<Item = (usize, FlowState)> {
        let from = self.flows.iter().enumerate().skip(place);
        from.filter_map(|(at, flow)| Some((at + 1, flow.as_ref()?.state())))
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.flows.len() - self.free.len()
    }

    /// There are no flows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The counts so far.
    pub fn counters(&self) -> Counters {
        Counters { forgotten_blocks: self.blocks.forgotten, ..self.counters }
    }

    /// When the next flow will have been idle for too long.
    pub fn deadline(&self) -> Option<Instant> {
        IdleClass::ALL.into_iter().filter_map(|line| self.oldest(line).map(|(_, due)| due)).min()
    }

    /// Removes flows that have been idle for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut removals = REMOVALS_MAX;
        for line in IdleClass::ALL {
            while removals > 0
                && let Some((slot, _)) = self.oldest(line).filter(|&(_, due)| due <= now)
            {
                let reason = if line == IdleClass::Closed { GoneReason::Closed } else { GoneReason::Idle };
                self.remove(slot, reason);
                removals -= 1;
            }
        }
    }

    /// The longest idle flow of a list, and when it is removed.
    fn oldest(&self, line: IdleClass) -> Option<(u32, Instant)> {
        let slot = self.ages.oldest(line)?;
        let flow = self.flows.get(slot as usize)?.as_ref()?;
        let life = match line {
            IdleClass::Closed => self.limits.closed,
            IdleClass::Udp => self.limits.udp_idle,
            IdleClass::Tcp => self.limits.tcp_idle,
        };
        Some((slot, flow.seen_at + life + AGE_STEP))
    }

    #[inline]
    pub(super) fn find_slot(&self, key: &PackedKey) -> Option<u32> {
        let matches = |slot: u32| self.flows[slot as usize].as_ref().is_some_and(|flow| flow.packed == *key);
        self.index.find(self.hash.of(key), matches)
    }

    pub(super) fn flow_mut(&mut self, slot: u32) -> Option<&mut Flow> {
        self.flows.get_mut(slot as usize)?.as_mut()
    }

    fn id(&self, slot: u32) -> Option<FlowId> {
        Some(self.flows.get(slot as usize)?.as_ref()?.id)
    }

    fn next_id(&mut self, slot: u32) -> FlowId {
        self.counters.opened += 1;
        FlowId { slot, instance: self.instances.next() }
    }

    fn open(&mut self, key: FlowKey, origin: Origin, base: u32, now: Instant) -> u32 {
        if self.len() >= self.limits.flows {
            self.evict();
        }
        let slot = self.free.pop().unwrap_or(self.flows.len() as u32);
        let id = self.next_id(slot);
        let packed = PackedKey::new(&key);
        let life = self.limits.udp_idle;
        let cookie = self.cookies.remove(&packed).filter(|(_, since)| now.saturating_duration_since(*since) < life);
        let flow = Flow::new(id, key, origin, base, cookie.map(|(cookie, _)| cookie), now);
        self.events.push(Event::New(flow.state()));
        self.ages.append(flow.line, slot);
        self.index.insert(self.hash.of(&packed), slot);
        match self.flows.get_mut(slot as usize) {
            Some(place) => *place = Some(flow),
            None => self.flows.push(Some(flow)),
        }
        slot
    }

    /// Starts a new instance on the ports of a flow.
    pub(super) fn begin_again(&mut self, slot: u32, origin: Origin, base: u32, reason: GoneReason, now: Instant) {
        let id = self.next_id(slot);
        if let Some(flow) = self.flows.get_mut(slot as usize).and_then(Option::as_mut) {
            self.events.push(Event::Gone { flow: flow.state(), reason });
            flow.begin_again(id, origin, base, now);
            self.events.push(Event::New(flow.state()));
        }
    }

    /// Evicts the longest idle closed flow, otherwise the longest idle flow.
    fn evict(&mut self) {
        let idle = |line| {
            self.ages.oldest(line).and_then(|slot| Some((self.flows.get(slot as usize)?.as_ref()?.seen_at, slot)))
        };
        let victim =
            idle(IdleClass::Closed).or_else(|| [IdleClass::Udp, IdleClass::Tcp].into_iter().filter_map(idle).min());
        if let Some((_, slot)) = victim {
            self.counters.evicted += 1;
            self.remove(slot, GoneReason::Evicted);
        }
    }

    fn remove(&mut self, slot: u32, reason: GoneReason) {
        if let Some(flow) = self.flows.get_mut(slot as usize).and_then(Option::take) {
            self.events.push(Event::Gone { flow: flow.state(), reason });
            self.ages.remove(flow.line, slot);
            self.index.remove(self.hash.of(&flow.packed), slot);
            self.free.push(slot);
        }
    }

    /// The flow was seen: moves it to the newest place of its list.
    #[inline]
    fn touch(&mut self, slot: u32, now: Instant) {
        let Some(flow) = self.flows.get_mut(slot as usize).and_then(Option::as_mut) else { return };
        let line = match flow.is_tcp() {
            _ if flow.is_closed() => IdleClass::Closed,
            true => IdleClass::Tcp,
            false => IdleClass::Udp,
        };
        if line != flow.line || now.saturating_duration_since(flow.seen_at) >= AGE_STEP {
            self.ages.remove(flow.line, slot);
            flow.line = line;
            flow.seen_at = now;
            self.ages.append(line, slot);
        }
    }

    fn record(&mut self, slot: u32, block: BlockId, span: Span) -> bool {
        let Some(flow) = self.flows.get_mut(slot as usize).and_then(Option::as_mut) else { return false };
        let last = flow.range_in(block).unwrap_or(idle_order::NONE);
        let recorded = self.blocks.record(block, flow.id, span, last);
        match recorded {
            Some(range) => flow.set_range(range, block),
            None => self.counters.unrecorded += 1,
        }
        recorded.is_some()
    }

    /// Updates a flow whose positions may have changed.
    pub(super) fn settle(&mut self, slot: u32, by: Option<BlockId>) {
        if let Some(flow) = self.flows.get_mut(slot as usize).and_then(Option::as_mut)
            && flow.settle(by)
        {
            self.events.push_changed(flow.id);
            if self.events.changed_len() > 2 * self.limits.flows {
                // The events are not polled. At most one entry per existing instance is needed.
                let flows = &self.flows;
                self.events.retain_changed(|id| flows[id.slot as usize].as_ref().is_some_and(|flow| flow.id == id));
            }
        }
    }
}
