//! What the appliance reads from its host and changes there: names, routes, the devices that lead to the peers, and
//! what it gives up of its own rights.
//!
//! Only the control thread runs this code, so an answer may take its time. Lanes check the egress themselves, in
//! `notify`. Start with [`routes`].

pub(super) mod lane_priority;
pub mod names;
pub(super) mod privileges;
pub mod route_trouble;
pub mod routes;
pub(super) mod uplinks;
