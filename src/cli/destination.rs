//! `--to HOST[:PORT]`: the far end of flows. Names are resolved once, at the start; later changes are not followed.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use crate::notify::message::Filter;

/// All addresses of a host, and the port if one was named.
#[derive(Clone, Debug)]
pub struct Destination {
    text: String,
    addresses: Vec<IpAddr>,
    port: Option<u16>,
}

impl Destination {
    /// Reads `HOST`, `HOST:PORT`, `ADDRESS`, `[ADDRESS]:PORT` and resolves a name. The error is a sentence.
    pub fn resolve(text: &str) -> Result<Self, String> {
        let (host, port) = split(text)?;
        let resolved = (host, 0).to_socket_addrs().map_err(|error| format!("cannot resolve {host:?}: {error}"))?;
        let mut addresses: Vec<IpAddr> = resolved.map(|address| address.ip().to_canonical()).collect();
        addresses.sort();
        addresses.dedup();
        if addresses.is_empty() {
            return Err(format!("{host:?} has no address"));
        }
        Ok(Self { text: text.to_owned(), addresses, port })
    }

    /// Whether it includes this address and port.
    pub fn is(&self, at: SocketAddr) -> bool {
        self.addresses.contains(&at.ip().to_canonical()) && self.port.is_none_or(|port| port == at.port())
    }

    /// The filter for the publisher, which knows only a single address.
    pub fn filter(&self) -> Filter {
        let destination = match self.addresses[..] {
            [only] => Some(only),
            _ => None,
        };
        Filter { destination, destination_port: self.port, ..Filter::default() }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn split(text: &str) -> Result<(&str, Option<u16>), String> {
    let wrong = || format!("found {text:?}; allowed: HOST, HOST:PORT, an address, or [IPv6 address]:PORT");
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None if text.parse::<IpAddr>().is_ok() => (text, None),
        None => text.rsplit_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)).transpose()?;
    if host.is_empty() || (host.contains(':') && host.parse::<IpAddr>().is_err()) {
        return Err(wrong());
    }
    Ok((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_split() {
        for (text, host, port) in [
            ("mirror", "mirror", None),
            ("mirror:5432", "mirror", Some(5432)),
            ("10.2.0.1", "10.2.0.1", None),
            ("10.2.0.1:22", "10.2.0.1", Some(22)),
            ("fd00::1", "fd00::1", None),
            ("[fd00::1]", "fd00::1", None),
            ("[fd00::1]:22", "fd00::1", Some(22)),
        ] {
            assert_eq!(split(text), Ok((host, port)), "{text}");
        }
        for text in ["", ":22", "mirror:", "mirror:0", "mirror:65536", "mirror:ssh", "[fd00::1", "[fd00::1]22", "a:b:1"]
        {
            assert!(split(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_address_of_a_host_matches_and_mapped_ones_are_ipv4() {
        let here = Destination::resolve("[::ffff:127.0.0.1]:22").unwrap();
        assert!(here.is("127.0.0.1:22".parse().unwrap()) && here.is("[::ffff:127.0.0.1]:22".parse().unwrap()));
        assert!(!here.is("127.0.0.1:23".parse().unwrap()) && !here.is("127.0.0.2:22".parse().unwrap()));
        assert_eq!(here.filter().destination, Some("127.0.0.1".parse().unwrap()));
        let named = Destination::resolve("localhost").unwrap();
        assert!(named.is("127.0.0.1:1".parse().unwrap()) || named.is("[::1]:1".parse().unwrap()));
        assert!(Destination::resolve("no-such-host.invalid").is_err());
    }
}
