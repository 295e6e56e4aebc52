//! The channels between a lane and the control thread: bounded, with a waker in each direction.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{Receiver, SyncSender};

use mio::Waker;

use crate::appliance::bypass::Reach;
use crate::appliance::host::uplinks::Uplink;
use crate::appliance::lane::counts::PeerCounts;
use crate::appliance::lane::snapshot::LaneSnapshot;
use crate::appliance::notify::port_news::News;
use crate::appliance::notify::protection_driver::ProtectionChanges;
use crate::appliance::planning::LaneLink;
use crate::notify::message::StateReason;
use crate::tunnel::PeerId;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::forwarder::Settings;
use crate::tunnel::handshake::Established;
use crate::tunnel::sender::Profile;

/// A command of the control thread to a lane.
#[derive(Debug)]
pub enum Command {
    /// Use these keys.
    Install(Box<Established>),
    /// Send these handshake datagrams, each to its destination from its source address.
    Handshakes(Vec<HandshakeDatagram>),
    /// Reply with your counts.
    Snapshot(SyncSender<LaneSnapshot>),
    /// Reply with the few counts that rates are made of, by an event.
    Counts,
    /// The egress to a peer has changed.
    Uplink(Uplink),
    /// From the next block on, blocks toward a peer follow this profile.
    Plan {
        /// The peer.
        peer: PeerId,
        /// The profile.
        profile: Box<Profile>,
        /// Why the link is degraded although it works; none if it is not.
        reason: Option<StateReason>,
    },
    /// Packets for a peer are about to take the plain route, or no longer do: publish it.
    Bypass {
        /// The peer.
        peer: PeerId,
        /// They are about to.
        begins: bool,
        /// Answered when it is published.
        done: SyncSender<()>,
    },
    /// Follow another configuration.
    Reload(Box<LaneReload>),
    /// Send what is left, and end.
    Stop,
}

/// Another configuration of a lane.
#[derive(Debug)]
pub struct LaneReload {
    /// What the forwarder follows.
    pub settings: Settings,
    /// Profiles that are not as before, by number.
    pub changed_profiles: Vec<u8>,
    /// Some profile has targets: report what is known of the links.
    pub reports_links: bool,
    /// Changes of protection; `None` without notifications.
    pub protection: Option<ProtectionChanges>,
    /// Answered when it is done.
    pub done: SyncSender<()>,
}

/// An event that a lane reports to the control thread.
#[derive(Debug)]
pub enum LaneEvent {
    /// The peer has proved that it has the keys of a session that it initiated.
    SessionConfirmed {
        /// Our index of the session.
        local_index: u32,
    },
    /// What the lane knows of its link to a peer.
    Link {
        /// The lane.
        lane: u8,
        /// The peer.
        peer: PeerId,
        /// The link.
        link: Box<LaneLink>,
    },
    /// The counts that were asked for.
    Counts {
        /// The lane.
        lane: u8,
        /// Of each peer, by its number.
        peers: Vec<PeerCounts>,
    },
    /// A new session with this peer is wanted.
    SessionWanted(PeerId),
    /// A lane reaches a peer in another way than before.
    Reach {
        /// The lane.
        lane: u8,
        /// The peer.
        peer: PeerId,
        /// How, from now on.
        reach: Reach,
    },
    /// The notification port has news of a peer.
    Port {
        /// The peer, by number.
        peer: u32,
        /// The news.
        news: Box<News>,
    },
    /// The lane has ended, by command or by an error.
    Ended {
        /// Its number.
        lane: u8,
        /// Why, unless it was a command.
        cause: Option<io::Error>,
    },
}

/// A handshake datagram that came: its source, the address of ours that it was sent to, and its bytes.
pub type HandshakeDatagram = (Endpoint, Vec<u8>);

/// The lane's ends of its channels.
#[derive(Debug)]
pub struct LaneChannel {
    /// Commands to the lane.
    pub commands: Receiver<Command>,
    /// Events to the control thread. Bounded: an event that does not fit is counted and dropped.
    pub events: SyncSender<LaneEvent>,
    /// Handshake datagrams to the control thread, the same way: a flood of them displaces no event.
    pub handshakes: SyncSender<HandshakeDatagram>,
    /// Wakes the control thread.
    pub control: Arc<Waker>,
    /// Turns so far: whoever reads the same number for long finds that the lane stands still.
    pub turns: Arc<AtomicU64>,
}
