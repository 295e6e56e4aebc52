//! `peers`: the appliances at the other sites. Does not resolve host names.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::{IpNetwork, Ipv4Network};
use schemars::JsonSchema;

use super::dscp::parse_dscp;
use super::key_file;
use super::name::{NAME, parse_name};
use super::redundancy::{self, Profile, duration};
use super::schema;
use super::table::{Field, Reading, Table};
use super::units::{Rate, parse_rate};
use crate::tunnel::keys::{PresharedKey, PublicKey};

/// The port of lane 0 unless the file says otherwise.
pub(super) const DEFAULT_PORT: u16 = 7117;

const PUBLIC_KEY: &str = "public_key";
const NEXT_PUBLIC_KEY: &str = "next_public_key";

/// One appliance at another site, and the path to it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its name in status and logs; unique.
    pub name: String,
    /// `None` only while a faulty file is being read.
    pub(super) public_key: Option<PublicKey>,
    /// Another public key of the same peer, while it changes its key: it is accepted under either.
    pub next_public_key: Option<PublicKey>,
    /// The file of the preshared key.
    pub preshared_key_file: Option<PathBuf>,
    /// The preshared key, mixed into the handshake.
    pub preshared_key: Option<PresharedKey>,
    /// The address it is contacted at; `None`: this node waits for the peer to start the handshake.
    pub endpoint: Option<Endpoint>,
    /// The mirror's subnets: routed into the TUN, and the only inner addresses accepted from this peer.
    pub prefixes: Vec<IpNetwork>,
    /// The outer path.
    pub path: OuterPath,
    /// Number of the profile for packets that no policy rule matches.
    pub redundancy: u8,
    /// A reload has removed it; its number stays taken.
    pub is_removed: bool,
}

/// The outer path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterPath {
    /// Largest outer IP packet in bytes, headers included.
    pub mtu: u16,
    /// The pace of data and repair symbols together; `None` does not pace.
    pub rate: Option<Rate>,
    /// How long a packet may wait for that rate; a packet that would wait longer is dropped.
    pub queue: Duration,
    /// Whether trains of datagrams leave in one system call.
    pub udp_gso: UdpGso,
    /// Whether datagrams take over that the packets in them may be marked instead of dropped.
    pub ecn: OuterEcn,
    /// The DSCP of datagrams.
    pub dscp: OuterDscp,
    /// What packets say whose loss was mended while the path was congested.
    pub congestion: Congestion,
}

/// With a shorter queue, one train of a slow path would fill it.
const QUEUE_MIN: Duration = Duration::from_millis(1);
/// With a longer queue, nothing behind it would become protected.
const QUEUE_MAX: Duration = Duration::from_secs(1);

impl OuterPath {
    /// Bytes of a datagram that are not symbol: IPv6 and UDP headers, our clear header, payload id and tag, `40 + 8 +
    /// 12 + 16 + 16`. Over IPv4 20 of them stay unused.
    pub const HEADERS: u16 = 92;
    /// The default for how long a packet may wait for the rate.
    pub const QUEUE: Duration = Duration::from_millis(50);

    /// The symbol size E: what the path leaves for a symbol, rounded down to a multiple of 64.
    pub fn symbol_size(&self) -> u16 {
        self.mtu.saturating_sub(Self::HEADERS) / 64 * 64
    }
}

/// UDP segmentation offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum UdpGso {
    /// Probe it, and stop using it if it fails.
    Auto,
    /// Use it; log if it fails.
    On,
    /// One datagram per call.
    Off,
}

/// The ECN field of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum OuterEcn {
    /// They may be marked if every packet in them may be; their marks go to those packets.
    Copy,
    /// They are never marked.
    Off,
}

/// The DSCP of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterDscp {
    /// That of the first packet in each.
    Copy,
    /// This one, 0 to 63.
    Fixed(u8),
}

/// What rebuilt packets say of congestion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "snake_case")]
pub enum Congestion {
    /// They are marked, where their senders understand marks.
    Signal,
    /// Nothing.
    Hide,
}

/// The address of a peer: a host and the port of its lane 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An address or a name.
    pub host: Host,
    /// The port of lane 0; lane i uses the port plus i.
    pub port: u16,
}

/// The host of an [`Endpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A literal address.
    Address(IpAddr),
    /// A name, resolved at start, and again while nothing is received from the peer.
    Name(String),
}

impl Endpoint {
    /// The socket address, unless the host is a name.
    pub fn address(&self) -> Option<SocketAddr> {
        match self.host {
            Host::Address(address) => Some(SocketAddr::new(address, self.port)),
            Host::Name(_) => None,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

impl Peer {
    /// Its X25519 public key; unique.
    pub fn public_key(&self) -> PublicKey {
        self.public_key.expect("a peer without a readable key is an error, and then there is no configuration")
    }

    /// The keys under which it is accepted, each with its name in the file; one, or two while it changes its key.
    pub fn public_keys(&self) -> impl Iterator<Item = (&'static str, PublicKey)> {
        let named = [(PUBLIC_KEY, self.public_key), (NEXT_PUBLIC_KEY, self.next_public_key)];
        named.into_iter().filter_map(|(name, key)| Some((name, key?)))
    }

    pub(super) fn read_all(root: &Table<'_>, profiles: &[Profile], reading: &mut Reading<'_>) -> Vec<Self> {
        let allowed = "a list of at least one peer";
        let field = root.required("peers", allowed, reading);
        let elements = field.list(allowed, reading);
        if field.is_list() && elements.is_empty() {
            reading.error(&field.key, "found an empty list", allowed, "");
        }
        elements.iter().map(|element| Self::read(element, profiles, reading)).collect()
    }

    fn read(element: &Field<'_>, profiles: &[Profile], reading: &mut Reading<'_>) -> Self {
        let table = element.table(&schema::PEER, reading);
        let name = table.required("name", NAME, reading).read(NAME, parse_name, reading);
        let a_key = "the 44 characters that `onwire pubkey` prints on the peer";
        let parse = |text: &str| PublicKey::parse(text).map_err(|error| error.to_string());
        let public_key = table.required(PUBLIC_KEY, a_key, reading).read(a_key, parse, reading);
        let next_public_key = table.field(NEXT_PUBLIC_KEY).read(&format!("{a_key}, or null"), parse, reading);

        let field = table.field("preshared_key_file");
        let allowed = "the path of a key file, or null";
        let (path, preshared_key) =
            key_file::read_field(&field, allowed, key_file::KEYGEN, PresharedKey::parse, reading);
        let endpoint = table.field("endpoint").read(ENDPOINT, parse_endpoint, reading);
        let prefixes = read_prefixes(&table, "prefixes", reading);
        let path_table = table.field("path").table(&schema::PATH, reading);
        let field = table.field("redundancy");
        let redundancy = redundancy::read_reference(&field, profiles, reading);
        if !field.is_present() && redundancy.is_none() && !profiles.is_empty() {
            let found = format!("missing, and there is no profile `{}`", redundancy::DEFAULT_NAME);
            reading.error(&field.key, &found, &redundancy::names(profiles), "");
        }
        Self {
            name: name.unwrap_or_default(),
            public_key,
            next_public_key,
            preshared_key_file: path,
            preshared_key,
            endpoint,
            prefixes,
            path: OuterPath::read(&path_table, reading),
            redundancy: redundancy.unwrap_or_default(),
            is_removed: false,
        }
    }
}

impl OuterPath {
    fn read(table: &Table<'_>, reading: &mut Reading<'_>) -> Self {
        let mtu = table.field("mtu").number(576..=9216, reading);
        let parse = |text: &str| match parse_rate(text)? {
            rate if rate.bits_per_second() < 64_000 => Err("below 64kbit nothing useful passes".to_owned()),
            rate => Ok(rate),
        };
        let rate = table.field("rate").read("a rate such as 950mbit or 2.5gbit, or null", parse, reading);
        let queue = duration(&table.field("queue"), QUEUE_MIN..=QUEUE_MAX, reading);
        let udp_gso = [("auto", UdpGso::Auto), ("on", UdpGso::On), ("off", UdpGso::Off)];
        let udp_gso = table.field("udp_gso").choose(&udp_gso, reading);
        let ecn = table.field("ecn").choose(&[("copy", OuterEcn::Copy), ("off", OuterEcn::Off)], reading);
        let parse = |text: &str| match text {
            "copy" => Ok(OuterDscp::Copy),
            code => parse_dscp(code).map(OuterDscp::Fixed),
        };
        let dscp = table.field("dscp").read("copy, 0 to 63, or a name such as ef, af41 or cs1", parse, reading);
        let wishes = [("signal", Congestion::Signal), ("hide", Congestion::Hide)];
        let congestion = table.field("congestion").choose(&wishes, reading);
        Self {
            mtu: mtu.map_or(1500, |mtu| mtu as u16),
            rate,
            queue: queue.unwrap_or(Self::QUEUE),
            udp_gso: udp_gso.unwrap_or(UdpGso::Auto),
            ecn: ecn.unwrap_or(OuterEcn::Copy),
            dscp: dscp.unwrap_or(OuterDscp::Fixed(0)),
            congestion: congestion.unwrap_or(Congestion::Signal),
        }
    }
}

const ENDPOINT: &str = "host:port, such as 203.0.113.2:7117, [2001:db8::2]:7117 or mirror.example.org:7117";

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return Err(format!("put brackets around the address and add the port: [{text}]:{}", DEFAULT_PORT));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && !text.ends_with(']') => (host, port),
        _ => {
            return Err(format!("add the port, such as {text}:{}", DEFAULT_PORT));
        }
    };
    let port = match port.parse() {
        Ok(0) | Err(_) => return Err("the port is a number from 1 to 65535".to_owned()),
        Ok(port) => port,
    };
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match bracketed {
        Some(inner) => match inner.parse() {
            Ok(address) => Host::Address(IpAddr::V6(address)),
            Err(_) => return Err("what is in brackets is not an IPv6 address".to_owned()),
        },
        None => match host.parse() {
            Ok(address) => Host::Address(IpAddr::V4(address)),
            Err(_) => Host::Name(parse_host_name(host)?),
        },
    };
    match host {
        Host::Address(address) if address.is_unspecified() => Err("no peer can be called there".to_owned()),
        Host::Address(address) if address.is_multicast() => Err("a peer is one host, not a group".to_owned()),
        host => Ok(Endpoint { host, port }),
    }
}

fn parse_host_name(text: &str) -> Result<String, String> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
            && !label.starts_with('-')
    };
    // A name of digits only is a mistyped address.
    let numeric = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if text.contains(':') {
        return Err("put brackets around an IPv6 address".to_owned());
    }
    if numeric || text.len() > 253 || !text.trim_end_matches('.').split('.').all(label) {
        return Err("the host is neither an address nor a name".to_owned());
    }
    Ok(text.to_owned())
}

const PREFIX: &str = "an IPv4 or IPv6 prefix such as 10.2.0.0/24 or fd00:2::/64";

/// Stands in for a wrong prefix; no valid one is equal to it.
pub(super) const NO_PREFIX: IpNetwork = IpNetwork::V4(match Ipv4Network::new_checked(Ipv4Addr::BROADCAST, 32) {
    Some(prefix) => prefix,
    None => unreachable!(),
});

/// Reads a required list of prefixes.
pub(super) fn read_prefixes(table: &Table<'_>, name: &str, reading: &mut Reading<'_>) -> Vec<IpNetwork> {
    let allowed = "a list of IPv4 and IPv6 prefixes such as [10.2.0.0/24, \"fd00:2::/64\"]";
    let field = table.required(name, allowed, reading);
    let elements = field.list(allowed, reading);
    if field.is_list() && elements.is_empty() {
        reading.error(&field.key, "found an empty list", allowed, "");
    }
    // A wrong element keeps its index in the list, so that later checks count as the file does.
    elements.iter().map(|element| read_prefix(element, reading).unwrap_or(NO_PREFIX)).collect()
}

/// Reads one prefix.
pub(super) fn read_prefix(field: &Field<'_>, reading: &mut Reading<'_>) -> Option<IpNetwork> {
    field.read(PREFIX, parse_prefix, reading)
}

fn parse_prefix(text: &str) -> Result<IpNetwork, String> {
    let prefix: IpNetwork = match text.parse() {
        Ok(prefix) => prefix,
        Err(_) => {
            let length = text.split_once('/').filter(|(address, _)| address.parse::<IpAddr>().is_ok());
            return Err(match length {
                Some((address, _)) if address.contains(':') => "the length is 0 to 128".to_owned(),
                Some(_) => "the length is 0 to 32".to_owned(),
                None => String::new(),
            });
        }
    };
    if prefix == NO_PREFIX || prefix.ip().is_multicast() {
        return Err("one host receives; broadcast and multicast are not carried".to_owned());
    }
    if prefix.ip() != prefix.network() {
        let (network, ip) = (prefix.network(), prefix.ip());
        let all = prefix.prefix();
        let one = if prefix.is_ipv4() { 32 } else { 128 };
        return Err(format!("write {network}/{all} for the subnet, or {ip}/{one} for the one host"));
    }
    Ok(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_or_names_with_a_port() {
        for (text, address) in [
            ("203.0.113.2:7117", Some("203.0.113.2:7117")),
            ("[2001:db8::2]:7117", Some("[2001:db8::2]:7117")),
            ("mirror.example.org:7117", None),
            ("mirror:1", None),
        ] {
            let endpoint = parse_endpoint(text).unwrap();
            assert_eq!(endpoint.to_string(), text);
            assert_eq!(endpoint.address(), address.map(|a| a.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            ":",
            "203.0.113.2",
            "203.0.113.2:0",
            "203.0.113.2:70000",
            "203.0.113.256:1",
            "2001:db8::2",
            "2001:db8::2:7117",
            "[2001:db8::2]",
            "[mirror]:1",
            "-x:1",
            "a b:1",
            "0.0.0.0:1",
            "224.0.0.1:1",
            "[::]:1",
            "a..b:1",
            ":7117",
        ] {
            assert!(parse_endpoint(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_have_no_host_bits() {
        for text in ["10.2.0.0/24", "0.0.0.0/0", "10.2.0.1/32", "10.2.0.1", "fd00:2::/64", "fd00:2::1"] {
            assert!(parse_prefix(text).is_ok(), "{text}");
        }
        let hint = "write 10.2.0.0/24 for the subnet, or 10.2.0.1/32 for the one host";
        assert_eq!(parse_prefix("10.2.0.1/24"), Err(hint.to_owned()));
        for text in ["", "10.2.0.0/33", "10.2.0/24", "fd00:2::/129", "fd00:2::1/64", "mirror"] {
            assert!(parse_prefix(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_symbol_size_is_what_the_path_leaves() {
        for (mtu, size) in [(1500, 1408), (576, 448), (1280, 1152), (9000, 8896), (9216, 9088), (0, 0)] {
            let path = OuterPath {
                mtu,
                rate: None,
                queue: OuterPath::QUEUE,
                udp_gso: UdpGso::Auto,
                ecn: OuterEcn::Copy,
                dscp: OuterDscp::Copy,
                congestion: Congestion::Hide,
            };
            assert_eq!(path.symbol_size(), size, "{mtu}");
        }
    }
}
