//! The source block being filled: symbols arrive in any order, ADUs leave as soon as they are whole.
//!
//! The buffer has the layout of [`super::source_block`], so an ADU whose symbols are all there is one contiguous slice
//! of it. In normal use ADUs leave strictly from the front. With `skip_holes` they leave from behind a hole as well, at
//! the symbols that tell where an ADU begins: the holes are remembered, and what lay in them leaves when the block becomes whole after
//! all. Nothing here knows time, order among blocks, or addresses.

use std::ops::Range;

use super::code::{Code, SymbolLayout};
use crate::wire::adu::{AduHeader, Parsed};
use crate::wire::payload_id::{NO_ADU, RepairId, SourceId};

/// What became of a symbol that was put into a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    /// It was missing and is kept.
    New,
    /// The block does not need it: it has this symbol, or is whole.
    Unneeded,
    /// It contradicts what is known of the block, and was thrown away.
    Contradictory,
}

/// A block under reconstruction; its memory is used again for the next one.
#[derive(Debug)]
pub struct ReceivedBlock {
    symbol_size: usize,
    source: Vec<u8>,
    /// Bytes of each source symbol up to the highest that arrived; 0 for one that did not.
    lengths: Vec<u16>,
    first_adus: Vec<u16>,
    /// Source symbols that are there.
    present: usize,
    /// Source symbols that are there without a hole from the front.
    prefix: usize,
    /// k, once something told it.
    symbols: Option<usize>,
    /// m, once a repair symbol told it.
    repair_symbols: usize,
    repair: Vec<u8>,
    repair_size: usize,
    repair_indices: Vec<u16>,
    /// Where in the buffer the next ADU begins.
    cursor: usize,
    /// What `skip_holes` jumped over.
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

    /// Puts a source symbol in its place.
    pub fn insert_source(&mut self, id: SourceId, symbol: &[u8]) -> Insertion {
        let esi = usize::from(id.esi);
        if symbol.len() > self.symbol_size || self.symbols.is_some_and(|k| esi >= k) {
            return Insertion::Contradictory;
        }
        if self.has_symbol(esi) {
            return Insertion::Unneeded;
        }
        self.reserve(esi + 1);
        let start = esi * self.symbol_size;
        self.source[start..start + symbol.len()].copy_from_slice(symbol);
        self.lengths[esi] = symbol.len() as u16;
        self.first_adus[esi] = id.first_adu;
        self.present += 1;
        while self.has_symbol(self.prefix) {
            self.prefix += 1;
        }
        Insertion::New
    }

    /// Keeps a repair symbol, and learns from it how long the block is.
    pub fn insert_repair(&mut self, id: RepairId, symbol: &[u8]) -> Insertion {
        let (k, m) = (usize::from(id.source_symbols), usize::from(id.repair_symbols));
        let agrees = self.repair_symbols == 0 || (self.repair_symbols == m && self.repair_size == symbol.len());
        if !agrees || symbol.len() > self.symbol_size || !self.learn_symbols(k) {
            return Insertion::Contradictory;
        }
        let index = id.esi - id.source_symbols;
        if self.is_whole() || self.repair_indices.contains(&index) {
            return Insertion::Unneeded;
        }
        self.repair_symbols = m;
        self.repair_size = symbol.len();
        self.repair.extend_from_slice(symbol);
        self.repair_indices.push(index);
        Insertion::New
    }

    /// Learns that the block has `k` source symbols; `false` if that cannot be.
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

    /// Every source symbol is there.
    pub fn is_whole(&self) -> bool {
        self.symbols == Some(self.present)
    }

    /// Something is known to be missing: a later symbol is there, or the block is known to be longer.
    pub fn has_hole(&self) -> bool {
        self.lengths.len() > self.prefix || self.symbols.is_some_and(|k| k > self.prefix)
    }

    /// Source symbols known to be missing; 0 while the block's length is unknown and nothing is out of order.
    pub fn missing(&self) -> usize {
        self.symbols.unwrap_or(self.lengths.len()).saturating_sub(self.present)
    }

    /// The last ADU has left.
    pub fn is_delivered(&self) -> bool {
        self.is_whole() && self.holes.is_empty() && self.cursor >= self.present * self.symbol_size
    }

    /// Places where the bytes made no sense although every symbol was authentic: a fault of the sender.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// Bytes of memory this block holds on to.
    pub fn memory(&self) -> usize {
        self.source.capacity() + self.repair.capacity()
    }

    /// Rebuilds what is missing if there are enough symbols; returns how many source symbols were rebuilt.
    pub fn rebuild(&mut self, code: &mut Code) -> usize {
        let Some(k) = self.symbols else { return 0 };
        let lost = k - self.present;
        if lost == 0 || self.repair_indices.len() < lost {
            return 0;
        }
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        if usize::from(longest) > self.repair_size {
            return 0;
        }
        self.reserve(k);
        let size = self.repair_size;
        for (esi, &length) in self.lengths.iter().enumerate() {
            let start = esi * self.symbol_size;
            self.source[start + usize::from(length)..start + size].fill(0);
        }
        let present: Vec<bool> = self.lengths.iter().map(|&length| length > 0).collect();
        let repair: Vec<(u16, &[u8])> =
            self.repair_indices.iter().copied().zip(self.repair.chunks_exact(size)).collect();
        let layout = SymbolLayout { symbols: k, stride: self.symbol_size, size };
        if code.decode(layout, &mut self.source, &present, self.repair_symbols, &repair).is_err() {
            return 0;
        }
        for length in &mut self.lengths {
            if *length == 0 {
                *length = size as u16;
            }
        }
        self.present = k;
        self.prefix = k;
        lost
    }

    /// The next ADU that is whole: its header and where its packet lies in [`bytes`](Self::bytes).
    pub fn next_adu(&mut self, skip_holes: bool) -> Option<(AduHeader, Range<usize>)> {
        while let Some(index) = self.holes.iter().position(|hole| self.is_filled(hole)) {
            if let Some(adu) = self.next_in_hole(index) {
                return Some(adu);
            }
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

    /// Empties the block for its next use.
    pub fn clear(&mut self) {
        self.lengths.clear();
        self.first_adus.clear();
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

    fn has_symbol(&self, esi: usize) -> bool {
        self.lengths.get(esi).is_some_and(|&length| length > 0)
    }

    fn reserve(&mut self, symbols: usize) {
        if self.lengths.len() < symbols {
            self.lengths.resize(symbols, 0);
            self.first_adus.resize(symbols, NO_ADU);
        }
        let bytes = symbols * self.symbol_size;
        if self.source.len() < bytes {
            self.source.resize(bytes, 0);
        }
    }

    fn next_symbol(&self, position: usize) -> usize {
        (position / self.symbol_size + 1) * self.symbol_size
    }

    /// The first ADU that is told to begin in symbol `from` or later.
    fn next_start(&self, from: usize) -> Option<usize> {
        let esi = (from..self.lengths.len()).find(|&esi| self.first_adus[esi] != NO_ADU && self.has_symbol(esi))?;
        Some(esi * self.symbol_size + usize::from(self.first_adus[esi]))
    }

    /// What a hole needs has come, late or rebuilt.
    fn is_filled(&self, hole: &Range<usize>) -> bool {
        let (first, last) = (hole.start / self.symbol_size, (hole.end - 1) / self.symbol_size);
        (self.prefix.max(first)..=last).all(|esi| self.has_symbol(esi))
    }

    /// The next ADU in a filled hole, which gets smaller by it or goes.
    fn next_in_hole(&mut self, index: usize) -> Option<(AduHeader, Range<usize>)> {
        let hole = self.holes[index].clone();
        let (adu, next) = match self.adu_at(hole.start) {
            Step::Adu(header, packet) if packet.end <= hole.end => (Some((header, packet.clone())), packet.end),
            Step::Padding => (None, self.next_symbol(hole.start)),
            Step::Adu(..) | Step::Malformed => {
                self.malformed += 1;
                (None, hole.end)
            }
            Step::Missing(_) | Step::End => (None, hole.end),
        };
        if next < hole.end {
            self.holes[index].start = next;
        } else {
            self.holes.remove(index);
        }
        adu
    }

    /// What lies at `position`, which is where an ADU begins or padding.
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

/// What the walk over a block's bytes meets.
enum Step {
    Adu(AduHeader, Range<usize>),
    Padding,
    /// This symbol has to come first.
    Missing(usize),
    Malformed,
    End,
}
