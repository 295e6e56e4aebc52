//! The sending side of one profile toward one peer: fills source blocks, closes them, adds repair symbols.
//!
//! 1. The TUN is read into [`room`](Sender::room); [`commit`](Sender::commit) takes the packet as an ADU.
//! 2. Full symbols leave at once: protection never delays data.
//! 3. The TUN is empty: the open symbol leaves short, the block stays open for `close_when_idle`, unless packets have come
//!    alone of late ([`super::lone_packets`]).
//! 4. The block is full, idle or old: it closes, and its repair symbols leave.
//!
//! The length of a block is in its repair symbols and in all symbols of the next block, so the receiver learns where a
//! lost block ends. What arrives at the peer is not known here.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::block_event::{BlockEvent, Part};
use super::late_repair::{EarlyPart, LatePart, LateRepair, Spread};
use super::lone_packets::LonePackets;
use super::outbox::Outbox;
use super::outer_class::{OuterRule, SymbolClasses};
use super::sent::Sent;
use super::session::Session;
use crate::fec::code::Code;
use crate::fec::layout::MAX_ENCODING_SYMBOLS;
use crate::fec::plan::Plan;
use crate::fec::source_block::SourceBlock;
use crate::wire::datagram::{DatagramType, HEADER_LEN, TAG_LEN};
use crate::wire::payload_id::{BlockId, PAYLOAD_ID_LEN, RepairId, SourceId};
use crate::wire::traffic_class::TrafficClass;
use crate::wire::virtio::VirtioHeader;

/// How blocks of a profile are closed and how many repair symbols they get.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The profile's number in our datagrams.
    pub number: u8,
    /// A block closes when it has this many source symbols.
    pub block_symbols: usize,
    /// A block closes when the TUN has been empty for this long, or at once where packets come alone.
    pub close_when_idle: Duration,
    /// A block closes this long after its first byte at the latest.
    pub close_after: Duration,
    /// Repair symbols that leave with each block, by its length.
    pub plan: Plan,
    /// An interruption of the link of this length, at any moment, loses no block whose late part has left. Zero: there is
    /// no late part.
    pub survive_burst: Duration,
    /// The plan reaches what the profile promises on the link as it is.
    pub keeps_promise: bool,
}

/// What a sender needs to seal datagrams, and where they go.
pub struct Egress<'a> {
    /// Seals datagrams and numbers them.
    pub session: &'a mut Session,
    /// Takes the sealed datagrams.
    pub outbox: &'a mut Outbox,
    /// Computes repair symbols.
    pub code: &'a mut Code,
    /// Counts what is sent.
    pub sent: &'a mut Sent,
    /// Takes the events of blocks, if protection is claimed toward this peer.
    pub events: Option<&'a mut VecDeque<BlockEvent>>,
    /// The present.
    pub now: Instant,
}

impl Egress<'_> {
    /// Seals one datagram of `prefix` and `body` straight into the outbox.
    pub fn seal(&mut self, datagram_type: DatagramType, class: TrafficClass, prefix: &[u8], body: &[u8]) {
        let header = self.session.next_header(datagram_type);
        let clear = header.emit();
        let len = HEADER_LEN + prefix.len() + body.len() + TAG_LEN;
        let datagram = self.outbox.append(len, class, self.now);
        let (head, sealed) = datagram.split_at_mut(HEADER_LEN);
        let (text, tag) = sealed.split_at_mut(prefix.len() + body.len());
        head.copy_from_slice(&clear);
        text[..prefix.len()].copy_from_slice(prefix);
        text[prefix.len()..].copy_from_slice(body);
        tag.copy_from_slice(&self.session.seal(header.counter, &clear, text));
        self.sent.datagrams += 1;
        self.sent.bytes += len as u64;
    }
}

/// The open block of one profile toward one peer.
#[derive(Debug)]
pub struct Sender {
    profile: Profile,
    /// The longest block that `block` has memory for.
    room_for: usize,
    block: SourceBlock,
    classes: SymbolClasses,
    repair: Vec<u8>,
    symbol_size: usize,
    sbn: u64,
    previous_symbols: u16,
    opened_at: Option<Instant>,
    idle_since: Option<Instant>,
    /// Packets in the open block.
    packets: usize,
    lone: LonePackets,
    /// When each source symbol of the open block was sent; empty without late repair.
    times: Vec<Instant>,
    late: LateRepair,
    /// How long what was sent has waited in this host of late, at most.
    lag: Duration,
    /// Replaces the profile when the next block begins.
    next_profile: Option<Profile>,
}

impl Sender {
    /// A sender that has sent nothing yet.
    pub fn new(profile: Profile, symbol_size: usize, outer: OuterRule) -> Self {
        let block = SourceBlock::new(symbol_size, profile.block_symbols);
        let classes = SymbolClasses::new(outer, SourceBlock::symbols_max(symbol_size, profile.block_symbols));
        Self {
            room_for: profile.block_symbols,
            profile,
            block,
            classes,
            repair: Vec::new(),
            symbol_size,
            sbn: 0,
            previous_symbols: 0,
            opened_at: None,
            idle_since: None,
            packets: 0,
            lone: LonePackets::default(),
            times: Vec::new(),
            late: LateRepair::default(),
            lag: Duration::ZERO,
            next_profile: None,
        }
    }

    /// Blocks follow this profile from the next one on. It has the same number.
    pub fn set_profile(&mut self, profile: Profile) {
        self.next_profile = Some(profile);
        if !self.is_open() {
            self.follow_profile();
        }
    }

    fn follow_profile(&mut self) {
        if let Some(next) = self.next_profile.take() {
            if next.block_symbols > self.room_for {
                self.block = SourceBlock::new(self.symbol_size, next.block_symbols);
                self.classes.make_room(SourceBlock::symbols_max(self.symbol_size, next.block_symbols));
                self.room_for = next.block_symbols;
            }
            self.profile = next;
        }
    }

    /// The buffer for the next packet.
    pub fn room(&mut self) -> &mut [u8] {
        self.block.room()
    }

    /// Takes the packet of `len` bytes at the front of [`room`](Self::room); sends full symbols, closes a full block.
    pub fn commit(&mut self, virtio: VirtioHeader, len: usize, egress: &mut Egress<'_>) {
        if self.opened_at.is_none() {
            self.opened_at = Some(egress.now);
            self.lone.on_open(self.profile.close_when_idle, egress.now);
        }
        self.idle_since = None;
        self.packets += 1;
        let class = TrafficClass::of(&self.block.room()[..len]);
        self.classes.add(self.block.commit(virtio, len), class);
        egress.sent.adus += 1;
        egress.sent.adu_bytes += len as u64;
        self.send_finished(egress);
        if self.block.symbols() >= self.profile.block_symbols {
            self.close(egress);
        }
    }

    /// The TUN is empty: the open symbol leaves short. A packet that is expected to stay alone leaves with its repair
    /// symbols; if it fits in one symbol, all have one length and are one train.
    pub fn handle_idle(&mut self, egress: &mut Egress<'_>) {
        if !self.is_open() {
            return;
        }
        self.idle_since.get_or_insert(egress.now);
        if self.packets == 1 && self.lone.expects() {
            if self.block.symbols() == 1 && !self.profile.plan.is_none() {
                self.block.pad_symbol();
            }
            self.lone.on_close_at_once(egress.now);
            self.close(egress);
        } else {
            self.block.finish_symbol();
            self.send_finished(egress);
        }
    }

    /// Closes the block if its deadline has passed, and sends the late parts that are due.
    pub fn handle_timeout(&mut self, egress: &mut Egress<'_>) {
        if self.closes_at().is_some_and(|deadline| deadline <= egress.now) {
            self.close(egress);
        }
        while let Some(part) = self.late.poll_due(egress.now) {
            if egress.outbox.sheds_repair(egress.now) {
                egress.sent.repair_shed += part.count();
                drop_late(&part, egress.sent, egress.events.as_deref_mut());
            } else {
                self.send_late(&part, egress);
            }
        }
        while let Some(part) = self.late.poll_expired(egress.now) {
            drop_late(&part, egress.sent, egress.events.as_deref_mut());
        }
    }

    /// When the open block closes or a late part is due, if nothing more comes.
    pub fn deadline(&self) -> Option<Instant> {
        self.closes_at().into_iter().chain(self.late.deadline()).min()
    }

    fn closes_at(&self) -> Option<Instant> {
        let latest = self.opened_at? + self.profile.close_after;
        Some(match self.idle_since {
            Some(since) => latest.min(since + self.profile.close_when_idle),
            None => latest,
        })
    }

    /// A block is open.
    pub fn is_open(&self) -> bool {
        !self.block.is_empty()
    }

    /// Closes the open block now: sends what is left of it and its repair symbols. Behind a queue that stands there are
    /// none, so the block is never protected: they would make the congestion worse that they are meant to survive.
    pub fn close(&mut self, egress: &mut Egress<'_>) {
        if !self.is_open() {
            return;
        }
        self.block.finish_symbol();
        self.send_finished(egress);
        let k = self.block.finished();
        let mut early = self.profile.plan.repair_symbols(k);
        let mut late = self.late_symbols(early, egress.now);
        let is_promised = late > 0;
        if egress.outbox.sheds_repair(egress.now) {
            egress.sent.repair_shed += (std::mem::take(&mut early) + std::mem::take(&mut late)) as u64;
        }
        let (block, m) = (self.block_id(), early + late);
        let mut has_late = late > 0;
        if m > 0 {
            let size = self.send_repair(k, early, m, egress);
            has_late = has_late && self.keep_late(k, early, m, size, egress);
        }
        let keeps_promise = self.profile.keeps_promise && has_late == is_promised;
        if let Some(events) = &mut egress.events {
            let (source_symbols, repair_symbols) = (k as u16, m as u16);
            let survives = self.profile.survive_burst;
            events.push_back(BlockEvent::Closed {
                block,
                source_symbols,
                repair_symbols,
                has_late,
                keeps_promise,
                survives,
            });
        }
        egress.sent.blocks += 1;
        self.lone.on_close(self.packets == 1 && self.idle_since.is_some());
        self.begin_next(k as u16);
    }

    /// The late repair symbols of the block that closes now. There are none without early ones: the last of these shows
    /// when the early part has left.
    fn late_symbols(&self, early: usize, now: Instant) -> usize {
        if self.profile.survive_burst.is_zero() || early == 0 {
            return 0;
        }
        let part = EarlyPart { source: &self.times, repair_symbols: early, closed_at: now };
        // At least one: only a block with a late part is judged by what has lagged in truth.
        let late = part.late_symbols(self.profile.survive_burst, self.lag).max(1);
        late.min(MAX_ENCODING_SYMBOLS.saturating_sub(self.block.finished() + early))
    }

    /// The number below which every block is closed, and k of the last of them; k is 0 if that block was abandoned.
    pub fn closed_below(&self) -> (u64, u16) {
        (self.sbn, self.previous_symbols)
    }

    /// The early part of block `sbn` has left this host by now, nothing of it more than `lag` after it was sent: its late
    /// part follows. `None` if it has none.
    pub fn on_early_left(&mut self, sbn: u64, lag: Duration, now: Instant) -> Option<Spread> {
        self.lag = lag;
        self.late.on_early_left(sbn, lag, now)
    }

    /// A late part waits.
    pub fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    /// Drops the late parts: their session has ended, or the peer was restarted.
    pub fn drop_late(&mut self, sent: &mut Sent, mut events: Option<&mut VecDeque<BlockEvent>>) {
        while let Some(part) = self.late.pop() {
            drop_late(&part, sent, events.as_deref_mut());
        }
    }

    /// Forgets the open block: its session has ended, or the peer that has its beginning was restarted. Its number is
    /// not used again, for two reasons. Symbols of two blocks would look like one block. And the new run of the peer
    /// could rebuild and deliver again what the earlier run has delivered.
    ///
    /// Returns the block, if one was open.
    pub fn abandon(&mut self) -> Option<BlockId> {
        let block = self.is_open().then(|| self.block_id())?;
        self.begin_next(0);
        Some(block)
    }

    /// The block that the next packet is put into.
    pub fn block_id(&self) -> BlockId {
        BlockId { profile: self.profile.number, sbn: self.sbn }
    }

    fn begin_next(&mut self, previous_symbols: u16) {
        self.previous_symbols = previous_symbols;
        self.sbn += 1;
        self.block.clear();
        self.classes.clear();
        self.opened_at = None;
        self.idle_since = None;
        self.packets = 0;
        self.times.clear();
        self.follow_profile();
    }

    fn send_finished(&mut self, egress: &mut Egress<'_>) {
        for esi in self.block.take_finished() {
            let id = SourceId {
                profile: self.profile.number,
                unprotected: self.profile.plan.is_none(),
                esi: esi as u16,
                sbn: self.sbn,
                previous_symbols: self.previous_symbols,
                first_adu: self.block.first_adu(esi),
            };
            let symbol = self.block.symbol(esi);
            egress.seal(DatagramType::Source, self.classes.source(esi), &id.emit(), symbol);
            egress.sent.source_symbols += 1;
            if !self.profile.survive_burst.is_zero() {
                self.times.push(egress.now);
            }
            egress.sent.full_symbols += u64::from(symbol.len() == self.symbol_size);
        }
    }

    /// Computes all repair symbols of the block and sends the early ones. Returns their size.
    fn send_repair(&mut self, k: usize, early: usize, m: usize, egress: &mut Egress<'_>) -> usize {
        let (layout, source) = self.block.coded();
        let encoded = egress.code.encode(layout, source, m, &mut self.repair);
        debug_assert_eq!(encoded, m, "plan and late part keep the limits of the code");
        let first = self.repair_id(k, 0, m);
        send_symbols(
            first,
            &self.repair[..early * layout.size],
            layout.size,
            self.symbol_size,
            self.classes.repair(),
            egress,
        );
        if egress.events.is_some() || early < m {
            egress.outbox.end_part(self.block_id(), Part::Early);
        }
        layout.size
    }

    fn repair_id(&self, k: usize, index: usize, m: usize) -> RepairId {
        RepairId {
            profile: self.profile.number,
            esi: (k + index) as u16,
            sbn: self.sbn,
            source_symbols: k as u16,
            repair_symbols: m as u16,
            previous_symbols: RepairId::previous(self.previous_symbols),
        }
    }

    /// Keeps the repair symbols behind the early ones until they are due. Returns false if there is no room.
    fn keep_late(&mut self, k: usize, early: usize, m: usize, size: usize, egress: &mut Egress<'_>) -> bool {
        let first = self.repair_id(k, early, m);
        let symbols = &self.repair[early * size..];
        let part = EarlyPart { source: &self.times, repair_symbols: early, closed_at: egress.now };
        let is_kept = self.late.push(first, symbols, size, self.classes.repair(), part, self.profile.survive_burst);
        if !is_kept {
            egress.sent.late_dropped += (m - early) as u64;
        }
        is_kept
    }

    fn send_late(&self, part: &LatePart, egress: &mut Egress<'_>) {
        send_symbols(part.first, &part.symbols, part.symbol_size, self.symbol_size, part.class, egress);
        egress.sent.late_symbols += part.count();
        if egress.events.is_some() {
            let block = BlockId { profile: part.first.profile, sbn: part.first.sbn };
            egress.outbox.end_part(block, Part::Late);
        }
    }

    /// Bytes of a full datagram of this sender.
    pub fn datagram_len(&self) -> usize {
        HEADER_LEN + PAYLOAD_ID_LEN + self.symbol_size + TAG_LEN
    }
}

/// Sends repair symbols of one block, which lie end to end in `symbols`; the first has the id `first`.
fn send_symbols(
    first: RepairId,
    symbols: &[u8],
    size: usize,
    full: usize,
    class: TrafficClass,
    egress: &mut Egress<'_>,
) {
    for (index, symbol) in symbols.chunks_exact(size).enumerate() {
        let id = RepairId { esi: first.esi + index as u16, ..first };
        egress.seal(DatagramType::Repair, class, &id.emit(), symbol);
        egress.sent.repair_symbols += 1;
        egress.sent.full_symbols += u64::from(symbol.len() == full);
    }
}

/// A late part is not sent.
fn drop_late(part: &LatePart, sent: &mut Sent, events: Option<&mut VecDeque<BlockEvent>>) {
    sent.late_dropped += part.count();
    if let Some(events) = events {
        let block = BlockId { profile: part.first.profile, sbn: part.first.sbn };
        events.push_back(BlockEvent::PromiseBroken { block });
    }
}

#[cfg(test)]
mod tests;
