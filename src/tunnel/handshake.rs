//! Placeholder for the handshake branch.
use super::PeerId;
use super::seal::{OpeningKey, SealingKey};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
/// Which side began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We.
    Initiator,
    /// They.
    Responder,
}
/// Hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Epoch.
    pub epoch: u64,
    /// Symbol size.
    pub symbol_size: u16,
}
/// Established.
#[derive(Clone, Debug)]
pub struct Established {
    /// Peer.
    pub peer: PeerId,
    /// Role.
    pub role: Role,
    /// Index.
    pub local_index: u32,
    /// Index.
    pub remote_index: u32,
    /// Key.
    pub sealing: Arc<SealingKey>,
    /// Key.
    pub opening: Arc<OpeningKey>,
    /// Hello.
    pub remote: Hello,
    /// Address.
    pub endpoint: SocketAddr,
    /// When.
    pub at: Instant,
}
