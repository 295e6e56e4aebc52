//! How the symbols of a block lie in one buffer.
//!
//! Block builder, code and transform share it; none of them copies symbols. Nothing is computed from the bytes here.

use std::ops::Range;

/// The most encoding symbols, source and repair together, of one block.
pub const MAX_ENCODING_SYMBOLS: usize = 16_384;

/// A symbol is processed in pieces of 64 bytes: the low bytes of 32 field elements, then their high bytes.
pub(super) type Piece = [u8; 64];

/// The layout of source symbols in a buffer: symbol i is the bytes `i * stride .. i * stride + size`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolLayout {
    /// Source symbols, k.
    pub symbols: usize,
    /// Bytes from one symbol to the next, at least `size`.
    pub stride: usize,
    /// Bytes of each symbol that the code covers: a multiple of 64, not zero.
    pub size: usize,
}

impl SymbolLayout {
    /// The byte range of symbol `index`.
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = index * self.stride;
        start..start + self.size
    }

    /// Whether the code can work on a buffer of `bytes` with `repair_symbols`.
    pub(super) fn fits(&self, bytes: usize, repair_symbols: usize) -> bool {
        let symbols = self.symbols.saturating_add(repair_symbols);
        let last = self.symbols.saturating_sub(1).checked_mul(self.stride);
        let end = last.and_then(|last| last.checked_add(self.size));
        symbols <= MAX_ENCODING_SYMBOLS
            && self.size > 0
            && self.size.is_multiple_of(64)
            && self.size <= self.stride
            && end.is_some_and(|end| end <= bytes)
    }
}
