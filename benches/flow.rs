//! The flow table by itself: `cargo bench --bench flow [-- --json FILE]`.
//!
//! Ten thousand TCP flows send in random order; each block holds 64 of their packets, is protected when it closes and
//! decoded 100 blocks later. Then the same with one flow, as a bulk transfer has it. Each number is the median of its
//! rounds, in nanoseconds for one packet. The last line says whether a packet of an existing flow among 10,000 takes less
//! than 100 ns; in between lie the caches of the machine, for every packet is of another flow. Packets are prepared and
//! parsed before, as the forwarder does; only the table is measured.

use std::hint::black_box;
use std::process::ExitCode;
use std::time::Instant;

use onwire::flow::{BlockId, Event, FlowTable, Level, Limits};
use onwire::wire::packet::PacketView;
use onwire::wire::virtio::VirtioHeader;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;

const FLOWS: usize = 10_000;
const PAYLOAD: usize = 1400;
const BLOCK_PACKETS: usize = 64;
const BLOCKS: usize = 400;
const DECODED_AFTER: u64 = 100;
const ROUNDS: usize = 25;
const SENT_MAX: f64 = 100.0;

fn main() -> ExitCode {
    let mut json_file = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Cargo says this to every benchmark.
            "--bench" => {}
            "--json" if json_file.is_none() => match args.next() {
                Some(file) => json_file = Some(file),
                None => return usage("--json needs the name of a file"),
            },
            other => return usage(&format!("unknown argument {other:?}")),
        }
    }
    println!("ns for one packet");
    println!("{:>7} {:>9} {:>9} {:>9} {:>9} {:>9}", "flows", "on_sent", "protect", "events", "decode", "ack");
    let many = measure(FLOWS);
    let one = measure(1);
    let pass = many[0] < SENT_MAX;
    let verdict = if pass { "pass" } else { "fail" };
    println!("{verdict}: on_sent among {FLOWS} flows takes {:.0} ns (less than {SENT_MAX})", many[0]);
    if let Some(file) = json_file {
        let names = ["on_sent", "protect", "events", "decode", "ack"];
        let row =
            |times: [f64; 5]| names.into_iter().zip(times).map(|(name, ns)| (name.to_owned(), json!(ns))).collect();
        let (many, one): (serde_json::Map<_, _>, serde_json::Map<_, _>) = (row(many), row(one));
        let report = json!({
            "scenario": "flow",
            "pass": pass,
            "metrics": { "flows": FLOWS, "ns_per_packet_many_flows": many, "ns_per_packet_one_flow": one },
        });
        if let Err(error) = std::fs::write(&file, format!("{report:#}\n")) {
            eprintln!("cannot write {file}: {error}");
            return ExitCode::FAILURE;
        }
    }
    if pass { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("{problem}\nusage: cargo bench --bench flow [-- --json FILE]");
    ExitCode::from(2)
}

/// A packet from our side and its answer, in warm memory as if they had just been read.
struct Exchange {
    packet: Vec<u8>,
    answer: Vec<u8>,
    views: [PacketView; 2],
}

impl Exchange {
    /// Of flow number `flow`, which sends its bytes from `sequence` on.
    fn new(flow: usize, flags: u8, sequence: u32) -> Self {
        let mut packet = vec![0; 40 + PAYLOAD];
        packet[0] = 0x45;
        let len = (packet.len() as u16).to_be_bytes();
        packet[2..4].copy_from_slice(&len);
        packet[9] = 6;
        packet[12..20].copy_from_slice(&[10, 1, 0, 1, 10, 2, 0, 1]);
        packet[20..22].copy_from_slice(&(1024 + flow as u16).to_be_bytes());
        packet[22..24].copy_from_slice(&5432u16.to_be_bytes());
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        packet[32] = 5 << 4;
        packet[33] = flags;
        let mut answer = packet[..40].to_vec();
        answer[2..4].copy_from_slice(&40u16.to_be_bytes());
        answer[12..20].rotate_left(4);
        answer[20..24].rotate_left(2);
        answer[28..32].copy_from_slice(&sequence.wrapping_add(PAYLOAD as u32).to_be_bytes());
        let views = [&packet, &answer].map(|bytes| PacketView::parse(bytes).expect("built as a packet"));
        Self { packet, answer, views }
    }
}

/// Nanoseconds a packet: sent, block protected, events told, block decoded, acknowledged.
fn measure(flows: usize) -> [f64; 5] {
    let mut random = SmallRng::seed_from_u64(1);
    let mut table = FlowTable::new(Limits::default(), random.random());
    let now = Instant::now();
    let mut sequences = vec![1 + PAYLOAD as u32; flows];
    for flow in 0..flows {
        let syn = Exchange::new(flow, 0x02, 0);
        table.on_sent(&syn.packet, &syn.views[0], VirtioHeader::default(), BlockId { profile: 0, sbn: 0 }, now);
    }
    while table.poll_event().is_some() {}

    let packets = (BLOCKS * BLOCK_PACKETS) as f64;
    let mut rounds: [Vec<f64>; 5] = Default::default();
    let mut sbn = 1;
    for _ in 0..ROUNDS {
        let mut spent = [0.0; 5];
        for _ in 0..BLOCKS {
            let block = BlockId { profile: 0, sbn };
            let exchanges: Vec<Exchange> = (0..BLOCK_PACKETS)
                .map(|_| {
                    let flow = random.random_range(0..flows);
                    let next = sequences[flow].wrapping_add(PAYLOAD as u32);
                    Exchange::new(flow, 0x10, std::mem::replace(&mut sequences[flow], next))
                })
                .collect();
            let mut lap = Instant::now();
            let mut next = |spent: &mut f64| {
                let end = Instant::now();
                *spent += (end - lap).as_nanos() as f64;
                lap = end;
            };
            for Exchange { packet, views, .. } in &exchanges {
                black_box(table.on_sent(packet, &views[0], VirtioHeader::default(), block, now));
            }
            next(&mut spent[0]);
            table.on_block_protected(block, Level::OnWire);
            next(&mut spent[1]);
            drain(&mut table);
            next(&mut spent[2]);
            table.on_blocks_decoded(0, (sbn + 1).saturating_sub(DECODED_AFTER));
            next(&mut spent[3]);
            drain(&mut table);
            next(&mut spent[2]);
            for Exchange { answer, views, .. } in &exchanges {
                table.on_received(answer, &views[1], now);
            }
            next(&mut spent[4]);
            drain(&mut table);
            sbn += 1;
        }
        for (round, spent) in rounds.iter_mut().zip(spent) {
            round.push(spent / packets);
        }
    }
    let median = rounds.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    let [sent, protect, events, decode, ack] = median;
    println!("{flows:>7} {sent:>9.1} {protect:>9.1} {events:>9.1} {decode:>9.1} {ack:>9.1}");
    median
}

fn drain(table: &mut FlowTable) {
    while let Some(event) = table.poll_event() {
        if let Event::Overflow = event {
            panic!("drained after every block");
        }
    }
}
