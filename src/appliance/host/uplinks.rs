//! Finds the queues through which this host reaches its peers, and logs those that may drop what they have taken.
//!
//! Only where notifications are configured: otherwise no program relies on what has left this host. Lanes check the
//! egress themselves, each time before a timestamp counts: [`crate::appliance::notify::egress_watch`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::io::qdisc::{Egress, egress};
use crate::tunnel::PeerId;

/// How often the egress to the peers is checked.
const INTERVAL: Duration = Duration::from_secs(1);

/// The egress to each peer.
#[derive(Debug, Default)]
pub struct Uplinks {
    /// One entry for each peer, however often the peer moves.
    peers: BTreeMap<PeerId, Known>,
    next_look: Option<Instant>,
}

/// The peer's last known address, the source address of datagrams to it, and its egress as the lanes know it.
#[derive(Debug)]
struct Known {
    to: IpAddr,
    from: Option<IpAddr>,
    egress: Option<Egress>,
}

/// The egress to a peer, after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// The peer.
    pub peer: PeerId,
    /// Its device has several transmit queues and selects one by the sending processor.
    pub several_queues: bool,
}

impl Uplinks {
    /// A session with the peer at `to` was established; datagrams leave from `from`, or from where the kernel chooses.
    pub fn add(&mut self, peer: PeerId, to: IpAddr, from: Option<IpAddr>, now: Instant) {
        let known = self.peers.entry(peer).or_insert(Known { to, from, egress: None });
        (known.to, known.from) = (to, from);
        self.next_look = Some(now);
    }

    /// Forgets the peers for which `is_kept` is false.
    pub fn retain(&mut self, is_kept: impl Fn(PeerId) -> bool) {
        self.peers.retain(|&peer, _| is_kept(peer));
    }

    /// When to check next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_look
    }

    /// Checks if it is time; returns what has changed.
    pub fn look(&mut self, now: Instant) -> Vec<Uplink> {
        if self.next_look.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.next_look = Some(now + INTERVAL);
        let mut news = Vec::new();
        for (&peer, Known { to, from, egress: known }) in &mut self.peers {
            // Without a route, sends fail, and that is counted.
            let Ok(found) = egress(*to, *from) else { continue };
            let way = |it: &Egress| (it.device.clone(), it.qdisc.clone());
            if known.as_ref().map(way) == Some(way(&found)) {
                continue;
            }
            let (is_suspect, several_queues) = (found.may_drop_silently(), found.has_several_queues());
            news.push(Uplink { peer, several_queues });
            if is_suspect {
                tracing::warn!(
                    peer = %to,
                    device = found.device,
                    qdisc = found.qdisc,
                    "this queue may drop a datagram that it has taken: whenever it drops one, whoever sent it, nothing is \
                     called protected for a while; give the device an honest one: `tc qdisc replace dev {} root fq`",
                    found.device
                );
            }
            *known = Some(found);
        }
        news
    }

    /// Not every lane got this change: it is sent again at the next look.
    pub fn on_unsent(&mut self, uplink: Uplink) {
        if let Some(known) = self.peers.get_mut(&uplink.peer) {
            known.egress = None;
        }
    }
}
