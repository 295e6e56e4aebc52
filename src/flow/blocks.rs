//! Which bytes of which flows each block holds, from the first packet in it until the block is decided.
//!
//! The blocks of a profile are numbered without gaps and lie in a queue, in order. The ranges of all blocks share one
//! pool of bounded size; each block links to its ranges. What a decision means for the flows is in `block_outcome`.

use std::collections::VecDeque;

use super::coverage::Span;
use super::state::FlowId;
use crate::notify::message::Level;
use crate::wire::payload_id::BlockId;

const NONE: u32 = u32::MAX;

/// How many old blocks are searched when the pool is full.
const SEARCH_MAX: usize = 64;

/// Bytes of a flow in a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub flow: FlowId,
    pub span: Span,
    block: BlockId,
    next: u32,
    used: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    head: u32,
    tail: u32,
    level: Option<Level>,
    decided: bool,
    forgotten: bool,
}

impl Entry {
    const NEW: Self = Self { head: NONE, tail: NONE, level: None, decided: false, forgotten: false };

    fn is_claimed(&self) -> bool {
        self.level >= Some(Level::Early) && !self.decided
    }
}

#[derive(Debug, Default)]
struct Queue {
    first: u64,
    /// The search for a block to forget continues here; the protected blocks below were forgotten already.
    searched: u64,
    /// Covers all protected blocks that had to be forgotten whole, and perhaps others between them.
    dropped: std::ops::Range<u64>,
    entries: VecDeque<Entry>,
}

impl Queue {
    fn entry(&mut self, sbn: u64) -> Option<&mut Entry> {
        let at = usize::try_from(sbn.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }
}

/// Iterates over the ranges of one block.
#[derive(Debug)]
pub(super) struct Ranges(u32);

impl Ranges {
    pub fn next(&mut self, blocks: &Blocks) -> Option<Range> {
        let range = *blocks.pool.get(self.0 as usize)?;
        self.0 = range.next;
        Some(range)
    }
}

/// What is known of a block, and what it holds.
#[derive(Debug)]
pub(super) struct Known {
    pub level: Option<Level>,
    pub ranges: Ranges,
    /// It held more than `ranges`; the rest is not known.
    pub forgotten: bool,
}

#[derive(Debug)]
pub(super) struct Blocks {
    queues: Vec<Queue>,
    pool: Vec<Range>,
    free: u32,
    ranges_max: usize,
    blocks_max: usize,
    /// Blocks whose ranges had to be forgotten while they were protected or undecided.
    pub forgotten: u64,
}

impl Blocks {
    pub fn new(ranges_max: usize, blocks_max: usize) -> Self {
        let ranges_max = ranges_max.clamp(1, NONE as usize);
        Self {
            queues: Vec::new(),
            pool: Vec::with_capacity(ranges_max),
            free: NONE,
            ranges_max,
            blocks_max: blocks_max.max(1),
            forgotten: 0,
        }
    }

    /// Records that the undecided `block` holds `span` of `flow`, whose last range is number `last`. Returns the number
    /// of the range, or none if it could not be recorded.
    pub fn record(&mut self, block: BlockId, flow: FlowId, span: Span, last: u32) -> Option<u32> {
        if !self.is_open(block) {
            return None;
        }
        if let Some(range) = self.pool.get_mut(last as usize)
            && range.used
            && range.flow == flow
            && range.block == block
            && range.span.end == span.start
        {
            range.span.end = span.end;
            return Some(last);
        }
        let range = Range { flow, span, block, next: NONE, used: true };
        let number = self.allocate(range)?;
        // Making room in the pool never removes an undecided block.
        let entry = self.queues[usize::from(block.profile)].entry(block.sbn)?;
        let tail = std::mem::replace(&mut entry.tail, number);
        match tail {
            NONE => entry.head = number,
            tail => self.pool[tail as usize].next = number,
        }
        Some(number)
    }

    /// Whether the block accepts ranges; a new block is appended to the queue.
    fn is_open(&mut self, block: BlockId) -> bool {
        let profile = usize::from(block.profile);
        if self.queues.len() <= profile {
            self.queues.resize_with(profile + 1, Queue::default);
        }
        if let Some(entry) = self.queues[profile].entry(block.sbn) {
            return entry.level.is_none() && !entry.decided;
        }
        if self.queues[profile].entries.is_empty() {
            if block.sbn < self.queues[profile].first {
                return false;
            }
            self.queues[profile].first = block.sbn;
        }
        let Some(ahead) = block.sbn.checked_sub(self.queues[profile].first) else {
            return false;
        };
        let excess = ahead.saturating_add(1).saturating_sub(self.blocks_max as u64);
        for _ in 0..excess.min(self.queues[profile].entries.len() as u64) {
            self.drop_first(profile);
        }
        let queue = &mut self.queues[profile];
        if queue.entries.is_empty() {
            queue.first = block.sbn;
        }
        // At most `blocks_max`: the excess was just removed.
        let len = (block.sbn - queue.first) as usize + 1;
        queue.entries.resize(len, Entry::NEW);
        true
    }

    /// The block has reached `level`. Returns what was known before; none if `level` is not new.
    pub fn raise(&mut self, block: BlockId, level: Level) -> Option<Known> {
        let entry = self.queues.get_mut(usize::from(block.profile))?.entry(block.sbn)?;
        if entry.decided || entry.level.is_some_and(|known| known >= level) {
            return None;
        }
        let forgotten = entry.forgotten;
        Some(Known { level: entry.level.replace(level), ranges: Ranges(entry.head), forgotten })
    }

    /// What is remembered of a block. A block forgotten whole is assumed to have been protected, which is the worst
    /// case.
    pub fn find(&mut self, block: BlockId) -> Option<Known> {
        let queue = self.queues.get_mut(usize::from(block.profile))?;
        if queue.dropped.contains(&block.sbn) {
            return Some(Known { level: Some(Level::OnWire), ranges: Ranges(NONE), forgotten: true });
        }
        let entry = queue.entry(block.sbn)?;
        (!entry.decided).then_some(Known { level: entry.level, ranges: Ranges(entry.head), forgotten: entry.forgotten })
    }

    /// No block of `profile` below `below` can turn out lost any more.
    pub fn settle_below(&mut self, profile: u8, below: u64) {
        if let Some(queue) = self.queues.get_mut(usize::from(profile)) {
            queue.dropped.start = queue.dropped.start.max(below);
        }
    }

    /// The first remembered block of `profile`, if it is below `below`.
    pub fn first_below(&self, profile: u8, below: u64) -> Option<BlockId> {
        let queue = self.queues.get(usize::from(profile))?;
        (!queue.entries.is_empty() && queue.first < below).then_some(BlockId { profile, sbn: queue.first })
    }

    /// Any remembered block.
    pub fn first(&self) -> Option<BlockId> {
        (0..self.queues.len()).find_map(|profile| self.first_below(profile as u8, u64::MAX))
    }

    /// The block is decided: its ranges are freed.
    pub fn release(&mut self, block: BlockId) {
        let profile = usize::from(block.profile);
        let Some(entry) = self.queues.get_mut(profile).and_then(|queue| queue.entry(block.sbn)) else {
            return;
        };
        entry.decided = true;
        let head = std::mem::replace(&mut entry.head, NONE);
        entry.tail = NONE;
        self.free_all(head);
        let queue = &mut self.queues[profile];
        while queue.entries.front().is_some_and(|entry| entry.decided) {
            queue.entries.pop_front();
            queue.first = queue.first.saturating_add(1);
        }
    }

    /// Forgets the numbers of all blocks: an epoch begins.
    pub fn restart(&mut self) {
        self.queues.clear();
        self.pool.clear();
        self.free = NONE;
    }

    fn drop_first(&mut self, profile: usize) {
        let queue = &mut self.queues[profile];
        if let Some(entry) = queue.entries.pop_front() {
            if entry.is_claimed() {
                let start = if queue.dropped.is_empty() { queue.first } else { queue.dropped.start };
                queue.dropped = start..queue.first.saturating_add(1);
            }
            queue.first = queue.first.saturating_add(1);
            self.forgotten += u64::from(entry.head != NONE);
            self.free_all(entry.head);
        }
    }

    fn free_all(&mut self, head: u32) {
        let mut at = head;
        while at != NONE {
            let range = &mut self.pool[at as usize];
            range.used = false;
            let next = std::mem::replace(&mut range.next, self.free);
            self.free = at;
            at = next;
        }
    }

    fn allocate(&mut self, range: Range) -> Option<u32> {
        if self.free == NONE && self.pool.len() < self.ranges_max {
            self.pool.push(range);
            return Some(self.pool.len() as u32 - 1);
        }
        if self.free == NONE {
            self.make_room();
        }
        let number = self.free;
        let place = self.pool.get_mut(number as usize)?;
        self.free = std::mem::replace(place, range).next;
        Some(number)
    }

    /// Forgets the ranges of an old block that is already protected: only the text of a violation would still need
    /// them.
    fn make_room(&mut self) {
        for queue in &mut self.queues {
            let from = usize::try_from(queue.searched.saturating_sub(queue.first)).unwrap_or(usize::MAX);
            let old = queue.entries.iter_mut().enumerate().skip(from).take(SEARCH_MAX);
            let Some((at, entry)) = old.into_iter().find(|(_, entry)| entry.level.is_some() && entry.head != NONE)
            else {
                continue;
            };
            entry.tail = NONE;
            entry.forgotten = true;
            let head = std::mem::replace(&mut entry.head, NONE);
            queue.searched = queue.first.saturating_add(at as u64 + 1);
            self.forgotten += 1;
            self.free_all(head);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::coverage::Mark;
    use super::*;

    fn block(sbn: u64) -> BlockId {
        BlockId { profile: 1, sbn }
    }

    fn flow(instance: u64) -> FlowId {
        FlowId { slot: instance as u32, instance }
    }

    fn span(start: u64) -> Span {
        Span { start: Mark { offset: start, packets: 0 }, end: Mark { offset: start + 10, packets: 0 } }
    }

    fn held(blocks: &mut Blocks, id: BlockId) -> Vec<(u64, u64, u64)> {
        let Some(mut known) = blocks.find(id) else { return Vec::new() };
        std::iter::from_fn(|| known.ranges.next(blocks))
            .map(|range| (range.flow.instance, range.span.start.offset, range.span.end.offset))
            .collect()
    }

    #[test]
    fn consecutive_bytes_of_a_flow_are_one_range_of_the_block() {
        let mut blocks = Blocks::new(8, 8);
        let first = blocks.record(block(5), flow(1), span(0), NONE).unwrap();
        blocks.record(block(5), flow(2), span(70), NONE).unwrap();
        assert_eq!(blocks.record(block(5), flow(1), span(10), first), Some(first));
        assert_ne!(blocks.record(block(6), flow(1), span(20), first), Some(first), "another block");
        assert_ne!(blocks.record(block(5), flow(1), span(90), first), Some(first), "a gap");
        assert_eq!(held(&mut blocks, block(5)), [(1, 0, 20), (2, 70, 80), (1, 90, 100)]);
    }

    #[test]
    fn a_decided_block_accepts_no_ranges_and_levels_only_rise() {
        let mut blocks = Blocks::new(8, 8);
        for sbn in 0..3 {
            blocks.record(block(sbn), flow(1), span(sbn * 10), NONE).unwrap();
        }
        blocks.release(block(1));
        assert_eq!(blocks.record(block(1), flow(1), span(0), NONE), None);
        assert!(blocks.raise(block(1), Level::OnWire).is_none());
        assert_eq!(blocks.raise(block(2), Level::OnWire).unwrap().level, None);
        assert_eq!(blocks.record(block(2), flow(1), span(0), NONE), None, "its repair symbols are already computed");
        assert!(blocks.raise(block(2), Level::Queued).is_none(), "levels only rise");
        blocks.release(block(0));
        assert_eq!(blocks.record(block(0), flow(1), span(0), NONE), None, "below all remembered blocks");
        assert_eq!(blocks.first(), Some(block(2)));
    }

    #[test]
    fn a_full_pool_forgets_protected_blocks_but_never_open_ones() {
        let mut blocks = Blocks::new(2, 8);
        blocks.record(block(0), flow(1), span(0), NONE).unwrap();
        blocks.record(block(1), flow(1), span(10), NONE).unwrap();
        assert_eq!(blocks.record(block(2), flow(1), span(20), NONE), None);
        blocks.raise(block(1), Level::OnWire).unwrap();
        assert!(blocks.record(block(2), flow(1), span(20), NONE).is_some());
        assert_eq!(blocks.forgotten, 1);
        assert_eq!(held(&mut blocks, block(0)).len(), 1);
        assert!(held(&mut blocks, block(1)).is_empty());
    }

    #[test]
    fn block_numbers_may_jump() {
        let mut blocks = Blocks::new(8, 4);
        for sbn in [0, 2, 5, 1 << 60] {
            assert!(blocks.record(block(sbn), flow(1), span(0), NONE).is_some(), "{sbn}");
            assert!(blocks.queues[1].entries.len() <= 4);
        }
        assert_eq!(blocks.forgotten, 3);
        assert!(blocks.record(block(u64::MAX), flow(1), span(0), NONE).is_some());
        blocks.release(block(u64::MAX));
        assert_eq!(blocks.first(), None);
        assert_eq!(blocks.pool.len(), 2, "forgotten ranges are used again");
        assert_eq!(blocks.record(block(3), flow(1), span(0), NONE), None);
    }

    #[test]
    fn all_forgotten_protected_blocks_are_known_as_forgotten_until_they_are_decided() {
        let mut blocks = Blocks::new(16, 3);
        for sbn in 0..3 {
            blocks.record(block(sbn), flow(1), span(sbn * 10), NONE).unwrap();
            blocks.raise(block(sbn), Level::OnWire).unwrap();
        }
        blocks.record(block(4), flow(1), span(40), NONE).unwrap();
        let is_forgotten =
            |blocks: &mut Blocks, sbn| blocks.find(block(sbn)).map(|known| (known.level, known.forgotten));
        for sbn in [0, 1] {
            assert_eq!(is_forgotten(&mut blocks, sbn), Some((Some(Level::OnWire), true)), "block {sbn}");
        }
        assert_eq!(is_forgotten(&mut blocks, 2), Some((Some(Level::OnWire), false)));
        blocks.settle_below(1, 1);
        assert_eq!(is_forgotten(&mut blocks, 0), None);
        assert_eq!(is_forgotten(&mut blocks, 1), Some((Some(Level::OnWire), true)));
    }
}
