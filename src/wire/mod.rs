//! Bytes to values and back: our own datagrams, and a view of the user's packets. It keeps no state and decides
//! nothing.
//!
//! Ours: [`datagram`] (the clear header), [`payload_id`] (which symbol), [`adu`] (a packet in a block), [`report`],
//! [`handshake`]. The user's: [`packet`] (a view of the headers), [`virtio`], [`offload`] and [`finish`] (what the
//! kernel leaves to a device), [`segment`] (cutting super-packets), [`traffic_class`] (DSCP and ECN),
//! [`checksum`], [`timestamp`].
//!
//! Start with [`datagram`] and [`payload_id`] beside `docs/wire.md`, or with [`packet`].

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
pub mod traffic_class;
pub mod virtio;
