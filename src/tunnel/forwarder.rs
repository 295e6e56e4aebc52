//! One lane's part of the tunnel: packets in, datagrams out; datagrams in, packets out.
//!
//! ```text
//!   TUN ── room, handle_packet ──▶ policy ─▶ sender ─▶ outbox ── poll_transmit ──▶ UDP
//!   TUN ◀── poll_delivery ── checks ◀─ receiver ◀─ session ◀── handle_datagram ── UDP
//! ```
//!
//! Handshake datagrams are not read here. How to drive a [`Forwarder`]: [`crate::tunnel`].

mod outward;
mod packets;
mod reload;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub use self::packets::{Deliverable, Outgoing, Stray};
use super::PeerId;
use super::block_event::BlockEvent;
use super::drop_reason::{DropReason, Drops};
use super::feedback::Feedback;
use super::handshake::Established;
use super::outbox::{Trains, Transmit};
use super::peer::{Peer, PeerSettings};
use super::prefixes::PrefixTable;
use super::receive_wait::ReceiveWait;
use super::receiver::{Delivery, Ready};
use super::replay::Freshness;
use super::sender::Profile;
use super::train_watch::TrainNews;
use crate::fec::code::Code;
use crate::wire::adu::PACKET_MAX;
use crate::wire::datagram::{DatagramType, HEADER_LEN, Header, lane_of};
use crate::wire::offload::check_offload;
use crate::wire::packet::PacketView;
use crate::wire::payload_id::BlockId;
use crate::wire::traffic_class::{TrafficClass, mark_congestion};
use crate::wire::virtio::VirtioHeader;

/// The configuration of a forwarder.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Our lane's number.
    pub lane: u8,
    /// Inner addresses on our side.
    pub local_prefixes: PrefixTable<()>,
    /// Inner addresses on the peers' sides.
    pub peer_prefixes: PrefixTable<PeerId>,
    /// The peers, by [`PeerId`].
    pub peers: Vec<PeerSettings>,
    /// Redundancy profiles, by number.
    pub profiles: Vec<Profile>,
    /// The order in which ADUs leave, and how long a hole waits.
    pub delivery: Delivery,
    /// The longest interruption that a profile may ever promise to survive, whatever the plan is now: peers are told to wait
    /// for late repair that long.
    pub survive_burst: Duration,
}

/// Where the last packet went: the next one is read into the same block, because it probably goes there too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Destination {
    peer: usize,
    profile: usize,
}

/// The state machine of one lane: the caller gives it inputs, then polls all outputs.
///
/// [`crate::tunnel`] has the order of a turn, and what happens if an output is not drained. The caller reads the clock
/// once a turn. Only [`handle_datagram`](Self::handle_datagram) and [`poll_delivery`](Self::poll_delivery) take times
/// of arrival, which are earlier if the lane is late.
pub struct Forwarder {
    lane: u8,
    local_prefixes: PrefixTable<()>,
    peer_prefixes: PrefixTable<PeerId>,
    profiles: Vec<Profile>,
    peers: Vec<Peer>,
    code: Code,
    drops: Drops,
    last: Destination,
    /// A packet for another destination than the last is moved through here; one that is marked leaves from here.
    scratch: Vec<u8>,
    /// A segment that is dropped.
    segment: Vec<u8>,
    /// The peer whose outbox is polled first.
    turn: usize,
    /// Receiver indices of all live sessions, with their peers.
    indices: Vec<(u32, u16)>,
    /// The last one, until it is polled.
    stray: Option<Stray>,
    /// How long datagrams wait until they are handed in.
    receive_wait: ReceiveWait,
}

impl Forwarder {
    /// A lane without sessions.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let Settings { lane, local_prefixes, peer_prefixes, peers, profiles, delivery, survive_burst } = settings;
        let peers = peers.into_iter().map(|peer| Peer::new(peer, lane, delivery, survive_burst, now));
        let peers: Vec<Peer> = peers.collect();
        assert!(!peers.is_empty() && !profiles.is_empty(), "the configuration has at least one of each");
        let profile = peers[0].policy().default_profile().0.into();
        Self {
            lane,
            local_prefixes,
            peer_prefixes,
            profiles,
            peers,
            code: Code::new(),
            drops: Drops::default(),
            last: Destination { peer: 0, profile },
            scratch: Vec::with_capacity(PACKET_MAX),
            segment: Vec::new(),
            turn: 0,
            indices: Vec::new(),
            stray: None,
            receive_wait: ReceiveWait::default(),
        }
    }

    /// The buffer for the next packet from the TUN: [`PACKET_MAX`] bytes.
    pub fn room(&mut self) -> &mut [u8] {
        let Destination { peer, profile } = self.last;
        self.peers[peer].room(&self.profiles[profile])
    }

    /// Takes the packet of `len` bytes at the front of [`room`](Self::room); `observe` sees it if it is for a peer.
    pub fn handle_packet(&mut self, header: VirtioHeader, len: usize, now: Instant, observe: impl FnMut(Outgoing<'_>)) {
        if let Err(reason) = self.forward(header, len, now, observe) {
            self.drops.count(reason);
        }
    }

    /// The TUN is empty: the open symbols leave short.
    pub fn handle_idle(&mut self, now: Instant) {
        for peer in &mut self.peers {
            peer.handle_idle(&mut self.code, now);
        }
    }

    /// What was read from the socket had waited so long there; zero: there was nothing. Peers are told of a queue that stands.
    pub fn on_receive_wait(&mut self, wait: Duration, now: Instant) {
        self.receive_wait.on_read(wait, now);
    }

    /// How long what was read lately had waited in the socket, at least; zero without a queue that stands.
    pub fn receive_wait(&self, now: Instant) -> Duration {
        self.receive_wait.standing(now)
    }

    /// Takes a datagram that is not of the handshake; opens it in place. `now` is when it came, not when it was read.
    pub fn handle_datagram(&mut self, datagram: &mut [u8], from: SocketAddr, now: Instant) {
        self.handle_arrival(datagram, from, false, now);
    }

    /// The same; `marked` if the path has marked it as having met congestion.
    pub fn handle_arrival(&mut self, datagram: &mut [u8], from: SocketAddr, marked: bool, now: Instant) {
        if let Err(reason) = self.receive(datagram, from, marked, now) {
            self.drops.count(reason);
        }
    }

    // In this order: length and type, session, seal, replay window, bounds of the payload. Nothing is trusted earlier.
    fn receive(&mut self, datagram: &mut [u8], from: SocketAddr, marked: bool, now: Instant) -> Result<(), DropReason> {
        let header = Header::parse(datagram).ok_or(DropReason::NotOurs)?;
        let index = header.receiver_index;
        let known = self.indices.iter().find(|&&(candidate, _)| candidate == index);
        let &(_, peer) = known.ok_or(DropReason::UnknownSession)?;
        let peer = &mut self.peers[usize::from(peer)];
        let session = peer.sessions.find(index).ok_or(DropReason::UnknownSession)?;
        if session.is_expired(now) {
            return Err(DropReason::ExpiredSession);
        }
        if lane_of(header.counter) != self.lane {
            return Err(DropReason::WrongLane);
        }
        let (clear, sealed) = datagram.split_at_mut(HEADER_LEN);
        let opened = session.open(header.counter, clear, sealed).ok_or(DropReason::BadTag)?;
        let (freshness, newest) = session.accept(header.counter);
        match freshness {
            Freshness::Fresh => {}
            Freshness::Replayed => {
                peer.on_duplicate();
                return Err(DropReason::Replayed);
            }
            Freshness::TooOld => return Err(DropReason::TooOld),
        }
        let is_data = header.datagram_type != DatagramType::Report;
        // An address that is routed into the tunnel is not learned: what is sent there would come back in.
        let newest =
            newest && (peer.address() == Some(from) || self.peer_prefixes.lookup(from.ip().to_canonical()).is_none());
        peer.on_authentic(index, is_data, from, newest, &mut self.code, now);
        match header.datagram_type {
            DatagramType::Source => peer.handle_source(opened, marked, &mut self.code, now),
            DatagramType::Repair => peer.handle_repair(opened, marked, &mut self.code, now),
            DatagramType::Report => peer.handle_report(opened, &mut self.code, now),
            DatagramType::Initiation
            | DatagramType::Response
            | DatagramType::CookieReply
            | DatagramType::CookieInitiation => Err(DropReason::NotOurs),
        }
    }

    /// The next packet for the TUN. Every datagram that came until `now` must have been handed in: no block is given up
    /// while its missing symbols may be unread.
    pub fn poll_delivery(&mut self, now: Instant) -> Option<Deliverable<'_>> {
        for peer in 0..self.peers.len() {
            while let Some((profile, ready)) = self.peers[peer].next_adu(now) {
                match self.judge(peer, profile, &ready) {
                    Err(reason) => self.drops.count(reason),
                    Ok((header, view)) => {
                        let (id, peer) = (PeerId(peer as u16), &mut self.peers[peer]);
                        peer.on_delivered(ready.header.packet_len);
                        let class = TrafficClass::of(peer.packet(profile, &ready));
                        let packet = match peer.takes_mark(&ready, class) {
                            false => peer.packet(profile, &ready),
                            // The block may need these bytes as they are, to rebuild others.
                            true => {
                                self.scratch.clear();
                                self.scratch.extend_from_slice(peer.packet(profile, &ready));
                                mark_congestion(&mut self.scratch);
                                &self.scratch[..]
                            }
                        };
                        return Some(Deliverable { peer: id, header, packet, view });
                    }
                }
            }
        }
        None
    }

    /// A peer may send only from its own prefixes to ours, whatever its ADU claims.
    fn judge(&mut self, peer: usize, profile: u8, ready: &Ready) -> Result<(VirtioHeader, PacketView), DropReason> {
        let packet = self.peers[peer].packet(profile, ready);
        let view = PacketView::parse(packet).map_err(|_| DropReason::MalformedAdu)?;
        let header = check_offload(ready.header.virtio, packet, &view).map_err(|_| DropReason::MalformedAdu)?;
        let owner = self.peer_prefixes.lookup(view.source);
        let addressed = owner.is_some_and(|owner| usize::from(owner.0) == peer);
        if !addressed || self.local_prefixes.lookup(view.destination).is_none() {
            return Err(outward::note_stray(&mut self.stray, DropReason::ForeignAddress, &view));
        }
        Ok((header, view))
    }

    /// Closes the open blocks and writes the reports that are due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let standing = self.receive_wait(now);
        for peer in &mut self.peers {
            peer.handle_timeout(&mut self.code, standing, now);
        }
    }

    /// Closes all open blocks, for example before the lane stops.
    pub fn flush(&mut self, now: Instant) {
        for peer in &mut self.peers {
            peer.flush(&mut self.code, now);
        }
    }

    /// Takes the keys of a finished handshake.
    pub fn install(&mut self, established: &Established, now: Instant) {
        if let Some(peer) = self.peers.get_mut(usize::from(established.peer.0)) {
            peer.install(established, &mut self.code, now);
        }
        self.index_sessions();
    }

    fn index_sessions(&mut self) {
        self.indices.clear();
        for (number, peer) in self.peers.iter().enumerate() {
            self.indices.extend(peer.sessions.indices().map(|index| (index, number as u16)));
        }
    }

    /// No outbox is full: packets may be read.
    pub fn wants_packets(&self) -> bool {
        !self.peers.iter().any(|peer| peer.outbox.is_full())
    }

    /// A complete train waits: nothing more is added to it.
    pub fn has_full_train(&self) -> bool {
        self.peers.iter().any(|peer| peer.outbox.has_full_train())
    }

    /// The next train to send; then call [`on_sent`](Self::on_sent), after an error also `on_unsendable`.
    pub fn poll_transmit(&mut self, trains: Trains, now: Instant) -> Option<(PeerId, Transmit<'_>)> {
        let peers = self.peers.len();
        for step in 0..peers {
            let number = (self.turn + step) % peers;
            let Some(to) = self.peers[number].endpoint() else {
                let datagrams = self.peers[number].outbox.discard_all();
                if datagrams > 0 {
                    self.peers[number].on_unsendable();
                }
                self.drops.add(DropReason::SendFailed, datagrams);
                continue;
            };
            if self.peers[number].outbox.front(to, trains, now).is_some() {
                self.turn = number + 1;
                let transmit = self.peers[number].outbox.front(to, trains, now)?;
                return Some((PeerId(number as u16), transmit));
            }
        }
        None
    }

    /// The socket took `bytes` of the train.
    pub fn on_sent(&mut self, peer: PeerId, bytes: usize, now: Instant) {
        self.peers[usize::from(peer.0)].on_sent(bytes, now);
    }

    /// The datagram of `bytes` at the front of the train cannot be sent and is skipped.
    pub fn on_unsendable(&mut self, peer: PeerId, bytes: usize, now: Instant) {
        self.peers[usize::from(peer.0)].skip(bytes, now);
        self.drops.count(DropReason::SendFailed);
    }

    /// Our present address cannot send to this peer. Returns the address, unless it is the same as the last time.
    pub fn on_unroutable(&mut self, peer: PeerId, now: Instant) -> Option<IpAddr> {
        self.peers[usize::from(peer.0)].on_unroutable(now)
    }

    /// The caller learns when blocks have left this host, and calls [`on_early_left`](Self::on_early_left).
    pub fn set_shows_departures(&mut self, shows: bool) {
        self.peers.iter_mut().for_each(|peer| peer.set_shows_departures(shows));
    }

    /// The early part of `block` has left this host by now, nothing of it more than `lag` after it was sent: its late part
    /// follows in time.
    pub fn on_early_left(&mut self, peer: PeerId, block: BlockId, lag: Duration, now: Instant) {
        self.peers[usize::from(peer.0)].on_early_left(block, lag, now);
    }

    /// From the next block on, blocks of this profile toward `peer` follow it.
    pub fn set_profile(&mut self, peer: PeerId, profile: &Profile) {
        if let Some(peer) = self.peers.get_mut(usize::from(peer.0)) {
            peer.set_profile(profile);
        }
    }

    /// The next event of a block toward a peer for which protection is claimed; drain it each turn.
    pub fn poll_block_event(&mut self) -> Option<(PeerId, BlockEvent)> {
        let event = |(number, peer): (usize, &mut Peer)| Some((PeerId(number as u16), peer.poll_block_event()?));
        self.peers.iter_mut().enumerate().find_map(event)
    }

    /// Whether `quoted`, from an error of the path, begins a datagram sent here; off the path its counter is unknown.
    pub fn is_own(&self, quoted: &[u8]) -> bool {
        let header = Header::parse_quoted(quoted);
        header.is_some_and(|it| self.peers.iter().any(|peer| peer.sessions.has_sent(it.receiver_index, it.counter)))
    }

    /// The last stray packet since the last call.
    pub fn poll_stray(&mut self) -> Option<Stray> {
        self.stray.take()
    }

    /// The kernel refused this number of packets for the TUN.
    pub fn on_refused(&mut self, packets: u64) {
        self.drops.add(DropReason::TunRefused, packets);
    }

    /// What a peer has reported since the last call. Until then reports are merged, and no loss is forgotten.
    pub fn poll_feedback(&mut self) -> Option<(PeerId, Feedback)> {
        let mut peers = self.peers.iter_mut().enumerate();
        peers.find_map(|(number, peer)| Some((PeerId(number as u16), peer.poll_feedback()?)))
    }

    /// The receiver index of a session under which the first authentic datagram has come: the peer has its keys.
    pub fn poll_confirmed(&mut self) -> Option<u32> {
        self.peers.iter_mut().find_map(|peer| peer.sessions.poll_confirmed())
    }

    /// A peer that needs a new session.
    pub fn poll_request(&mut self, now: Instant) -> Option<PeerId> {
        let wanting = self.peers.iter_mut().position(|peer| peer.wants_session(now))?;
        Some(PeerId(wanting as u16))
    }

    /// A change in how full-sized datagrams arrive at a peer; returned once.
    pub fn poll_train_news(&mut self) -> Option<(PeerId, TrainNews)> {
        let mut peers = self.peers.iter_mut().enumerate();
        peers.find_map(|(number, peer)| Some((PeerId(number as u16), peer.poll_train_news()?)))
    }

    /// The next deadline if no input comes: then call [`handle_timeout`](Self::handle_timeout) and drain all outputs.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.poll_timeout(now)).min()
    }

    /// How long a hole waits now: the longest hold of all peers.
    pub fn hold(&self) -> Duration {
        self.peers.iter().map(|peer| peer.hold()).max().unwrap_or_default()
    }

    /// When a block is given up if nothing more comes. Read UDP again before `poll_delivery` gets such a time.
    pub fn held_until(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.held_until()).min()
    }

    /// The peers, by [`PeerId`], for status.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// The counts of what was dropped.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// The peer whose prefixes contain this inner address.
    pub fn owner(&self, address: IpAddr) -> Option<PeerId> {
        self.peer_prefixes.lookup(address).copied()
    }

    /// Bytes held for received blocks.
    pub fn memory(&self) -> usize {
        self.peers.iter().map(Peer::memory).sum()
    }
}

#[cfg(test)]
mod tests;
