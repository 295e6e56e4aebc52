//! The kernel's counters in a node: TCP segments sent and retransmitted, bytes a device received, trains it dropped, datagrams a
//! socket dropped.

use std::fs;

use crate::{
    io::namespace::NetworkNamespace,
    lab::{error::LabError, network::Network},
};

/// The TCP counters of a namespace since its creation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Segments sent, without retransmissions.
    pub sent: u64,
    /// Segments retransmitted.
    pub retransmitted: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
}

impl TcpCounters {
    /// Reads the counters of a node.
    pub fn of(network: &Network<'_>, node: &str) -> Result<Self, LabError> {
        let text = network.run(node, &["cat", "/proc/net/snmp", "/proc/net/netstat"])?;
        Self::parse(&text).ok_or_else(|| LabError::Sentence("this kernel has no TCP counters in /proc/net".to_owned()))
    }

    /// What was counted after `earlier` was read.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            sent: self.sent - earlier.sent,
            retransmitted: self.retransmitted - earlier.retransmitted,
            timeouts: self.timeouts - earlier.timeouts,
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Some(Self {
            sent: counter(text, "Tcp:", "OutSegs")?,
            retransmitted: counter(text, "Tcp:", "RetransSegs")?,
            timeouts: counter(text, "TcpExt:", "TCPTimeouts")?,
        })
    }
}

/// Trains that a device of a node dropped because its reader was too slow.
pub fn dropped_by_device(network: &Network<'_>, node: &str, device: &str) -> Result<u64, LabError> {
    let text = network.run(node, &["ip", "-j", "-s", "link", "show", "dev", device])?;
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let dropped = value[0]["stats64"]["tx"]["dropped"].as_u64();
    dropped.ok_or_else(|| LabError::Sentence(format!("`ip -j -s link` says nothing of drops of {device}")))
}

/// Datagrams for which the receive buffers of the UDP sockets with this port of a node had no room. Read without starting a
/// command.
pub fn dropped_by_socket(network: &Network<'_>, node: &str, port: u16) -> Result<u64, LabError> {
    let read = |path: &str| NetworkNamespace::named(&network.namespace(node))?.run(|| fs::read_to_string(path))?;
    let doing = || LabError::doing(format!("read the UDP sockets of {node}"));
    let v4 = read("/proc/thread-self/net/udp").map_err(doing())?;
    // A kernel without IPv6 has no such file.
    let v6 = read("/proc/thread-self/net/udp6").unwrap_or_default();
    Ok(dropped_at(&v4, port) + dropped_at(&v6, port))
}

/// Parses one line per socket: its number, its own address and port in hex, and last what it dropped.
fn dropped_at(text: &str, port: u16) -> u64 {
    let own = |line: &str| {
        let (_, found) = line.split_whitespace().nth(1)?.rsplit_once(':')?;
        Some(u16::from_str_radix(found, 16).ok()? == port)
    };
    let lines = text.lines().filter(|line| own(line) == Some(true));
    lines.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
}

/// Packets that the kernel dropped on this machine because the backlog of a processor was full: a processor that is too busy
/// loses there what one namespace gives to another.
pub fn dropped_by_backlog() -> Result<u64, LabError> {
    let path = "/proc/net/softnet_stat";
    let text = fs::read_to_string(path).map_err(LabError::doing(format!("read {path}")))?;
    Ok(dropped(&text))
}

/// Parses one line per processor: numbers in hex, of which the second is what it dropped.
fn dropped(text: &str) -> u64 {
    text.lines().filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok()).sum()
}

/// Bytes that a device of a node has received, with link-layer headers. Read without starting a command, because that
/// would reduce the speed being measured.
pub fn received_by_device(network: &Network<'_>, node: &str, device: &str) -> Result<u64, LabError> {
    let path = "/proc/thread-self/net/dev";
    let read = || NetworkNamespace::named(&network.namespace(node))?.run(|| fs::read_to_string(path))?;
    let text = read().map_err(LabError::doing(format!("read {path} in {node}")))?;
    received(&text, device).ok_or_else(|| LabError::Sentence(format!("{path} says nothing of {device} in {node}")))
}

/// Parses one line per device: its name, then its counters, of which the first is the received bytes.
fn received(text: &str, device: &str) -> Option<u64> {
    let (_, counts) = text.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| name.trim() == device)?;
    counts.split_whitespace().next()?.parse().ok()
}

/// Parses pairs of lines: names, then values, each after the same label.
fn counter(text: &str, label: &str, name: &str) -> Option<u64> {
    let mut lines = text.lines().filter(|line| line.split_whitespace().next() == Some(label));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split_whitespace().position(|found| found == name)?;
    values.split_whitespace().nth(at)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: Forwarding\nIp: 1\nTcp: RtoMin OutSegs RetransSegs\nTcp: 200 1000 3\nTcpExt: A TCPTimeouts\nTcpExt: 9 2\n";
        assert_eq!(TcpCounters::parse(text), Some(TcpCounters { sent: 1000, retransmitted: 3, timeouts: 2 }));
        assert_eq!(TcpCounters::parse("Tcp: OutSegs\n"), None);
    }

    #[test]
    fn drops_of_a_socket_are_found_by_its_port() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
             7: 010200C0:1BCD 020200C0:1BCD 01 00000000:00000000 00:00000000 00000000     0        0 99 2 0000000000000000 12\n\
             8: 010200C0:1BCE 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 98 2 0000000000000000 5\n";
        assert_eq!([dropped_at(text, 7117), dropped_at(text, 7118), dropped_at(text, 7119)], [12, 5, 0]);
    }

    #[test]
    fn drops_of_all_processors_are_added() {
        assert_eq!(dropped("0a 10 00\n0b 02 00\n"), 18);
    }

    #[test]
    fn a_device_is_found_by_its_whole_name() {
        let text = "Inter-| Receive\n face |bytes packets\n site01: 5 1 0\n site0:123456 7 0\n";
        assert_eq!(
            (received(text, "site0"), received(text, "site01"), received(text, "site")),
            (Some(123_456), Some(5), None)
        );
    }
}
