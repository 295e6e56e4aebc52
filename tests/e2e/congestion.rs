//! Congestion is told and not hidden: ECN and DSCP of the outer header, and the queue in front of a rate.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use onwire::io::udp::{Target, UdpOptions, UdpSocket};
use serde_json::json;

use crate::{
    appliance::Pair,
    capture::{Capture, Seen},
    streams,
    testbed::{MIRROR, Testbed},
};

/// Marks every datagram of the tunnel that may be marked, as a router with a full queue does.
fn mark_all(testbed: &Testbed) {
    for rule in [
        "add table inet marks",
        "add chain inet marks inward { type filter hook prerouting priority 0 ; }",
        "add rule inet marks inward udp dport 7117 ip ecn != not-ect ip ecn set ce",
    ] {
        let words: Vec<&str> = ["nft"].into_iter().chain(rule.split(' ')).collect();
        let done = testbed.run("syracuse", &words);
        assert!(done.is_ok(), "{done:?}; nft missing? apt-get install nftables");
    }
}

/// TCP in both end hosts uses ECN, or not, and slows down by the rules of the standard. (A namespace may choose reno, whatever the host uses.)
fn set_tcp(testbed: &Testbed, ecn: bool) {
    for node in ["primary", "mirror"] {
        let ecn = format!("net.ipv4.tcp_ecn={}", u8::from(ecn));
        testbed.run(node, &["sysctl", "-w", &ecn, "net.ipv4.tcp_congestion_control=reno"]).unwrap();
    }
}

/// A counter of `/proc/net/netstat` in a node.
fn counted(testbed: &Testbed, node: &str, name: &str) -> u64 {
    let text = testbed.run(node, &["cat", "/proc/net/netstat"]).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let pairs = lines.chunks(2).flat_map(|pair| pair[0].split_whitespace().zip(pair[1].split_whitespace()));
    let found = pairs.into_iter().find(|(key, _)| *key == name);
    found.unwrap_or_else(|| panic!("this kernel does not count {name}")).1.parse().unwrap()
}

/// Sends a datagram of each of these classes from the primary to the mirror, one after the other, 20 times. Returns the
/// classes that they came with, by the class that they were sent with; the content names it.
fn send_classes(testbed: &Testbed, at: &str, classes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let bind = |node: &str, at: &str| {
        let at = SocketAddr::new(at.parse().unwrap(), 0);
        let options = UdpOptions { classes: true, ..UdpOptions::default() };
        testbed.node(node).run(|| UdpSocket::bind(at, options).unwrap()).unwrap()
    };
    let any = if at.contains(':') { "::" } else { "0.0.0.0" };
    let (mut sender, mut receiver) = (bind("primary", any), bind("mirror", at));
    // Until the neighbours are known, datagrams wait, and leave together.
    testbed.run("primary", &["ping", "-n", "-c", "1", "-W", "5", at]).unwrap();
    let mut came: Vec<(u8, Vec<u8>)> = classes.iter().map(|&class| (class, vec![])).collect();
    let mut buffer = vec![0; 65_536];
    let (total, mut sent, mut received) = (20 * classes.len(), 0, 0);
    let deadline = Instant::now() + Duration::from_secs(10);
    while received < total && Instant::now() < deadline {
        if sent < total {
            let class = classes[sent % classes.len()];
            let target = Target { class, ..receiver.local_addr().into() };
            assert_eq!(sender.send(target, &[class; 200], 0, None).sent, 200);
            sent += 1;
        }
        // Each in a block of its own.
        std::thread::sleep(Duration::from_millis(3));
        while let Some(train) = receiver.recv_train(&mut buffer).unwrap() {
            for datagram in buffer[..train.len].chunks(train.segment) {
                came.iter_mut().find(|(class, _)| *class == datagram[0]).unwrap().1.push(train.class);
                received += 1;
            }
        }
    }
    came
}

#[test]
fn marks_of_the_path_reach_the_packets_that_understand_them_and_nothing_is_dropped() {
    let testbed = Testbed::perfect();
    set_tcp(&testbed, true);
    let pair = Pair::start(&testbed, &[]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    streams::copy(&primary, &mirror, MIRROR[0], 2, 500_000);
    assert_eq!(counted(&testbed, "mirror", "InCEPkts"), 0, "nobody marks yet");
    mark_all(&testbed);
    for at in MIRROR {
        let came = send_classes(&testbed, at, &[0x00, 0x01, 0x02, 0x03, 0xb8, 0xba]);
        for (sent, came) in came {
            let expected = if sent & 3 == 0 { sent } else { sent | 3 };
            assert_eq!(came, vec![expected; 20], "sent with {sent:#04x} to {at}");
        }
        streams::copy(&primary, &mirror, at, 2, 1_000_000);
    }
    let (marked, heard) = (counted(&testbed, "mirror", "InCEPkts"), counted(&testbed, "primary", "TCPDeliveredCE"));
    assert!(marked > 50 && heard > 50, "{marked} packets came marked, TCP heard of {heard}");
    let received = pair.syracuse.status().peers[0].received;
    assert!(received.path_marked.is_some_and(|marked| marked > 100), "{received:?}");
    assert_eq!((received.rebuilt_marked, received.unrecoverable_blocks, received.lost), (Some(0), 0, 0));
}

#[test]
fn without_ecn_no_datagram_may_be_marked() {
    let testbed = Testbed::perfect();
    set_tcp(&testbed, true);
    let _pair = Pair::start(&testbed, &[("/peers/0/path", json!({ "ecn": "off" }))]);
    mark_all(&testbed);
    let capture = Capture::begin(&testbed.node("ithaca"));
    for (sent, came) in send_classes(&testbed, MIRROR[0], &[0, 1, 2, 3]) {
        assert_eq!(came, vec![sent; 20], "the tunnel changes nothing");
    }
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 2, 500_000);
    let seen = capture.end();
    assert!(seen.iter().filter(|it| is_tunnel(it)).all(|it| it.class == 0));
}

fn is_tunnel(seen: &Seen) -> bool {
    seen.from.ip().to_string().starts_with("192.0.2.")
}

#[test]
fn the_dscp_of_datagrams_is_the_configured_one_or_that_of_their_packets() {
    for (dscp, expected) in [(json!("copy"), [0x00, 0x28, 0xb8]), (json!("af41"), [0x88; 3]), (json!(0), [0; 3])] {
        let testbed = Testbed::perfect();
        let _pair = Pair::start(&testbed, &[("/peers/0/path", json!({ "dscp": dscp }))]);
        let capture = Capture::begin(&testbed.node("ithaca"));
        let classes = [0x00, 0x28, 0xb8];
        for (sent, came) in send_classes(&testbed, MIRROR[0], &classes) {
            assert_eq!(came, vec![sent; 20], "the inner one is not changed");
        }
        // Source and repair symbols.
        let seen = capture.end();
        let is_symbol = |it: &&Seen| is_tunnel(it) && matches!(it.bytes.first(), Some(4 | 5));
        let symbols: Vec<&Seen> = seen.iter().filter(is_symbol).collect();
        for class in expected {
            let count = symbols.iter().filter(|it| it.class == class).count();
            assert!(count >= 20, "{dscp}: {count} datagrams of class {class:#04x}");
        }
        assert!(symbols.iter().all(|it| expected.contains(&it.class)), "{dscp}");
    }
}

#[test]
fn a_queue_in_front_of_a_rate_tells_tcp_to_slow_down() {
    for ecn in [true, false] {
        let testbed = Testbed::perfect();
        set_tcp(&testbed, ecn);
        let pair = Pair::start_each(&testbed, &[("/peers/0/path", json!({ "rate": "20mbit", "queue": "500ms" }))], &[]);
        let elapsed = streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 4, 1_500_000);
        let sent = pair.ithaca.status().peers[0].sent;
        let heard = counted(&testbed, "primary", "TCPDeliveredCE");
        if ecn {
            assert!(sent.standing_marked > 2 && heard > 2, "{heard} heard of {sent:?}");
            assert!(sent.standing_dropped * 4 <= sent.standing_marked, "only what is no data: {sent:?}");
        } else {
            assert!(sent.standing_dropped > 2 && sent.standing_marked == 0 && heard == 0, "{sent:?}");
            assert_eq!(pair.ithaca.drops("path_queue_stands"), sent.standing_dropped);
        }
        assert!(sent.repair_shed > 0, "{sent:?}");
        assert_eq!(sent.queue_dropped, 0, "the queue does not come near its bound: {sent:?}");
        let rate = sent.bytes as f64 * 8.0 / elapsed.as_secs_f64();
        assert!((8e6..22e6).contains(&rate), "{rate} bit/s on a path of 20 Mbit/s");
    }
}
