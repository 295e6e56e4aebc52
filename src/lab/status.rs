//! The part of `onwire status --json` that the lab reads.
//!
//! Missing fields count as zero, so that the lab works with appliances of neighbouring versions.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::wire::report::BURST_CLASSES;

/// The status of an appliance.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The TUN device.
    pub tun: TunStatus,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
    /// Its peers.
    pub peers: Vec<PeerStatus>,
    /// Its notifications, if it sends any.
    pub notify: Option<NotifyStatus>,
    /// What it has dropped, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// The part about notifications.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NotifyStatus {
    /// Programs with a lease.
    pub subscribers: u64,
    /// Subscriptions that ended because their lease expired.
    pub leases_ended: u64,
}

/// The part about the TUN device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TunStatus {
    /// `fast` or `simple`.
    pub backend: String,
    /// Trains that the kernel dropped because the appliance read too slowly.
    pub tx_dropped: u64,
}

/// The part about a lane.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LaneStatus {
    /// `active`, or `off` with the reason.
    pub udp_gso: String,
    /// Datagrams for which the socket's receive buffer had no room.
    pub receive_overflows: u64,
    /// Sends that failed.
    pub send_errors: u64,
    /// The packets that are kept for the last hop.
    pub last_hop: Option<LastHop>,
}

/// What a lane keeps until the mirror has acknowledged it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LastHop {
    /// Bytes of memory.
    pub memory: u64,
    /// Packets dropped because the memory bound was reached.
    pub dropped: u64,
    /// How often a packet was delivered again.
    pub repeated: u64,
}

/// The part about a peer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// `up` or `connecting`.
    pub state: String,
    /// Round trip of the tunnel.
    pub rtt_ms: Option<f64>,
    /// Handshakes finished.
    pub sessions: u64,
    /// What we sent.
    pub sent: Sent,
    /// What we received.
    pub received: Received,
    /// The protection toward the peer, if it is on.
    pub protection: Option<ProtectionStatus>,
    /// Profiles with targets.
    pub plans: Vec<PlanStatus>,
    /// Which way packets for it take, where routes are withdrawn.
    pub bypass: Option<BypassStatus>,
}

/// The way of packets for a peer.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BypassStatus {
    /// They take the plain route.
    pub withdrawn: bool,
}

/// A profile with targets on one lane.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PlanStatus {
    /// How often its plan has changed.
    pub changes: u64,
    /// Repair symbols of a full block.
    pub repair_symbols: u64,
}

/// The protection of flows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProtectionStatus {
    /// Flows that are tracked.
    pub flows: u64,
    /// State of the link: `up`, or another.
    pub state: String,
    /// Blocks that were called protected and are lost.
    pub violations: u64,
}

/// Counters of what was sent.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Sent {
    /// Source symbols.
    pub source_symbols: u64,
    /// Repair symbols.
    pub repair_symbols: u64,
    /// Blocks.
    pub blocks: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// Bytes of the user's packets.
    pub adu_bytes: u64,
    /// UDP payload bytes.
    pub bytes: u64,
    /// Packets dropped because the queue for the path's rate was full.
    pub queue_dropped: u64,
}

/// Counters of what was received.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Received {
    /// Packets and super-packets delivered.
    pub adus: u64,
    /// Datagrams that arrived.
    pub datagrams: u64,
    /// Datagrams lost on the way.
    pub lost: u64,
    /// Source symbols that were recovered.
    pub recovered_symbols: u64,
    /// Blocks that were recovered.
    pub recovered_blocks: u64,
    /// Blocks that could not be recovered.
    pub unrecoverable_blocks: u64,
    /// Finished blocks.
    pub blocks: u64,
    /// Bytes of the user's packets.
    pub adu_bytes: u64,
    /// Runs of lost datagrams, by class of their length.
    pub burst_lengths: [u64; BURST_CLASSES],
}

impl Status {
    /// Reads the JSON of `onwire status --json`.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The first peer; an appliance of a pair has only one.
    pub fn peer(&self) -> PeerStatus {
        self.peers.first().cloned().unwrap_or_default()
    }

    /// Whether the sessions with all peers are up.
    pub fn is_up(&self) -> bool {
        !self.peers.is_empty() && self.peers.iter().all(|peer| peer.state == "up")
    }

    /// Datagrams lost in this host's socket buffers, not on the path.
    pub fn receive_overflows(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.receive_overflows).sum()
    }
}

impl Received {
    /// What was counted after `earlier` was taken.
    pub fn since(&self, earlier: &Received) -> Received {
        Received {
            adus: self.adus.saturating_sub(earlier.adus),
            datagrams: self.datagrams.saturating_sub(earlier.datagrams),
            lost: self.lost.saturating_sub(earlier.lost),
            recovered_symbols: self.recovered_symbols.saturating_sub(earlier.recovered_symbols),
            recovered_blocks: self.recovered_blocks.saturating_sub(earlier.recovered_blocks),
            unrecoverable_blocks: self.unrecoverable_blocks.saturating_sub(earlier.unrecoverable_blocks),
            blocks: self.blocks.saturating_sub(earlier.blocks),
            adu_bytes: self.adu_bytes.saturating_sub(earlier.adu_bytes),
            burst_lengths: std::array::from_fn(|class| {
                self.burst_lengths[class].saturating_sub(earlier.burst_lengths[class])
            }),
        }
    }

    /// The share of datagrams that did not arrive.
    pub fn raw_loss(&self) -> f64 {
        share(self.lost, self.datagrams + self.lost)
    }

    /// The share of blocks that could not be recovered.
    pub fn residual_loss(&self) -> f64 {
        share(self.unrecoverable_blocks, self.blocks + self.unrecoverable_blocks)
    }
}

/// `part` divided by `whole`; zero if `whole` is zero.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_fields_are_read_and_unknown_ones_ignored() {
        let text = r#"{ "node": "ithaca", "future": [1], "tun": { "backend": "fast", "tx_dropped": 2 },
            "lanes": [ { "receive_overflows": 3 }, { "receive_overflows": 4, "udp_gso": "active" } ],
            "peers": [ { "state": "up", "rtt_ms": null, "received": { "datagrams": 99, "lost": 1, "blocks": 4 } } ] }"#;
        let status = Status::parse(text).unwrap();
        assert!(status.is_up());
        assert_eq!((status.receive_overflows(), status.tun.tx_dropped), (7, 2));
        assert_eq!(status.peer().received.raw_loss(), 0.01);
        assert_eq!(status.peer().received.residual_loss(), 0.0);
        assert!(!Status::parse("{}").unwrap().is_up());
    }
}
