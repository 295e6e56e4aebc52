//! The erasure code of a lane: repair symbols from source symbols, and lost source symbols from what arrived.
//!
//! The code is that of `reed-solomon-simd`: Reed-Solomon over GF(2^16), systematic; any k of the n = k + m symbols
//! rebuild the block. Few losses are decoded from syndromes:
//!
//! 1. encode the received source symbols with zeros for the lost ones, and add the received repair symbols. The result,
//!    the syndromes, equals the repair symbols of the lost symbols alone;
//! 2. each of the e lost symbols is a sum of e syndromes, with the factors that `positions` computes.
//!
//! That costs one encoding and e² products. For many losses in a large block the crate's decoder is cheaper, because
//! its cost does not grow with e; a cost model decides. Both give the same bytes.
//!
//! This module does not know the contents of a block, where symbols come from, or how many repair symbols a block gets
//! ([`super::plan`]). It trusts the caller about which symbols are present: forged or damaged datagrams were dropped
//! long before.

use reed_solomon_simd::engine::{Engine, utils};
use reed_solomon_simd::rate::{DefaultRateDecoder, RateDecoder};

use super::layout::{Piece, SymbolLayout};
use super::locator::ShortLocator;
use super::positions::{Coefficients, Positions};
use super::transform::Transform;

/// With this many lost symbols or more, the factors of a row or column are multiplied once each. Every different factor
/// of a product loads 128 bytes of multiplication table into the cache: e² of them cost more than the 2e extra
/// products.
const FACTORED_FROM: usize = 12;

/// Scratch memory beyond this many bytes is not kept from block to block.
const SCRATCH_KEPT: usize = 16 << 20;
/// A block that needs more scratch than this is not decoded. Our largest block (4096 source and 4096 repair symbols for
/// an MTU of 9216) needs little more than half of it. A peer can claim any block size with a single datagram.
const SCRATCH_MAX: usize = 128 << 20;

/// A block cannot be rebuilt from the present symbols.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{lost} source symbols are lost and only {usable} repair symbols are usable")]
pub struct TooFewSymbols {
    /// Source symbols that are missing.
    pub lost: usize,
    /// Distinct repair symbols of valid index and size that were offered; 0 if the layout does not fit the buffer.
    pub usable: usize,
}

/// The encoder and decoder of one lane, with their scratch memory. Once it has grown to the size of the largest block,
/// encoding and syndrome decoding allocate nothing.
pub struct Code {
    transform: Transform,
    coefficients: Coefficients,
    lost: Vec<usize>,
    /// The index of each chosen repair symbol; `repair_places` is its place in the caller's list.
    repair_indices: Vec<usize>,
    repair_places: Vec<usize>,
    seen: Vec<bool>,
    /// Of the repair symbols that are used: their spans, ascending.
    spans: Vec<usize>,
    product: Vec<Piece>,
    decoder: Option<DefaultRateDecoder<ShortLocator>>,
    forced: Option<Decoding>,
}

/// The two ways to rebuild a block. They differ only in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoding {
    /// One encoding and e² products.
    Syndrome,
    /// The crate's decoder: transforms over the whole block.
    Transform,
}

impl Default for Code {
    fn default() -> Self {
        Self::new()
    }
}

impl Code {
    /// A code without scratch memory. The first one in a process fills the tables of the field: 9 MB, some
    /// milliseconds.
    pub fn new() -> Self {
        Self {
            transform: Transform::new(),
            coefficients: Coefficients::default(),
            lost: Vec::new(),
            repair_indices: Vec::new(),
            repair_places: Vec::new(),
            seen: Vec::new(),
            spans: Vec::new(),
            product: Vec::new(),
            decoder: None,
            forced: None,
        }
    }

    /// Always decodes in this way; `None` chooses by cost. For tests and measurements.
    pub fn force_decoding(&mut self, decoding: Option<Decoding>) {
        self.forced = decoding;
    }

    /// Replaces the contents of `repair` with the `repair_symbols` repair symbols of a block, end to end, each
    /// `layout.size` bytes. The part of each source symbol that carries no data must be zero.
    ///
    /// Returns how many were written: all, or none if the block is empty, if `layout` does not fit `source`, or if
    /// there would be more than [`MAX_ENCODING_SYMBOLS`](super::layout::MAX_ENCODING_SYMBOLS).
    pub fn encode(
        &mut self,
        layout: SymbolLayout,
        source: &[u8],
        repair_symbols: usize,
        repair: &mut Vec<u8>,
    ) -> usize {
        repair.clear();
        if layout.symbols == 0 || repair_symbols == 0 || !layout.fits(source.len(), repair_symbols) {
            return 0;
        }
        let positions = Positions::new(layout.symbols, repair_symbols);
        let (encoded, _) = self.transform.encode(positions, layout, source, repair_symbols);
        repair.extend_from_slice(encoded.as_flattened());
        repair_symbols
    }

    /// Fills the source symbols that are not `present` from the repair symbols received: pairs of index (0 to
    /// `repair_symbols` - 1) and bytes. `repair_symbols` is the m that the sender encoded with, not how many arrived.
    /// Returns how many were rebuilt.
    ///
    /// Repair symbols with a wrong index or size, or offered twice, are skipped. On failure the block is unchanged.
    pub fn decode(
        &mut self,
        layout: SymbolLayout,
        source: &mut [u8],
        present: &[bool],
        repair_symbols: usize,
        repair: &[(u16, &[u8])],
    ) -> Result<usize, TooFewSymbols> {
        self.lost.clear();
        self.lost.extend((0..layout.symbols.min(present.len())).filter(|&i| !present[i]));
        let lost = self.lost.len() + layout.symbols.saturating_sub(present.len());
        if lost == 0 {
            return Ok(0);
        }
        if present.len() < layout.symbols || !layout.fits(source.len(), repair_symbols) {
            return Err(TooFewSymbols { lost, usable: 0 });
        }
        let usable = self.choose(layout.size, repair_symbols, repair, lost);
        if usable < lost {
            return Err(TooFewSymbols { lost, usable });
        }

        if !Self::may_decode(layout, repair_symbols) {
            return Err(TooFewSymbols { lost, usable: 0 });
        }
        let decoding = self.forced.unwrap_or_else(|| Cost::new(layout, repair_symbols, lost).cheaper(lost));
        let decoded = self.decode_by(decoding, layout, source, present, repair_symbols, repair);
        if scratch(layout, repair_symbols) > SCRATCH_KEPT {
            match decoding {
                Decoding::Transform => self.decoder = None,
                Decoding::Syndrome if self.transform.scratch_bytes() > SCRATCH_KEPT => {
                    self.transform = Transform::new()
                }
                Decoding::Syndrome => {}
            }
        }
        decoded.map(|()| lost).map_err(|_| TooFewSymbols { lost, usable: 0 })
    }

    /// Whether blocks of this layout are decoded at all: some would take too much memory.
    pub fn may_decode(layout: SymbolLayout, repair_symbols: usize) -> bool {
        scratch(layout, repair_symbols) <= SCRATCH_MAX
    }

    fn decode_by(
        &mut self,
        decoding: Decoding,
        layout: SymbolLayout,
        source: &mut [u8],
        present: &[bool],
        repair_symbols: usize,
        repair: &[(u16, &[u8])],
    ) -> Result<(), reed_solomon_simd::Error> {
        match decoding {
            Decoding::Syndrome => {
                self.decode_syndromes(layout, source, present, repair_symbols, repair);
                Ok(())
            }
            Decoding::Transform => self.decode_transforms(layout, source, present, repair_symbols, repair),
        }
    }

    /// Picks up to `needed` usable repair symbols; returns how many it found.
    fn choose(&mut self, size: usize, repair_symbols: usize, repair: &[(u16, &[u8])], needed: usize) -> usize {
        self.seen.clear();
        self.seen.resize(repair_symbols, false);
        self.repair_indices.clear();
        self.repair_places.clear();
        for (place, &(index, symbol)) in repair.iter().enumerate() {
            let index = usize::from(index);
            if self.repair_indices.len() == needed {
                break;
            }
            if index < repair_symbols && symbol.len() == size && !self.seen[index] {
                self.seen[index] = true;
                self.repair_indices.push(index);
                self.repair_places.push(place);
            }
        }
        self.repair_indices.len()
    }

    fn decode_syndromes(
        &mut self,
        layout: SymbolLayout,
        source: &mut [u8],
        present: &[bool],
        repair_symbols: usize,
        repair: &[(u16, &[u8])],
    ) {
        let pieces = layout.size / 64;
        let positions = Positions::new(layout.symbols, repair_symbols);
        let wanted = self.repair_indices.iter().max().map_or(0, |&j| j + 1);
        self.coefficients.solve(positions, &self.lost, &self.repair_indices);
        self.product.resize(pieces, [0; 64]);

        // A peer may claim thousands of repair symbols and send one: only the spans are computed that have one of those
        // which came.
        let span = positions.span;
        self.spans.clear();
        self.spans.extend(self.repair_indices.iter().map(|index| index / span));
        self.spans.sort_unstable();
        self.spans.dedup();
        let spans = &self.spans;
        let (syndromes, engine) = self.transform.encode_spans(positions, layout, (source, present), spans, wanted);
        let at = |index: usize| spans.partition_point(|number| *number < index / span) * span + index % span;
        let factored = self.lost.len() >= FACTORED_FROM;
        let received = self.repair_indices.iter().zip(&self.repair_places);
        for (j, (&index, &place)) in received.enumerate() {
            let syndrome = &mut syndromes[at(index) * pieces..][..pieces];
            utils::xor(syndrome, repair[place].1.as_chunks().0);
            if factored {
                multiply(engine, syndrome, self.coefficients.of_syndrome(j));
            }
        }

        let product = &mut self.product[..pieces];
        for (i, &lost) in self.lost.iter().enumerate() {
            let (rebuilt, _) = source[layout.range(lost)].as_chunks_mut();
            for (j, &index) in self.repair_indices.iter().enumerate() {
                let syndrome = &syndromes[at(index) * pieces..][..pieces];
                let factor =
                    if factored { self.coefficients.between(i, j) } else { self.coefficients.coefficient(i, j) };
                if j == 0 {
                    rebuilt.copy_from_slice(syndrome);
                    multiply(engine, rebuilt, factor);
                } else {
                    product.copy_from_slice(syndrome);
                    multiply(engine, product, factor);
                    utils::xor(rebuilt, product);
                }
            }
            if factored {
                multiply(engine, rebuilt, self.coefficients.of_lost(i));
            }
        }
    }

    // The crate's decoder puts a table of the whole field, 128 KB, on the stack: that part of the stack is touched when it
    // runs, and not by every block with a few losses.
    #[inline(never)]
    fn decode_transforms(
        &mut self,
        layout: SymbolLayout,
        source: &mut [u8],
        present: &[bool],
        repair_symbols: usize,
        repair: &[(u16, &[u8])],
    ) -> Result<(), reed_solomon_simd::Error> {
        let (k, m, size) = (layout.symbols, repair_symbols, layout.size);
        let decoder = match &mut self.decoder {
            Some(decoder) => {
                decoder.reset(k, m, size)?;
                decoder
            }
            none => none.insert(DefaultRateDecoder::new(k, m, size, ShortLocator::new(), None)?),
        };
        for index in (0..k).filter(|&index| present[index]) {
            decoder.add_original_shard(index, &source[layout.range(index)])?;
        }
        for (&index, &place) in self.repair_indices.iter().zip(&self.repair_places) {
            decoder.add_recovery_shard(index, repair[place].1)?;
        }
        let rebuilt = decoder.decode()?;
        for (index, symbol) in rebuilt.restored_original_iter() {
            source[layout.range(index)].copy_from_slice(symbol);
        }
        Ok(())
    }
}

/// The most bytes of scratch that either way of decoding needs: all points of the block, and one more span.
fn scratch(layout: SymbolLayout, repair_symbols: usize) -> usize {
    let Positions { span, repair_first } = Positions::new(layout.symbols, repair_symbols);
    let large = if repair_first { layout.symbols } else { repair_symbols };
    let points = (span + large).next_power_of_two().max(large.next_multiple_of(span) + span);
    points * layout.size
}

fn multiply(engine: &impl Engine, symbol: &mut [Piece], factor: u16) {
    // The logarithm of one is zero.
    if factor != 0 {
        engine.mul(symbol, factor);
    }
}

/// The estimated time to decode a block, in hundredths of a nanosecond, to choose the cheaper way.
///
/// The constants are for 64 bytes of a symbol. They match the second table of `cargo bench --bench codec` within about
/// a tenth, on an x86-64 with AVX2, 32 KB of first-level and 1 MB of second-level cache. Only their ratios matter.
struct Cost {
    pieces: usize,
    encode: usize,
    transform: usize,
}

impl Cost {
    const COPY: usize = 100;
    const BUTTERFLY: usize = 300;
    /// Copy, multiply, add.
    const PRODUCT: usize = 400;
    /// One step of the locator's transforms; it does not depend on the symbol's size.
    const LOCATOR: usize = 60;

    fn new(layout: SymbolLayout, repair_symbols: usize, lost: usize) -> Self {
        let pieces = layout.size / 64;
        let (k, m) = (layout.symbols, repair_symbols);
        let Positions { span, repair_first } = Positions::new(k, m);
        let large = if repair_first { k } else { m };
        let points = (span + large).next_power_of_two();

        let layers = |points: usize| points.ilog2() as usize;
        // Of the repair symbols no more spans are computed than symbols are lost.
        let encoded = if repair_first { large } else { large.min(lost * span) };
        let encode = (encoded.next_multiple_of(span) + span) / 2 * layers(span);
        let transform = (span + large) * layers(points);
        Self {
            pieces,
            encode: pieces * (k * Self::COPY + encode * Self::butterfly(2 * span * layout.size)),
            transform: pieces * (k * (Self::COPY + Self::PRODUCT) + transform * Self::butterfly(points * layout.size))
                + 3 * points / 2 * layers(points) * Self::LOCATOR,
        }
    }

    /// The time of a butterfly on `scratch` bytes: a quarter more for each factor of four beyond `NEAR`.
    fn butterfly(scratch: usize) -> usize {
        const NEAR: usize = 128 << 10;
        let doublings = (scratch / NEAR).max(1).ilog2() as usize;
        Self::BUTTERFLY * (8 + doublings) / 8
    }

    fn cheaper(&self, lost: usize) -> Decoding {
        let syndrome = self.encode + lost * lost * self.pieces * Self::PRODUCT;
        if syndrome <= self.transform { Decoding::Syndrome } else { Decoding::Transform }
    }
}

#[cfg(test)]
mod tests;
