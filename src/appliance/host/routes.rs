//! The TUN device in this host: up, without an address of its own, with a route for each mirror subnet.
//!
//! Other programs change what we have set: a renewed address, or a device that is set down and up again, removes our
//! routes, and packets for the mirror leave unprotected by the next best route. So changes that the kernel reports are
//! followed, and the routes are checked each second in any case. What is ours is restored; each trouble is logged once
//! when it begins and once when it ends.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::io::netlink::{Change, Monitor, Netlink, ROUTE_PROTOCOL, Route};

/// How often everything is checked, whatever the kernel reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Endless changes of routes do not lead to more frequent checks than this.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// What is wrong with the route of packets into the device; for each prefix the first that applies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

/// A mirror subnet and the state of its route.
#[derive(Debug)]
struct Wanted {
    prefix: IpNetwork,
    added: Option<Route>,
    trouble: Option<RouteTrouble>,
}

/// Our routes. They are removed on drop, and vanish with the device in any case.
pub struct Routes {
    netlink: Netlink,
    monitor: Monitor,
    device: u32,
    name: String,
    mtu: u32,
    is_mtu_reported: bool,
    locals: Vec<IpNetwork>,
    wanted: Vec<Wanted>,
    checked_at: Instant,
    next_look: Instant,
}

impl Routes {
    /// Brings the device up and adds a route for each prefix of each peer.
    ///
    /// Where this host has an address within `local_prefixes`, the routes make its own programs send from that address:
    /// the peer accepts no other, and the device has no address to choose.
    pub fn install(config: &Config, device: &str, now: Instant) -> io::Result<Self> {
        let monitor = Monitor::open()?;
        let mut netlink = Netlink::open()?;
        let index = netlink.link_index(device)?;
        netlink.set_no_ipv6_address(index)?;
        netlink.set_up(index)?;
        let prefixes = config.peers.iter().flat_map(|peer| &peer.prefixes);
        let mut routes = Self {
            netlink,
            monitor,
            device: index,
            name: device.to_owned(),
            mtu: u32::from(config.tun.mtu),
            is_mtu_reported: false,
            locals: config.node.local_prefixes.clone(),
            wanted: prefixes.map(|&prefix| Wanted { prefix, added: None, trouble: None }).collect(),
            checked_at: now,
            next_look: now + INTERVAL,
        };
        let sources = routes.sources()?;
        for at in 0..routes.wanted.len() {
            let route = routes.route(routes.wanted[at].prefix, &sources);
            routes.netlink.add_route(&route)?;
            routes.wanted[at].added = Some(route);
        }
        routes.check_all(&sources);
        Ok(routes)
    }

    /// Follows another configuration. Where a new route cannot be added, all is as before.
    pub fn reload(&mut self, config: &Config) -> io::Result<()> {
        let prefixes: Vec<IpNetwork> = config.peers.iter().flat_map(|peer| &peer.prefixes).copied().collect();
        let before = std::mem::replace(&mut self.locals, config.node.local_prefixes.clone());
        let added = self.add_missing(&prefixes);
        let added = match added {
            Ok(added) => added,
            Err(error) => {
                self.locals = before;
                return Err(error);
            }
        };
        let (kept, gone) = std::mem::take(&mut self.wanted).into_iter().partition(|it| prefixes.contains(&it.prefix));
        self.wanted = kept;
        self.wanted.extend(added);
        gone.into_iter().for_each(|wanted| self.remove(&wanted));
        // The sources may be others too. What fails now is repaired at the next look.
        self.next_look = self.checked_at;
        Ok(())
    }

    /// Adds the routes to those of `prefixes` that have none. Where one cannot be added, none is.
    fn add_missing(&mut self, prefixes: &[IpNetwork]) -> io::Result<Vec<Wanted>> {
        let sources = self.sources()?;
        let mut added: Vec<Wanted> = Vec::new();
        for &prefix in prefixes {
            if self.wanted.iter().chain(&added).any(|wanted| wanted.prefix == prefix) {
                continue;
            }
            let route = self.route(prefix, &sources);
            match self.netlink.add_route(&route) {
                Ok(()) => added.push(Wanted { prefix, added: Some(route), trouble: None }),
                Err(error) => {
                    added.iter().for_each(|wanted| self.remove(wanted));
                    return Err(error);
                }
            }
        }
        Ok(added)
    }

    fn remove(&mut self, wanted: &Wanted) {
        if let Some(route) = &wanted.added
            && let Err(error) = self.netlink.remove_route(route)
        {
            tracing::warn!("{error}");
        }
    }

    /// When to check next.
    pub fn poll_timeout(&self) -> Instant {
        self.next_look
    }

    /// Reads the changes that the kernel reports, and checks if it is time: restores what was changed.
    pub fn look(&mut self, now: Instant) {
        let Self { monitor, wanted, device, .. } = self;
        let mut is_ours = false;
        monitor.drain(|change| {
            is_ours |= match change {
                Change::Link(index) => index == *device,
                Change::Route(network, length) => {
                    let same = |wanted: &Wanted| (wanted.prefix.network(), wanted.prefix.prefix()) == (network, length);
                    wanted.iter().any(same)
                }
                Change::Address(_) | Change::Routing | Change::Lost => true,
            };
        });
        if is_ours {
            self.next_look = self.next_look.min(self.checked_at + LEAST_INTERVAL);
        }
        if self.next_look > now {
            return;
        }
        self.checked_at = now;
        self.next_look = now + INTERVAL;
        match self.sources() {
            Ok(sources) => self.check_all(&sources),
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Packets that the kernel dropped because we read the device too slowly.
    pub fn dropped(&mut self) -> io::Result<u64> {
        Ok(self.netlink.link_statistics(self.device)?.tx_dropped)
    }

    /// The routes in place.
    pub fn added(&self) -> impl Iterator<Item = &Route> {
        self.wanted.iter().filter_map(|wanted| wanted.added.as_ref())
    }

    /// What is wrong, by prefix.
    pub fn troubles(&self) -> BTreeMap<String, RouteTrouble> {
        let trouble = |wanted: &Wanted| Some((wanted.prefix.to_string(), wanted.trouble.clone()?));
        self.wanted.iter().filter_map(trouble).collect()
    }

    /// The addresses that this host's own programs send from: IPv4 and IPv6.
    fn sources(&mut self) -> io::Result<[Option<IpAddr>; 2]> {
        let addresses = self.netlink.addresses()?;
        let within = |is_ipv4: bool| {
            let locals = self.locals.iter().filter(move |local| local.is_ipv4() == is_ipv4);
            let found = |local: &IpNetwork| addresses.iter().map(|it| it.address.ip()).find(|it| local.contains(*it));
            locals.into_iter().find_map(found)
        };
        Ok([within(true), within(false)])
    }

    fn route(&self, prefix: IpNetwork, sources: &[Option<IpAddr>; 2]) -> Route {
        Route {
            prefix,
            device: self.device,
            preferred_source: sources[usize::from(prefix.is_ipv6())],
            // The best metric, so that a bypass route beside it can have any other.
            metric: prefix.is_ipv6().then_some(1),
            protocol: ROUTE_PROTOCOL,
        }
    }

    fn check_all(&mut self, sources: &[Option<IpAddr>; 2]) {
        for at in 0..self.wanted.len() {
            let found = self.check_route(at, sources);
            self.log_trouble(at, found);
        }
        self.check_mtu();
    }

    /// What is wrong with the route to one prefix, after what can be restored is restored.
    fn check_route(&mut self, at: usize, sources: &[Option<IpAddr>; 2]) -> Option<RouteTrouble> {
        let prefix = self.wanted[at].prefix;
        let route = self.route(prefix, sources);
        let address = address_inside(prefix);
        let device = self.device;
        let is_ours = |found: &Route| (found.prefix, found.device) == (prefix_of(prefix), device);
        let found = match self.netlink.route_to(address) {
            Ok(found) => found,
            Err(error) => return Some(RouteTrouble::Missing { cause: error.to_string() }),
        };
        let is_in_place = found.as_ref().is_some_and(is_ours);
        if !is_in_place || found.is_some_and(|found| found.preferred_source != route.preferred_source) {
            // Our route leads into the device but has an old source address: replacing it leaves no moment without a
            // route.
            let restored = match is_in_place {
                true => self.netlink.replace_route(&route),
                false => self.netlink.add_route(&route),
            };
            match restored {
                Ok(()) => {
                    tracing::info!(prefix = %prefix, source = ?route.preferred_source, "route restored; something had removed it");
                    self.wanted[at].added = Some(route);
                    // Another route may still be preferred.
                    let found = self.netlink.route_to(address).ok().flatten();
                    if let Some(other) = found.filter(|found| !is_ours(found)) {
                        return Some(RouteTrouble::Elsewhere {
                            prefix: other.prefix.to_string(),
                            device: other.device,
                        });
                    }
                }
                Err(error) => {
                    let is_up = self.netlink.link(&self.name).map_or(true, |link| link.up);
                    return Some(match found.filter(|_| is_up) {
                        Some(other) => {
                            RouteTrouble::Elsewhere { prefix: other.prefix.to_string(), device: other.device }
                        }
                        None if !is_up => RouteTrouble::DeviceDown,
                        None => RouteTrouble::Missing { cause: error.to_string() },
                    });
                }
            }
        }
        let others = || self.locals.iter().any(|local| local.is_ipv6() == prefix.is_ipv6() && !is_host(*local));
        match (forwards(prefix.is_ipv6()), route.preferred_source) {
            (true, _) => None,
            (false, None) => Some(RouteTrouble::NotForwarding),
            (false, Some(_)) => others().then_some(RouteTrouble::OwnProgramsOnly),
        }
    }

    /// Logs trouble when it begins, and when it has ended.
    fn log_trouble(&mut self, at: usize, found: Option<RouteTrouble>) {
        let Wanted { prefix, trouble, .. } = &mut self.wanted[at];
        if *trouble == found {
            return;
        }
        let name = &self.name;
        match &found {
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
                address_inside(*prefix)
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
        *trouble = found;
    }

    fn check_mtu(&mut self) {
        let Ok(link) = self.netlink.link(&self.name) else { return };
        let is_other = link.mtu != self.mtu;
        if is_other && !self.is_mtu_reported {
            let (name, found, wanted) = (&self.name, link.mtu, self.mtu);
            tracing::warn!(
                "the MTU of {name} was changed to {found}, tun.mtu is {wanted}; `ip link set {name} mtu {wanted}`"
            );
        }
        self.is_mtu_reported = is_other;
    }
}

impl AsRawFd for Routes {
    /// Readable when the kernel has reported a change.
    fn as_raw_fd(&self) -> RawFd {
        self.monitor.as_raw_fd()
    }
}

/// The network alone, without host bits.
fn prefix_of(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

/// An address inside, but not the first: that may count as the network itself.
fn address_inside(prefix: IpNetwork) -> IpAddr {
    match prefix {
        IpNetwork::V4(network) => network.nth(1).unwrap_or(network.network()).into(),
        IpNetwork::V6(network) => network.nth(1).unwrap_or(network.network()).into(),
    }
}

/// A single address, not a network.
fn is_host(prefix: IpNetwork) -> bool {
    prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 }
}

fn forwarding_key(ipv6: bool) -> &'static str {
    if ipv6 { "net.ipv6.conf.all.forwarding" } else { "net.ipv4.ip_forward" }
}

/// Whether this host forwards packets; true where that cannot be read.
fn forwards(ipv6: bool) -> bool {
    let path = format!("/proc/sys/{}", forwarding_key(ipv6).replace('.', "/"));
    std::fs::read_to_string(path).map_or(true, |value| value.trim() != "0")
}

impl Drop for Routes {
    fn drop(&mut self) {
        let wanted = std::mem::take(&mut self.wanted);
        wanted.iter().for_each(|wanted| self.remove(wanted));
    }
}
