//! The fate of blocks, and what follows from it for the flows in them.
//!
//! Whoever calls has judged the evidence: timestamps, errors, link health, reports. Here it is only spread. Blocks of a
//! profile may be decided in any order.

use std::time::Instant;

use super::coverage::Span;
use super::instance::Flow;
use super::state::{FlowState, Position};
use super::table::FlowTable;
use crate::notify::message::GoneReason;
use crate::notify::message::{Level, Origin};
use crate::wire::payload_id::BlockId;

/// A block whose data is lost, and whose it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The block.
    pub block: BlockId,
    /// What had been said of it; from [`Level::OnWire`] on a promise is broken. None if nothing was said. Where it is not
    /// remembered what was said, a promise is assumed.
    pub level: Option<Level>,
    /// What it held of flows that still exist.
    pub ranges: Vec<BlockRange>,
    /// Ranges of instances that are gone.
    pub gone: usize,
    /// It is not remembered what it held. A promise to any flow may be broken: each is held where it is known to have
    /// arrived, and its [`FlowState::violated`] says so. Look at all flows.
    pub forgotten: bool,
}

impl Violation {
    /// Something was called protected that is lost.
    pub fn breaks_promise(&self) -> bool {
        self.level >= Some(Level::OnWire)
    }
}

/// Bytes of a flow that were in a lost block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRange {
    /// The flow; of a lost block once the loss was known: its [`Level::Acked`] position tells what has arrived by another
    /// way.
    pub flow: FlowState,
    /// Where the bytes begin.
    pub start: Position,
    /// Where they end.
    pub end: Position,
}

impl FlowTable {
    /// `block` is complete and has reached `level`, and so, with what came before it, has what it holds of each flow.
    ///
    /// [`Level::Decoded`] and beyond ends what is remembered of the block.
    pub fn on_block_protected(&mut self, block: BlockId, level: Level) {
        let Some(mut known) = self.blocks.raise(block, level) else {
            return;
        };
        while let Some(range) = known.ranges.next(&self.blocks) {
            let slot = range.flow.slot;
            if let Some(flow) = self.flow_mut(slot).filter(|flow| flow.id == range.flow) {
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
    /// Blocks that the peer gave up must have been named before, to [`violation`](Self::violation): what a
    /// report calls "decoded below" may include them.
    pub fn on_blocks_decoded(&mut self, profile: u8, below: u64) {
        self.blocks.settle_below(profile, below);
        while let Some(block) = self.blocks.first_below(profile, below) {
            self.on_block_protected(block, Level::Decoded);
            // What was decoded out of turn is released already; what is not must not hold up the others.
            self.blocks.release(block);
        }
    }

    /// `block` will never be protected: it was not sent whole, or nothing proves that it was.
    ///
    /// The bytes of TCP count once they are acknowledged or sent again; a UDP flow ends and begins again.
    pub fn on_block_failed(&mut self, block: BlockId, now: Instant) {
        if let Some(level) = self.blocks.find(block).map(|known| known.level)
            && level >= Some(Level::OnWire)
        {
            // It was called protected. Only a violation takes that back.
            return;
        }
        self.lose(block, now);
    }

    /// `block` is lost: the peer could not rebuild it. Says whose bytes it held, and what had been promised.
    ///
    /// No flow in it is called protected further before the loss is made good. Name each lost block once: one that is no
    /// longer remembered would be a violation each time.
    pub fn violation(&mut self, block: BlockId, now: Instant) -> Violation {
        let violation = self.lose(block, now);
        self.counters.violations += u64::from(violation.breaks_promise());
        violation
    }

    /// What a block that is remembered holds of flows that still exist, at most so many ranges.
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

    fn lose(&mut self, block: BlockId, now: Instant) -> Violation {
        let mut violation = Violation { block, level: None, ranges: Vec::new(), gone: 0, forgotten: false };
        let Some(mut known) = self.blocks.find(block) else {
            return violation;
        };
        violation.level = known.level;
        let promised = violation.breaks_promise();
        let mut broken = Vec::new();
        while let Some(range) = known.ranges.next(&self.blocks) {
            let slot = range.flow.slot;
            let Some(flow) = self.flow_mut(slot).filter(|flow| flow.id == range.flow) else {
                violation.gone += 1;
                continue;
            };
            let (start, end) = (flow.present(range.span.start), flow.present(range.span.end));
            if promised {
                flow.on_lost(range.span);
            }
            violation.ranges.push(BlockRange { flow: flow.state(), start, end });
            if !flow.is_tcp() {
                broken.push(range.flow);
            }
            self.on_hole(slot, range.span);
        }
        violation.forgotten = promised && known.forgotten;
        // What a forgotten block held was sent long before, so a second one at the same time finds everything held.
        if violation.forgotten && self.held_at.replace(now) != Some(now) {
            let mut held = Vec::new();
            for flow in self.flows.iter_mut().flatten() {
                if let Some(span) = flow.unarrived() {
                    flow.on_lost(span);
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

    /// No block of the profile before `below` will be protected that was not called so already.
    pub fn on_blocks_void(&mut self, below: BlockId, now: Instant) {
        self.blocks.settle_below(below.profile, below.sbn);
        while let Some(block) = self.blocks.first_below(below.profile, below.sbn) {
            self.on_block_failed(block, now);
            self.blocks.release(block);
        }
    }

    /// Blocks were forgotten before their fate was known: whatever TCP has sent by now and is not known to have arrived
    /// may have been in one of them, and counts as a hole.
    pub fn hold_all(&mut self) {
        let unarrived = |flow: &Flow| Some((flow.id.slot, flow.unarrived()?));
        let held: Vec<_> = self.flows.iter().flatten().filter_map(unarrived).collect();
        held.into_iter().for_each(|(slot, span)| self.on_hole(slot, span));
    }

    /// How far the bytes of TCP flows have come that were in a block that failed or could not be noted: none while some are
    /// neither protected by another nor acknowledged.
    pub fn made_good(&mut self) -> Option<Level> {
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

    /// `span` of a TCP flow is missing in what was protected.
    pub(super) fn on_hole(&mut self, slot: u32, span: Span) {
        let Some(flow) = self.flow_mut(slot).filter(|flow| flow.is_tcp()) else { return };
        let id = flow.id;
        if !flow.on_hole(span) {
            return;
        }
        if self.holed.len() >= self.flows.len() {
            // Of those that were made good nobody has asked.
            self.made_good();
        }
        self.holed.push(id);
    }

    /// The numbers of blocks begin again: what was said stands, what was not decided never will be.
    pub fn on_epoch(&mut self, now: Instant) {
        while let Some(block) = self.blocks.first() {
            self.on_block_failed(block, now);
            self.blocks.release(block);
        }
        self.blocks.restart();
    }
}
