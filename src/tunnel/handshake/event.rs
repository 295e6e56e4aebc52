//! The events of the handshakes of a node: new sessions, peers it cannot work with, dropped datagrams.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::tunnel::PeerId;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::hello::{Hello, Incompatibility};
use crate::tunnel::seal::{OpeningKey, SealingKey};

/// Which end sent the initiation of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did. The session is proven: seal with it at once, even if only an empty report, because the peer waits for
    /// that.
    Initiator,
    /// The peer did. Open with it at once, but go on sealing with the session before until a datagram was opened with
    /// this one: only that proves that the peer has our response and the preshared key.
    Responder,
}

/// A new session with a peer, for the lanes.
#[derive(Clone, Debug)]
pub struct Established {
    /// The peer.
    pub peer: PeerId,
    /// Which end began; the initiator seals first.
    pub role: Role,
    /// The receiver index of datagrams to us.
    pub local_index: u32,
    /// The receiver index of datagrams to the peer.
    pub remote_index: u32,
    /// For datagrams to the peer.
    pub sealing: Arc<SealingKey>,
    /// For datagrams from the peer.
    pub opening: Arc<OpeningKey>,
    /// The peer's hello.
    pub remote: Hello,
    /// The addresses of both ends for datagrams of this session on lane 0; lane i adds i to the peer's port.
    pub endpoint: Endpoint,
    /// When it began; invalid [`REJECT_AFTER`](super::REJECT_AFTER) later.
    pub at: Instant,
}

/// An event that the appliance must act on or log.
#[derive(Clone, Debug)]
pub enum HandshakeEvent {
    /// A session to hand to the lanes.
    Established(Established),
    /// The peer is authentic, but the two cannot work together. Made once for each start of the peer.
    Incompatible {
        /// Which peer.
        peer: PeerId,
        /// The reason, for the log.
        what: Incompatibility,
    },
    /// More initiations come than are computed without proof of their senders' addresses; `false`: no more.
    Load(bool),
}

/// Why a handshake datagram changed nothing. Each is counted; only [`Incompatible`](Self::Incompatible) was answered, and
/// [`WithoutCookie`](Self::WithoutCookie) with a cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeDrop {
    /// Not a handshake datagram, or of an impossible length.
    Malformed,
    /// mac1 is wrong: the sender does not know our public key.
    Stranger,
    /// Too many handshakes at once, of all senders or of this one.
    RateLimited,
    /// The cryptography failed: damaged, forged, another version, another preshared key.
    NotAuthentic,
    /// A valid key that is not in the configuration.
    UnknownPeer,
    /// An initiation not newer than the newest from this peer.
    Replayed,
    /// A response or a cookie that no initiation waits for.
    Unexpected,
    /// Authentic, but the hello cannot be read.
    BadHello,
    /// Authentic, but the two cannot work together.
    Incompatible,
    /// From an address that is routed into the tunnel: a response would come back in through it.
    InsideTunnel,
    /// Under load, an initiation without a valid cookie. Its sender got one.
    WithoutCookie,
}

impl HandshakeDrop {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 11] = [
        Self::Malformed,
        Self::Stranger,
        Self::RateLimited,
        Self::NotAuthentic,
        Self::UnknownPeer,
        Self::Replayed,
        Self::Unexpected,
        Self::BadHello,
        Self::Incompatible,
        Self::InsideTunnel,
        Self::WithoutCookie,
    ];

    /// The reason's name in counters and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "handshake_malformed",
            Self::Stranger => "handshake_stranger",
            Self::RateLimited => "handshake_rate_limited",
            Self::NotAuthentic => "handshake_not_authentic",
            Self::UnknownPeer => "handshake_unknown_peer",
            Self::Replayed => "handshake_replayed",
            Self::Unexpected => "handshake_unexpected",
            Self::BadHello => "handshake_bad_hello",
            Self::Incompatible => "handshake_incompatible",
            Self::InsideTunnel => "handshake_inside_tunnel",
            Self::WithoutCookie => "handshake_without_cookie",
        }
    }
}

impl fmt::Display for HandshakeDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
