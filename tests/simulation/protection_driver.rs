//! Drives a side's protection as a lane's `ProtectionDriver` does, and models the host, whose queue holds what the
//! kernel has taken.

use std::time::Duration;

use onwire::flow::{FlowTable, InstanceCounter, Limits};
use onwire::protect::{Evidence, LaneProtection, PeerProtection};
use onwire::wire::payload_id::BlockId;
use rand::Rng;
use rand::rngs::SmallRng;

use crate::claims::GroundTruth;
use crate::keys::Content;
use crate::side::Side;
use crate::world::{Event, World};

/// The longest time that a datagram waits in a host.
pub const QUEUE_MAX: Duration = Duration::from_millis(30);

/// More flows than any scenario has, and enough for the other limits.
const ROOMY: usize = 128;

/// The host between a side's forwarder and its link, and its protection settings.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// The kind of evidence.
    pub evidence: Evidence,
    /// The limits of the flow table.
    pub limits: Limits,
    /// The most that a datagram waits longer than the one before it.
    pub wait: Duration,
    /// The longest time from a datagram's departure to its timestamp.
    pub stamp_after: Duration,
    /// The probability that a timestamp never comes.
    pub stamp_loss: f64,
    /// The probability that the kernel refuses a datagram.
    pub refusal: f64,
    /// The probability that the kernel silently drops a packet that it has taken.
    pub silent_drop: f64,
    /// The probability that the device drops a datagram; the drop is counted.
    pub device_loss: f64,
    /// The kernel takes a train as one packet and segments it on departure; otherwise it takes each datagram
    /// separately.
    pub gso: bool,
    /// Datagrams that wait in the host are lost when their run ends.
    pub lost_on_restart: bool,
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
        let (silent_drop, device_loss) = (chance(0.4, 0.1), chance(0.3, 0.02));
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
        let (gso, lost_on_restart) = (random.random_bool(0.7), random.random_bool(0.5));
        Self {
            evidence,
            limits,
            wait,
            stamp_after,
            stamp_loss,
            refusal,
            silent_drop,
            device_loss,
            gso,
            lost_on_restart,
        }
    }

    /// Whether the table never has to forget anything: only then is it known what TCP still has to send again.
    pub fn has_room(&self) -> bool {
        self.limits.flows >= ROOMY && self.limits.ranges >= ROOMY && self.limits.blocks >= ROOMY
    }

    /// The protection of a new run.
    pub fn lane_protection(&self) -> LaneProtection {
        let flows = FlowTable::new(self.limits, 7, InstanceCounter::default());
        let mut protection = PeerProtection::new(flows, self.evidence);
        protection.set_publishes_blocks(true);
        LaneProtection::new(vec![protection])
    }
}

/// The block of a datagram.
pub fn block_of(content: &Content) -> Option<BlockId> {
    match content {
        Content::Source(id, _) => Some(BlockId { profile: id.profile, sbn: id.sbn }),
        Content::Repair(id) => Some(BlockId { profile: id.profile, sbn: id.sbn }),
        Content::Report(_) => None,
    }
}

/// Whether a datagram is the last of its block.
pub fn ends_block(content: &Content) -> bool {
    matches!(content, Content::Repair(id) if id.esi + 1 == id.source_symbols + id.repair_symbols)
}

impl World {
    /// The end of a turn: block events, feedback of reports, timestamps, timeouts, barriers, notifications.
    pub(super) fn follow_protection(&mut self, side: Side) {
        let now = self.start + self.now;
        let last = Side::BOTH.map(|side| self.ends[side.index()].run);
        let end = &mut self.ends[side.index()];
        if end.lane_protection.is_none() {
            assert_eq!(end.forwarder.poll_block_event(), None, "no block events without claims");
            return;
        }
        while let Some((peer, event)) = self.ends[side.index()].forwarder.poll_block_event() {
            let lane_protection = self.ends[side.index()].lane_protection.as_mut().expect("looked at above");
            lane_protection.on_block(peer, event, now);
        }
        self.take_feedback(side);
        let end = &mut self.ends[side.index()];
        let lane_protection = end.lane_protection.as_mut().expect("looked at above");
        for (peer, protection) in end.forwarder.peers().iter().zip(lane_protection.peers_mut()) {
            protection.on_session(peer.sessions().current().is_some_and(|session| session.can_seal(now)));
        }
        if !end.stamps.is_empty() && std::mem::take(&mut end.device_has_dropped) {
            lane_protection.peers_mut().iter_mut().for_each(|protection| protection.on_dropped_here(now));
        }
        for (number, ended) in end.stamps.drain(..) {
            self.claim_checker.on_stamp(end.run, &end.ended[..ended]);
            lane_protection.on_stamp(number, now);
        }
        while let Some((peer, block, lag)) = lane_protection.poll_early_left(now) {
            end.forwarder.on_early_left(peer, block, lag, now);
        }
        lane_protection.handle_timeout(now);
        self.claim_checker.on_peer_run(end.run, end.forwarder.peers()[0].sessions().epoch());
        if self.random.random_bool(0.03) {
            self.sequence += 1;
            let id = self.sequence;
            self.claim_checker.on_barrier(end.run, id, &self.model, last);
            lane_protection.peers_mut()[0].ask_barrier(id);
            lane_protection.handle_timeout(now);
        }
        let notifications: Vec<_> =
            std::iter::from_fn(|| lane_protection.poll_notification()).map(|(_, notification)| notification).collect();
        let ground_truth = GroundTruth { model: &self.model, hosts: &self.hosts, scenario: &self.scenario };
        self.claim_checker.on_notifications(end.run, &notifications, ground_truth, self.now);
    }

    /// When a datagram that the kernel takes now leaves the host, after all earlier ones.
    pub(super) fn leaves_at(&mut self, side: Side) -> Duration {
        let wait = self.scenario.sides[side.index()].host.wait;
        let end = &mut self.ends[side.index()];
        if self.now < self.scenario.faults_end && !wait.is_zero() && self.random.random_bool(0.5) {
            let after = wait.mul_f64(self.random.random());
            end.queue_free_at =
                end.queue_free_at.max((self.now + QUEUE_MAX).min(end.queue_free_at.max(self.now) + after));
        }
        end.queue_free_at = end.queue_free_at.max(self.now);
        end.queue_free_at
    }

    /// A datagram has left: its timestamp will come, or is lost. `ended` is the number of blocks whose last datagram
    /// the host had taken by then.
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
