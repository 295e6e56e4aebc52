//! Reads the facts: from the kernel, from programs of this host, from the running appliance, from the path. Judges
//! nothing.

pub mod appliance;
pub mod firewall;
pub mod forwarding;
pub mod path;
pub mod process;
pub mod routes;
pub mod subject;
pub mod uplink;

use std::path::Path;

/// The text of a small file of the kernel, without white space around it.
fn text(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// The number in such a file.
fn number(path: impl AsRef<Path>) -> Option<u64> {
    text(path)?.parse().ok()
}
