//! The receiving side of one profile of one peer: blocks being filled, and the order in which their ADUs leave.
//!
//! Blocks are held from `next`, the oldest that is neither delivered nor given up. With strict ordering an ADU leaves
//! when everything before it has left; a hole holds what follows until it is filled or `hold` has passed since the end of
//! its block was known (something of a later block came, or the sender's report that it is closed) and nothing more of it
//! has come. A sender that is still at it may pause for longer. A block given up still yields the ADUs that are whole.
//! Addresses and offload headers of ADUs are checked by the caller.
//!
//! What is told of the fate of blocks is true of every block: from `decoded_from` to below `next` each was handed on
//! whole, or is in `given_up` until the sender is known to have heard of it.
//!
//! Bounds: [`OPEN_BLOCKS_MAX`] blocks and a share of [`MEMORY_MAX`] bytes; beyond either, the oldest block is given up.

mod open_block;
mod standing;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use self::open_block::OpenBlock;
use super::drop_reason::DropReason;
use super::given_up::GivenUp;
use super::lost_blocks::Losses;
use crate::fec::code::Code;
use crate::fec::received_block::{Insertion, ReceivedBlock};
use crate::wire::adu::AduHeader;
use crate::wire::payload_id::{RepairId, SourceId};
use crate::wire::report::{Reception, SentBelow};

pub use standing::Standing;

/// Blocks of one profile that may be open at a time.
pub const OPEN_BLOCKS_MAX: u64 = 4096;
/// Bytes that the open blocks of all profiles of one peer may hold.
pub const MEMORY_MAX: usize = 64 << 20;
/// The least share of one profile: a few of the longest blocks.
pub const MEMORY_MIN: usize = 4 << 20;
/// The first symbol to arrive of a new epoch may be of a block as high as this: the ones before it are under way.
const REORDERED_START: u64 = 64;
/// Empty blocks that are kept for their memory.
const SPARE_MAX: usize = 64;
/// Longer blocks are not kept: only a few of them would be more than all that may be held.
const SPARE_MEMORY_MAX: usize = 512 << 10;

/// How long a sender may pause in the midst of a block, at the least.
pub const SENDER_PAUSE: Duration = Duration::from_millis(500);

/// How ADUs of different blocks leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// In the order in which they were sent; otherwise as soon as each is whole.
    pub strict: bool,
    /// How long a block may be incomplete before it is given up.
    pub hold: Duration,
}

/// An ADU that may leave: where it lies.
#[derive(Debug)]
pub struct Ready {
    /// Its header.
    pub header: AduHeader,
    sbn: u64,
    packet: Range<usize>,
    /// It is of an earlier run of the peer.
    pub(super) retired: bool,
}

/// The blocks of one profile of one peer.
#[derive(Debug)]
pub struct Inbound {
    symbol_size: usize,
    profile: u8,
    delivery: Delivery,
    /// The block at the front of `blocks`; 0 until something is heard.
    next: u64,
    /// The first block of which anything was heard: older ones are not missed.
    heard_from: Option<u64>,
    /// `next` at its beginning: nothing is told of blocks below.
    decoded_from: u64,
    /// The first block that is accounted for; below `decoded_from` when the sender told late that there were earlier ones.
    accounted_from: u64,
    /// The sender has told that blocks below this one are closed.
    closed_below: u64,
    given_up: GivenUp,
    /// Blocks below this one are given up as they come to the front, and take no more symbols: what leaves of them has
    /// to leave in order, and an ADU behind a hole may have left.
    give_up_below: u64,
    /// The last block, given up when its sender was not known to have closed it. Were more of it or behind it to come, it
    /// would be lost.
    unfinished: Option<u64>,
    losses: Losses,
    /// It belongs to an earlier run of the peer: nothing more comes.
    retired: bool,
    /// The last is always open; before it, `None` is a block of which nothing came.
    blocks: VecDeque<Option<Box<OpenBlock>>>,
    /// Without strict ordering: blocks that got a symbol since the last look.
    touched: Vec<u64>,
    memory: usize,
    memory_max: usize,
    #[allow(clippy::vec_box, reason = "a block moves from here to `blocks` and back as it is")]
    spare: Vec<Box<OpenBlock>>,
}

impl Inbound {
    /// Expects blocks of symbols of up to `symbol_size` bytes.
    pub fn new(profile: u8, symbol_size: usize, delivery: Delivery) -> Self {
        Self {
            symbol_size,
            profile,
            delivery,
            next: 0,
            heard_from: None,
            decoded_from: 0,
            accounted_from: 0,
            closed_below: 0,
            given_up: GivenUp::default(),
            give_up_below: 0,
            unfinished: None,
            losses: Losses::default(),
            retired: false,
            blocks: VecDeque::new(),
            touched: Vec::new(),
            memory: 0,
            memory_max: MEMORY_MAX,
            spare: Vec::new(),
        }
    }

    /// Takes a source symbol.
    pub fn handle_source(
        &mut self,
        id: SourceId,
        symbol: &[u8],
        code: &mut Code,
        reception: &mut Reception,
        now: Instant,
    ) -> Result<(), DropReason> {
        if id.unprotected {
            // Nothing will fill a hole: holding back what follows would only add delay.
            self.delivery.strict = false;
        }
        if id.sbn < self.lowest_wanted() {
            reception.late += 1;
            return Err(DropReason::LateSymbol);
        }
        let open = self.open_block(id.sbn, reception, now);
        let held = open.block.memory();
        let insertion = open.block.insert_source(id, symbol);
        open.hear(insertion, now);
        self.on_insertion(id.sbn, insertion, held, code, reception, now)?;
        self.learn_previous(id.sbn, id.previous_symbols, code, reception, now)
    }

    /// Takes a repair symbol.
    pub fn handle_repair(
        &mut self,
        id: RepairId,
        symbol: &[u8],
        code: &mut Code,
        reception: &mut Reception,
        now: Instant,
    ) -> Result<(), DropReason> {
        if id.sbn < self.lowest_wanted() {
            // The usual end of a block that lost nothing.
            if self.unfinished == Some(id.sbn) {
                self.on_unfinished_end(now);
            }
            return Ok(());
        }
        let open = self.open_block(id.sbn, reception, now);
        let held = open.block.memory();
        let insertion = open.block.insert_repair(id, symbol);
        // Closed, but the rest of its repair may be under way: its sender's host may stand still between two of them.
        open.closed = true;
        open.hear(insertion, now);
        self.on_insertion(id.sbn, insertion, held, code, reception, now)?;
        self.learn_previous(id.sbn, id.previous_symbols.into(), code, reception, now)
    }

    /// A symbol of block `sbn` tells how many source symbols the block before had; 0 tells nothing.
    fn learn_previous(
        &mut self,
        sbn: u64,
        symbols: u16,
        code: &mut Code,
        reception: &mut Reception,
        now: Instant,
    ) -> Result<(), DropReason> {
        if symbols == 0 || sbn <= self.lowest_wanted() {
            return Ok(());
        }
        let previous = self.open_block(sbn - 1, reception, now);
        let held = previous.block.memory();
        let agrees = previous.block.learn_symbols(symbols.into());
        let insertion = if agrees { Insertion::New } else { Insertion::Contradictory };
        self.on_insertion(sbn - 1, insertion, held, code, reception, now)
    }

    /// Takes what the sender told of its closed blocks: those of which nothing came are missed from now on.
    pub fn handle_sent(
        &mut self,
        told: SentBelow,
        code: &mut Code,
        reception: &mut Reception,
        now: Instant,
    ) -> Result<(), DropReason> {
        let Some(last) = told.below.checked_sub(1).filter(|&last| last >= told.from) else { return Ok(()) };
        if self.heard_from.is_none() {
            self.begin(told.from, told.from);
        } else if told.from < self.accounted_from {
            self.given_up.add(told.from, self.accounted_from - told.from, 0);
            self.accounted_from = told.from;
        }
        if told.below <= self.closed_below {
            return Ok(());
        }
        self.closed_below = told.below;
        if self.unfinished.is_some_and(|sbn| sbn < told.below) {
            self.on_unfinished_end(now);
        }
        if last < self.lowest_wanted() {
            return Ok(());
        }
        // The report may have overtaken the end of the block: it has its time from now on.
        let open = self.open_block(last, reception, now);
        open.end(now);
        let held = open.block.memory();
        let agrees = told.symbols == 0 || open.block.learn_symbols(told.symbols.into());
        let insertion = if agrees { Insertion::New } else { Insertion::Contradictory };
        self.on_insertion(last, insertion, held, code, reception, now)
    }

    /// The next ADU that may leave at `now`.
    pub fn next_adu(&mut self, reception: &mut Reception, now: Instant) -> Option<Ready> {
        loop {
            if self.front_deadline().is_some_and(|at| at <= now) {
                self.give_up_below = self.give_up_below.max(self.next + 1);
            }
            let given_up = self.next < self.give_up_below;
            let skip_holes = given_up || !self.delivery.strict;
            match self.blocks.front_mut()? {
                Some(open) => {
                    if let Some((header, packet)) = open.block.next_adu(skip_holes) {
                        return Some(Ready { header, sbn: self.next, packet, retired: self.retired });
                    }
                    if !open.block.is_delivered() && !given_up {
                        break;
                    }
                }
                None if given_up => {}
                None => break,
            }
            self.pop_front(reception, now);
        }
        self.next_adu_out_of_order()
    }

    /// The packet of an ADU that [`next_adu`](Self::next_adu) has just named.
    pub fn packet(&self, ready: &Ready) -> &[u8] {
        let index = (ready.sbn - self.next) as usize;
        let open = self.blocks.get(index).and_then(Option::as_ref).expect("the block stays until the next look");
        &open.block.bytes()[ready.packet.clone()]
    }

    /// When the front block will be given up, if something is missing in it.
    pub fn deadline(&self) -> Option<Instant> {
        self.front_deadline()
    }

    /// The share of memory that this profile has.
    pub fn set_memory_max(&mut self, bytes: usize) {
        self.memory_max = bytes;
    }

    /// Bytes held by open blocks.
    pub fn memory(&self) -> usize {
        self.memory
    }

    fn next_adu_out_of_order(&mut self) -> Option<Ready> {
        while let Some(&sbn) = self.touched.last() {
            let index = sbn.checked_sub(self.next).map(|index| index as usize);
            let open = index.and_then(|index| self.blocks.get_mut(index)).and_then(Option::as_mut);
            if let Some((header, packet)) = open.and_then(|open| open.block.next_adu(true)) {
                return Some(Ready { header, sbn, packet, retired: self.retired });
            }
            self.touched.pop();
        }
        None
    }

    fn front_deadline(&self) -> Option<Instant> {
        let hold = self.delivery.hold;
        let Some(open) = self.blocks.front()? else {
            return Some(self.blocks.iter().flatten().next()?.since + hold);
        };
        // While its sender sends, symbols that fill the hole are on their way, however long it pauses in the midst of it: its
        // host may have stood still. It will call the block protected when it has sent the rest.
        let longest = open.missing_since? + hold.max(SENDER_PAUSE);
        Some(if open.ended { longest.min(open.heard + hold) } else { longest })
    }

    /// More came of or behind a block that was given up as unfinished: it was sent, and is lost.
    fn on_unfinished_end(&mut self, now: Instant) {
        if let Some(sbn) = self.unfinished.take() {
            self.losses.add(self.profile, sbn, 1, now);
        }
    }

    /// Counts blocks from `next`, of which those before `heard_from` are not missed.
    fn begin(&mut self, next: u64, heard_from: u64) {
        self.next = next;
        self.decoded_from = next;
        self.accounted_from = next;
        self.heard_from = Some(heard_from);
    }

    /// The block with this number, which is not below `next`; opened if need be.
    fn open_block(&mut self, sbn: u64, reception: &mut Reception, now: Instant) -> &mut OpenBlock {
        if self.heard_from.is_none() {
            self.begin(if sbn < REORDERED_START { 0 } else { sbn }, sbn);
        }
        self.on_unfinished_end(now);
        if sbn - self.next >= 2 * OPEN_BLOCKS_MAX {
            // A gap this long is an outage: nothing held could still be completed.
            let last_open = self.next + self.blocks.len() as u64;
            while !self.blocks.is_empty() {
                self.pop_front(reception, now);
            }
            reception.blocks += sbn - last_open;
            reception.unrecoverable_blocks += sbn - last_open;
            self.given_up.add(last_open, sbn - last_open, 0);
            self.on_unfinished_end(now);
            self.losses.add(self.profile, last_open, sbn - last_open, now);
            self.next = sbn;
        } else if sbn - self.next >= OPEN_BLOCKS_MAX {
            self.give_up_below = self.give_up_below.max(sbn - OPEN_BLOCKS_MAX + 1);
        }
        let index = (sbn - self.next) as usize;
        if self.blocks.len() <= index {
            // What was the last block is closed, or something new would not have come.
            if let Some(Some(last)) = self.blocks.back_mut() {
                last.missing_since.get_or_insert(now);
                last.end(now);
            }
            self.blocks.resize_with(index + 1, || None);
        }
        let is_last = index + 1 == self.blocks.len();
        if self.blocks[index].is_none() {
            let mut open = self.spare.pop().unwrap_or_else(|| {
                let block = ReceivedBlock::new(self.symbol_size);
                Box::new(OpenBlock { block, since: now, missing_since: None, heard: now, closed: false, ended: false })
            });
            open.since = now;
            open.heard = now;
            open.missing_since = (!is_last).then_some(now);
            open.closed = !is_last;
            open.ended = !is_last;
            self.memory += open.block.memory();
            self.blocks[index] = Some(open);
        }
        self.blocks[index].as_mut().expect("opened above if it was not")
    }

    /// Follows up on a change of block `sbn`, which held `held` bytes before it.
    fn on_insertion(
        &mut self,
        sbn: u64,
        insertion: Insertion,
        held: usize,
        code: &mut Code,
        reception: &mut Reception,
        now: Instant,
    ) -> Result<(), DropReason> {
        let index = (sbn - self.next) as usize;
        let is_last = index + 1 == self.blocks.len();
        let open = self.blocks.get_mut(index).and_then(Option::as_mut).expect("the block was opened just now");
        if insertion == Insertion::New {
            let rebuilt = open.block.rebuild(code) as u64;
            reception.recovered_symbols += rebuilt;
            reception.recovered_blocks += u64::from(rebuilt > 0);
            if !self.delivery.strict && self.touched.last() != Some(&sbn) {
                self.touched.push(sbn);
            }
        }
        if open.block.has_hole() || sbn < self.closed_below {
            open.missing_since.get_or_insert(now);
        } else if is_last {
            open.missing_since = None;
        }
        self.memory += open.block.memory() - held;
        if self.memory > self.memory_max {
            self.give_up_oldest();
        }
        if insertion == Insertion::Contradictory { Err(DropReason::Contradictory) } else { Ok(()) }
    }

    /// The first block that still takes symbols.
    fn lowest_wanted(&self) -> u64 {
        self.next.max(self.give_up_below)
    }

    /// Gives up as many blocks as it takes to be within bounds again.
    fn give_up_oldest(&mut self) {
        let mut memory = self.memory;
        let kept = self.blocks.iter().position(|open| {
            memory -= open.as_ref().map_or(0, |open| open.block.memory());
            memory <= self.memory_max
        });
        let given_up = kept.map_or(self.blocks.len(), |last| last + 1);
        self.give_up_below = self.give_up_below.max(self.next + given_up as u64);
    }

    fn pop_front(&mut self, reception: &mut Reception, now: Instant) {
        let Some(front) = self.blocks.pop_front() else { return };
        let missed = self.heard_from.is_some_and(|first| self.next >= first);
        let delivered = front.as_ref().is_some_and(|open| open.block.is_delivered());
        reception.blocks += u64::from(missed);
        reception.unrecoverable_blocks += u64::from(missed && !delivered);
        // Of a block in which bytes made no sense, not everything was handed on although nothing is missing.
        if !front.as_ref().is_some_and(|open| open.block.is_delivered() && open.block.malformed() == 0) {
            let symbols = front.as_ref().map_or(0, |open| open.block.delivered_symbols());
            self.given_up.add(self.next, 1, symbols as u16);
            let closed = !self.blocks.is_empty() || front.as_ref().is_none_or(|open| open.closed);
            match missed {
                // Of nothing but its first symbols nobody can tell whether that was all.
                true if !closed && symbols > 0 => {}
                true if !closed => self.unfinished = Some(self.next),
                true => self.losses.add(self.profile, self.next, 1, now),
                false => {}
            }
        }
        if let Some(mut open) = front {
            self.memory -= open.block.memory();
            open.block.clear();
            if self.spare.len() < SPARE_MAX && open.block.memory() <= SPARE_MEMORY_MAX {
                self.spare.push(open);
            }
        }
        self.next += 1;
    }
}

#[cfg(test)]
mod tests;
