//! How the source symbols of a block came to be here: marked by the path, or rebuilt.

use std::ops::Range;

use super::ReceivedBlock;

/// A source symbol's datagram was marked by the path.
pub(super) const MARKED: u8 = 1;
/// A source symbol was rebuilt.
pub(super) const REBUILT: u8 = 2;

impl ReceivedBlock {
    /// The path marked the datagram of source symbol `esi`. Returns whether an ADU with bytes in it is still to leave.
    pub fn mark(&mut self, esi: u16) -> bool {
        let esi = usize::from(esi);
        if self.has_left(esi + 1) || !self.has_symbol(esi) {
            return false;
        }
        self.traits[esi] |= MARKED;
        self.has_traits = true;
        true
    }

    /// Whether a symbol with bytes of this packet was marked by the path, and whether one was rebuilt.
    pub fn traits(&self, packet: &Range<usize>) -> (bool, bool) {
        if !self.has_traits {
            return (false, false);
        }
        let symbols = packet.start / self.symbol_size..packet.end.div_ceil(self.symbol_size);
        let all = self.traits.get(symbols).unwrap_or_default().iter().fold(0, |all, traits| all | traits);
        (all & MARKED != 0, all & REBUILT != 0)
    }
}
