//! What follows from the facts: findings with remedies that fit this host. Without a system call, so that each is
//! tested with facts that were made.

pub mod appliance;
pub mod firewall;
pub mod forwarding;
pub mod path;
pub mod peer;
pub mod process;
pub mod routes;
pub mod uplink;

use std::fmt::Display;

/// Several things in one line of text.
fn join<T: Display>(parts: impl IntoIterator<Item = T>) -> String {
    parts.into_iter().map(|part| part.to_string()).collect::<Vec<_>>().join(", ")
}
