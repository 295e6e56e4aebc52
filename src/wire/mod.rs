//! Bytes to values and back: our own datagrams, and a view of the user's packets.

pub mod checksum;
pub mod offload;
pub mod packet;
#[cfg(test)]
pub(crate) mod samples;
pub mod segment;
pub mod virtio;
