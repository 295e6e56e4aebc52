//! Packets that the kernel hands over with an unfinished checksum: tunnels between the sites, and any protocol whose
//! checksum can be offloaded to a device. VXLAN is real. The kernel may not support the others, so the test writes
//! their packets into a TUN at the primary, which forwards them as if a device had requested the checksum.

use std::{
    io::ErrorKind,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use etherparse::{IpNumber, Ipv4Header, Ipv6FlowLabel, Ipv6Header};
use onwire::{
    io::tun::{Tun, TunOptions},
    wire::{
        checksum,
        packet::PacketView,
        segment::{complete_checksum, segment_count, segment_range},
        virtio::VirtioHeader,
    },
};
use serde_json::json;

use crate::{
    appliance::Pair,
    datagrams::Sink,
    streams,
    testbed::{MIRROR, PRIMARY, Testbed},
};

#[test]
fn tcp_and_udp_inside_vxlan_pass_between_the_sites() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    // Between hosts behind the appliances, and between the appliances' own hosts; over IPv4 and IPv6.
    let rows = [
        (["primary", "mirror"], [PRIMARY[0], MIRROR[0]], "noudpcsum"),
        (["primary", "mirror"], [PRIMARY[0], MIRROR[0]], "udpcsum"),
        (["primary", "mirror"], [PRIMARY[1], MIRROR[1]], "udp6zerocsumrx"),
        (["ithaca", "syracuse"], ["10.1.0.254", "10.2.0.254"], "udpcsum"),
    ];
    for (number, (nodes, outer, option)) in rows.into_iter().enumerate() {
        let (device, id) = (format!("vx{number}"), (number + 7).to_string());
        let inner = |side: usize| [format!("172.16.{number}.{}", side + 1), format!("fd10:{number}::{}", side + 1)];
        for (side, node) in nodes.into_iter().enumerate() {
            let ends = ["local", outer[side], "remote", outer[1 - side], "dstport", "4789", option];
            let run = |words: &[&str]| testbed.run(node, words).unwrap();
            run(&[&["ip", "link", "add", &device, "type", "vxlan", "id", &id][..], &ends].concat());
            run(&["ip", "link", "set", &device, "mtu", "1400", "up"]);
            let [v4, v6] = inner(side);
            run(&["ip", "addr", "add", &format!("{v4}/24"), "dev", &device]);
            run(&["ip", "addr", "add", &format!("{v6}/64"), "dev", &device, "nodad"]);
        }
        let [from, to] = nodes.map(|node| testbed.node(node));
        for at in inner(1) {
            let said = testbed.ping(nodes[0], &at);
            assert!(said.contains(" 1 received"), "row {number}: {said}");
            streams::copy(&from, &to, &at, 2, 300_000);
            Sink::listen(&to, &at).expect_all(&from, 64, 1200);
            Sink::listen(&to, &at).expect_all(&from, 8, 9000);
        }
        streams::copy(&to, &from, &inner(0)[0], 1, 300_000);
    }
    assert_eq!((pair.ithaca.drops("malformed_packet"), pair.syracuse.drops("malformed_packet")), (0, 0));
}

/// Opens a TUN in the node, sets it up, and enables forwarding.
fn open(testbed: &Testbed, node: &str) -> Tun {
    let tun = testbed.node(node).run(|| Tun::open("raw0", TunOptions::default()).unwrap().remove(0)).unwrap();
    testbed.run(node, &["ip", "link", "set", "raw0", "up"]).unwrap();
    for setting in ["net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1"] {
        testbed.run(node, &["sysctl", "-w", setting]).unwrap();
    }
    tun
}

const SOURCE: [&str; 2] = ["10.1.0.77", "fd00:1::77"];
const DESTINATION: [&str; 2] = ["10.2.0.200", "fd00:2::200"];

fn addresses(family: usize) -> (IpAddr, IpAddr) {
    (SOURCE[family].parse().unwrap(), DESTINATION[family].parse().unwrap())
}

/// An IP packet with this body; `family` is 0 for IPv4 and 1 for IPv6.
fn ip(family: usize, protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match addresses(family) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let length = body.len() as u16;
            let header = Ipv4Header::new(length, 60, IpNumber(protocol), from.octets(), to.octets()).unwrap();
            header.write(&mut packet).unwrap();
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: body.len() as u16,
            next_header: IpNumber(protocol),
            hop_limit: 60,
            source: from.octets(),
            destination: to.octets(),
        }
        .write(&mut packet)
        .unwrap(),
        _ => unreachable!("both are of one family"),
    }
    packet.extend_from_slice(body);
    packet
}

/// The next packet from the test's source; none if none comes within a second.
fn next(tun: &Tun) -> Option<(VirtioHeader, Vec<u8>)> {
    let (mut header, mut packet) = ([0; VirtioHeader::LEN], vec![0; 66_000]);
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        match tun.read(&mut header, &mut packet) {
            Ok(length) => {
                let is_ours = |view: &PacketView| SOURCE.contains(&view.source.to_string().as_str());
                if PacketView::parse(&packet[..length]).is_ok_and(|view| is_ours(&view)) {
                    return Some((VirtioHeader::from_native(header), packet[..length].to_vec()));
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
    None
}

/// The counters of the kernels and appliances on the way, to explain a missing packet.
fn traces(testbed: &Testbed, pair: &Pair<'_>) -> String {
    let counted =
        |node: &str| testbed.run(node, &["sh", "-c", "cat /proc/net/snmp6 | grep -v '[[:space:]]0$' | grep ^Ip6"]);
    let nodes = ["primary", "ithaca", "syracuse", "mirror"].map(|node| format!("{node} {:?}", counted(node)));
    format!("{:?}\n{:?}\n{nodes:#?}", pair.ithaca.status().drops, pair.syracuse.status().drops)
}

fn routed(testbed: &Testbed) -> (Tun, Tun) {
    let tuns = (open(testbed, "primary"), open(testbed, "mirror"));
    for (family, at) in DESTINATION.into_iter().enumerate() {
        testbed.run("syracuse", &["ip", "route", "add", at, "via", MIRROR[family]]).unwrap();
        testbed.run("mirror", &["ip", "route", "add", at, "dev", "raw0"]).unwrap();
    }
    // The first packets wait for neighbour discovery and duplicate address detection.
    for at in MIRROR {
        let found = (0..10).any(|_| testbed.ping("primary", at).contains(" 1 received"));
        assert!(found, "no ping to {at}");
    }
    tuns
}

/// Name, protocol number, offset of its header in the body, offset of the checksum in that header, and whether the
/// checksum includes a pseudo-header.
type Row = (&'static str, u8, usize, u16, bool);

#[test]
fn an_offloaded_checksum_is_completed_at_any_offset() {
    let rows: [Row; 12] = [
        ("TCP", 6, 0, 16, true),
        ("UDP", 17, 0, 6, true),
        ("UDP-Lite", 136, 0, 6, true),
        ("DCCP", 33, 0, 6, true),
        ("ICMPv6", 58, 0, 2, true),
        ("GRE with a checksum", 47, 0, 4, false),
        ("TCP inside GRE", 47, 4 + 20, 16, false),
        ("UDP inside IPIP", 4, 20, 6, false),
        ("UDP inside SIT or ip6tnl", 41, 40, 6, false),
        ("TCP inside GENEVE", 17, 8 + 8 + 14 + 20, 16, false),
        ("UDP inside UDP inside UDP", 17, 8 + 20 + 8 + 20, 6, false),
        ("ESP over TCP", 50, 16, 16, false),
    ];
    for offload in ["auto", "off"] {
        let testbed = Testbed::perfect();
        let pair = Pair::start(&testbed, &[("/tun/offload", json!(offload))]);
        let (primary, mirror) = routed(&testbed);
        for (family, (name, protocol, start, offset, has_pseudo)) in
            (0..2).flat_map(|family| rows.into_iter().map(move |row| (family, row)))
        {
            let ip_header = [20, 40][family];
            let mut body: Vec<u8> = (0..120u8).map(|at| at.wrapping_mul(31) ^ protocol).collect();
            if protocol == 6 {
                body[12] = 0x50;
            }
            if protocol == 17 {
                body[4..6].copy_from_slice(&120u16.to_be_bytes());
            }
            let field = start + usize::from(offset)..start + usize::from(offset) + 2;
            let (from, to) = addresses(family);
            let pseudo = checksum::pseudo_header_sum(from, to, protocol, body.len());
            let open = if has_pseudo { pseudo } else { 0x1234 };
            body[field.clone()].copy_from_slice(&open.to_be_bytes());
            let sum = !checksum::sum(&body[start..]);
            let header = VirtioHeader {
                flags: VirtioHeader::NEEDS_CSUM,
                csum_start: (ip_header + start) as u16,
                csum_offset: offset,
                ..VirtioHeader::default()
            };
            primary.write(&header.to_native(), &ip(family, protocol, &body)).unwrap();
            body[field].copy_from_slice(&sum.to_be_bytes());
            let (left, mut packet) = next(&mirror).unwrap_or_else(|| {
                panic!("{name} over family {family}, offload {offload}: did not come\n{}", traces(&testbed, &pair))
            });
            complete_checksum(left, &mut packet);
            assert_eq!(packet[ip_header..], body, "{name} over family {family}, offload {offload}");
        }
        assert_eq!(pair.ithaca.drops("malformed_packet"), 0);
    }
}

#[test]
fn the_tunnel_forwards_packets_with_unknown_or_broken_headers() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let (primary, mirror) = routed(&testbed);
    let options = [60, 0, 1, 4, 0, 0, 0, 0];
    let bodies: [(&str, u8, Vec<u8>); 4] = [
        ("twenty headers", 60, [&options.repeat(19)[..], &[59, 0, 1, 4, 0, 0, 0, 0, 7, 7]].concat()),
        ("a header that is cut short", 60, vec![17, 9, 1, 4]),
        ("two fragment headers", 44, [[44, 0, 0, 1, 0, 0, 0, 7], [17, 0, 0, 9, 0, 0, 0, 7]].concat()),
        ("an authentication header of no length", 51, vec![17, 0, 0, 0, 0, 0, 0, 0, 1]),
    ];
    for (name, protocol, body) in bodies {
        primary.write(&VirtioHeader::default().to_native(), &ip(1, protocol, &body)).unwrap();
        let (_, packet) = next(&mirror).unwrap_or_else(|| panic!("{name}: {}", traces(&testbed, &pair)));
        assert_eq!(packet[40..], body, "{name}");
    }
    // Interactive TCP, coalesced by a network card: segments of one byte.
    let mut body = [&[0; 12][..], &[0x50, 0x18], &[0; 6], &[9; 50]].concat();
    let (from, to) = addresses(0);
    let open = checksum::pseudo_header_sum(from, to, 6, body.len());
    body[16..18].copy_from_slice(&open.to_be_bytes());
    let header = VirtioHeader {
        flags: VirtioHeader::NEEDS_CSUM,
        gso_type: VirtioHeader::GSO_TCPV4,
        hdr_len: 40,
        gso_size: 1,
        csum_start: 20,
        csum_offset: 16,
    };
    primary.write(&header.to_native(), &ip(0, 6, &body)).unwrap();
    let mut bytes = 0;
    while bytes < 50 {
        let (header, packet) = next(&mirror).unwrap_or_else(|| panic!("{bytes} of 50: {}", traces(&testbed, &pair)));
        for index in 0..segment_count(header, &packet) {
            let mut segment = Vec::new();
            let left = segment_range(header, &packet, index..index + 1, &mut segment);
            complete_checksum(left, &mut segment);
            let sums = checksum::add(
                checksum::pseudo_header_sum(from, to, 6, segment.len() - 20),
                checksum::sum(&segment[20..]),
            );
            assert_eq!(sums, 0xffff, "segment {index}");
            bytes += segment.len() - 40;
        }
    }
    assert_eq!((bytes, pair.ithaca.drops("malformed_packet")), (50, 0));
}
