//! The handshakes of a node with all of its peers, as a pure state machine.
//!
//! A session takes two datagrams ([`crate::wire::handshake`]): an initiation and a response. An initiation is checked
//! in the order of cost: its length, mac1, its `admission`, the cryptography, the list of peers, its timestamp. Only
//! then is it answered, and only then does it leave any state. A sender that is not a peer gets no reply, except under
//! load: then a sender that knows our public key gets a `cookie`, and with it sends its initiation again.
//!
//! A peer may have two public keys while it changes its own. It is the same peer under either; the one in use is the one
//! that it proved last.
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
//! Start with [`Handshakes::handle_datagram`]; then `initiator`, `peer`, the attempt with one peer, and `noise`, the
//! cryptography.

mod admission;
mod cookie;
mod event;
mod initiator;
mod limit;
mod noise;
mod peer;
mod reload;
mod resolver;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngCore;

pub use event::{Established, HandshakeDrop, HandshakeEvent, Role};
pub use peer::HandshakePeer;

use self::admission::{Admission, Decision, Sender};
use self::cookie::{CookieSeal, CookieSecret};
use self::limit::RateLimit;
use self::noise::{RawKeys, ReceivedInitiation};
use self::peer::{GIVES_WAY, Peer};
use super::PeerId;
use super::endpoint::Endpoint;
use super::hello::Hello;
use super::keys::{PrivateKey, PublicKey};
use super::mac::MacKey;
use super::seal::{Cipher, OpeningKey, SealingKey};
use crate::wire::datagram::DatagramType;
use crate::wire::handshake::{
    COOKIE_NONCE_LEN, CookieReply, INDEX_MAX, Initiation, MAC_LEN, Response, split_mac, split_mac2,
};

/// The initiator of a session begins a new one after this long.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// A session this old neither seals nor opens (WireGuard's `REJECT_AFTER_TIME`).
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// The responder begins a new one after this long, if the initiator did not.
pub const REKEY_AS_RESPONDER_AFTER: Duration = Duration::from_secs(135);
/// Responses and cookies per second that reach the cryptography.
const RESPONSES_PER_SECOND: u32 = 200;
/// The same, in one burst.
const RESPONSES_AT_ONCE: u32 = 50;

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
    /// The key that the peer proves with it.
    key: PublicKey,
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
    /// Seals the cookies that we send.
    cookies: CookieSeal,
    cookie_secret: CookieSecret,
    admission: Admission,
    peers: Vec<Peer>,
    by_key: HashMap<PublicKey, PeerId>,
    indices: HashMap<u32, IndexUse>,
    random: Box<dyn RngCore + Send>,
    /// The wall clock at one instant.
    started: (Duration, Instant),
    /// The last timestamp sent to a peer; these only grow, whatever the clock does.
    last_told: Duration,
    /// Separate from the admission of initiations, so that a flood of those does not block the responses to our own.
    responses: RateLimit,
    transmits: VecDeque<(Endpoint, Vec<u8>)>,
    events: VecDeque<HandshakeEvent>,
}

impl Handshakes {
    /// Starts without sessions and sends nothing: call [`request`](Self::request) for each peer that should be
    /// contacted.
    ///
    /// `peers` in the order of the configuration, each key once; `random` for indices, jitter and cookies, so that it must be
    /// one for cryptography; `unix_time` is the wall clock at `now`.
    pub fn new(
        identity: Identity,
        peers: Vec<HandshakePeer>,
        mut random: Box<dyn RngCore + Send>,
        unix_time: Duration,
        now: Instant,
    ) -> Self {
        let public = identity.private.public_key();
        let peers: Vec<Peer> = peers.into_iter().map(Peer::new).collect();
        let keys = (0..=u16::MAX).zip(&peers).flat_map(|(id, peer)| peer.keys().map(move |key| (key, PeerId(id))));
        let by_key = keys.collect();
        Self {
            identity,
            mac: MacKey::of(&public),
            cookies: CookieSeal::of(&public),
            cookie_secret: CookieSecret::new(&mut *random, now),
            admission: Admission::new(now),
            public,
            peers,
            by_key,
            indices: HashMap::new(),
            random,
            started: (unix_time, now),
            last_told: Duration::ZERO,
            responses: RateLimit::new(RESPONSES_PER_SECOND, RESPONSES_AT_ONCE, now),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Begins a handshake unless one is under way. Without a known endpoint nothing happens: the peer has to begin.
    pub fn request(&mut self, peer: PeerId, now: Instant) {
        if self.peers.get(usize::from(peer.0)).is_some_and(|peer| peer.attempt.is_none() && !peer.is_removed) {
            self.send_initiation(peer, now);
        }
    }

    /// The public key that the peer last proved to have; `None` before the first session.
    pub fn key_in_use(&self, peer: PeerId) -> Option<PublicKey> {
        self.peers.get(usize::from(peer.0))?.in_use
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
        if peer.key(&session.key).is_none() {
            // A reload has removed this key meanwhile: the session proves nothing about the peer, and does not last. An
            // attempt under way is with a key that the peer has.
            self.request(id, now);
            return Some(id);
        }
        (peer.proven, peer.in_use, peer.gave_way) = (Some(session.endpoint), Some(session.key), false);
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
            Some(DatagramType::Initiation | DatagramType::CookieInitiation) => {
                if !self.admission.may_check(now) {
                    return Err(HandshakeDrop::RateLimited);
                }
                let (datagram, mac2) = split_mac2(datagram).ok_or(HandshakeDrop::Malformed)?;
                let initiation = Initiation::parse(datagram).ok_or(HandshakeDrop::Malformed)?;
                self.check_mac(datagram)?;
                self.admit(datagram, mac2, initiation.sender_index, from, now)?;
                self.handle_initiation(initiation, from, now)
            }
            Some(DatagramType::Response) => {
                let response = Response::parse(datagram).ok_or(HandshakeDrop::Malformed)?;
                self.awaited(response.receiver_index)?;
                self.check_mac(datagram)?;
                self.handle_response(response, from, now)
            }
            Some(DatagramType::CookieReply) => {
                let reply = CookieReply::parse(datagram).ok_or(HandshakeDrop::Malformed)?;
                self.handle_cookie_reply(reply, now)
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
        self.events.extend(self.admission.poll_news(now).map(HandshakeEvent::Load));
    }

    /// When to call [`handle_timeout`](Self::handle_timeout); `None` if nothing is planned.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.iter().filter_map(Peer::due).chain(self.admission.calm_at()).min()
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

    /// Whether to compute an initiation whose mac1 is right; if not, its sender may get a cookie. `signed` is what mac2
    /// covers.
    fn admit(
        &mut self,
        signed: &[u8],
        mac2: Option<&[u8; MAC_LEN]>,
        sender_index: u32,
        from: Endpoint,
        now: Instant,
    ) -> Result<(), HandshakeDrop> {
        self.cookie_secret.rotate(&mut *self.random, now);
        let address = from.remote.ip();
        let sender = Sender {
            address,
            is_of_peer: self.peers.iter().any(|peer| peer.is_at(address)),
            has_cookie: mac2.is_some_and(|mac2| self.cookie_secret.verify(from.remote, signed, mac2)),
        };
        match self.admission.decide(sender, now) {
            Decision::Compute => Ok(()),
            Decision::Drop => Err(HandshakeDrop::RateLimited),
            Decision::SendCookie => {
                let (_, mac1) = split_mac(signed).ok_or(HandshakeDrop::Malformed)?;
                let mut nonce = [0; COOKIE_NONCE_LEN];
                self.random.fill_bytes(&mut nonce);
                let sealed = self.cookies.seal(&self.cookie_secret.cookie(from.remote), &nonce, mac1);
                let reply = CookieReply { receiver_index: sender_index, nonce: &nonce, sealed: &sealed };
                self.transmits.push_back((from, reply.emit()));
                Err(HandshakeDrop::WithoutCookie)
            }
        }
    }

    fn handle_initiation(
        &mut self,
        initiation: Initiation<'_>,
        from: Endpoint,
        now: Instant,
    ) -> Result<(), HandshakeDrop> {
        let opened =
            ReceivedInitiation::listen(&self.identity.private, initiation.noise).ok_or(HandshakeDrop::NotAuthentic)?;
        let caller = opened.caller;
        let id = *self.by_key.get(&caller).ok_or(HandshakeDrop::UnknownPeer)?;
        let key = self.peers[usize::from(id.0)].key_mut(&caller).ok_or(HandshakeDrop::UnknownPeer)?;
        let (sent_at, hello) = opened.payload.split_first_chunk().ok_or(HandshakeDrop::BadHello)?;
        if key.newest.is_some_and(|newest| *sent_at <= newest) {
            return Err(HandshakeDrop::Replayed);
        }
        key.newest = Some(*sent_at);
        let agreed = self.judge(id, hello);
        if agreed == Err(HandshakeDrop::BadHello) {
            return Err(HandshakeDrop::BadHello);
        }

        // An incompatible peer is answered too: its operator should read the reason in its own log.
        let preshared = &self.peers[usize::from(id.0)].preshared;
        let (noise, keys) = opened.answer(preshared, &self.hello_for(id).emit()).ok_or(HandshakeDrop::NotAuthentic)?;
        let local_index = if agreed.is_ok() { self.reserve_index(id) } else { 0 };
        let response = Response { receiver_index: initiation.sender_index, sender_index: local_index, noise: &noise };
        self.transmit(id, &caller, from, response.emit());
        let (remote, cipher) = agreed?;

        let peer = &mut self.peers[usize::from(id.0)];
        // The peer's attempt stands, and ours begins again if that fails. Once: a node that has just started takes copies of
        // old initiations for new ones, and no number of copies may hold up its own attempt.
        if self.public < caller
            && !peer.gave_way
            && let Some(attempt) = peer.attempt.take()
        {
            self.indices.remove(&attempt.local_index);
            (peer.renew_at, peer.gave_way) = (Some(now + GIVES_WAY), true);
        }
        // An unproven session must not delay the renewal of a proven one.
        peer.renew_at.get_or_insert(now + REKEY_AS_RESPONDER_AFTER);
        let (sealing, opening) = session_keys(cipher, &keys);
        let established = Established {
            peer: id,
            role: Role::Responder,
            local_index,
            remote_index: initiation.sender_index,
            sealing,
            opening,
            remote,
            endpoint: from,
            at: now,
        };
        self.establish(established, caller);
        Ok(())
    }

    fn handle_response(&mut self, response: Response<'_>, from: Endpoint, now: Instant) -> Result<(), HandshakeDrop> {
        let local_index = response.receiver_index;
        let id = self.awaited(local_index)?;
        if !self.responses.allow(now) {
            return Err(HandshakeDrop::RateLimited);
        }
        let attempt = self.peers[usize::from(id.0)].attempt.as_mut().ok_or(HandshakeDrop::Unexpected)?;
        let (called, call) = (attempt.key, attempt.call.as_mut().ok_or(HandshakeDrop::Unexpected)?);
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
        let endpoint = Endpoint { local: peer.attempt.take().and_then(|attempt| attempt.to.local), ..from };
        (peer.proven, peer.in_use, peer.gave_way) = (Some(endpoint), Some(called), false);
        peer.renew_at = Some(now + REKEY_AFTER);
        let (sealing, opening) = session_keys(cipher, &keys);
        let established = Established {
            peer: id,
            role: Role::Initiator,
            local_index,
            remote_index: response.sender_index,
            sealing,
            opening,
            remote,
            endpoint,
            at: now,
        };
        self.establish(established, called);
        Ok(())
    }

    fn establish(&mut self, established: Established, key: PublicKey) {
        let (role, endpoint, since) = (established.role, established.endpoint, established.at);
        let session = Session { role, key, endpoint, since };
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

    /// A random index that no live session or attempt uses; 0 stays free to mean "no session". A free one is found soon:
    /// `admission` lets peers make 600 sessions a second, each is known for 180 s, so 108,000 of 16 million are in use at
    /// most.
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
