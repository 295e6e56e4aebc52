//! One lane's share of the tunnel: packets in, datagrams out; datagrams in, packets out.
//!
//! ```text
//!   TUN ── room, handle_packet ──▶ policy ─▶ sender ─▶ outbox ── poll_transmit ──▶ UDP
//!   TUN ◀── poll_delivery ── checks ◀─ receiver ◀─ session ◀── handle_datagram ── UDP
//! ```
//!
//! Handshakes are not read here. How to drive it: [`Forwarder`].

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::PeerId;
use super::block_event::BlockEvent;
use super::drop_reason::{DropReason, Drops};
use super::feedback::Feedback;
use super::handshake::Established;
use super::outbox::{Trains, Transmit};
use super::peer::{Peer, PeerSettings};
use super::prefixes::PrefixTable;
use super::receiver::{Delivery, Ready};
use super::replay::Freshness;
use super::sender::Profile;
use super::train_watch::TrainNews;
use crate::fec::code::Code;
use crate::wire::adu::PACKET_MAX;
use crate::wire::datagram::{DatagramType, HEADER_LEN, Header, lane_of};
use crate::wire::finish::settle_offload;
use crate::wire::offload::check_offload;
use crate::wire::packet::PacketView;
use crate::wire::payload_id::BlockId;
use crate::wire::virtio::VirtioHeader;

/// What a forwarder is made from.
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
    /// How ADUs leave.
    pub delivery: Delivery,
}

/// Where the last packet went: the next one is read to the same block, because it probably goes there too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Destination {
    peer: usize,
    profile: usize,
}

/// A packet on its way to a peer, seen before it is put into its block, or dropped because there is no session or too much
/// waits for the path: whoever follows its flow must know that it is missing.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// Where it goes.
    pub peer: PeerId,
    /// The block it will be in; none if it is dropped.
    pub block: Option<BlockId>,
    /// Its offload header, checked, and with [`VirtioHeader::DATA_VALID`] where this host has verified its checksum.
    pub header: VirtioHeader,
    /// The packet or super-packet.
    pub packet: &'a [u8],
    /// Its headers.
    pub view: &'a PacketView,
}

/// A packet that belongs to nobody: somebody's prefixes or routes are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Why it was dropped.
    pub reason: DropReason,
    /// Where it came from ...
    pub source: IpAddr,
    /// ... and where it wanted to.
    pub destination: IpAddr,
}

/// A packet for the TUN.
#[derive(Debug)]
pub struct Deliverable<'a> {
    /// Where it comes from.
    pub peer: PeerId,
    /// Its offload header, checked.
    pub header: VirtioHeader,
    /// The packet or super-packet.
    pub packet: &'a [u8],
    /// Its headers.
    pub view: PacketView,
}

/// The state machine of one lane. It does nothing by itself: the caller gives it inputs, then polls all outputs.
///
/// `handle_*`, `install`, `flush` and `on_*` are inputs, `poll_*` are outputs, [`poll_timeout`](Self::poll_timeout) is the
/// timer, the rest are queries. [`crate::tunnel`] has the order of a turn, and what happens if an output is not drained.
/// The caller reads the clock once a turn. What comes is judged by when it came: [`handle_datagram`](Self::handle_datagram)
/// and [`poll_delivery`](Self::poll_delivery) have that for their `now`, which is behind the clock of a lane that is late.
pub struct Forwarder {
    lane: u8,
    local_prefixes: PrefixTable<()>,
    peer_prefixes: PrefixTable<PeerId>,
    profiles: Vec<Profile>,
    peers: Vec<Peer>,
    code: Code,
    drops: Drops,
    last: Destination,
    /// Packets for another destination than the last are moved through here.
    scratch: Vec<u8>,
    /// Which peer's outbox is looked at first.
    turn: usize,
    /// Receiver indices of all live sessions.
    indices: Vec<(u32, u16)>,
    /// The last one, until somebody asks.
    stray: Option<Stray>,
}

impl Forwarder {
    /// A lane with no sessions yet.
    pub fn new(settings: Settings, now: Instant) -> Self {
        let Settings { lane, local_prefixes, peer_prefixes, peers, profiles, delivery } = settings;
        let peers: Vec<Peer> = peers.into_iter().map(|peer| Peer::new(peer, lane, delivery, now)).collect();
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
            turn: 0,
            indices: Vec::new(),
            stray: None,
        }
    }

    /// Where the next packet from the TUN may be read to: [`PACKET_MAX`] bytes.
    pub fn room(&mut self) -> &mut [u8] {
        let Destination { peer, profile } = self.last;
        self.peers[peer].room(&self.profiles[profile])
    }

    /// Takes the packet of `len` bytes at the front of [`room`](Self::room); shows it to `observe` if it belongs to a peer.
    pub fn handle_packet(
        &mut self,
        header: VirtioHeader,
        len: usize,
        now: Instant,
        observe: impl FnOnce(Outgoing<'_>),
    ) {
        if let Err(reason) = self.forward(header, len, now, observe) {
            self.drops.count(reason);
        }
    }

    fn forward(
        &mut self,
        header: VirtioHeader,
        len: usize,
        now: Instant,
        observe: impl FnOnce(Outgoing<'_>),
    ) -> Result<(), DropReason> {
        let read_to = self.last;
        let room = self.peers[read_to.peer].room(&self.profiles[read_to.profile]);
        let packet = room.get_mut(..len).ok_or(DropReason::MalformedPacket)?;
        let was_verified = header.flags & VirtioHeader::DATA_VALID;
        let (header, view) = settle_offload(header, packet).map_err(|_| DropReason::MalformedPacket)?;
        let peer = match (self.local_prefixes.lookup(view.source), self.peer_prefixes.lookup(view.destination)) {
            (Some(()), Some(peer)) => usize::from(peer.0),
            (None, _) => return Err(note_stray(&mut self.stray, DropReason::ForeignSource, &view)),
            (_, None) => return Err(note_stray(&mut self.stray, DropReason::NoPeer, &view)),
        };
        let profile = usize::from(self.peers[peer].policy().classify(&view).0);
        let destination = Destination { peer, profile };
        if destination != read_to {
            self.scratch.clear();
            self.scratch.extend_from_slice(&self.peers[read_to.peer].room(&self.profiles[read_to.profile])[..len]);
            self.peers[peer].room(&self.profiles[profile])[..len].copy_from_slice(&self.scratch);
            self.last = destination;
        }
        let id = PeerId(peer as u16);
        let (peer, profile) = (&mut self.peers[peer], &self.profiles[profile]);
        let seen = VirtioHeader { flags: header.flags | was_verified, ..header };
        match peer.reserve(profile, &mut self.code, now) {
            Ok(mut reservation) => {
                let (block, packet) = (Some(reservation.block()), reservation.packet(len));
                observe(Outgoing { peer: id, block, header: seen, packet, view: &view });
                reservation.commit(header, len);
                Ok(())
            }
            Err(reason) => {
                let packet = &peer.room(profile)[..len];
                observe(Outgoing { peer: id, block: None, header: seen, packet, view: &view });
                Err(reason)
            }
        }
    }

    /// The TUN is dry: nothing that was read waits for a neighbour any longer.
    pub fn handle_idle(&mut self, now: Instant) {
        for peer in &mut self.peers {
            peer.handle_idle(&mut self.code, now);
        }
    }

    /// Takes a datagram that is not of the handshake; it is opened in place. `now` is when it came, however late it is read.
    pub fn handle_datagram(&mut self, datagram: &mut [u8], from: SocketAddr, now: Instant) {
        if let Err(reason) = self.receive(datagram, from, now) {
            self.drops.count(reason);
        }
    }

    // Length and type, session, seal, replay window, then the payload's own bounds: nothing is believed earlier.
    fn receive(&mut self, datagram: &mut [u8], from: SocketAddr, now: Instant) -> Result<(), DropReason> {
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
        // What is routed into the tunnel is no place to send to: it would come back in.
        let newest =
            newest && (peer.address() == Some(from) || self.peer_prefixes.lookup(from.ip().to_canonical()).is_none());
        peer.on_authentic(index, is_data, from, newest, &mut self.code, now);
        match header.datagram_type {
            DatagramType::Source => peer.handle_source(opened, &mut self.code, now),
            DatagramType::Repair => peer.handle_repair(opened, &mut self.code, now),
            DatagramType::Report => peer.handle_report(opened, &mut self.code, now),
            DatagramType::Initiation | DatagramType::Response => Err(DropReason::NotOurs),
        }
    }

    /// The next packet for the TUN. `now` is a time until which everything that came has been handed in: no block is given
    /// up while what it waits for may be unread.
    pub fn poll_delivery(&mut self, now: Instant) -> Option<Deliverable<'_>> {
        for peer in 0..self.peers.len() {
            while let Some((profile, ready)) = self.peers[peer].next_adu(now) {
                match self.judge(peer, profile, &ready) {
                    Err(reason) => self.drops.count(reason),
                    Ok((header, view)) => {
                        let (id, peer) = (PeerId(peer as u16), &mut self.peers[peer]);
                        peer.on_delivered(ready.header.packet_len);
                        return Some(Deliverable { peer: id, header, packet: peer.packet(profile, &ready), view });
                    }
                }
            }
        }
        None
    }

    /// A peer may only send from its own prefixes to ours, whatever route its ADU came by.
    fn judge(&mut self, peer: usize, profile: u8, ready: &Ready) -> Result<(VirtioHeader, PacketView), DropReason> {
        let packet = self.peers[peer].packet(profile, ready);
        let view = PacketView::parse(packet).map_err(|_| DropReason::MalformedAdu)?;
        let header = check_offload(ready.header.virtio, packet, &view).map_err(|_| DropReason::MalformedAdu)?;
        let owner = self.peer_prefixes.lookup(view.source);
        let addressed = owner.is_some_and(|owner| usize::from(owner.0) == peer);
        if !addressed || self.local_prefixes.lookup(view.destination).is_none() {
            return Err(note_stray(&mut self.stray, DropReason::ForeignAddress, &view));
        }
        Ok((header, view))
    }

    /// Closes blocks, gives up others, reports: whatever is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        for peer in &mut self.peers {
            peer.handle_timeout(&mut self.code, now);
        }
    }

    /// Closes all open blocks, as before an end.
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
        self.indices.clear();
        for (number, peer) in self.peers.iter().enumerate() {
            self.indices.extend(peer.sessions.indices().map(|index| (index, number as u16)));
        }
    }

    /// There is room for what further packets would make.
    pub fn wants_packets(&self) -> bool {
        !self.peers.iter().any(|peer| peer.outbox.is_full())
    }

    /// A train waits that nothing will be added to.
    pub fn has_full_train(&self) -> bool {
        self.peers.iter().any(|peer| peer.outbox.has_full_train())
    }

    /// The next train to send; answer with [`on_sent`](Self::on_sent) or [`on_unsendable`](Self::on_unsendable).
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

    /// The datagram of `bytes` at the front of the train cannot be sent; the next one may be.
    pub fn on_unsendable(&mut self, peer: PeerId, bytes: usize, now: Instant) {
        self.peers[usize::from(peer.0)].skip(bytes, now);
        self.drops.count(DropReason::SendFailed);
    }

    /// Nothing can be sent to this peer from our address that it called. Returns that, unless it is the same as the last time.
    pub fn on_unroutable(&mut self, peer: PeerId, now: Instant) -> Option<IpAddr> {
        self.peers[usize::from(peer.0)].on_unroutable(now)
    }

    /// What happened to a block toward a peer for which protection is claimed; drain it each turn.
    pub fn poll_block_event(&mut self) -> Option<(PeerId, BlockEvent)> {
        let told = |(number, peer): (usize, &mut Peer)| Some((PeerId(number as u16), peer.poll_block_event()?));
        self.peers.iter_mut().enumerate().find_map(told)
    }

    /// What an error from the path quotes is the beginning of a datagram that was sent here: nobody off the path can know
    /// its index and its counter.
    pub fn is_own(&self, quoted: &[u8]) -> bool {
        let header = Header::parse_quoted(quoted);
        header.is_some_and(|it| self.peers.iter().any(|peer| peer.sessions.has_sent(it.receiver_index, it.counter)))
    }

    /// A packet that belongs to nobody, the last one since this was asked.
    pub fn poll_stray(&mut self) -> Option<Stray> {
        self.stray.take()
    }

    /// The kernel refused so many packets for the TUN.
    pub fn on_refused(&mut self, packets: u64) {
        self.drops.add(DropReason::TunRefused, packets);
    }

    /// What the reports of a peer have told since the last time; whoever does not ask loses nothing by it.
    pub fn poll_feedback(&mut self) -> Option<(PeerId, Feedback)> {
        let mut peers = self.peers.iter_mut().enumerate();
        peers.find_map(|(number, peer)| Some((PeerId(number as u16), peer.poll_feedback()?)))
    }

    /// A session in which the peer called us and has now shown that it has the keys.
    pub fn poll_confirmed(&mut self) -> Option<u32> {
        self.peers.iter_mut().find_map(|peer| peer.sessions.poll_confirmed())
    }

    /// A peer with which a new session is wanted.
    pub fn poll_request(&mut self, now: Instant) -> Option<PeerId> {
        let wanting = self.peers.iter_mut().position(|peer| peer.wants_session(now))?;
        Some(PeerId(wanting as u16))
    }

    /// What has changed of how full-sized datagrams arrive at a peer; told once.
    pub fn poll_train_news(&mut self) -> Option<(PeerId, TrainNews)> {
        let mut peers = self.peers.iter_mut().enumerate();
        peers.find_map(|(number, peer)| Some((PeerId(number as u16), peer.poll_train_news()?)))
    }

    /// When something has to happen if nothing comes: then call [`handle_timeout`](Self::handle_timeout) and drain all
    /// outputs, [`poll_request`](Self::poll_request) among them.
    pub fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.poll_timeout(now)).min()
    }

    /// How long a hole waits now, of the peer of whom it waits longest.
    pub fn hold(&self) -> Duration {
        self.peers.iter().map(|peer| peer.hold()).max().unwrap_or_default()
    }

    /// When a block is given up, if nothing more comes: the caller looks whether anything has come before it says that it is
    /// so late.
    pub fn held_until(&self) -> Option<Instant> {
        self.peers.iter().filter_map(|peer| peer.held_until()).min()
    }

    /// The peers, by [`PeerId`], for status.
    pub fn peers(&self) -> &[Peer] {
        &self.peers
    }

    /// What was thrown away.
    pub fn drops(&self) -> &Drops {
        &self.drops
    }

    /// The peer at whose side this inner address is.
    pub fn owner(&self, address: IpAddr) -> Option<PeerId> {
        self.peer_prefixes.lookup(address).copied()
    }

    /// Bytes held for incomplete blocks.
    pub fn memory(&self) -> usize {
        self.peers.iter().map(Peer::memory).sum()
    }
}

/// Multicast is no stray: every device has some.
fn note_stray(stray: &mut Option<Stray>, reason: DropReason, view: &PacketView) -> DropReason {
    if !view.destination.is_multicast() {
        *stray = Some(Stray { reason, source: view.source, destination: view.destination });
    }
    reason
}

#[cfg(test)]
mod tests;
