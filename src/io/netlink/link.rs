//! Links: find, configure, switch, move, count.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage};

use super::{Netlink, explain};

/// A link as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index in this namespace; it may differ in another namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Packets its queue holds.
    pub txqueuelen: u32,
    /// Largest super-packet that it gets, in bytes.
    pub gso_max_size: Option<u32>,
    /// Switched on by the administrator.
    pub up: bool,
    /// It can carry packets.
    pub carrier: bool,
    /// Its counters.
    pub statistics: LinkStatistics,
}

/// A link's counters from the kernel's side: for a TUN, `tx` is what its owner reads and `rx` what its owner writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStatistics {
    /// Packets received by the kernel.
    pub rx_packets: u64,
    /// Bytes received by the kernel.
    pub rx_bytes: u64,
    /// Packets the kernel received and dropped.
    pub rx_dropped: u64,
    /// Packets sent by the kernel.
    pub tx_packets: u64,
    /// Bytes sent by the kernel.
    pub tx_bytes: u64,
    /// Packets the kernel dropped because the link's queue was full: for a TUN, because we read too slowly.
    pub tx_dropped: u64,
}

impl Netlink {
    /// The link of this name.
    pub fn link(&mut self, name: &str) -> io::Result<Link> {
        let mut message = LinkMessage::default();
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        self.show_link(message).map_err(|error| explain(&error, format_args!("cannot find link {name}")))
    }

    /// The index of the link of this name.
    pub fn link_index(&mut self, name: &str) -> io::Result<u32> {
        Ok(self.link(name)?.index)
    }

    /// The name and the MTU of the link through which this host reaches an address.
    pub fn mtu_toward(&mut self, to: IpAddr, from: Option<IpAddr>) -> io::Result<(String, u32)> {
        let index = self.device_toward(to, from)?;
        self.show_link(link_message(index, None))
            .map(|link| (link.name, link.mtu))
            .map_err(|error| explain(&error, format_args!("cannot read the MTU of link {index}")))
    }

    /// The counters of a link.
    pub fn link_statistics(&mut self, index: u32) -> io::Result<LinkStatistics> {
        self.show_link(link_message(index, None))
            .map(|link| link.statistics)
            .map_err(|error| explain(&error, format_args!("cannot read the counters of link {index}")))
    }

    fn show_link(&mut self, message: LinkMessage) -> io::Result<Link> {
        self.ask(RouteNetlinkMessage::GetLink(message), 0)?
            .into_iter()
            .find_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(describe(link)),
                _ => None,
            })
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// Switches a link on.
    pub fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.set_flag_up(index, true).map_err(|error| explain(&error, format_args!("cannot set link {index} up")))
    }

    /// Switches a link off; its routes go with it.
    pub fn set_down(&mut self, index: u32) -> io::Result<()> {
        self.set_flag_up(index, false).map_err(|error| explain(&error, format_args!("cannot set link {index} down")))
    }

    fn set_flag_up(&mut self, index: u32, up: bool) -> io::Result<()> {
        let mut message = link_message(index, None);
        message.header.change_mask = LinkFlags::Up;
        if up {
            message.header.flags = LinkFlags::Up;
        }
        self.ask(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }

    /// Sets the largest IP packet, in bytes.
    pub fn set_mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        self.set_link(index, LinkAttribute::Mtu(mtu))
            .map_err(|error| explain(&error, format_args!("cannot set the MTU of link {index} to {mtu}")))
    }

    /// Sets how many packets the link's queue holds.
    pub fn set_txqueuelen(&mut self, index: u32, packets: u32) -> io::Result<()> {
        self.set_link(index, LinkAttribute::TxQueueLen(packets))
            .map_err(|error| explain(&error, format_args!("cannot set the queue of link {index} to {packets} packets")))
    }

    /// Sets the largest super-packet that the link gets, in bytes, for IPv6 and IPv4.
    pub fn set_gso_max_size(&mut self, index: u32, bytes: u32) -> io::Result<()> {
        // Up to 65,536 the kernel sets the IPv4 limit too.
        self.set_link(index, LinkAttribute::GsoMaxSize(bytes)).map_err(|error| {
            let words = "cannot set the largest super-packet of link";
            explain(&error, format_args!("{words} {index} to {bytes} bytes"))
        })
    }

    /// Keeps the kernel from giving the link its own IPv6 address; call it before the link is up. Succeeds on a host
    /// without IPv6.
    pub fn set_no_ipv6_address(&mut self, index: u32) -> io::Result<()> {
        let none = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])]);
        match self.set_link(index, none) {
            Err(error) if error.raw_os_error() != Some(libc::EAFNOSUPPORT) => {
                Err(explain(&error, format_args!("cannot switch off the automatic IPv6 address of link {index}")))
            }
            _ => Ok(()),
        }
    }

    /// Moves a link to another network namespace (an open `/run/netns/NAME` or `/proc/PID/ns/net`). There it is down,
    /// without addresses and routes; a TUN's descriptors keep working.
    pub fn move_link(&mut self, index: u32, namespace: BorrowedFd<'_>) -> io::Result<()> {
        self.set_link(index, LinkAttribute::NetNsFd(namespace.as_raw_fd()))
            .map_err(|error| explain(&error, format_args!("cannot move link {index} to another network namespace")))
    }

    fn set_link(&mut self, index: u32, attribute: LinkAttribute) -> io::Result<()> {
        let message = link_message(index, Some(attribute));
        self.ask(RouteNetlinkMessage::SetLink(message), 0).map(drop)
    }
}

fn link_message(index: u32, attribute: Option<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes.extend(attribute);
    message
}

fn describe(message: LinkMessage) -> Link {
    let mut link =
        Link { index: message.header.index, up: message.header.flags.contains(LinkFlags::Up), ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::TxQueueLen(packets) => link.txqueuelen = packets,
            LinkAttribute::GsoMaxSize(bytes) => link.gso_max_size = Some(bytes),
            LinkAttribute::Stats64(stats) => {
                link.statistics = LinkStatistics {
                    rx_packets: stats.rx_packets,
                    rx_bytes: stats.rx_bytes,
                    rx_dropped: stats.rx_dropped,
                    tx_packets: stats.tx_packets,
                    tx_bytes: stats.tx_bytes,
                    tx_dropped: stats.tx_dropped,
                }
            }
            _ => {}
        }
    }
    link
}
