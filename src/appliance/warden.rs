//! The warden of a lane: brings what happens on the lane to its promises, and what follows from it to subscribers.
//!
//! One step in each turn of the lane, in this order: what happened to blocks, what reports told, timestamps, deadlines,
//! requests, notifications. So a block is told as protected in the turn in which its timestamp was read. Before timestamps
//! are believed, the ways to the peers are looked at: one datagram of a train may have left and others not.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::told::{Told, key_from};
use super::voice::{Errand, Voice};
use super::ways::Ways;
use crate::notify::publisher::Asked;
use crate::protect::{Evidence, Guard};
use crate::tunnel::PeerId;
use crate::tunnel::forwarder::{Deliverable, Forwarder, Outgoing};
use crate::tunnel::peer::Peer;

/// When to try again to ask a lane that has no room.
const ASK_STEP: Duration = Duration::from_millis(1);

/// Keeps one lane's promises.
#[derive(Debug)]
pub struct Warden {
    lane: u8,
    guard: Guard,
    voice: Voice,
    ways: Ways,
    /// The address that the socket is bound to, if to one.
    bound: Option<IpAddr>,
    /// Timestamps that were read and not believed yet.
    read: Vec<u32>,
    stamps: bool,
    tells_blocks: bool,
}

impl Warden {
    /// The warden of `lane`, whose socket is bound to this address, if to one.
    pub fn new(lane: u8, guard: Guard, voice: Voice, bound: Option<IpAddr>) -> Self {
        let stamps = guard.peers().iter().any(|peer| peer.evidence() == Evidence::Timestamps);
        let (ways, read) = (Ways::default(), Vec::new());
        Self { lane, guard, voice, ways, bound, read, stamps, tells_blocks: false }
    }

    /// A packet is about to be put into its block.
    #[inline]
    pub fn on_outgoing(&mut self, outgoing: &Outgoing<'_>, now: Instant) {
        self.guard.on_outgoing(outgoing, now);
    }

    /// A packet came from a peer.
    #[inline]
    pub fn on_incoming(&mut self, incoming: &Deliverable<'_>, now: Instant) {
        self.guard.on_incoming(incoming, now);
    }

    /// The number to ask for the timestamps of the next send with; none where timestamps are no evidence.
    pub fn next_stamp(&self) -> Option<u32> {
        self.stamps.then(|| self.guard.next_stamp())
    }

    /// The kernel took the send of this number toward `peer`; so many timestamps were asked for it.
    pub fn on_taken(&mut self, peer: PeerId, send: u64, timestamps: usize, now: Instant) {
        if self.stamps {
            self.guard.on_taken(peer, send, timestamps, now);
        }
    }

    /// A timestamp that comes now may decide that something is protected.
    pub fn awaits_departures(&self) -> bool {
        self.guard.is_waiting() && self.guard.awaits_departures()
    }

    /// First: what happened to blocks and what reports told.
    pub fn on_progress(&mut self, forwarder: &mut Forwarder, now: Instant) {
        while let Some((peer, event)) = forwarder.poll_block_event() {
            self.guard.on_block(peer, event, now);
        }
        while let Some((peer, heard)) = forwarder.poll_heard() {
            self.guard.on_heard(peer, &heard, now);
        }
        for (peer, protection) in forwarder.peers().iter().zip(self.guard.peers_mut()) {
            protection.on_session(peer.sessions().current().is_some_and(|session| session.can_seal(now)));
        }
        self.follow(forwarder);
    }

    /// The peers may be sent to by another way from now on. Before anything is sent there: what is dropped on a way is told by
    /// what has changed since it was first looked at.
    pub fn follow(&mut self, forwarder: &Forwarder) {
        if self.stamps {
            let ends = |peer: &Peer| {
                let endpoint = peer.endpoint()?;
                Some((endpoint.remote.ip(), endpoint.local.or(self.bound)))
            };
            self.ways.follow(forwarder.peers().iter().map(ends));
        }
    }

    /// Then: a timestamp with this number came. What follows from it does so in [`publish`](Self::publish).
    pub fn on_stamp(&mut self, number: u32) {
        self.read.push(number);
    }

    /// An error came back for a datagram that the kernel had taken and that was sent to this address.
    pub fn on_late_error(&mut self, to: IpAddr, forwarder: &Forwarder, now: Instant) {
        for (peer, protection) in forwarder.peers().iter().zip(self.guard.peers_mut()) {
            if to.is_unspecified() || peer.address().is_some_and(|address| address.ip() == to) {
                protection.on_dropped_here(now);
            }
        }
    }

    /// Last: what is due, what is asked, and what there is to tell.
    pub fn publish(&mut self, forwarder: &mut Forwarder, now: Instant) {
        // What no timestamp of now can decide is looked at when one can.
        if !self.read.is_empty() && self.guard.awaits_departures() {
            let peers = self.guard.peers_mut();
            self.ways.look(|peer| peers.get_mut(usize::from(peer)).into_iter().for_each(|it| it.on_dropped_here(now)));
        }
        for number in self.read.drain(..) {
            self.guard.on_stamp(number, now);
        }
        self.guard.handle_timeout(now);
        if let Some(herald) = self.voice.herald_mut() {
            herald.read(now);
        }
        self.obey(forwarder, now);
        self.tell(now);
        self.voice.pass_on(now);
        if let Some(herald) = self.voice.herald_mut() {
            herald.send(now);
        }
    }

    fn obey(&mut self, forwarder: &mut Forwarder, now: Instant) {
        while let Some(errand) = self.voice.poll_errand() {
            self.run(errand, forwarder, now);
        }
        while self.voice.can_ask()
            && let Some(asked) = self.voice.herald_mut().and_then(|herald| herald.poll_asked())
        {
            let errand = match asked {
                Asked::Register { key, cookie } => Errand::Register(key, cookie),
                Asked::Flush => Errand::Flush,
                Asked::Barrier { id } => Errand::Barrier(id),
            };
            self.send_round(errand, now);
            self.run(errand, forwarder, now);
        }
        let wanted = self.voice.herald().map(|herald| herald.wants_blocks());
        if let Some(wanted) = wanted.filter(|wanted| *wanted != self.tells_blocks)
            && self.voice.can_ask()
        {
            self.send_round(Errand::Blocks(wanted), now);
            self.run(Errand::Blocks(wanted), forwarder, now);
        }
    }

    fn send_round(&mut self, errand: Errand, now: Instant) {
        let peers = self.guard.peers().len();
        if let (Errand::Barrier(id), lanes) = (errand, self.voice.colleagues() + 1)
            && let Some(herald) = self.voice.herald_mut()
        {
            herald.begin_barrier(id, peers * lanes);
        }
        let ended = self.voice.send_all(errand);
        if let (Errand::Barrier(id), 1..) = (errand, ended) {
            self.voice.tell(Told::Barrier { id, level: None }, now);
        }
    }

    fn run(&mut self, errand: Errand, forwarder: &mut Forwarder, now: Instant) {
        match errand {
            Errand::Flush => forwarder.flush(now),
            Errand::Blocks(wanted) => {
                self.tells_blocks = wanted;
                self.guard.peers_mut().iter_mut().for_each(|protection| protection.set_tells_blocks(wanted));
            }
            Errand::Barrier(id) => {
                self.guard.peers_mut().iter_mut().for_each(|protection| protection.ask_barrier(id));
                // What is protected already is answered in this turn.
                self.guard.handle_timeout(now);
            }
            Errand::Register(key, cookie) => {
                for protection in self.guard.peers_mut() {
                    if let Err(error) = protection.register(&key_from(&key), cookie, now) {
                        tracing::debug!("a cookie was not kept: {error}");
                    }
                }
            }
        }
    }

    fn tell(&mut self, now: Instant) {
        while self.voice.can_tell() {
            let Some((peer, notice)) = self.guard.poll_notice() else { return };
            let Self { guard, voice, lane, .. } = self;
            let protection = &guard.peers()[usize::from(peer.0)];
            Told::of(notice, protection, peer, *lane, |told| voice.tell(told, now));
        }
    }

    /// When something has to happen if nothing comes.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let herald = self.voice.herald().and_then(|herald| herald.deadline());
        // Nothing tells that another lane has taken an errand.
        let asked = (!self.voice.can_ask()).then_some(now + ASK_STEP);
        self.guard.deadline(now).into_iter().chain(herald).chain(asked).min()
    }

    /// There is more to do than fitted into this turn.
    pub fn is_busy(&mut self) -> bool {
        !self.read.is_empty() || !self.voice.can_tell() || self.voice.herald().is_some_and(|herald| herald.is_busy())
    }

    /// The appliance is about to stop.
    pub fn on_drain(&mut self) {
        self.guard.on_drain();
    }

    /// Nothing waits for the kernel, for a timestamp or to be told.
    pub fn is_settled(&mut self) -> bool {
        self.guard.is_settled() && self.voice.is_done()
    }

    /// The promises, for status.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The port, on lane 0.
    pub fn voice(&mut self) -> &mut Voice {
        &mut self.voice
    }
}
