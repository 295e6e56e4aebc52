//! The source block being filled: symbols arrive in any order, ADUs leave as soon as they are whole.
//!
//! The buffer has the layout of [`super::source_block`], so an ADU whose symbols are all there is one contiguous slice
//! of it. Normally ADUs leave strictly from the front. With `skip_holes` they also leave from behind a hole, at a
//! symbol that contains the offset of an ADU. The holes are remembered, and their ADUs leave when their symbols arrive
//! late or are rebuilt. Nothing here knows time, order among blocks, or addresses.
//!
//! The `room` argument bounds the memory that a datagram can make a block hold, before anything is allocated.

mod traits;

use std::ops::Range;

use super::code::Code;
use super::layout::SymbolLayout;
use crate::wire::adu::{AduHeader, Parsed};
use crate::wire::payload_id::{NO_ADU, RepairId, SOURCE_SYMBOLS_MAX, SourceId};

/// The result of putting a symbol into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// The symbol was missing and is kept.
    New,
    /// The block does not need the symbol: it has it already, or is whole.
    Unneeded,
    /// The symbol contradicts what is known of the block, and was dropped.
    Contradictory,
    /// The symbol needs more memory than there is room for, and was dropped.
    NoRoom,
}

/// Bytes of state per source symbol: its length, the offset of its first ADU, its traits, and the holes that it may
/// bound.
const SYMBOL_OVERHEAD: usize = 2 + 2 + 1 + 2 * size_of::<Range<usize>>();
/// Bytes of state per repair symbol: its index.
const REPAIR_OVERHEAD: usize = 2;

/// A block under reconstruction; its memory is reused for the next block.
#[derive(Debug)]
pub struct ReceivedBlock {
    symbol_size: usize,
    source: Vec<u8>,
    /// Bytes of each source symbol up to the highest that arrived; 0 for a missing one.
    lengths: Vec<u16>,
    first_adus: Vec<u16>,
    /// [`traits::MARKED`], [`traits::REBUILT`] of each.
    traits: Vec<u8>,
    /// Some symbol has one of these.
    has_traits: bool,
    /// The number of source symbols that are there.
    present: usize,
    /// The number of source symbols at the front before the first missing one.
    prefix: usize,
    /// k, once it is known.
    symbols: Option<usize>,
    /// m, once a repair symbol has arrived; 0 before.
    repair_symbols: usize,
    repair: Vec<u8>,
    repair_size: usize,
    repair_indices: Vec<u16>,
    /// Offset of the next ADU in the buffer.
    cursor: usize,
    /// The ranges that `skip_holes` has skipped.
    holes: Vec<Range<usize>>,
    malformed: u64,
}

impl ReceivedBlock {
    /// An empty block of symbols of up to `symbol_size` bytes.
    pub fn new(symbol_size: usize) -> Self {
        Self {
            symbol_size,
            source: Vec::new(),
            lengths: Vec::new(),
            first_adus: Vec::new(),
            traits: Vec::new(),
            has_traits: false,
            present: 0,
            prefix: 0,
            symbols: None,
            repair_symbols: 0,
            repair: Vec::new(),
            repair_size: 0,
            repair_indices: Vec::new(),
            cursor: 0,
            holes: Vec::new(),
            malformed: 0,
        }
    }

    /// Puts a source symbol in its place, if that needs no more than `room` bytes of new memory.
    pub fn insert_source(&mut self, id: SourceId, symbol: &[u8], room: usize) -> Insertion {
        let esi = usize::from(id.esi);
        if symbol.len() > self.symbol_size || self.symbols.is_some_and(|k| esi >= k) {
            return Insertion::Contradictory;
        }
        if self.has_symbol(esi) {
            return Insertion::Unneeded;
        }
        if !self.reserve(esi + 1, room) {
            return Insertion::NoRoom;
        }
        let start = esi * self.symbol_size;
        self.source[start..start + symbol.len()].copy_from_slice(symbol);
        self.lengths[esi] = symbol.len() as u16;
        self.first_adus[esi] = id.first_adu;
        self.present += 1;
        while self.has_symbol(self.prefix) {
            self.prefix += 1;
        }
        if id.first_adu != NO_ADU {
            self.split_hole(start + usize::from(id.first_adu));
        }
        Insertion::New
    }

    /// Keeps a repair symbol, if that needs no more than `room` bytes of new memory, and learns k and m from it.
    pub fn insert_repair(&mut self, id: RepairId, symbol: &[u8], room: usize) -> Insertion {
        let (k, m) = (usize::from(id.source_symbols), usize::from(id.repair_symbols));
        let agrees = self.repair_symbols == 0 || (self.repair_symbols == m && self.repair_size == symbol.len());
        if !agrees || symbol.len() > self.symbol_size || !self.learn_symbols(k) {
            return Insertion::Contradictory;
        }
        let index = id.esi - id.source_symbols;
        if self.is_whole() || self.repair_indices.contains(&index) {
            return Insertion::Unneeded;
        }
        if !self.reserve_repair(symbol.len(), room) {
            return Insertion::NoRoom;
        }
        self.repair_symbols = m;
        self.repair_size = symbol.len();
        self.repair.extend_from_slice(symbol);
        self.repair_indices.push(index);
        Insertion::New
    }

    /// Learns that the block has `k` source symbols; `false` if that contradicts what is known.
    pub fn learn_symbols(&mut self, k: usize) -> bool {
        match self.symbols {
            Some(known) => known == k,
            None if self.lengths.len() > k => false,
            None => {
                self.symbols = Some(k);
                true
            }
        }
    }

    /// Whether every source symbol is there.
    pub fn is_whole(&self) -> bool {
        self.symbols == Some(self.present)
    }

    /// Whether a symbol is known to be missing: a later one is there, or the block is known to be longer.
    pub fn has_hole(&self) -> bool {
        self.lengths.len() > self.prefix || self.symbols.is_some_and(|k| k > self.prefix)
    }

    /// Source symbols known to be missing; 0 while the block's length is unknown and nothing is out of order.
    pub fn missing(&self) -> usize {
        self.symbols.unwrap_or(self.lengths.len()).saturating_sub(self.present)
    }

    /// Whether the last ADU has left.
    pub fn is_delivered(&self) -> bool {
        self.is_whole() && self.has_left(self.present)
    }

    /// For a block whose k is unknown: the number of source symbols that are there, if all of them are at the front and
    /// every ADU in them has left. If that number is k, the block is whole. Otherwise 0.
    pub fn delivered_symbols(&self) -> usize {
        let only_front = self.symbols.is_none() && self.present == self.prefix && self.malformed == 0;
        if only_front && self.has_left(self.present) { self.present } else { 0 }
    }

    /// Places with invalid bytes although every symbol was authentic: a fault of the sender.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// The most bytes of memory that this block holds.
    pub fn memory(&self) -> usize {
        self.source.capacity()
            + self.lengths.capacity().max(self.first_adus.capacity()).max(self.traits.capacity()) * SYMBOL_OVERHEAD
            + self.repair.capacity()
            + self.repair_indices.capacity() * REPAIR_OVERHEAD
    }

    /// Rebuilds the missing source symbols if there are enough symbols, and if that needs no more than `room` bytes of
    /// new memory. Returns how many were rebuilt.
    #[inline]
    pub fn rebuild(&mut self, code: &mut Code, room: usize) -> usize {
        let Some(k) = self.symbols else { return 0 };
        let lost = k - self.present;
        if lost == 0 || self.repair_indices.len() < lost { 0 } else { self.decode(k, code, room) }
    }

    /// Apart from `rebuild`, which is called for every symbol: what decoding needs on the stack would be touched each time.
    #[inline(never)]
    fn decode(&mut self, k: usize, code: &mut Code, room: usize) -> usize {
        let lost = k - self.present;
        let size = self.repair_size;
        let layout = SymbolLayout { symbols: k, stride: self.symbol_size, size };
        // Asked first: what follows would be repeated with each symbol of a block that is never decoded.
        if !Code::may_decode(layout, self.repair_symbols) {
            return 0;
        }
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        if usize::from(longest) > size || !self.reserve(k, room) {
            return 0;
        }
        for (esi, &length) in self.lengths.iter().enumerate() {
            let start = esi * self.symbol_size;
            self.source[start + usize::from(length)..start + size].fill(0);
        }
        let present: Vec<bool> = self.lengths.iter().map(|&length| length > 0).collect();
        let repair: Vec<(u16, &[u8])> =
            self.repair_indices.iter().copied().zip(self.repair.chunks_exact(size)).collect();
        if code.decode(layout, &mut self.source, &present, self.repair_symbols, &repair).is_err() {
            return 0;
        }
        for (length, traits) in self.lengths.iter_mut().zip(&mut self.traits) {
            if *length == 0 {
                *length = size as u16;
                *traits |= traits::REBUILT;
            }
        }
        self.has_traits = true;
        self.present = k;
        self.prefix = k;
        lost
    }

    /// The next whole ADU: its header, and the range of its packet in [`bytes`](Self::bytes).
    pub fn next_adu(&mut self, skip_holes: bool) -> Option<(AduHeader, Range<usize>)> {
        if let Some(adu) = self.next_in_holes() {
            return Some(adu);
        }
        loop {
            let blocked_at = match self.adu_at(self.cursor) {
                Step::Adu(header, packet) => {
                    self.cursor = packet.end;
                    return Some((header, packet));
                }
                Step::Padding => {
                    self.cursor = self.next_symbol(self.cursor);
                    continue;
                }
                Step::End => return None,
                Step::Missing(symbol) if skip_holes => symbol,
                Step::Missing(_) => return None,
                Step::Malformed => {
                    self.malformed += 1;
                    self.cursor / self.symbol_size
                }
            };
            let is_hole = !self.has_symbol(blocked_at);
            match self.next_start(blocked_at + 1) {
                Some(start) if is_hole => {
                    self.holes.push(self.cursor..start);
                    self.cursor = start;
                }
                Some(start) => self.cursor = start,
                None if is_hole => return None,
                None => self.cursor = self.next_symbol(self.cursor),
            }
        }
    }

    /// The buffer that [`next_adu`](Self::next_adu) points into.
    pub fn bytes(&self) -> &[u8] {
        &self.source
    }

    /// Empties the block for reuse.
    pub fn clear(&mut self) {
        self.lengths.clear();
        self.first_adus.clear();
        self.traits.clear();
        self.has_traits = false;
        self.present = 0;
        self.prefix = 0;
        self.symbols = None;
        self.repair_symbols = 0;
        self.repair.clear();
        self.repair_size = 0;
        self.repair_indices.clear();
        self.cursor = 0;
        self.holes.clear();
        self.malformed = 0;
    }

    /// Whether every ADU in the first `symbols` source symbols has left.
    fn has_left(&self, symbols: usize) -> bool {
        self.holes.is_empty() && self.cursor >= symbols * self.symbol_size
    }

    fn has_symbol(&self, esi: usize) -> bool {
        self.lengths.get(esi).is_some_and(|&length| length > 0)
    }

    /// Makes space for `symbols` source symbols, if that needs no more than `room` bytes. It reserves as many more as
    /// the block already has space for, so that a block that grows symbol by symbol is not copied each time.
    fn reserve(&mut self, symbols: usize, room: usize) -> bool {
        let have = self.lengths.capacity().min(self.first_adus.capacity()).min(self.traits.capacity());
        let bytes = symbols * self.symbol_size;
        let more_bytes = bytes.saturating_sub(self.source.capacity());
        let needed = more_bytes + symbols.saturating_sub(have) * SYMBOL_OVERHEAD;
        if needed > room {
            return false;
        }
        if needed > 0 {
            let ahead = have.min((room - needed) / (self.symbol_size + SYMBOL_OVERHEAD));
            let symbols = symbols + ahead.min(SOURCE_SYMBOLS_MAX.saturating_sub(symbols));
            self.lengths.reserve_exact(symbols.saturating_sub(self.lengths.len()));
            self.first_adus.reserve_exact(symbols.saturating_sub(self.first_adus.len()));
            self.traits.reserve_exact(symbols.saturating_sub(self.traits.len()));
            self.source.reserve_exact((symbols * self.symbol_size).saturating_sub(self.source.len()));
        }
        if self.lengths.len() < symbols {
            self.lengths.resize(symbols, 0);
            self.first_adus.resize(symbols, NO_ADU);
            self.traits.resize(symbols, 0);
        }
        if self.source.len() < bytes {
            self.source.resize(bytes, 0);
        }
        true
    }

    /// Makes space for one more repair symbol of `size` bytes, in the same way.
    fn reserve_repair(&mut self, size: usize, room: usize) -> bool {
        let symbols = self.repair_indices.len() + 1;
        let have = self.repair_indices.capacity().min(self.repair.capacity() / size.max(1));
        if symbols <= have {
            return true;
        }
        let cost = |symbols: usize| {
            (symbols * size).saturating_sub(self.repair.capacity())
                + symbols.saturating_sub(self.repair_indices.capacity()) * REPAIR_OVERHEAD
        };
        // Twice as many, if there is room.
        let Some(symbols) = [2 * symbols, symbols].into_iter().find(|&symbols| cost(symbols) <= room) else {
            return false;
        };
        self.repair.reserve_exact((symbols * size).saturating_sub(self.repair.len()));
        self.repair_indices.reserve_exact(symbols - self.repair_indices.len());
        true
    }

    fn next_symbol(&self, position: usize) -> usize {
        (position / self.symbol_size + 1) * self.symbol_size
    }

    /// The offset of the first ADU that is known to begin in symbol `from` or later.
    fn next_start(&self, from: usize) -> Option<usize> {
        let esi = (from..self.lengths.len()).find(|&esi| self.first_adus[esi] != NO_ADU && self.has_symbol(esi))?;
        Some(esi * self.symbol_size + usize::from(self.first_adus[esi]))
    }

    /// An ADU is now known to begin at `position`: it need not wait for the ADUs before it in the same hole.
    fn split_hole(&mut self, position: usize) {
        if let Some(hole) = self.holes.iter_mut().find(|hole| hole.start < position && position < hole.end) {
            let behind = position..hole.end;
            hole.end = position;
            self.holes.push(behind);
        }
    }

    /// The next whole ADU in a skipped hole, whose symbols arrived late or were rebuilt.
    fn next_in_holes(&mut self) -> Option<(AduHeader, Range<usize>)> {
        let mut index = 0;
        while let Some(hole) = self.holes.get(index).cloned() {
            let step = self.adu_at(hole.start);
            let (adu, next) = match step {
                Step::Missing(_) => {
                    index += 1;
                    continue;
                }
                Step::Adu(header, packet) if packet.end <= hole.end => (Some((header, packet.clone())), packet.end),
                Step::Padding => (None, self.next_symbol(hole.start)),
                Step::Adu(..) | Step::Malformed => {
                    self.malformed += 1;
                    (None, hole.end)
                }
                Step::End => (None, hole.end),
            };
            if next < hole.end {
                self.holes[index].start = next;
            } else {
                self.holes.remove(index);
            }
            if adu.is_some() {
                return adu;
            }
        }
        None
    }

    /// What lies at `position`, where an ADU or padding begins.
    fn adu_at(&self, position: usize) -> Step {
        let first = position / self.symbol_size;
        if self.symbols.is_some_and(|k| first >= k) {
            return Step::End;
        }
        if !self.has_symbol(first) {
            return Step::Missing(first);
        }
        let end_of_symbol = first * self.symbol_size + usize::from(self.lengths[first]);
        if position >= end_of_symbol {
            return Step::Padding;
        }
        let header = match AduHeader::parse(&self.source[position..end_of_symbol]) {
            Parsed::Adu(header) => header,
            Parsed::Padding => return Step::Padding,
            Parsed::Malformed => return Step::Malformed,
        };
        let start = position + header.header_len();
        let end = start + header.packet_len;
        let last = (end - 1) / self.symbol_size;
        if self.symbols.is_some_and(|k| last >= k) {
            return Step::Malformed;
        }
        if let Some(missing) = (self.prefix.max(first)..=last).find(|&esi| !self.has_symbol(esi)) {
            return Step::Missing(missing);
        }
        let all_full = self.lengths[first..last].iter().all(|&length| usize::from(length) == self.symbol_size);
        if !all_full || end > last * self.symbol_size + usize::from(self.lengths[last]) {
            return Step::Malformed;
        }
        Step::Adu(header, start..end)
    }
}

/// What the walk over a block's bytes finds.
enum Step {
    Adu(AduHeader, Range<usize>),
    Padding,
    /// This symbol must arrive first.
    Missing(usize),
    Malformed,
    End,
}

#[cfg(test)]
mod tests;
