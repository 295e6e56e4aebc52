//! The routes of all programs: those that compete with ours. Changes nothing.

use std::io;

use ipnetwork::IpNetwork;
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::route::ip;
use super::{Netlink, explain};

/// A route of the main table, whoever made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// Its destination.
    pub prefix: IpNetwork,
    /// The index of its device; `None` if it has several, or none, as a blackhole.
    pub device: Option<u32>,
    /// Smaller is preferred; the kernel's default is 0 for IPv4.
    pub metric: u32,
    /// Which program made it.
    pub protocol: u8,
}

impl Netlink {
    /// The routes to these prefixes and to parts of them. The kernel lists all routes of the host for that.
    pub fn routes_within(&mut self, prefixes: &[IpNetwork]) -> io::Result<Vec<RouteEntry>> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let is_wanted = |prefix: &IpNetwork| prefix.is_ipv4() == (family == AddressFamily::Inet);
            if !prefixes.iter().any(is_wanted) {
                continue;
            }
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            let shown = self
                .dump(RouteNetlinkMessage::GetRoute(message))
                .map_err(|error| explain(&error, format_args!("cannot list the routes")))?;
            found.extend(shown.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(message) => decode(message),
                _ => None,
            }));
        }
        found.retain(|route: &RouteEntry| prefixes.iter().any(|prefix| is_within(route.prefix, *prefix)));
        Ok(found)
    }
}

/// The same prefix, or a part of it.
fn is_within(part: IpNetwork, whole: IpNetwork) -> bool {
    part.prefix() >= whole.prefix() && whole.contains(part.network())
}

fn decode(message: &RouteMessage) -> Option<RouteEntry> {
    let header = &message.header;
    // Those of other tables are asked for by rules alone; local and multicast ones are of the host itself.
    let is_route = matches!(
        header.kind,
        RouteType::Unicast | RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw
    );
    if !is_route || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => std::net::IpAddr::from([0; 4]),
        AddressFamily::Inet6 => std::net::IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut device, mut metric) = (None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let prefix = IpNetwork::new(destination, header.destination_prefix_length).ok()?;
    Some(RouteEntry { prefix, device, metric, protocol: RouteProtocol::into(header.protocol) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::namespace::NetworkNamespace;
    use std::process::Command;

    #[test]
    fn routes_to_a_prefix_and_to_its_parts_are_found_whoever_made_them() {
        let inside = || {
            let run = |words: &str| {
                let status = Command::new("ip").args(words.split(' ')).status();
                let status = status.unwrap_or_else(|error| panic!("ip: {error}: apt-get install iproute2"));
                assert!(status.success(), "ip {words}: {status}");
            };
            run("link set lo up");
            run("link add owr0 type veth peer name owr1");
            run("link set owr0 up");
            run("link set owr1 up");
            run("route add 10.2.0.0/24 dev owr0 metric 7");
            run("route add 10.2.0.128/25 dev owr0 proto 117");
            run("route add blackhole 10.2.0.0/24 metric 4294967295");
            run("route add 10.2.0.0/16 dev owr0");
            run("route add 10.2.0.64/26 dev owr0 table 100");
            run("-6 route add fd00:2::/80 dev owr0 metric 3");
            let mut netlink = Netlink::open().unwrap();
            let device = netlink.link_index("owr0").unwrap();
            let prefixes = ["10.2.0.0/24", "fd00:2::/64"].map(|prefix| prefix.parse().unwrap());
            let mut found = netlink.routes_within(&prefixes).unwrap();
            found.sort_by_key(|route| (route.prefix, route.metric));
            let shown: Vec<_> =
                found.iter().map(|route| (route.prefix.to_string(), route.metric, route.device.is_some())).collect();
            let wanted = [
                ("10.2.0.0/24", 7, true),
                ("10.2.0.0/24", u32::MAX, false),
                ("10.2.0.128/25", 0, true),
                ("fd00:2::/80", 3, true),
            ];
            assert_eq!(shown, wanted.map(|(prefix, metric, device)| (prefix.to_owned(), metric, device)));
            assert_eq!((found[2].protocol, found[2].device), (117, Some(device)));
            assert_eq!(netlink.device_name(device).unwrap(), "owr0");
        };
        NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
    }
}
