//! The counts of a lane, taken between two turns and sent to the control thread as a value.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::appliance::lane::last_hop::LastHopStatus;
use crate::appliance::status::arrivals::ArrivalsSnapshot;
use crate::appliance::status::protection::{NotifyStatus, ProtectionSnapshot};
use crate::io::udp::ErrorCounts;
use crate::protect::PeerProtection;
use crate::tunnel::drop_reason::Drops;
use crate::tunnel::estimate::link_estimate::LinkEstimate;
use crate::tunnel::peer::{Marks, Peer};
use crate::tunnel::sent::Sent;
use crate::wire::report::Reception;

/// One lane's counts since the start.
#[derive(Clone, Debug)]
pub struct LaneSnapshot {
    /// Its number.
    pub lane: u8,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Whether the kernel segments trains, as text.
    pub gso: String,
    /// Datagrams the kernel dropped because our receive buffer was full.
    pub receive_overflows: u64,
    /// How long datagrams have waited in the socket lately, at least.
    pub receive_wait: Duration,
    /// How long it has paused under load.
    pub paused: Duration,
    /// Errors of sending.
    pub errors: ErrorCounts,
    /// How departures are timestamped, as text.
    pub timestamps: String,
    /// The notification port, on the lane that has it.
    pub notify: Option<NotifyStatus>,
    /// Super-packets cut in software for the TUN.
    pub cut_in_software: u64,
    /// Events that were dropped because the control thread was too busy.
    pub notices_lost: u64,
    /// Bytes held for incomplete blocks.
    pub memory: usize,
    /// What is kept for the last hop; `None` where that is switched off.
    pub last_hop: Option<LastHopStatus>,
    /// What was dropped, by reason.
    pub drops: Drops,
    /// The peers, in the order of the configuration.
    pub peers: Vec<PeerSnapshot>,
}

/// How full-sized datagrams leave for a peer, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrainStatus {
    /// In trains, where the kernel cuts them.
    Trains,
    /// Each alone for a moment, to test whether they arrive then.
    Trial,
    /// Each alone: trains do not arrive.
    Alone,
    /// They arrive neither in trains nor alone.
    PathLoses,
}

impl TrainStatus {
    fn of(peer: &Peer) -> Self {
        let watch = peer.train_watch();
        match (watch.path_loses(), watch.is_settled(), watch.sends_alone()) {
            (true, _, _) => Self::PathLoses,
            (_, true, _) => Self::Alone,
            (_, _, true) => Self::Trial,
            _ => Self::Trains,
        }
    }

    /// As text, for status.
    pub fn words(self) -> &'static str {
        match self {
            Self::Trains => "in trains",
            Self::Trial => "alone (to see whether trains are lost)",
            Self::Alone => "alone (trains did not arrive)",
            Self::PathLoses => "in trains (long datagrams do not arrive: lower path.mtu)",
        }
    }
}

/// One peer on one lane.
#[derive(Clone, Debug)]
pub struct PeerSnapshot {
    /// Where datagrams go.
    pub address: Option<SocketAddr>,
    /// It has a session that may seal.
    pub up: bool,
    /// Nothing authentic has come for longer than a live peer is silent.
    pub silent: bool,
    /// Time since the handshake of its session.
    pub session_age: Option<Duration>,
    /// Sessions so far.
    pub sessions: u64,
    /// The epoch of the peer, which identifies its run.
    pub epoch: Option<u64>,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// How trains leave for it.
    pub trains: TrainStatus,
    /// What we sent.
    pub sent: Sent,
    /// What we received.
    pub reception: Reception,
    /// Packets from it that were marked.
    pub marks: Marks,
    /// How long a hole waits.
    pub hold: Duration,
    /// What the peer last reported as received, and how long ago.
    pub peer_reception: Option<(Reception, Duration)>,
    /// What is known of the way to it.
    pub estimate: LinkEstimate,
    /// Its protection, where notifications are configured.
    pub promises: Option<ProtectionSnapshot>,
    /// What arrived, and what is missing.
    pub arrived: ArrivalsSnapshot,
}

impl PeerSnapshot {
    /// Copies the state of `peer` at `now`.
    pub fn take(peer: &Peer, protection: Option<&PeerProtection>, arrived: ArrivalsSnapshot, now: Instant) -> Self {
        let sessions = peer.sessions();
        let current = sessions.current();
        let since = |at: Instant| now.saturating_duration_since(at);
        Self {
            address: peer.address(),
            up: current.is_some_and(|session| session.can_seal(now)),
            silent: peer.reporting().is_silent(now),
            session_age: current.map(|session| since(session.established_at())),
            sessions: sessions.established(),
            epoch: sessions.epoch(),
            rtt: peer.reporting().rtt(),
            trains: TrainStatus::of(peer),
            sent: peer.sent(),
            reception: peer.reception(),
            marks: peer.marks(),
            hold: peer.hold(),
            peer_reception: peer.reporting().peer_reception().map(|(reception, at)| (reception, since(at))),
            estimate: peer.estimate(now),
            promises: protection.map(ProtectionSnapshot::take),
            arrived,
        }
    }
}
