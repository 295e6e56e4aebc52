//! The reference model: from the packets taken, the datagrams sealed and the symbols that arrived, it derives which
//! packets must be delivered.
//!
//! It knows the guarantees of the protocol, not their implementation.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::RangeInclusive;
use std::time::Duration;

use onwire::tunnel::feedback::Feedback;
use onwire::wire::payload_id::{BlockId, RepairId, SourceId};
use onwire::wire::report::SentBelow;

use crate::block_outcomes::ReportedOutcomes;
use crate::keys::Run;
use crate::outcome::Outcome;
use crate::packets::{Packet, number_of};
use crate::scenario::Scenario;
use crate::side::Side;

/// The blocks of one profile that one run sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Stream {
    from: Run,
    profile: u8,
}

/// One block as it was sent, and as it arrived at each run of the receiver.
#[derive(Debug, Default)]
struct Block {
    /// The run of the receiver that its symbols were sealed for.
    to: Option<Run>,
    source: BTreeMap<u16, Vec<u8>>,
    symbols: Option<u16>,
    repair_symbols: u16,
    arrived: BTreeMap<Run, Arrived>,
}

/// What arrived of a block.
#[derive(Debug)]
struct Arrived {
    /// When the receiver first learned of the block.
    first: Duration,
    /// When each symbol came.
    esis: BTreeMap<u16, Duration>,
    /// When the receiver learned that the block is closed.
    closed: Option<Duration>,
}

/// The place of a packet in a block.
#[derive(Debug)]
struct Adu {
    number: u16,
    symbols: RangeInclusive<u16>,
}

/// A packet that a forwarder took.
#[derive(Debug)]
struct Taken {
    stream: Stream,
    packet: Packet,
    /// The run of the receiver that wrote it to its TUN.
    delivered: Option<Run>,
}

/// The outcome of a block that was claimed as protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All its datagrams arrived.
    Whole,
    /// It lost at most as many datagrams as it had repair symbols, and was delivered.
    Rebuilt,
    /// It lost more datagrams.
    TooManyLost,
    /// It lost more, or not enough arrived within `hold`; its sender's run had ended and could not be notified.
    NotReported,
    /// Enough of it arrived, but not within `hold`.
    TooLate,
    /// It was delivered in part at most: the receiver was restarted.
    ReceiverRestarted,
    /// It was not delivered, without a valid reason.
    Broken,
}

/// The state of the model.
#[derive(Debug, Default)]
pub struct Model {
    taken: [HashMap<u16, Taken>; 2],
    /// The last packet of each stream that each run of the receiver delivered.
    last: HashMap<(Run, Stream), u16>,
    streams: BTreeMap<Stream, BTreeMap<u64, Block>>,
    restarted_at: Duration,
    /// The outcomes that were reported.
    pub reported_outcomes: ReportedOutcomes,
}

impl Model {
    /// A forwarder took packet `number` for `profile`.
    pub fn on_taken(&mut self, by: Run, number: u16, profile: u8, packet: Packet) {
        let stream = Stream { from: by, profile };
        let taken = Taken { stream, packet, delivered: None };
        assert!(self.taken[by.side.index()].insert(number, taken).is_none(), "numbers are unique");
    }

    /// A run ended.
    pub fn on_restart(&mut self, now: Duration) {
        self.restarted_at = now;
    }

    /// A source symbol was sealed.
    pub fn on_source(&mut self, from: Run, to: Run, id: SourceId, symbol: &[u8]) {
        let block = self.block(from, id.profile, id.sbn);
        let addressed = *block.to.get_or_insert(to);
        assert_eq!(addressed, to, "block {} of {from:?} was started for another run", id.sbn);
        let known = block.source.insert(id.esi, symbol.to_vec());
        assert!(known.is_none(), "source symbol {} of block {} of {from:?} was sealed twice", id.esi, id.sbn);
        if id.previous_symbols > 0 {
            let previous = self.block(from, id.profile, id.sbn - 1);
            assert_eq!(
                previous.source.len(),
                usize::from(id.previous_symbols),
                "the announced length of block {}",
                id.sbn - 1
            );
            previous.symbols = Some(id.previous_symbols);
        }
    }

    /// A repair symbol was sealed.
    pub fn on_repair(&mut self, from: Run, id: RepairId) {
        let block = self.block(from, id.profile, id.sbn);
        assert_eq!(block.source.len(), usize::from(id.source_symbols), "the announced length of block {}", id.sbn);
        block.symbols = Some(id.source_symbols);
        block.repair_symbols = id.repair_symbols;
    }

    /// A symbol reached run `at` of the receiver, for the first time and under a session that it has.
    pub fn on_arrival(&mut self, from: Run, profile: u8, sbn: u64, esi: u16, at: Run, now: Duration) {
        self.touch(from, profile, sbn, at, now).esis.insert(esi, now);
    }

    /// Run `at` of the receiver learned that there is such a block.
    pub fn on_mention(&mut self, from: Run, profile: u8, sbn: u64, at: Run, now: Duration) {
        self.touch(from, profile, sbn, at, now);
    }

    /// A report of `from` contains the length of its last closed block.
    pub fn on_closed(&mut self, from: Run, sent: SentBelow) {
        if sent.symbols > 0 {
            let block = self.block(from, sent.profile, sent.below - 1);
            assert_eq!(
                block.source.len(),
                usize::from(sent.symbols),
                "the announced length of block {}",
                sent.below - 1
            );
            block.symbols = Some(sent.symbols);
        }
    }

    /// Run `at` received a report with the sender's progress.
    pub fn on_sent_below(&mut self, from: Run, sent: SentBelow, at: Run, now: Duration) {
        if sent.below > sent.from {
            self.touch(from, sent.profile, sent.below - 1, at, now).closed.get_or_insert(now);
        }
    }

    /// Run `from` received a report of run `to`: blocks reported as decoded must have been delivered.
    pub fn on_feedback(&mut self, from: Run, to: Run, feedback: &Feedback, symbol_size: usize) {
        for (profile, sbn) in self.reported_outcomes.on_feedback(from, to, feedback) {
            let block = self.streams.get(&Stream { from, profile }).and_then(|blocks| blocks.get(&sbn));
            let block =
                block.unwrap_or_else(|| panic!("{to:?} reports block {sbn} as decoded, which {from:?} never sent"));
            assert_eq!(
                block.to,
                Some(to),
                "block {sbn} of {from:?} was not sent to the run that reports it as decoded"
            );
            assert!(
                self.is_delivered_whole(block, from, to, symbol_size),
                "{to:?} reports block {sbn} of {from:?} as decoded"
            );
        }
    }

    /// Whether the block is closed and every packet in it was written to the TUN of run `to`.
    fn is_delivered_whole(&self, block: &Block, from: Run, to: Run, symbol_size: usize) -> bool {
        let taken = &self.taken[from.side.index()];
        let mut packets = block.packets(symbol_size).into_iter();
        block.symbols.is_some() && packets.all(|adu| taken[&adu.number].delivered == Some(to))
    }

    /// At the end of the run: the sender knows the outcome of every block, and it is correct. `last` as in
    /// [`check`](Self::check).
    pub fn check_reported_outcomes(&self, last: [Run; 2], scenario: &Scenario, outcome: &mut Outcome) {
        for (path, reported) in self.reported_outcomes.paths() {
            let symbol_size = scenario.sides[path.from.side.index()].symbol_size;
            let nothing = BTreeMap::new();
            let blocks = self.streams.get(&Stream { from: path.from, profile: path.profile }).unwrap_or(&nothing);
            for (sbn, &symbols) in &reported.lost {
                // A block that was abandoned at once may have sent nothing.
                let Some(block) = blocks.get(sbn) else { continue };
                assert_eq!(
                    block.to,
                    Some(path.to),
                    "block {sbn} of {path:?} was not sent to the run that reports it lost"
                );
                let delivered_whole = self.is_delivered_whole(block, path.from, path.to, symbol_size);
                let whole = symbols > 0 && block.symbols == Some(symbols);
                assert_eq!(
                    delivered_whole, whole,
                    "block {sbn} of {path:?}, of which {symbols} symbols came, {block:?}"
                );
                outcome.reported_lost += 1;
                outcome.whole_although_lost += usize::from(whole);
            }
            outcome.reported_decoded += blocks.keys().filter(|&&sbn| reported.is_decoded(sbn)).count();
        }
        for (stream, blocks) in &self.streams {
            let to = last[stream.from.side.other().index()];
            if stream.from != last[stream.from.side.index()] {
                continue;
            }
            let path = crate::block_outcomes::Path { from: stream.from, to, profile: stream.profile };
            let reported = self.reported_outcomes.paths().get(&path);
            for (&sbn, block) in blocks.iter().filter(|(_, block)| block.to == Some(to)) {
                let known =
                    reported.is_some_and(|reported| reported.lost.contains_key(&sbn) || reported.is_decoded(sbn));
                assert!(known, "no outcome was reported of block {sbn} of {path:?}: {reported:?}, {block:?}");
            }
            let silent = |block: &Block| block.arrived.values().all(|arrived| arrived.esis.is_empty());
            outcome.silent_tails += usize::from(blocks.values().next_back().is_some_and(silent));
        }
    }

    /// Run `at` wrote a packet to its TUN.
    pub fn on_delivered(&mut self, at: Run, packet: Packet, scenario: &Scenario) {
        let from = at.side.other();
        let number = number_of(&packet.bytes).expect("only packets are delivered");
        let taken = self.taken[from.index()].get_mut(&number);
        let taken = taken.unwrap_or_else(|| panic!("{at:?} delivered packet {number}, which was never taken"));
        assert!(taken.packet.bytes == packet.bytes, "packet {number} from {from:?} was changed on its way");
        assert_eq!(taken.packet.header, packet.header, "the offload header of packet {number} was changed");
        assert!(taken.delivered.is_none(), "packet {number} from {from:?} was delivered twice");
        taken.delivered = Some(at);
        let profile = &scenario.sides[from.index()].profiles[usize::from(taken.stream.profile)];
        if scenario.sides[at.side.index()].delivery.strict && !profile.plan.is_none() {
            let before = self.last.insert((at, taken.stream), number);
            assert!(
                before.is_none_or(|before| before < number),
                "packet {number} came after {before:?}: {:?}",
                taken.stream
            );
        }
    }

    /// At the end of the run: every packet that had to be delivered was delivered. `last` are the final runs of both
    /// sides.
    pub fn check(&mut self, last: [Run; 2], scenario: &Scenario) {
        for (&stream, blocks) in &self.streams {
            let settings = &scenario.sides[stream.from.side.index()];
            let receiver = last[stream.from.side.other().index()];
            let hold = scenario.sides[receiver.side.index()].delivery.hold;
            let lowest = first_seen(blocks, receiver);
            // The earliest time at which a later block was known: after `hold` more, a missing block is given up.
            let mut later: Option<Duration> = None;
            for (&sbn, block) in blocks.iter().rev() {
                let packets = block.packets(settings.symbol_size);
                let Some(arrived) = block.arrived.get(&receiver) else { continue };
                let given_up = arrived.given_up(block.source.len(), hold, later);
                let seen_in_time =
                    later.is_none_or(|later| arrived.first < later + hold) && (lowest < 64 || sbn >= lowest);
                later = Some(later.map_or(arrived.first, |later| later.min(arrived.first)));
                let undisturbed = stream.from == last[stream.from.side.index()] && arrived.first > self.restarted_at;
                let enough = arrived.enough(block.source.len()).is_some_and(|enough| enough < given_up);
                for adu in packets {
                    let taken = &self.taken[stream.from.side.index()][&adu.number];
                    assert_eq!(taken.stream, stream, "packet {} went into another stream's block", adu.number);
                    // Complete packets must arrive even from a block that cannot be rebuilt.
                    let has = |esi| arrived.esis.get(&esi).is_some_and(|&at| at < given_up);
                    let whole = adu.symbols.clone().all(has);
                    assert!(
                        taken.delivered.is_some() || !(enough || whole) || !seen_in_time || !undisturbed,
                        "{adu:?} of {stream:?} was not delivered although enough of block {sbn} arrived \
                         ({} of {} + {})",
                        arrived.esis.len(),
                        block.source.len(),
                        block.repair_symbols,
                    );
                }
            }
        }
    }

    /// The run of the receiver that a block was sealed for.
    pub fn sealed_for(&self, from: Run, id: BlockId) -> Option<Run> {
        self.streams.get(&Stream { from, profile: id.profile })?.get(&id.sbn)?.to
    }

    /// The sender received a report that this block is lost.
    pub fn is_reported_lost(&self, from: Run, id: BlockId) -> bool {
        let reported =
            self.reported_outcomes.paths().iter().filter(|(path, _)| path.from == from && path.profile == id.profile);
        reported.into_iter().any(|(_, reported)| reported.lost.contains_key(&id.sbn))
    }

    /// Packet `number` of `side` was written to the TUN at the other end.
    pub fn is_delivered(&self, side: Side, number: u16) -> bool {
        self.taken[side.index()].get(&number).is_some_and(|taken| taken.delivered.is_some())
    }

    /// The outcome of each block that was sent. `last` as in [`check`](Self::check).
    pub fn verdicts(&self, last: [Run; 2], scenario: &Scenario) -> BTreeMap<(Run, BlockId), Verdict> {
        let mut verdicts = BTreeMap::new();
        for (&stream, blocks) in &self.streams {
            let from = stream.from;
            let receiver = last[from.side.other().index()];
            let hold = scenario.sides[receiver.side.index()].delivery.hold + scenario.late_spread(from.side);
            let lowest = first_seen(blocks, receiver);
            let mut later: Option<Duration> = None;
            for (&sbn, block) in blocks.iter().rev() {
                let Some(to) = block.to else { continue };
                let taken = &self.taken[from.side.index()];
                let packets = block.packets(scenario.sides[from.side.index()].symbol_size);
                let delivered_whole = packets.iter().all(|adu| taken[&adu.number].delivered == Some(to));
                let came = block.arrived.get(&to).map_or(0, |arrived| arrived.esis.len());
                let sent = block.source.len() + usize::from(block.repair_symbols);
                let arrived = block.arrived.get(&receiver);
                let in_time = arrived.is_some_and(|arrived| {
                    let enough = arrived.enough(block.source.len());
                    enough.is_some_and(|enough| enough < arrived.given_up(block.source.len(), hold, later))
                        && later.is_none_or(|later| arrived.first < later + hold)
                        && (lowest < 64 || sbn >= lowest)
                });
                if let Some(arrived) = arrived {
                    later = Some(later.map_or(arrived.first, |later| later.min(arrived.first)));
                }
                let verdict = match delivered_whole {
                    true if came == sent => Verdict::Whole,
                    true => Verdict::Rebuilt,
                    false if to != receiver => Verdict::ReceiverRestarted,
                    false if from != last[from.side.index()] && !(came >= block.source.len() && in_time) => {
                        Verdict::NotReported
                    }
                    false if came < block.source.len() => Verdict::TooManyLost,
                    false if !in_time => Verdict::TooLate,
                    false => Verdict::Broken,
                };
                verdicts.insert((from, BlockId { profile: stream.profile, sbn }), verdict);
            }
        }
        verdicts
    }

    /// Without disruptions, every packet that was taken lies in exactly one block.
    pub fn check_blocks(&self, scenario: &Scenario) {
        for side in Side::BOTH {
            let mut found = BTreeSet::new();
            let symbol_size = scenario.sides[side.index()].symbol_size;
            for (_, blocks) in self.streams.iter().filter(|(stream, _)| stream.from.side == side) {
                for number in blocks.values().flat_map(|block| block.packets(symbol_size)).map(|adu| adu.number) {
                    assert!(found.insert(number), "packet {number} of {side:?} was sent in two blocks");
                }
            }
            let missing = self.taken[side.index()].keys().find(|number| !found.contains(number));
            assert_eq!(missing, None, "a packet that {side:?} took lies in no block");
        }
    }

    /// Packets delivered to a side.
    pub fn delivered_to(&self, side: Side) -> usize {
        self.taken[side.other().index()].values().filter(|taken| taken.delivered.is_some()).count()
    }

    /// Packets taken at a side.
    pub fn taken_at(&self, side: Side) -> usize {
        self.taken[side.index()].len()
    }

    fn block(&mut self, from: Run, profile: u8, sbn: u64) -> &mut Block {
        self.streams.entry(Stream { from, profile }).or_default().entry(sbn).or_default()
    }

    fn touch(&mut self, from: Run, profile: u8, sbn: u64, at: Run, now: Duration) -> &mut Arrived {
        let block = self.block(from, profile, sbn);
        block.arrived.entry(at).or_insert(Arrived { first: now, esis: BTreeMap::new(), closed: None })
    }
}

/// The first block that a run of the receiver learned of; of several at the same time, the highest, which may have come
/// first.
fn first_seen(blocks: &BTreeMap<u64, Block>, receiver: Run) -> u64 {
    let seen = blocks.iter().filter_map(|(&sbn, block)| Some((block.arrived.get(&receiver)?.first, sbn)));
    seen.min_by_key(|&(first, sbn)| (first, u64::MAX - sbn)).map_or(0, |(_, sbn)| sbn)
}

impl Arrived {
    /// When a receiver may give up a block with `symbols` source symbols, if a later block was first known at `later`:
    /// `hold` after the time when it can know that symbols are missing, and never while none are.
    fn given_up(&self, symbols: usize, hold: Duration, later: Option<Duration>) -> Duration {
        let mut came: Vec<(Duration, u16)> = self.esis.iter().map(|(&esi, &at)| (at, esi)).collect();
        came.sort();
        let repair = came.iter().find(|(_, esi)| usize::from(*esi) >= symbols).map(|(at, _)| *at);
        let closed = later.into_iter().chain(self.closed).chain(repair).min();
        let (mut there, mut since): (BTreeSet<u16>, Option<Duration>) = Default::default();
        for (at, esi) in came {
            let closed = closed.filter(|closed| *closed <= at);
            since = since.or(closed);
            if since.is_some_and(|since| since + hold <= at) {
                break;
            }
            there.insert(esi);
            if there.len() >= symbols {
                return Duration::MAX;
            }
            let prefix = (0..).take_while(|esi| there.contains(esi)).count();
            let has_hole = there.iter().any(|esi| usize::from(*esi) > prefix);
            since = if has_hole || closed.is_some() { since.or(Some(at)) } else { None };
        }
        since.or(closed).map_or(Duration::MAX, |since| since + hold)
    }

    /// When as many symbols had arrived as the block has source symbols.
    fn enough(&self, symbols: usize) -> Option<Duration> {
        let mut times: Vec<Duration> = self.esis.values().copied().collect();
        times.sort();
        times.get(symbols.checked_sub(1)?).copied()
    }
}

impl Block {
    /// The packets in the block, read from their ADU headers as the protocol document defines them.
    fn packets(&self, symbol_size: usize) -> Vec<Adu> {
        let mut buffer = vec![0; self.source.len() * symbol_size];
        for (place, (&esi, symbol)) in self.source.iter().enumerate() {
            assert_eq!(place, usize::from(esi), "source symbols are numbered without gaps");
            buffer[place * symbol_size..][..symbol.len()].copy_from_slice(symbol);
        }
        let mut packets = Vec::new();
        let mut at = 0;
        while at < buffer.len() {
            let rest = (at / symbol_size + 1) * symbol_size - at;
            if rest < 4 || buffer[at] == 0 {
                at += rest;
                continue;
            }
            let header = if buffer[at] & 0x40 != 0 { 12 } else { 4 };
            let len = u32::from_be_bytes([0, buffer[at + 1], buffer[at + 2], buffer[at + 3]]) as usize;
            let Some(packet) = buffer.get(at + header..at + header + len) else { break };
            let number = number_of(packet).expect("blocks contain only packets");
            let symbols = (at / symbol_size) as u16..=((at + header + len - 1) / symbol_size) as u16;
            packets.push(Adu { number, symbols });
            at += header + len;
        }
        packets
    }
}
