//! A block that is being filled, and what its coming tells of its sender.

use std::time::Instant;

use crate::fec::received_block::{Insertion, ReceivedBlock};

/// A block and what its coming tells.
#[derive(Debug)]
pub(super) struct OpenBlock {
    pub(super) block: ReceivedBlock,
    /// When anything was first heard of it.
    pub(super) since: Instant,
    /// Since when something of it is known to be missing, or may be because it is not the last any more.
    pub(super) missing_since: Option<Instant>,
    /// When something of it came last, or its end did.
    pub(super) heard: Instant,
    /// Its sender is known to have closed it, and to have sent all of it unless it died in that moment.
    pub(super) closed: bool,
    /// Something came that its sender sent after it.
    pub(super) ended: bool,
}

impl OpenBlock {
    /// A symbol of it came. What came twice is nothing new of it.
    pub(super) fn hear(&mut self, insertion: Insertion, now: Instant) {
        if insertion == Insertion::New {
            self.heard = now;
        }
    }

    /// Something came that was sent after all of it.
    pub(super) fn end(&mut self, now: Instant) {
        self.closed = true;
        if !std::mem::replace(&mut self.ended, true) {
            self.heard = now;
        }
    }
}
