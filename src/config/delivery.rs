//! `delivery` and `bypass`: how the receiver hands packets on, and what happens while a peer is down.

use std::time::Duration;

/// How recovered packets are handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Whether a hole holds later packets back.
    pub ordering: Ordering,
    /// How long at most.
    pub hold: Duration,
}

/// Delivery order within a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordering {
    /// In order; a hole holds later packets until its block is rebuilt or expires.
    Strict,
    /// As they become whole.
    None,
}

/// What happens to packets while a peer is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// The action.
    pub when_down: WhenDown,
}

/// The action while a peer is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenDown {
    /// Packets for the peer are dropped and counted.
    Drop,
}
