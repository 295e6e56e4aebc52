//! Changes of links, queues, addresses and routes that the kernel reports by itself.
//!
//! The kernel reports a change of a queue, an address or a route before the command that makes it returns. So a caller
//! that drains after its own event has seen every change before that. It reports a carrier up to a second late: that is
//! read from the link ([`LinkCounters`](super::LinkCounters)). What a change means is not decided here.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::attributes::{attributes, ip_address, message_parts};
use super::explain;

/// Topics, numbered as in `include/uapi/linux/rtnetlink.h`: links, queues, addresses, routes, rules and next hops.
const TOPICS: [u32; 9] = [1, 4, 5, 7, 8, 9, 11, 19, 32];

/// Datagrams that are read in one call. After that many, [`Change::Lost`] is reported, because more may wait.
const DATAGRAMS_MAX: usize = 64;

/// Something that changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link, or a queue of it.
    Link(u32),
    /// An address of a link.
    Address(u32),
    /// A route to this network: its address and the length of its prefix.
    Route(IpAddr, u8),
    /// How routes are chosen, or a message that is not understood.
    Routing,
    /// Changes were lost: any of the above.
    Lost,
}

impl Change {
    /// Whether the egress to `to` through the link `device` may be another one since this change.
    pub fn concerns(&self, to: IpAddr, device: u32) -> bool {
        match *self {
            Self::Link(index) | Self::Address(index) => index == device,
            Self::Route(network, length) => contains(network, length, to),
            Self::Routing | Self::Lost => true,
        }
    }
}

fn contains(network: IpAddr, length: u8, address: IpAddr) -> bool {
    let is_equal = |network: u128, address: u128, bits: u32| {
        let below = bits.saturating_sub(length.into());
        below >= 128 || network >> below == address >> below
    };
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => is_equal(network.to_bits().into(), address.to_bits().into(), 32),
        (IpAddr::V6(network), IpAddr::V6(address)) => is_equal(network.to_bits(), address.to_bits(), 128),
        _ => false,
    }
}

/// Reports changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Reports what changes from now on.
    pub fn open() -> io::Result<Self> {
        let open = || {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for topic in TOPICS {
                // A kernel that does not know the topic has nothing to report about it.
                match socket.add_membership(topic) {
                    Err(error) if error.raw_os_error() != Some(libc::EINVAL) => return Err(error),
                    _ => {}
                }
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|error: io::Error| explain(&error, format_args!("cannot listen to netlink")))?;
        Ok(Self { socket, buffer: Vec::with_capacity(super::ANSWER_BYTES) })
    }

    /// Calls `tell` with each change since the last call. If there is none, this is one short system call.
    pub fn drain(&mut self, mut tell: impl FnMut(Change)) {
        for _ in 0..DATAGRAMS_MAX {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, libc::MSG_DONTWAIT) {
                Ok(_) => parse(&self.buffer, &mut tell),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // The queue was full, or worse.
                Err(_) => tell(Change::Lost),
            }
        }
        tell(Change::Lost);
    }
}

impl AsRawFd for Monitor {
    /// Readable when a change was reported.
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// Message types of `include/uapi/linux/rtnetlink.h`: each is the first of a family of four.
const LINK: u16 = 16;
const ADDRESS: u16 = 20;
const ROUTE: u16 = 24;
const RULE: u16 = 32;
const QUEUE: u16 = 36;
const CLASS: u16 = 40;
const FILTER: u16 = 44;
const NEXT_HOP: u16 = 104;

fn parse(mut bytes: &[u8], tell: &mut impl FnMut(Change)) {
    while !bytes.is_empty() {
        let Some((kind, body, rest)) = message_parts(bytes) else { return tell(Change::Lost) };
        bytes = rest;
        let index = || body.get(4..8).and_then(|field| Some(u32::from_ne_bytes(field.try_into().ok()?)));
        let change = match kind & !3 {
            LINK | QUEUE | CLASS | FILTER => index().map(Change::Link),
            ADDRESS => index().map(Change::Address),
            ROUTE => route(body),
            RULE | NEXT_HOP => Some(Change::Routing),
            _ => continue,
        };
        tell(change.unwrap_or(Change::Routing));
    }
}

/// The body is an `rtmsg` (family u8, length of the destination's prefix u8, ...: 12 bytes) and attributes.
fn route(body: &[u8]) -> Option<Change> {
    const DESTINATION: u16 = 1;
    let (family, length) = (*body.first()?, *body.get(1)?);
    let destination = attributes(body.get(12..)?).find(|(kind, _)| *kind == DESTINATION);
    let network = match destination {
        Some((_, bytes)) => ip_address(bytes)?,
        None if i32::from(family) == libc::AF_INET => IpAddr::from([0; 4]),
        None if i32::from(family) == libc::AF_INET6 => IpAddr::from([0; 16]),
        None => return None,
    };
    Some(Change::Route(network, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::namespace::NetworkNamespace;
    use std::process::Command;

    fn run(program: &str, arguments: &str) {
        let status = Command::new(program).args(arguments.split(' ')).status();
        let status = status.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install iproute2"));
        assert!(status.success(), "{program} {arguments}");
    }

    #[test]
    fn a_route_concerns_the_addresses_in_its_network() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (network, length, to, concerns) in [
            ("0.0.0.0", 0, "192.0.2.1", true),
            ("192.0.2.0", 24, "192.0.2.1", true),
            ("192.0.2.1", 32, "192.0.2.1", true),
            ("192.0.2.0", 25, "192.0.2.128", false),
            ("::", 0, "192.0.2.1", false),
            ("::", 0, "2001:db8::1", true),
            ("2001:db8::", 32, "2001:db8:7::1", true),
            ("2001:db8::", 64, "2001:db8:7::1", false),
            ("192.0.2.0", 200, "192.0.2.1", false),
        ] {
            let change = Change::Route(ip(network), length);
            assert_eq!(change.concerns(ip(to), 7), concerns, "{network}/{length} {to}");
        }
        assert!(Change::Link(7).concerns(ip("::1"), 7) && !Change::Address(8).concerns(ip("::1"), 7));
        assert!(Change::Routing.concerns(ip("::1"), 7) && Change::Lost.concerns(ip("::1"), 7));
    }

    #[test]
    fn a_message_that_is_not_understood_counts_as_lost_changes() {
        let mut changes = Vec::new();
        for bytes in [&[7; 5][..], &[0; 16], &[255; 40]] {
            parse(bytes, &mut |change| changes.push(change));
        }
        assert_eq!(changes, [Change::Lost; 3]);
    }

    #[test]
    fn a_change_is_reported_before_the_command_that_makes_it_returns() {
        let inside = || {
            run("ip", "link add owm0 type veth peer name owm1");
            let index = super::super::Netlink::open().unwrap().link_index("owm0").unwrap();
            let mut monitor = Monitor::open().unwrap();
            let mut after = |program: &str, arguments: &str| {
                run(program, arguments);
                let mut changes = Vec::new();
                monitor.drain(|change| changes.push(change));
                changes
            };
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            for (program, arguments, expected) in [
                ("ip", "link set owm0 up", Change::Link(index)),
                ("ip", "link set owm1 up", Change::Routing),
                ("ip", "address add 10.98.0.1/24 dev owm0", Change::Address(index)),
                ("ip", "route add 198.51.100.0/24 via 10.98.0.2", Change::Route(ip("198.51.100.0"), 24)),
                ("ip", "route add default via 10.98.0.2", Change::Route(ip("0.0.0.0"), 0)),
                ("tc", "qdisc replace dev owm0 root pfifo limit 10", Change::Link(index)),
                ("tc", "qdisc replace dev owm0 root handle 1: htb default 1", Change::Link(index)),
                ("tc", "class add dev owm0 parent 1: classid 1:1 htb rate 1mbit", Change::Link(index)),
                ("tc", "qdisc del dev owm0 root", Change::Link(index)),
                ("ip", "rule add pref 77 lookup main", Change::Routing),
                ("ip", "address del 10.98.0.1/24 dev owm0", Change::Address(index)),
                ("ip", "link set owm0 down", Change::Link(index)),
            ] {
                let changes = after(program, arguments);
                let is_reported = changes.contains(&expected) || arguments.contains("owm1");
                assert!(is_reported, "{arguments}: {changes:?}");
            }
            // The kernel reports a carrier once more, later; then nothing.
            let limit = std::time::Instant::now() + std::time::Duration::from_secs(10);
            while !after("ip", "-4 route show").is_empty() {
                assert!(std::time::Instant::now() < limit, "nothing changes");
            }
        };
        NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
    }
}
