//! Which redundancy profile a packet travels under: the first rule that matches, or the default.
//!
//! A packet is judged alone, by its own headers, on the side that sends it; no state is kept and the payload is not
//! looked at. What a profile means is not known here.
//!
//! **Fragments.** Only the first fragment of a packet has ports. If it were matched by them and the rest without, the
//! parts of one packet could travel under different profiles, in different blocks, and overtake each other. So a rule that
//! names a port matches no fragment at all, not even the first: all fragments of a packet fall to the same rule.
//! To treat fragmented traffic specially, write a rule without a port.

use std::fmt;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::wire::packet::{ICMP, ICMPV6, PacketView, TCP, UDP};

/// The number of a redundancy profile, as in the payload id of a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProfileId(pub u8);

/// Conditions that must all hold, and the profile for packets of which they do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Contains the destination address.
    pub to: IpNetwork,
    /// Contains the source address.
    pub from: Option<IpNetwork>,
    /// The protocol after IPv6 extension headers.
    pub protocol: Option<Protocol>,
    /// Contains the source *or* the destination port of TCP or UDP, because each side judges what it sends: one rule
    /// `port: 5432` is written the same at the side of the server and at the side of the client.
    pub port: Option<PortRange>,
    /// The differentiated services code point, 0 to 63.
    pub dscp: Option<u8>,
    /// What matching packets travel under.
    pub profile: ProfileId,
}

/// A protocol as a rule names it: `tcp`, `udp`, `icmp` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP over IPv4 and ICMPv6 over IPv6.
    Icmp,
    /// Any protocol by its number at IANA.
    Number(u8),
}

impl Protocol {
    fn matches(self, protocol: u8) -> bool {
        match self {
            Self::Tcp => protocol == TCP,
            Self::Udp => protocol == UDP,
            Self::Icmp => protocol == ICMP || protocol == ICMPV6,
            Self::Number(number) => protocol == number,
        }
    }
}

/// One port or several that follow each other: `5432`, `8000-8100`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// The ports from `first` to `last`, both included; none when `first` is 0 or more than `last`.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (0 < first && first <= last).then_some(Self { first, last })
    }

    /// The lowest port.
    pub fn first(self) -> u16 {
        self.first
    }

    /// The highest port.
    pub fn last(self) -> u16 {
        self.last
    }

    /// Whether `port` is one of them.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (first, last) if first == last => first.fmt(f),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// The rules in their order, ready to be asked for every packet.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<(Span, Option<Span>, Rule)>,
    default: ProfileId,
}

impl Policy {
    /// `default` is for packets that no rule matches.
    pub fn new(rules: impl IntoIterator<Item = Rule>, default: ProfileId) -> Self {
        let rules = rules.into_iter().map(|rule| (Span::of(rule.to), rule.from.map(Span::of), rule)).collect();
        Self { rules, default }
    }

    /// The profile of packets that no rule matches.
    pub fn default_profile(&self) -> ProfileId {
        self.default
    }

    /// The profile of the first rule that matches; see the module for fragments.
    pub fn classify(&self, packet: &PacketView) -> ProfileId {
        if self.rules.is_empty() {
            return self.default;
        }
        let (source, destination) = (Address::of(packet.source), Address::of(packet.destination));
        for (to, from, rule) in &self.rules {
            if to.contains(destination) && from.is_none_or(|from| from.contains(source)) && rule.matches_headers(packet)
            {
                return rule.profile;
            }
        }
        self.default
    }
}

impl Rule {
    /// Every condition but the addresses.
    fn matches_headers(&self, packet: &PacketView) -> bool {
        self.protocol.is_none_or(|protocol| protocol.matches(packet.protocol))
            && self.dscp.is_none_or(|dscp| dscp == packet.dscp)
            && self.port.is_none_or(|range| {
                packet.fragment.is_none()
                    && packet
                        .ports
                        .is_some_and(|ports| range.contains(ports.source) || range.contains(ports.destination))
            })
    }
}

/// An address as a number: one comparison instead of one for each byte.
#[derive(Clone, Copy)]
struct Address {
    ipv4: bool,
    bits: u128,
}

impl Address {
    fn of(address: IpAddr) -> Self {
        let bits = match address {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        };
        Self { ipv4: address.is_ipv4(), bits }
    }
}

/// A prefix as the addresses from `first` to `last`.
#[derive(Clone, Copy, Debug)]
struct Span {
    ipv4: bool,
    first: u128,
    last: u128,
}

impl Span {
    fn of(prefix: IpNetwork) -> Self {
        let (first, last) = (Address::of(prefix.network()), Address::of(prefix.broadcast()));
        Self { ipv4: first.ipv4, first: first.bits, last: last.bits }
    }

    fn contains(self, address: Address) -> bool {
        self.ipv4 == address.ipv4 && self.first <= address.bits && address.bits <= self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::packet::{Fragment, Ports};
    use crate::wire::samples;
    use proptest::prelude::*;

    fn rule(to: &str, profile: u8) -> Rule {
        Rule {
            to: to.parse().unwrap(),
            from: None,
            protocol: None,
            port: None,
            dscp: None,
            profile: ProfileId(profile),
        }
    }

    fn view(packet: &[u8]) -> PacketView {
        PacketView::parse(packet).unwrap()
    }

    fn classify(rules: Vec<Rule>, packet: &PacketView) -> u8 {
        Policy::new(rules, ProfileId(99)).classify(packet).0
    }

    #[test]
    fn each_condition_decides_alone() {
        // 10.1.0.1:40000 to 10.2.0.10:5432 and the same in IPv6.
        let tcp4 = view(&samples::ipv4(TCP, &[], &samples::tcp(0x10, &[], 10)));
        let tcp6 = view(&samples::ipv6(TCP, &samples::tcp(0x10, &[], 10)));
        let icmp = view(&samples::ipv4(ICMP, &[], &[8; 16]));
        let icmpv6 = view(&samples::ipv6(ICMPV6, &[128; 16]));
        let marked = PacketView { dscp: 46, ..tcp4 };
        let any = rule("0.0.0.0/0", 1);
        let any6 = rule("::/0", 1);
        let port = |first, last| Rule { port: PortRange::new(first, last), ..any.clone() };
        let protocol = |protocol, rule: &Rule| Rule { protocol: Some(protocol), ..rule.clone() };
        let from = |text: &str| Rule { from: Some(text.parse().unwrap()), ..any.clone() };
        let dscp = Rule { dscp: Some(46), ..any.clone() };
        let table = [
            ("to", rule("10.2.0.10/32", 1), tcp4, true),
            ("to another", rule("10.2.0.11/32", 1), tcp4, false),
            ("to the source", rule("10.1.0.0/16", 1), tcp4, false),
            ("to with host bits", rule("10.2.0.99/24", 1), tcp4, true),
            ("IPv4 rule, IPv6 packet", any.clone(), tcp6, false),
            ("IPv6 rule, IPv4 packet", any6.clone(), tcp4, false),
            ("IPv6", rule("fd00:2::/32", 1), tcp6, true),
            ("from", from("10.1.0.0/24"), tcp4, true),
            ("from another", from("10.2.0.0/24"), tcp4, false),
            ("tcp", protocol(Protocol::Tcp, &any), tcp4, true),
            ("udp", protocol(Protocol::Udp, &any), tcp4, false),
            ("number", protocol(Protocol::Number(6), &any), tcp4, true),
            ("icmp", protocol(Protocol::Icmp, &any), icmp, true),
            ("icmp of IPv6", protocol(Protocol::Icmp, &any6), icmpv6, true),
            ("icmp by its number", protocol(Protocol::Number(1), &any6), icmpv6, false),
            ("destination port", port(5432, 5432), tcp4, true),
            ("source port", port(39999, 40000), tcp4, true),
            ("neither port", port(5433, 39999), tcp4, false),
            ("port of ICMP", port(1, 65535), icmp, false),
            ("dscp", dscp.clone(), marked, true),
            ("another dscp", dscp, tcp4, false),
        ];
        for (name, rule, packet, expected) in table {
            assert_eq!(classify(vec![rule], &packet) == 1, expected, "{name}");
        }
    }

    #[test]
    fn the_first_match_wins_and_the_default_is_last() {
        let packet = view(&samples::ipv4(TCP, &[], &samples::tcp(0x10, &[], 10)));
        let rules = vec![rule("10.9.0.0/16", 1), rule("10.2.0.0/16", 2), rule("10.2.0.10/32", 3)];
        assert_eq!(classify(rules, &packet), 2);
        assert_eq!(classify(vec![], &packet), 99);
        assert_eq!(classify(vec![rule("10.9.0.0/16", 1)], &packet), 99);
    }

    #[test]
    fn all_fragments_of_a_packet_fall_to_the_same_rule() {
        let mut first = samples::ipv4(UDP, &[], &samples::udp(992));
        first[6] = 0x20;
        let mut second = samples::ipv4(UDP, &[], &[0; 500]);
        second[7] = 125;
        let rules = vec![Rule { port: PortRange::new(53, 53), ..rule("10.2.0.0/16", 1) }, rule("10.2.0.0/16", 2)];
        let (first, second) = (view(&first), view(&second));
        assert!(first.ports.is_some() && first.fragment.is_some());
        assert_eq!(classify(rules.clone(), &first), 2);
        assert_eq!(classify(rules.clone(), &second), 2);
        let whole = PacketView { fragment: None, ..first };
        assert_eq!(classify(rules, &whole), 1);
    }

    proptest! {
        #[test]
        fn equals_the_plain_reading_of_the_rules(
            rules in prop::collection::vec(
                (0u8..4, 8u8..33, any::<bool>(), 0u8..3, prop::option::of((1u16..6, 0u16..3))),
                0..12,
            ),
            destination in 0u8..4,
            protocol in prop_oneof![Just(TCP), Just(UDP), Just(ICMP)],
            ports in (1u16..8, 1u16..8),
            fragment in any::<bool>(),
        ) {
            let rules: Vec<Rule> = rules
                .into_iter()
                .zip(0u8..)
                .map(|((net, len, from, protocol, port), profile)| Rule {
                    to: IpNetwork::new([10, 2, 0, net].into(), len).unwrap(),
                    from: from.then(|| "10.1.0.0/31".parse().unwrap()),
                    protocol: [None, Some(Protocol::Tcp), Some(Protocol::Udp)][usize::from(protocol)],
                    port: port.and_then(|(first, more)| PortRange::new(first, first + more)),
                    dscp: None,
                    profile: ProfileId(profile),
                })
                .collect();
            let packet = PacketView {
                source: [10, 1, 0, 1].into(),
                destination: [10, 2, 0, destination].into(),
                protocol,
                dscp: 0,
                transport_offset: 20,
                ports: (protocol != ICMP).then_some(Ports { source: ports.0, destination: ports.1 }),
                fragment: fragment.then_some(Fragment { id: 1, offset: 0, more: true }),
            };
            let expected = rules.iter().find(|rule| {
                rule.to.contains(packet.destination)
                    && rule.from.is_none_or(|from| from.contains(packet.source))
                    && match rule.protocol {
                        None => true,
                        Some(Protocol::Tcp) => protocol == TCP,
                        Some(_) => protocol == UDP,
                    }
                    && match (rule.port, protocol) {
                        (None, _) => true,
                        (Some(_), ICMP) => false,
                        (Some(range), _) => {
                            !fragment && (range.contains(ports.0) || range.contains(ports.1))
                        }
                    }
            });
            let expected = expected.map_or(99, |rule| rule.profile.0);
            prop_assert_eq!(classify(rules, &packet), expected);
        }
    }
}
