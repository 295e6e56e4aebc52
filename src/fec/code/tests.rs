//! Tests of the code: lost symbols are rebuilt in either way, and blocks with too few symbols are refused.

use proptest::prelude::*;
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};

use super::*;
use crate::fec::layout::MAX_ENCODING_SYMBOLS;

/// A block of random bytes, with a gap after each symbol that the code must not touch.
struct Sample {
    layout: SymbolLayout,
    source: Vec<u8>,
    m: usize,
    repair: Vec<u8>,
}

impl Sample {
    fn new(code: &mut Code, k: usize, m: usize, size: usize, seed: u64) -> Self {
        let layout = SymbolLayout { symbols: k, stride: size + 64, size };
        let mut source = vec![0; k * layout.stride];
        SmallRng::seed_from_u64(seed).fill_bytes(&mut source);
        let mut repair = vec![1; 7];
        assert_eq!(code.encode(layout, &source, m, &mut repair), m);
        Self { layout, source, m, repair }
    }

    fn repair(&self, index: usize) -> (u16, &[u8]) {
        let size = self.layout.size;
        (index as u16, &self.repair[index * size..][..size])
    }

    /// The repair symbols by the crate's own encoder.
    fn reference_repair(&self) -> Vec<u8> {
        let SymbolLayout { symbols, size, .. } = self.layout;
        let mut encoder = ReedSolomonEncoder::new(symbols, self.m, size).unwrap();
        for i in 0..symbols {
            encoder.add_original_shard(&self.source[self.layout.range(i)]).unwrap();
        }
        encoder.encode().unwrap().recovery_iter().flatten().copied().collect()
    }

    /// Rebuilds from the given symbols and compares with the lost data.
    #[track_caller]
    fn check(&self, code: &mut Code, present: &[bool], repair: &[usize]) {
        let repair: Vec<_> = repair.iter().map(|&j| self.repair(j)).collect();
        let lost = present.iter().filter(|p| !**p).count();
        let mut source = self.source.clone();
        for (i, _) in present.iter().enumerate().filter(|(_, p)| !**p) {
            source[self.layout.range(i)].fill(0xee);
        }
        let damaged = source.clone();
        let result = code.decode(self.layout, &mut source, present, self.m, &repair);
        if repair.len() >= lost {
            assert_eq!(result, Ok(lost));
            assert!(source == self.source, "{present:?} {:?}", self.layout);
        } else {
            let usable = repair.len();
            assert_eq!(result, Err(TooFewSymbols { lost, usable }));
            assert!(source == damaged, "a failed decoding changed the block");
        }
    }

    fn reference_decode(&self, present: &[bool], repair: &[usize]) -> Vec<(usize, Vec<u8>)> {
        let SymbolLayout { symbols, size, .. } = self.layout;
        let mut decoder = ReedSolomonDecoder::new(symbols, self.m, size).unwrap();
        for i in (0..symbols).filter(|&i| present[i]) {
            decoder.add_original_shard(i, &self.source[self.layout.range(i)]).unwrap();
        }
        for &j in repair {
            decoder.add_recovery_shard(j, self.repair(j).1).unwrap();
        }
        let result = decoder.decode().unwrap();
        result.restored_original_iter().map(|(i, symbol)| (i, symbol.to_vec())).collect()
    }
}

fn bits(pattern: u32, count: usize) -> Vec<bool> {
    (0..count).map(|i| pattern >> i & 1 == 1).collect()
}

#[test]
fn repair_symbols_are_those_of_the_crate() {
    let mut code = Code::new();
    for k in (1..40).chain([63, 64, 65, 100, 256, 300]) {
        for m in (1..12).chain([16, 17, 33, 64, 100]) {
            let sample = Sample::new(&mut code, k, m, 64, (k * 1000 + m) as u64);
            assert!(sample.repair == sample.reference_repair(), "({k}, {m})");
        }
    }
    let sample = Sample::new(&mut code, 50, 7, 1408, 1);
    assert!(sample.repair == sample.reference_repair());
}

#[test]
fn every_pattern_of_losses_in_small_blocks_is_rebuilt_both_ways() {
    let mut code = Code::new();
    for (k, m) in (1..=6).flat_map(|k| (1..=4).map(move |m| (k, m))) {
        let sample = Sample::new(&mut code, k, m, 64, 9);
        for pattern in 0..1 << (k + m) {
            let present = bits(pattern, k);
            let repair: Vec<_> = (0..m).filter(|j| pattern >> (k + j) & 1 == 1).collect();
            for decoding in [Decoding::Syndrome, Decoding::Transform] {
                code.force_decoding(Some(decoding));
                sample.check(&mut code, &present, &repair);
            }
            let lost = present.iter().filter(|p| !**p).count();
            // The crate's decoder is slow: one pattern in seven is enough, as all were compared with the data.
            if pattern % 7 == 0 && lost > 0 && repair.len() >= lost {
                for (i, symbol) in sample.reference_decode(&present, &repair) {
                    assert!(symbol == sample.source[sample.layout.range(i)]);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]
    #[test]
    fn random_losses_in_large_blocks_are_rebuilt_both_ways(
        k in 1_usize..400,
        m in 1_usize..150,
        size in 1_usize..5,
        share in 0.0_f64..=1.0,
        seed: u64,
    ) {
        let mut code = Code::new();
        let mut rng = SmallRng::seed_from_u64(seed);
        let sample = Sample::new(&mut code, k, m, size * 64, seed);
        let lost = ((k.min(m) as f64 * share) as usize).max(1);
        let mut present = vec![true; k];
        for i in rand::seq::index::sample(&mut rng, k, lost) {
            present[i] = false;
        }
        let offered = rng.random_range(lost..=m);
        let repair = rand::seq::index::sample(&mut rng, m, offered).into_vec();
        for decoding in [Some(Decoding::Syndrome), Some(Decoding::Transform), None] {
            code.force_decoding(decoding);
            sample.check(&mut code, &present, &repair);
        }
        sample.check(&mut code, &present, &repair[..lost - 1]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn no_arguments_make_the_code_panic(
        symbols in 0_usize..20,
        stride in prop_oneof![0_usize..300, Just(64), Just(128), Just(usize::MAX)],
        size in prop_oneof![0_usize..300, Just(64), Just(128), Just(usize::MAX)],
        bytes in 0_usize..3000,
        present in proptest::collection::vec(any::<bool>(), 0..25),
        m in prop_oneof![0_usize..10, Just(20_000), Just(usize::MAX)],
        offered in proptest::collection::vec((0_u16..12, prop_oneof![Just(64_usize), Just(128), 0_usize..300]), 0..12),
    ) {
        let mut code = Code::new();
        let layout = SymbolLayout { symbols, stride, size };
        let mut source = vec![0x5a; bytes];
        let symbol = [1; 300];
        let offered: Vec<_> = offered.into_iter().map(|(j, len)| (j, &symbol[..len])).collect();
        let mut repair = Vec::new();
        let written = code.encode(layout, &source, m, &mut repair);
        prop_assert_eq!(repair.len(), if written == 0 { 0 } else { m * size });
        let lost = (0..symbols).filter(|&i| !present.get(i).is_some_and(|&p| p)).count();
        match code.decode(layout, &mut source, &present, m, &offered) {
            Ok(rebuilt) => prop_assert_eq!(rebuilt, lost),
            Err(TooFewSymbols { lost: reported, usable }) => prop_assert!(reported == lost && usable < lost),
        }
    }
}

#[test]
fn one_code_serves_blocks_of_all_shapes_in_turn() {
    let mut code = Code::new();
    for round in 0..3 {
        for (k, m, size) in [(64, 8, 1408), (1, 3, 64), (5, 60, 256), (300, 20, 128), (8, 1, 640)] {
            let sample = Sample::new(&mut code, k, m, size, round);
            let mut present = vec![true; k];
            present[k / 2] = false;
            for decoding in [Decoding::Syndrome, Decoding::Transform] {
                code.force_decoding(Some(decoding));
                sample.check(&mut code, &present, &[m - 1]);
            }
        }
    }
}

#[test]
fn scratch_memory_grows_to_the_largest_block_and_no_further() {
    let mut code = Code::new();
    code.force_decoding(Some(Decoding::Syndrome));
    let shapes = [(64, 8), (7, 3), (1, 8), (33, 5), (6, 8), (60, 7)];
    let mut memory = Vec::new();
    for _ in 0..3 {
        for (k, m) in shapes {
            let sample = Sample::new(&mut code, k, m, 1408, 1);
            let mut present = vec![true; k];
            present[..k.min(m)].fill(false);
            sample.check(&mut code, &present, &(0..m).collect::<Vec<_>>());
        }
        memory.push((
            code.transform.scratch_bytes(),
            code.product.capacity(),
            code.lost.capacity(),
            code.repair_indices.capacity(),
            code.seen.capacity(),
        ));
    }
    assert_eq!(memory[0], memory[2]);
    // Two spans of eight, or one span and eight repair symbols after it.
    assert_eq!(memory[0].0, 16 * 1408);
}

#[test]
fn unusable_repair_symbols_are_skipped() {
    let mut code = Code::new();
    let sample = Sample::new(&mut code, 10, 3, 128, 4);
    let (_, good) = sample.repair(1);
    let mut present = [true; 10];
    present[2] = false;
    let mut source = sample.source.clone();
    source[sample.layout.range(2)].fill(0);
    let offered = [(3, good), (u16::MAX, good), (0, &good[..64]), (2, &[][..])];
    assert_eq!(
        code.decode(sample.layout, &mut source, &present, 3, &offered),
        Err(TooFewSymbols { lost: 1, usable: 0 })
    );
    let offered = [(3, good), (1, good), (1, good)];
    assert_eq!(code.decode(sample.layout, &mut source, &present, 3, &offered), Ok(1));
    assert!(source == sample.source);
    present[5] = false;
    assert_eq!(
        code.decode(sample.layout, &mut source, &present, 3, &offered),
        Err(TooFewSymbols { lost: 2, usable: 1 })
    );
}

#[test]
fn layouts_that_do_not_fit_are_refused() {
    let mut code = Code::new();
    let good = SymbolLayout { symbols: 4, stride: 128, size: 128 };
    let mut source = vec![7; 4 * 128];
    let bad = [
        SymbolLayout { symbols: 5, ..good },
        SymbolLayout { stride: 64, ..good },
        SymbolLayout { stride: 129, ..good },
        SymbolLayout { stride: usize::MAX, ..good },
        SymbolLayout { size: 0, ..good },
        SymbolLayout { size: 100, ..good },
        SymbolLayout { symbols: MAX_ENCODING_SYMBOLS, stride: 0, size: 64 },
    ];
    let mut repair = vec![1];
    let symbol = [0; 128];
    for layout in bad {
        assert_eq!(code.encode(layout, &source, 2, &mut repair), 0);
        assert!(repair.is_empty());
        let present = vec![false; layout.symbols];
        let offered = [(0, &symbol[..layout.size]), (1, &symbol[..layout.size])];
        assert!(code.decode(layout, &mut source, &present, 2, &offered).is_err());
    }
    assert_eq!(code.encode(good, &source, MAX_ENCODING_SYMBOLS, &mut repair), 0);
    assert_eq!(code.encode(good, &source, usize::MAX, &mut repair), 0);
    assert_eq!(code.decode(good, &mut source, &[true, true], 2, &[]), Err(TooFewSymbols { lost: 2, usable: 0 }));
}

#[test]
fn empty_blocks_and_blocks_without_repair_symbols_are_handled() {
    let mut code = Code::new();
    let layout = SymbolLayout { symbols: 0, stride: 64, size: 64 };
    let mut repair = vec![1];
    assert_eq!(code.encode(layout, &[], 4, &mut repair), 0);
    assert!(repair.is_empty());
    assert_eq!(code.decode(layout, &mut [], &[], 4, &[]), Ok(0));
    let layout = SymbolLayout { symbols: 2, ..layout };
    assert_eq!(code.encode(layout, &[0; 128], 0, &mut repair), 0);
    assert_eq!(code.decode(layout, &mut [0; 128], &[true; 2], 0, &[]), Ok(0));
    assert_eq!(
        code.decode(layout, &mut [0; 128], &[true, false], 0, &[(0, &[0; 64])]),
        Err(TooFewSymbols { lost: 1, usable: 0 })
    );
}

#[test]
fn few_losses_use_syndromes_and_many_in_a_large_block_use_the_transform() {
    let choice = |k, m, lost| {
        let layout = SymbolLayout { symbols: k, stride: 1408, size: 1408 };
        Cost::new(layout, m, lost).cheaper(lost)
    };
    for (k, m) in [(1, 1), (8, 2), (20, 4), (64, 8), (256, 32)] {
        for lost in 1..=m.min(k) {
            assert_eq!(choice(k, m, lost), Decoding::Syndrome, "({k}, {m}) {lost}");
        }
    }
    assert_eq!(choice(4000, 1000, 10), Decoding::Syndrome);
    assert_eq!(choice(4000, 1000, 1000), Decoding::Transform);
}

#[test]
fn few_symbols_of_many_that_are_claimed_rebuild_the_block() {
    let mut code = Code::new();
    for (k, m) in [(1, 8192), (3, 5000), (16, 8192), (64, 8192), (5, 31)] {
        let sample = Sample::new(&mut code, k, m, 128, 9);
        // The last one, and others far apart.
        let repair: Vec<usize> = (0..k).map(|at| m - 1 - at * 97 % m).collect();
        for decoding in [Decoding::Syndrome, Decoding::Transform] {
            code.force_decoding(Some(decoding));
            sample.check(&mut code, &vec![false; k], &repair);
        }
        code.force_decoding(None);
        sample.check(&mut code, &vec![false; k], &repair);
    }
}

#[test]
fn a_claim_of_many_repair_symbols_does_not_allocate_scratch() {
    let layout = SymbolLayout { symbols: 1, stride: 65_472, size: 65_472 };
    let (mut code, mut source) = (Code::new(), vec![0; layout.size]);
    let symbol = vec![7; layout.size];
    let refused = code.decode(layout, &mut source, &[false], 8192, &[(8191, &symbol)]);
    assert_eq!((refused, code.transform.scratch_bytes()), (Err(TooFewSymbols { lost: 1, usable: 0 }), 0));
    // What is computed depends on the symbols that came, not on those that are claimed.
    assert_eq!(code.decode(layout, &mut source, &[false], 1000, &[(999, &symbol)]), Ok(1));
    assert_eq!(code.transform.scratch_bytes(), 2 * layout.size);
    // Scratch memory for a large block is freed afterwards.
    let layout = SymbolLayout { symbols: 400, ..layout };
    let (mut source, mut present) = (vec![0; 400 * layout.size], vec![true; 400]);
    present[7] = false;
    code.force_decoding(Some(Decoding::Syndrome));
    assert_eq!(code.decode(layout, &mut source, &present, 500, &[(499, &symbol)]), Ok(1));
    assert_eq!(code.transform.scratch_bytes(), 0);
    // Our largest block is decoded.
    assert!(scratch(SymbolLayout { symbols: 4096, stride: 9088, size: 9088 }, 4096) <= SCRATCH_MAX);
}
