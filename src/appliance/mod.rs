//! A running appliance: lanes and the control thread, where state machines and system calls meet.

pub mod control;
pub mod desk;
pub mod lane;
mod outlet;
mod routes;
mod setup;
pub mod snapshot;
pub mod status;
