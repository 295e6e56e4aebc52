//! The memory of one profile: what it holds is counted, and nothing is taken that would exceed the limit.
//!
//! An authentic sender that is faulty or compromised chooses how long its blocks are and how many are open. So each
//! growth is counted before it is made: the lists of blocks, the blocks, their symbols. Input without room is dropped,
//! as if it had been lost. One profile may hold what the others of its peer leave. Before that limit is reached, the
//! profile that holds most gives up its oldest blocks ([`super::super::peer`]).

use std::time::Instant;

use super::open_block::OpenBlock;
use super::{OPEN_BLOCKS_MAX, Receiver};

/// Bytes that the blocks of all profiles of one peer on one lane may hold, including spare blocks and the lists of
/// blocks.
pub const MEMORY_MAX: usize = 64 << 20;
/// From here on the oldest blocks are given up.
pub const MEMORY_HIGH: usize = MEMORY_MAX / 8 * 7;

/// Empty blocks that are kept for their memory, and the bytes of all of them.
const SPARE_MAX: usize = 64;
const SPARE_MEMORY_MAX: usize = 8 << 20;
/// A longer block is not kept: a few of them would fill the limit.
const SPARE_BLOCK_MAX: usize = 512 << 10;

/// Bytes of one block's places in the lists.
const PLACE: usize = size_of::<Option<Box<OpenBlock>>>() + size_of::<u64>();

impl Receiver {
    /// Sets the bytes that this profile may hold; what it holds already stays.
    pub fn set_memory_max(&mut self, bytes: usize) {
        self.memory_max = bytes;
    }

    /// Bytes held.
    pub fn memory(&self) -> usize {
        self.memory
    }

    /// Frees `bytes`: spare blocks at once, then the oldest open blocks, whose memory is free when their whole ADUs
    /// have left.
    pub fn relieve(&mut self, bytes: usize) {
        let before = self.memory;
        self.memory -= self.spare_memory;
        (self.spare, self.spare_memory) = (Vec::new(), 0);
        let mut left = bytes.saturating_sub(before - self.memory);
        let mut given_up = 0;
        for open in &self.blocks {
            if left == 0 {
                break;
            }
            given_up += 1;
            left = left.saturating_sub(open.as_ref().map_or(0, |open| OpenBlock::OVERHEAD + open.block.memory()));
        }
        self.give_up_below = self.give_up_below.max(self.next + given_up);
    }

    /// Bytes that may still be taken.
    pub(super) fn room(&self) -> usize {
        self.memory_max.saturating_sub(self.memory)
    }

    /// An empty block, with `places` places in the lists; `None` without room.
    pub(super) fn take_spare(&mut self, places: usize, now: Instant) -> Option<Box<OpenBlock>> {
        let have = self.blocks.capacity().min(self.touched.capacity());
        if places > have {
            let wanted = (2 * have).clamp(places, (2 * OPEN_BLOCKS_MAX as usize).max(places));
            let more = |list: usize| wanted.saturating_sub(list);
            let cost = more(have) * PLACE;
            if cost > self.room() {
                return None;
            }
            self.blocks.reserve_exact(wanted.saturating_sub(self.blocks.len()));
            self.touched.reserve_exact(wanted.saturating_sub(self.touched.len()));
            self.memory += cost;
        }
        if let Some(open) = self.spare.pop() {
            self.spare_memory -= OpenBlock::OVERHEAD + open.block.memory();
            return Some(open);
        }
        if OpenBlock::OVERHEAD > self.room() {
            return None;
        }
        self.memory += OpenBlock::OVERHEAD;
        Some(Box::new(OpenBlock::new(self.symbol_size, now)))
    }

    /// Keeps a finished block for the next one, or frees its memory.
    pub(super) fn put_aside(&mut self, mut open: Box<OpenBlock>) {
        open.block.clear();
        let bytes = OpenBlock::OVERHEAD + open.block.memory();
        let is_kept = self.spare.len() < SPARE_MAX
            && open.block.memory() <= SPARE_BLOCK_MAX
            && self.spare_memory + bytes <= SPARE_MEMORY_MAX;
        if is_kept {
            self.spare_memory += bytes;
            self.spare.push(open);
        } else {
            self.memory -= bytes;
        }
    }
}
