//! The blocks of one profile on their way out, and those that wait for something.
//!
//! What a change of stage means for claims is decided in [`super`].

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::notify::message::Level;
use crate::tunnel::block_event::Part;

/// Source and repair symbols of a block.
pub type Size = (u16, u16);

/// The progress of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Accepts packets.
    Open,
    /// Complete; the kernel has not taken it yet.
    Closed,
    /// The kernel took its early part; its timestamp may come.
    Sent { since: Instant },
    /// Its early part, taken at `since`, has left; its late part follows.
    Early { since: Instant },
    /// The kernel took its late part at `since`, and took its early part at `early`; its timestamp may come.
    LateSent { since: Instant, early: Instant },
    /// It was claimed as protected.
    Claimed,
    /// Nothing will prove that it has left; only a report can decide it.
    Unproven,
    /// The peer has it, or it is void: it is decided.
    Done,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub source_symbols: u16,
    pub repair_symbols: u16,
    pub stage: Stage,
    /// A late part follows its early part.
    pub has_late: bool,
    /// It is on the wire when all its parts have left; otherwise it is never more than early.
    pub keeps_promise: bool,
    /// The interruption that it survives then.
    pub survives: Duration,
    /// It was claimed at level early: some reader may count on it.
    pub is_claimed: bool,
    /// No earlier send carries a datagram of the part that waits.
    pub first_send: u64,
    /// When its first packet came; none if it never had one.
    pub opened: Option<Instant>,
}

impl Entry {
    pub const NEW: Self = Self {
        source_symbols: 0,
        repair_symbols: 0,
        stage: Stage::Open,
        has_late: false,
        keeps_promise: true,
        survives: Duration::ZERO,
        is_claimed: false,
        first_send: 0,
        opened: None,
    };

    pub fn size(&self) -> Size {
        (self.source_symbols, self.repair_symbols)
    }

    /// The level that it has reached when a part of it has left.
    pub fn left_level(&self, part: Part) -> Level {
        let is_last = part == Part::Late || !self.has_late;
        if is_last && self.keeps_promise { Level::OnWire } else { Level::Early }
    }
}

/// The blocks of one profile.
#[derive(Debug, Default)]
pub(super) struct Queue {
    pub first: u64,
    pub entries: VecDeque<Entry>,
    /// Blocks below this one do not wait for a timestamp.
    pub unstamped_from: u64,
    /// The span of forgotten blocks that the peer has not reported on yet; and the span of the claimed ones among them.
    pub forgotten: Range<u64>,
    pub forgotten_claims: Range<u64>,
    /// Blocks whose early part has left and whose late part follows, in the order in which that was known.
    pub early: VecDeque<u64>,
    /// Blocks whose late part waits for its timestamp, in the order in which it was sent.
    pub late_sent: VecDeque<u64>,
    /// All bytes that flows sent before this block opened are held already.
    pub held: u64,
}

impl Queue {
    pub fn entry(&mut self, sbn: u64) -> Option<&mut Entry> {
        self.entries.get_mut(usize::try_from(sbn.checked_sub(self.first)?).ok()?)
    }

    pub fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// Forgets the oldest block. Returns true if it was undecided.
    pub fn forget_first(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else { return false };
        let sbn = self.first;
        self.first += 1;
        if entry.stage == Stage::Done {
            return false;
        }
        extend(&mut self.forgotten, sbn);
        if entry.is_claimed {
            extend(&mut self.forgotten_claims, sbn);
        }
        true
    }

    pub fn drop_done(&mut self) {
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

impl Queue {
    /// The oldest block that waits for its timestamp.
    pub fn oldest_sent(&mut self) -> Option<(usize, Instant)> {
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
                Stage::Early { .. } | Stage::LateSent { .. } | Stage::Claimed | Stage::Unproven | Stage::Done => {}
            }
        }
        self.unstamped_from = self.end();
        None
    }

    /// The block whose late part has waited longest for its timestamp.
    pub fn oldest_late(&mut self) -> Option<(u64, Instant)> {
        while let Some(&sbn) = self.late_sent.front() {
            if let Some(Stage::LateSent { since, .. }) = self.entry(sbn).map(|entry| entry.stage) {
                return Some((sbn, since));
            }
            self.late_sent.pop_front();
        }
        None
    }

    /// Forgets blocks at the front whose late part is not waited for any more.
    pub fn drop_early(&mut self) {
        while let Some(&sbn) = self.early.front() {
            if self.entry(sbn).is_some_and(|entry| matches!(entry.stage, Stage::Early { .. })) {
                return;
            }
            self.early.pop_front();
        }
    }
}
