//! When a lane reports what it knows of its links to the control thread, which plans from that.

use std::time::{Duration, Instant};

use crate::appliance::planning::LaneLink;
use crate::tunnel::PeerId;
use crate::tunnel::peer::Peer;

/// How often: a link that has become worse must be answered soon, and planning is not for single reports.
const INTERVAL: Duration = Duration::from_millis(200);

/// The next report.
#[derive(Debug, Default)]
pub(super) struct LinkNews {
    /// None where no profile has targets.
    due: Option<Instant>,
}

impl LinkNews {
    /// From now on there are reports, or none.
    pub fn set(&mut self, reports: bool, now: Instant) {
        self.due = reports.then_some(now);
    }

    /// What is known of each link, if a report is due.
    pub fn take(&mut self, peers: &[Peer], now: Instant) -> Vec<(PeerId, LaneLink)> {
        if self.due.is_none_or(|due| due > now) {
            return Vec::new();
        }
        self.due = Some(now + INTERVAL);
        let known = |peer: &Peer| LaneLink {
            estimate: peer.estimate(now),
            peer_knows_late: peer.reporting().peer_late_spread().is_some(),
            source_symbols: peer.sent().source_symbols,
        };
        // Without a session nothing is sent, and nothing is learned.
        let up = peers.iter().enumerate().filter(|(_, peer)| peer.sessions().current().is_some());
        up.map(|(number, peer)| (PeerId(number as u16), known(peer))).collect()
    }
}
