//! The uplink of the primary's site: does what a fault says, and mends it.
//!
//! The commands are those of `ip` and `tc`, which run all the time and are told line by line: milliseconds matter here,
//! and to start a program takes some.

use std::{io, time::Duration};

use super::faults::{Action, OWN, Queue, first_way};
use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network, process::Process},
};

/// Where the appliance is, and the router it sends to.
pub const NEAR: &str = "ithaca";
/// See [`NEAR`].
pub const FAR: &str = "provider";
/// The name of the program that is told of neighbours.
const NEIGHBOURS: &str = "uplink-neighbours";
/// Slow enough that what is written in a burst waits.
const RATE: &str = "10mbit";
/// A neighbour that does not answer is given up after three of these, and asked for again with the next datagram.
const ASK_AGAIN: &str = "30";
/// How long `ip` may take for what it was told.
const SETTLE: Duration = Duration::from_millis(15);

/// The uplink.
#[derive(Debug)]
pub struct Uplink<'n> {
    network: &'n Network<'n>,
    near: Process,
    neighbours: Process,
    far: Process,
    queues: Process,
    /// Queues that were put there so far; each has a number of its own, or it would change the one that is there.
    count: u32,
    router: NetworkNamespace,
    host: NetworkNamespace,
}

impl<'n> Uplink<'n> {
    /// Prepares the uplink of a network like `pair-uplink`.
    pub fn open(network: &'n Network<'n>) -> Result<Self, LabError> {
        for device in ["wan0", "wan1"] {
            // As a device that cannot cut trains: the kernel does, and each datagram leaves for itself.
            network.run(NEAR, &["ip", "link", "set", device, "gso_max_segs", "1"])?;
            network.sysctl(NEAR, &[(&format!("net.ipv4.neigh.{device}.retrans_time_ms"), ASK_AGAIN)])?;
        }
        // Its queue is as fast as the device.
        network.run(NEAR, &["tc", "qdisc", "replace", "dev", "wan1", "root", "pfifo", "limit", "2000"])?;
        let (near, far) = (network.namespace(NEAR), network.namespace(FAR));
        let enter = |name: &str| NetworkNamespace::named(name).map_err(LabError::doing(format!("look into {name}")));
        Ok(Self {
            network,
            near: start(network, "uplink-near", "ip", NEAR)?,
            neighbours: start(network, NEIGHBOURS, "ip", NEAR)?,
            far: start(network, "uplink-far", "ip", FAR)?,
            queues: start(network, "uplink-queues", "tc", NEAR)?,
            count: 0,
            router: enter(&far)?,
            host: enter(&near)?,
        })
    }

    /// Does a step; returns before it has come about.
    pub fn act(&mut self, action: &Action) -> Result<(), LabError> {
        match action {
            Action::Near(words) => self.tell_near(words),
            Action::Neighbour(words) => self.tell_neighbours(words),
            Action::Far(words) => self.tell_far(words),
            Action::Queue(queue) => self.replace(*queue),
            Action::Answers(answers) => self.answer(*answers),
        }
    }

    /// Makes everything whole, whatever was done before, with this queue.
    pub fn mend(&mut self, queue: Queue) -> Result<(), LabError> {
        self.answer(true)?;
        self.tell_far("link set wan0 up")?;
        self.tell_near("link set wan0 up")?;
        self.tell_near(&format!("addr replace {OWN} dev wan0"))?;
        self.tell_near(&first_way())?;
        self.replace(queue)?;
        std::thread::sleep(SETTLE);
        Ok(())
    }

    /// Packets that the appliance was too slow to read from its TUN. It knows nothing of them, and what it counts after them is not
    /// what the program counts. None where the appliance has died.
    pub fn unread(&self) -> Result<Option<u64>, LabError> {
        let read = || self.host.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        let text = read().map_err(LabError::doing(format!("read the counters of {NEAR}")))?;
        Ok(transmit_drops(&text, "ow0"))
    }

    fn tell_near(&mut self, words: &str) -> Result<(), LabError> {
        self.network.trace().note(&format!("+ ip -n {} {words}", self.network.namespace(NEAR)));
        self.near.tell(words)
    }

    /// `ip neigh` ends when there is no such entry, whatever it is told about errors; it is started again then.
    fn tell_neighbours(&mut self, words: &str) -> Result<(), LabError> {
        self.network.trace().note(&format!("+ ip -n {} neigh {words}", self.network.namespace(NEAR)));
        if !self.neighbours.is_running() {
            self.neighbours = start(self.network, NEIGHBOURS, "ip", NEAR)?;
        }
        // It may end at this moment because of what it was told before: then this fault does not come about.
        let _ = self.neighbours.tell(&format!("neigh {words}"));
        Ok(())
    }

    fn tell_far(&mut self, words: &str) -> Result<(), LabError> {
        self.network.trace().note(&format!("+ ip -n {} {words}", self.network.namespace(FAR)));
        self.far.tell(words)
    }

    fn replace(&mut self, queue: Queue) -> Result<(), LabError> {
        self.count = self.count % 0xfffe + 1;
        for words in lines(queue, self.count) {
            self.network.trace().note(&format!("+ tc -n {} {words}", self.network.namespace(NEAR)));
            self.queues.tell(&words)?;
        }
        Ok(())
    }

    fn answer(&self, answers: bool) -> Result<(), LabError> {
        let value = if answers { "0" } else { "8" };
        let setting = "net.ipv4.conf.wan0.arp_ignore";
        self.network
            .trace()
            .note(&format!("+ ip netns exec {} sysctl -qw {setting}={value}", self.network.namespace(FAR)));
        let file = format!("/proc/sys/{}", setting.replace('.', "/"));
        let write = || -> io::Result<()> { self.router.run(|| std::fs::write(&file, value))? };
        write().map_err(LabError::doing(format!("write {file}")))
    }
}

/// A program that waits to be told line by line what to do in a node.
fn start(network: &Network<'_>, name: &str, program: &str, node: &str) -> Result<Process, LabError> {
    network.trace().start(name, &[program, "-n", &network.namespace(node), "-force", "-batch", "-"])
}

/// What `tc` is told so that this queue takes the place of the one there is.
fn lines(queue: Queue, number: u32) -> Vec<String> {
    let root = format!("qdisc replace dev wan0 root handle {number:x}:");
    let class =
        format!("class add dev wan0 parent {number:x}: classid {number:x}:1 htb rate {RATE} burst 4kb cburst 4kb");
    match queue {
        Queue::Htb => vec![format!("{root} htb default 1"), class],
        Queue::ShortHtb => vec![
            format!("{root} htb default 1"),
            class,
            format!("qdisc add dev wan0 parent {number:x}:1 pfifo limit 30"),
        ],
        Queue::Tbf => vec![format!("{root} tbf rate {RATE} burst 4kb limit 8mb")],
        Queue::PfifoFast => vec![format!("{root} pfifo_fast")],
        Queue::Pfifo => vec![format!("{root} pfifo limit 2000")],
    }
}

/// What a device would not pass on, in the text of `/proc/net/dev`.
fn transmit_drops(text: &str, device: &str) -> Option<u64> {
    let numbers = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    numbers.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_those_of_transmitting() {
        let text = "Inter-|   Receive\n face |bytes\n  wan1: 1 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16\n  wan0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!((transmit_drops(text, "wan0"), transmit_drops(text, "wan1")), (Some(12), Some(99)));
        assert_eq!(transmit_drops(text, "wan"), None);
    }

    #[test]
    fn every_queue_is_a_new_one() {
        for queue in Queue::ALL {
            let (first, second) = (lines(queue, 1), lines(queue, 2));
            assert!(
                first[0].contains("replace dev wan0 root handle 1:") && second[0].contains("handle 2:"),
                "{first:?}"
            );
        }
    }
}
