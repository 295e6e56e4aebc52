//! What can be wrong with a route into the TUN device, and the log lines about it.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is wrong with the route of packets into the device; for each prefix the first that applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", tag = "trouble")]
pub enum RouteTrouble {
    /// The device was set down; nothing comes in.
    DeviceDown,
    /// Packets to the prefix take another route.
    Elsewhere {
        /// The prefix of that route.
        prefix: String,
        /// The index of its device.
        device: u32,
    },
    /// There is no route, and the kernel refuses ours.
    Missing {
        /// The kernel's error.
        cause: String,
    },
    /// This host has no address in `local_prefixes` and does not forward for hosts that have one.
    NotForwarding,
    /// `local_prefixes` holds other hosts too, but this host does not forward for them.
    OwnProgramsOnly,
    /// Our route is withdrawn, and there is no other: packets go nowhere.
    NoPlainRoute,
    /// Our route is to be withdrawn, and the kernel refuses to remove it.
    NotWithdrawn {
        /// The kernel's error.
        cause: String,
    },
}

impl RouteTrouble {
    /// For people: what is wrong with the route into this device.
    pub fn words(&self, device: &str) -> String {
        match self {
            Self::DeviceDown => format!("route missing, {device} is down: `ip link set {device} up`"),
            Self::Elsewhere { prefix, .. } => {
                format!(
                    "route missing or not preferred: packets take the route to {prefix} instead; see `ip route get`"
                )
            }
            Self::Missing { cause } => format!("route missing: {cause}"),
            Self::NotForwarding => "this host does not forward, so nothing comes in".to_owned(),
            Self::NoPlainRoute => "our route is withdrawn and there is no other: packets go nowhere".to_owned(),
            Self::NotWithdrawn { cause } => format!("the route of an unreached peer cannot be removed: {cause}"),
            Self::OwnProgramsOnly => "this host does not forward: only its own programs get there".to_owned(),
        }
    }
}

/// Logs trouble with the route to `prefix` into the device `name` when it begins, and when it has ended: then `found` is none.
pub(super) fn log(
    prefix: IpNetwork,
    name: &str,
    found: Option<&RouteTrouble>,
    ended: Option<&RouteTrouble>,
    is_withdrawn: bool,
) {
    match found {
        None if ended == Some(&RouteTrouble::NoPlainRoute) && is_withdrawn => {
            tracing::info!(prefix = %prefix, "there is a plain route to the prefix again")
        }
        None if is_withdrawn && matches!(ended, Some(RouteTrouble::NotWithdrawn { .. })) => {
            tracing::info!(prefix = %prefix, "the route into {name} is removed")
        }
        Some(RouteTrouble::NotWithdrawn { cause }) => tracing::warn!(
            prefix = %prefix,
            "the peer is not reached, and its route cannot be removed: {cause}; packets go to {name} and are lost; `ip route del \
             {prefix} dev {name}`"
        ),
        None if is_withdrawn => {}
        Some(RouteTrouble::NoPlainRoute) => tracing::warn!(
            prefix = %prefix,
            "the peer is not reached, and there is no plain route to the prefix either: packets go nowhere; \
             `ip route add {prefix} via GATEWAY metric 1000`"
        ),
        None => tracing::info!(prefix = %prefix, "packets to the prefix come to {name} again"),
        Some(RouteTrouble::DeviceDown) => tracing::warn!(
            prefix = %prefix,
            "{name} was set down: nothing comes in, and packets to the prefix may leave unprotected by another route; \
             `ip link set {name} up` (the routes come back by themselves)"
        ),
        Some(RouteTrouble::Elsewhere { prefix: other, device }) => tracing::warn!(
            prefix = %prefix,
            "packets to the prefix do not come to {name}: the route to {other} over link {device} is preferred; \
             `ip route get {}` shows it, remove it or give it another metric",
            address_inside(prefix)
        ),
        Some(RouteTrouble::Missing { cause }) => tracing::warn!(
            prefix = %prefix,
            "the route into {name} is missing and cannot be restored: {cause}; packets to the prefix may leave unprotected"
        ),
        Some(RouteTrouble::NotForwarding) => tracing::warn!(
            "this host has no address in local_prefixes and does not forward either, so nothing will come to {prefix} \
             from here; `sysctl -w {}=1`",
            forwarding_key(prefix.is_ipv6())
        ),
        Some(RouteTrouble::OwnProgramsOnly) => tracing::warn!(
            "this host does not forward: of local_prefixes only its own programs reach {prefix}; `sysctl -w {}=1`, or \
             write its address alone in local_prefixes",
            forwarding_key(prefix.is_ipv6())
        ),
    }
}

/// An address inside, but not the first: that may count as the network itself.
pub fn address_inside(prefix: IpNetwork) -> IpAddr {
    match prefix {
        IpNetwork::V4(network) => network.nth(1).unwrap_or(network.network()).into(),
        IpNetwork::V6(network) => network.nth(1).unwrap_or(network.network()).into(),
    }
}

/// The sysctl that makes this host forward packets.
pub fn forwarding_key(ipv6: bool) -> &'static str {
    if ipv6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" }
}
