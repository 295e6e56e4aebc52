//! The blocks that the kernel has taken, in order, until it is known that they have left.
//!
//! A timestamp shows that a datagram has left, and so all that was handed over before it. It says how many blocks those
//! are, so one that never comes is made good by the next.

use std::collections::VecDeque;

use crate::wire::payload_id::BlockId;

/// Blocks remembered; beyond, the oldest is not called protected by a timestamp any more.
const BLOCKS_MAX: usize = 65_536;

/// The blocks toward one peer that wait in this host, as far as is known.
#[derive(Debug, Default)]
pub(super) struct Departures {
    waiting: VecDeque<BlockId>,
    /// Blocks that were sent before the first of `waiting`.
    before: u64,
}

impl Departures {
    /// The kernel has taken all of `block`.
    pub fn on_sent(&mut self, block: BlockId) {
        if self.waiting.len() >= BLOCKS_MAX {
            self.waiting.pop_front();
            self.before += 1;
        }
        self.waiting.push_back(block);
    }

    /// One of the first `blocks`, counted from the start, that has not been named yet.
    pub fn next_left(&mut self, blocks: u64) -> Option<BlockId> {
        if blocks <= self.before {
            return None;
        }
        let block = self.waiting.pop_front()?;
        self.before += 1;
        Some(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(departures: &mut Departures, blocks: u64) -> Vec<u64> {
        std::iter::from_fn(|| departures.next_left(blocks)).map(|block| block.sbn).collect()
    }

    #[test]
    fn each_block_leaves_once_with_the_first_timestamp_that_shows_it() {
        let mut departures = Departures::default();
        (10..15).for_each(|sbn| departures.on_sent(BlockId { profile: 0, sbn }));
        assert_eq!(left(&mut departures, 0), [0u64; 0]);
        assert_eq!(left(&mut departures, 2), [10, 11]);
        assert_eq!(left(&mut departures, 1), [0u64; 0], "late");
        assert_eq!(left(&mut departures, 9), [12, 13, 14]);
        departures.on_sent(BlockId { profile: 0, sbn: 15 });
        assert_eq!(left(&mut departures, 5), [0u64; 0]);
        assert_eq!(left(&mut departures, 6), [15]);
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let mut departures = Departures::default();
        (0..BLOCKS_MAX as u64 + 3).for_each(|sbn| departures.on_sent(BlockId { profile: 0, sbn }));
        assert_eq!(left(&mut departures, 3), [0u64; 0]);
        assert_eq!(left(&mut departures, 4), [3]);
    }
}
