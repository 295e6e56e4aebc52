//! Placeholder until the code branch is merged.

/// How the symbols of a block lie in its buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SymbolLayout {
    /// Source symbols, k.
    pub symbols: usize,
    /// Bytes from the start of one symbol to the start of the next.
    pub stride: usize,
    /// Bytes of each symbol that are coded; a multiple of 64.
    pub size: usize,
}
