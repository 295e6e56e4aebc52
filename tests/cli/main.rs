//! The commands of `onwire` as a user runs them.
#![allow(clippy::unwrap_used)]

#[path = "../appliance/mod.rs"]
mod appliance;
mod keys;
mod notify;
