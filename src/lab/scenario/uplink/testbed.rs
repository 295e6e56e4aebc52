//! The uplink of the primary's site: applies the steps of a fault, and repairs them.
//!
//! The commands go line by line to running `ip` and `tc` processes, because milliseconds matter here and a program
//! start takes some.

use std::{io, time::Duration};

use super::faults::{Action, OWN, Queue, first_way};
use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network, process::Process},
};

/// The node of the appliance.
pub const NEAR: &str = "ithaca";
/// The node of the router to which it sends.
pub const FAR: &str = "provider";
/// The name of the process for neighbour commands.
const NEIGHBOURS: &str = "uplink-neighbours";
/// Slow enough that a burst waits in the queue.
const RATE: &str = "10mbit";
/// Retransmission time of ARP in ms: a neighbour that does not answer fails after three of these, and the next datagram
/// starts a new request.
const ASK_AGAIN: &str = "30";
/// How long `ip` may take to apply a command.
const SETTLE: Duration = Duration::from_millis(15);

/// The uplink.
#[derive(Debug)]
pub struct Uplink<'n> {
    network: &'n Network<'n>,
    near: Process,
    neighbours: Process,
    far: Process,
    queues: Process,
    /// Number of queues so far; each gets a handle of its own, because an equal handle would change the existing queue.
    count: u32,
    router: NetworkNamespace,
    host: NetworkNamespace,
}

impl<'n> Uplink<'n> {
    /// Prepares the uplink of a network like `pair-uplink`.
    pub fn open(network: &'n Network<'n>) -> Result<Self, LabError> {
        for device in ["wan0", "wan1"] {
            // Like a device that cannot split trains: the kernel splits them, and each datagram leaves alone.
            network.run(NEAR, &["ip", "link", "set", device, "gso_max_segs", "1"])?;
            network.sysctl(NEAR, &[(&format!("net.ipv4.neigh.{device}.retrans_time_ms"), ASK_AGAIN)])?;
        }
        // The queue of the second uplink is as fast as the device.
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

    /// Applies a step; returns before it has taken effect.
    pub fn act(&mut self, action: &Action) -> Result<(), LabError> {
        match action {
            Action::Near(words) => self.tell_near(words),
            Action::Neighbour(words) => self.tell_neighbours(words),
            Action::Far(words) => self.tell_far(words),
            Action::Queue(queue) => self.replace(*queue),
            Action::Answers(answers) => self.answer(*answers),
        }
    }

    /// Restores everything, whatever was done before, with this queue.
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

    /// Packets that the appliance was too slow to read from its TUN. It does not know of them, so after them its count
    /// differs from the program's. None if the appliance is dead.
    pub fn unread(&self) -> Result<Option<u64>, LabError> {
        let read = || self.host.run(|| std::fs::read_to_string("/proc/thread-self/net/dev"))?;
        let text = read().map_err(LabError::doing(format!("read the counters of {NEAR}")))?;
        Ok(transmit_drops(&text, "ow0"))
    }

    fn tell_near(&mut self, words: &str) -> Result<(), LabError> {
        self.network.trace().note(&format!("+ ip -n {} {words}", self.network.namespace(NEAR)));
        self.near.tell(words)
    }

    /// `ip neigh` ends if there is no such entry, even with `-force`; it is then started again.
    fn tell_neighbours(&mut self, words: &str) -> Result<(), LabError> {
        self.network.trace().note(&format!("+ ip -n {} neigh {words}", self.network.namespace(NEAR)));
        if !self.neighbours.is_running() {
            self.neighbours = start(self.network, NEIGHBOURS, "ip", NEAR)?;
        }
        // It may be about to end because of its previous command; then this fault does not happen.
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

/// Starts a program that runs commands in a node from its standard input, line by line.
fn start(network: &Network<'_>, name: &str, program: &str, node: &str) -> Result<Process, LabError> {
    network.trace().start(name, &[program, "-n", &network.namespace(node), "-force", "-batch", "-"])
}

/// The `tc` commands that replace the present queue with this one.
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

/// The transmit drops of a device, from the text of `/proc/net/dev`.
fn transmit_drops(text: &str, device: &str) -> Option<u64> {
    let numbers = text.lines().find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    numbers.split_whitespace().nth(11)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_transmit_drops_of_the_device_are_read() {
        let text = "Inter-|   Receive\n face |bytes\n  wan1: 1 2 3 4 5 6 7 8 9 10 11 99 13 14 15 16\n  wan0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n";
        assert_eq!((transmit_drops(text, "wan0"), transmit_drops(text, "wan1")), (Some(12), Some(99)));
        assert_eq!(transmit_drops(text, "wan"), None);
    }

    #[test]
    fn every_queue_gets_a_new_handle() {
        for queue in Queue::ALL {
            let (first, second) = (lines(queue, 1), lines(queue, 2));
            assert!(
                first[0].contains("replace dev wan0 root handle 1:") && second[0].contains("handle 2:"),
                "{first:?}"
            );
        }
    }
}
