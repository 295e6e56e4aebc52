//! The flow table by itself: `cargo bench --bench flow [-- --json FILE]`.
//!
//! Ten thousand TCP flows send in random order; each block holds 64 of their packets, is protected when it closes and
//! decoded 100 blocks later. Then the same with one flow, as a bulk transfer has it. Each number is the median of its
//! rounds, in nanoseconds for one packet. The last line says whether a packet of an existing flow among 10,000 takes less
//! than 100 ns. Packets are prepared and parsed before; only the table is measured.

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

/// A packet of flow number `flow`, from our side, and its answer.
fn packets(flow: usize) -> [Vec<u8>; 2] {
    let mut packet = vec![0; 40 + PAYLOAD];
    packet[0] = 0x45;
    let len = (packet.len() as u16).to_be_bytes();
    packet[2..4].copy_from_slice(&len);
    packet[9] = 6;
    packet[12..16].copy_from_slice(&[10, 1, 0, (flow >> 14) as u8]);
    packet[16..20].copy_from_slice(&[10, 2, 0, 1]);
    packet[20..22].copy_from_slice(&(1024 + (flow & 0x3fff) as u16).to_be_bytes());
    packet[22..24].copy_from_slice(&5432u16.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = 0x10;
    let mut answer = packet[..40].to_vec();
    answer[2..4].copy_from_slice(&40u16.to_be_bytes());
    answer[12..20].rotate_left(4);
    answer[20..24].rotate_left(2);
    [packet, answer]
}

struct Peer {
    packets: [Vec<u8>; 2],
    views: [PacketView; 2],
    next: u32,
}

/// Nanoseconds a packet: sent, block protected, events told, block decoded, acknowledged.
fn measure(flows: usize) -> [f64; 5] {
    let mut random = SmallRng::seed_from_u64(1);
    let mut table = FlowTable::new(Limits::default(), random.random());
    let now = Instant::now();
    let mut peers: Vec<Peer> = (0..flows)
        .map(|flow| {
            let mut packets = packets(flow);
            packets[0][33] = 0x02;
            let views = packets.each_ref().map(|packet| PacketView::parse(packet).expect("built as a packet"));
            table.on_sent(&packets[0][..], &views[0], VirtioHeader::default(), BlockId { profile: 0, sbn: 0 }, now);
            packets[0][33] = 0x10;
            Peer { packets, views, next: 1 + PAYLOAD as u32 }
        })
        .collect();
    while table.poll_event().is_some() {}

    let packets = (BLOCKS * BLOCK_PACKETS) as f64;
    let mut rounds: [Vec<f64>; 5] = Default::default();
    let mut sbn = 1;
    for _ in 0..ROUNDS {
        let mut spent = [0.0; 5];
        for _ in 0..BLOCKS {
            let block = BlockId { profile: 0, sbn };
            let order: [usize; BLOCK_PACKETS] = std::array::from_fn(|_| random.random_range(0..flows));
            for &flow in &order {
                let peer = &mut peers[flow];
                peer.packets[0][24..28].copy_from_slice(&peer.next.to_be_bytes());
                peer.next = peer.next.wrapping_add(PAYLOAD as u32);
                peer.packets[1][28..32].copy_from_slice(&peer.next.to_be_bytes());
            }
            let mut lap = Instant::now();
            let mut next = |spent: &mut f64| {
                let end = Instant::now();
                *spent += (end - lap).as_nanos() as f64;
                lap = end;
            };
            for &flow in &order {
                let Peer { packets, views, .. } = &peers[flow];
                black_box(table.on_sent(&packets[0], &views[0], VirtioHeader::default(), block, now));
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
            for &flow in &order {
                let Peer { packets, views, .. } = &peers[flow];
                table.on_received(&packets[1], &views[1], now);
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
