//! Retains delivered packets of TCP flows until the local TCP acknowledges them. If their sender is gone and the last
//! hop lost a packet, it is written to the TUN again.
//!
//! ```text
//!   keep ──▶ flow: packets in the order of their bytes ── on_acknowledged, forget ──▶ gone
//!                     │ the sender is silent
//!                     ▼
//!                   poll: the lowest packet that is not acknowledged, again
//! ```
//!
//! Memory is bounded per flow and in total, unused buffers included. Beyond a bound the oldest packet is dropped and
//! counted: it cannot be sent again. Flow slots come from [`Arrivals`](super::arrivals::Arrivals), which reads the
//! headers. The caller knows when a sender is silent.

mod buffers;
mod retransmit_timer;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::buffers::Buffers;
use self::retransmit_timer::RetransmitTimer;
use super::idle_order::{Ages, IdleClass, NONE};
use crate::wire::timestamp::Clock;
use crate::wire::virtio::VirtioHeader;

/// Bytes that a packet takes in the tables here, beside its buffer.
const ENTRY_COST: usize = 192;
/// How many steps from either end of a flow the place of an out-of-order packet is searched. A packet whose place is
/// further inside is not kept.
const STEPS_MAX: usize = 256;

/// Bounds on what is kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes in total.
    pub memory: usize,
    /// Bytes per flow.
    pub flow: usize,
}

impl Default for Bounds {
    /// For one lane. A flow gets half: more than the largest window that hosts commonly offer.
    fn default() -> Self {
        Self { memory: 64 << 20, flow: 32 << 20 }
    }
}

/// A TCP packet that was delivered here.
#[derive(Clone, Copy, Debug)]
pub struct DeliveredPacket<'a> {
    /// The flow's slot.
    pub slot: u32,
    /// The peer that sent it.
    pub peer: u16,
    /// Its first byte.
    pub begin: u64,
    /// The offset that acknowledges the whole packet; a FIN counts as one.
    pub upto: u64,
    /// Its offload header.
    pub header: VirtioHeader,
    /// The packet or super-packet.
    pub packet: &'a [u8],
    /// The sender's TCP timestamp in it.
    pub clock: Option<Clock>,
}

/// Counts; `dropped` and `repeated` count since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets and super-packets kept.
    pub packets: u64,
    /// Bytes of memory for them, including unused buffers.
    pub memory: usize,
    /// Flows with kept packets.
    pub flows: u64,
    /// Packets that were dropped before they were acknowledged, because of a bound or with their flow.
    pub dropped: u64,
    /// Packets sent again.
    pub repeated: u64,
}

/// A kept packet.
#[derive(Debug)]
struct Entry {
    slot: u32,
    /// The neighbours in its flow, in the order of their first bytes.
    before: u32,
    behind: u32,
    begin: u64,
    upto: u64,
    header: VirtioHeader,
    clock: Option<Clock>,
    bytes: Vec<u8>,
}

/// A flow.
#[derive(Debug)]
struct Flow {
    peer: u16,
    head: u32,
    tail: u32,
    /// Bytes that its packets take.
    charge: usize,
    /// Payload bytes of its packets.
    payload: u64,
    acked: u64,
    /// The sender's latest delivered TCP timestamp: the local TCP rejects an older one.
    clock: Option<u32>,
    repeats: RetransmitTimer,
    /// It is in the `due` queue.
    is_queued: bool,
}

impl Flow {
    fn new(peer: u16, now: Instant) -> Self {
        Self {
            peer,
            head: NONE,
            tail: NONE,
            charge: 0,
            payload: 0,
            acked: 0,
            clock: None,
            repeats: RetransmitTimer::new(now),
            is_queued: false,
        }
    }
}

/// The packets of one lane.
#[derive(Debug)]
pub struct Retained {
    bounds: Bounds,
    flows: Vec<Option<Flow>>,
    entries: Vec<Entry>,
    /// Free entries.
    vacant: Vec<u32>,
    /// The order in which packets were kept.
    ages: Ages,
    buffers: Buffers,
    charge: usize,
    /// Packets kept, by peer.
    of_peer: Vec<u32>,
    tally: Tally,
    /// Flows with a packet to send again now.
    due: VecDeque<u32>,
    /// When flows must next be checked.
    look_at: Option<Instant>,
    /// The LAN is taken until then by packets sent again.
    busy_until: Option<Instant>,
}

impl Retained {
    /// An empty store.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            flows: Vec::new(),
            entries: Vec::new(),
            vacant: Vec::new(),
            ages: Ages::new(0),
            buffers: Buffers::default(),
            charge: 0,
            of_peer: Vec::new(),
            tally: Tally::default(),
            due: VecDeque::new(),
            look_at: None,
            busy_until: None,
        }
    }

    /// Keeps a packet unless it has no bytes, is acknowledged, or is already kept.
    #[inline]
    pub fn keep(&mut self, handed: &DeliveredPacket<'_>, now: Instant) {
        let at = handed.slot as usize;
        if self.flows.len() <= at {
            self.flows.resize_with(at + 1, || None);
        }
        let flow = self.flows[at].get_or_insert_with(|| Flow::new(handed.peer, now));
        flow.repeats.on_handed_on(now);
        if let Some(Clock { value, .. }) = handed.clock
            && flow.clock.is_none_or(|latest| Clock::is_later_than(value, latest))
        {
            flow.clock = Some(value);
        }
        if handed.upto <= flow.acked.max(handed.begin) {
            return;
        }
        let charge = Buffers::size(handed.packet.len()) + ENTRY_COST;
        if charge > self.bounds.flow.min(self.bounds.memory) {
            self.tally.dropped += 1;
            return;
        }
        let too_much = (flow.charge + charge).saturating_sub(self.bounds.flow);
        self.make_room(handed.slot, too_much, charge);
        let Some(behind) = self.place(handed) else {
            self.tally.dropped += 1;
            return;
        };
        // The sender has retransmitted this packet itself.
        let is_there = |entry: &Entry| entry.begin <= handed.begin && entry.upto >= handed.upto;
        if self.entries.get(behind as usize).is_some_and(is_there) {
            return;
        }
        let unused_max = self.bounds.memory - self.charge - charge;
        let bytes = self.buffers.copy(handed.packet, unused_max);
        self.insert(handed, behind, bytes, charge);
        self.wake(now + retransmit_timer::FIRST);
    }

    /// The local end has acknowledged everything before `upto`; `is_open` if its window is open.
    #[inline]
    pub fn on_acknowledged(&mut self, slot: u32, upto: u64, is_open: bool, now: Instant) {
        let Some(Some(flow)) = self.flows.get_mut(slot as usize) else { return };
        let is_news = upto > flow.acked;
        flow.acked = flow.acked.max(upto);
        let (mut head, acked) = (flow.head, flow.acked);
        while self.entries.get(head as usize).is_some_and(|entry| entry.upto <= acked) {
            head = self.remove(head);
        }
        let Some(Some(flow)) = self.flows.get_mut(slot as usize) else { return };
        if head == NONE {
            flow.repeats = RetransmitTimer::new(now);
        } else if let Some(at) = flow.repeats.on_ack(is_news, is_open, now) {
            if at <= now {
                self.enqueue(slot);
            } else {
                self.wake(at);
            }
        }
    }

    /// The flow was evicted; its slot goes to another flow.
    pub fn give_way(&mut self, slot: u32) {
        let before = self.tally.packets;
        self.forget(slot);
        self.tally.dropped += before - self.tally.packets;
    }

    /// The flow is over: drops all its packets.
    pub fn forget(&mut self, slot: u32) {
        let Some(Some(flow)) = self.flows.get(slot as usize) else { return };
        let mut head = flow.head;
        while head != NONE {
            head = self.remove(head);
        }
        if self.flows[slot as usize].take().is_some_and(|flow| flow.is_queued) {
            self.due.retain(|&queued| queued != slot);
        }
    }

    /// Unacknowledged bytes of the flow that are kept.
    pub fn kept(&self, slot: u32) -> u64 {
        let Some(Some(flow)) = self.flows.get(slot as usize) else { return 0 };
        let begin = self.entries.get(flow.head as usize).map_or(flow.acked, |head| head.begin);
        flow.payload.saturating_sub(flow.acked.saturating_sub(begin))
    }

    /// Nothing is kept.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.tally.packets == 0
    }

    /// Packets from this peer are kept.
    #[inline]
    pub fn has_of(&self, peer: u16) -> bool {
        self.of_peer.get(usize::from(peer)).is_some_and(|&count| count > 0)
    }

    /// The counts.
    pub fn tally(&self) -> Tally {
        let has_packets = |flow: &&Option<Flow>| flow.as_ref().is_some_and(|flow| flow.head != NONE);
        Tally {
            memory: self.charge + self.buffers.unused_bytes(),
            flows: self.flows.iter().filter(has_packets).count() as u64,
            ..self.tally
        }
    }

    /// Drops the lowest packets of the flow until `too_much` of its bytes are gone, then the oldest of all until
    /// `charge` fits.
    fn make_room(&mut self, slot: u32, too_much: usize, charge: usize) {
        let goal = self.charge.saturating_sub(too_much);
        while self.charge > goal {
            let head = self.flows.get(slot as usize).and_then(Option::as_ref).map_or(NONE, |flow| flow.head);
            if head == NONE {
                break;
            }
            self.remove(head);
            self.tally.dropped += 1;
        }
        while self.charge + charge > self.bounds.memory {
            let Some(oldest) = self.ages.oldest(IdleClass::Tcp) else { break };
            self.remove(oldest);
            self.tally.dropped += 1;
        }
    }

    /// The packet of the flow behind which this one belongs, [`NONE`] for the front. Returns nothing if that place is
    /// too far to search.
    fn place(&self, handed: &DeliveredPacket<'_>) -> Option<u32> {
        let flow = self.flows[handed.slot as usize].as_ref()?;
        let (mut low, mut high) = (flow.head, flow.tail);
        for _ in 0..STEPS_MAX {
            match (self.entries.get(low as usize), self.entries.get(high as usize)) {
                (_, Some(last)) if last.begin <= handed.begin => return Some(high),
                (Some(first), _) if first.begin > handed.begin => return Some(first.before),
                (Some(first), Some(last)) => (low, high) = (first.behind, last.before),
                _ => return Some(NONE),
            }
        }
        None
    }

    fn insert(&mut self, handed: &DeliveredPacket<'_>, before: u32, bytes: Vec<u8>, charge: usize) {
        let &DeliveredPacket { slot, begin, upto, header, clock, .. } = handed;
        let Some(Some(flow)) = self.flows.get_mut(slot as usize) else { return };
        let behind = self.entries.get(before as usize).map_or(flow.head, |entry| entry.behind);
        let entry = Entry { slot, before, behind, begin, upto, header, clock, bytes };
        let number = match self.vacant.pop() {
            Some(number) => {
                self.entries[number as usize] = entry;
                number
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        flow.charge += charge;
        flow.payload += upto - begin;
        *self.entries.get_mut(before as usize).map_or(&mut flow.head, |entry| &mut entry.behind) = number;
        *self.entries.get_mut(behind as usize).map_or(&mut flow.tail, |entry| &mut entry.before) = number;
        self.charge += charge;
        self.ages.append(IdleClass::Tcp, number);
        self.tally.packets += 1;
        let peer = usize::from(flow.peer);
        if self.of_peer.len() <= peer {
            self.of_peer.resize(peer + 1, 0);
        }
        self.of_peer[peer] += 1;
    }

    /// Removes a packet; returns the one behind it in its flow.
    fn remove(&mut self, number: u32) -> u32 {
        let entry = &mut self.entries[number as usize];
        let (slot, before, behind) = (entry.slot, entry.before, entry.behind);
        let payload = entry.upto - entry.begin;
        let bytes = std::mem::take(&mut entry.bytes);
        let charge = Buffers::size(bytes.len()) + ENTRY_COST;
        self.buffers.give_back(bytes);
        self.ages.remove(IdleClass::Tcp, number);
        self.vacant.push(number);
        self.charge -= charge;
        self.tally.packets -= 1;
        let flow = self.flows[slot as usize].as_mut().expect("a flow outlives its packets");
        flow.charge -= charge;
        flow.payload -= payload;
        self.of_peer[usize::from(flow.peer)] -= 1;
        *self.entries.get_mut(before as usize).map_or(&mut flow.head, |entry| &mut entry.behind) = behind;
        *self.entries.get_mut(behind as usize).map_or(&mut flow.tail, |entry| &mut entry.before) = before;
        behind
    }

    /// Flows must be checked at `at`.
    fn wake(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |known| known.min(at)));
    }
}

/// Retransmissions are paced: nanoseconds per byte, about 500 Mbit/s. Each packet counts as one more kilobyte.
const NANOS_A_BYTE: u64 = 16;
const PACKET_COST: u64 = 1024;
/// How much may be sent again in one burst.
const BURST: Duration = Duration::from_millis(1);
/// The shortest time between two checks of the flows.
const LOOK_EVERY: Duration = Duration::from_millis(10);

impl Retained {
    /// The next packet to send again, unchanged except for the sender's TCP timestamp. `is_silent` returns whether a
    /// peer is silent.
    pub fn poll(&mut self, is_silent: impl Fn(u16) -> bool, now: Instant) -> Option<(VirtioHeader, &[u8])> {
        if self.is_empty() || self.busy_until.is_some_and(|until| until > now + BURST) {
            return None;
        }
        self.look(&is_silent, now);
        let (number, latest) = loop {
            let slot = self.due.pop_front()?;
            let Some(Some(flow)) = self.flows.get_mut(slot as usize) else { continue };
            flow.is_queued = false;
            if flow.head == NONE {
                continue;
            }
            let (head, clock, is_wanted) = (flow.head, flow.clock, is_silent(flow.peer));
            let next = if is_wanted { flow.repeats.on_repeated(now) } else { now + LOOK_EVERY };
            self.wake(next);
            if is_wanted {
                break (head, clock);
            }
        };
        self.tally.repeated += 1;
        let entry = &mut self.entries[number as usize];
        if let (Some(clock), Some(latest)) = (&mut entry.clock, latest) {
            clock.set(latest, entry.header, &mut entry.bytes);
        }
        let cost = Duration::from_nanos((entry.bytes.len() as u64 + PACKET_COST) * NANOS_A_BYTE);
        self.busy_until = Some(self.busy_until.map_or(now, |until| until.max(now)) + cost);
        Some((entry.header, &entry.bytes))
    }

    /// When to [`poll`](Self::poll); `silent_at` returns when a peer becomes silent if nothing comes from it.
    pub fn deadline(&self, silent_at: impl Fn(u16) -> Option<Instant>) -> Option<Instant> {
        let kept = (0..).zip(&self.of_peer).filter(|(_, count)| **count > 0);
        let silent_at = kept.filter_map(|(peer, _)| silent_at(peer)).min()?;
        let next = match self.due.is_empty() {
            true => self.look_at?,
            false => self.busy_until.and_then(|until| until.checked_sub(BURST)).unwrap_or(silent_at),
        };
        Some(silent_at.max(next))
    }

    /// Queues the flows that are due.
    fn look(&mut self, is_silent: &impl Fn(u16) -> bool, now: Instant) {
        if self.look_at.is_none_or(|at| at > now) {
            return;
        }
        self.look_at = None;
        for slot in 0..self.flows.len() {
            let Some(flow) = self.flows[slot].as_ref().filter(|flow| flow.head != NONE) else { continue };
            match flow.repeats.due_at() {
                Some(at) if at <= now && is_silent(flow.peer) => self.enqueue(slot as u32),
                Some(at) => self.wake(at.max(now + LOOK_EVERY)),
                None => {}
            }
        }
    }

    fn enqueue(&mut self, slot: u32) {
        if let Some(Some(flow)) = self.flows.get_mut(slot as usize)
            && !std::mem::replace(&mut flow.is_queued, true)
        {
            self.due.push_back(slot);
        }
    }
}

#[cfg(test)]
mod tests;
