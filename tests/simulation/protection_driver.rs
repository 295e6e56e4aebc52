//! A side's promises, driven as a lane's warden drives them, and a host whose queue holds what its kernel has taken.

use std::time::Duration;

use onwire::flow::{FlowTable, Instances, Limits};
use onwire::protect::{Evidence, LaneProtection, PeerProtection};
use onwire::wire::payload_id::BlockId;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::claims::Truths;
use crate::keys::Content;
use crate::side::Side;
use crate::world::{Event, World};

/// Nothing waits in a host for longer.
pub const QUEUE_MAX: Duration = Duration::from_millis(30);

/// More flows than there ever are, and enough of all else.
const ROOMY: usize = 128;

/// What is between the forwarder of a side and its link, and what is promised there.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// What counts as evidence.
    pub evidence: Evidence,
    /// What the flow table may remember.
    pub limits: Limits,
    /// A datagram waits at most so much longer than the one before it.
    pub wait: Duration,
    /// A timestamp comes at most so long after its datagram has left.
    pub stamp_after: Duration,
    /// It never comes with this probability.
    pub stamp_loss: f64,
    /// The kernel refuses a datagram with this probability.
    pub refusal: f64,
    /// The kernel drops a packet that it took with this probability, and nobody is told.
    pub silence: f64,
    /// The device drops a datagram with this probability, and counts it.
    pub device_loss: f64,
    /// The kernel takes a train as one packet and cuts it when it leaves; otherwise each datagram is one.
    pub cuts: bool,
    /// What waits in the host is lost with the run that sent it.
    pub dies: bool,
}

impl HostSettings {
    /// A host; few of them have a long queue.
    pub fn random(random: &mut SmallRng) -> Self {
        let mut chance = |of: f64, at_most: f64| {
            if random.random_bool(of) { random.random_range(0.0..at_most) } else { 0.0 }
        };
        let wait = Duration::from_micros(chance(0.5, 3.0).exp_m1().mul_add(20.0, 0.0) as u64);
        let stamp_after = Duration::from_micros(chance(0.7, 20_000.0) as u64);
        let (stamp_loss, refusal) = (chance(0.3, 0.3), chance(0.4, 0.03));
        let (silence, device_loss) = (chance(0.4, 0.1), chance(0.3, 0.02));
        let evidence = match random.random_range(0..12) {
            0 => Evidence::HandOver,
            1 => Evidence::HandOverOnly,
            _ => Evidence::Timestamps,
        };
        let few = |of: f64, many: usize, random: &mut SmallRng| {
            if random.random_bool(of) { random.random_range(1..24) } else { many }
        };
        let limits = Limits {
            flows: few(0.2, ROOMY, random),
            ranges: few(0.2, 1024, random),
            blocks: few(0.15, 1024, random),
            ..Limits::default()
        };
        let (cuts, dies) = (random.random_bool(0.7), random.random_bool(0.5));
        Self { evidence, limits, wait, stamp_after, stamp_loss, refusal, silence, device_loss, cuts, dies }
    }

    /// Nothing has to be forgotten: only then it is known what TCP still has to send again.
    pub fn has_room(&self) -> bool {
        self.limits.flows >= ROOMY && self.limits.ranges >= ROOMY && self.limits.blocks >= ROOMY
    }

    /// The promises of a run.
    pub fn lane_protection(&self) -> LaneProtection {
        let flows = FlowTable::new(self.limits, 7, Instances::default());
        let mut protection = PeerProtection::new(flows, self.evidence);
        protection.set_tells_blocks(true);
        LaneProtection::new(vec![protection])
    }
}

/// The block that a datagram is of.
pub fn block_of(content: &Content) -> Option<BlockId> {
    match content {
        Content::Source(id, _) => Some(BlockId { profile: id.profile, sbn: id.sbn }),
        Content::Repair(id) => Some(BlockId { profile: id.profile, sbn: id.sbn }),
        Content::Report(_) => None,
    }
}

/// A datagram is the last of its block.
pub fn ends_block(content: &Content) -> bool {
    matches!(content, Content::Repair(id) if id.esi + 1 == id.source_symbols + id.repair_symbols)
}

impl World {
    /// The end of a turn: what happened to blocks, what reports told, timestamps, what is due, questions, notifications.
    pub(super) fn follow_protection(&mut self, side: Side) {
        let now = self.start + self.now;
        let last = Side::BOTH.map(|side| self.ends[side.index()].run);
        let end = &mut self.ends[side.index()];
        if end.lane_protection.is_none() {
            assert_eq!(end.forwarder.poll_block_event(), None, "nobody claims anything");
            return;
        }
        while let Some((peer, event)) = self.ends[side.index()].forwarder.poll_block_event() {
            let lane_protection = self.ends[side.index()].lane_protection.as_mut().expect("looked at above");
            lane_protection.on_block(peer, event, now);
        }
        self.ask_for_fates(side);
        let end = &mut self.ends[side.index()];
        let lane_protection = end.lane_protection.as_mut().expect("looked at above");
        for (peer, protection) in end.forwarder.peers().iter().zip(lane_protection.peers_mut()) {
            protection.on_session(peer.sessions().current().is_some_and(|session| session.can_seal(now)));
        }
        if !end.stamps.is_empty() && std::mem::take(&mut end.device_has_dropped) {
            lane_protection.peers_mut().iter_mut().for_each(|protection| protection.on_dropped_here(now));
        }
        for (number, ended) in end.stamps.drain(..) {
            self.promises.on_stamp(end.run, &end.ended[..ended]);
            lane_protection.on_stamp(number, now);
        }
        lane_protection.handle_timeout(now);
        self.promises.on_peer_run(end.run, end.forwarder.peers()[0].sessions().epoch());
        if self.random.random_bool(0.03) {
            self.sequence += 1;
            let id = self.sequence;
            self.promises.on_barrier(end.run, id, &self.model, last);
            lane_protection.peers_mut()[0].ask_barrier(id);
            lane_protection.handle_timeout(now);
        }
        let notifications: Vec<_> =
            std::iter::from_fn(|| lane_protection.poll_notification()).map(|(_, notice)| notice).collect();
        let truths = Truths { model: &self.model, hosts: &self.hosts, scenario: &self.scenario };
        self.promises.on_notifications(end.run, &notifications, truths, self.now);
    }

    /// When a datagram that the kernel takes now leaves the host, after all before it.
    pub(super) fn leaves_at(&mut self, side: Side) -> Duration {
        let wait = self.scenario.sides[side.index()].host.wait;
        let end = &mut self.ends[side.index()];
        if self.now < self.scenario.calm && !wait.is_zero() && self.random.random_bool(0.5) {
            let after = wait.mul_f64(self.random.random());
            end.queue_free_at =
                end.queue_free_at.max((self.now + QUEUE_MAX).min(end.queue_free_at.max(self.now) + after));
        }
        end.queue_free_at = end.queue_free_at.max(self.now);
        end.queue_free_at
    }

    /// A datagram behind the ends of so many blocks has left: its timestamp is on its way, or lost.
    pub(super) fn stamp(&mut self, side: Side, (number, ended): (u32, usize)) {
        let host = &self.scenario.sides[side.index()].host;
        let (loss, after) = (host.stamp_loss, host.stamp_after);
        if self.random.random_bool(loss) {
            return;
        }
        let at = self.now + after.mul_f64(self.random.random::<f64>().powi(3));
        let run = self.ends[side.index()].run;
        self.schedule(at, Event::Stamp(run, number, ended));
        if self.random.random_bool(0.02) {
            self.schedule(at + after, Event::Stamp(run, number, ended));
        }
    }
}
