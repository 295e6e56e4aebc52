//! What the handshakes of a node report: new sessions, peers that cannot be worked with, datagrams that were dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use crate::tunnel::PeerId;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::hello::{Hello, Incompatibility};
use crate::tunnel::seal::{OpeningKey, SealingKey};

/// Who sent the first message of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We did. The session is proven: seal with it at once, even if only an empty report, as the peer waits for that.
    Initiator,
    /// The peer did. Open with it at once, but go on sealing with the session before until something was opened with
    /// this one: only then is it proven that the peer has our answer and the preshared key.
    Responder,
}

/// A new session with a peer, for the lanes.
#[derive(Clone, Debug)]
pub struct Established {
    /// With whom.
    pub peer: PeerId,
    /// Who began, and so who may seal first.
    pub role: Role,
    /// The receiver index of datagrams to us.
    pub local_index: u32,
    /// The receiver index of datagrams to the peer.
    pub remote_index: u32,
    /// For datagrams to the peer.
    pub sealing: Arc<SealingKey>,
    /// For datagrams from the peer.
    pub opening: Arc<OpeningKey>,
    /// What the peer says of itself.
    pub remote: Hello,
    /// Where datagrams of this session go, on lane 0 (lane i adds i to the port), and from which of our addresses.
    pub endpoint: Endpoint,
    /// When it began; invalid [`REJECT_AFTER`](super::REJECT_AFTER) later.
    pub at: Instant,
}

/// Something the appliance must act upon or tell its user.
#[derive(Clone, Debug)]
pub enum HandshakeEvent {
    /// A session to hand to the lanes.
    Established(Established),
    /// The peer is who it should be, but the two cannot work together. Said once for each start of the peer.
    Incompatible {
        /// Which peer.
        peer: PeerId,
        /// Why, in words for the log.
        what: Incompatibility,
    },
}

/// Why a handshake datagram changed nothing. To be counted; only [`Incompatible`](Self::Incompatible) was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HandshakeDrop {
    /// Not a handshake datagram, or of an impossible length.
    Malformed,
    /// mac1 is wrong: the sender does not know who we are.
    Stranger,
    /// Too many handshakes at once.
    RateLimited,
    /// The cryptography failed: damaged, forged, another version, another preshared key.
    NotAuthentic,
    /// A valid key that is not in the configuration.
    UnknownPeer,
    /// An initiation not newer than the newest from this peer.
    Replayed,
    /// A response to nothing that waits for one.
    Unexpected,
    /// Authentic, but what the peer says of itself cannot be read.
    BadHello,
    /// Authentic, but the two cannot work together.
    Incompatible,
    /// From an address that is routed into the tunnel: an answer would come back in through it.
    InsideTunnel,
}

impl HandshakeDrop {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 10] = [
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
        }
    }
}

impl fmt::Display for HandshakeDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
