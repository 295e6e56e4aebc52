//! What the appliance asks of its host and changes there: names, routes, and the devices that lead to the peers.
//!
//! Only the control thread is here, so an answer may take its time. Start with [`routes`].

pub(super) mod names;
pub mod routes;
pub(super) mod uplinks;
