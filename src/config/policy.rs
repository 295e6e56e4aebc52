//! `policy`: which packets get which profile. Matching packets is done elsewhere.

use ipnetwork::IpNetwork;

use super::dscp::{DSCP, parse_dscp};
use super::peer::read_prefix;
use super::problem::did_you_mean;
use super::redundancy::{self, Profile};
use super::schema;
use super::table::{Field, Reading, Table};
use crate::tunnel::policy::PortRange;

/// One rule; a field that is `None` matches everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// Destination prefix.
    pub to: Option<IpNetwork>,
    /// Source prefix.
    pub from: Option<IpNetwork>,
    /// IP protocol number.
    pub protocol: Option<u8>,
    /// Source or destination port of TCP or UDP, so that one rule serves both directions.
    pub port: Option<PortRange>,
    /// Differentiated services code point, 0 to 63.
    pub dscp: Option<u8>,
    /// Number of the profile.
    pub redundancy: u8,
}

impl PolicyRule {
    /// TCP's protocol number.
    pub const TCP: u8 = 6;
    /// UDP's protocol number.
    pub const UDP: u8 = 17;

    pub(super) fn read_all(root: &Table<'_>, profiles: &[Profile], reading: &mut Reading<'_>) -> Vec<Self> {
        let rules = root.field("policy").list("a list of rules", reading);
        rules.iter().map(|rule| Self::read(rule, profiles, reading)).collect()
    }

    fn read(element: &Field<'_>, profiles: &[Profile], reading: &mut Reading<'_>) -> Self {
        let table = element.table(&schema::RULE, reading);
        let to = read_prefix(&table.field("to"), reading);
        let from = read_prefix(&table.field("from"), reading);
        if let (Some(to), Some(from)) = (to, from)
            && to.is_ipv4() != from.is_ipv4()
        {
            let key = table.field("from").key;
            let found = format!("found {from}, but `to` is {to}");
            reading.error(&key, &found, "two prefixes of one IP version", "");
        }
        let protocol = table.field("protocol").read(PROTOCOL, parse_protocol, reading);
        let port_field = table.field("port");
        let port = port_field.read("a port or a range, such as 5432 or 6000-6063", parse_ports, reading);
        // Without a protocol the port may be one of TCP or of UDP.
        if port.is_some() && protocol.is_some_and(|number| ![Self::TCP, Self::UDP].contains(&number)) {
            let hint = "ports exist in TCP and UDP only: remove the port, or write `protocol: tcp` or `protocol: udp`";
            reading.error(&port_field.key, "found a port of a protocol that has none", "", hint);
        }
        let dscp = table.field("dscp").read(DSCP, parse_dscp, reading);
        let allowed = redundancy::names(profiles);
        let field = table.required("redundancy", &allowed, reading);
        let redundancy = if field.is_present() { redundancy::read_reference(&field, profiles, reading) } else { None };
        Self { to, from, protocol, port, dscp, redundancy: redundancy.unwrap_or_default() }
    }

    /// Whether every packet that matches `other` matches this rule too.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let prefix = |ours: Option<IpNetwork>, theirs: Option<IpNetwork>| match (ours, theirs) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => ours.prefix() <= theirs.prefix() && ours.contains(theirs.network()),
        };
        let port = match (self.port, other.port) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => ours.first() <= theirs.first() && theirs.last() <= ours.last(),
        };
        prefix(self.to, other.to)
            && prefix(self.from, other.from)
            && port
            && (self.protocol.is_none() || self.protocol == other.protocol)
            && (self.dscp.is_none() || self.dscp == other.dscp)
    }
}

/// Reads one port or a range. The error is a hint.
fn parse_ports(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(0), _) => Err("port 0 is never used".to_owned()),
        (Ok(first), Ok(last)) => {
            PortRange::new(first, last).ok_or_else(|| "the range is empty: the lower port comes first".to_owned())
        }
        _ => Err("ports are numbers from 1 to 65535".to_owned()),
    }
}

const PROTOCOL: &str = "tcp, udp, icmp, icmpv6, or a protocol number from 0 to 255";

fn parse_protocol(text: &str) -> Result<u8, String> {
    match text {
        "tcp" => Ok(PolicyRule::TCP),
        "udp" => Ok(PolicyRule::UDP),
        "icmp" => Ok(1),
        "icmpv6" => Ok(58),
        number => number.parse().map_err(|_| {
            let names = ["tcp", "udp", "icmp", "icmpv6"];
            did_you_mean(text, names.into_iter()).unwrap_or_default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_a_number_or_a_range() {
        for (text, first, last) in [("5432", 5432, 5432), ("6000-6063", 6000, 6063), ("1-65535", 1, 65535)] {
            assert_eq!(parse_ports(text), Ok(PortRange::new(first, last).unwrap()), "{text}");
        }
        for text in ["", "0", "65536", "6063-6000", "a-b", "-", "1-"] {
            assert!(parse_ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_covers_what_is_narrower() {
        let rule = |to: &str, protocol, port: Option<u16>| PolicyRule {
            to: Some(to.parse().unwrap()),
            from: None,
            protocol,
            port: port.and_then(|port| PortRange::new(port, port)),
            dscp: None,
            redundancy: 0,
        };
        let wide = rule("10.2.0.0/16", None, None);
        let narrow = rule("10.2.1.0/24", Some(6), Some(22));
        assert!(wide.covers(&narrow) && wide.covers(&wide) && !narrow.covers(&wide));
        assert!(!rule("10.3.0.0/16", None, None).covers(&narrow));
        assert!(!rule("::/0", None, None).covers(&narrow));
        assert!(!rule("10.2.0.0/16", Some(17), None).covers(&narrow));
    }
}
