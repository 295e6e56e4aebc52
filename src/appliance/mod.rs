//! A running appliance: lanes and the control thread, where state machines and system calls meet.

pub mod arrived;
mod broken;
mod complaints;
pub mod control;
pub mod desk;
mod herald;
pub mod lane;
pub mod last_hop;
mod lateness;
pub mod line;
mod listening;
mod outlet;
pub mod promised;
mod readiness;
pub mod routes;
mod setup;
pub mod snapshot;
pub mod status;
mod told;
mod uplinks;
pub mod verdict;
mod vigil;
mod voice;
mod warden;
mod ways;
