//! The commands of `onwire` as a user runs them.
#![allow(clippy::unwrap_used)]

#[path = "../appliance/mod.rs"]
mod appliance;
mod apply;
mod doctor;
mod explain;
mod init;
mod keys;
mod notify;
#[cfg(feature = "lab")]
mod packaging;
mod patroni;
mod processes;
mod python;
#[path = "../json_schema/mod.rs"]
mod schema_check;
mod scripts;
mod status;
#[cfg(feature = "top")]
mod top;
#[path = "../../notify/tests/notify/tshark.rs"]
mod tshark;

/// The documents that describe the protocol.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
