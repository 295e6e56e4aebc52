//! What the appliance reads from its host and changes there: names, routes, and the devices that lead to the peers.
//!
//! Only the control thread runs this code, so an answer may take its time. Lanes check the egress themselves, in
//! `notify`. Start with [`routes`].

pub(super) mod names;
pub mod route_trouble;
pub mod routes;
pub(super) mod uplinks;
