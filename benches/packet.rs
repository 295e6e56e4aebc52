//! The cost of every packet before it is in a block: header view, prefixes, policy; compared with `etherparse`.
//!
//! `cargo bench --bench packet`. The rounds of the columns are interleaved and medians printed, so that the ratios hold
//! on a noisy machine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use etherparse::{IpSlice, PacketBuilder, SlicedPacket};
use onwire::tunnel::policy::{Policy, PortRange, ProfileId, Protocol, Rule};
use onwire::tunnel::prefixes::PrefixTable;
use onwire::wire::packet::PacketView;

const TURNS: u32 = 200_000;
const ROUNDS: usize = 15;

/// One way to parse a packet.
type Look<'a> = &'a dyn Fn(&[u8]) -> bool;

fn main() {
    let prefixes: PrefixTable<u8> = ["10.2.0.0/24", "fd00:2::/64", "10.3.0.0/16"]
        .iter()
        .map(|prefix| (prefix.parse().expect("valid"), 1))
        .collect();
    let rule = |to: &str, protocol, port: Option<u16>, profile| Rule {
        to: to.parse().expect("valid"),
        from: None,
        protocol: Some(protocol),
        port: port.and_then(|port| PortRange::new(port, port)),
        dscp: None,
        profile: ProfileId(profile),
    };
    let rules = [rule("10.2.0.10/32", Protocol::Tcp, Some(6379), 1), rule("10.2.0.0/24", Protocol::Udp, None, 2)];
    let policy = Policy::new(rules, ProfileId(0));
    let forwarded = |packet: &[u8]| {
        let view = PacketView::parse(packet).expect("a good packet");
        prefixes.lookup(view.destination).is_some() && policy.classify(&view) == ProfileId(0)
    };

    println!("ns per packet, median of {ROUNDS} interleaved rounds");
    println!("{:<6} {:>12} {:>12} {:>12} {:>22}", "", "ours", "IpSlice", "SlicedPacket", "ours, prefixes, policy");
    for (name, packet) in [("IPv4", ipv4()), ("IPv6", ipv6())] {
        let rows: [Look<'_>; 4] = [
            &|packet| PacketView::parse(packet).is_ok(),
            &|packet| IpSlice::from_slice(packet).is_ok(),
            &|packet| SlicedPacket::from_ip(packet).is_ok(),
            &forwarded,
        ];
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            for (row, times) in rows.iter().zip(&mut times) {
                times.push(time(row, &packet));
            }
        }
        let [ours, ip_slice, sliced, all] = times.map(|mut times| {
            times.sort();
            times[ROUNDS / 2].as_nanos() as f64 / f64::from(TURNS)
        });
        println!("{name:<6} {ours:>12.1} {ip_slice:>12.1} {sliced:>12.1} {all:>22.1}");
    }
}

fn time(work: Look<'_>, packet: &[u8]) -> Duration {
    let begin = Instant::now();
    for _ in 0..TURNS {
        assert!(work(black_box(packet)));
    }
    begin.elapsed()
}

fn ipv4() -> Vec<u8> {
    let builder = PacketBuilder::ipv4([10, 1, 0, 1], [10, 2, 0, 10], 64).tcp(40_000, 5432, 1, 64_000);
    written(|out| builder.write(out, &[7; 1448]).is_ok())
}

fn ipv6() -> Vec<u8> {
    let address = |site| {
        let mut address = [0; 16];
        address[..4].copy_from_slice(&[0xfd, 0, 0, site]);
        address[15] = 1;
        address
    };
    let builder = PacketBuilder::ipv6(address(1), address(2), 64).tcp(40_000, 5432, 1, 64_000);
    written(|out| builder.write(out, &[7; 1428]).is_ok())
}

fn written(write: impl FnOnce(&mut Vec<u8>) -> bool) -> Vec<u8> {
    let mut packet = Vec::new();
    assert!(write(&mut packet), "a vector takes every packet");
    packet
}
