//! The sending side of one profile toward one peer: fills source blocks, closes them, adds repair symbols.
//!
//! 1. The TUN is read into [`room`](Sender::room); [`commit`](Sender::commit) takes the packet as an ADU.
//! 2. Full symbols leave at once: protection never delays data.
//! 3. The TUN is dry: the open symbol leaves short, the block stays open for `close_when_idle`.
//! 4. The block is full, idle or old: it closes, and its repair symbols leave.
//!
//! When a lost block ends is told by its repair symbols and by the source symbols of the next block. What the peer
//! makes of it all is not known here.

use std::time::{Duration, Instant};

use super::outbox::Outbox;
use super::session::Session;
use crate::fec::code::Code;
use crate::fec::plan::Plan;
use crate::fec::source_block::SourceBlock;
use crate::wire::datagram::{DatagramType, HEADER_LEN, TAG_LEN};
use crate::wire::payload_id::{PAYLOAD_ID_LEN, RepairId, SourceId};
use crate::wire::virtio::VirtioHeader;

/// How blocks of a profile are closed and how much is added to them.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The profile's number in our datagrams.
    pub number: u8,
    /// Source symbols at which a block closes.
    pub block_symbols: usize,
    /// A block closes when nothing has come for this long.
    pub close_when_idle: Duration,
    /// A block closes this long after its first byte, whatever comes.
    pub close_after: Duration,
    /// Repair symbols for each size of block.
    pub plan: Plan,
}

/// What was sent to a peer, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Packets and super-packets.
    pub adus: u64,
    /// Bytes of them.
    pub adu_bytes: u64,
    /// Blocks closed.
    pub blocks: u64,
    /// Source symbols sent.
    pub source_symbols: u64,
    /// Repair symbols sent.
    pub repair_symbols: u64,
    /// Datagrams of every kind.
    pub datagrams: u64,
    /// UDP payload bytes of them.
    pub bytes: u64,
}

impl Sent {
    /// Adds the counts of another lane.
    pub fn add(&mut self, other: &Self) {
        self.adus += other.adus;
        self.adu_bytes += other.adu_bytes;
        self.blocks += other.blocks;
        self.source_symbols += other.source_symbols;
        self.repair_symbols += other.repair_symbols;
        self.datagrams += other.datagrams;
        self.bytes += other.bytes;
    }
}

/// Where sealed datagrams go, and what it takes to make them.
pub struct Egress<'a> {
    /// Seals, and counts datagrams.
    pub session: &'a mut Session,
    /// Takes what was sealed.
    pub outbox: &'a mut Outbox,
    /// Computes repair symbols.
    pub code: &'a mut Code,
    /// Counts what is sent.
    pub sent: &'a mut Sent,
}

impl Egress<'_> {
    /// Seals one datagram of `prefix` and `body` straight into the outbox.
    pub fn seal(&mut self, datagram_type: DatagramType, prefix: &[u8], body: &[u8]) {
        let header = self.session.next_header(datagram_type);
        let clear = header.emit();
        let len = HEADER_LEN + prefix.len() + body.len() + TAG_LEN;
        let datagram = self.outbox.append(len);
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
    block: SourceBlock,
    repair: Vec<u8>,
    symbol_size: usize,
    sbn: u64,
    previous_symbols: u16,
    opened_at: Option<Instant>,
    idle_since: Option<Instant>,
}

impl Sender {
    /// A sender that has sent nothing yet.
    pub fn new(profile: Profile, symbol_size: usize) -> Self {
        let block = SourceBlock::new(symbol_size, profile.block_symbols);
        Self {
            profile,
            block,
            repair: Vec::new(),
            symbol_size,
            sbn: 0,
            previous_symbols: 0,
            opened_at: None,
            idle_since: None,
        }
    }

    /// Where the next packet may be read to.
    pub fn room(&mut self) -> &mut [u8] {
        self.block.room()
    }

    /// Takes the packet of `len` bytes at the front of [`room`](Self::room); sends what is full, closes a full block.
    pub fn commit(&mut self, virtio: VirtioHeader, len: usize, egress: &mut Egress<'_>, now: Instant) {
        self.opened_at.get_or_insert(now);
        self.idle_since = None;
        self.block.commit(virtio, len);
        egress.sent.adus += 1;
        egress.sent.adu_bytes += len as u64;
        self.send_finished(egress);
        if self.block.symbols() >= self.profile.block_symbols {
            self.close(egress);
        }
    }

    /// The TUN is dry: nothing that was read waits for a neighbour any longer.
    pub fn handle_idle(&mut self, egress: &mut Egress<'_>, now: Instant) {
        if self.is_open() {
            self.block.finish_symbol();
            self.send_finished(egress);
            self.idle_since.get_or_insert(now);
        }
    }

    /// Closes the block if its time is up.
    pub fn handle_timeout(&mut self, egress: &mut Egress<'_>, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.close(egress);
        }
    }

    /// When the open block closes if nothing more comes.
    pub fn deadline(&self) -> Option<Instant> {
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

    /// Closes the open block now: sends what is left of it and its repair symbols.
    pub fn close(&mut self, egress: &mut Egress<'_>) {
        if !self.is_open() {
            return;
        }
        self.block.finish_symbol();
        self.send_finished(egress);
        let k = self.block.finished();
        let m = self.profile.plan.repair_symbols(k);
        if m > 0 {
            self.send_repair(k, m, egress);
        }
        egress.sent.blocks += 1;
        self.previous_symbols = k as u16;
        self.sbn += 1;
        self.abandon();
    }

    /// Forgets the open block, whose session is gone.
    pub fn abandon(&mut self) {
        self.block.clear();
        self.opened_at = None;
        self.idle_since = None;
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
            egress.seal(DatagramType::Source, &id.emit(), self.block.symbol(esi));
            egress.sent.source_symbols += 1;
        }
    }

    fn send_repair(&mut self, k: usize, m: usize, egress: &mut Egress<'_>) {
        let (layout, source) = self.block.coded();
        egress.code.encode(layout, source, m, &mut self.repair);
        for (index, symbol) in self.repair.chunks_exact(layout.size).enumerate() {
            let id = RepairId {
                profile: self.profile.number,
                esi: (k + index) as u16,
                sbn: self.sbn,
                source_symbols: k as u16,
                repair_symbols: m as u16,
            };
            egress.seal(DatagramType::Repair, &id.emit(), symbol);
            egress.sent.repair_symbols += 1;
        }
    }

    /// Bytes of a full datagram of this sender.
    pub fn datagram_len(&self) -> usize {
        HEADER_LEN + PAYLOAD_ID_LEN + self.symbol_size + TAG_LEN
    }
}
