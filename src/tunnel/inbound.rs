//! The receiving side of one profile of one peer: blocks being filled, and the order in which their ADUs leave.
//!
//! Blocks are held from `next`, the oldest that is neither delivered nor given up. With strict ordering an ADU leaves
//! when everything before it has left; a hole holds what follows until it is filled or `hold` has passed since it was
//! known that something of its block is missing: a later symbol of it came, something of a later block, or the sender's
//! report that it is closed. A block given up still yields the ADUs that are whole. Addresses and offload headers of
//! ADUs are checked by the caller.
//!
//! What is told of the fate of blocks is true of every block: from `decoded_from` to below `next` each was handed on
//! whole, or is in `given_up` until the sender is known to have heard of it.
//!
//! Bounds: [`OPEN_BLOCKS_MAX`] blocks and a share of [`MEMORY_MAX`] bytes; beyond either, the oldest block is given up.

mod standing;

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

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

/// How ADUs of different blocks leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// In the order in which they were sent; otherwise as soon as each is whole.
    pub strict: bool,
    /// How long a block may be incomplete before it is given up.
    pub hold: Duration,
}

/// A block and what its coming tells.
#[derive(Debug)]
struct OpenBlock {
    block: ReceivedBlock,
    /// When anything was first heard of it.
    since: Instant,
    /// Since when something of it is known to be missing, or may be because it is not the last any more.
    missing_since: Option<Instant>,
    /// Its sender is known to have closed it, and to have sent all of it unless it died in that moment.
    closed: bool,
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
        self.on_insertion(id.sbn, insertion, held, code, reception, now)?;
        if id.previous_symbols > 0 && id.sbn > self.lowest_wanted() {
            let previous = self.open_block(id.sbn - 1, reception, now);
            let held = previous.block.memory();
            let agrees = previous.block.learn_symbols(usize::from(id.previous_symbols));
            let insertion = if agrees { Insertion::New } else { Insertion::Contradictory };
            self.on_insertion(id.sbn - 1, insertion, held, code, reception, now)?;
        }
        Ok(())
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
        open.closed = true;
        self.on_insertion(id.sbn, insertion, held, code, reception, now)
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
        open.closed = true;
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
        let since = match self.blocks.front()? {
            Some(open) => open.missing_since?,
            None => self.blocks.iter().flatten().next()?.since,
        };
        Some(since + self.delivery.hold)
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
                last.closed = true;
            }
            self.blocks.resize_with(index + 1, || None);
        }
        let is_last = index + 1 == self.blocks.len();
        if self.blocks[index].is_none() {
            let mut open = self.spare.pop().unwrap_or_else(|| {
                let block = ReceivedBlock::new(self.symbol_size);
                Box::new(OpenBlock { block, since: now, missing_since: None, closed: false })
            });
            open.since = now;
            open.missing_since = (!is_last).then_some(now);
            open.closed = !is_last;
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
mod tests {
    use super::*;
    use crate::fec::source_block::SourceBlock;
    use crate::wire::virtio::VirtioHeader;

    const E: usize = 64;
    const HOLD: Duration = Duration::from_millis(10);

    /// An inbound side fed with blocks of small packets, one in each symbol; a packet says where it was.
    struct Bench {
        inbound: Inbound,
        code: Code,
        reception: Reception,
        start: Instant,
    }

    impl Bench {
        fn new(strict: bool) -> Self {
            Self {
                inbound: Inbound::new(0, E, Delivery { strict, hold: HOLD }),
                code: Code::new(),
                reception: Reception::default(),
                start: Instant::now(),
            }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        /// Source symbol `esi` of block `sbn`; every block has 3.
        fn source(&mut self, sbn: u64, esi: u16, millis: u64) -> Result<(), DropReason> {
            let mut block = SourceBlock::new(E, 8);
            block.room()[..2].copy_from_slice(&[sbn as u8, esi as u8]);
            block.commit(VirtioHeader::default(), 2);
            block.finish_symbol();
            let previous_symbols = if sbn == 0 { 0 } else { 3 };
            let id = SourceId { profile: 0, unprotected: false, esi, sbn, previous_symbols, first_adu: 0 };
            let now = self.at(millis);
            self.inbound.handle_source(id, block.symbol(0), &mut self.code, &mut self.reception, now)
        }

        fn one(&mut self, millis: u64) -> Option<(u8, u8)> {
            let now = self.at(millis);
            let ready = self.inbound.next_adu(&mut self.reception, now)?;
            let packet = self.inbound.packet(&ready);
            Some((packet[0], packet[1]))
        }

        /// The sender tells that it has closed blocks `from..below`, and k of the last.
        fn told(&mut self, from: u64, below: u64, symbols: u16, millis: u64) {
            let (told, now) = (SentBelow { profile: 0, from, below, symbols }, self.at(millis));
            self.inbound.handle_sent(told, &mut self.code, &mut self.reception, now).unwrap();
        }

        /// What the next report tells: blocks lost with their symbols, and which are done with.
        fn fates(&mut self) -> (Vec<(u64, u32, u16)>, Range<u64>) {
            let (mut room, mut lost) = (16, Vec::new());
            self.inbound.name_given_up(1, &mut room, &mut lost);
            let progress = self.inbound.progress().unwrap();
            let lost = lost.iter().map(|run| (run.first, run.count, run.symbols)).collect();
            (lost, progress.decoded_from..progress.decoded_below)
        }

        fn all(&mut self, millis: u64) -> Vec<(u8, u8)> {
            std::iter::from_fn(|| self.one(millis)).collect()
        }
    }

    #[test]
    fn a_hole_holds_what_follows_until_it_is_filled_or_given_up() {
        let mut bench = Bench::new(true);
        for (sbn, esi) in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)] {
            bench.source(sbn, esi, 0).unwrap();
        }
        assert_eq!(bench.all(0), [(0, 0)]);
        assert_eq!(bench.inbound.deadline(), Some(bench.at(10)));
        assert_eq!(bench.all(9), []);
        assert_eq!(bench.all(10), [(0, 2), (1, 0), (1, 1), (1, 2)]);
        assert_eq!(bench.reception.unrecoverable_blocks, 1);
        assert_eq!(bench.source(0, 1, 11), Err(DropReason::LateSymbol));
        assert_eq!(bench.reception.late, 1);

        let mut bench = Bench::new(true);
        for (sbn, esi) in [(1, 0), (0, 0), (0, 2), (0, 1)] {
            bench.source(sbn, esi, 0).unwrap();
        }
        assert_eq!(bench.all(1), [(0, 0), (0, 1), (0, 2), (1, 0)]);
    }

    #[test]
    fn a_block_whose_sender_was_late_was_given_up_with_its_repair_on_the_way() {
        let mut bench = Bench::new(true);
        bench.source(0, 0, 0).unwrap();
        assert_eq!((bench.all(0), bench.inbound.deadline()), (vec![(0, 0)], None));
        // The rest of it comes after a pause that is longer than a hole may hold.
        bench.source(0, 2, 50).unwrap();
        assert_eq!((bench.all(50), bench.inbound.deadline()), (vec![], Some(bench.at(60))));
        bench.source(0, 1, 59).unwrap();
        assert_eq!((bench.all(59), bench.inbound.deadline()), (vec![(0, 1), (0, 2)], None));
        // So does what comes of the next one, before the end of this.
        bench.source(1, 1, 100).unwrap();
        assert_eq!(bench.inbound.deadline(), Some(bench.at(110)));
        bench.source(1, 0, 109).unwrap();
        assert_eq!(bench.all(109), [(1, 0), (1, 1)]);
        assert_eq!(bench.reception.unrecoverable_blocks, 0);
    }

    #[test]
    fn what_is_whole_behind_a_hole_was_dropped_when_the_peer_started_anew() {
        let mut bench = Bench::new(true);
        for (sbn, esi) in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (3, 0)] {
            bench.source(sbn, esi, 0).unwrap();
        }
        assert_eq!(bench.all(1), [(0, 0)]);
        bench.inbound.retire();
        assert_eq!(bench.all(1), [(0, 2), (1, 0), (1, 1), (1, 2), (3, 0)], "at once, and in order");
        assert!(bench.inbound.is_empty());
        // Nothing told where block 1 ends. That of block 3 is not lost: its sender ended in the middle of it, as far as
        // anybody knows.
        let lost: Vec<_> = bench.inbound.losses().newest().map(|lost| (lost.first, lost.count)).collect();
        assert_eq!(lost, [(0, 3)]);
    }

    #[test]
    fn a_last_block_is_unfinished_until_something_shows_that_it_was_sent() {
        type Step = fn(&mut Bench);
        let rows: [(Step, usize, Option<u64>, u64); 7] = [
            (|it| it.source(0, 0, 0).unwrap(), 0, None, 0),
            (|it| it.source(0, 2, 0).unwrap(), 1, None, 0),
            (|it| drop(it.all(10)), 0, Some(0), 0),
            (|it| assert!(it.source(0, 1, 11).is_err()), 0, Some(0), 0),
            (|it| it.source(1, 0, 12).unwrap(), 0, None, 1),
            (|it| it.told(0, 2, 3, 13), 1, None, 1),
            (|it| drop(it.all(30)), 0, None, 2),
        ];
        let mut bench = Bench::new(true);
        for (number, (step, waiting, unfinished, lost)) in rows.into_iter().enumerate() {
            step(&mut bench);
            bench.all(9);
            let standing = bench.inbound.standing();
            let found = (standing.waiting, standing.unfinished, bench.inbound.losses().blocks());
            assert_eq!(found, (waiting, unfinished, lost), "step {number}");
        }
    }

    #[test]
    fn without_order_adus_leave_as_they_become_whole() {
        let mut bench = Bench::new(false);
        let rows = [((1, 2), 1), ((0, 1), 1), ((2, 0), 1), ((0, 0), 1), ((1, 0), 1)];
        for ((sbn, esi), leave) in rows {
            bench.source(sbn, esi, 0).unwrap();
            let left = bench.all(0);
            assert_eq!(left.len(), leave);
            assert!(left.contains(&(sbn as u8, esi as u8)));
        }
        assert_eq!(bench.all(10), []);
        assert_eq!(bench.inbound.progress().unwrap().decoded_below, 0, "block 0 was not named yet");
        assert_eq!(bench.fates(), (vec![(0, 2, 0)], 0..2));
    }

    #[test]
    fn a_symbol_that_came_between_two_looks_at_a_block_given_up_left_out_of_order() {
        let mut bench = Bench::new(true);
        for (sbn, esi) in [(0, 1), (0, 2), (1, 0)] {
            bench.source(sbn, esi, 0).unwrap();
        }
        assert_eq!(bench.one(10), Some((0, 1)), "symbol 0 was jumped over");
        assert_eq!(bench.source(0, 0, 10), Err(DropReason::LateSymbol));
        assert_eq!(bench.all(10), [(0, 2), (1, 0)]);
    }

    #[test]
    fn a_block_of_which_nothing_came_is_given_up_with_the_next() {
        let mut bench = Bench::new(true);
        (0..3).for_each(|esi| bench.source(0, esi, 0).unwrap());
        assert_eq!(bench.all(0).len(), 3);
        bench.source(2, 0, 5).unwrap();
        assert_eq!(bench.all(14), []);
        assert_eq!(bench.all(15), [(2, 0)]);
        // Nothing has told that block 0 ended where it seemed to.
        assert_eq!(bench.reception.unrecoverable_blocks, 2);
    }

    #[test]
    fn what_was_before_the_first_block_heard_is_not_missed() {
        let mut bench = Bench::new(true);
        bench.source(1000, 0, 0).unwrap();
        assert_eq!(bench.all(0), [(232, 0)]);
        assert_eq!(bench.source(999, 0, 0), Err(DropReason::LateSymbol));
        let mut bench = Bench::new(true);
        bench.source(40, 0, 0).unwrap();
        assert_eq!(bench.all(9), [], "earlier ones may only be late");
        assert_eq!(bench.all(10), [(40, 0)]);
        // Block 39 was mentioned by a symbol of block 40, no other.
        assert_eq!(bench.reception.unrecoverable_blocks, 0);
    }

    #[test]
    fn a_receiver_that_began_in_the_middle_called_what_was_before_decoded() {
        let mut bench = Bench::new(true);
        bench.source(71, 0, 0).unwrap();
        bench.all(0);
        assert_eq!(bench.fates(), (vec![], 71..71));
        bench.told(64, 72, 1, 1);
        bench.all(1);
        assert_eq!(bench.fates(), (vec![(64, 7, 0)], 71..72), "those before were sent to this run, too");
        let mut bench = Bench::new(true);
        bench.source(3, 0, 0).unwrap();
        bench.all(10);
        assert_eq!(bench.fates(), (vec![(0, 3, 0)], 0..3), "not missed by the statistics, and not decoded");
    }

    #[test]
    fn a_tail_of_which_nothing_came_is_given_up_without_later_traffic() {
        let mut bench = Bench::new(true);
        (0..3).for_each(|esi| bench.source(0, esi, 0).unwrap());
        bench.all(0);
        bench.told(0, 4, 3, 20);
        assert_eq!((bench.all(20), bench.inbound.deadline()), (vec![], Some(bench.at(30))));
        bench.told(0, 4, 3, 29);
        assert_eq!((bench.all(29), bench.fates().1), (vec![], 0..0), "the end of block 0 may be late, too");
        assert_eq!(bench.all(30), [], "hearing it again prolongs nothing");
        // Block 0 may be whole: 3 symbols of it came, and the sender knows whether that is all.
        assert_eq!(bench.fates(), (vec![(0, 1, 3), (1, 3, 0)], 0..4));
        assert_eq!(bench.reception.unrecoverable_blocks, 4);
        assert_eq!(bench.inbound.deadline(), None);
    }

    #[test]
    fn the_report_tells_where_the_last_block_ends_and_may_overtake_it() {
        let mut bench = Bench::new(true);
        (0..3).for_each(|esi| bench.source(0, esi, 0).unwrap());
        bench.told(0, 1, 3, 5);
        bench.all(5);
        assert_eq!(bench.fates(), (vec![], 0..1));
        bench.source(1, 0, 6).unwrap();
        bench.told(0, 2, 3, 40);
        assert_eq!(bench.all(49), [(1, 0)], "the rest has its time from the report on");
        (1..3).for_each(|esi| bench.source(1, esi, 49).unwrap());
        assert_eq!(bench.all(49).len(), 2);
        bench.told(0, 3, 0, 50);
        bench.source(2, 0, 50).unwrap();
        assert_eq!(bench.all(60), [(2, 0)]);
        assert_eq!(bench.fates(), (vec![(2, 1, 1)], 0..3), "an abandoned block has no length");
    }

    #[test]
    fn a_receiver_that_heard_nothing_counts_from_where_the_sender_began_for_it() {
        for (from, below) in [(0, 3), (500, 503)] {
            let mut bench = Bench::new(true);
            bench.told(from, below, 3, 0);
            assert_eq!(bench.all(10), []);
            assert_eq!(bench.fates(), (vec![(from, 3, 0)], from..below));
            assert_eq!(bench.reception.unrecoverable_blocks, 3);
        }
    }

    #[test]
    fn blocks_told_of_are_bounded_and_all_are_named_whatever_numbers_come() {
        let mut bench = Bench::new(true);
        for below in [1, OPEN_BLOCKS_MAX + 50, 2 * OPEN_BLOCKS_MAX, 9 * OPEN_BLOCKS_MAX, 1 << 48] {
            bench.told(0, below, 3, 0);
            assert!(bench.inbound.blocks.len() as u64 <= 2 * OPEN_BLOCKS_MAX);
            assert!(bench.inbound.memory() == 0);
            while bench.one(0).is_some() {}
            assert!(bench.inbound.blocks.len() as u64 <= OPEN_BLOCKS_MAX);
        }
        while bench.one(10).is_some() {}
        let (mut next, mut reports) = (0, 0);
        while next < 1 << 48 {
            reports += 1;
            let (lost, done) = bench.fates();
            assert_eq!(done, 0..lost.last().map(|&(first, count, _)| first + u64::from(count)).unwrap());
            for (first, count, symbols) in lost {
                assert_eq!((first, symbols), (next, 0));
                next += u64::from(count);
            }
            bench.inbound.on_acknowledged(1);
        }
        assert!(reports < 5000, "{reports} reports");
    }

    #[test]
    fn an_outage_gives_up_whole_blocks_that_were_not_handed_on() {
        let mut bench = Bench::new(true);
        for (sbn, esi) in [(0, 0), (1, 0), (1, 1), (1, 2), (2, 0)] {
            bench.source(sbn, esi, 0).unwrap();
        }
        bench.source(3 * OPEN_BLOCKS_MAX, 0, 0).unwrap();
        while bench.one(10).is_some() {}
        let (lost, done) = bench.fates();
        assert_eq!((lost, done), (vec![(0, 3 * OPEN_BLOCKS_MAX as u32, 0)], 0..3 * OPEN_BLOCKS_MAX));
    }

    #[test]
    fn open_blocks_are_bounded_whatever_numbers_come() {
        let mut bench = Bench::new(true);
        for sbn in [0, 100, OPEN_BLOCKS_MAX + 50, 3 * OPEN_BLOCKS_MAX, 1 << 48] {
            bench.source(sbn, 0, 0).unwrap();
            assert!(bench.inbound.blocks.len() as u64 <= 2 * OPEN_BLOCKS_MAX);
            while bench.one(0).is_some() {}
            assert!(bench.inbound.blocks.len() as u64 <= OPEN_BLOCKS_MAX);
        }
        assert_eq!(bench.inbound.progress().unwrap().highest, 1 << 48);
    }

    #[test]
    fn many_long_blocks_held_more_memory_than_the_bound() {
        let mut bench = Bench::new(true);
        let block = 8192 * E;
        (0..400).for_each(|sbn| bench.source(sbn, 1, 0).unwrap());
        for sbn in (0..400).rev() {
            let _ = bench.source(sbn, 8191, 0);
            assert_eq!(bench.all(0).iter().filter(|&&(_, esi)| esi == 255).count(), 0);
            assert!(bench.inbound.memory() <= MEMORY_MAX + 2 * block, "{} bytes", bench.inbound.memory());
        }
        let spare: usize = bench.inbound.spare.iter().map(|open| open.block.memory()).sum();
        assert!(spare <= SPARE_MAX * SPARE_MEMORY_MAX);
    }
}
