//! A running appliance: the lanes and the control thread, where state machines meet system calls.
//!
//! * [`lane`]: one thread for packets, its turn and all that a turn needs;
//! * `notify`: from the events of a lane to the notifications of subscribers;
//! * [`status`]: counters, and their form for people and programs;
//! * [`host`]: names, routes and interfaces of this machine.
//!
//! Beside these wings: [`control`] is the control thread, `peering` and `peer_log` are its sessions and what it logs
//! about them, [`metrics`] exports a status to Prometheus, `history` is the last seconds for status, `setup` makes state
//! machines from the configuration, [`planning`] follows links and plans repair.
//!
//! Start with [`lane`], whose first comment lists the steps of a turn. Then read [`control`], or `notify` to follow how
//! bytes become "protected". The meaning of bytes, and what may be called protected, is decided in [`crate::tunnel`],
//! [`crate::flow`] and [`crate::protect`].

pub mod bypass;
pub mod control;
mod history;
pub mod hooks;
pub mod host;
pub mod lane;
pub mod metrics;
mod notify;
mod peer_log;
mod peering;
pub mod planning;
mod pulse;
mod setup;
pub mod status;
pub mod watchdog;
