//! Configuration keys have their documented effect: back-ends, lanes, segmentation, order, policy, rate, endpoints,
//! keys.

use std::{
    fs,
    time::{Duration, Instant},
};

use onwire::io::udp::{UdpOptions, UdpSocket};
use serde_json::json;

use crate::{
    appliance::Pair,
    capture::Capture,
    datagrams::{Sink, Stream, datagram, sender},
    streams,
    testbed::{MIRROR, ONWIRE, PRIMARY, Testbed},
};

#[test]
fn the_two_ends_may_have_different_back_ends() {
    let testbed = Testbed::perfect();
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let mut pairs = [("auto", "off"), ("off", "auto"), ("off", "off")].into_iter();
    let change = |offload| vec![("/tun/offload", json!(offload))];
    let (near, far) = pairs.next().unwrap();
    let mut pair = Pair::start_each(&testbed, &change(near), &change(far));
    let mut ends = (near, far);
    loop {
        let backend = |offload| if offload == "off" { "simple" } else { "fast" };
        assert_eq!(pair.ithaca.status().tun.backend, backend(ends.0));
        assert_eq!(pair.syracuse.status().tun.backend, backend(ends.1));
        for at in MIRROR {
            streams::copy(&primary, &mirror, at, 4, 500_000);
            Sink::listen(&mirror, at).expect_all(&primary, 32, 9000);
        }
        streams::copy(&mirror, &primary, PRIMARY[0], 1, 2_000_000);
        // A UDP super-packet, which a simple back-end neither produces nor accepts.
        let sink = Sink::listen(&mirror, MIRROR[0]);
        let any = "0.0.0.0:0".parse().unwrap();
        let mut socket = primary.run(|| UdpSocket::bind(any, UdpOptions::default()).unwrap()).unwrap();
        let train: Vec<u8> = (0..30).flat_map(|number| datagram(number, 1000)).collect();
        socket.send_train(sink.address, &train, 1000);
        assert!(sink.wait_for(30), "{ends:?}: {} of 30 arrived", sink.count());
        sink.arrived().assert_once();
        let Some(next) = pairs.next() else { break };
        ends = next;
        pair.reconfigure(&change(ends.0), &change(ends.1));
    }
}

#[test]
fn two_lanes_carry_flows_in_parallel() {
    let testbed = Testbed::perfect();
    let queues = [("/tun/queues", json!(2))];
    let pair = Pair::start(&testbed, &queues);
    let capture = Capture::begin(&testbed.node("ithaca"));
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    for at in MIRROR {
        streams::copy(&primary, &mirror, at, 20, 200_000);
        Sink::listen(&mirror, at).expect_all(&primary, 64, 1000);
    }
    let status = pair.syracuse.status();
    let ports: Vec<_> = status.lanes.iter().map(|lane| lane.listen.port()).collect();
    assert_eq!((status.tun.queues, ports), (2, vec![7117, 7118]));
    assert_eq!(status.peers[0].received.unrecoverable_blocks, 0);
    let datagrams = capture.end();
    for port in [7117, 7118] {
        let is_source = |bytes: &[u8]| bytes.first() == Some(&4);
        let used = datagrams.iter().filter(|it| it.to.port() == port && it.from.port() == port && is_source(&it.bytes));
        assert!(used.count() > 20, "flows are spread over both lanes");
    }
}

#[test]
fn segmentation_may_be_off_at_one_end() {
    let testbed = Testbed::perfect();
    let off = [("/peers/0/path", json!({ "udp_gso": "off" }))];
    let pair = Pair::start_each(&testbed, &off, &[]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let capture = Capture::begin(&testbed.node("ithaca"));
    streams::copy(&primary, &mirror, MIRROR[0], 2, 2_000_000);
    streams::copy(&mirror, &primary, PRIMARY[1], 2, 2_000_000);
    let gso = |appliance: &crate::appliance::Appliance<'_>| appliance.status().lanes[0].udp_gso.clone();
    assert!(gso(&pair.ithaca).starts_with("off"), "{}", gso(&pair.ithaca));
    assert_eq!(gso(&pair.syracuse), "active");
    let longest = |from: &str| {
        let datagrams = capture.so_far();
        let lengths = datagrams.iter().filter(|it| it.from.ip().to_string() == from).map(|it| it.bytes.len());
        lengths.max().unwrap_or(0)
    };
    assert!(longest("192.0.2.1") <= 1472, "one datagram a send: {}", longest("192.0.2.1"));
    assert!(longest("192.0.2.2") > 1472, "trains: {}", longest("192.0.2.2"));
}

#[test]
fn segmentation_stops_for_a_while_if_trains_do_not_arrive() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    assert_eq!(pair.ithaca.status().lanes[0].udp_gso, "active");
    // On a veth a train is one buffer: a packet longer than any datagram is a train.
    for rule in [
        "add table inet trains",
        "add chain inet trains inward { type filter hook prerouting priority 0 ; }",
        "add rule inet trains inward meta l4proto udp meta length > 1500 drop",
    ] {
        let words: Vec<&str> = ["nft"].into_iter().chain(rule.split(' ')).collect();
        let done = testbed.run("syracuse", &words);
        assert!(done.is_ok(), "{done:?}; nft missing? apt-get install nftables");
    }
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    // Single datagrams and trains are compared only while data is sent.
    let is_settled = || pair.ithaca.status().peers[0].trains == "alone (trains did not arrive)";
    let settled = (0..20).any(|_| {
        streams::copy(&primary, &mirror, MIRROR[0], 1, 500_000);
        is_settled()
    });
    assert!(settled, "{}", pair.ithaca.output());
    assert_eq!(pair.ithaca.status().lanes[0].udp_gso, "active", "the kernel does cut");
    pair.ithaca.wait_said("segmented trains do not arrive");
}

#[test]
fn a_temporary_loss_of_long_datagrams_does_not_turn_segmentation_off() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let nft = |rule: &str| {
        let words: Vec<&str> = ["nft"].into_iter().chain(rule.split(' ')).collect();
        let done = testbed.run("syracuse", &words);
        assert!(done.is_ok(), "{done:?}; nft missing? apt-get install nftables");
    };
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let sink = Sink::listen(&mirror, MIRROR[0]);
    let stream = Stream::begin(&primary, sink.address, 1400, Duration::from_millis(2));
    assert!(sink.wait_for(50));
    nft("add table inet long");
    nft("add chain inet long inward { type filter hook prerouting priority 0 ; }");
    nft("add rule inet long inward meta l4proto udp meta length > 1200 drop");
    pair.ithaca.wait("word about the path", |status| status.peers[0].trains.contains("lower path.mtu"));
    nft("delete table inet long");
    pair.ithaca.wait("end of it", |status| status.peers[0].trains == "in trains");
    pair.ithaca.wait_said("the path carries less than `path.mtu`");
    let said = pair.ithaca.wait_said("arrive at 192.0.2.2:7117 again");
    assert!(!said.contains("segmented trains do not arrive"), "{said}");
    stream.end();
}

#[test]
fn delivery_order_is_strict_or_not_as_configured() {
    for (ordering, waits) in [("strict", true), ("none", false)] {
        let testbed = Testbed::emulated("delay 2ms");
        let changes = [
            ("/delivery", json!({ "ordering": ordering, "hold": "3s" })),
            ("/redundancy/steady/repair", json!({ "fixed": 1 })),
        ];
        let pair = Pair::start(&testbed, &changes);
        let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
        let socket = sender(&testbed.node("primary"), sink.address);
        let send = |number| socket.send(&datagram(number, 100)).unwrap();
        send(0);
        assert!(sink.wait_for(1));
        // This one is lost with its repair symbols, so the next one follows a gap.
        testbed.wan().tell("cut forth").unwrap();
        send(1);
        std::thread::sleep(Duration::from_millis(100));
        testbed.wan().tell("open").unwrap();
        let start = Instant::now();
        send(2);
        assert!(sink.wait_for(2), "{ordering}: a hole does not hold for ever");
        let waited = start.elapsed() > Duration::from_secs(1);
        assert_eq!(waited, waits, "{ordering}: {:?}", start.elapsed());
        sink.arrived().assert_once();
        drop(pair);
    }
}

#[test]
fn the_first_rule_that_matches_chooses_the_profile() {
    let testbed = Testbed::perfect();
    let changes = [
        ("/redundancy/much", json!({ "block_symbols": 8, "repair": { "fixed": 8 } })),
        ("/redundancy/off", json!({ "repair": "none" })),
        (
            "/policy",
            json!([
                { "to": "10.2.0.0/24", "protocol": "udp", "redundancy": "off" },
                { "protocol": "tcp", "redundancy": "much" },
            ]),
        ),
    ];
    let pair = Pair::start_each(&testbed, &changes, &[]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let sent = || pair.ithaca.status().peers[0].sent;
    let share = |work: &dyn Fn()| {
        let before = sent();
        work();
        // The last block closes when the TUN has been idle; an immediate status could come before that.
        std::thread::sleep(Duration::from_millis(50));
        let after = sent();
        let (source, repair) =
            (after.source_symbols - before.source_symbols, after.repair_symbols - before.repair_symbols);
        assert!(source > 50, "{source} source symbols");
        repair as f64 / source as f64
    };
    let udp = |at: &str| Sink::listen(&mirror, at).expect_all(&primary, 200, 1000);
    type Row<'a> = (&'a str, &'a dyn Fn(), std::ops::Range<f64>);
    let rows: [Row<'_>; 3] = [
        ("UDP over IPv4: off", &|| udp(MIRROR[0]), 0.0..0.01),
        ("UDP over IPv6: the peer's own, steady", &|| udp(MIRROR[1]), 0.1..4.1),
        // Super-packets make blocks of more than eight symbols, which get at least eight repair symbols.
        ("TCP: much", &|| _ = streams::copy(&primary, &mirror, MIRROR[0], 1, 2_000_000), 0.16..8.1),
    ];
    for (what, work, allowed) in rows {
        let found = share(work);
        assert!(allowed.contains(&found), "{what}: {found} repair symbols for a source symbol, not in {allowed:?}");
    }
}

#[test]
fn the_rate_of_the_path_is_not_exceeded() {
    let testbed = Testbed::perfect();
    let pair = Pair::start_each(&testbed, &[("/peers/0/path", json!({ "rate": "20mbit" }))], &[]);
    let elapsed = streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 2, 2_000_000);
    // 32 Mbit of data, plus headers and repair symbols.
    assert!(elapsed > Duration::from_millis(1600), "{elapsed:?}");
    let bits = pair.ithaca.status().peers[0].sent.bytes as f64 * 8.0;
    let rate = bits / elapsed.as_secs_f64();
    assert!(rate < 22e6, "{rate} bit/s on a path of 20 Mbit/s");
    assert!(rate > 4e6, "{rate} bit/s: the path is not used");
}

#[test]
fn a_peer_without_endpoint_waits_for_the_other_side() {
    let testbed = Testbed::perfect();
    // Each lane has to learn the address of its counterpart.
    let changes = [("/tun/queues", json!(2)), ("/peers/0/endpoint", json!(null))];
    let mut pair = Pair::prepare_each(&testbed, &changes[..1], &changes);
    pair.syracuse.start();
    let status = pair.syracuse.wait("status", |_| true);
    assert_eq!((status.peers[0].state.as_str(), status.peers[0].endpoint), ("connecting", None));
    pair.ithaca.start();
    pair.wait_up();
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    streams::copy(&mirror, &primary, PRIMARY[0], 8, 200_000);
    streams::copy(&primary, &mirror, MIRROR[1], 8, 200_000);
    let endpoint = pair.syracuse.status().peers[0].endpoint.map(|address| address.to_string());
    assert_eq!(endpoint.as_deref(), Some("192.0.2.1:7117"));
}

#[test]
fn a_session_needs_the_same_preshared_key_on_both_sides() {
    let testbed = Testbed::perfect();
    let keys = ["one.psk", "other.psk"].map(|name| {
        let path = testbed.directory().join(name).to_str().unwrap().to_owned();
        testbed.command(&[ONWIRE, "keygen", &path]);
        path
    });
    let change = |key: &str| vec![("/peers/0/preshared_key_file", json!(key))];
    let mut pair = Pair::prepare_each(&testbed, &change(&keys[0]), &change(&keys[1]));
    pair.ithaca.start();
    pair.syracuse.start();
    pair.syracuse.wait("refused handshake", |status| status.drops.get("handshake").is_some_and(|count| *count > 0));
    std::thread::sleep(Duration::from_secs(1));
    for appliance in [&pair.ithaca, &pair.syracuse] {
        let status = appliance.status();
        assert_eq!(status.peers[0].state, "connecting", "two different keys: {status:?}");
    }
    pair.ithaca.terminate();
    pair.syracuse.terminate();
    // The same secret in both files.
    fs::copy(&keys[0], &keys[1]).unwrap();
    pair.run();
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 1, 1_000_000);
}
