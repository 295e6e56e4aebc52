//! The queues of this host through which datagrams to a destination leave, and whether these drop without an error.
//!
//! A queue that refuses a datagram makes its send fail. Some queues take a datagram and drop it later, or drop an
//! earlier one instead: active queue management (CoDel, RED, ...), fair queues that shorten the longest flow, and
//! `tbf`, which cuts a train and may drop a part of it. Then only a counter shows the drop. This file checks the device
//! of the route, but not what lies below a bond, a bridge, a VLAN or a tunnel, and not the rules of a firewall or a
//! classifier.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcStats2};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::explain;
use super::netlink::Netlink;

/// Kinds of queues that send or keep every datagram that they have taken. Every other kind, also one of a newer kernel,
/// is suspect. Kinds with child queues are listed if they drop nothing themselves: their children are checked as well.
const NO_SILENT_DROPS: &[&str] =
    &["noqueue", "pfifo", "bfifo", "pfifo_fast", "fq", "mq", "mqprio", "prio", "multiq", "htb", "hfsc", "drr", "qfq"];

/// The egress of this host to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The name of the device.
    pub device: String,
    /// Its index.
    pub index: u32,
    /// The kind of its root queue, as `tc qdisc` calls it; in brackets the kinds of its child queues, each once: `mq
    /// (fq_codel)`. `unknown` where the kernel lists no root, as for a device that is down.
    pub qdisc: String,
    /// Packets that the queues have dropped so far, those of other programs too, if the queues count them. The kernel's
    /// counter has 32 bits: it may wrap, and starts anew with a new queue.
    pub drops: Option<u64>,
    kinds: Vec<String>,
}

impl Egress {
    /// Whether a queue of the device may drop a datagram that it has taken, so that no send fails. True for an unknown
    /// queue.
    pub fn may_drop_silently(&self) -> bool {
        self.kinds.iter().any(|kind| !NO_SILENT_DROPS.contains(&kind.as_str()))
    }
}

impl Egress {
    /// One with a single queue of this kind, for tests of what follows from it.
    #[cfg(test)]
    pub fn made(device: &str, qdisc: &str) -> Self {
        Self {
            device: device.to_owned(),
            index: 2,
            qdisc: qdisc.to_owned(),
            drops: Some(0),
            kinds: vec![qdisc.to_owned()],
        }
    }

    /// Whether the device has several transmit queues, so that datagrams sent on different processors may overtake each
    /// other in this host.
    pub fn has_several_queues(&self) -> bool {
        self.kinds.iter().any(|kind| kind == "mq" || kind == "mqprio" || kind == "taprio")
    }
}

/// The current egress to `to` from the network namespace of this thread. `from` is the source address; with `None` the
/// kernel chooses.
pub fn egress(to: IpAddr, from: Option<IpAddr>) -> io::Result<Egress> {
    let mut netlink = Netlink::open()?;
    let index = netlink
        .device_toward(to, from)
        .map_err(|error| explain(&error, format_args!("cannot find the route to {to} (`ip route get {to}`)")))?;
    let device = netlink
        .device_name(index)
        .map_err(|error| explain(&error, format_args!("cannot find link {index}, which leads to {to}")))?;
    let queues = netlink
        .queues(index)
        .map_err(|error| explain(&error, format_args!("cannot list the queues of {device} (`tc qdisc show`)")))?;
    Ok(describe(device, index, &queues))
}

/// Counts what the queues of one device have dropped; made to be read often.
#[derive(Debug)]
pub struct DropCounter {
    netlink: Netlink,
    device: u32,
}

impl DropCounter {
    /// For the device with this index in the network namespace of this thread.
    pub fn open(device: u32) -> io::Result<Self> {
        Ok(Self { netlink: Netlink::open()?, device })
    }

    /// Packets dropped so far, if the queues count them; an error where the device is gone.
    pub fn read(&mut self) -> io::Result<Option<u64>> {
        let queues = self.netlink.queues(self.device)?;
        match queues.is_empty() {
            true => Err(io::Error::from_raw_os_error(libc::ENODEV)),
            false => Ok(dropped(&queues)),
        }
    }
}

/// One queueing discipline of a device.
#[derive(Clone, Debug)]
struct Queue {
    handle: TcHandle,
    parent: TcHandle,
    kind: String,
    drops: Option<u32>,
}

impl Queue {
    fn is_root(&self) -> bool {
        self.parent == TcHandle::ROOT
    }
}

impl Netlink {
    pub(super) fn device_toward(&mut self, to: IpAddr, from: Option<IpAddr>) -> io::Result<u32> {
        let mut message = RouteMessage::default();
        (message.header.address_family, message.header.destination_prefix_length) = match to {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.attributes.push(RouteAttribute::Destination(to.into()));
        if let Some(from) = from {
            message.header.source_prefix_length = message.header.destination_prefix_length;
            message.attributes.push(RouteAttribute::Source(from.into()));
        }
        let shown = self.ask(RouteNetlinkMessage::GetRoute(message), 0)?;
        let device = shown.iter().find_map(|message| match message {
            RouteNetlinkMessage::NewRoute(route) => route.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            }),
            _ => None,
        });
        device.ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH))
    }

    /// The name of the link with this index.
    pub fn device_name(&mut self, index: u32) -> io::Result<String> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        let shown = self.ask(RouteNetlinkMessage::GetLink(message), 0)?;
        let name = shown.into_iter().find_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => link.attributes.into_iter().find_map(|attribute| match attribute {
                LinkAttribute::IfName(name) => Some(name),
                _ => None,
            }),
            _ => None,
        });
        name.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))
    }

    /// The queues through which a device sends, without those that the decoder does not understand.
    fn queues(&mut self, device: u32) -> io::Result<Vec<Queue>> {
        let device = device.cast_signed();
        let shown = self.dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::with_index(device)))?;
        let of_the_device = |message| match message {
            // Kernels list the queues of all devices.
            RouteNetlinkMessage::NewQueueDiscipline(message) if message.header.index == device => Some(message),
            _ => None,
        };
        // `ingress` and `clsact` only classify.
        Ok(shown
            .into_iter()
            .filter_map(of_the_device)
            .filter(|message| message.header.parent != TcHandle::INGRESS)
            .map(queue)
            .collect())
    }
}

fn queue(message: TcMessage) -> Queue {
    let mut queue =
        Queue { handle: message.header.handle, parent: message.header.parent, kind: String::new(), drops: None };
    for attribute in message.attributes {
        match attribute {
            TcAttribute::Kind(kind) => queue.kind = kind,
            TcAttribute::Stats2(statistics) => {
                queue.drops = statistics.iter().find_map(|part| match part {
                    TcStats2::Queue(counters) => Some(counters.drops),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    queue
}

fn describe(device: String, index: u32, queues: &[Queue]) -> Egress {
    let root = queues.iter().find(|queue| queue.is_root()).map_or("unknown", |root| root.kind.as_str());
    let mut below: Vec<&str> = queues.iter().filter(|it| !it.is_root()).map(|it| it.kind.as_str()).collect();
    below.sort_unstable();
    below.dedup();
    let qdisc = if below.is_empty() { root.to_owned() } else { format!("{root} ({})", below.join(", ")) };
    let kinds = std::iter::once(root).chain(below).map(str::to_owned).collect();
    Egress { device, index, qdisc, drops: dropped(queues), kinds }
}

fn dropped(queues: &[Queue]) -> Option<u64> {
    // Some roots count the drops of their child queues and some do not: the larger sum is the whole.
    let has_below = |queue: &Queue| {
        queue.handle.major != 0 && queues.iter().any(|it| it.parent.major == queue.handle.major && !it.is_root())
    };
    let sum = |of: &dyn Fn(&Queue) -> bool| {
        let counters = queues.iter().filter(|it| of(it)).filter_map(|it| it.drops);
        counters.map(u64::from).reduce(|sum, drops| sum + drops)
    };
    sum(&Queue::is_root).max(sum(&|queue| !queue.is_root() && !has_below(queue)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::namespace::NetworkNamespace;
    use std::net::UdpSocket;
    use std::process::Command;

    fn queue(handle: u16, parent: (u16, u16), kind: &str, drops: Option<u32>) -> Queue {
        Queue {
            handle: TcHandle { major: handle, minor: 0 },
            parent: TcHandle { major: parent.0, minor: parent.1 },
            kind: kind.to_owned(),
            drops,
        }
    }

    #[test]
    fn a_queue_that_drops_silently_is_found_at_every_depth() {
        let root = (u16::MAX, u16::MAX);
        let cases = [
            (vec![], "unknown", None, true),
            (vec![queue(0, root, "noqueue", Some(0))], "noqueue", Some(0), false),
            (vec![queue(0x8001, root, "fq_codel", Some(7))], "fq_codel", Some(7), true),
            (vec![queue(1, root, "one_of_tomorrow", None)], "one_of_tomorrow", None, true),
            // The default of a multi-queue device: no handles, and the root counts for all.
            (
                vec![
                    queue(0, root, "mq", Some(5)),
                    queue(0, (0, 2), "fq_codel", Some(2)),
                    queue(0, (0, 1), "fq_codel", Some(3)),
                ],
                "mq (fq_codel)",
                Some(5),
                true,
            ),
            (
                vec![
                    queue(1, root, "htb", Some(1)),
                    queue(2, (1, 1), "prio", Some(4)),
                    queue(3, (1, 2), "pfifo", Some(8)),
                    queue(4, (2, 1), "sfq", Some(4)),
                    queue(5, (2, 2), "pfifo", None),
                ],
                "htb (pfifo, prio, sfq)",
                Some(12),
                true,
            ),
            (vec![queue(1, root, "htb", None), queue(2, (1, 1), "pfifo", Some(8))], "htb (pfifo)", Some(8), false),
            (vec![queue(1, root, "pfifo", Some(u32::MAX))], "pfifo", Some(u64::from(u32::MAX)), false),
        ];
        for (queues, qdisc, drops, silent) in cases {
            let egress = describe("eth0".to_owned(), 2, &queues);
            assert_eq!((egress.device.as_str(), egress.qdisc.as_str()), ("eth0", qdisc));
            assert_eq!((egress.drops, egress.may_drop_silently()), (drops, silent), "{qdisc}");
        }
    }

    fn run(program: &str, arguments: &str) {
        let status = Command::new(program).args(arguments.split(' ')).status();
        let status = status.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install iproute2"));
        assert!(status.success(), "{program} {arguments}");
    }

    #[test]
    fn the_kernel_reports_device_queues_and_drops() {
        let inside = || {
            run("ip", "link set lo up");
            run("ip", "link add owq0 type veth peer name owq1");
            run("ip", "link set owq0 up");
            run("ip", "link set owq1 up");
            run("ip", "address add 10.98.0.1/24 dev owq0");
            run("ip", "-6 address add fd98::1/64 dev owq0 nodad");
            run("ip", "route add 198.51.100.0/24 via 10.98.0.2");
            let toward = |to: &str| egress(to.parse().unwrap(), None).unwrap();

            let loopback = toward("127.0.0.1");
            assert_eq!((loopback.device.as_str(), loopback.qdisc.as_str()), ("lo", "noqueue"));
            assert!(!loopback.may_drop_silently());
            for (command, qdisc, silent) in [
                ("pfifo limit 10", "pfifo", false),
                ("handle 1: htb default 1", "htb", false),
                ("tbf rate 1mbit burst 5kb limit 20kb", "tbf (bfifo)", true),
            ] {
                run("tc", &format!("qdisc replace dev owq0 root {command}"));
                for to in ["10.98.0.2", "198.51.100.7", "fd98::2"] {
                    let egress = toward(to);
                    assert_eq!((egress.device.as_str(), egress.drops), ("owq0", Some(0)), "{to} {command}");
                    assert!(egress.qdisc.starts_with(qdisc.split(' ').next().unwrap()), "{}", egress.qdisc);
                    assert_eq!(egress.may_drop_silently(), silent, "{}", egress.qdisc);
                }
            }
            run("ip", "neighbor add 10.98.0.2 lladdr 02:00:00:00:00:02 dev owq0");
            let socket = UdpSocket::bind("10.98.0.1:0").unwrap();
            for _ in 0..50 {
                // The kernel reports success unless errors were requested.
                socket.send_to(&[0; 1000], "10.98.0.2:9").unwrap();
            }
            let drops = toward("10.98.0.2").drops.unwrap();
            assert!((20..=50).contains(&drops), "{drops}");

            run("tc", "qdisc replace dev owq0 root handle 1: htb default 1");
            run("tc", "class add dev owq0 parent 1: classid 1:1 htb rate 1mbit");
            run("tc", "qdisc add dev owq0 parent 1:1 handle 2: tbf rate 1mbit burst 5kb limit 20kb");
            run("tc", "qdisc add dev owq0 ingress");
            let nested = toward("10.98.0.2");
            assert!(nested.qdisc.starts_with("htb (") && nested.qdisc.contains("tbf"), "{}", nested.qdisc);
            assert!(nested.may_drop_silently() && !nested.qdisc.contains("ingress"));

            let error = egress("203.0.113.1".parse().unwrap(), None).unwrap_err();
            assert!(error.to_string().contains("ip route get 203.0.113.1"), "{error}");
        };
        NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
    }
}
