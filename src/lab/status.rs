//! What `onwire status --json` says, as far as the lab reads it.
//!
//! Fields that are missing count as zero, so that the lab and an appliance of a neighbouring version understand each
//! other. Reads only.

use std::collections::BTreeMap;

use serde::Deserialize;

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
    /// Its notifications, if it notifies.
    pub notify: Option<NotifyStatus>,
    /// What it has thrown away, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// The part about notifications.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NotifyStatus {
    /// Programs with a lease.
    pub subscribers: u64,
    /// Subscribers that went without a word.
    pub leases_ended: u64,
}

/// The part about the TUN device.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TunStatus {
    /// `fast` or `simple`.
    pub backend: String,
    /// Trains that the kernel dropped because the appliance was slow to read them.
    pub tx_dropped: u64,
}

/// The part about a lane.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LaneStatus {
    /// `active`, or `off` with the reason.
    pub udp_gso: String,
    /// Datagrams that our own socket buffer had no room for.
    pub receive_overflows: u64,
    /// Sends that failed.
    pub send_errors: u64,
    /// What is kept for the last hop.
    pub last_hop: Option<LastHop>,
}

/// What a lane keeps until the mirror has acknowledged it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LastHop {
    /// Bytes of memory.
    pub memory: u64,
    /// Packets dropped because of a bound.
    pub dropped: u64,
    /// How often one was handed on again.
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
    /// What we sent.
    pub sent: Sent,
    /// What we received.
    pub received: Received,
    /// What we promise, if anything.
    pub protection: Option<Promises>,
}

/// What is promised to flows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Promises {
    /// Flows that are followed.
    pub flows: u64,
    /// Of the link: `up`, or not.
    pub state: String,
}

/// Counters of what was sent.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Sent {
    /// Source symbols.
    pub source_symbols: u64,
    /// Repair symbols.
    pub repair_symbols: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// Bytes of the user's packets.
    pub adu_bytes: u64,
    /// UDP payload bytes.
    pub bytes: u64,
    /// Packets dropped because too much waited for the path's rate.
    pub queue_dropped: u64,
}

/// Counters of what was received.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Received {
    /// Packets and super-packets handed on.
    pub adus: u64,
    /// Datagrams that arrived.
    pub datagrams: u64,
    /// Datagrams that did not.
    pub lost: u64,
    /// Source symbols that were rebuilt.
    pub recovered_symbols: u64,
    /// Blocks that were rebuilt.
    pub recovered_blocks: u64,
    /// Blocks that could not be.
    pub unrecoverable_blocks: u64,
    /// Blocks that were finished.
    pub blocks: u64,
    /// Bytes of the user's packets.
    pub adu_bytes: u64,
}

impl Status {
    /// Reads the JSON of `onwire status --json`.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The only peer of an appliance of a pair.
    pub fn peer(&self) -> PeerStatus {
        self.peers.first().cloned().unwrap_or_default()
    }

    /// Whether a session with the peer is up.
    pub fn is_up(&self) -> bool {
        !self.peers.is_empty() && self.peers.iter().all(|peer| peer.state == "up")
    }

    /// Datagrams lost in this machine, not on the path: our socket buffers.
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
        }
    }

    /// The share of datagrams that did not arrive.
    pub fn raw_loss(&self) -> f64 {
        share(self.lost, self.datagrams + self.lost)
    }

    /// The share of blocks that could not be rebuilt.
    pub fn residual_loss(&self) -> f64 {
        share(self.unrecoverable_blocks, self.blocks + self.unrecoverable_blocks)
    }
}

/// A part of a whole; nothing of nothing is nothing.
pub fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_read_and_the_rest_ignored() {
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
