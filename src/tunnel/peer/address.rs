//! The two addresses of the path to a peer, and what follows when one changes.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Peer;
use crate::tunnel::block_event::BlockEvent;
use crate::tunnel::endpoint::Endpoint;

impl Peer {
    /// Where datagrams go, if known.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// The same, with the address that they leave from.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let remote = self.address?;
        // The peer may have moved to the other address family.
        let local = self.local.filter(|local| local.is_ipv4() == remote.is_ipv4());
        Some(Endpoint { remote, local })
    }

    /// Nothing can be sent from our address that the peer sent to: it is gone, or no route leads from it. The kernel
    /// chooses from now on, until a new session names another. Returns the address, unless it is the same as the last
    /// time.
    pub fn on_unroutable(&mut self, now: Instant) -> Option<IpAddr> {
        let refused = self.local?;
        self.set_local(None, now);
        (self.refused.replace(refused) != Some(refused)).then_some(refused)
    }

    /// Datagrams leave from this address from now on.
    pub(super) fn set_local(&mut self, local: Option<IpAddr>, now: Instant) {
        if std::mem::replace(&mut self.local, local) != local {
            self.on_new_path(now);
        }
    }

    /// Datagrams go to this address from now on.
    pub(super) fn send_to(&mut self, address: SocketAddr, now: Instant) {
        if self.address.replace(address).is_none_or(|before| before == address) {
            return;
        }
        self.on_new_path(now);
    }

    /// Datagrams take another path from now on. Only an echo of a report that is written after this proves the path: a
    /// node without the keys cannot echo it.
    fn on_new_path(&mut self, now: Instant) {
        self.feedback.iter_mut().for_each(|feedback| feedback.proven_at = None);
        self.reporting.on_new_path(now);
        if self.settings.claims {
            self.block_events.push_back(BlockEvent::Moved);
        }
    }
}
