//! The TUN device in this host: up, without an address of its own, with a route for each mirror subnet.
//!
//! Other programs change what we have set: a renewed address, or a device that is set down and up again, removes our
//! routes, and packets for the mirror leave unprotected by the next best route. So changes that the kernel reports are
//! followed, and the routes are checked each second in any case. What is ours is restored; each trouble is logged once
//! when it begins and once when it ends.
//!
//! The routes of a peer can be withdrawn: then they are kept away in the same manner.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use super::route_trouble::{self, RouteTrouble, address_inside, forwarding_key};
use crate::config::Config;
use crate::io::netlink::{Change, Monitor, Netlink, ROUTE_PROTOCOL, Route};

/// How often everything is checked, whatever the kernel reports.
const INTERVAL: Duration = Duration::from_secs(1);
/// Endless changes of routes do not lead to more frequent checks than this.
const LEAST_INTERVAL: Duration = Duration::from_millis(50);

/// A mirror subnet and the state of its route.
#[derive(Debug)]
struct Wanted {
    prefix: IpNetwork,
    peer: usize,
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
    /// The numbers of the peers whose routes are withdrawn.
    withdrawn: BTreeSet<usize>,
    /// The device was set down for us.
    is_to_be_up: bool,
    checked_at: Instant,
    next_look: Instant,
}

impl Routes {
    /// Brings the device up and adds a route for each prefix of each peer, except for those that are withdrawn. Routes that an
    /// earlier run has left on the device are removed.
    ///
    /// Where this host has an address within `local_prefixes`, the routes make its own programs send from that address:
    /// the peer accepts no other, and the device has no address to choose.
    pub fn install(config: &Config, device: &str, withdrawn: BTreeSet<usize>, now: Instant) -> io::Result<Self> {
        let monitor = Monitor::open()?;
        let mut netlink = Netlink::open()?;
        let index = netlink.link_index(device)?;
        netlink.set_no_ipv6_address(index)?;
        netlink.set_up(index)?;
        for left in netlink.routes(ROUTE_PROTOCOL)?.iter().filter(|route| route.device == index) {
            tracing::info!(prefix = %left.prefix, "removing a route that an earlier run has left");
            netlink.remove_route(left)?;
        }
        let mut routes = Self {
            netlink,
            monitor,
            device: index,
            name: device.to_owned(),
            mtu: u32::from(config.tun.mtu),
            is_mtu_reported: false,
            locals: config.node.local_prefixes.clone(),
            wanted: wanted(config),
            withdrawn,
            is_to_be_up: false,
            checked_at: now,
            next_look: now + INTERVAL,
        };
        let sources = routes.sources()?;
        for at in 0..routes.wanted.len() {
            if !routes.is_withdrawn(at) {
                let route = routes.route(routes.wanted[at].prefix, &sources);
                routes.netlink.add_route(&route)?;
                routes.wanted[at].added = Some(route);
            }
        }
        routes.check_all(&sources);
        Ok(routes)
    }

    /// Follows another configuration and other withdrawn peers. Where a new route cannot be added, all is as before.
    pub fn reload(&mut self, config: &Config, withdrawn: BTreeSet<usize>) -> io::Result<()> {
        let locals_before = std::mem::replace(&mut self.locals, config.node.local_prefixes.clone());
        let withdrawn_before = std::mem::replace(&mut self.withdrawn, withdrawn);
        let mut next = wanted(config);
        if let Err(error) = self.add_missing(&mut next) {
            (self.locals, self.withdrawn) = (locals_before, withdrawn_before);
            return Err(error);
        }
        let before = std::mem::replace(&mut self.wanted, next);
        for old in &before {
            if self.wanted.iter().all(|new| new.prefix != old.prefix) {
                self.remove(old);
            }
        }
        // The sources may be others too. What fails now is repaired at the next look.
        self.next_look = self.checked_at;
        Ok(())
    }

    /// Takes what is known of the prefixes that stay, and adds the routes of new ones. Where one cannot be added, none is.
    fn add_missing(&mut self, next: &mut [Wanted]) -> io::Result<()> {
        let sources = self.sources()?;
        let mut added = Vec::new();
        for new in next {
            if let Some(old) = self.wanted.iter().find(|old| old.prefix == new.prefix) {
                (new.added, new.trouble) = (old.added, old.trouble.clone());
            } else if !self.withdrawn.contains(&new.peer) {
                let route = self.route(new.prefix, &sources);
                if let Err(error) = self.netlink.add_route(&route) {
                    added.iter().for_each(|route| drop(self.netlink.remove_route(route)));
                    return Err(error);
                }
                added.push(route);
                new.added = Some(route);
            }
        }
        Ok(())
    }

    /// Removes the routes of a peer, and keeps them away.
    pub fn withdraw(&mut self, peer: usize) {
        self.withdrawn.insert(peer);
        for at in self.of_peer(peer) {
            // What fails is tried again at the next look, and said there.
            let _ = self.remove_withdrawn(at);
        }
        // Whether there is a plain route is looked at soon, and need not hold up the next peer.
        self.next_look = self.checked_at;
    }

    fn remove_withdrawn(&mut self, at: usize) -> io::Result<()> {
        if let Some(route) = &self.wanted[at].added {
            self.netlink.remove_route(route)?;
        }
        self.wanted[at].added = None;
        Ok(())
    }

    /// Adds the routes of a peer again. Where one cannot be added, none is. A route of somebody else is never replaced.
    pub fn restore(&mut self, peer: usize) -> io::Result<()> {
        let sources = self.sources()?;
        self.withdrawn.remove(&peer);
        for at in self.of_peer(peer) {
            let route = self.route(self.wanted[at].prefix, &sources);
            // One that could not be removed is still there.
            if self.wanted[at].added.is_none()
                && let Err(error) = self.netlink.add_route(&route)
            {
                self.withdraw(peer);
                return Err(error);
            }
            self.wanted[at].added = Some(route);
        }
        self.next_look = self.checked_at;
        Ok(())
    }

    /// The watchdog process has set the device down, and the kernel has removed its routes: it is set up again, now or at a later
    /// look.
    pub fn set_up_again(&mut self) {
        self.is_to_be_up = true;
        self.next_look = self.checked_at;
    }

    fn of_peer(&self, peer: usize) -> Vec<usize> {
        (0..self.wanted.len()).filter(|at| self.wanted[*at].peer == peer).collect()
    }

    fn is_withdrawn(&self, at: usize) -> bool {
        self.withdrawn.contains(&self.wanted[at].peer)
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
        if self.is_to_be_up {
            match self.netlink.set_up(self.device) {
                Ok(()) => self.is_to_be_up = false,
                Err(error) => tracing::debug!("{error}"),
            }
        }
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
        if self.is_withdrawn(at) {
            return self.check_withdrawn(at);
        }
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
                    tracing::info!(prefix = %prefix, source = route.preferred_source.map(display), "route restored; something had removed it");
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

    /// What is wrong with a prefix whose packets are to take the plain route.
    fn check_withdrawn(&mut self, at: usize) -> Option<RouteTrouble> {
        if let Err(error) = self.remove_withdrawn(at) {
            return Some(RouteTrouble::NotWithdrawn { cause: error.to_string() });
        }
        match self.netlink.route_to(address_inside(self.wanted[at].prefix)) {
            Ok(Some(_)) => None,
            Ok(None) => Some(RouteTrouble::NoPlainRoute),
            Err(error) => Some(RouteTrouble::Missing { cause: error.to_string() }),
        }
    }

    /// Logs trouble when it begins, and when it has ended.
    fn log_trouble(&mut self, at: usize, found: Option<RouteTrouble>) {
        let is_withdrawn = self.is_withdrawn(at);
        let Wanted { prefix, trouble, .. } = &mut self.wanted[at];
        if *trouble != found {
            route_trouble::log(*prefix, &self.name, found.as_ref(), trouble.as_ref(), is_withdrawn);
            *trouble = found;
        }
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

/// The prefixes of all peers.
fn wanted(config: &Config) -> Vec<Wanted> {
    let of_peer = |(peer, of): (usize, &crate::config::Peer)| {
        of.prefixes.iter().map(|&prefix| Wanted { prefix, peer, added: None, trouble: None }).collect::<Vec<_>>()
    };
    config.peers.iter().enumerate().flat_map(of_peer).collect()
}

/// The network alone, without host bits.
fn prefix_of(prefix: IpNetwork) -> IpNetwork {
    IpNetwork::new(prefix.network(), prefix.prefix()).unwrap_or(prefix)
}

/// A single address, not a network.
fn is_host(prefix: IpNetwork) -> bool {
    prefix.prefix() == if prefix.is_ipv4() { 32 } else { 128 }
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
