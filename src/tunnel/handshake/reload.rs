//! What changes while the node runs: its peers, their keys and addresses, and its own key. Sessions go on.

use std::net::SocketAddr;
use std::time::Instant;

use super::cookie::CookieSeal;
use super::peer::{HandshakePeer, Peer};
use super::{Handshakes, PeerId};
use crate::tunnel::keys::PrivateKey;
use crate::tunnel::mac::MacKey;

impl Handshakes {
    /// The peers are these from now on, in the same order, more behind them; `None`: one is no peer any more. A handshake begins with
    /// each that is new, has another preshared key or address, or has lost the key in use.
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
            let is_other = match known {
                Some(peer) => peer.reload(settings),
                None => {
                    self.peers.push(Peer::new(settings));
                    true
                }
            };
            self.by_key.extend(self.peers[usize::from(number)].keys().map(|key| (key, id)));
            if is_other {
                self.begin_anew(id, now);
            }
        }
    }

    /// Takes another private key, and begins a handshake with each peer: they learn it from that. Sessions go on under the
    /// keys they have; an initiation to the key before is not answered any more.
    pub fn set_private_key(&mut self, private: &PrivateKey, now: Instant) {
        let public = private.public_key();
        if public == self.public {
            return;
        }
        self.identity.private = private.clone();
        (self.mac, self.cookies, self.public) = (MacKey::of(&public), CookieSeal::of(&public), public);
        for number in 0..self.peers.len() {
            self.begin_anew(PeerId(number as u16), now);
        }
    }

    /// An attempt under way is with what was configured before.
    fn begin_anew(&mut self, id: PeerId, now: Instant) {
        if let Some(attempt) = self.peers[usize::from(id.0)].attempt.take() {
            self.indices.remove(&attempt.local_index);
        }
        self.request(id, now);
    }

    /// The peer has no configured address any more.
    pub fn clear_endpoint(&mut self, peer: PeerId) {
        if let Some(peer) = self.peers.get_mut(usize::from(peer.0)) {
            peer.configured = None;
        }
    }

    /// Sets the configured address of a peer, to which initiations go if no other is proven. An attempt under way tries it
    /// at once.
    pub fn set_endpoint(&mut self, peer: PeerId, endpoint: SocketAddr, now: Instant) {
        let Some(peer) = self.peers.get_mut(usize::from(peer.0)) else { return };
        if peer.configured.replace(endpoint) != Some(endpoint)
            && let Some(attempt) = &mut peer.attempt
        {
            // Odd ones go to the configured address.
            (attempt.sent, attempt.retry_at) = (attempt.sent | 1, now);
        }
    }
}
