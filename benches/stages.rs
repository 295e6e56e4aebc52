//! The floor under the data path: what each stage costs by itself for a full datagram, on one core.
//!
//! `cargo bench --bench stages [-- --json FILE]`. Copying, both ciphers, the code and one system call, each in nanoseconds for
//! a symbol of 1408 bytes and in GB/s. The rounds of all stages are interleaved and medians count, so that the ratios hold on a
//! noisy machine. What a pair needs beyond the sum of its stages is `onwire-lab throughput`'s table less this one.

use std::hint::black_box;
use std::time::Instant;

use onwire::fec::code::Code;
use onwire::fec::layout::SymbolLayout;
use onwire::tunnel::seal::{Cipher, OpeningKey, SealingKey};
use serde_json::json;

const SYMBOL: usize = 1408;
/// What is sealed with a symbol: its payload id.
const ID: usize = 16;
const SEALED: usize = SYMBOL + ID;
const TAG: usize = 16;
const HEADER: [u8; 12] = [7; 12];
/// A super-packet of 64 KB, and the repair symbols that `{ fixed: 4 }` gives it.
const SYMBOLS: usize = 47;
const REPAIR: usize = 6;
const ROUNDS: usize = 41;

/// A stage: its name, and the time it takes for one block, in nanoseconds for each source symbol.
type Stage<'a> = (&'static str, Box<dyn FnMut() -> f64 + 'a>);

fn main() {
    let mut json_file = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--json" => match args.next() {
                Some(file) => json_file = Some(file),
                None => usage("--json needs the name of a file"),
            },
            other => usage(&format!("unknown argument {other:?}")),
        }
    }
    let mut stages: Vec<Stage<'_>> = vec![
        ("copy", Box::new(copying())),
        ("seal, AES-256-GCM", Box::new(sealing(Cipher::Aes256Gcm))),
        ("open, AES-256-GCM", Box::new(opening(Cipher::Aes256Gcm))),
        ("seal, ChaCha20-Poly1305", Box::new(sealing(Cipher::ChaCha20Poly1305))),
        ("open, ChaCha20-Poly1305", Box::new(opening(Cipher::ChaCha20Poly1305))),
        ("6 repair symbols for 47", Box::new(encoding())),
        ("a system call that does nothing", Box::new(calling())),
    ];
    let mut times = vec![Vec::new(); stages.len()];
    for _ in 0..ROUNDS {
        for ((_, stage), times) in stages.iter_mut().zip(&mut times) {
            times.push(stage());
        }
    }
    println!("{:<34} {:>12} {:>8}", "for each symbol of 1408 bytes", "ns", "GB/s");
    let mut rows = Vec::new();
    for ((name, _), mut times) in stages.iter().zip(times) {
        times.sort_by(f64::total_cmp);
        let ns = times[ROUNDS / 2];
        let speed = if name.starts_with("a system") { String::new() } else { format!("{:.1}", SYMBOL as f64 / ns) };
        println!("{name:<34} {ns:>12.0} {speed:>8}");
        rows.push(json!({ "stage": name, "ns": ns }));
    }
    if let Some(file) = json_file {
        let report = json!({ "scenario": "stages", "metrics": { "symbol_bytes": SYMBOL, "stages": rows } });
        if let Err(error) = std::fs::write(&file, format!("{report:#}\n")) {
            eprintln!("cannot write {file}: {error}");
            std::process::exit(1);
        }
    }
}

fn usage(problem: &str) -> ! {
    eprintln!("{problem}\nusage: cargo bench --bench stages [-- --json FILE]");
    std::process::exit(2);
}

/// Nanoseconds of `run` for each of so many.
fn time(count: usize, mut run: impl FnMut()) -> f64 {
    let start = Instant::now();
    run();
    start.elapsed().as_nanos() as f64 / count as f64
}

fn copying() -> impl FnMut() -> f64 {
    let (source, mut target) = (vec![1u8; SYMBOLS * SYMBOL], vec![0u8; SYMBOLS * SYMBOL]);
    move || {
        time(SYMBOLS, || {
            for (to, from) in target.chunks_exact_mut(SYMBOL).zip(source.chunks_exact(SYMBOL)) {
                to.copy_from_slice(black_box(from));
            }
            black_box(&mut target);
        })
    }
}

fn sealing(cipher: Cipher) -> impl FnMut() -> f64 {
    let key = SealingKey::new(cipher, &[7; 32]);
    let (mut block, mut counter) = (vec![1u8; SYMBOLS * SEALED], 0u64);
    move || {
        time(SYMBOLS, || {
            for body in block.chunks_exact_mut(SEALED) {
                counter += 1;
                black_box(key.seal(counter, &HEADER, body));
            }
        })
    }
}

fn opening(cipher: Cipher) -> impl FnMut() -> f64 {
    let (sealing, opening) = (SealingKey::new(cipher, &[7; 32]), OpeningKey::new(cipher, &[7; 32]));
    let mut sealed = vec![1u8; SYMBOLS * (SEALED + TAG)];
    for (counter, datagram) in (0..).zip(sealed.chunks_exact_mut(SEALED + TAG)) {
        let (body, tag) = datagram.split_at_mut(SEALED);
        tag.copy_from_slice(&sealing.seal(counter, &HEADER, body));
    }
    let mut block = sealed.clone();
    move || {
        block.copy_from_slice(&sealed);
        time(SYMBOLS, || {
            for (counter, datagram) in (0..).zip(block.chunks_exact_mut(SEALED + TAG)) {
                assert!(opening.open(counter, &HEADER, datagram).is_some(), "a datagram as it was sealed");
            }
        })
    }
}

fn encoding() -> impl FnMut() -> f64 {
    let layout = SymbolLayout { symbols: SYMBOLS, stride: SYMBOL, size: SYMBOL };
    let (source, mut repair, mut code) = (vec![5u8; SYMBOLS * SYMBOL], Vec::new(), Code::new());
    move || {
        time(SYMBOLS, || {
            assert_eq!(code.encode(layout, black_box(&source), REPAIR, &mut repair), REPAIR);
            black_box(&repair);
        })
    }
}

fn calling() -> impl FnMut() -> f64 {
    || {
        time(1000, || {
            for _ in 0..1000 {
                black_box(rustix::process::getppid());
            }
        })
    }
}
