//! Reads the TUN device and the routes that lead into it or past it.

use std::io;

use ipnetwork::IpNetwork;

use crate::appliance::host::route_trouble::address_inside;
use crate::appliance::status::Status;
use crate::config::Config;
use crate::doctor::facts::{PrefixFacts, RouteFact, RouteFacts};
use crate::io::netlink::{Netlink, RouteEntry};

/// Asks the kernel which way packets to each prefix go.
pub fn read(config: &Config, status: Option<&Status>) -> RouteFacts {
    let name = config.tun.name.clone();
    let link = Netlink::open().and_then(|mut netlink| netlink.link(&name)).ok();
    RouteFacts {
        mtu_wanted: u32::from(config.tun.mtu),
        tun: link.as_ref().map(|link| (link.mtu, link.up)),
        prefixes: prefixes(config, status, link.map(|link| link.index)).map_err(|error| error.to_string()),
        device: name,
    }
}

fn prefixes(config: &Config, status: Option<&Status>, tun: Option<u32>) -> io::Result<Vec<PrefixFacts>> {
    let mut netlink = Netlink::open()?;
    let all: Vec<IpNetwork> = config.peers.iter().flat_map(|peer| peer.prefixes.clone()).collect();
    let table = netlink.routes_within(&all)?;
    let mut found = Vec::new();
    for peer in &config.peers {
        let bypass = status.and_then(|status| status.peers.iter().find(|of| of.name == peer.name)?.bypass.as_ref());
        let is_withdrawn = bypass.is_some_and(|bypass| bypass.withdrawn);
        for &prefix in &peer.prefixes {
            let network = IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix);
            let address = address_inside(network);
            let taken = netlink.route_to(address)?;
            let within = |route: &&RouteEntry| {
                route.prefix.prefix() >= network.prefix() && network.contains(route.prefix.network())
            };
            let is_ours = |route: &RouteEntry| tun.is_some() && route.device == tun;
            let mut describe = |prefix, device: Option<u32>, metric| RouteFact {
                prefix,
                device: device.and_then(|index| netlink.device_name(index).ok()),
                metric,
            };
            found.push(PrefixFacts {
                prefix: network,
                peer: peer.name.clone(),
                address,
                is_withdrawn,
                taken: taken.map(|route| describe(route.prefix, Some(route.device), route.metric.unwrap_or(0))),
                has_ours: table.iter().filter(within).any(|route| route.prefix == network && is_ours(route)),
                others: table
                    .iter()
                    .filter(within)
                    .filter(|route| !is_ours(route))
                    .map(|route| describe(route.prefix, route.device, route.metric))
                    .collect(),
            });
        }
    }
    Ok(found)
}
