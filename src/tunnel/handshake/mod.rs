//! The handshakes of a node with all of its peers, as a pure state machine.
//!
//! A session takes two datagrams ([`crate::wire::handshake`]): an initiation and a response. An initiation is checked
//! in the order of cost: its length, mac1, the rate limit, the cryptography, the list of peers, its timestamp. Only
//! then is it answered, and only then does it leave any state; a sender that is not a peer gets no reply.
//!
//! Both ends may begin at the same moment. Both initiations are answered; the attempt of the node with the greater
//! public key stands, the other node drops its own, so that one session remains. If datagrams are lost, two may remain,
//! one for each direction, until the next renewal. Sessions exist side by side until they expire, so nothing in flight
//! is lost.
//!
//! A peer's address is learned from a response to our own initiation, or when [`Handshakes::on_confirmed`] reports that
//! the peer used the session it began. An initiation alone does not move a peer: after a restart we could not recognize
//! a recorded one.
//!
//! It does not seal datagrams, hold sessions for the lanes, check the health of a link, or read a clock.
//!
//! Start with [`Handshakes::handle_datagram`]; then `peer`, the attempt with one peer, and `noise`, the cryptography.

mod event;
mod limit;
mod noise;
mod peer;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngCore;

pub use event::{Established, HandshakeDrop, HandshakeEvent, Role};
pub use peer::HandshakePeer;

use self::limit::RateLimit;
use self::noise::{PendingInitiation, RawKeys, ReceivedInitiation};
use self::peer::{Attempt, Peer, RETRY_LONGEST, Timestamp, retry_delay, timestamp};
use super::PeerId;
use super::endpoint::Endpoint;
use super::hello::Hello;
use super::keys::{PrivateKey, PublicKey};
use super::mac::MacKey;
use super::seal::{Cipher, OpeningKey, SealingKey};
use crate::wire::datagram::DatagramType;
use crate::wire::handshake::{INDEX_MAX, Initiation, Response, split_mac};

/// The initiator of a session begins a new one after this long.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// A session this old neither seals nor opens (WireGuard's `REJECT_AFTER_TIME`).
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// The responder begins a new one after this long, if the initiator did not.
pub const REKEY_AS_RESPONDER_AFTER: Duration = Duration::from_secs(135);
/// Handshake datagrams per second that reach the cryptography.
const COMPUTED_PER_SECOND: u32 = 200;
/// The same, in one burst.
const COMPUTED_AT_ONCE: u32 = 50;

/// The identity of this node.
pub struct Identity {
    /// Its secret key.
    pub private: PrivateKey,
    /// Its hello; the symbol size is set for each peer.
    pub hello: Hello,
}

/// The owner of an index, so that no two live sessions share one.
struct IndexUse {
    peer: PeerId,
    /// `None` for an attempt.
    session: Option<Session>,
}

struct Session {
    role: Role,
    endpoint: Endpoint,
    since: Instant,
}

/// All handshakes of a node. After every other call, poll [`poll_transmit`](Self::poll_transmit) and
/// [`poll_event`](Self::poll_event) until they are empty. Call [`handle_timeout`](Self::handle_timeout) at the time
/// that [`poll_timeout`](Self::poll_timeout) returns.
pub struct Handshakes {
    identity: Identity,
    public: PublicKey,
    mac: MacKey,
    peers: Vec<Peer>,
    by_key: HashMap<PublicKey, PeerId>,
    indices: HashMap<u32, IndexUse>,
    random: Box<dyn RngCore + Send>,
    /// The wall clock at one instant.
    started: (Duration, Instant),
    /// The last timestamp sent to a peer; these only grow, whatever the clock does.
    last_told: Duration,
    initiations: RateLimit,
    /// Separate from the initiations, so that a flood of those does not block the responses to our own.
    responses: RateLimit,
    transmits: VecDeque<(Endpoint, Vec<u8>)>,
    events: VecDeque<HandshakeEvent>,
}

impl Handshakes {
    /// Starts without sessions and sends nothing: call [`request`](Self::request) for each peer that should be
    /// contacted.
    ///
    /// `peers` in the order of the configuration, each key once; `random` for indices and jitter; `unix_time` is the
    /// wall clock at `now`.
    pub fn new(
        identity: Identity,
        peers: Vec<HandshakePeer>,
        random: Box<dyn RngCore + Send>,
        unix_time: Duration,
        now: Instant,
    ) -> Self {
        let public = identity.private.public_key();
        let peers: Vec<Peer> = peers.into_iter().map(Peer::new).collect();
        let by_key = (0..=u16::MAX).zip(&peers).map(|(id, peer)| (peer.public, PeerId(id))).collect();
        Self {
            identity,
            mac: MacKey::of(&public),
            public,
            peers,
            by_key,
            indices: HashMap::new(),
            random,
            started: (unix_time, now),
            last_told: Duration::ZERO,
            initiations: RateLimit::new(COMPUTED_PER_SECOND, COMPUTED_AT_ONCE, now),
            responses: RateLimit::new(COMPUTED_PER_SECOND, COMPUTED_AT_ONCE, now),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// The peers are these from now on, in the same order, more behind them; `None`: one is no peer any more. A handshake begins with
    /// each that is new or has another preshared key or address.
    pub fn reload(&mut self, peers: Vec<Option<HandshakePeer>>, now: Instant) {
        self.by_key.clear();
        for (number, settings) in (0..=u16::MAX).zip(peers) {
            let id = PeerId(number);
            let known = self.peers.get_mut(usize::from(number));
            let Some(settings) = settings else {
                known.into_iter().for_each(Peer::forget);
                self.indices.retain(|_, index| index.peer != id);
                continue;
            };
            self.by_key.insert(settings.public, id);
            let is_other = match known {
                Some(peer) => peer.reload(settings),
                None => {
                    self.peers.push(Peer::new(settings));
                    true
                }
            };
            if is_other {
                // An attempt under way is with what was configured before.
                if let Some(attempt) = self.peers[usize::from(number)].attempt.take() {
                    self.indices.remove(&attempt.local_index);
                }
                self.request(id, now);
            }
        }
    }

    /// Begins a handshake unless one is under way. Without a known endpoint nothing happens: the peer has to begin.
    pub fn request(&mut self, peer: PeerId, now: Instant) {
        if self.peers.get(usize::from(peer.0)).is_some_and(|peer| peer.attempt.is_none() && !peer.is_removed) {
            self.send_initiation(peer, now);
        }
    }

    /// The peer has no configured address any more.
    pub fn clear_endpoint(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(usize::from(peer.0)) {
            peer.configured = None;
        }
    }

    /// Sets the configured address of a peer, to which initiations go if no other is proven.
    pub fn set_endpoint(&mut self, peer: PeerId, endpoint: SocketAddr) {
        if let Some(peer) = self.peers.get_mut(usize::from(peer.0)) {
            peer.configured = Some(endpoint);
        }
    }

    /// The first datagram was opened with a session: it works in both directions, and the peer's address is proven.
    /// Returns the peer. The appliance must call this once for each session.
    pub fn on_confirmed(&mut self, local_index: u32, now: Instant) -> Option<PeerId> {
        let IndexUse { peer: id, session: Some(session) } = self.indices.get(&local_index)? else { return None };
        let id = *id;
        if session.role == Role::Initiator {
            // The response to our own initiation has shown that.
            return Some(id);
        }
        let peer = &mut self.peers[usize::from(id.0)];
        peer.proven = Some(session.endpoint);
        peer.renew_at = Some((session.since + REKEY_AS_RESPONDER_AFTER).max(now));
        // A later attempt is for something newer, such as the renewal of this very session.
        if let Some(attempt) = peer.attempt.take_if(|attempt| attempt.since <= session.since) {
            self.indices.remove(&attempt.local_index);
        }
        Some(id)
    }

    /// Takes a handshake datagram. The error is the reason to count. `from` is its source address, and our address that
    /// it was sent to, if that is known.
    pub fn handle_datagram(
        &mut self,
        datagram: &[u8],
        from: impl Into<Endpoint>,
        now: Instant,
    ) -> Result<(), HandshakeDrop> {
        let from = from.into();
        match DatagramType::of(datagram) {
            Some(DatagramType::Initiation) => {
                let initiation = Initiation::parse(datagram).ok_or(HandshakeDrop::Malformed)?;
                self.check_mac(datagram)?;
                self.handle_initiation(initiation, from, now)
            }
            Some(DatagramType::Response) => {
                let response = Response::parse(datagram).ok_or(HandshakeDrop::Malformed)?;
                self.check_mac(datagram)?;
                self.handle_response(response, from, now)
            }
            _ => Err(HandshakeDrop::Malformed),
        }
    }

    /// Repeats and renews handshakes that are due, and forgets expired sessions.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.indices.retain(|_, index| index.session.as_ref().is_none_or(|session| now < session.since + REJECT_AFTER));
        for id in 0..self.peers.len() {
            if self.peers[id].due().is_some_and(|due| due <= now) {
                self.send_initiation(PeerId(id as u16), now);
            }
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` if nothing is planned.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.iter().filter_map(Peer::due).min()
    }

    /// The next datagram to send from lane 0, and the addresses of both ends.
    pub fn poll_transmit(&mut self) -> Option<(Endpoint, Vec<u8>)> {
        self.transmits.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<HandshakeEvent> {
        self.events.pop_front()
    }

    fn check_mac(&self, datagram: &[u8]) -> Result<(), HandshakeDrop> {
        let (covered, mac) = split_mac(datagram).ok_or(HandshakeDrop::Malformed)?;
        if self.mac.verify(covered, mac) { Ok(()) } else { Err(HandshakeDrop::Stranger) }
    }

    fn handle_initiation(
        &mut self,
        initiation: Initiation<'_>,
        from: Endpoint,
        now: Instant,
    ) -> Result<(), HandshakeDrop> {
        if !self.initiations.allow(now) {
            return Err(HandshakeDrop::RateLimited);
        }
        let opened =
            ReceivedInitiation::listen(&self.identity.private, initiation.noise).ok_or(HandshakeDrop::NotAuthentic)?;
        let id = *self.by_key.get(&opened.caller).ok_or(HandshakeDrop::UnknownPeer)?;
        let peer = &mut self.peers[usize::from(id.0)];
        let (sent_at, hello) = opened.payload.split_first_chunk().ok_or(HandshakeDrop::BadHello)?;
        if peer.newest.is_some_and(|newest: Timestamp| *sent_at <= newest) {
            return Err(HandshakeDrop::Replayed);
        }
        peer.newest = Some(*sent_at);
        let agreed = self.judge(id, hello);
        if agreed == Err(HandshakeDrop::BadHello) {
            return Err(HandshakeDrop::BadHello);
        }

        // An incompatible peer is answered too: its operator should read the reason in its own log.
        let preshared = &self.peers[usize::from(id.0)].preshared;
        let (noise, keys) = opened.answer(preshared, &self.hello_for(id).emit()).ok_or(HandshakeDrop::NotAuthentic)?;
        let local_index = if agreed.is_ok() { self.reserve_index(id) } else { 0 };
        let response = Response { receiver_index: initiation.sender_index, sender_index: local_index, noise: &noise };
        self.transmit(id, from, response.emit());
        let (remote, cipher) = agreed?;

        let peer = &mut self.peers[usize::from(id.0)];
        if self.public < peer.public
            && let Some(attempt) = peer.attempt.take()
        {
            self.indices.remove(&attempt.local_index);
            // The peer's attempt stands. If it fails, ours begins again.
            peer.renew_at = Some(now + RETRY_LONGEST);
        }
        // An unproven session must not delay the renewal of a proven one.
        peer.renew_at.get_or_insert(now + REKEY_AS_RESPONDER_AFTER);
        let (sealing, opening) = session_keys(cipher, &keys);
        self.establish(Established {
            peer: id,
            role: Role::Responder,
            local_index,
            remote_index: initiation.sender_index,
            sealing,
            opening,
            remote,
            endpoint: from,
            at: now,
        });
        Ok(())
    }

    fn handle_response(&mut self, response: Response<'_>, from: Endpoint, now: Instant) -> Result<(), HandshakeDrop> {
        let local_index = response.receiver_index;
        let id = self.indices.get(&local_index).ok_or(HandshakeDrop::Unexpected)?.peer;
        let peer = &mut self.peers[usize::from(id.0)];
        let attempt = peer.attempt.as_mut().filter(|attempt| attempt.local_index == local_index);
        let call = attempt.and_then(|attempt| attempt.call.as_mut()).ok_or(HandshakeDrop::Unexpected)?;
        if !self.responses.allow(now) {
            return Err(HandshakeDrop::RateLimited);
        }
        let (hello, keys) = call.finish(response.noise).ok_or(HandshakeDrop::NotAuthentic)?;
        let agreed = self.judge(id, &hello);
        let peer = &mut self.peers[usize::from(id.0)];
        if let (Err(_), Some(attempt)) = (&agreed, &mut peer.attempt) {
            // The response is used up, the attempt is not: the peer's operator may be changing its configuration right
            // now.
            attempt.call = None;
        }
        let (remote, cipher) = agreed?;
        // Our own address is that of the initiation; the one that the response came to only shows what the kernel
        // chose.
        let endpoint = Endpoint { local: peer.attempt.take().and_then(|attempt| attempt.local), ..from };
        peer.proven = Some(endpoint);
        peer.renew_at = Some(now + REKEY_AFTER);
        let (sealing, opening) = session_keys(cipher, &keys);
        self.establish(Established {
            peer: id,
            role: Role::Initiator,
            local_index,
            remote_index: response.sender_index,
            sealing,
            opening,
            remote,
            endpoint,
            at: now,
        });
        Ok(())
    }

    fn establish(&mut self, established: Established) {
        let session = Session { role: established.role, endpoint: established.endpoint, since: established.at };
        let index_use = IndexUse { peer: established.peer, session: Some(session) };
        self.indices.insert(established.local_index, index_use);
        self.peers[usize::from(established.peer.0)].told = None;
        self.events.push_back(HandshakeEvent::Established(established));
    }

    /// The hello of an authentic peer, and the cipher for it. Makes an event if the two cannot work together.
    fn judge(&mut self, id: PeerId, hello: &[u8]) -> Result<(Hello, Cipher), HandshakeDrop> {
        let remote = Hello::parse(hello).ok_or(HandshakeDrop::BadHello)?;
        let cipher = self.identity.hello.agree(&remote).map_err(|what| {
            let reason = Some((remote.epoch, what));
            if std::mem::replace(&mut self.peers[usize::from(id.0)].told, reason) != reason {
                self.events.push_back(HandshakeEvent::Incompatible { peer: id, what });
            }
            HandshakeDrop::Incompatible
        })?;
        Ok((remote, cipher))
    }

    /// Our hello for this peer: the symbol size depends on the path to it.
    fn hello_for(&self, id: PeerId) -> Hello {
        Hello { symbol_size: self.peers[usize::from(id.0)].symbol_size, ..self.identity.hello }
    }

    /// Begins or repeats the attempt with a peer: each initiation has its own keys, index and timestamp.
    fn send_initiation(&mut self, id: PeerId, now: Instant) {
        let peer = &mut self.peers[usize::from(id.0)];
        peer.renew_at = None;
        let (since, sent) = match peer.attempt.take() {
            Some(attempt) => {
                self.indices.remove(&attempt.local_index);
                (attempt.since, attempt.sent)
            }
            None => (now, 0),
        };
        let peer = &self.peers[usize::from(id.0)];
        let Some(endpoint) = peer.endpoint(sent) else { return };
        let clock = self.started.0 + now.saturating_duration_since(self.started.1);
        self.last_told = clock.max(self.last_told + Duration::from_nanos(1));
        let payload = [&timestamp(self.last_told)[..], &self.hello_for(id).emit()].concat();
        let placed = PendingInitiation::place(&self.identity.private, &peer.public, &peer.preshared, &payload);
        let local_index = self.reserve_index(id);
        // Without randomness there is no initiation; the next retry may have some.
        let call = placed.map(|(call, noise)| {
            self.transmit(id, endpoint, Initiation { sender_index: local_index, noise: &noise }.emit());
            call
        });
        let retry_at = now + retry_delay(sent, self.random.next_u32());
        let (sent, local) = (sent.saturating_add(1), endpoint.local);
        self.peers[usize::from(id.0)].attempt = Some(Attempt { call, local_index, since, sent, local, retry_at });
    }

    fn transmit(&mut self, id: PeerId, to: Endpoint, mut datagram: Vec<u8>) {
        let mac = self.peers[usize::from(id.0)].mac.sign(&datagram);
        datagram.extend(mac);
        self.transmits.push_back((to, datagram));
    }

    /// A random index that no live session or attempt uses; 0 stays free to mean "no session". The rate limit keeps the
    /// live ones below 40,000 of 16 million, so a free one is found soon.
    fn reserve_index(&mut self, peer: PeerId) -> u32 {
        loop {
            let index = self.random.next_u32() & INDEX_MAX;
            if index != 0 && !self.indices.contains_key(&index) {
                self.indices.insert(index, IndexUse { peer, session: None });
                return index;
            }
        }
    }
}

fn session_keys(cipher: Cipher, keys: &RawKeys) -> (Arc<SealingKey>, Arc<OpeningKey>) {
    (Arc::new(SealingKey::new(cipher, &keys.sealing)), Arc::new(OpeningKey::new(cipher, &keys.opening)))
}
