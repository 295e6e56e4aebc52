//! The evidence for each block, from its first packet until the peer reports its outcome.
//!
//! A block moves one way: open, closed, sent, then it has left or its timestamp is missing. Nothing is claimed here;
//! whether a block that has left is protected also depends on the link.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::wire::payload_id::BlockId;

/// Undecided blocks per profile; beyond, the oldest is forgotten, except for its number.
pub(super) const BLOCKS_MAX: usize = 16_384;
/// A timestamp counts only within this time after the send.
pub const STAMP_WITHIN: Duration = Duration::from_secs(1);

/// The progress of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Accepts packets.
    Open,
    /// Complete; the kernel has not taken it yet.
    Closed,
    /// The kernel took all of it; its timestamp may come.
    Sent { since: Instant },
    /// It was claimed as protected.
    Claimed,
    /// Nothing will prove that it has left; only a report can decide it.
    Unproven,
    /// The peer has it, or it is void: it is decided.
    Done,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    source_symbols: u16,
    repair_symbols: u16,
    stage: Stage,
    /// No earlier send carries a datagram of it.
    first_send: u64,
    /// When its first packet came; none if it never had one.
    opened: Option<Instant>,
}

impl Entry {
    const NEW: Self = Self { source_symbols: 0, repair_symbols: 0, stage: Stage::Open, first_send: 0, opened: None };
}

/// The blocks of one profile.
#[derive(Debug, Default)]
struct Queue {
    first: u64,
    entries: VecDeque<Entry>,
    /// Blocks below this one do not wait for a timestamp.
    unstamped_from: u64,
    /// The span of forgotten blocks that the peer has not reported on yet; and the span of the claimed ones among them.
    forgotten: Range<u64>,
    forgotten_claims: Range<u64>,
    /// All bytes that flows sent before this block opened are held already.
    held: u64,
}

impl Queue {
    fn entry(&mut self, sbn: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(sbn.checked_sub(self.first)?).ok()?)
    }

    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Forgets the oldest block. Returns true if it was undecided.
    fn forget_first(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        let sbn = self.first;
        self.first += 1;
        if entry.stage == Stage::Done {
            return false;
        }
        extend(&mut self.forgotten, sbn);
        if entry.stage == Stage::Claimed {
            extend(&mut self.forgotten_claims, sbn);
        }
        true
    }

    fn drop_done(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.stage == Stage::Done) {
            self.entries.pop_front();
            self.first += 1;
        }
    }
}

fn extend(range: &mut Range<u64>, sbn: u64) {
    let start = if range.is_empty() { sbn } else { range.start };
    *range = start..sbn + 1;
}

/// Source and repair symbols of a block.
pub type Size = (u16, u16);

/// A block that the kernel has taken completely.
#[derive(Clone, Copy, Debug)]
pub struct SentBlock {
    /// Its symbols.
    pub size: Size,
    /// No earlier send carries a datagram of it.
    pub first_send: u64,
}

/// A block that has left this host completely.
#[derive(Clone, Copy, Debug)]
pub struct LeftBlock {
    /// Its symbols.
    pub size: Size,
    /// The time from its first packet until it was known to have left; none if it never had a packet.
    pub took: Option<Duration>,
}

/// The reported outcome of an undecided block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The peer has all of it.
    Whole,
    /// It is lost.
    Lost {
        /// It was claimed as protected.
        claimed: bool,
    },
}

/// The blocks of one lane toward one peer.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    queues: Vec<Queue>,
    /// Blocks that were forgotten while undecided.
    pub forgotten: u64,
    claims_void: bool,
}

impl Ledger {
    /// A packet is put into `block`. Returns true if older undecided blocks had to be forgotten for it. Their loss
    /// could not be assigned to flows, so everything that flows have sent before this packet must be held. `next_send`
    /// is the number of the next send.
    #[inline]
    #[must_use]
    pub fn on_packet(&mut self, block: BlockId, next_send: u64, now: Instant) -> bool {
        let profile = usize::from(block.profile);
        self.queues.get(profile).is_none_or(|queue| queue.end() <= block.sbn) && self.open(block, next_send, now)
    }

    #[cold]
    fn open(&mut self, block: BlockId, first_send: u64, now: Instant) -> bool {
        let profile = usize::from(block.profile);
        if self.queues.len() <= profile {
            self.queues.resize_with(profile + 1, Queue::default);
        }
        let queue = &mut self.queues[profile];
        if queue.entries.is_empty() {
            queue.first = block.sbn;
        }
        // The numbers between belong to blocks without packets; they are void.
        while queue.end() < block.sbn && queue.entries.len() < BLOCKS_MAX {
            queue.entries.push_back(Entry { stage: Stage::Done, ..Entry::NEW });
        }
        if queue.end() < block.sbn {
            while !queue.entries.is_empty() {
                self.forgotten += u64::from(queue.forget_first());
            }
            queue.first = block.sbn;
        }
        queue.entries.push_back(Entry { first_send, opened: Some(now), ..Entry::NEW });
        if queue.entries.len() > BLOCKS_MAX {
            self.forgotten += u64::from(queue.forget_first());
        }
        queue.drop_done();
        let hold = queue.forgotten.end > queue.held;
        if hold {
            queue.held = block.sbn;
        }
        hold
    }

    /// `block` is complete.
    pub fn on_closed(&mut self, block: BlockId, (source_symbols, repair_symbols): Size) {
        let Some(entry) = self.entry(block) else { return };
        entry.source_symbols = source_symbols;
        entry.repair_symbols = repair_symbols;
        if entry.stage == Stage::Open {
            // Without repair symbols a block is never protected.
            entry.stage = if repair_symbols == 0 { Stage::Unproven } else { Stage::Closed };
        }
    }

    /// The kernel took the last datagram of `block`. Returns `Some` if it took all the others too.
    pub fn on_sent(&mut self, block: BlockId, now: Instant) -> Option<SentBlock> {
        let entry = self.entry(block).filter(|entry| entry.stage == Stage::Closed)?;
        entry.stage = Stage::Sent { since: now };
        Some(SentBlock { size: (entry.source_symbols, entry.repair_symbols), first_send: entry.first_send })
    }

    /// No more datagrams of `block` will be sent.
    pub fn on_abandoned(&mut self, block: BlockId) {
        if let Some(entry) = self.entry(block) {
            entry.stage = Stage::Done;
        }
        if let Some(queue) = self.queues.get_mut(usize::from(block.profile)) {
            queue.drop_done();
        }
    }

    /// A datagram could not be sent: no block that the kernel has not taken completely will be whole. Returns the
    /// number of these blocks.
    pub fn on_unsendable(&mut self) -> u64 {
        let mut hit = 0;
        for queue in &mut self.queues {
            for entry in queue.entries.iter_mut().rev() {
                match entry.stage {
                    Stage::Open | Stage::Closed => {
                        entry.stage = Stage::Unproven;
                        hit += 1;
                    }
                    Stage::Done => {}
                    // This block never waits for a timestamp; earlier ones may.
                    Stage::Unproven if entry.repair_symbols == 0 && entry.source_symbols > 0 => {}
                    // Blocks leave in order: all blocks before this one were sent or hit already.
                    Stage::Sent { .. } | Stage::Claimed | Stage::Unproven => break,
                }
            }
        }
        hit
    }

    /// From now on, no departure proves that a block begun before has left completely: a datagram was dropped in this
    /// host or takes another path. Returns the number of blocks hit.
    pub fn distrust_pending(&mut self) -> u64 {
        let mut hit = 0;
        for queue in &mut self.queues {
            for entry in queue.entries.iter_mut() {
                if matches!(entry.stage, Stage::Open | Stage::Closed | Stage::Sent { .. }) {
                    entry.stage = Stage::Unproven;
                    hit += 1;
                }
            }
        }
        hit
    }

    /// `block` is known at `now` to have left this host completely. Returns `Some` if it was waiting for that.
    pub fn on_left(&mut self, block: BlockId, now: Instant) -> Option<LeftBlock> {
        let entry = self.entry(block).filter(|entry| matches!(entry.stage, Stage::Sent { .. }))?;
        entry.stage = Stage::Unproven;
        let took = entry.opened.map(|opened| now.saturating_duration_since(opened));
        Some(LeftBlock { size: (entry.source_symbols, entry.repair_symbols), took })
    }

    /// `block`, which has left, is claimed as protected.
    pub fn claim(&mut self, block: BlockId) {
        if let Some(entry) = self.entry(block) {
            entry.stage = Stage::Claimed;
        }
    }

    /// Stops waiting for blocks whose timestamp is overdue. Returns the number of these blocks.
    pub fn handle_timeout(&mut self, now: Instant) -> u64 {
        let mut missing = 0;
        for queue in &mut self.queues {
            while let Some((at, since)) = queue.oldest_sent() {
                if since + STAMP_WITHIN > now {
                    break;
                }
                queue.entries[at].stage = Stage::Unproven;
                missing += 1;
            }
        }
        missing
    }

    /// When the next timestamp is overdue.
    pub fn deadline(&mut self) -> Option<Instant> {
        let oldest = self.queues.iter_mut().filter_map(Queue::oldest_sent).map(|(_, since)| since).min();
        oldest.map(|since| since + STAMP_WITHIN)
    }

    /// No block waits for the kernel or for a timestamp.
    pub fn is_settled(&mut self) -> bool {
        let unsent = |queue: &Queue| {
            let last = queue.entries.iter().rev().find(|entry| entry.stage != Stage::Done);
            last.is_some_and(|entry| matches!(entry.stage, Stage::Open | Stage::Closed))
        };
        !self.queues.iter().any(unsent) && self.deadline().is_none()
    }

    /// The peer has given up `count` blocks from `first` on; if it is a single block, the peer has its first `symbols`
    /// source symbols. Calls `tell` for each undecided block, and once for all forgotten ones.
    pub fn on_lost(&mut self, first: BlockId, count: u64, symbols: u16, mut tell: impl FnMut(BlockId, Fate)) {
        let Some(queue) = self.queues.get_mut(usize::from(first.profile)) else { return };
        let end = first.sbn.saturating_add(count);
        let lost = |forgotten: &Range<u64>| {
            let from = forgotten.start.max(first.sbn);
            (from < forgotten.end.min(end)).then_some(from)
        };
        let claimed = lost(&queue.forgotten_claims);
        if let Some(sbn) = claimed.or(lost(&queue.forgotten)) {
            tell(BlockId { sbn, ..first }, Fate::Lost { claimed: claimed.is_some() });
        }
        let end = end.min(queue.end());
        for sbn in first.sbn.max(queue.first)..end {
            let Some(entry) = queue.entry(sbn) else { continue };
            let stage = std::mem::replace(&mut entry.stage, Stage::Done);
            let whole = count == 1 && entry.source_symbols > 0 && symbols >= entry.source_symbols;
            let fate = match stage {
                Stage::Done => continue,
                _ if whole => Fate::Whole,
                stage => Fate::Lost { claimed: stage == Stage::Claimed },
            };
            tell(BlockId { sbn, ..first }, fate);
        }
        queue.drop_done();
    }

    /// The peer is known to have all blocks below `below`.
    pub fn on_decoded(&mut self, profile: u8, below: u64) {
        let Some(queue) = self.queues.get_mut(usize::from(profile)) else { return };
        for forgotten in [&mut queue.forgotten, &mut queue.forgotten_claims] {
            forgotten.start = forgotten.start.max(below);
        }
        while queue.first < below && queue.entries.pop_front().is_some() {
            queue.first += 1;
        }
    }

    /// The first block of `profile` that may still accept packets, or is not begun: the peer cannot have all of it.
    pub fn closed_below(&self, profile: u8) -> u64 {
        let Some(queue) = self.queues.get(usize::from(profile)) else { return 0 };
        let is_open = queue.entries.back().is_some_and(|entry| entry.stage == Stage::Open);
        queue.end() - u64::from(is_open)
    }

    /// The symbols of `block`, while it is remembered.
    pub fn size(&self, block: BlockId) -> Option<Size> {
        let queue = self.queues.get(usize::from(block.profile))?;
        let entry = queue.entries.get(usize::try_from(block.sbn.checked_sub(queue.first)?).ok()?)?;
        (entry.source_symbols > 0).then_some((entry.source_symbols, entry.repair_symbols))
    }

    /// The first undecided block of `profile`.
    pub fn first(&self, profile: u8) -> Option<u64> {
        let queue = self.queues.get(usize::from(profile))?;
        Some(if queue.forgotten.is_empty() { queue.first } else { queue.forgotten.start })
    }

    /// A packet was put into a block.
    pub fn has_begun(&self) -> bool {
        !self.queues.is_empty()
    }

    /// Where each profile's blocks end now.
    pub fn ends(&self) -> impl Iterator<Item = BlockId> {
        let unknown = |queue: &Queue| !queue.entries.is_empty() || !queue.forgotten.is_empty();
        let filled = self.queues.iter().enumerate().filter(move |(_, queue)| unknown(queue));
        filled.map(|(profile, queue)| BlockId { profile: profile as u8, sbn: queue.end() })
    }

    /// Whether every block below `end` is claimed or with the peer; `Some(true)` if all are with the peer.
    pub fn is_covered(&self, end: BlockId) -> Option<bool> {
        let Some(queue) = self.queues.get(usize::from(end.profile)) else { return Some(true) };
        if !queue.forgotten.is_empty() && queue.forgotten.start < end.sbn {
            return None;
        }
        let below = usize::try_from(end.sbn.saturating_sub(queue.first)).unwrap_or(usize::MAX);
        let mut decoded = true;
        for entry in queue.entries.iter().take(below) {
            match entry.stage {
                Stage::Done => {}
                Stage::Claimed => decoded = false,
                _ => return None,
            }
        }
        Some(decoded)
    }

    /// Claimed blocks were under way when the peer restarted: whether it has them is unknown.
    pub fn has_void_claims(&self) -> bool {
        self.claims_void
    }

    /// Blocks below `below` are void: the peer's run that they were sent to is gone.
    pub fn on_void(&mut self, below: BlockId) {
        if let Some(queue) = self.queues.get(usize::from(below.profile)) {
            let before = usize::try_from(below.sbn.saturating_sub(queue.first)).unwrap_or(usize::MAX);
            self.claims_void |= queue.entries.iter().take(before).any(|entry| entry.stage == Stage::Claimed);
            self.claims_void |= !queue.forgotten_claims.is_empty();
        }
        self.on_decoded(below.profile, below.sbn);
    }

    fn entry(&mut self, block: BlockId) -> Option<&mut Entry> {
        self.queues.get_mut(usize::from(block.profile))?.entry(block.sbn)
    }
}

impl Queue {
    /// The oldest block that waits for its timestamp.
    fn oldest_sent(&mut self) -> Option<(usize, Instant)> {
        let from = usize::try_from(self.unstamped_from.saturating_sub(self.first)).unwrap_or(usize::MAX);
        for (at, entry) in self.entries.iter().enumerate().skip(from) {
            match entry.stage {
                Stage::Sent { since } => {
                    self.unstamped_from = self.first + at as u64;
                    return Some((at, since));
                }
                // The blocks behind it were not sent either.
                Stage::Open | Stage::Closed => {
                    self.unstamped_from = self.first + at as u64;
                    return None;
                }
                Stage::Claimed | Stage::Unproven | Stage::Done => {}
            }
        }
        self.unstamped_from = self.end();
        None
    }
}
