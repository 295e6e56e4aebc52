//! A block being filled, and the times that decide how long it waits.

use std::time::Instant;

use crate::fec::received_block::{Insertion, ReceivedBlock};

/// A block being filled.
#[derive(Debug)]
pub(super) struct OpenBlock {
    pub(super) block: ReceivedBlock,
    /// When it was first known.
    pub(super) since: Instant,
    /// Since when something is known to be missing, or may be because it is not the last block any more.
    pub(super) missing_since: Option<Instant>,
    /// When its last new symbol came, or its end was known.
    pub(super) heard: Instant,
    /// Its sender is known to have closed it, and to have sent all of it unless it stopped at that moment.
    pub(super) closed: bool,
    /// Something came that its sender sent after it.
    pub(super) ended: bool,
    /// It is in the list of blocks that got a symbol.
    pub(super) touched: bool,
}

impl OpenBlock {
    /// Bytes of a block besides those that it counts itself: its own fields, the smallest list of holes, and the
    /// allocator's own bytes for each piece.
    pub(super) const OVERHEAD: usize = size_of::<Self>() + 192;

    /// An empty block of symbols of up to `symbol_size` bytes.
    pub(super) fn new(symbol_size: usize, now: Instant) -> Self {
        let block = ReceivedBlock::new(symbol_size);
        Self { block, since: now, missing_since: None, heard: now, closed: false, ended: false, touched: false }
    }

    /// Begins the block; `is_last` unless something of a later block came.
    pub(super) fn begin(&mut self, is_last: bool, now: Instant) {
        self.since = now;
        self.heard = now;
        self.missing_since = (!is_last).then_some(now);
        self.closed = !is_last;
        self.ended = !is_last;
        self.touched = false;
    }

    /// A symbol of it came. A duplicate is not new.
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
