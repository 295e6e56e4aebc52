//! What this host does with packets of others: forwarding, and the filter of their reverse paths.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{number, text};
use crate::appliance::host::route_trouble::forwarding_key;
use crate::config::{Config, WhenDown};
use crate::doctor::facts::{DeviceFacts, FamilyFacts, ForwardingFacts, Subject};
use crate::io::netlink::{LocalAddress, Netlink};

/// Reads the switches of the host, and of the devices that packets of the tunnel pass.
pub fn read(subject: &Subject) -> ForwardingFacts {
    let config = subject.config();
    let addresses = Netlink::open().and_then(|mut netlink| netlink.addresses()).unwrap_or_default();
    let families = [false, true].map(|is_v6| {
        let forwards = number(format!("/proc/sys/{}", forwarding_key(is_v6).replace('.', "/")));
        let forwards = forwards.map(|value| value != 0);
        config.map_or(FamilyFacts { forwards, ..FamilyFacts::default() }, |config| {
            family(config, is_v6, forwards, &addresses)
        })
    });
    ForwardingFacts {
        families,
        devices: config.map(|config| devices(config, &addresses)).unwrap_or_default(),
        withdraws_routes: config.is_some_and(|config| config.bypass.when_down == WhenDown::WithdrawRoutes),
        filtered: text("/proc/net/netstat").and_then(|text| counter(&text, "TcpExt:", "IPReversePathFilter")),
    }
}

fn family(config: &Config, is_v6: bool, forwards: Option<bool>, addresses: &[LocalAddress]) -> FamilyFacts {
    let of_family = |prefix: &&IpNetwork| prefix.is_ipv6() == is_v6;
    let is_own = |prefix: &IpNetwork| addresses.iter().any(|local| prefix.contains(local.address.ip()));
    let is_host = |prefix: &IpNetwork| prefix.prefix() == if prefix.is_ipv6() { 128 } else { 32 };
    let mut locals = config.node.local_prefixes.iter().filter(of_family);
    FamilyFacts {
        is_used: config.peers.iter().flat_map(|peer| &peer.prefixes).any(|prefix| prefix.is_ipv6() == is_v6),
        forwards,
        has_others: locals.clone().any(|prefix| !is_host(prefix) || !is_own(prefix)),
        has_own: locals.any(is_own),
    }
}

/// The TUN device, those of this site, and those that lead to the peers; as far as they are there.
fn devices(config: &Config, addresses: &[LocalAddress]) -> Vec<DeviceFacts> {
    let Ok(mut netlink) = Netlink::open() else { return Vec::new() };
    let mut names = BTreeSet::new();
    let is_local = |address: IpAddr| config.node.local_prefixes.iter().any(|prefix| prefix.contains(address));
    let indices: BTreeSet<u32> =
        addresses.iter().filter(|local| is_local(local.address.ip())).map(|local| local.device).collect();
    names.extend(indices.into_iter().filter_map(|index| netlink.device_name(index).ok()));
    for peer in &config.peers {
        let Some(to) = peer.endpoint.as_ref().and_then(|endpoint| endpoint.address()) else { continue };
        names.extend(netlink.mtu_toward(to.ip(), None).ok().map(|(name, _)| name));
    }
    names.remove("lo");
    if netlink.link(&config.tun.name).is_ok() {
        names.insert(config.tun.name.clone());
    }
    names.into_iter().map(|name| device(&name)).collect()
}

fn device(name: &str) -> DeviceFacts {
    let value = |of: &str, key: &str| number(format!("/proc/sys/net/ipv4/conf/{of}/{key}"));
    let rp_filter = value(name, "rp_filter").map(|own| own.max(value("all", "rp_filter").unwrap_or(0)));
    DeviceFacts {
        name: name.to_owned(),
        rp_filter: rp_filter.and_then(|value| u8::try_from(value).ok()),
        forwards: value(name, "forwarding").map(|value| value != 0),
    }
}

/// A counter of `/proc/net/netstat`: a line of names, and below it one of values.
pub fn counter(text: &str, of: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.starts_with(of));
    let at = lines.next()?.split_whitespace().position(|word| word == name)?;
    lines.next()?.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_by_the_name_above_it() {
        let text = "TcpExt: A IPReversePathFilter B\nTcpExt: 1 22 3\nIpExt: A\nIpExt: 4\n";
        assert_eq!(counter(text, "TcpExt:", "IPReversePathFilter"), Some(22));
        assert_eq!((counter(text, "TcpExt:", "C"), counter(text, "None:", "A")), (None, None));
        assert_eq!(counter("TcpExt: A\n", "TcpExt:", "A"), None);
        // The kernel has it under this name.
        let kernel = std::fs::read_to_string("/proc/net/netstat").unwrap();
        assert!(counter(&kernel, "TcpExt:", "IPReversePathFilter").is_some());
    }
}
