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
    /// It is in the list of those that got a symbol.
    pub(super) touched: bool,
}

impl OpenBlock {
    /// Bytes of a block beside those that it counts itself: its own fields, the least list of holes, and what the
    /// allocator keeps beside each of its pieces.
    pub(super) const OVERHEAD: usize = size_of::<Self>() + 192;

    /// An empty block of symbols of up to `symbol_size` bytes.
    pub(super) fn new(symbol_size: usize, now: Instant) -> Self {
        let block = ReceivedBlock::new(symbol_size);
        Self { block, since: now, missing_since: None, heard: now, closed: false, ended: false, touched: false }
    }

    /// It is heard of for the first time; `is_last` unless something of a later block came.
    pub(super) fn begin(&mut self, is_last: bool, now: Instant) {
        self.since = now;
        self.heard = now;
        self.missing_since = (!is_last).then_some(now);
        self.closed = !is_last;
        self.ended = !is_last;
        self.touched = false;
    }

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
