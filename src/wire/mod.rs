//! Bytes to values and back: our own datagrams, and a view of the user's packets.

pub mod adu;
pub mod datagram;
pub mod handshake;
pub mod payload_id;
pub mod report;
pub mod virtio;
