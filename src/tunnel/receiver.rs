//! The receiving side of one profile of one peer: blocks being filled, and the order in which their ADUs leave.
//!
//! Blocks are held from `next`, the oldest that is neither delivered nor given up. With strict ordering an ADU leaves
//! after everything before it. A hole holds back what follows until it is filled or its block is given up: when `hold`
//! has passed since the end of the block was known (something of a later block came, or the sender reported the block
//! closed) and since its last new symbol. `hold` follows how late symbols come (`reordering`). A sender in the midst of
//! a block may pause for longer. A given-up block still yields its whole ADUs. The caller checks addresses and offload
//! headers of ADUs.
//!
//! Reports hold for every block: each block from `decoded_from` to below `next` was delivered whole, or is in
//! `given_up` until the sender has acknowledged a report that names it.
//!
//! Bounds: [`OPEN_BLOCKS_MAX`] blocks; beyond this, the oldest is given up. And the memory that the peer's other
//! profiles leave: a symbol that needs more is dropped before any memory is taken (`room`).
//!
//! Start with [`Receiver::handle_source`] and [`Receiver::next_adu`].

mod delivery;
mod marks;
mod open_block;
mod progress;
mod reordering;
mod room;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

use self::open_block::OpenBlock;
use self::reordering::Reordering;
pub use delivery::Delivery;

use super::drop_reason::DropReason;
use super::lost_blocks::Losses;
use super::unreported_losses::UnreportedLosses;
use crate::fec::code::Code;
use crate::fec::received_block::Insertion;
use crate::wire::adu::AduHeader;
use crate::wire::payload_id::{RepairId, SourceId};
use crate::wire::report::{Reception, SentBelow};

pub use progress::ReceiveProgress;
pub use room::{MEMORY_HIGH, MEMORY_MAX};

/// Blocks of one profile that may be open at a time.
pub const OPEN_BLOCKS_MAX: u64 = 4096;
/// The first symbol of a new epoch may be of any block below this one: the blocks before it may still be under way.
const REORDERED_START: u64 = 64;
/// The least time that a sender may pause in the midst of a block.
pub const SENDER_PAUSE: Duration = Duration::from_millis(500);

/// What a receiver needs to take a symbol: the counterpart of [`Egress`](super::sender::Egress).
pub struct Ingress<'a> {
    /// Rebuilds symbols.
    pub code: &'a mut Code,
    /// Counts what is received.
    pub reception: &'a mut Reception,
    /// When the datagram came.
    pub now: Instant,
}

/// An ADU that may leave: its place in its block.
#[derive(Debug)]
pub struct Ready {
    /// Its header.
    pub header: AduHeader,
    sbn: u64,
    packet: Range<usize>,
    /// The path marked a datagram with bytes of it.
    pub(super) marked: bool,
    /// Some of its bytes were rebuilt.
    pub(super) rebuilt: bool,
    /// It is of an earlier run of the peer.
    pub(super) retired: bool,
}

/// The blocks of one profile of one peer.
#[derive(Debug)]
pub struct Receiver {
    symbol_size: usize,
    profile: u8,
    strict: bool,
    reordering: Reordering,
    /// A hole waits at least this long, because late repair symbols may fill it.
    late_hold: Duration,
    /// The block at the front of `blocks`; 0 until something was received.
    next: u64,
    /// The first block that was received or reported: older ones are not missed.
    heard_from: Option<u64>,
    /// The first `next`: reports do not cover blocks below.
    decoded_from: u64,
    /// The first block that is accounted for. It is below `decoded_from` if the sender reported later that there were
    /// earlier ones.
    accounted_from: u64,
    /// The sender has reported that blocks below this one are closed.
    closed_below: u64,
    given_up: UnreportedLosses,
    /// Blocks below this one are given up when they come to the front, and take no more symbols: their ADUs must leave
    /// in order, and one behind a hole may have left already.
    give_up_below: u64,
    /// The last block, given up while its sender was not known to have closed it. If more of it or a later block comes,
    /// it is lost.
    unfinished: Option<u64>,
    losses: Losses,
    /// It belongs to an earlier run of the peer: nothing more comes.
    retired: bool,
    /// The last is always open; before it, `None` is a block of which nothing came.
    blocks: VecDeque<Option<Box<OpenBlock>>>,
    /// Without strict ordering: blocks that got a symbol since the last poll, each once.
    touched: Vec<u64>,
    /// Bytes of all blocks, open and spare, and of the lists of them.
    memory: usize,
    memory_max: usize,
    /// Empty blocks that are kept for their memory.
    #[allow(clippy::vec_box, reason = "a block moves from here to `blocks` and back as it is")]
    spare: Vec<Box<OpenBlock>>,
    spare_memory: usize,
}

impl Receiver {
    /// Expects blocks of symbols of up to `symbol_size` bytes.
    pub fn new(profile: u8, symbol_size: usize, delivery: Delivery) -> Self {
        Self {
            symbol_size,
            profile,
            strict: delivery.strict,
            reordering: Reordering::new(delivery.bounds()),
            late_hold: Duration::ZERO,
            next: 0,
            heard_from: None,
            decoded_from: 0,
            accounted_from: 0,
            closed_below: 0,
            given_up: UnreportedLosses::default(),
            give_up_below: 0,
            unfinished: None,
            losses: Losses::default(),
            retired: false,
            blocks: VecDeque::new(),
            touched: Vec::new(),
            memory: 0,
            memory_max: MEMORY_MAX,
            spare: Vec::new(),
            spare_memory: 0,
        }
    }

    /// A hole waits so long from now on; the order stays as it is.
    pub fn set_hold(&mut self, delivery: Delivery) {
        self.reordering.set_bounds(delivery.bounds());
    }

    /// Takes a source symbol.
    pub fn handle_source(&mut self, id: SourceId, symbol: &[u8], ingress: &mut Ingress<'_>) -> Result<(), DropReason> {
        if id.unprotected {
            // Without repair symbols nothing fills a hole: holding back what follows would only add delay.
            self.strict = false;
        }
        self.reordering.on_symbol(id.sbn, ingress.now);
        if id.sbn < self.lowest_wanted() {
            ingress.reception.late += 1;
            return Err(DropReason::LateSymbol);
        }
        self.open_block(id.sbn, ingress)?;
        let (room, open) = self.opened(id.sbn);
        let held = open.block.memory();
        let insertion = open.block.insert_source(id, symbol, room);
        open.hear(insertion, ingress.now);
        self.on_insertion(id.sbn, insertion, held, ingress)?;
        self.learn_previous(id.sbn, id.previous_symbols, ingress)
    }

    /// Takes a repair symbol.
    pub fn handle_repair(&mut self, id: RepairId, symbol: &[u8], ingress: &mut Ingress<'_>) -> Result<(), DropReason> {
        self.reordering.on_symbol(id.sbn, ingress.now);
        if id.sbn < self.lowest_wanted() {
            // Usual for a block that lost nothing: it has left before its repair symbols come.
            if self.unfinished == Some(id.sbn) {
                self.on_unfinished_end(ingress.now);
            }
            return Ok(());
        }
        self.open_block(id.sbn, ingress)?;
        let (room, open) = self.opened(id.sbn);
        let held = open.block.memory();
        let insertion = open.block.insert_repair(id, symbol, room);
        // Closed, but more repair symbols may be under way: the sender's host may stop between two of them.
        open.closed = true;
        open.hear(insertion, ingress.now);
        self.on_insertion(id.sbn, insertion, held, ingress)?;
        self.learn_previous(id.sbn, id.previous_symbols.into(), ingress)
    }

    /// A symbol of block `sbn` carries the number of source symbols of the block before; 0 if unknown.
    fn learn_previous(&mut self, sbn: u64, symbols: u16, ingress: &mut Ingress<'_>) -> Result<(), DropReason> {
        if symbols == 0 || sbn <= self.lowest_wanted() {
            return Ok(());
        }
        self.open_block(sbn - 1, ingress)?;
        let (_, previous) = self.opened(sbn - 1);
        let held = previous.block.memory();
        let agrees = previous.block.learn_symbols(symbols.into());
        let insertion = if agrees { Insertion::New } else { Insertion::Contradictory };
        self.on_insertion(sbn - 1, insertion, held, ingress)
    }

    /// Takes the sender's report of its closed blocks: those of which nothing came are missed from now on.
    pub fn handle_sent(&mut self, told: SentBelow, ingress: &mut Ingress<'_>) -> Result<(), DropReason> {
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
        if self.unfinished.is_some_and(|sbn| sbn < told.below) {
            self.on_unfinished_end(ingress.now);
        }
        if last < self.lowest_wanted() {
            self.closed_below = told.below;
            return Ok(());
        }
        // Without room nothing is noted, and the next report repeats it.
        self.open_block(last, ingress)?;
        self.closed_below = told.below;
        // The report may have overtaken the end of the block: its hold begins now.
        let (_, open) = self.opened(last);
        open.end(ingress.now);
        let held = open.block.memory();
        let agrees = told.symbols == 0 || open.block.learn_symbols(told.symbols.into());
        let insertion = if agrees { Insertion::New } else { Insertion::Contradictory };
        self.on_insertion(last, insertion, held, ingress)
    }

    /// The next ADU that may leave at `now`.
    pub fn next_adu(&mut self, reception: &mut Reception, now: Instant) -> Option<Ready> {
        loop {
            if self.next >= self.give_up_below
                && let Some((at, below)) = self.front_deadline()
                && at <= now
            {
                self.give_up_below = below;
            }
            let given_up = self.next < self.give_up_below;
            let skip_holes = given_up || !self.strict;
            match self.blocks.front_mut()? {
                Some(open) => {
                    if let Some((header, packet)) = open.block.next_adu(skip_holes) {
                        let (marked, rebuilt) = open.block.traits(&packet);
                        return Some(Ready { header, sbn: self.next, packet, marked, rebuilt, retired: self.retired });
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

    /// The packet of an ADU that [`next_adu`](Self::next_adu) has just returned.
    pub fn packet(&self, ready: &Ready) -> &[u8] {
        let index = (ready.sbn - self.next) as usize;
        let open = self.blocks.get(index).and_then(Option::as_ref).expect("the block stays until the next look");
        &open.block.bytes()[ready.packet.clone()]
    }

    /// When the front block will be given up, if something is missing in it.
    pub fn deadline(&self) -> Option<Instant> {
        self.front_deadline().map(|(at, _)| at)
    }

    fn next_adu_out_of_order(&mut self) -> Option<Ready> {
        while let Some(&sbn) = self.touched.last() {
            let index = sbn.checked_sub(self.next).map(|index| index as usize);
            let open = index.and_then(|index| self.blocks.get_mut(index)).and_then(Option::as_mut);
            if let Some(open) = open
                && let Some((header, packet)) = open.block.next_adu(true)
            {
                let (marked, rebuilt) = open.block.traits(&packet);
                return Some(Ready { header, sbn, packet, marked, rebuilt, retired: self.retired });
            }
            if let Some(open) = self.touched.pop().and(index).and_then(|index| self.blocks.get_mut(index)?.as_mut()) {
                open.touched = false;
            }
        }
        None
    }

    /// When the front block will be given up, and below which block: all of which nothing came have one deadline. Looking for
    /// it once for each of them would take their number squared.
    fn front_deadline(&self) -> Option<(Instant, u64)> {
        let hold = self.hold();
        let Some(open) = self.blocks.front()? else {
            let mut numbered = (self.next..).zip(&self.blocks);
            let (first, open) = numbered.find_map(|(sbn, open)| Some((sbn, open.as_ref()?)))?;
            return Some((open.since + hold, first));
        };
        // While the sender is in the midst of the block, the missing symbols may be on their way, however long it
        // pauses: its host may have stopped. It calls the block protected when it has sent the rest.
        let longest = open.missing_since? + hold.max(SENDER_PAUSE);
        Some((if open.ended { longest.min(open.heard + hold) } else { longest }, self.next + 1))
    }

    /// More came of the unfinished block or of a later one: it was sent in full, so it is lost.
    fn on_unfinished_end(&mut self, now: Instant) {
        if let Some(sbn) = self.unfinished.take() {
            self.losses.add(self.profile, sbn, 1, now);
        }
    }

    /// Begins with block `next`; blocks below `heard_from` are not missed.
    fn begin(&mut self, next: u64, heard_from: u64) {
        self.next = next;
        self.decoded_from = next;
        self.accounted_from = next;
        self.heard_from = Some(heard_from);
    }

    /// Opens block `sbn`, which is not below `next`, if it is not open and there is room.
    fn open_block(&mut self, sbn: u64, ingress: &mut Ingress<'_>) -> Result<(), DropReason> {
        if self.heard_from.is_none() {
            self.begin(if sbn < REORDERED_START { 0 } else { sbn }, sbn);
        }
        let now = ingress.now;
        self.on_unfinished_end(now);
        if sbn - self.next >= 2 * OPEN_BLOCKS_MAX {
            // A gap this long is an outage: nothing held could still be completed.
            let last_open = self.next + self.blocks.len() as u64;
            while !self.blocks.is_empty() {
                self.pop_front(ingress.reception, now);
            }
            self.touched.clear();
            ingress.reception.blocks += sbn - last_open;
            ingress.reception.unrecoverable_blocks += sbn - last_open;
            self.given_up.add(last_open, sbn - last_open, 0);
            self.on_unfinished_end(now);
            self.losses.add(self.profile, last_open, sbn - last_open, now);
            self.next = sbn;
        } else if sbn - self.next >= OPEN_BLOCKS_MAX {
            self.give_up_below = self.give_up_below.max(sbn - OPEN_BLOCKS_MAX + 1);
        }
        let index = (sbn - self.next) as usize;
        let is_open = self.blocks.get(index).is_some_and(Option::is_some);
        if is_open {
            return Ok(());
        }
        let mut open = self.take_spare(index + 1, now).ok_or(DropReason::NoRoom)?;
        if self.blocks.len() <= index {
            self.reordering.on_newer(sbn, now);
            // A later block begins, so the last block is closed.
            if let Some(Some(last)) = self.blocks.back_mut() {
                last.missing_since.get_or_insert(now);
                last.end(now);
            }
            self.blocks.resize_with(index + 1, || None);
        }
        let is_last = index + 1 == self.blocks.len();
        open.begin(is_last, now);
        self.blocks[index] = Some(open);
        Ok(())
    }

    /// Block `sbn`, which was opened just now, and how many more bytes it may hold.
    fn opened(&mut self, sbn: u64) -> (usize, &mut OpenBlock) {
        let (room, index) = (self.room(), (sbn - self.next) as usize);
        let open = self.blocks.get_mut(index).and_then(Option::as_mut);
        (room, open.expect("the block was opened just now"))
    }

    /// Follows up on a change of block `sbn`, which held `held` bytes before it.
    fn on_insertion(
        &mut self,
        sbn: u64,
        insertion: Insertion,
        held: usize,
        ingress: &mut Ingress<'_>,
    ) -> Result<(), DropReason> {
        let is_last = (sbn - self.next) as usize + 1 == self.blocks.len();
        let (strict, closed_below) = (self.strict, self.closed_below);
        let (room, open) = self.opened(sbn);
        // The bytes that the insertion took are not counted yet.
        let room = room.saturating_sub(open.block.memory() - held);
        let mut is_touched = false;
        if insertion == Insertion::New {
            let rebuilt = open.block.rebuild(ingress.code, room) as u64;
            ingress.reception.recovered_symbols += rebuilt;
            ingress.reception.recovered_blocks += u64::from(rebuilt > 0);
            is_touched = !strict && !std::mem::replace(&mut open.touched, true);
        }
        if open.block.has_hole() || sbn < closed_below {
            open.missing_since.get_or_insert(ingress.now);
        } else if is_last {
            open.missing_since = None;
        }
        let grown = open.block.memory() - held;
        self.memory += grown;
        if is_touched {
            self.touched.push(sbn);
        }
        match insertion {
            Insertion::Contradictory => Err(DropReason::Contradictory),
            Insertion::NoRoom => Err(DropReason::NoRoom),
            Insertion::New | Insertion::Unneeded => Ok(()),
        }
    }

    /// The first block that still takes symbols.
    fn lowest_wanted(&self) -> u64 {
        self.next.max(self.give_up_below)
    }

    fn pop_front(&mut self, reception: &mut Reception, now: Instant) {
        let Some(front) = self.blocks.pop_front() else { return };
        let missed = self.heard_from.is_some_and(|first| self.next >= first);
        let delivered = front.as_ref().is_some_and(|open| open.block.is_delivered());
        reception.blocks += u64::from(missed);
        reception.unrecoverable_blocks += u64::from(missed && !delivered);
        // A block with malformed bytes was not delivered whole, although nothing is missing.
        if !front.as_ref().is_some_and(|open| open.block.is_delivered() && open.block.malformed() == 0) {
            let symbols = front.as_ref().map_or(0, |open| open.block.delivered_symbols());
            self.given_up.add(self.next, 1, symbols as u16);
            let closed = !self.blocks.is_empty() || front.as_ref().is_none_or(|open| open.closed);
            match missed {
                // Only its first symbols came: they may be all.
                true if !closed && symbols > 0 => {}
                true if !closed => self.unfinished = Some(self.next),
                true => self.losses.add(self.profile, self.next, 1, now),
                false => {}
            }
        }
        if let Some(open) = front {
            self.put_aside(open);
        }
        self.next += 1;
    }
}

#[cfg(test)]
mod tests;
