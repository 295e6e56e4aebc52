//! FEC payload ids: which symbol of which source block a datagram carries (RFC 6363, section 5.3).
//!
//! ```text
//!           0         1         2         4                              12        14        16
//!           +---------+---------+---------+------------------------------+---------+---------+--------
//!  source   | profile | flags   | esi     | sbn                          | k' of   | first   | symbol
//!           |         |         |         |                              | sbn - 1 | ADU     |
//!           +---------+---------+---------+------------------------------+---------+---------+--------
//!  repair   | profile | k'      | esi     | sbn                          | k       | m       | symbol
//!           +---------+---------+---------+------------------------------+---------+---------+--------
//! ```
//!
//! Big-endian, inside the seal. A repair symbol's length is the coded symbol size of its block. Each symbol contains
//! the number of source symbols of the block before (k'; a repair symbol has room for 255). So any symbol of the next
//! block shows a receiver where a block ended, even if all its repair symbols were lost or there were none. Each source
//! symbol contains the offset of the first ADU that begins in it, so that whole ADUs behind a hole can be delivered (as
//! in IP-TFS, RFC 9347, section 2.2.1).

/// Bytes of either payload id.
pub const PAYLOAD_ID_LEN: usize = 16;
/// `first_adu` of a symbol in which no ADU begins.
pub const NO_ADU: u16 = u16::MAX;
/// The most source symbols a block may have.
pub const SOURCE_SYMBOLS_MAX: usize = 8192;
/// The most repair symbols a block may have.
pub const REPAIR_SYMBOLS_MAX: usize = 8192;

/// The highest block number: at ten million blocks a second a sender reaches it after most of a year. It keeps sums of
/// block numbers and losses far below 64 bits.
pub const SBN_MAX: u64 = 1 << 48;

/// Flag of a source symbol: no repair symbols will follow in this profile.
const UNPROTECTED: u8 = 1;

/// Names a block of one lane toward one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// The sender's redundancy profile; each profile numbers its own blocks.
    pub profile: u8,
    /// Source block number.
    pub sbn: u64,
}

/// Identifies a source symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceId {
    /// The sender's redundancy profile: blocks are numbered within it.
    pub profile: u8,
    /// The profile adds no repair symbols.
    pub unprotected: bool,
    /// Encoding symbol id, `0..k`.
    pub esi: u16,
    /// Source block number.
    pub sbn: u64,
    /// Source symbols of block `sbn - 1`; 0 when there was none.
    pub previous_symbols: u16,
    /// The offset in this symbol of the first ADU that begins in it, or [`NO_ADU`].
    pub first_adu: u16,
}

/// Identifies a repair symbol and describes its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepairId {
    /// The sender's redundancy profile.
    pub profile: u8,
    /// Encoding symbol id, `k..k + m`.
    pub esi: u16,
    /// Source block number.
    pub sbn: u64,
    /// k, the source symbols of the block.
    pub source_symbols: u16,
    /// m, the repair symbols of the block.
    pub repair_symbols: u16,
    /// Source symbols of block `sbn - 1`; 0 if there was none, or too many for this field.
    pub previous_symbols: u8,
}

impl RepairId {
    /// The value for `previous_symbols`: the number of source symbols, or 0 if it does not fit.
    pub fn previous(symbols: u16) -> u8 {
        u8::try_from(symbols).unwrap_or(0)
    }
}

impl SourceId {
    /// Splits an opened source datagram into id and symbol; `None` if a field is out of bounds.
    pub fn parse(opened: &[u8]) -> Option<(Self, &[u8])> {
        let (fields, symbol) = Fields::parse(opened)?;
        let id = Self {
            profile: fields.profile,
            unprotected: fields.flags & UNPROTECTED != 0,
            esi: fields.esi,
            sbn: fields.sbn,
            previous_symbols: fields.a,
            first_adu: fields.b,
        };
        let bounded = id.sbn <= SBN_MAX
            && usize::from(id.esi) < SOURCE_SYMBOLS_MAX
            && usize::from(id.previous_symbols) <= SOURCE_SYMBOLS_MAX
            && !symbol.is_empty()
            && (id.first_adu == NO_ADU || usize::from(id.first_adu) < symbol.len());
        bounded.then_some((id, symbol))
    }

    /// The id's bytes.
    pub fn emit(self) -> [u8; PAYLOAD_ID_LEN] {
        Fields {
            profile: self.profile,
            flags: if self.unprotected { UNPROTECTED } else { 0 },
            esi: self.esi,
            sbn: self.sbn,
            a: self.previous_symbols,
            b: self.first_adu,
        }
        .emit()
    }
}

impl RepairId {
    /// Splits an opened repair datagram into id and symbol; `None` if a field is out of bounds.
    pub fn parse(opened: &[u8]) -> Option<(Self, &[u8])> {
        let (fields, symbol) = Fields::parse(opened)?;
        let id = Self {
            profile: fields.profile,
            esi: fields.esi,
            sbn: fields.sbn,
            source_symbols: fields.a,
            repair_symbols: fields.b,
            previous_symbols: fields.flags,
        };
        let (k, m) = (usize::from(id.source_symbols), usize::from(id.repair_symbols));
        let bounded = id.sbn <= SBN_MAX
            && (1..=SOURCE_SYMBOLS_MAX).contains(&k)
            && (1..=REPAIR_SYMBOLS_MAX).contains(&m)
            && (k..k + m).contains(&usize::from(id.esi))
            && !symbol.is_empty()
            && symbol.len().is_multiple_of(64);
        bounded.then_some((id, symbol))
    }

    /// The id's bytes.
    pub fn emit(self) -> [u8; PAYLOAD_ID_LEN] {
        Fields {
            profile: self.profile,
            flags: self.previous_symbols,
            esi: self.esi,
            sbn: self.sbn,
            a: self.source_symbols,
            b: self.repair_symbols,
        }
        .emit()
    }
}

/// The layout that both ids share.
struct Fields {
    profile: u8,
    flags: u8,
    esi: u16,
    sbn: u64,
    a: u16,
    b: u16,
}

impl Fields {
    fn parse(opened: &[u8]) -> Option<(Self, &[u8])> {
        let (id, symbol) = opened.split_first_chunk::<PAYLOAD_ID_LEN>()?;
        let u16_at = |at: usize| u16::from_be_bytes([id[at], id[at + 1]]);
        let mut sbn = [0; 8];
        sbn.copy_from_slice(&id[4..12]);
        let fields = Self {
            profile: id[0],
            flags: id[1],
            esi: u16_at(2),
            sbn: u64::from_be_bytes(sbn),
            a: u16_at(12),
            b: u16_at(14),
        };
        Some((fields, symbol))
    }

    fn emit(self) -> [u8; PAYLOAD_ID_LEN] {
        let mut id = [0; PAYLOAD_ID_LEN];
        id[0] = self.profile;
        id[1] = self.flags;
        id[2..4].copy_from_slice(&self.esi.to_be_bytes());
        id[4..12].copy_from_slice(&self.sbn.to_be_bytes());
        id[12..14].copy_from_slice(&self.a.to_be_bytes());
        id[14..16].copy_from_slice(&self.b.to_be_bytes());
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: SourceId =
        SourceId { profile: 7, unprotected: true, esi: 31, sbn: 1 << 40, previous_symbols: 47, first_adu: 12 };
    const REPAIR: RepairId =
        RepairId { profile: 7, esi: 34, sbn: 9, source_symbols: 32, repair_symbols: 4, previous_symbols: 255 };

    fn with_symbol(id: [u8; PAYLOAD_ID_LEN], len: usize) -> Vec<u8> {
        let mut opened = id.to_vec();
        opened.resize(PAYLOAD_ID_LEN + len, 0xaa);
        opened
    }

    #[test]
    fn a_repair_symbol_holds_the_previous_block_length_only_if_it_fits() {
        let held = [0, 1, 255, 256, 8192].map(RepairId::previous);
        assert_eq!(held, [0, 1, 255, 0, 0]);
    }

    #[test]
    fn ids_round_trip() {
        let opened = with_symbol(SOURCE.emit(), 100);
        assert_eq!(SourceId::parse(&opened), Some((SOURCE, &[0xaa; 100][..])));
        let opened = with_symbol(REPAIR.emit(), 128);
        assert_eq!(RepairId::parse(&opened), Some((REPAIR, &[0xaa; 128][..])));
    }

    #[test]
    fn fields_out_of_bounds_are_refused() {
        let source = |id: SourceId, len| SourceId::parse(&with_symbol(id.emit(), len)).is_some();
        assert!(!source(SOURCE, 0));
        assert!(!source(SourceId { esi: 8192, ..SOURCE }, 64));
        assert!(!source(SourceId { sbn: SBN_MAX + 1, ..SOURCE }, 64));
        assert!(!source(SourceId { first_adu: 64, ..SOURCE }, 64));
        let repair = |id: RepairId, len| RepairId::parse(&with_symbol(id.emit(), len)).is_some();
        assert!(!repair(REPAIR, 100), "a coded size is a multiple of 64");
        assert!(!repair(RepairId { sbn: SBN_MAX + 1, ..REPAIR }, 64));
        assert!(!repair(RepairId { esi: 31, ..REPAIR }, 64), "a source symbol's esi");
        assert!(!repair(RepairId { esi: 36, ..REPAIR }, 64), "past the last repair symbol");
        assert!(!repair(RepairId { source_symbols: 0, ..REPAIR }, 64));
        assert!(!repair(RepairId { repair_symbols: 0, ..REPAIR }, 64));
        assert_eq!(RepairId::parse(&REPAIR.emit()[..15]), None);
    }
}
