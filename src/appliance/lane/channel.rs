//! The line between a lane and the control thread: bounded channels and a waker in each direction.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use mio::Waker;

use crate::appliance::host::uplinks::Uplink;
use crate::appliance::lane::snapshot::LaneSnapshot;
use crate::tunnel::PeerId;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::handshake::Established;

/// What the control thread asks of a lane.
#[derive(Debug)]
pub enum Command {
    /// Use these keys.
    Install(Box<Established>),
    /// Send this datagram of a handshake.
    Handshake {
        /// Where to, and from which address.
        to: Endpoint,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// Tell what you have counted.
    Snapshot(SyncSender<LaneSnapshot>),
    /// The way to a peer has changed.
    Uplink(Uplink),
    /// Send what is left, and end.
    Stop,
}

/// What a lane tells the control thread.
#[derive(Debug)]
pub enum LaneEvent {
    /// A datagram of a handshake came.
    Handshake {
        /// Where from, and to which address.
        from: Endpoint,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// The peer has shown that it has the keys of a session in which it called us.
    SessionConfirmed {
        /// The session, as we number it.
        local_index: u32,
    },
    /// A new session with this peer is wanted.
    SessionWanted(PeerId),
    /// The lane has ended, by command or because it could not go on.
    Ended {
        /// Its number.
        lane: u8,
        /// Why, if it was not asked to.
        cause: Option<io::Error>,
    },
}

/// Both ends of a lane's conversation with the control thread, lane side.
#[derive(Debug)]
pub struct LaneChannel {
    /// Commands to the lane.
    pub commands: Receiver<Command>,
    /// Notices to the control thread; bounded: what does not fit is counted and forgotten.
    pub events: SyncSender<LaneEvent>,
    /// Wakes the control thread.
    pub control: Arc<Waker>,
}
