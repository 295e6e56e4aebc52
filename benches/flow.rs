//! The flow table by itself: `cargo bench --bench flow [-- --json FILE]`.
//!
//! Ten thousand TCP flows send in random order. Each block holds 64 of their packets, is protected when it closes and
//! decoded 100 blocks later. Then the same with one flow, as in a bulk transfer. Each number is the median over the
//! blocks, in nanoseconds per packet: a block is shorter than a time slice, so other processes on the machine disturb a
//! few blocks but not the median. With 10,000 flows nearly every packet belongs to another flow than the one before, so
//! the time goes into cache misses, whose cost depends on the machine. Therefore the column `map` shows the time of a
//! plain `HashMap` from 5-tuple to byte count for the same packets in the same run, and the last line compares on_sent
//! with it. Packets are prepared and parsed before, as in the forwarder; only the table is measured.

use std::collections::HashMap;
use std::hint::black_box;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use onwire::flow::{BlockId, Event, FlowKey, FlowTable, InstanceCounter, Level, Limits};
use onwire::wire::packet::PacketView;
use onwire::wire::virtio::VirtioHeader;
use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;

const FLOWS: usize = 10_000;
const PAYLOAD: usize = 1400;
const BLOCK_PACKETS: usize = 64;
const BLOCKS: usize = 10_000;
const DECODED_AFTER: u64 = 100;
/// The virtio header of nearly every TCP packet: the checksum is left to the device.
const PARTIAL: VirtioHeader = VirtioHeader {
    flags: VirtioHeader::NEEDS_CSUM,
    gso_type: 0,
    hdr_len: 0,
    gso_size: 0,
    csum_start: 20,
    csum_offset: 16,
};
/// The highest allowed ratio of on_sent to the map.
const SENT_MAX: f64 = 2.0;

fn main() -> ExitCode {
    let mut json_file = None;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--json" if json_file.is_none() => match args.next() {
                Some(file) => json_file = Some(file),
                None => return usage("--json needs the name of a file"),
            },
            other => return usage(&format!("unknown argument {other:?}")),
        }
    }
    println!("ns for one packet");
    print!("{:>7}", "flows");
    for step in STEPS {
        print!(" {step:>9}");
    }
    println!();
    let many = measure(FLOWS);
    let one = measure(1);
    let ratio = many[1] / many[0];
    let pass = ratio < SENT_MAX;
    let verdict = if pass { "pass" } else { "fail" };
    println!("{verdict}: on_sent among {FLOWS} flows takes {ratio:.2} times what the map takes (less than {SENT_MAX})");
    if let Some(file) = json_file {
        let row =
            |times: [f64; 6]| STEPS.into_iter().zip(times).map(|(name, ns)| (name.to_owned(), json!(ns))).collect();
        let (many, one): (serde_json::Map<_, _>, serde_json::Map<_, _>) = (row(many), row(one));
        let report = json!({
            "scenario": "flow",
            "pass": pass,
            "metrics": { "flows": FLOWS, "sent_over_map": ratio, "ns_per_packet_many_flows": many, "ns_per_packet_one_flow": one },
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
    /// A packet of flow number `flow`, with its bytes from `sequence` on, and the answer to it.
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
        packet[34..36].copy_from_slice(&[0xff; 2]);
        let mut answer = packet[..40].to_vec();
        answer[2..4].copy_from_slice(&40u16.to_be_bytes());
        answer[12..20].rotate_left(4);
        answer[20..24].rotate_left(2);
        answer[28..32].copy_from_slice(&sequence.wrapping_add(PAYLOAD as u32).to_be_bytes());
        let views = [&packet, &answer].map(|bytes| PacketView::parse(bytes).expect("built as a packet"));
        Self { packet, answer, views }
    }
}

/// The measured steps, in the order of the columns.
const STEPS: [&str; 6] = ["map", "on_sent", "protect", "events", "decode", "ack"];

/// Nanoseconds per packet, by [`STEPS`].
fn measure(flows: usize) -> [f64; 6] {
    let mut random = SmallRng::seed_from_u64(1);
    let mut table = FlowTable::new(Limits::default(), random.random(), InstanceCounter::default());
    let mut map: HashMap<FlowKey, u64> = HashMap::new();
    let now = Instant::now();
    let mut sequences = vec![1 + PAYLOAD as u32; flows];
    for flow in 0..flows {
        let syn = Exchange::new(flow, 0x02, 0);
        table.on_sent(&syn.packet, &syn.views[0], PARTIAL, BlockId { profile: 0, sbn: 0 }, now);
        map.extend(FlowKey::sent(&syn.views[0]).map(|key| (key, 0)));
    }
    while table.poll_event().is_some() {}

    let mut times: [Vec<f64>; 6] = std::array::from_fn(|_| Vec::with_capacity(BLOCKS));
    for sbn in 1..=BLOCKS as u64 {
        let block = BlockId { profile: 0, sbn };
        let exchanges: Vec<Exchange> = (0..BLOCK_PACKETS)
            .map(|_| {
                let flow = random.random_range(0..flows);
                let next = sequences[flow].wrapping_add(PAYLOAD as u32);
                Exchange::new(flow, 0x10, std::mem::replace(&mut sequences[flow], next))
            })
            .collect();
        let mut spent = [0.0; 6];
        let mut lap = Instant::now();
        let mut next = |spent: &mut f64| {
            let end = Instant::now();
            *spent += (end - lap).as_nanos() as f64;
            lap = end;
        };
        // The second of the two steps finds the packets in the cache, so they take turns.
        for step in if sbn % 2 == 0 { [0, 1] } else { [1, 0] } {
            match step {
                0 => add_up(&mut map, &exchanges),
                _ => send(&mut table, &exchanges, block, now),
            }
            next(&mut spent[step]);
        }
        table.on_block_protected(block, Level::OnWire, Duration::ZERO);
        next(&mut spent[2]);
        drain(&mut table);
        next(&mut spent[3]);
        table.on_blocks_decoded(0, (sbn + 1).saturating_sub(DECODED_AFTER));
        next(&mut spent[4]);
        drain(&mut table);
        next(&mut spent[3]);
        for Exchange { answer, views, .. } in &exchanges {
            table.on_received(answer, &views[1], PARTIAL, now);
        }
        next(&mut spent[5]);
        drain(&mut table);
        for (times, spent) in times.iter_mut().zip(spent) {
            times.push(spent / BLOCK_PACKETS as f64);
        }
    }
    let median = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    print!("{flows:>7}");
    for ns in median {
        print!(" {ns:>9.1}");
    }
    println!();
    median
}

#[inline(never)]
fn add_up(map: &mut HashMap<FlowKey, u64>, exchanges: &[Exchange]) {
    for Exchange { views, .. } in exchanges {
        if let Some(sum) = FlowKey::sent(&views[0]).and_then(|key| map.get_mut(&key)) {
            *sum += PAYLOAD as u64;
        }
    }
}

#[inline(never)]
fn send(table: &mut FlowTable, exchanges: &[Exchange], block: BlockId, now: Instant) {
    for Exchange { packet, views, .. } in exchanges {
        black_box(table.on_sent(packet, &views[0], PARTIAL, block, now));
    }
}

fn drain(table: &mut FlowTable) {
    while let Some(event) = table.poll_event() {
        if let Event::Overflow = event {
            panic!("drained after every block");
        }
    }
}
