//! Tells the control thread when a peer falls silent or is refused by its host, and when it is heard again.

use std::net::SocketAddr;
use std::time::Instant;

use crate::appliance::bypass::Reach;
use crate::tunnel::PeerId;
use crate::tunnel::peer::Peer;

/// What was told, by peer.
#[derive(Debug, Default)]
pub(super) struct ReachNews(Vec<Entry>);

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    told: Reach,
    /// When its host last said that nobody listens there.
    refused_at: Option<Instant>,
}

impl ReachNews {
    /// The host of a peer has said that nobody listens at this address.
    pub fn on_refused(&mut self, address: SocketAddr, peers: &[Peer], now: Instant) {
        self.0.resize(peers.len(), Entry::default());
        for (entry, peer) in self.0.iter_mut().zip(peers) {
            if peer.address() == Some(address) {
                entry.refused_at = Some(now);
            }
        }
    }

    /// All is told again: another configuration is followed, which knows a peer that was removed and is back as a new one.
    pub fn forget(&mut self) {
        self.0.clear();
    }

    /// A peer that is reached in another way than was told.
    pub fn poll(&mut self, peers: &[Peer], now: Instant) -> Option<(PeerId, Reach)> {
        self.0.resize(peers.len(), Entry::default());
        let changed = self.0.iter().zip(peers).position(|(entry, peer)| entry.told != reach(entry, peer, now))?;
        Some((PeerId(changed as u16), reach(&self.0[changed], &peers[changed], now)))
    }

    /// It was told.
    pub fn on_told(&mut self, peer: PeerId, told: Reach) {
        if let Some(entry) = self.0.get_mut(usize::from(peer.0)) {
            entry.told = told;
        }
    }
}

fn reach(entry: &Entry, peer: &Peer, now: Instant) -> Reach {
    // Whoever is heard later listens again.
    let is_refused = entry.refused_at.is_some_and(|at| peer.last_heard().is_some_and(|heard| heard <= at));
    match is_refused {
        _ if peer.last_heard().is_none() || peer.sessions().current().is_none() => Reach::Unheard,
        true => Reach::Refused,
        false if peer.reporting().is_silent(now) => Reach::Silent,
        false => Reach::Fit,
    }
}
