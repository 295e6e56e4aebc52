//! Our own routes and the addresses of this host.
//!
//! Our routes carry a protocol id, so that those left behind by a crash can be recognised.

use std::io;
use std::net::IpAddr;

use ipnetwork::IpNetwork;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, explain};

/// The protocol id of our routes: `ip route show proto 117` lists them.
pub const ROUTE_PROTOCOL: u8 = 117;

/// A route of the main table that leads into a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its destination.
    pub prefix: IpNetwork,
    /// The index of its device.
    pub device: u32,
    /// The source address for this host's own programs.
    pub preferred_source: Option<IpAddr>,
    /// Smaller is preferred. `None` is the kernel's default: 0 for IPv4, 1024 for IPv6.
    pub metric: Option<u32>,
    /// Which program made it; [`ROUTE_PROTOCOL`] for ours.
    pub protocol: u8,
}

/// An address of this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalAddress {
    /// The index of the link that has it.
    pub device: u32,
    /// The address and the length of its prefix.
    pub address: IpNetwork,
}

impl Netlink {
    /// Adds a route. Another one to the same prefix with the same metric is an error.
    pub fn add_route(&mut self, route: &Route) -> io::Result<()> {
        self.new_route(route, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Replaces the route to the same prefix with the same metric: at any time one of the two exists.
    pub fn replace_route(&mut self, route: &Route) -> io::Result<()> {
        self.new_route(route, NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn new_route(&mut self, route: &Route, flags: u16) -> io::Result<()> {
        self.ask(RouteNetlinkMessage::NewRoute(encode(route)), flags).map(drop).map_err(|error| {
            let advice = match error.raw_os_error() {
                Some(libc::EEXIST) => {
                    ": there is one with this metric already; `ip route show` says whose: remove that one, or \
                         add it with a larger metric (ours has the best there is)"
                }
                Some(libc::EINVAL) if route.preferred_source.is_some() => {
                    ": the preferred source must be an address of this host"
                }
                _ => "",
            };
            explain(&error, format_args!("cannot add route {}{advice}", RouteText(route)))
        })
    }

    /// Removes a route. Succeeds if it is already gone.
    pub fn remove_route(&mut self, route: &Route) -> io::Result<()> {
        match self.ask(RouteNetlinkMessage::DelRoute(encode(route)), 0) {
            Err(error) if !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV)) => {
                Err(explain(&error, format_args!("cannot remove route {}", RouteText(route))))
            }
            _ => Ok(()),
        }
    }

    /// All routes of the main table, IPv4 and IPv6, with this protocol id.
    pub fn routes(&mut self, protocol: u8) -> io::Result<Vec<Route>> {
        // The kernel filters where it can (4.20 and newer): a router may have a million of other routes.
        let filters = self.socket.set_netlink_get_strict_chk(true).is_ok();
        let routes = self.routes_filtered(protocol, filters);
        let _ = self.socket.set_netlink_get_strict_chk(false);
        routes
    }

    fn routes_filtered(&mut self, protocol: u8, filters: bool) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut message = RouteMessage::default();
            message.header.address_family = family;
            if filters {
                message.header.protocol = protocol.into();
            }
            let shown = self
                .dump(RouteNetlinkMessage::GetRoute(message))
                .map_err(|error| explain(&error, format_args!("cannot list the routes")))?;
            routes.extend(shown.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(message) if message.header.table == RouteHeader::RT_TABLE_MAIN => {
                    decode(message).filter(|route| route.protocol == protocol)
                }
                _ => None,
            }));
        }
        Ok(routes)
    }

    /// The route that packets of this host to `to` take, whichever program made it. `None` if there is none, or if it
    /// has no device, as a blackhole. One lookup, however many routes there are.
    pub fn route_to(&mut self, to: IpAddr) -> io::Result<Option<Route>> {
        let mut message = RouteMessage::default();
        message.header.address_family = family(to);
        message.header.destination_prefix_length = if to.is_ipv4() { 32 } else { 128 };
        message.header.flags = RouteFlags::FibMatch;
        message.attributes.push(RouteAttribute::Destination(to.into()));
        let is_none = |error: &io::Error| {
            let none = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EINVAL, libc::EACCES, libc::EAGAIN];
            error.raw_os_error().is_some_and(|code| none.contains(&code))
        };
        match self.ask(RouteNetlinkMessage::GetRoute(message), 0) {
            Ok(shown) => Ok(shown.iter().find_map(|message| match message {
                RouteNetlinkMessage::NewRoute(message) => decode(message),
                _ => None,
            })),
            Err(error) if is_none(&error) => Ok(None),
            Err(error) => Err(explain(&error, format_args!("cannot ask for the route to {to}"))),
        }
    }

    /// All addresses of this host.
    pub fn addresses(&mut self) -> io::Result<Vec<LocalAddress>> {
        let shown = self
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .map_err(|error| explain(&error, format_args!("cannot list the addresses of this host")))?;
        Ok(shown
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => local_address(message),
                _ => None,
            })
            .collect())
    }

    /// The first address of this host inside `prefix`: the preferred source of our routes.
    pub fn address_within(&mut self, prefix: IpNetwork) -> io::Result<Option<IpAddr>> {
        Ok(self.addresses()?.iter().map(|local| local.address.ip()).find(|address| prefix.contains(*address)))
    }

    /// Gives a link an address.
    pub fn add_address(&mut self, index: u32, address: IpNetwork) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = family(address.ip());
        message.header.prefix_len = address.prefix();
        message.header.index = index;
        message.attributes.push(AddressAttribute::Local(address.ip()));
        message.attributes.push(AddressAttribute::Address(address.ip()));
        self.ask(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL)
            .map(drop)
            .map_err(|error| explain(&error, format_args!("cannot give link {index} the address {address}")))
    }
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn encode(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(route.prefix.ip()),
        destination_prefix_length: route.prefix.prefix(),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: route.protocol.into(),
        // A device without a gateway: everything behind it is one link away.
        scope: match route.prefix {
            IpNetwork::V4(_) => RouteScope::Link,
            IpNetwork::V6(_) => RouteScope::Universe,
        },
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    if route.prefix.prefix() > 0 {
        attributes.push(RouteAttribute::Destination(route.prefix.network().into()));
    }
    attributes.push(RouteAttribute::Oif(route.device));
    attributes.extend(route.preferred_source.map(|source| RouteAttribute::PrefSource(source.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    message
}

fn decode(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    if header.kind != RouteType::Unicast {
        return None;
    }
    let mut destination = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0; 16]),
        _ => return None,
    };
    let (mut device, mut preferred_source, mut metric) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::PrefSource(address) => preferred_source = ip(address),
            RouteAttribute::Priority(priority) => metric = Some(*priority),
            _ => {}
        }
    }
    Some(Route {
        prefix: IpNetwork::new(destination, header.destination_prefix_length).ok()?,
        device: device?,
        preferred_source,
        metric,
        protocol: RouteProtocol::into(header.protocol),
    })
}

pub(super) fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn local_address(message: &AddressMessage) -> Option<LocalAddress> {
    let mut found = None;
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link `Address` is the other end.
            AddressAttribute::Local(address) => found = Some(*address),
            AddressAttribute::Address(address) => found = found.or(Some(*address)),
            _ => {}
        }
    }
    Some(LocalAddress {
        device: message.header.index,
        address: IpNetwork::new(found?, message.header.prefix_len).ok()?,
    })
}

/// A route as `ip route` would write it.
struct RouteText<'a>(&'a Route);

impl std::fmt::Display for RouteText<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} dev {}", self.0.prefix, self.0.device)?;
        if let Some(source) = self.0.preferred_source {
            write!(f, " src {source}")?;
        }
        if let Some(metric) = self.0.metric {
            write!(f, " metric {metric}")?;
        }
        Ok(())
    }
}
