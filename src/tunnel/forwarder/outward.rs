//! A packet from the TUN to its block: checks, peer, profile, and what becomes of it if a queue is full: that for the rate of its
//! path stands, or that in front of the peer, or one on the path has dropped what the code repaired.
//!
//! A packet that is to tell its sender so is marked if the sender understands marks (RFC 3168). Else it is dropped: a
//! packet whole, a super-packet its first segment only. CoDel counts packets as the path carries them; a super-packet can
//! be 45 of them, and losing them all at once costs TCP a timeout. The first is dropped, not the last: the segments behind
//! it make the receiver repeat its acknowledgement, so that the sender hears of it within a round trip.

use std::time::Instant;

use super::{Destination, Forwarder, Outgoing, Stray};
use crate::tunnel::PeerId;
use crate::tunnel::drop_reason::DropReason;
use crate::tunnel::peer::Peer;
use crate::tunnel::sender::Profile;
use crate::wire::finish::settle_offload;
use crate::wire::packet::{PacketView, TCP};
use crate::wire::segment::{segment_count, segment_range};
use crate::wire::traffic_class::{TrafficClass, mark_congestion};
use crate::wire::virtio::VirtioHeader;

/// A packet in the room of its block, with its headers.
struct Read {
    header: VirtioHeader,
    len: usize,
    view: PacketView,
}

impl Forwarder {
    pub(super) fn forward(
        &mut self,
        header: VirtioHeader,
        len: usize,
        now: Instant,
        mut observe: impl FnMut(Outgoing<'_>),
    ) -> Result<(), DropReason> {
        let read_to = self.last;
        let room = self.peers[read_to.peer].room(&self.profiles[read_to.profile]);
        let packet = room.get_mut(..len).ok_or(DropReason::MalformedPacket)?;
        let was_verified = header.flags & VirtioHeader::DATA_VALID;
        let (header, view) = settle_offload(header, packet).map_err(|_| DropReason::MalformedPacket)?;
        let peer = match (self.local_prefixes.lookup(view.source), self.peer_prefixes.lookup(view.destination)) {
            (Some(()), Some(peer)) => usize::from(peer.0),
            (None, _) => return Err(note_stray(&mut self.stray, DropReason::ForeignSource, &view)),
            (_, None) => return Err(note_stray(&mut self.stray, DropReason::NoPeer, &view)),
        };
        let profile = usize::from(self.peers[peer].policy().classify(&view).0);
        let destination = Destination { peer, profile };
        if destination != read_to {
            self.scratch.clear();
            self.scratch.extend_from_slice(&self.peers[read_to.peer].room(&self.profiles[read_to.profile])[..len]);
            self.peers[peer].room(&self.profiles[profile])[..len].copy_from_slice(&self.scratch);
            self.last = destination;
        }
        let id = PeerId(peer as u16);
        let (peer, profile) = (&mut self.peers[peer], &self.profiles[profile]);
        let seen = |header: VirtioHeader| VirtioHeader { flags: header.flags | was_verified, ..header };
        let mut read = Read { header, len, view };
        if let Some(reason) = told_by_drop(peer, profile, &read, now) {
            let rest = cut_first(peer, profile, &read, &mut self.segment, &mut self.scratch);
            let (header, dropped) = match &rest {
                Some((header, _)) => (*header, &self.segment[..]),
                None => (read.header, &peer.room(profile)[..read.len]),
            };
            observe(Outgoing { peer: id, block: None, header: seen(header), packet: dropped, view: &read.view });
            match rest {
                None => return Err(reason),
                Some((_, rest)) => read = rest,
            }
            self.drops.count(reason);
        }
        let Read { header, len, view } = read;
        match peer.reserve(profile, &mut self.code, now) {
            Ok(mut reservation) => {
                let (block, packet) = (Some(reservation.block()), reservation.packet(len));
                observe(Outgoing { peer: id, block, header: seen(header), packet, view: &view });
                reservation.commit(header, len);
                Ok(())
            }
            Err(reason) => {
                let packet = &peer.room(profile)[..len];
                observe(Outgoing { peer: id, block: None, header: seen(header), packet, view: &view });
                Err(reason)
            }
        }
    }
}

/// Why the packet in the room, or its first segment, is dropped so that its sender slows down; `None` if it is not.
fn told_by_drop(peer: &mut Peer, profile: &Profile, read: &Read, now: Instant) -> Option<DropReason> {
    if peer.picks(now) && !mark(peer, profile, read.len) {
        peer.on_picked_dropped();
        return Some(DropReason::PathQueueStands);
    }
    if peer.picks_for_peer(read.len, now) && !mark(peer, profile, read.len) {
        return Some(DropReason::PeerQueueStands);
    }
    let class = TrafficClass::of(&peer.room(profile)[..read.len]);
    if read.view.protocol == TCP && peer.takes_repaired_loss(read.len, class, now) {
        peer.on_repaired_dropped();
        return Some(DropReason::RepairedLoss);
    }
    None
}

/// Marks the packet in the room, if its sender understands that.
fn mark(peer: &mut Peer, profile: &Profile, len: usize) -> bool {
    let marked = mark_congestion(&mut peer.room(profile)[..len]);
    if marked {
        peer.on_marked();
    }
    marked
}

/// Takes the first segment off the super-packet in the room, into `segment`. Returns its header and what is left in the
/// room; `None` if it is an ordinary packet.
fn cut_first(
    peer: &mut Peer,
    profile: &Profile,
    read: &Read,
    segment: &mut Vec<u8>,
    rest: &mut Vec<u8>,
) -> Option<(VirtioHeader, Read)> {
    let packet = &peer.room(profile)[..read.len];
    let count = segment_count(read.header, packet);
    if count < 2 {
        return None;
    }
    segment.clear();
    rest.clear();
    let first = segment_range(read.header, packet, 0..1, segment);
    let header = segment_range(read.header, packet, 1..count, rest);
    let view = PacketView::parse(rest).ok()?;
    peer.room(profile)[..rest.len()].copy_from_slice(rest);
    Some((first, Read { header, len: rest.len(), view }))
}

/// Multicast is not noted: every device sends some.
pub(super) fn note_stray(stray: &mut Option<Stray>, reason: DropReason, view: &PacketView) -> DropReason {
    if !view.destination.is_multicast() {
        *stray = Some(Stray { reason, source: view.source, destination: view.destination });
    }
    reason
}
