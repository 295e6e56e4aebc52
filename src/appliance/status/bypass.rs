//! Which way packets for a peer take where `bypass: withdraw_routes` is set, as status.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The way of packets for one peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct BypassStatus {
    /// Its routes are withdrawn: packets take the plain route, unprotected.
    pub withdrawn: bool,
    /// Why.
    pub cause: Option<String>,
    /// How often that has begun, but for the start.
    pub withdrawals: u64,
}

/// The process that watches the appliance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct WatchdogStatus {
    /// Its process id; none if it has ended.
    pub pid: Option<u32>,
    /// How often the appliance or a lane stood still.
    pub stalls: u64,
}
