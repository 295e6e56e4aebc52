//! Watches the egress from this host to each peer: whether anything on it may have dropped a datagram since the last
//! look.
//!
//! Used each time before timestamps count. A timestamp shows that the driver got one datagram. That nothing else of its
//! train was lost then or before follows only from what has *not* changed: the link's carrier and drop counters, the
//! queue, the addresses, the route, and the counter of a queue that drops what it has taken. An egress that cannot be
//! checked may have dropped something. The consequences are decided in [`crate::protect`].

use std::io;
use std::net::IpAddr;

use crate::io::netlink::{Change, CounterReader, LinkCounters, Monitor};
use crate::io::qdisc::{DropCounter, egress};

/// A device that datagrams leave through.
#[derive(Debug)]
struct Device {
    index: u32,
    counters: Option<LinkCounters>,
    /// Its queue may drop what it has taken.
    is_suspect: bool,
    /// Counts its drops; `None` where they cannot be read.
    queue: Option<DropCounter>,
    drops: Option<u64>,
    may_have_dropped: bool,
}

/// The egress to one peer.
#[derive(Clone, Copy, Debug)]
struct PeerEgress {
    to: IpAddr,
    /// The source address of datagrams; with `None` the kernel chooses.
    from: Option<IpAddr>,
    /// `None` where no route is found.
    device: Option<u32>,
    has_changed: bool,
}

/// The egress of one lane to each peer, by the peer's number.
#[derive(Debug, Default)]
pub struct EgressWatch {
    peers: Vec<Option<PeerEgress>>,
    devices: Vec<Device>,
    /// Reports changes and counters; opened with the first egress.
    kernel: Option<Kernel>,
}

#[derive(Debug)]
struct Kernel {
    monitor: Monitor,
    counters: CounterReader,
}

impl Kernel {
    fn open() -> io::Result<Self> {
        Ok(Self { monitor: Monitor::open()?, counters: CounterReader::open()? })
    }
}

impl EgressWatch {
    /// Takes the current address of each peer and the source address of datagrams to it. Call it before anything is
    /// sent to a new address. Cheap while nothing changes.
    pub fn follow(&mut self, peers: impl Iterator<Item = Option<(IpAddr, Option<IpAddr>)>>) {
        for (number, ends) in peers.enumerate() {
            if self.peers.len() <= number {
                self.peers.resize(number + 1, None);
            }
            if self.peers[number].map(|peer| (peer.to, peer.from)) == ends {
                continue;
            }
            // The monitor opens before the first look, so that it reports changes in between.
            if self.kernel.is_none() {
                self.kernel = Kernel::open().inspect_err(log_open_error).ok();
            }
            self.peers[number] = ends.map(|(to, from)| PeerEgress { to, from, device: None, has_changed: false });
            self.find_device(number);
        }
    }

    /// Reads the devices that lead to peers with `is_wanted`. Calls `on_doubt` with each peer behind one of these that
    /// may have dropped something since it was last read, and with each peer whose egress has changed. A device that is
    /// not read keeps its old counts: what it drops until then shows later.
    pub fn look(&mut self, is_wanted: impl Fn(u16) -> bool, mut on_doubt: impl FnMut(u16)) {
        if self.kernel.is_none() {
            self.kernel = Kernel::open().ok();
        }
        let mut changes = Vec::new();
        match &mut self.kernel {
            Some(kernel) => kernel.monitor.drain(|change| changes.push(change)),
            None => changes.push(Change::Lost),
        }
        for number in 0..self.peers.len() {
            let Some(peer) = &mut self.peers[number] else { continue };
            // Without a device, every change may be the one that makes a route.
            let concerns = |change: &Change| peer.device.is_none_or(|device| change.concerns(peer.to, device));
            if changes.iter().any(concerns) {
                peer.has_changed = true;
                self.find_device(number);
            }
        }
        for device in &mut self.devices {
            let leads_to = |peer: &Option<PeerEgress>| peer.is_some_and(|peer| peer.device == Some(device.index));
            let is_needed = (0..).zip(&self.peers).any(|(number, peer)| leads_to(peer) && is_wanted(number));
            device.may_have_dropped = is_needed && device.look(self.kernel.as_mut());
        }
        for (number, peer) in (0..).zip(&mut self.peers) {
            let Some(peer) = peer else { continue };
            let device = self.devices.iter().find(|device| Some(device.index) == peer.device);
            if std::mem::take(&mut peer.has_changed) | device.is_none_or(|device| device.may_have_dropped) {
                on_doubt(number);
            }
        }
    }

    /// Finds the device that leads to this peer now, and reads its queue anew.
    fn find_device(&mut self, number: usize) {
        let Some(peer) = self.peers[number].as_mut() else { return };
        let found = egress(peer.to, peer.from).ok();
        peer.device = found.as_ref().map(|egress| egress.index);
        if let Some(egress) = found {
            let place = self.devices.iter().position(|device| device.index == egress.index);
            let place = place.unwrap_or_else(|| {
                self.devices.push(Device::new(egress.index));
                self.devices.len() - 1
            });
            let device = &mut self.devices[place];
            // A known count stays: drops since then may concern another peer, which is not reported yet.
            if !device.is_suspect {
                device.drops = egress.drops;
            }
            device.is_suspect = egress.may_drop_silently();
            device.queue = device.is_suspect.then(|| DropCounter::open(egress.index).ok()).flatten();
            if device.counters.is_none() {
                device.look(self.kernel.as_mut());
            }
        }
        let peers = &self.peers;
        self.devices.retain(|device| peers.iter().flatten().any(|peer| peer.device == Some(device.index)));
    }
}

fn log_open_error(error: &io::Error) {
    tracing::warn!("nothing is called protected: {error}");
}

impl Device {
    fn new(index: u32) -> Self {
        Self { index, counters: None, is_suspect: false, queue: None, drops: None, may_have_dropped: false }
    }

    /// Whether it may have dropped something since the last look.
    fn look(&mut self, kernel: Option<&mut Kernel>) -> bool {
        let counters = kernel.and_then(|kernel| kernel.counters.read(self.index).ok());
        let before = std::mem::replace(&mut self.counters, counters);
        let has_carrier = counters.is_some_and(|counters| counters.carrier);
        let mut may_have_dropped = before != counters || !has_carrier;
        if self.is_suspect {
            let drops = self.queue.as_mut().and_then(|queue| queue.read().ok().flatten());
            let before = std::mem::replace(&mut self.drops, drops);
            // A queue that does not count cannot be trusted.
            may_have_dropped |= drops.is_none() || before != drops;
        }
        may_have_dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::namespace::NetworkNamespace;
    use std::net::UdpSocket;
    use std::process::Command;

    fn run(program: &str, arguments: &str) {
        let status = Command::new(program).args(arguments.split(' ')).status();
        let status = status.unwrap_or_else(|error| panic!("{program}: {error}: apt-get install iproute2"));
        assert!(status.success(), "{program} {arguments}");
    }

    /// Two devices that lead to networks of their own.
    fn make_links() {
        for command in [
            "link set lo up",
            "link add oww0 type veth peer name oww1",
            "link add oww2 type veth peer name oww3",
            "link set oww0 up",
            "link set oww1 up",
            "link set oww2 up",
            "link set oww3 up",
            "address add 10.98.0.1/24 dev oww0",
            "address add 10.97.0.1/24 dev oww2",
            "neighbor add 10.98.0.2 lladdr 02:00:00:00:00:02 dev oww0",
        ] {
            run("ip", command);
        }
    }

    fn doubtful(watch: &mut EgressWatch) -> Vec<u16> {
        doubtful_if(watch, |_| true)
    }

    fn doubtful_if(watch: &mut EgressWatch, is_wanted: impl Fn(u16) -> bool) -> Vec<u16> {
        let mut peers = Vec::new();
        watch.look(is_wanted, |peer| peers.push(peer));
        peers
    }

    #[test]
    fn a_device_is_read_where_a_peer_behind_it_is_wanted_and_what_it_drops_before_shows_then_for_all_of_them() {
        let inside = || {
            make_links();
            run("tc", "qdisc replace dev oww0 root tbf rate 1mbit burst 5kb limit 20kb");
            let to = |text: &str| Some((text.parse::<IpAddr>().unwrap(), None));
            let mut watch = EgressWatch::default();
            watch.follow([to("10.98.0.2"), to("10.97.0.2"), to("10.98.0.3")].into_iter());
            doubtful(&mut watch);
            let limit = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while !doubtful(&mut watch).is_empty() {
                assert!(std::time::Instant::now() < limit, "the new links have to become calm");
            }
            let socket = UdpSocket::bind("10.98.0.1:0").unwrap();
            (0..50).for_each(|_| drop(socket.send_to(&[0; 1000], "10.98.0.2:9")));
            assert_eq!(doubtful_if(&mut watch, |peer| peer == 1), [0u16; 0], "that device is not read");
            assert_eq!(doubtful_if(&mut watch, |_| false), [0u16; 0]);
            assert_eq!(doubtful_if(&mut watch, |peer| peer == 2), [0, 2], "both are behind the device that dropped");
            assert_eq!(doubtful(&mut watch), [0u16; 0]);
            run("ip", "address add 10.98.0.9/24 dev oww0");
            assert_eq!(doubtful_if(&mut watch, |_| false), [0, 2], "a change is told at once");
        };
        NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
    }

    #[test]
    fn a_possible_drop_without_an_error_is_reported_at_the_next_look_and_only_for_the_peers_concerned() {
        let inside = || {
            make_links();
            let to = |text: &str| Some((text.parse::<IpAddr>().unwrap(), None));
            let peers = [to("10.98.0.2"), to("10.97.0.2"), None];
            let mut watch = EgressWatch::default();
            watch.follow(peers.into_iter());
            // The kernel may still be reporting the new links.
            doubtful(&mut watch);
            assert_eq!(doubtful(&mut watch), [0u16; 0]);
            for (program, arguments) in [
                ("ip", "link set oww1 down"),
                ("ip", "link set oww1 up"),
                ("ip", "link set oww0 down"),
                ("ip", "link set oww0 up"),
                ("tc", "qdisc replace dev oww0 root pfifo limit 100"),
                ("tc", "qdisc change dev oww0 root pfifo limit 50"),
                ("ip", "address add 10.98.0.9/24 dev oww0"),
                ("ip", "address del 10.98.0.9/24 dev oww0"),
                ("ip", "route add 10.98.0.2 dev oww2"),
                ("ip", "route del 10.98.0.2 dev oww2"),
            ] {
                run(program, arguments);
                assert!(doubtful(&mut watch).contains(&0), "{arguments}");
                // The kernel reports a carrier again later; and a device that was down has lost its neighbour.
                let limit = std::time::Instant::now() + std::time::Duration::from_secs(5);
                while arguments != "link set oww1 down"
                    && arguments != "link set oww0 down"
                    && doubtful(&mut watch).contains(&0)
                {
                    assert!(std::time::Instant::now() < limit, "{arguments}: doubt has to end by itself");
                }
            }
            watch.follow(peers.into_iter());
            run("tc", "qdisc replace dev oww2 root pfifo limit 100");
            assert_eq!(doubtful(&mut watch), [1], "the other peer is not concerned");
            assert_eq!(doubtful(&mut watch), [0u16; 0]);

            run("tc", "qdisc replace dev oww0 root tbf rate 1mbit burst 5kb limit 20kb");
            run("ip", "neighbor replace 10.98.0.2 lladdr 02:00:00:00:00:02 dev oww0");
            assert_eq!(doubtful(&mut watch), [0], "the queue");
            let socket = UdpSocket::bind("10.98.0.1:0").unwrap();
            (0..50).for_each(|_| drop(socket.send_to(&[0; 1000], "10.98.0.2:9")));
            assert_eq!(doubtful(&mut watch), [0], "it counts what it has dropped");
            // A change of another peer's egress does not hide what was dropped.
            (0..50).for_each(|_| drop(socket.send_to(&[0; 1000], "10.98.0.2:9")));
            watch.peers[0].as_mut().unwrap().has_changed = false;
            watch.find_device(0);
            assert_eq!(doubtful(&mut watch), [0], "the count that was known stays");
            watch.devices.iter_mut().for_each(|device| device.queue = None);
            assert_eq!(doubtful(&mut watch), [0], "a queue that may drop and cannot be read is not trusted");
            run("ip", "link del oww2");
            assert!(doubtful(&mut watch).contains(&1), "there is no route");
            assert!(doubtful(&mut watch).contains(&1), "and still none");
        };
        NetworkNamespace::anonymous().unwrap().run(inside).unwrap();
    }
}
