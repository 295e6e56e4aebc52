//! Packets as a forwarder shows them to its caller: on the way out, on the way in, and those that fit no prefix.

use std::net::IpAddr;

use crate::tunnel::PeerId;
use crate::tunnel::drop_reason::DropReason;
use crate::wire::packet::PacketView;
use crate::wire::payload_id::BlockId;
use crate::wire::virtio::VirtioHeader;

/// A packet to a peer, shown before it is put into its block or dropped: to follow its flow, the observer needs both. Of
/// a super-packet, the first segment may be dropped and the others go: then the observer sees two packets.
#[derive(Debug)]
pub struct Outgoing<'a> {
    /// The peer that it goes to.
    pub peer: PeerId,
    /// The block it will be in; `None` if it is dropped: no session, too much waits for the path, or for too long.
    pub block: Option<BlockId>,
    /// Its offload header, checked; with [`VirtioHeader::DATA_VALID`] if this host has verified its checksum.
    pub header: VirtioHeader,
    /// The packet or super-packet.
    pub packet: &'a [u8],
    /// Its headers.
    pub view: &'a PacketView,
}

/// A dropped packet whose addresses fit no prefix of ours or of a peer: prefixes or routes are wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stray {
    /// Why it was dropped.
    pub reason: DropReason,
    /// Its source.
    pub source: IpAddr,
    /// Its destination.
    pub destination: IpAddr,
}

/// A packet for the TUN.
#[derive(Debug)]
pub struct Deliverable<'a> {
    /// The peer that it comes from.
    pub peer: PeerId,
    /// Its offload header, checked.
    pub header: VirtioHeader,
    /// The packet or super-packet.
    pub packet: &'a [u8],
    /// Its headers.
    pub view: PacketView,
}
