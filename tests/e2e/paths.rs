//! The traffic that passes: IPv4 and IPv6 inside and outside, small and large MTUs, one flow and many, TCP and UDP.

use onwire::io::udp::{UdpOptions, UdpSocket};
use serde_json::json;

use crate::{
    appliance::{Changes, Pair, outer_ipv6},
    datagrams::{Sink, datagram},
    streams,
    testbed::{MIRROR, PRIMARY, Testbed},
};

/// TCP in both directions and UDP of several sizes, with IPv4 and IPv6 inside.
fn carries_everything(testbed: &Testbed) {
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    for at in MIRROR {
        streams::copy(&primary, &mirror, at, 1, 4_000_000);
        let sink = Sink::listen(&mirror, at);
        for length in [8, 100, 1200, 1452, 9000] {
            sink.expect_all(&primary, 64, length);
        }
    }
    for at in PRIMARY {
        streams::copy(&mirror, &primary, at, 1, 1_000_000);
        Sink::listen(&primary, at).expect_all(&mirror, 64, 700);
    }
}

/// The path is clean, so nothing may be lost, refused or dropped.
fn assert_clean(pair: &Pair<'_>) {
    for appliance in [&pair.ithaca, &pair.syracuse] {
        let status = appliance.status();
        let peer = &status.peers[0];
        assert_eq!((peer.received.unrecoverable_blocks, status.lanes[0].too_big), (0, 0), "{status:?}");
        for reason in ["malformed_adu", "tun_refused", "bad_tag", "bad_payload", "send_failed", "contradictory_symbol"]
        {
            assert_eq!(status.drops.get(reason), None, "{status:?}");
        }
        assert!(peer.sent.repair_symbols > 0 && peer.received.adus > 0, "{status:?}");
    }
}

fn carries(testbed: &Testbed, ithaca: Changes<'_>, syracuse: Changes<'_>) {
    let pair = Pair::start_each(testbed, ithaca, syracuse);
    carries_everything(testbed);
    assert_clean(&pair);
}

#[test]
fn ipv4_and_ipv6_pass_over_ipv4() {
    let testbed = Testbed::perfect();
    carries(&testbed, &[], &[]);
}

#[test]
fn ipv4_and_ipv6_pass_over_ipv6() {
    let testbed = Testbed::perfect();
    let [ithaca, syracuse] = outer_ipv6();
    carries(&testbed, &ithaca, &syracuse);
}

#[test]
fn an_inner_mtu_of_1280_is_enough() {
    let testbed = Testbed::perfect();
    let mtu = [("/tun/mtu", json!(1280))];
    carries(&testbed, &mtu, &mtu);
}

#[test]
fn an_inner_mtu_of_9000_needs_no_larger_path() {
    let testbed = Testbed::jumbo();
    let mtu = [("/tun/mtu", json!(9000))];
    let pair = Pair::start(&testbed, &mtu);
    carries_everything(&testbed);
    let [at, _] = MIRROR;
    let answer = testbed.ping("primary", &format!("-M do -s 8972 {at}"));
    assert!(answer.contains(" 0% packet loss"), "{answer}");
    assert_clean(&pair);
}

#[test]
fn twenty_and_two_hundred_flows_at_once_arrive_whole() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    for at in MIRROR {
        streams::copy(&primary, &mirror, at, 20, 500_000);
        streams::copy(&primary, &mirror, at, 200, 50_000);
    }
    assert_clean(&pair);
}

#[test]
fn a_udp_sender_with_segmentation_loses_no_datagram() {
    let testbed = Testbed::perfect();
    let _pair = Pair::start(&testbed, &[]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    for (at, any) in [(MIRROR[0], "0.0.0.0:0"), (MIRROR[1], "[::]:0")] {
        let sink = Sink::listen(&mirror, at);
        let mut socket = primary.run(|| UdpSocket::bind(any.parse().unwrap(), UdpOptions::default()).unwrap()).unwrap();
        // Trains whose last datagram is as long as the others, and trains with a shorter last one.
        for (turn, last) in [1000, 123, 1000, 8].into_iter().enumerate() {
            let first = turn as u64 * 20;
            let lengths = (0..20).map(|at| if at == 19 { last } else { 1000 });
            let train: Vec<u8> = (first..).zip(lengths).flat_map(|(number, length)| datagram(number, length)).collect();
            let outcome = socket.send_train(sink.address, &train, 1000);
            assert!(outcome.error.is_none() && outcome.sent == train.len(), "{:?}", outcome.error);
            assert!(sink.wait_for(first as usize + 20), "{} of {} arrived", sink.count(), first + 20);
        }
        sink.arrived().assert_once();
    }
}
