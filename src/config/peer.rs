//! `peers`: the appliances at the other sites. Does not resolve host names.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnetwork::IpNetwork;

use super::key_file::SecretKey;
use super::units::Rate;

/// One appliance at another site, and the path to it.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Shown in status and logs; unique.
    pub name: String,
    /// Its X25519 public key; unique.
    pub public_key: [u8; 32],
    /// Where the preshared key was read from.
    pub preshared_key_file: Option<PathBuf>,
    /// The preshared key, mixed into the handshake.
    pub preshared_key: Option<SecretKey>,
    /// Where to call it; `None` waits to be called.
    pub endpoint: Option<Endpoint>,
    /// The mirror's subnets: routed into the TUN, and the only inner addresses accepted from this peer.
    pub prefixes: Vec<IpNetwork>,
    /// The outer path.
    pub path: OuterPath,
    /// Number of the profile for what no policy rule matches.
    pub redundancy: u8,
}

/// The outer path to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OuterPath {
    /// Largest outer IP packet in bytes, headers included.
    pub mtu: u16,
    /// Pace data and repair symbols together to this; `None` does not pace.
    pub rate: Option<Rate>,
    /// Whether trains of datagrams leave in one system call.
    pub udp_gso: UdpGso,
}

impl OuterPath {
    /// Bytes of a datagram that are not symbol: IPv6 and UDP headers, our clear header, payload id and tag,
    /// `40 + 8 + 12 + 16 + 16`. Over IPv4 20 of them stay unused.
    pub const HEADERS: u16 = 92;

    /// The symbol size E: what the path leaves for a symbol, down to a multiple of 64.
    pub fn symbol_size(&self) -> u16 {
        self.mtu.saturating_sub(Self::HEADERS) / 64 * 64
    }
}

/// UDP segmentation offload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpGso {
    /// Probe it, and stop using it where it fails.
    Auto,
    /// Use it; say so where it fails.
    On,
    /// One datagram a call.
    Off,
}

/// Where a peer listens: a host and the port of its lane 0.
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
    /// A name, resolved at start.
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
