//! The TUN device's place in this host: up, without an address of its own, with a route for each mirror subnet.

use std::io;

use crate::config::Config;
use crate::io::netlink::{Netlink, ROUTE_PROTOCOL, Route};

/// The routes we have added; they are removed when this is dropped, and vanish with the device in any case.
pub struct Routes {
    netlink: Netlink,
    device: u32,
    added: Vec<Route>,
}

impl Routes {
    /// Brings the device up and adds a route for each prefix of each peer.
    ///
    /// Where this host has an address within `local_prefixes` itself, its own programs are told to send from that:
    /// the peer accepts nothing else, and the device has no address to choose.
    pub fn install(config: &Config, device: &str) -> io::Result<Self> {
        let mut netlink = Netlink::open()?;
        let index = netlink.link_index(device)?;
        netlink.set_no_ipv6_address(index)?;
        netlink.set_up(index)?;
        let mut routes = Self { netlink, device: index, added: Vec::new() };
        for prefix in config.peers.iter().flat_map(|peer| &peer.prefixes) {
            let mut preferred_source = None;
            let ours = config.node.local_prefixes.iter().filter(|local| local.is_ipv4() == prefix.is_ipv4());
            for &local in ours {
                if preferred_source.is_none() {
                    preferred_source = routes.netlink.address_within(local)?;
                }
            }
            if preferred_source.is_none() && !forwards(prefix.is_ipv6()) {
                tracing::warn!(
                    "this host has no address in local_prefixes and does not forward either, so nothing will come to \
                     {prefix} from here; `sysctl -w {}=1`",
                    forwarding_key(prefix.is_ipv6())
                );
            }
            let route = Route {
                prefix: *prefix,
                device: index,
                preferred_source,
                // The best there is, so that a bypass route beside it can have any other metric.
                metric: prefix.is_ipv6().then_some(1),
                protocol: ROUTE_PROTOCOL,
            };
            routes.netlink.add_route(&route)?;
            routes.added.push(route);
        }
        Ok(routes)
    }

    /// Packets that the kernel dropped because we did not read the device fast enough.
    pub fn dropped(&mut self) -> io::Result<u64> {
        Ok(self.netlink.link_statistics(self.device)?.tx_dropped)
    }

    /// The routes in place.
    pub fn added(&self) -> &[Route] {
        &self.added
    }
}

fn forwarding_key(ipv6: bool) -> &'static str {
    if ipv6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" }
}

/// Whether this host forwards packets; where that cannot be read, it is taken to.
fn forwards(ipv6: bool) -> bool {
    let path = format!("/proc/sys/{}", forwarding_key(ipv6).replace('.', "/"));
    std::fs::read_to_string(path).map_or(true, |value| value.trim() != "0")
}

impl Drop for Routes {
    fn drop(&mut self) {
        for route in &self.added {
            if let Err(error) = self.netlink.remove_route(route) {
                tracing::warn!("{error}");
            }
        }
    }
}
