//! Drives the protection of a lane: feeds the lane's events to [`LaneProtection`], and publishes what follows.
//!
//! One step in each turn of the lane, in this order: block events, feedback from reports, timestamps, deadlines,
//! requests, notifications. So a block is published as protected in the turn in which its timestamp was read. Before
//! timestamps count, the egress to the peers is checked: one datagram of a train may have left and others not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::appliance::notify::egress_watch::EgressWatch;
use crate::appliance::notify::notification::{LaneNotification, key_from, level_of};
use crate::appliance::notify::port::NotifyPortChanges;
use crate::appliance::notify::publish_path::{LaneRequest, PublishPath};
use crate::appliance::setup::ProtectionSettings;
use crate::notify::message::{Level, StateReason};
use crate::notify::publisher::Asked;
use crate::protect::{Evidence, LaneProtection, Notification, PeerProtection, TakenSend};
use crate::tunnel::PeerId;
use crate::tunnel::forwarder::{Deliverable, Forwarder, Outgoing};
use crate::tunnel::peer::Peer;

/// When to retry a request to a lane that has no room.
const ASK_STEP: Duration = Duration::from_millis(1);

/// What of a lane's protection can change while it runs.
#[derive(Debug)]
pub struct ProtectionChanges {
    /// What the protection of new peers is made from.
    pub settings: ProtectionSettings,
    /// Changes of the notification port.
    pub port: NotifyPortChanges,
}

/// Drives one lane's protection.
#[derive(Debug)]
pub struct ProtectionDriver {
    lane: u8,
    lane_protection: LaneProtection,
    publish_path: PublishPath,
    egress: EgressWatch,
    /// The address that the socket is bound to, if it is bound to one.
    bound: Option<IpAddr>,
    /// Ids of timestamps that were read and are not applied yet.
    stamps_read: Vec<u32>,
    uses_stamps: bool,
    publishes_blocks: bool,
    /// Every notification so far is on its way.
    has_published: bool,
    /// By number: it is a peer no more.
    removed: Vec<bool>,
}

impl ProtectionDriver {
    /// The driver of `lane`. `bound` is the address of its socket, if it is bound to one.
    pub fn new(lane: u8, lane_protection: LaneProtection, publish_path: PublishPath, bound: Option<IpAddr>) -> Self {
        let uses_stamps = lane_protection.peers().iter().any(|peer| peer.evidence() == Evidence::Timestamps);
        let (egress, stamps_read) = (EgressWatch::default(), Vec::new());
        Self {
            lane,
            lane_protection,
            publish_path,
            egress,
            bound,
            stamps_read,
            uses_stamps,
            publishes_blocks: false,
            has_published: false,
            removed: Vec::new(),
        }
    }

    /// Follows these changes; [`Forwarder::reload`] comes first.
    pub fn reload(&mut self, changes: ProtectionChanges, now: Instant) {
        for protection in self.lane_protection.peers_mut() {
            // Whoever plans tells again.
            protection.set_plan_reason(None);
        }
        while self.lane_protection.peers().len() < changes.port.peers.len() {
            let mut protection = changes.settings.make();
            protection.set_publishes_blocks(self.publishes_blocks);
            self.lane_protection.add_peer(protection);
        }
        self.removed = changes.port.peers.iter().map(|(_, is_removed)| *is_removed).collect();
        let lanes = self.publish_path.other_lanes() + 1;
        if let Some(port) = self.publish_path.port_mut() {
            port.reload(changes.port, lanes, now);
        }
    }

    /// A packet is about to be put into its block.
    #[inline]
    pub fn on_outgoing(&mut self, outgoing: &Outgoing<'_>, now: Instant) {
        self.lane_protection.on_outgoing(outgoing, now);
    }

    /// A packet came from a peer.
    #[inline]
    pub fn on_incoming(&mut self, incoming: &Deliverable<'_>, now: Instant) {
        self.lane_protection.on_incoming(incoming, now);
    }

    /// The id for the timestamps of the next send; `None` where timestamps are no evidence.
    pub fn next_stamp(&self) -> Option<u32> {
        self.uses_stamps.then(|| self.lane_protection.next_stamp())
    }

    /// Timestamps show when blocks have left this host.
    pub fn shows_departures(&self) -> bool {
        self.uses_stamps
    }

    /// The kernel took this send; it was asked for this many timestamps.
    pub fn on_taken(&mut self, taken: TakenSend, timestamps: usize, now: Instant) {
        if self.uses_stamps {
            self.lane_protection.on_taken(taken, timestamps, now);
        }
    }

    /// Why the link to a peer is degraded although it works.
    pub fn set_plan_reason(&mut self, peer: PeerId, reason: Option<StateReason>) {
        if let Some(protection) = self.lane_protection.peers_mut().get_mut(usize::from(peer.0)) {
            protection.set_plan_reason(reason);
        }
    }

    /// Packets for the peer take the plain route, or no longer do.
    pub fn set_bypassed(&mut self, peer: PeerId, is_bypassed: bool) {
        if let Some(protection) = self.lane_protection.peers_mut().get_mut(usize::from(peer.0)) {
            protection.set_bypassed(is_bypassed);
        }
    }

    /// A timestamp that comes now may decide that something is protected.
    pub fn awaits_departures(&self) -> bool {
        self.lane_protection.is_waiting() && self.lane_protection.awaits_departures()
    }

    /// First: block events and feedback from reports.
    pub fn on_progress(&mut self, forwarder: &mut Forwarder, now: Instant) {
        while let Some((peer, event)) = forwarder.poll_block_event() {
            self.lane_protection.on_block(peer, event, now);
        }
        while let Some((peer, feedback)) = forwarder.poll_feedback() {
            self.lane_protection.on_feedback(peer, &feedback, now);
        }
        for (peer, protection) in forwarder.peers().iter().zip(self.lane_protection.peers_mut()) {
            protection.on_session(peer.sessions().current().is_some_and(|session| session.can_seal(now)));
        }
        self.follow(forwarder);
    }

    /// Follows a new egress to a peer. Call it before anything is sent there: a drop shows only by what has changed
    /// since the first look.
    pub fn follow(&mut self, forwarder: &Forwarder) {
        if self.uses_stamps {
            let ends = |peer: &Peer| {
                let endpoint = peer.endpoint()?;
                Some((endpoint.remote.ip(), endpoint.local.or(self.bound)))
            };
            self.egress.follow(forwarder.peers().iter().map(ends));
        }
    }

    /// Then: a timestamp with this id came. It takes effect in [`publish`](Self::publish).
    pub fn on_stamp(&mut self, number: u32) {
        self.stamps_read.push(number);
    }

    /// An error came back for a datagram to this address that the kernel had taken.
    pub fn on_late_error(&mut self, to: IpAddr, forwarder: &Forwarder, now: Instant) {
        for (peer, protection) in forwarder.peers().iter().zip(self.lane_protection.peers_mut()) {
            if to.is_unspecified() || peer.address().is_some_and(|address| address.ip() == to) {
                protection.on_dropped_here(now);
            }
        }
    }

    /// Last: handles deadlines and requests, and publishes notifications.
    pub fn publish(&mut self, forwarder: &mut Forwarder, now: Instant) {
        // The egress is checked only when a timestamp can decide something, and only to peers for which it can.
        if !self.stamps_read.is_empty() && self.lane_protection.awaits_departures() {
            let peers = self.lane_protection.peers();
            let awaits = |peer: u16| peers.get(usize::from(peer)).is_some_and(PeerProtection::awaits_departures);
            let mut doubtful = Vec::new();
            self.egress.look(awaits, |peer| doubtful.push(usize::from(peer)));
            let peers = self.lane_protection.peers_mut();
            doubtful
                .into_iter()
                .for_each(|peer| peers.get_mut(peer).into_iter().for_each(|it| it.on_dropped_here(now)));
        }
        for number in self.stamps_read.drain(..) {
            self.lane_protection.on_stamp(number, now);
        }
        while let Some((peer, block, lag)) = self.lane_protection.poll_early_left(now) {
            forwarder.on_early_left(peer, block, lag, now);
        }
        self.lane_protection.handle_timeout(now);
        if let Some(port) = self.publish_path.port_mut() {
            port.read(now);
        }
        self.run_requests(forwarder, now);
        self.publish_all(now);
        self.publish_path.forward(now);
        if let Some(port) = self.publish_path.port_mut() {
            port.send(now);
        }
    }

    fn run_requests(&mut self, forwarder: &mut Forwarder, now: Instant) {
        while let Some(request) = self.publish_path.poll_request() {
            self.run_request(request, forwarder, now);
        }
        while self.publish_path.can_request()
            && let Some(asked) = self.publish_path.port_mut().and_then(|port| port.poll_asked())
        {
            let request = match asked {
                Asked::Register { key, cookie } => LaneRequest::Register(key, cookie),
                Asked::Flush => LaneRequest::Flush,
                Asked::Barrier { id } => LaneRequest::Barrier(id),
            };
            self.send_round(request);
            self.run_request(request, forwarder, now);
        }
        let wanted = self.publish_path.port().map(|port| port.wants_blocks());
        if let Some(wanted) = wanted.filter(|wanted| *wanted != self.publishes_blocks)
            && self.publish_path.can_request()
        {
            self.send_round(LaneRequest::Blocks(wanted));
            self.run_request(LaneRequest::Blocks(wanted), forwarder, now);
        }
    }

    fn send_round(&mut self, request: LaneRequest) {
        let is_peer = |peer: &u32| !self.removed.get(*peer as usize).is_some_and(|removed| *removed);
        let peers: Vec<u32> = (0..self.lane_protection.peers().len() as u32).filter(is_peer).collect();
        let lanes = self.publish_path.other_lanes() as u8;
        let missing = (0..=lanes).flat_map(|lane| peers.iter().map(move |&peer| (lane, peer))).collect();
        if let (LaneRequest::Barrier(id), Some(port)) = (request, self.publish_path.port_mut()) {
            port.begin_barrier(id, missing);
        }
        let ended = self.publish_path.send_all(request);
        if let (LaneRequest::Barrier(id), 1.., Some(port)) = (request, ended, self.publish_path.port_mut()) {
            port.fail_barrier(id);
        }
    }

    fn run_request(&mut self, request: LaneRequest, forwarder: &mut Forwarder, now: Instant) {
        match request {
            LaneRequest::Flush => forwarder.flush(now),
            LaneRequest::Blocks(wanted) => {
                self.publishes_blocks = wanted;
                self.lane_protection
                    .peers_mut()
                    .iter_mut()
                    .for_each(|protection| protection.set_publishes_blocks(wanted));
            }
            LaneRequest::Barrier(id) => {
                self.lane_protection.peers_mut().iter_mut().for_each(|protection| protection.ask_barrier(id));
                // If everything is protected already, the barrier is answered in this turn.
                self.lane_protection.handle_timeout(now);
            }
            LaneRequest::Register(key, cookie) => {
                for protection in self.lane_protection.peers_mut() {
                    if let Err(error) = protection.register(&key_from(&key), cookie, now) {
                        tracing::debug!("a cookie was not kept: {error}");
                    }
                }
            }
        }
    }

    fn publish_all(&mut self, now: Instant) {
        self.has_published = false;
        while self.publish_path.can_publish() {
            let Some((peer, notification)) = self.lane_protection.poll_notification() else {
                self.has_published = true;
                return;
            };
            self.publish_notification(peer, notification, now);
        }
    }

    fn publish_notification(&mut self, peer: PeerId, notification: Notification, now: Instant) {
        // Readers of blocks are told once, when a block is decided.
        if matches!(notification, Notification::Block { level: Some(Level::Early), .. }) {
            return;
        }
        let level = level_of(self.lane_protection.peers()[usize::from(peer.0)].evidence());
        let from = LaneNotification { peer: u32::from(peer.0), lane: self.lane, level, notification };
        self.publish_path.publish(from, now);
    }

    /// When something has to happen if nothing comes.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let port = self.publish_path.port().and_then(|port| port.deadline());
        // No event reports that another lane has taken a request.
        let asked = (!self.publish_path.can_request()).then_some(now + ASK_STEP);
        self.lane_protection.deadline(now).into_iter().chain(port).chain(asked).min()
    }

    /// There is more to do than fitted into this turn.
    pub fn is_busy(&self) -> bool {
        !self.stamps_read.is_empty()
            || !self.has_published
            || self.publish_path.has_unsent()
            || self.publish_path.port().is_some_and(|port| port.is_busy())
    }

    /// The appliance is about to stop.
    pub fn on_drain(&mut self) {
        self.lane_protection.on_drain();
    }

    /// Nothing waits for the kernel, for a timestamp or to be published.
    pub fn is_settled(&mut self) -> bool {
        self.lane_protection.is_settled() && self.has_published && self.publish_path.is_done()
    }

    /// The lane's protection, for status.
    pub fn lane_protection(&self) -> &LaneProtection {
        &self.lane_protection
    }

    /// The lane's path to the notification port.
    pub fn publish_path(&mut self) -> &mut PublishPath {
        &mut self.publish_path
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mio::{Poll, Token, Waker};

    use super::*;
    use crate::appliance::notify::port::{NotifyPort, NotifyPortSettings};
    use crate::appliance::notify::publish_path::NOTIFICATIONS_MAX;
    use crate::flow::{FlowTable, InstanceCounter, Limits};
    use crate::notify::envelope::KeyRing;
    use crate::protect::PeerProtection;

    #[test]
    fn a_lane_has_not_settled_and_does_not_sleep_while_a_notification_waits_for_room() {
        let (poll, now) = (Poll::new().unwrap(), Instant::now());
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let settings = NotifyPortSettings {
            listen: ([127, 0, 0, 1], 0).into(),
            keys: KeyRing::default(),
            peers: vec!["syracuse".to_owned()],
            lanes: 2,
            epoch: 1,
            secret: [0; 32],
        };
        let mut paths = PublishPath::of_lanes(NotifyPort::open(settings, now).unwrap(), &vec![waker; 2]);
        let (relay, mut port) = (paths.pop().unwrap(), paths.pop().unwrap());
        let flows = FlowTable::new(Limits::default(), 1, InstanceCounter::default());
        let peer = PeerProtection::new(flows, Evidence::HandOver);
        let mut driver = ProtectionDriver::new(1, LaneProtection::new(vec![peer]), relay, None);
        // The answers fill the channel; one more waits behind it, and another in the protection of the peer.
        for id in 0..NOTIFICATIONS_MAX as u64 + 2 {
            driver.lane_protection.peers_mut().iter_mut().for_each(|peer| peer.ask_barrier(id));
            driver.lane_protection.handle_timeout(now);
        }
        driver.publish_all(now);
        assert!(driver.is_busy() && !driver.is_settled());
        port.forward(now);
        assert!(!driver.is_settled(), "there is room now, and the last answer has not used it");
        assert!(driver.is_busy());
        driver.publish_all(now);
        driver.publish_path.forward(now);
        assert!(driver.is_settled() && !driver.is_busy());
    }
}
