//! A running appliance: lanes and the control thread, where state machines and system calls meet.
//!
//! * [`lane`]: one thread for packets, its turn and what it needs for that;
//! * `notify`: from what a lane knows to what subscribers hear;
//! * [`status`]: what is counted, and the socket on which to ask for it;
//! * [`host`]: names, routes and interfaces of this machine.
//!
//! Beside the wings: [`control`] (the control thread), `peering` and `peer_log` (its sessions, and what the log says of them),
//! `setup` (from the configuration to state machines).
//!
//! Start with [`lane`], whose first comment lists a turn. Then read [`control`], or `notify` to follow the word "protected".
//! What bytes mean and what may be called protected is decided in [`crate::tunnel`], [`crate::flow`] and
//! [`crate::protect`].

pub mod control;
pub mod host;
pub mod lane;
mod notify;
mod peer_log;
mod peering;
mod setup;
pub mod status;
