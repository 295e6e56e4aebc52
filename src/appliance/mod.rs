//! A running appliance: lanes and the control thread, where state machines and system calls meet.

mod complaints;
pub mod control;
pub mod desk;
mod herald;
pub mod lane;
pub mod line;
mod outlet;
pub mod promised;
mod routes;
mod setup;
pub mod snapshot;
pub mod status;
mod suspects;
mod told;
mod uplinks;
mod voice;
mod warden;
