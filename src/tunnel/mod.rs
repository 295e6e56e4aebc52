//! The tunnel between two appliances as pure state machines: no I/O, no clock, no locks.

pub mod handshake;
pub mod hello;
pub mod keys;
mod mac;
pub mod replay;
pub mod seal;

/// A configured peer: its place in the configuration's list of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub u16);
