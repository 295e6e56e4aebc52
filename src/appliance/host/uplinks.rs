//! Finds the queues through which this host reaches its peers, and names those that may drop what they have taken.
//!
//! Only where notifications are configured: without them nobody relies on what has left this host. Lanes look at the ways
//! themselves, each time they are about to believe a timestamp: [`crate::appliance::notify::egress_watch`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::io::qdisc::{Egress, egress};
use crate::tunnel::PeerId;

/// How often the ways are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// The ways to the peers.
#[derive(Debug, Default)]
pub struct Uplinks {
    /// One way for each peer, however often it moves.
    peers: BTreeMap<PeerId, Known>,
    next_look: Option<Instant>,
}

/// Where a peer was last heard, from which address it is sent to, and the way there as the lanes know it.
#[derive(Debug)]
struct Known {
    to: IpAddr,
    from: Option<IpAddr>,
    egress: Option<Egress>,
}

/// The way to a peer, as it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Which peer.
    pub peer: PeerId,
    /// Its device has several transmit queues and chooses by the processor that sends.
    pub several_queues: bool,
}

impl Uplinks {
    /// A session with a peer at the address `to` was established; it is sent to from `from`, or from where the kernel chooses.
    pub fn add(&mut self, peer: PeerId, to: IpAddr, from: Option<IpAddr>, now: Instant) {
        let known = self.peers.entry(peer).or_insert(Known { to, from, egress: None });
        (known.to, known.from) = (to, from);
        self.next_look = Some(now);
    }

    /// When to look next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_look
    }

    /// Looks, if it is time: the ways that have changed.
    pub fn look(&mut self, now: Instant) -> Vec<Uplink> {
        if self.next_look.is_none_or(|at| at > now) {
            return Vec::new();
        }
        self.next_look = Some(now + INTERVAL);
        let mut news = Vec::new();
        for (&peer, Known { to, from, egress: known }) in &mut self.peers {
            // While there is no route, sends fail, and that is seen.
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

    /// Not every lane could be told of the way to this peer.
    pub fn on_unsent(&mut self, uplink: Uplink) {
        if let Some(known) = self.peers.get_mut(&uplink.peer) {
            known.egress = None;
        }
    }
}
