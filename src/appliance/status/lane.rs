//! The part of status about one lane: its socket, what the kernel does for it, and what it has dropped.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::named;
use crate::appliance::lane::last_hop::LastHopStatus;
use crate::appliance::lane::snapshot::LaneSnapshot;
use crate::io::status_socket::unspecified;

/// One lane.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LaneStatus {
    /// Its number.
    #[serde(default)]
    pub lane: u8,
    /// Where it listens.
    #[serde(default = "unspecified")]
    pub listen: SocketAddr,
    /// `active` or `off` with the reason.
    #[serde(default)]
    pub udp_gso: String,
    /// Datagrams dropped because our receive buffer was full; an uncut train of them counts once.
    #[serde(default)]
    pub receive_overflows: u64,
    /// How long datagrams have waited in our receive buffer in the last 20 ms, at least.
    #[serde(default)]
    pub receive_wait_ms: f64,
    /// How long it has paused under load, so that more had come when it looked again.
    #[serde(default)]
    pub paused_ms: f64,
    /// Errors of sending, all kinds.
    #[serde(default)]
    pub send_errors: u64,
    /// Datagrams a full queue of this host dropped.
    #[serde(default)]
    pub queue_full: u64,
    /// Datagrams too big for a device or the path.
    #[serde(default)]
    pub too_big: u64,
    /// The smallest path MTU that these errors named, until a minute after the last.
    #[serde(default)]
    pub path_mtu: Option<u32>,
    /// Errors from the path that quote no datagram of ours, and so are not trusted.
    #[serde(default)]
    pub doubtful_errors: u64,
    /// How departures are timestamped: `by number`, `by content`, or `off` with the reason.
    #[serde(default)]
    pub timestamps: String,
    /// Super-packets cut in software because the TUN does not take them.
    #[serde(default)]
    pub cut_in_software: u64,
    /// Events lost because the control thread was busy.
    #[serde(default)]
    pub notices_lost: u64,
    /// Bytes held for incomplete blocks.
    #[serde(default)]
    pub memory: usize,
    /// What is kept until the mirror has acknowledged it; `None` where that is switched off.
    #[serde(default)]
    pub last_hop: Option<LastHopStatus>,
    /// What was dropped, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

impl From<&LaneSnapshot> for LaneStatus {
    fn from(lane: &LaneSnapshot) -> Self {
        Self {
            lane: lane.lane,
            listen: lane.listen,
            udp_gso: lane.gso.clone(),
            receive_overflows: lane.receive_overflows,
            receive_wait_ms: lane.receive_wait.as_secs_f64() * 1e3,
            paused_ms: lane.paused.as_secs_f64() * 1e3,
            send_errors: lane.errors.total(),
            queue_full: lane.errors.queue_full,
            too_big: lane.errors.too_big,
            doubtful_errors: lane.errors.doubtful,
            path_mtu: lane.errors.path_mtu,
            timestamps: lane.timestamps.clone(),
            cut_in_software: lane.cut_in_software,
            notices_lost: lane.notices_lost,
            memory: lane.memory,
            last_hop: lane.last_hop,
            drops: named(&lane.drops),
        }
    }
}
