//! What comes back: the packet filter of the WAN counts everything that the appliances send, by what it answers; that of the
//! end hosts counts what is handed to them and was never sent.

use std::net::{IpAddr, SocketAddrV4};

use super::forgery::{INITIATION_PORTS, OTHER_PORTS};
use crate::lab::{error::LabError, network::Network};

/// A cookie reply is 60 bytes; an initiation has at least 116 (docs/wire.md). With the header of UDP.
const COOKIE_LENGTH: u16 = 60 + 8;
const INITIATION_LENGTH: u16 = 116 + 8;
/// What is counted, by name.
const COUNTERS: [&str; 9] = [
    "cookies",
    "responses",
    "larger",
    "without_cause",
    "to_other_port",
    "errors",
    "peer_cookies",
    "peer_responses",
    "peer_initiations",
];

/// What the appliances sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replies {
    /// Cookies to strangers that sent an initiation.
    pub cookies: u64,
    /// Responses to them, shorter than an initiation: an appliance that has just started takes a copy of an old initiation of
    /// its peer for a new one. Nobody but the peer can use the answer.
    pub responses: u64,
    /// Anything else to them: another type, or another length.
    pub larger: u64,
    /// Anything to strangers that sent something else.
    pub without_cause: u64,
    /// Anything to anybody else.
    pub to_other_port: u64,
    /// Errors of ICMP: the kernel sends some while no appliance listens.
    pub errors: u64,
    /// Cookies to the two appliances themselves.
    pub peer_cookies: u64,
    /// Responses to them.
    pub peer_responses: u64,
    /// Initiations to them, also the second ones with a cookie.
    pub peer_initiations: u64,
}

impl Replies {
    /// Everything that is neither a cookie nor a response to a sender of an initiation, and nothing between the two.
    pub fn others(&self) -> u64 {
        self.larger + self.without_cause + self.to_other_port + self.errors
    }
}

/// Starts to count in the node `wan`; lets nothing pass but what the two appliances send each other.
pub fn count(network: &Network<'_>, wan: &str, appliances: [SocketAddrV4; 2]) -> Result<(), LabError> {
    let [near, far] = appliances.map(|it| *it.ip());
    let port = appliances[0].port();
    let counters: String = COUNTERS.iter().map(|name| format!("  counter {name} {{ }}\n")).collect();
    let ports = |ports: std::ops::Range<u16>| format!("{}-{}", ports.start, ports.end - 1);
    let (initiations, others) = (ports(INITIATION_PORTS), ports(OTHER_PORTS));
    // The first byte of a datagram is its type.
    let cookie = format!("udp length {COOKIE_LENGTH} @th,64,8 3");
    let rules = format!(
        "table inet lab {{
{counters}
  chain to_peer {{
    {cookie} counter name peer_cookies accept
    @th,64,8 2 counter name peer_responses accept
    @th,64,8 {{ 1, 7 }} counter name peer_initiations accept
    accept
  }}
  chain from_appliance {{
    ip protocol icmp counter name errors drop
    ip daddr {{ {near}, {far} }} udp dport {port} udp sport {port} goto to_peer
    udp dport {initiations} {cookie} counter name cookies drop
    udp dport {initiations} @th,64,8 2 udp length < {INITIATION_LENGTH} counter name responses drop
    udp dport {initiations} counter name larger drop
    udp dport {others} counter name without_cause drop
    counter name to_other_port drop
  }}
  chain prerouting {{
    type filter hook prerouting priority raw;
    ip saddr {{ {near}, {far} }} jump from_appliance
  }}
}}
"
    );
    load(network, wan, &rules)
}

/// What was counted so far.
pub fn counted(network: &Network<'_>, wan: &str) -> Result<Replies, LabError> {
    let text = network.run(wan, &["nft", "list", "counters", "table", "inet", "lab"])?;
    let [
        cookies,
        responses,
        larger,
        without_cause,
        to_other_port,
        errors,
        peer_cookies,
        peer_responses,
        peer_initiations,
    ] = COUNTERS.map(|name| packets(&text, name));
    Ok(Replies {
        cookies,
        responses,
        larger,
        without_cause,
        to_other_port,
        errors,
        peer_cookies,
        peer_responses,
        peer_initiations,
    })
}

/// Starts to count, in an end host, packets that neither are of these ports nor come from `other`.
pub fn count_strangers(network: &Network<'_>, node: &str, other: IpAddr, ports: [u16; 2]) -> Result<(), LabError> {
    let [tcp, udp] = ports;
    let rules = format!(
        "table inet lab {{
  counter strangers {{ }}
  chain prerouting {{
    type filter hook prerouting priority raw;
    iifname lo accept
    ip saddr {other} tcp sport {tcp} accept
    ip saddr {other} tcp dport {tcp} accept
    ip saddr {other} udp dport {udp} accept
    meta nfproto ipv4 counter name strangers
  }}
}}
"
    );
    load(network, node, &rules)
}

/// Packets that reached an end host and were never sent to it.
pub fn strangers(network: &Network<'_>, node: &str) -> Result<u64, LabError> {
    network.run(node, &["nft", "list", "counters", "table", "inet", "lab"]).map(|text| packets(&text, "strangers"))
}

fn load(network: &Network<'_>, node: &str, rules: &str) -> Result<(), LabError> {
    let file = network.trace().write_file(&format!("{node}.nft"), rules)?;
    let file = crate::lab::program::path_text(&file)?;
    network.run(node, &["nft", "-f", &file]).map(drop)
}

/// The packets of a counter in the text of `nft list counters`.
fn packets(text: &str, name: &str) -> u64 {
    let mut words = text.split_whitespace().skip_while(|word| *word != name).skip_while(|word| *word != "packets");
    words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = "table inet lab {\n\tcounter cookies {\n\t\tpackets 7 bytes 616\n\t}\n\tcounter larger {\n\t\tpackets 0 bytes 0\n\t}\n}\n";
        assert_eq!(["cookies", "larger", "other"].map(|name| packets(text, name)), [7, 0, 0]);
    }
}
