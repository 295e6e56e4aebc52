//! The encoder: repair symbols from source symbols, a span at a time.
//!
//! The transforms are those of `reed-solomon-simd`'s engines. They run in the order of its `DefaultRate` encoder and
//! give the same bytes. There are two reasons to run them here. First, the scratch is two spans, which stay in the
//! cache; the crate copies the whole block first. Second, a block with holes can be encoded in place with zeros for the
//! lost symbols, which is the first half of a syndrome.
//!
//! This module checks nothing: [`super::code`] has checked that the symbols lie inside the block. It does not know how
//! to compute a lost symbol from a syndrome.

use reed_solomon_simd::engine::{Engine, ShardsRefMut, utils};

use super::engine::FieldEngine;
use super::layout::{Piece, SymbolLayout};
use super::positions::Positions;

/// Engine and scratch of one lane.
pub(super) struct Transform {
    engine: FieldEngine,
    scratch: Vec<Piece>,
}

impl Transform {
    pub(super) fn new() -> Self {
        Self { engine: FieldEngine::new(), scratch: Vec::new() }
    }

    /// Encodes a block. Returns the first `wanted` repair symbols, end to end, and the engine.
    pub(super) fn encode(
        &mut self,
        positions: Positions,
        layout: SymbolLayout,
        source: &[u8],
        wanted: usize,
    ) -> (&mut [Piece], &FieldEngine) {
        let block = Block { layout, source, present: None };
        if positions.repair_first {
            self.through_repair(positions.span, &block, wanted);
        } else {
            self.through_source(positions.span, &block, 0..wanted.div_ceil(positions.span), wanted);
        }
        (&mut self.scratch[..wanted * block.pieces()], &self.engine)
    }

    /// Encodes a block whose missing symbols count as zeros, but only these spans of its repair symbols, ascending, and
    /// no symbol from `wanted` on. Returns the spans, end to end, which the caller may change in place, and the engine.
    pub(super) fn encode_spans(
        &mut self,
        positions: Positions,
        layout: SymbolLayout,
        (source, present): (&[u8], &[bool]),
        spans: &[usize],
        wanted: usize,
    ) -> (&mut [Piece], &FieldEngine) {
        let block = Block { layout, source, present: Some(present) };
        if positions.repair_first {
            self.through_repair(positions.span, &block, wanted);
        } else {
            self.through_source(positions.span, &block, spans.iter().copied(), wanted);
        }
        (&mut self.scratch[..spans.len() * positions.span * block.pieces()], &self.engine)
    }

    /// More source than repair symbols: each span of source symbols is transformed and added up, then one transform
    /// gives the repair symbols.
    fn through_repair(&mut self, span: usize, block: &Block<'_>, wanted: usize) {
        let pieces = block.pieces();
        let room = span * pieces;
        self.reserve(2 * room);
        let (sum, rest) = self.scratch.split_at_mut(room);
        let next = &mut rest[..room];

        let count = span.min(block.layout.symbols);
        block.load(0..count, sum);
        ifft(&self.engine, span, pieces, sum, count, span);
        let mut start = span;
        while start < block.layout.symbols {
            let count = span.min(block.layout.symbols - start);
            if block.load(start..start + count, next) {
                ifft(&self.engine, span, pieces, next, count, start + span);
                utils::xor(sum, next);
            }
            start += span;
        }
        fft(&self.engine, span, pieces, sum, wanted, 0);
    }

    /// Fewer source than repair symbols: one transform of the source symbols, then one for each span of repair
    /// symbols.
    fn through_source(
        &mut self,
        span: usize,
        block: &Block<'_>,
        spans: impl ExactSizeIterator<Item = usize>,
        wanted: usize,
    ) {
        let pieces = block.pieces();
        let room = span * pieces;
        self.reserve((spans.len() + 1) * room);
        let (repair, rest) = self.scratch.split_at_mut(spans.len() * room);
        let spectrum = &mut rest[..room];

        let k = block.layout.symbols;
        block.load(0..k, spectrum);
        ifft(&self.engine, span, pieces, spectrum, k, 0);
        for (number, out) in spans.zip(repair.chunks_exact_mut(room)) {
            let start = number * span;
            out.copy_from_slice(spectrum);
            fft(&self.engine, span, pieces, out, span.min(wanted - start), start + span);
        }
    }

    pub(super) fn scratch_bytes(&self) -> usize {
        self.scratch.len() * 64
    }

    fn reserve(&mut self, pieces: usize) {
        if self.scratch.len() < pieces {
            self.scratch.resize(pieces, [0; 64]);
        }
    }
}

/// A source block in the caller's buffer.
struct Block<'a> {
    layout: SymbolLayout,
    source: &'a [u8],
    present: Option<&'a [bool]>,
}

impl Block<'_> {
    fn pieces(&self) -> usize {
        self.layout.size / 64
    }

    /// Copies a run of symbols to the front of `span` and fills the rest with zeros. False if no symbol was present.
    fn load(&self, symbols: std::ops::Range<usize>, span: &mut [Piece]) -> bool {
        let used = symbols.len() * self.pieces();
        let mut any = false;
        for (index, room) in symbols.zip(span.chunks_exact_mut(self.pieces())) {
            if self.present.is_none_or(|present| present[index]) {
                room.as_flattened_mut().copy_from_slice(&self.source[self.layout.range(index)]);
                any = true;
            } else {
                room.fill([0; 64]);
            }
        }
        span[used..].fill([0; 64]);
        any
    }
}

fn ifft(e: &FieldEngine, span: usize, pieces: usize, data: &mut [Piece], used: usize, skew: usize) {
    let mut data = ShardsRefMut::new(span, pieces, data);
    e.ifft(&mut data, 0, span, used, skew);
}

fn fft(e: &FieldEngine, span: usize, pieces: usize, data: &mut [Piece], used: usize, skew: usize) {
    let mut data = ShardsRefMut::new(span, pieces, data);
    e.fft(&mut data, 0, span, used, skew);
}
