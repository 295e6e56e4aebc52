//! The outcome of blocks, applied to the flows in them.
//!
//! The caller has evaluated the evidence: timestamps, errors, link health, reports. This module only updates the flows.
//! The blocks of a profile may be decided in any order.

use std::time::{Duration, Instant};

use super::coverage::Span;
use super::instance::Flow;
use super::state::{FlowState, Position};
use super::table::FlowTable;
use crate::notify::message::GoneReason;
use crate::notify::message::{Level, Origin};
use crate::wire::payload_id::BlockId;

/// A block whose data is lost, and the flows in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The block.
    pub block: BlockId,
    /// The level reported for the block; from [`Level::Early`] on, protection had been claimed. None if nothing was
    /// reported. Where the level is no longer known, [`Level::OnWire`] is assumed.
    pub level: Option<Level>,
    /// Its ranges of flows that still exist.
    pub ranges: Vec<BlockRange>,
    /// How many ranges belonged to instances that are gone.
    pub gone: usize,
    /// The contents of the block are not known. It may have held claimed bytes of any flow: each flow is held at the
    /// position that is known to have arrived, and its [`FlowState::violated`] is set. Read all flows again.
    pub forgotten: bool,
}

impl Violation {
    /// Data that was claimed as protected is lost.
    pub fn voids_claim(&self) -> bool {
        self.level >= Some(Level::Early)
    }
}

/// Bytes of a flow that were in a lost block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The flow. For a lost block: its state after the loss was recorded. Its [`Level::Acked`] position shows what has
    /// arrived by another path.
    pub flow: FlowState,
    /// Where the bytes begin.
    pub start: Position,
    /// Where they end.
    pub end: Position,
}

impl FlowTable {
    /// `block` is complete and has reached `level`; so have its bytes of each flow, once everything before them has.
    ///
    /// [`Level::Decoded`] and above end what is remembered of the block. On the wire it survives an interruption of the link of the
    /// length `survives`.
    pub fn on_block_protected(&mut self, block: BlockId, level: Level, survives: Duration) {
        let Some(mut known) = self.blocks.raise(block, level) else {
            return;
        };
        while let Some(range) = known.ranges.next(&self.blocks) {
            let slot = range.flow.slot;
            if let Some(flow) = self.flow_mut(slot).filter(|flow| flow.id == range.flow) {
                if level == Level::OnWire {
                    flow.on_promise(survives);
                }
                if !flow.on_reached(range.span, known.level, level) {
                    self.counters.forgotten_spans += 1;
                }
                self.settle(slot, Some(block));
            }
        }
        if level >= Level::Decoded {
            self.blocks.release(block);
        }
    }

    /// The peer holds all blocks of `profile` below `below`, whether or not they were known to have left.
    ///
    /// Blocks that the peer gave up must have been passed to [`violation`](Self::violation) before: the range that a
    /// report calls "decoded below" may include them.
    pub fn on_blocks_decoded(&mut self, profile: u8, below: u64) {
        self.blocks.settle_below(profile, below);
        while let Some(block) = self.blocks.first_below(profile, below) {
            self.on_block_protected(block, Level::Decoded, Duration::ZERO);
            // A block decoded out of order is released already. Any other block must not delay those behind it.
            self.blocks.release(block);
        }
    }

    /// `block` will never be protected: it was not sent whole, or nothing proves that it was.
    ///
    /// Its TCP bytes count once they are acknowledged or sent again; a UDP flow in it ends and begins again.
    pub fn on_block_failed(&mut self, block: BlockId, now: Instant) {
        if self.blocks.find(block).is_some_and(|known| known.level >= Some(Level::OnWire)) {
            // It was claimed as protected; only a violation takes that back.
            return;
        }
        // If its early part was claimed, that stands too. But its late part will never be: for all that waits for it, the block
        // is a hole.
        self.lose(block, false, now);
    }

    /// `block` is lost: the peer could not rebuild it. Returns the flows and bytes in it, and the level that was
    /// reported.
    ///
    /// No flow in it advances before the loss is repaired. Pass each lost block once: a block that is no longer
    /// remembered would count as a violation each time.
    pub fn violation(&mut self, block: BlockId, now: Instant) -> Violation {
        let violation = self.lose(block, true, now);
        self.counters.violations += u64::from(violation.voids_claim());
        violation
    }

    /// The ranges of a remembered block that belong to existing flows, at most `most` of them.
    pub fn ranges(&mut self, block: BlockId, most: usize) -> Vec<BlockRange> {
        let mut ranges = Vec::new();
        let Some(mut known) = self.blocks.find(block) else { return ranges };
        while ranges.len() < most
            && let Some(range) = known.ranges.next(&self.blocks)
        {
            if let Some(flow) = self.flow_mut(range.flow.slot).filter(|flow| flow.id == range.flow) {
                let (start, end) = (flow.present(range.span.start), flow.present(range.span.end));
                ranges.push(BlockRange { flow: flow.state(), start, end });
            }
        }
        ranges
    }

    /// With `voids`, what was claimed of it is taken back.
    fn lose(&mut self, block: BlockId, voids: bool, now: Instant) -> Violation {
        let mut violation = Violation { block, level: None, ranges: Vec::new(), gone: 0, forgotten: false };
        let Some(mut known) = self.blocks.find(block) else {
            return violation;
        };
        violation.level = known.level;
        let is_claimed = voids && violation.voids_claim();
        let mut broken = Vec::new();
        while let Some(range) = known.ranges.next(&self.blocks) {
            let slot = range.flow.slot;
            let Some(flow) = self.flow_mut(slot).filter(|flow| flow.id == range.flow) else {
                violation.gone += 1;
                continue;
            };
            let (start, end) = (flow.present(range.span.start), flow.present(range.span.end));
            if is_claimed {
                flow.on_lost(range.span);
            }
            violation.ranges.push(BlockRange { flow: flow.state(), start, end });
            if !flow.is_tcp() {
                broken.push(range.flow);
            }
            self.on_hole(slot, range.span);
        }
        violation.forgotten = is_claimed && known.forgotten;
        // The bytes of a forgotten block were sent long before. So a second forgotten block at the same `now` finds all
        // flows held; one whose claim is taken back also takes back theirs.
        let is_held = self.held_at.is_some_and(|(at, voided)| at == now && (voided || !is_claimed));
        if known.forgotten && !is_held {
            self.held_at = Some((now, is_claimed));
            let mut held = Vec::new();
            for flow in self.flows.iter_mut().flatten() {
                if let Some(span) = flow.unarrived() {
                    if is_claimed {
                        flow.on_lost(span);
                    }
                    held.push((flow.id.slot, span));
                    if !flow.is_tcp() {
                        broken.push(flow.id);
                    }
                }
            }
            held.into_iter().for_each(|(slot, span)| self.on_hole(slot, span));
        }
        for id in broken {
            if self.flow_mut(id.slot).is_some_and(|flow| flow.id == id) {
                self.begin_again(id.slot, Origin::Start, 0, GoneReason::Replaced, now);
            }
        }
        self.blocks.release(block);
        violation
    }

    /// No block of the profile below `below` will be protected, except those already claimed.
    pub fn on_blocks_void(&mut self, below: BlockId, now: Instant) {
        self.blocks.settle_below(below.profile, below.sbn);
        while let Some(block) = self.blocks.first_below(below.profile, below.sbn) {
            self.on_block_failed(block, now);
            self.blocks.release(block);
        }
    }

    /// Blocks were forgotten before they were decided. All TCP bytes sent so far that are not known to have arrived may
    /// have been in one of them, and count as a hole.
    pub fn hold_all(&mut self) {
        let unarrived = |flow: &Flow| Some((flow.id.slot, flow.unarrived()?));
        let held: Vec<_> = self.flows.iter().flatten().filter_map(unarrived).collect();
        held.into_iter().for_each(|(slot, span)| self.on_hole(slot, span));
    }

    /// The level that TCP bytes of failed or unrecorded blocks have reached since. None while some of them are neither
    /// protected by another block nor acknowledged.
    pub fn repaired_level(&mut self) -> Option<Level> {
        let flows = &mut self.flows;
        let mut open = false;
        self.holed.retain(|id| {
            let flow = flows.get_mut(id.slot as usize).and_then(Option::as_mut).filter(|flow| flow.id == *id);
            flow.is_some_and(|flow| {
                open |= flow.has_hole();
                flow.keeps_hole()
            })
        });
        match (open, self.holed.is_empty()) {
            (true, _) => None,
            (false, false) => Some(Level::OnWire),
            (false, true) => Some(Level::Decoded),
        }
    }

    /// `span` of a TCP flow is missing from the protected bytes.
    pub(super) fn on_hole(&mut self, slot: u32, span: Span) {
        let Some(flow) = self.flow_mut(slot).filter(|flow| flow.is_tcp()) else { return };
        let id = flow.id;
        if !flow.on_hole(span) {
            return;
        }
        if self.holed.len() >= self.flows.len() {
            // Drops the flows whose holes have been repaired in the meantime.
            self.repaired_level();
        }
        self.holed.push(id);
    }

    /// Block numbers start again: reported positions stand; open blocks will never be protected.
    pub fn on_epoch(&mut self, now: Instant) {
        while let Some(block) = self.blocks.first() {
            self.on_block_failed(block, now);
            self.blocks.release(block);
        }
        self.blocks.restart();
    }
}
