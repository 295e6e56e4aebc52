//! One turn of a side, in the order of a lane: read packets, idle, timeouts, send datagrams, deliver packets, each with
//! a budget.

use std::time::Duration;

use onwire::flow::FlowKey;
use onwire::protect::{Evidence, TakenSend};
use onwire::tunnel::PeerId;
use onwire::tunnel::drop_reason::DropReason;
use onwire::tunnel::outbox::Trains;
use onwire::wire::packet::UDP;
use onwire::wire::segment::segment_count;
use onwire::wire::virtio::VirtioHeader;
use rand::Rng;

use crate::claims::Taken;
use crate::endpoint::{QUEUE_MAX, newly_dropped};
use crate::one_way::HostFate;
use crate::packets::{Packet, number_of, profile_of};
use crate::side::Side;
use crate::world::{Event, World};

/// The shortest turn.
const TURN: Duration = Duration::from_micros(1);
/// With more turns in a run, one side wakes without reason.
const TURNS_MAX: usize = 60_000;

impl World {
    /// One turn of a lane.
    pub(super) fn turn(&mut self, side: Side) {
        self.turns += 1;
        assert!(self.turns < TURNS_MAX, "{TURNS_MAX} turns by {:?}: a side wakes without reason", self.now);
        let now = self.start + self.now;
        let budget = self.scenario.budget;
        let mut leftover = self.take_packets(side, budget);
        let end = &mut self.ends[side.index()];
        if end.tun.is_empty() {
            end.forwarder.handle_idle(now);
        }
        end.forwarder.handle_timeout(now);
        self.check_queue(side);
        leftover |= self.transmit(side, budget);
        leftover |= self.deliver(side, budget);
        if self.ends[side.index()].forwarder.poll_request(now).is_some() {
            self.initiate(self.ends[side.index()].run);
        }
        self.follow_protection(side);
        let end = &mut self.ends[side.index()];
        let wake = end.forwarder.poll_timeout(now);
        let due = end.lane_protection.as_mut().and_then(|lane_protection| lane_protection.deadline(now));
        let wake = wake.into_iter().chain(due).min();
        if leftover {
            end.wake_at = Some(self.now + TURN * self.random.random_range(1..40));
        } else {
            assert!(wake.is_none_or(|at| at > now), "all work is done at {:?}, but a timeout is still due", self.now);
            assert!(end.tun.is_empty() || wake.is_some(), "packets wait, but no timeout will wake the lane");
            end.wake_at = wake.map(|at| at - self.start);
        }
    }

    /// Reads the TUN; returns `true` if more could be read.
    fn take_packets(&mut self, side: Side, budget: usize) -> bool {
        let now = self.start + self.now;
        let end = &mut self.ends[side.index()];
        for _ in 0..budget {
            if !end.forwarder.wants_packets() {
                return false;
            }
            let Some((number, packet)) = end.tun.pop_front() else { return false };
            let drops = end.forwarder.drops().clone();
            end.forwarder.room()[..packet.bytes.len()].copy_from_slice(&packet.bytes);
            let lane_protection = &mut end.lane_protection;
            let (mut taken, mut dropped, mut rest) = (None, None, None);
            end.forwarder.handle_packet(packet.header, packet.bytes.len(), now, |outgoing| {
                if let Some(lane_protection) = lane_protection {
                    let strays = lane_protection.peers()[0].flows().counters().strays;
                    lane_protection.on_outgoing(&outgoing, now);
                    let is_stray = lane_protection.peers()[0].flows().counters().strays > strays;
                    let view = outgoing.view;
                    let flow = FlowKey::sent(view).and_then(|key| lane_protection.peers()[0].flows().find(&key));
                    let len = outgoing.packet.len().saturating_sub(view.transport_offset + 8) as u64;
                    let packets = segment_count(outgoing.header, outgoing.packet) as u64;
                    let datagrams = (view.protocol == UDP && flow.is_some()).then_some((packets, len));
                    // UDP that could not be recorded does not count, nor does a segment that seems to be of another
                    // connection.
                    let counted =
                        flow.filter(|flow| if view.protocol == UDP { flow.sent.packets > 0 } else { !is_stray });
                    let instance = counted.map(|flow| flow.id.instance());
                    taken = outgoing.block.map(|block| Taken { number, block, instance, datagrams });
                    if outgoing.block.is_none() {
                        dropped = (!is_stray).then_some((number, instance));
                    }
                }
                if outgoing.block.is_some() {
                    let flags = outgoing.header.flags & VirtioHeader::NEEDS_CSUM;
                    let header = VirtioHeader { flags, ..outgoing.header };
                    rest = Some(Packet { header, bytes: outgoing.packet.to_vec() });
                }
            });
            match newly_dropped(&drops, end.forwarder.drops())[..] {
                [] => {
                    if let Some(taken) = taken {
                        self.claim_checker.on_taken(end.run, taken, &self.hosts);
                    }
                    let profile = profile_of(&packet.bytes);
                    self.model.on_taken(end.run, number, profile, packet);
                }
                // The first segment of a super-packet was dropped, and the rest is taken.
                [(DropReason::PathQueueStands, 1)] if rest.is_some() => {
                    assert!(self.scenario.sides[side.index()].bytes_per_second.is_some());
                    if let Some((number, instance)) = dropped {
                        self.claim_checker.on_dropped(end.run, number, instance);
                    }
                    if let Some(taken) = taken {
                        self.claim_checker.on_taken(end.run, taken, &self.hosts);
                    }
                    let profile = profile_of(&packet.bytes);
                    self.model.on_taken(end.run, number, profile, rest.expect("it is there"));
                }
                // `PathQueueFull` comes from a path with a low rate: other paths must not wait for it.
                [(DropReason::NoSession | DropReason::PathQueueFull | DropReason::PathQueueStands, 1)] => {
                    let has_rate = self.scenario.sides[side.index()].bytes_per_second.is_some();
                    assert!(has_rate || end.forwarder.drops().of(DropReason::PathQueueFull) == 0);
                    if let Some((number, instance)) = dropped {
                        self.claim_checker.on_dropped(end.run, number, instance);
                    }
                }
                ref other => panic!("a good packet was dropped: {other:?}"),
            }
        }
        !end.tun.is_empty() && end.forwarder.wants_packets()
    }

    /// Sends; returns `true` if more could be sent.
    fn transmit(&mut self, side: Side, budget: usize) -> bool {
        let now = self.start + self.now;
        for _ in 0..budget {
            let end = &mut self.ends[side.index()];
            let Some((peer, train)) = end.forwarder.poll_transmit(Trains::All, now) else { return false };
            assert_eq!(peer, PeerId(0));
            let taken = TakenSend { peer, send: train.send, queued: train.since };
            if self.random.random_bool(0.01) {
                // The socket is full: the same train is sent again later.
                return true;
            }
            let mut datagrams: Vec<Vec<u8>> = train.bytes.chunks(train.datagram_len).map(<[u8]>::to_vec).collect();
            let host = &self.scenario.sides[side.index()].host;
            let (gso, silent_drop) = (host.gso, host.silent_drop);
            let is_faulty = self.now < self.scenario.faults_end;
            if is_faulty && self.random.random_bool(host.refusal) {
                datagrams.truncate(1);
                end.forwarder.on_unsendable(peer, datagrams[0].len(), now);
                let datagram = datagrams.remove(0);
                self.ends[side.index()].drained += datagram.len() as u64;
                self.send(side, datagram, HostFate::Refused, None);
                continue;
            }
            if self.random.random_bool(0.2) {
                datagrams.truncate(self.random.random_range(1..=datagrams.len()));
            }
            let bytes: usize = datagrams.iter().map(Vec::len).sum();
            end.forwarder.on_sent(peer, bytes, now);
            let mut numbers = None;
            if let Some(lane_protection) = end
                .lane_protection
                .as_mut()
                .filter(|lane_protection| lane_protection.peers()[0].evidence() == Evidence::Timestamps)
            {
                numbers = Some(lane_protection.next_stamp());
                lane_protection.on_taken(taken, if gso { 1 } else { datagrams.len() }, now);
            }
            let mut is_dropped = false;
            for (place, datagram) in (0..).zip(datagrams) {
                self.ends[side.index()].drained += datagram.len() as u64;
                let is_packet = place == 0 || !gso;
                if is_packet {
                    is_dropped = is_faulty && self.random.random_bool(silent_drop);
                }
                let number = numbers.filter(|_| is_packet).map(|first| first.wrapping_add(place));
                self.send(side, datagram, if is_dropped { HostFate::Dropped } else { HostFate::Taken }, number);
            }
        }
        self.ends[side.index()].forwarder.poll_transmit(Trains::All, now).is_some()
    }

    /// Writes the TUN; returns `true` if there may be more.
    fn deliver(&mut self, side: Side, budget: usize) -> bool {
        let now = self.start + self.now;
        for _ in 0..budget {
            let end = &mut self.ends[side.index()];
            let Some(deliverable) = end.forwarder.poll_delivery(now) else { return false };
            if let Some(lane_protection) = &mut end.lane_protection {
                lane_protection.on_incoming(&deliverable, now);
            }
            let packet = Packet { header: deliverable.header, bytes: deliverable.packet.to_vec() };
            end.expected_reception.adus += 1;
            end.expected_reception.adu_bytes += packet.bytes.len() as u64;
            let number = number_of(&packet.bytes).expect("only packets are delivered");
            self.model.on_delivered(end.run, packet, &self.scenario);
            let answer = self.hosts.on_delivered(side.other(), number, &mut self.random);
            if let Some((side, info, packet)) = answer.filter(|_| self.now < self.scenario.faults_end) {
                let at = self.now + Duration::from_micros(self.random.random_range(1..1000));
                self.schedule(at, Event::Packet(side, packet, Some(info)));
            }
        }
        true
    }

    /// The memory for waiting and held datagrams is bounded.
    fn check_queue(&self, side: Side) {
        let end = &self.ends[side.index()];
        let settings = &self.scenario.sides[side.index()];
        let longest: u64 = settings
            .profiles
            .iter()
            .map(|profile| {
                let symbols = profile.block_symbols + 65_600 / settings.symbol_size + 2;
                // Late parts of several blocks may be due in one turn.
                let blocks = if profile.survive_burst.is_zero() { 1 } else { 32 };
                (blocks * (symbols + profile.plan.repair_symbols(symbols)) * (settings.symbol_size + 44)) as u64
            })
            .sum();
        let waiting = end.forwarder.peers()[0].sent().bytes - end.drained;
        // Four trains for the socket, or the bytes that the path's rate carries in the time that a packet may wait.
        let queue = settings.bytes_per_second.map_or(4 * 65_000, |rate| rate * QUEUE_MAX.as_millis() as u64 / 1000);
        assert!(waiting <= queue + longest + 1000, "{waiting} bytes wait to be sent");
        let memory = end.forwarder.memory();
        assert!(memory <= 4 << 20, "{memory} bytes are held");
    }
}
