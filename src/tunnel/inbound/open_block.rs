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
    /// When something of it came last, or its end became known.
    pub(super) heard: Instant,
    /// Its sender is known to have closed it, and to have sent all of it unless it died in that moment.
    pub(super) closed: bool,
}

impl OpenBlock {
    /// A symbol of it came. What came twice is nothing new of it.
    pub(super) fn hear(&mut self, insertion: Insertion, now: Instant) {
        if insertion == Insertion::New {
            self.heard = now;
        }
    }

    /// Its end is known.
    pub(super) fn close(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.closed, true) {
            self.heard = now;
        }
    }
}
