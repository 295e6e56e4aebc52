//! The addresses of both ends of the path to a peer.

use std::net::{IpAddr, SocketAddr};

/// The two ends of the path to a peer.
///
/// An answer leaves from the address that the peer sent to: a firewall between the two passes an answer only from that
/// address. A node that begins a handshake leaves its own address to the kernel, which knows the present routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's address.
    pub remote: SocketAddr,
    /// Our address that the peer sent to; `None`: the kernel chooses.
    pub local: Option<IpAddr>,
}

impl Endpoint {
    /// The same peer address; the kernel chooses ours.
    pub fn without_local(self) -> Self {
        Self { local: None, ..self }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(remote: SocketAddr) -> Self {
        Self { remote, local: None }
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.remote.fmt(f)
    }
}
