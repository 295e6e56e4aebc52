//! The place of one packet in the open block of a peer, from the moment that it is known until the packet is in it.
//!
//! Whoever holds a [`Reservation`] knows the block before the packet is in it, and putting it there cannot fail: session,
//! queue and block are borrowed, so nothing can take them away meanwhile.

use std::time::Instant;

use super::reporting::Reporting;
use super::sender::{Egress, Sender};
use crate::wire::payload_id::BlockId;
use crate::wire::virtio::VirtioHeader;

/// The place of one packet.
pub struct Reservation<'a> {
    sender: &'a mut Sender,
    egress: Egress<'a>,
    reporting: &'a mut Reporting,
    now: Instant,
}

impl<'a> Reservation<'a> {
    pub(super) fn new(sender: &'a mut Sender, egress: Egress<'a>, reporting: &'a mut Reporting, now: Instant) -> Self {
        Self { sender, egress, reporting, now }
    }

    /// The block that the packet will be in.
    pub fn block(&self) -> BlockId {
        self.sender.block_id()
    }

    /// The packet of `len` bytes, as it was read.
    pub fn packet(&mut self, len: usize) -> &[u8] {
        &self.sender.room()[..len]
    }

    /// Puts the packet of `len` bytes into the block; seals what is full, closes a full block.
    pub fn commit(mut self, virtio: VirtioHeader, len: usize) {
        self.sender.commit(virtio, len, &mut self.egress, self.now);
        self.reporting.on_data_sent(self.now);
    }
}
