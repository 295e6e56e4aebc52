//! Bytes to values and back: our own datagrams, and a view of the user's packets.

pub mod adu;
pub mod checksum;
pub mod datagram;
pub mod finish;
pub mod handshake;
pub mod offload;
pub mod packet;
pub mod payload_id;
pub mod report;
#[cfg(test)]
pub(crate) mod samples;
pub mod segment;
pub mod timestamp;
pub mod virtio;
