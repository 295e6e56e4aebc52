//! Where a peer is, and by which of our addresses it called us.

use std::net::{IpAddr, SocketAddr};

/// The two ends of the way to a peer.
///
/// Who is called answers from the address that was called: a firewall between the two lets an answer pass only if it comes
/// from there. Who calls leaves its own address to the kernel, which knows the routes of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where the peer is.
    pub remote: SocketAddr,
    /// Our address that it called; none leaves it to the kernel.
    pub local: Option<IpAddr>,
}

impl Endpoint {
    /// The same place for a peer, our own address left to the kernel.
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
