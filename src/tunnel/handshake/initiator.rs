//! The side that begins a session: it sends initiations, repeats them, and sends one again with a cookie where the peer
//! demands one.

use std::time::{Duration, Instant};

use super::noise::PendingInitiation;
use super::peer::{Attempt, retry_delay, timestamp};
use super::{Endpoint, HandshakeDrop, Handshakes, PeerId};
use crate::wire::handshake::{CookieReply, Initiation, split_mac};

impl Handshakes {
    /// Begins or repeats the attempt with a peer: each initiation has its own keys, index and timestamp.
    pub(super) fn send_initiation(&mut self, id: PeerId, now: Instant) {
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
        let Some(to) = peer.endpoint(sent) else { return };
        let clock = self.started.0 + now.saturating_duration_since(self.started.1);
        self.last_told = clock.max(self.last_told + Duration::from_nanos(1));
        let payload = [&timestamp(self.last_told)[..], &self.hello_for(id).emit()].concat();
        let key = peer.called_key(sent);
        let placed = PendingInitiation::place(&self.identity.private, &key.public, &peer.preshared, &payload);
        let key = key.public;
        let local_index = self.reserve_index(id);
        // Without randomness there is no initiation; the next retry may have some.
        let (call, noise) = placed.unzip();
        let initiation = noise.as_deref().map(|noise| Initiation { sender_index: local_index, noise }.emit());
        let mac1 = initiation.map(|initiation| self.transmit(id, &key, to, initiation)).unwrap_or_default();
        let retry_at = now + retry_delay(sent, self.random.next_u32());
        let sent = sent.saturating_add(1);
        self.peers[usize::from(id.0)].attempt =
            Some(Attempt { call, key, local_index, since, sent, to, noise, mac1, retry_at });
    }

    /// The peer is under load and wants a proof that we receive at our address: sends the same initiation again, with it,
    /// once.
    pub(super) fn handle_cookie_reply(&mut self, reply: CookieReply<'_>, now: Instant) -> Result<(), HandshakeDrop> {
        let id = self.awaited(reply.receiver_index)?;
        if !self.responses.allow(now) {
            return Err(HandshakeDrop::RateLimited);
        }
        let peer = &mut self.peers[usize::from(id.0)];
        let attempt = peer.attempt.as_mut().ok_or(HandshakeDrop::Unexpected)?;
        let (local_index, to, key) = (attempt.local_index, attempt.to, attempt.key);
        let (mac1, noise) = (attempt.mac1, attempt.noise.as_ref().ok_or(HandshakeDrop::Unexpected)?);
        let mut datagram = Initiation { sender_index: local_index, noise }.emit_with_cookie();
        let key = peer.key(&key).ok_or(HandshakeDrop::Unexpected)?;
        let cookie = key.cookies.open(reply.sealed, reply.nonce, &mac1).ok_or(HandshakeDrop::Unexpected)?;
        datagram.extend(key.mac.sign(&datagram));
        datagram.extend(cookie.mac2(&datagram));
        self.transmits.push_back((to, datagram));
        // The answer to this one takes a round trip more.
        let wait = retry_delay(peer.attempt.as_ref().map_or(0, |attempt| attempt.sent.saturating_sub(1)), 0);
        if let Some(attempt) = &mut peer.attempt {
            attempt.noise = None;
            attempt.retry_at = attempt.retry_at.max(now + wait);
        }
        Ok(())
    }

    /// The peer whose answer is awaited under this index.
    pub(super) fn awaited(&self, local_index: u32) -> Result<PeerId, HandshakeDrop> {
        let id = self.indices.get(&local_index).ok_or(HandshakeDrop::Unexpected)?.peer;
        let attempt = self.peers[usize::from(id.0)].attempt.as_ref();
        let is_awaited = attempt.is_some_and(|it| it.local_index == local_index && it.call.is_some());
        if is_awaited { Ok(id) } else { Err(HandshakeDrop::Unexpected) }
    }

    /// Sends a datagram with the mac1 for this key of the peer. Returns the mac1.
    pub(super) fn transmit(
        &mut self,
        id: PeerId,
        key: &crate::tunnel::keys::PublicKey,
        to: Endpoint,
        mut datagram: Vec<u8>,
    ) -> [u8; crate::wire::handshake::MAC_LEN] {
        let mac1 = self.peers[usize::from(id.0)].key(key).map(|key| key.mac.sign(&datagram)).unwrap_or_default();
        datagram.extend(mac1);
        debug_assert!(split_mac(&datagram).is_some_and(|(_, mac)| *mac == mac1));
        self.transmits.push_back((to, datagram));
        mac1
    }
}
