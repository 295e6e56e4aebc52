//! The source block being built: whole ADUs end to end in one contiguous buffer, divided into symbols in place.
//!
//! ```text
//!  symbol 0        symbol 1        symbol 2        symbol 3
//!  |hADU...........|ADU........hADU|ADU....        |hADU...
//!                                          `- the TUN ran dry: sent short; for the code, zeros up to the end
//! ```
//!
//! Symbol `i` begins at `i * symbol_size`. The TUN is read directly into [`room`](SourceBlock::room). A symbol is
//! finished when it is full, or when its sender does not wait for more; a finished symbol never changes. This file does
//! not decide when a block closes, and sends and seals nothing.

use super::layout::SymbolLayout;
use crate::wire::adu::{AduHeader, LONG_LEN, PACKET_MAX};
use crate::wire::payload_id::NO_ADU;
use crate::wire::virtio::VirtioHeader;

/// A block under construction; its memory is reused for the next block.
#[derive(Debug)]
pub struct SourceBlock {
    symbol_size: usize,
    buffer: Vec<u8>,
    /// Offset of the next byte.
    fill: usize,
    /// Bytes in each finished symbol.
    lengths: Vec<u16>,
    /// Offset of the first ADU that begins in each symbol, finished or open.
    first_adus: Vec<u16>,
    /// Finished symbols already taken by [`take_finished`](Self::take_finished).
    taken: usize,
}

impl SourceBlock {
    /// An empty block that stays open until it has `block_symbols` symbols of `symbol_size` bytes.
    pub fn new(symbol_size: usize, block_symbols: usize) -> Self {
        let symbols = Self::symbols_max(symbol_size, block_symbols);
        Self {
            symbol_size,
            buffer: vec![0; symbols * symbol_size],
            fill: 0,
            lengths: Vec::with_capacity(symbols),
            first_adus: Vec::with_capacity(symbols),
            taken: 0,
        }
    }

    /// The most symbols that such a block can have: the last ADU may overfill it.
    pub fn symbols_max(symbol_size: usize, block_symbols: usize) -> usize {
        block_symbols + (LONG_LEN + PACKET_MAX).div_ceil(symbol_size) + 1
    }

    /// Whether the block holds nothing.
    pub fn is_empty(&self) -> bool {
        self.fill == 0
    }

    /// Symbols so far, the open one included.
    pub fn symbols(&self) -> usize {
        self.lengths.len() + usize::from(self.has_open_symbol())
    }

    /// Finished symbols.
    pub fn finished(&self) -> usize {
        self.lengths.len()
    }

    /// Whether a symbol holds bytes and has room for more.
    pub fn has_open_symbol(&self) -> bool {
        self.fill > self.open_start()
    }

    /// The buffer for the next packet: [`PACKET_MAX`] bytes.
    pub fn room(&mut self) -> &mut [u8] {
        let start = self.adu_start() + LONG_LEN;
        &mut self.buffer[start..start + PACKET_MAX]
    }

    /// Makes the packet of `len` bytes at the front of [`room`](Self::room) the next ADU. Returns the symbols in which it
    /// has bytes.
    pub fn commit(&mut self, virtio: VirtioHeader, len: usize) -> std::ops::Range<usize> {
        debug_assert!(len > 0 && len <= PACKET_MAX);
        let start = self.adu_start();
        if self.has_open_symbol() && start > self.fill {
            self.finish_symbol();
        }
        let header = AduHeader { packet_len: len, virtio };
        let header_len = header.header_len();
        if header_len < LONG_LEN {
            // Only complete packets have the short header; they are small.
            self.buffer.copy_within(start + LONG_LEN..start + LONG_LEN + len, start + header_len);
        }
        header.emit(&mut self.buffer[start..start + header_len]);
        self.fill = start + header_len + len;

        let symbol = start / self.symbol_size;
        self.note_symbols(symbol);
        if self.first_adus[symbol] == NO_ADU {
            self.first_adus[symbol] = (start % self.symbol_size) as u16;
        }
        let full = self.fill / self.symbol_size;
        self.lengths.resize(full.max(self.lengths.len()), self.symbol_size as u16);
        self.note_symbols(self.symbols().saturating_sub(1));
        symbol..(self.fill - 1) / self.symbol_size + 1
    }

    /// Fills the open symbol up to the length that the code takes, with zeros: they are padding to the peer, too. Then it is
    /// as long as a repair symbol of a block of one symbol.
    pub fn pad_symbol(&mut self) {
        if self.has_open_symbol() {
            let start = self.open_start();
            let end = start + (self.fill - start).next_multiple_of(64).min(self.symbol_size);
            self.buffer[self.fill..end].fill(0);
            self.fill = end;
            // It may be full now.
            self.lengths.resize(self.fill / self.symbol_size, self.symbol_size as u16);
        }
    }

    /// Finishes the open symbol at its present length: the next ADU begins a new one.
    pub fn finish_symbol(&mut self) {
        if self.has_open_symbol() {
            let start = self.open_start();
            self.lengths.push((self.fill - start) as u16);
            self.fill = start + self.symbol_size;
        }
    }

    /// The finished symbols that were not taken yet; they count as taken now.
    pub fn take_finished(&mut self) -> std::ops::Range<usize> {
        let range = self.taken..self.lengths.len();
        self.taken = self.lengths.len();
        range
    }

    /// The bytes of a finished symbol.
    pub fn symbol(&self, esi: usize) -> &[u8] {
        let start = esi * self.symbol_size;
        &self.buffer[start..start + usize::from(self.lengths[esi])]
    }

    /// The offset of the first ADU that begins in a finished symbol, or [`NO_ADU`].
    pub fn first_adu(&self, esi: usize) -> u16 {
        self.first_adus[esi]
    }

    /// The finished symbols in the form that the code needs: filled with zeros up to the longest one, rounded up to 64
    /// bytes.
    pub fn coded(&mut self) -> (SymbolLayout, &[u8]) {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let size = usize::from(longest).next_multiple_of(64);
        for (esi, &length) in self.lengths.iter().enumerate() {
            if usize::from(length) < size {
                let start = esi * self.symbol_size;
                self.buffer[start + usize::from(length)..start + size].fill(0);
            }
        }
        let layout = SymbolLayout { symbols: self.lengths.len(), stride: self.symbol_size, size };
        (layout, &self.buffer)
    }

    /// Empties the block for reuse.
    pub fn clear(&mut self) {
        self.fill = 0;
        self.taken = 0;
        self.lengths.clear();
        self.first_adus.clear();
    }

    fn open_start(&self) -> usize {
        self.lengths.len() * self.symbol_size
    }

    /// Where the next ADU begins: an ADU header never crosses a symbol boundary.
    fn adu_start(&self) -> usize {
        let open = self.open_start();
        if self.has_open_symbol() && open + self.symbol_size - self.fill < LONG_LEN {
            open + self.symbol_size
        } else {
            self.fill
        }
    }

    fn note_symbols(&mut self, last: usize) {
        if self.first_adus.len() <= last {
            self.first_adus.resize(last + 1, NO_ADU);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const E: usize = 128;

    fn push(block: &mut SourceBlock, len: usize, virtio: VirtioHeader) {
        block.room()[..len].fill(len as u8);
        block.commit(virtio, len);
    }

    fn plain() -> VirtioHeader {
        VirtioHeader::default()
    }

    #[test]
    fn small_adus_share_a_symbol_until_the_tun_runs_dry() {
        let mut block = SourceBlock::new(E, 4);
        push(&mut block, 20, plain());
        push(&mut block, 30, plain());
        assert_eq!((block.symbols(), block.finished()), (1, 0));
        block.finish_symbol();
        assert_eq!(block.take_finished(), 0..1);
        assert_eq!(block.symbol(0).len(), 4 + 20 + 4 + 30);
        push(&mut block, 10, plain());
        block.finish_symbol();
        assert_eq!(block.take_finished(), 1..2);
        assert_eq!((block.first_adu(0), block.first_adu(1)), (0, 0));
    }

    #[test]
    fn a_super_packet_fills_symbols_and_may_overfill_the_block() {
        let mut block = SourceBlock::new(E, 4);
        let virtio = VirtioHeader { flags: 1, gso_type: 1, gso_size: 100, ..plain() };
        push(&mut block, PACKET_MAX, virtio);
        let bytes = PACKET_MAX + LONG_LEN;
        assert_eq!(block.finished(), bytes / E);
        block.finish_symbol();
        assert_eq!(block.symbols(), bytes.div_ceil(E));
        assert_eq!(block.first_adu(0), 0);
        assert!((1..block.symbols()).all(|esi| block.first_adu(esi) == NO_ADU));
        assert_eq!(block.symbol(block.symbols() - 1).len(), bytes % E);
    }

    #[test]
    fn an_adu_header_never_crosses_a_symbol_boundary() {
        for first in 1..2 * E {
            let mut block = SourceBlock::new(E, 8);
            push(&mut block, first, plain());
            push(&mut block, 40, plain());
            block.finish_symbol();
            for esi in 0..block.symbols() {
                let at = block.first_adu(esi);
                assert!(at == NO_ADU || usize::from(at) + LONG_LEN <= E, "first ADU of {first} bytes");
            }
        }
    }

    #[test]
    fn the_last_room_of_a_nearly_full_block_holds_the_longest_packet() {
        let mut block = SourceBlock::new(E, 4);
        while block.symbols() < 4 {
            push(&mut block, 1, plain());
        }
        push(&mut block, PACKET_MAX, VirtioHeader { flags: 1, ..plain() });
        block.finish_symbol();
        assert!(block.symbols() <= SourceBlock::symbols_max(E, 4));
    }

    #[test]
    fn a_padded_symbol_is_as_long_as_a_repair_symbol_and_ends_with_zeros() {
        for len in 1..2 * E - 12 {
            let mut block = SourceBlock::new(E, 4);
            push(&mut block, 50, plain());
            block.clear();
            push(&mut block, len, VirtioHeader { flags: 1, ..plain() });
            block.pad_symbol();
            block.finish_symbol();
            let last = block.finished() - 1;
            let bytes = block.symbol(last).len();
            assert!(bytes.is_multiple_of(64), "{len} bytes: {bytes}");
            let begun = 12 + len - last * E;
            assert!(bytes - begun < 64 && block.symbol(last)[begun..].iter().all(|&byte| byte == 0), "{len} bytes");
            assert_eq!((block.symbols(), block.take_finished()), (last + 1, 0..last + 1));
        }
    }

    #[test]
    fn the_coded_size_is_that_of_the_longest_symbol() {
        let mut block = SourceBlock::new(E, 4);
        push(&mut block, 60, plain());
        block.finish_symbol();
        let (layout, source) = block.coded();
        assert_eq!((layout.symbols, layout.size), (1, 64));
        assert_eq!(source[4..64], [60; 60]);
        block.clear();
        push(&mut block, 10, plain());
        block.finish_symbol();
        let (layout, source) = block.coded();
        assert_eq!(source[14..layout.size], [0; 50], "bytes of an earlier block are gone");
    }
}
