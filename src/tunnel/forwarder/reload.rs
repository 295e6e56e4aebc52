//! The configuration of a lane changes while it runs.

use std::time::Instant;

use super::{Forwarder, Settings};
use crate::tunnel::peer::Peer;

impl Forwarder {
    /// Peers that `settings` has removed are peers no more. What came from them in whole can be polled for the last time before
    /// [`reload`](Self::reload) takes their prefixes away: they may have called it protected.
    pub fn remove_peers(&mut self, settings: &Settings, now: Instant) {
        for (peer, _) in self.peers.iter_mut().zip(&settings.peers).filter(|(_, settings)| settings.is_removed) {
            peer.remove(&mut self.code, now);
        }
        self.index_sessions();
    }

    /// Follows these settings from now on. Peers and profiles keep their numbers, so neither list is shorter than before; the lane
    /// stays as it is. Profiles named in `changed` replace what was planned for them. What is in blocks is not touched: a block ends
    /// as it began.
    pub fn reload(&mut self, settings: Settings, changed: &[u8], now: Instant) {
        let Settings { local_prefixes, peer_prefixes, peers, profiles, delivery, survive_burst, .. } = settings;
        assert!(peers.len() >= self.peers.len() && profiles.len() >= self.profiles.len(), "numbers stay taken");
        (self.local_prefixes, self.peer_prefixes, self.profiles) = (local_prefixes, peer_prefixes, profiles);
        let shows_departures = self.peers.iter().any(Peer::shows_departures);
        for (number, settings) in peers.into_iter().enumerate() {
            match self.peers.get_mut(number) {
                Some(peer) => {
                    if peer.reload(settings, delivery, survive_burst) {
                        // What was planned for it before it was removed is no plan for now.
                        self.profiles.iter().for_each(|profile| peer.set_profile(profile));
                    }
                }
                None => {
                    let mut peer = Peer::new(settings, self.lane, delivery, survive_burst, now);
                    peer.set_shows_departures(shows_departures);
                    self.peers.push(peer);
                }
            }
        }
        let changed = self.profiles.iter().filter(|profile| changed.contains(&profile.number));
        changed.for_each(|profile| self.peers.iter_mut().for_each(|peer| peer.set_profile(profile)));
        self.index_sessions();
    }
}
