//! The evidence for each block, from its first packet until the peer reports its outcome.
//!
//! A block moves one way: open, closed, sent, then it has left or its timestamp is missing. Nothing is claimed here;
//! whether a block that has left is protected also depends on the link.

mod queue;

use std::ops::Range;
use std::time::{Duration, Instant};

pub use self::queue::Size;
use self::queue::{Entry, Queue, Stage};
use crate::notify::message::Level;
use crate::tunnel::block_event::Part;
use crate::wire::payload_id::BlockId;

/// Undecided blocks per profile; beyond, the oldest is forgotten, except for its number.
pub(super) const BLOCKS_MAX: usize = 16_384;
/// A timestamp counts only within this time after the send.
pub const STAMP_WITHIN: Duration = Duration::from_secs(1);

/// A part of a block that the kernel has taken completely.
#[derive(Clone, Copy, Debug)]
pub struct SentPart {
    /// The symbols of the block.
    pub size: Size,
    /// No earlier send carries a datagram of it.
    pub first_send: u64,
    /// What the block has reached when it has left.
    pub level: Level,
    /// Its late part follows.
    pub is_followed: bool,
}

/// A part of a block that has left this host completely.
#[derive(Clone, Copy, Debug)]
pub struct LeftPart {
    /// The symbols of the block.
    pub size: Size,
    /// What the block has reached by that.
    pub level: Level,
    /// Its late part follows in time after this.
    pub is_followed: bool,
    /// The late part: how long after the kernel took the early part.
    pub after_early: Option<Duration>,
    /// The interruption that the block was promised to survive when it closed.
    pub survives: Duration,
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
    pub fn on_closed(
        &mut self,
        block: BlockId,
        (source_symbols, repair_symbols): Size,
        has_late: bool,
        (keeps_promise, survives): (bool, Duration),
    ) {
        let Some(entry) = self.entry(block) else { return };
        entry.source_symbols = source_symbols;
        entry.repair_symbols = repair_symbols;
        (entry.has_late, entry.keeps_promise, entry.survives) = (has_late, keeps_promise, survives);
        if entry.stage == Stage::Open {
            // Without repair symbols a block is never protected.
            entry.stage = if repair_symbols == 0 { Stage::Unproven } else { Stage::Closed };
        }
    }

    /// The kernel took the last datagram of a part of `block`. Returns `Some` if it took all the others of the part too.
    pub fn on_sent(&mut self, block: BlockId, part: Part, now: Instant) -> Option<SentPart> {
        let queue = self.queues.get_mut(usize::from(block.profile))?;
        let entry = queue.entry(block.sbn)?;
        match (part, entry.stage) {
            (Part::Early, Stage::Closed) => entry.stage = Stage::Sent { since: now },
            (Part::Late, Stage::Early { since }) => entry.stage = Stage::LateSent { since: now, early: since },
            _ => return None,
        }
        let is_followed = part == Part::Early && entry.has_late;
        let (size, level) = (entry.size(), entry.left_level(part));
        let sent = SentPart { size, first_send: entry.first_send, level, is_followed };
        if part == Part::Late {
            queue.late_sent.push_back(block.sbn);
        }
        Some(sent)
    }

    /// The late part of `block` does not leave, or too late.
    pub fn on_promise_broken(&mut self, block: BlockId) {
        let Some(entry) = self.entry(block) else { return };
        entry.keeps_promise = false;
        // No late part follows, or it does not count: nothing waits for it.
        entry.has_late = false;
        if matches!(entry.stage, Stage::Early { .. } | Stage::LateSent { .. }) {
            entry.stage = Stage::Unproven;
        }
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
            // Of these, some datagrams of the late part may be the ones.
            while let Some(sbn) = queue.early.pop_front() {
                if let Some(entry) = queue.entry(sbn).filter(|entry| matches!(entry.stage, Stage::Early { .. })) {
                    entry.stage = Stage::Unproven;
                    hit += 1;
                }
            }
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
                    Stage::Sent { .. }
                    | Stage::Early { .. }
                    | Stage::LateSent { .. }
                    | Stage::Claimed
                    | Stage::Unproven => break,
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
                if !matches!(entry.stage, Stage::Claimed | Stage::Unproven | Stage::Done) {
                    entry.stage = Stage::Unproven;
                    hit += 1;
                }
            }
        }
        hit
    }

    /// A part of `block` is known at `now` to have left this host completely; `next_send` is the number of the next send.
    /// Returns `Some` if the block was waiting for that.
    pub fn on_left(&mut self, block: BlockId, part: Part, next_send: u64, now: Instant) -> Option<LeftPart> {
        let queue = self.queues.get_mut(usize::from(block.profile))?;
        let entry = queue.entry(block.sbn)?;
        let since = match (part, entry.stage) {
            (Part::Early, Stage::Sent { since }) => since,
            (Part::Late, Stage::LateSent { early, .. }) => early,
            _ => return None,
        };
        let is_followed = part == Part::Early && entry.has_late;
        entry.stage = if is_followed { Stage::Early { since } } else { Stage::Unproven };
        entry.first_send = next_send;
        let took = entry.opened.map(|opened| now.saturating_duration_since(opened));
        let after_early = (part == Part::Late).then(|| now.saturating_duration_since(since));
        let (size, level, survives) = (entry.size(), entry.left_level(part), entry.survives);
        let left = LeftPart { size, level, is_followed, took, after_early, survives };
        if is_followed {
            queue.early.push_back(block.sbn);
        }
        queue.drop_early();
        Some(left)
    }

    /// A part of `block`, which has left, is claimed as protected. Returns the interruption that the block survives.
    pub fn claim(&mut self, block: BlockId, level: Level) -> Duration {
        let survives = self.entry(block).map_or(Duration::ZERO, |entry| entry.survives);
        if let Some(entry) = self.entry(block) {
            entry.is_claimed = true;
            if level >= Level::OnWire {
                entry.stage = Stage::Claimed;
            }
        }
        survives
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
            while let Some((sbn, since)) = queue.oldest_late() {
                if since + STAMP_WITHIN > now {
                    break;
                }
                queue.late_sent.pop_front();
                queue.entry(sbn).into_iter().for_each(|entry| entry.stage = Stage::Unproven);
                missing += 1;
            }
        }
        missing
    }

    /// When the next timestamp is overdue.
    pub fn deadline(&mut self) -> Option<Instant> {
        let oldest = self.queues.iter_mut().flat_map(|queue| {
            let early = queue.oldest_sent().map(|(_, since)| since);
            early.into_iter().chain(queue.oldest_late().map(|(_, since)| since))
        });
        oldest.min().map(|since| since + STAMP_WITHIN)
    }

    /// No block waits for the kernel, for a timestamp or for its late part.
    pub fn is_settled(&mut self) -> bool {
        self.queues.iter_mut().for_each(Queue::drop_early);
        let unsent = |queue: &Queue| {
            let last = queue.entries.iter().rev().find(|entry| entry.stage != Stage::Done);
            last.is_some_and(|entry| matches!(entry.stage, Stage::Open | Stage::Closed))
        };
        let waits = |queue: &Queue| unsent(queue) || !queue.early.is_empty();
        !self.queues.iter().any(waits) && self.deadline().is_none()
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
                _ => Fate::Lost { claimed: entry.is_claimed },
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
            self.claims_void |=
                queue.entries.iter().take(before).any(|entry| entry.is_claimed && entry.stage != Stage::Done);
            self.claims_void |= !queue.forgotten_claims.is_empty();
        }
        self.on_decoded(below.profile, below.sbn);
    }

    fn entry(&mut self, block: BlockId) -> Option<&mut Entry> {
        self.queues.get_mut(usize::from(block.profile))?.entry(block.sbn)
    }
}
