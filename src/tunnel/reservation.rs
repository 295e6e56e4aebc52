//! The place of one packet in a peer's open block, reserved before the packet is put there.
//!
//! A [`Reservation`] knows its block before the packet is in it, and its `commit` cannot fail: it borrows session,
//! queue and block, so nothing else can change them meanwhile.

use super::reporting::Reporting;
use super::sender::{Egress, Sender};
use crate::wire::payload_id::BlockId;
use crate::wire::virtio::VirtioHeader;

/// A reserved place for one packet.
pub struct Reservation<'a> {
    sender: &'a mut Sender,
    egress: Egress<'a>,
    reporting: &'a mut Reporting,
}

impl<'a> Reservation<'a> {
    pub(super) fn new(sender: &'a mut Sender, egress: Egress<'a>, reporting: &'a mut Reporting) -> Self {
        Self { sender, egress, reporting }
    }

    /// The block that the packet will be in.
    pub fn block(&self) -> BlockId {
        self.sender.block_id()
    }

    /// The packet of `len` bytes, as it was read.
    pub fn packet(&mut self, len: usize) -> &[u8] {
        &self.sender.room()[..len]
    }

    /// Puts the packet of `len` bytes into the block; seals full symbols, closes a full block.
    pub fn commit(mut self, virtio: VirtioHeader, len: usize) {
        self.sender.commit(virtio, len, &mut self.egress);
        self.reporting.on_data_sent(self.egress.now);
    }
}
