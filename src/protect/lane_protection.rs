//! The protection of one lane: the [`PeerProtection`] of each peer, and the timestamps that the lane waits for.

use std::time::{Duration, Instant};

use super::notification::Notification;
use super::peer_protection::PeerProtection;
use super::tx_timestamps::{Stamps, TakenSend};
use crate::tunnel::PeerId;
use crate::tunnel::block_event::BlockEvent;
use crate::tunnel::feedback::Feedback;
use crate::tunnel::forwarder::{Deliverable, Outgoing};
use crate::wire::payload_id::BlockId;

/// The protection of one lane.
#[derive(Debug)]
pub struct LaneProtection {
    peers: Vec<PeerProtection>,
    stamps: Stamps,
    /// The peer whose notifications are polled first next time.
    turn: usize,
}

impl LaneProtection {
    /// The peers by number.
    pub fn new(peers: Vec<PeerProtection>) -> Self {
        Self { peers, stamps: Stamps::default(), turn: 0 }
    }

    /// There is one more peer, behind those that there were.
    pub fn add_peer(&mut self, peer: PeerProtection) {
        self.peers.push(peer);
    }

    /// A packet is about to be put into its block.
    #[inline]
    pub fn on_outgoing(&mut self, outgoing: &Outgoing<'_>, now: Instant) {
        if let Some(protection) = self.peers.get_mut(usize::from(outgoing.peer.0)) {
            protection.on_outgoing(outgoing, now);
        }
    }

    /// A packet came from a peer.
    #[inline]
    pub fn on_incoming(&mut self, incoming: &Deliverable<'_>, now: Instant) {
        if let Some(protection) = self.peers.get_mut(usize::from(incoming.peer.0)) {
            protection.on_incoming(incoming, now);
        }
    }

    /// A block on its way out changed its state.
    pub fn on_block(&mut self, peer: PeerId, event: BlockEvent, now: Instant) {
        if let Some(protection) = self.peers.get_mut(usize::from(peer.0)) {
            protection.on_block(event, now);
        }
    }

    /// The timestamp id for the next send.
    pub fn next_stamp(&self) -> u32 {
        self.stamps.next()
    }

    /// The kernel took this send; it was asked for this many timestamps.
    pub fn on_taken(&mut self, taken: TakenSend, timestamps: usize, now: Instant) {
        self.stamps.begin(taken, timestamps, now);
        if let Some(protection) = self.peers.get_mut(usize::from(taken.peer.0)) {
            protection.on_taken(taken.send);
        }
    }

    /// A timestamp may still come.
    pub fn is_waiting(&self) -> bool {
        self.stamps.is_waiting()
    }

    /// The kernel has taken a whole block that is not known to have left: a timestamp may show that it is protected.
    pub fn awaits_departures(&self) -> bool {
        self.peers.iter().any(PeerProtection::awaits_departures)
    }

    /// The timestamp with this id came.
    pub fn on_stamp(&mut self, number: u32, now: Instant) {
        if let Some(left) = self.stamps.take(number)
            && let Some(protection) = self.peers.get_mut(usize::from(left.peer.0))
        {
            protection.on_left(left.send, left.queued, now);
        }
    }

    /// A block whose early part has left this host: its peer, and how long what has left lately has lagged at most.
    pub fn poll_early_left(&mut self, now: Instant) -> Option<(PeerId, BlockId, Duration)> {
        let mut peers = self.peers.iter_mut().enumerate();
        peers.find_map(|(number, peer)| {
            let (block, lag) = peer.poll_early_left(now)?;
            Some((PeerId(number as u16), block, lag))
        })
    }

    /// A report of a peer brought feedback.
    pub fn on_feedback(&mut self, peer: PeerId, feedback: &Feedback, now: Instant) {
        if let Some(protection) = self.peers.get_mut(usize::from(peer.0)) {
            protection.on_feedback(feedback, now);
        }
    }

    /// The appliance is about to stop.
    pub fn on_drain(&mut self) {
        self.peers.iter_mut().for_each(PeerProtection::on_drain);
    }

    /// Handles everything due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.stamps.handle_timeout(now);
        self.peers.iter_mut().for_each(|protection| protection.handle_timeout(now));
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next due if no input comes.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        self.peers.iter_mut().filter_map(|protection| protection.deadline(now)).min()
    }

    /// The next notification, and its peer.
    pub fn poll_notification(&mut self) -> Option<(PeerId, Notification)> {
        // Round robin: where the reader takes only a few, a busy peer would use all of them.
        let count = self.peers.len();
        let mut order = (0..count).map(|step| (self.turn + step) % count);
        let (number, notification) =
            order.find_map(|number| Some((number, self.peers[number].poll_notification()?)))?;
        self.turn = number + 1;
        Some((PeerId(number as u16), notification))
    }

    /// No block waits for the kernel or for a timestamp.
    pub fn is_settled(&mut self) -> bool {
        self.peers.iter_mut().all(PeerProtection::is_settled)
    }

    /// The peers by number.
    pub fn peers(&self) -> &[PeerProtection] {
        &self.peers
    }

    /// The peers by number.
    pub fn peers_mut(&mut self) -> &mut [PeerProtection] {
        &mut self.peers
    }
}
