//! Bytes to values and back: our own datagrams, and a view of the user's packets.

pub mod virtio;
