//! The erasure code compared with the crate it is built on: `cargo bench --bench codec [-- --json FILE]`.
//!
//! For each block shape: encoding speed, and the time to rebuild 1, 2 and m lost symbols, with our code and with the
//! crate's encoder and decoder (reused between blocks, as ours is). A second table forces our two ways of decoding on
//! the same losses, to show whether the cost model picks the cheaper one. The last line reports whether (64, 8) with
//! one loss takes at most a tenth of the crate's time. The measurements of a shape are interleaved, round by round, and
//! each number is the median of its rounds; everything runs on one core from warm memory.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use onwire::fec::code::{Code, Decoding};
use onwire::fec::layout::SymbolLayout;
use rand::{RngCore, SeedableRng, rngs::SmallRng};
use reed_solomon_simd::{ReedSolomonDecoder, ReedSolomonEncoder};
use serde_json::{Value, json};

const SYMBOL: usize = 1408;
const SHAPES: [(usize, usize); 5] = [(20, 4), (32, 4), (64, 8), (256, 32), (1000, 100)];
/// Losses below and above the number at which both ways of decoding cost the same.
const CROSSINGS: [(usize, usize, &[usize]); 4] = [
    (64, 32, &[8, 16, 24, 32]),
    (256, 64, &[16, 32, 48, 64]),
    (1000, 200, &[32, 64, 96, 128, 200]),
    (4000, 1000, &[64, 192, 256, 512]),
];
const SHAPE_TIME: Duration = Duration::from_millis(2500);
const CROSSING_TIME: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    let mut json_file = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--json" => match args.next() {
                Some(file) => json_file = Some(file),
                None => return usage("--json needs the name of a file"),
            },
            other => return usage(&format!("unknown argument {other:?}")),
        }
    }

    println!("symbols of {SYMBOL} bytes; decode times in µs: ours / crate = ratio");
    println!("{:>11} {:>10} {:>10}  {:>26} {:>26} {:>26}", "(k, m)", "encode", "crate", "1 lost", "2 lost", "m lost");
    let mut shapes = Vec::new();
    let mut single_loss_ratio = f64::NAN;
    for (k, m) in SHAPES {
        let (row, ratio) = shape(k, m);
        if (k, m) == (64, 8) {
            single_loss_ratio = ratio;
        }
        shapes.push(row);
    }

    println!("\nthe two ways of decoding, µs");
    println!("{:>12} {:>6} {:>10} {:>10} {:>10}", "(k, m)", "lost", "syndrome", "transform", "chosen");
    let crossings: Vec<_> =
        CROSSINGS.iter().flat_map(|&(k, m, losses)| losses.iter().map(move |&lost| crossing(k, m, lost))).collect();

    let pass = single_loss_ratio <= 0.1;
    println!(
        "\n{}: (64, 8) with one loss takes {single_loss_ratio:.3} of the crate's time (at most 0.1)",
        if pass { "pass" } else { "fail" }
    );
    if let Some(file) = json_file {
        let report = json!({
            "scenario": "codec",
            "pass": pass,
            "metrics": {
                "symbol_bytes": SYMBOL,
                "single_loss_ratio_64_8": single_loss_ratio,
                "shapes": shapes,
                "crossings": crossings,
            },
        });
        if let Err(error) = std::fs::write(&file, format!("{report:#}\n")) {
            eprintln!("cannot write {file}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("{problem}\nusage: cargo bench --bench codec [-- --json FILE]");
    ExitCode::from(2)
}

/// A block of random bytes and its repair symbols.
struct Block {
    layout: SymbolLayout,
    source: Vec<u8>,
    m: usize,
    repair: Vec<u8>,
}

impl Block {
    fn new(code: &mut Code, k: usize, m: usize) -> Self {
        let layout = SymbolLayout { symbols: k, stride: SYMBOL, size: SYMBOL };
        let mut source = vec![0; k * SYMBOL];
        SmallRng::seed_from_u64(7).fill_bytes(&mut source);
        let mut repair = Vec::new();
        assert_eq!(code.encode(layout, &source, m, &mut repair), m);
        Self { layout, source, m, repair }
    }

    /// Losses spread evenly over the block.
    fn present(&self, lost: usize) -> Vec<bool> {
        let mut present = vec![true; self.layout.symbols];
        for i in 0..lost {
            present[i * self.layout.symbols / lost] = false;
        }
        present
    }

    fn received(&self) -> Vec<(u16, &[u8])> {
        (0..).zip(self.repair.chunks_exact(SYMBOL)).collect()
    }
}

/// Runs all measurements in turn until the time is up; returns the median of each in µs.
fn take_turns<const N: usize>(time: Duration, mut measure: impl FnMut(usize) -> Duration) -> [f64; N] {
    let mut rounds: [Vec<Duration>; N] = std::array::from_fn(|_| Vec::new());
    let start = Instant::now();
    while start.elapsed() < time || rounds[0].len() < 5 {
        for (which, durations) in rounds.iter_mut().enumerate() {
            durations.push(measure(which));
        }
    }
    rounds.map(|mut durations| {
        durations.sort_unstable();
        durations[durations.len() / 2].as_secs_f64() * 1e6
    })
}

fn shape(k: usize, m: usize) -> (Value, f64) {
    let mut code = Code::new();
    let block = Block::new(&mut code, k, m);
    let losses = [1, 2, m];
    let presents = losses.map(|lost| block.present(lost));
    let received = block.received();
    let mut repair = Vec::new();
    let mut damaged = block.source.clone();
    let mut encoder = ReedSolomonEncoder::new(k, m, SYMBOL).expect("a shape the crate supports");
    let mut decoder = ReedSolomonDecoder::new(k, m, SYMBOL).expect("a shape the crate supports");

    let times: [f64; 8] = take_turns(SHAPE_TIME, |which| match which {
        0 => per_call(k, || {
            black_box(code.encode(block.layout, &block.source, m, &mut repair));
        }),
        1 => per_call(k, || {
            for symbol in block.source.chunks_exact(SYMBOL) {
                encoder.add_original_shard(symbol).expect("k symbols");
            }
            repair.clear();
            for symbol in encoder.encode().expect("complete").recovery_iter() {
                repair.extend_from_slice(symbol);
            }
        }),
        2..=4 => per_call(k, || {
            let present = &presents[which - 2];
            let rebuilt = code.decode(block.layout, &mut damaged, present, m, &received);
            assert_eq!(rebuilt, Ok(losses[which - 2]));
        }),
        _ => per_call(k, || {
            crate_decode(&mut decoder, &block, &presents[which - 5], losses[which - 5], &mut damaged);
        }),
    });
    assert!(damaged == block.source, "something was rebuilt wrongly");

    let gigabytes = |micros: f64| (k * SYMBOL) as f64 / micros / 1e3;
    let [encode, crate_encode, ours @ .., c1, c2, cm] = times;
    let theirs = [c1, c2, cm];
    print!("{:>11} {:>5.2} GB/s {:>5.2} GB/s ", format!("({k}, {m})"), gigabytes(encode), gigabytes(crate_encode));
    let mut decode = Vec::new();
    for ((lost, ours), theirs) in losses.into_iter().zip(ours).zip(theirs) {
        let ratio = ours / theirs;
        print!(" {:>26}", format!("{ours:.1} / {theirs:.0} = {ratio:.3}"));
        decode.push(json!({ "lost": lost, "micros": ours, "crate_micros": theirs, "ratio": ratio }));
    }
    println!();
    let row = json!({
        "k": k,
        "m": m,
        "encode_gb_per_s": gigabytes(encode),
        "crate_encode_gb_per_s": gigabytes(crate_encode),
        "decode": decode,
    });
    (row, ours[0] / c1)
}

fn crossing(k: usize, m: usize, lost: usize) -> Value {
    let mut code = Code::new();
    let block = Block::new(&mut code, k, m);
    let present = block.present(lost);
    let received = block.received();
    let mut damaged = block.source.clone();
    let ways = [Some(Decoding::Syndrome), Some(Decoding::Transform), None];
    let [syndrome, transform, chosen] = take_turns(CROSSING_TIME, |which| {
        code.force_decoding(ways[which]);
        per_call(k, || {
            let rebuilt = code.decode(block.layout, &mut damaged, &present, m, &received);
            assert_eq!(rebuilt, Ok(lost));
        })
    });
    assert!(damaged == block.source, "something was rebuilt wrongly");
    println!("{:>12} {lost:>6} {syndrome:>10.1} {transform:>10.1} {chosen:>10.1}", format!("({k}, {m})"));
    json!({ "k": k, "m": m, "lost": lost, "syndrome_micros": syndrome, "transform_micros": transform, "chosen_micros": chosen })
}

fn crate_decode(decoder: &mut ReedSolomonDecoder, block: &Block, present: &[bool], lost: usize, damaged: &mut [u8]) {
    let symbols = block.source.chunks_exact(SYMBOL).enumerate();
    for (i, symbol) in symbols.filter(|&(i, _)| present[i]) {
        decoder.add_original_shard(i, symbol).expect("in range");
    }
    for (j, symbol) in block.repair.chunks_exact(SYMBOL).take(lost).enumerate() {
        decoder.add_recovery_shard(j, symbol).expect("in range");
    }
    debug_assert_eq!(block.m, block.repair.len() / SYMBOL);
    let rebuilt = decoder.decode().expect("enough symbols");
    for (i, symbol) in rebuilt.restored_original_iter() {
        damaged[block.layout.range(i)].copy_from_slice(symbol);
    }
}

/// The time of one call, from enough calls to make the cost of reading the clock small.
fn per_call(k: usize, mut call: impl FnMut()) -> Duration {
    let calls = (400 / k).max(1) as u32;
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed() / calls
}
