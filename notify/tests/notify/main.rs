//! The notification protocol from outside: publisher and client against each other, against hand-made datagrams,
//! against the vectors and descriptions in `docs/protocol`, and against Wireshark.

mod client;
mod documented;
mod flood;
mod flows;
mod messages;
mod publisher;
mod simulation;
mod tshark;
mod vectors;
mod wireshark;

/// The documents that describe the protocol.
const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs");
