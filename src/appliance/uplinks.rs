//! Watches the queues through which this host reaches its peers, for drops that no failed send tells of.
//!
//! Only where notifications are configured: without them nobody relies on what has left this host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::io::qdisc::{Egress, egress};

/// How often the counters are read.
const INTERVAL: Duration = Duration::from_secs(1);

/// The ways to the peers.
#[derive(Debug, Default)]
pub struct Uplinks {
    /// Where each peer was last heard.
    peers: BTreeMap<IpAddr, Option<Egress>>,
    next_look: Option<Instant>,
    several_queues: bool,
}

/// What a look has shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// A queue that may drop in silence has dropped something.
    pub dropped: bool,
    /// For the first time a device has several transmit queues.
    pub several_queues: bool,
}

impl Uplinks {
    /// A session with a peer at this address was established.
    pub fn add(&mut self, peer: IpAddr, now: Instant) {
        self.peers.entry(peer).or_default();
        self.next_look = Some(now);
    }

    /// When to look next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.next_look
    }

    /// Looks at the devices and their counters if it is time.
    pub fn look(&mut self, now: Instant) -> Seen {
        let mut seen = Seen::default();
        if self.next_look.is_none_or(|at| at > now) {
            return seen;
        }
        self.next_look = Some(now + INTERVAL);
        for (peer, known) in &mut self.peers {
            // While there is no route, sends fail, and that is seen.
            let Ok(found) = egress(*peer) else { continue };
            seen.dropped |= has_dropped(known.as_ref(), &found);
            seen.several_queues |= !self.several_queues && found.has_several_queues();
            let is_news =
                known.as_ref().is_none_or(|known| (&known.device, &known.qdisc) != (&found.device, &found.qdisc));
            if is_news && found.may_drop_silently() {
                tracing::warn!(
                    %peer,
                    device = found.device,
                    qdisc = found.qdisc,
                    "this queue may drop a datagram that it has taken, and then blocks were called protected that have \
                     not left this host as a whole; give the device an honest one: `tc qdisc replace dev {} root fq`",
                    found.device
                );
            }
            *known = Some(found);
        }
        self.several_queues |= seen.several_queues;
        seen
    }
}

/// A queue that may drop in silence has done so since it was last looked at.
fn has_dropped(known: Option<&Egress>, found: &Egress) -> bool {
    let same = known.filter(|known| (&known.device, &known.qdisc) == (&found.device, &found.qdisc));
    let rose = same.and_then(|known| Some(known.drops? != found.drops?)).unwrap_or(false);
    rose && found.may_drop_silently()
}
