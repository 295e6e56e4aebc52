//! The tunnel between two appliances as pure state machines: no I/O, no clock, no locks.

pub mod block_event;
pub mod drop_reason;
pub mod endpoint;
pub mod forwarder;
mod given_up;
pub mod handshake;
pub mod heard;
pub mod hello;
pub mod inbound;
pub mod keys;
mod loss;
pub mod lost_blocks;
mod mac;
pub mod outbox;
mod pacer;
pub mod peer;
pub mod policy;
pub mod prefixes;
pub mod replay;
pub mod reporting;
mod round_trips;
pub mod seal;
pub mod sender;
pub mod session;
pub mod train_watch;

/// A configured peer: its place in the configuration's list of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u16);
