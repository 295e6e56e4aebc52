//! ICMP and ICMPv6 pass, both as questions and as errors.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use serde_json::json;

use crate::{
    appliance::Pair,
    datagrams::sender,
    ground::{Ground, MIRROR, PRIMARY, address},
    streams,
};

#[test]
fn pings_of_every_size_are_answered() {
    let ground = Ground::perfect();
    let _pair = Pair::start(&ground, &[]);
    // The largest two are fragmented.
    for size in [0, 56, 1400, 1472, 8000, 60_000] {
        for (from, at) in [("primary", MIRROR), ("mirror", PRIMARY)] {
            for at in at {
                let answer = ground.ping(from, &format!("-s {size} {at}"));
                assert!(answer.contains(" 0% packet loss"), "{size} bytes to {at}: {answer}");
            }
        }
    }
}

#[test]
fn a_closed_port_of_the_mirror_is_reported_to_the_sender() {
    let ground = Ground::perfect();
    let _pair = Pair::start(&ground, &[]);
    for at in MIRROR {
        let socket = sender(&ground.node("primary"), SocketAddr::new(address(at), 9));
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send(b"is anybody there").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{at}: {error}");
    }
}

#[test]
fn the_far_appliance_reports_an_exceeded_hop_limit() {
    let ground = Ground::perfect();
    let _pair = Pair::start(&ground, &[]);
    // The first hop is ithaca. The second is syracuse, whose answer comes back through the tunnel.
    let rows = [
        (1, MIRROR[0], "From 10.1.0.254 icmp_seq=1 Time to live exceeded"),
        (2, MIRROR[0], "From 10.2.0.254 icmp_seq=1 Time to live exceeded"),
        (1, MIRROR[1], "From fd00:1::fe icmp_seq=1 Time exceeded: Hop limit"),
        (2, MIRROR[1], "From fd00:2::fe icmp_seq=1 Time exceeded: Hop limit"),
    ];
    for (hops, at, expected) in rows {
        let answer = ground.ping("primary", &format!("-t {hops} {at}"));
        assert!(answer.contains(expected), "\"{expected}\" in {answer}");
    }
}

#[test]
fn a_packet_that_is_too_big_for_the_tunnel_is_answered_with_its_mtu() {
    let ground = Ground::perfect();
    let _pair = Pair::start(&ground, &[("/tun/mtu", json!(1280))]);
    let rows = [
        (MIRROR[0], "From 10.1.0.254 icmp_seq=1 Frag needed and DF set (mtu = 1280)"),
        (MIRROR[1], "From fd00:1::fe icmp_seq=1 Packet too big: mtu=1280"),
    ];
    for (at, expected) in rows {
        let answer = ground.ping("primary", &format!("-M do -s 1400 {at}"));
        assert!(answer.contains(expected), "\"{expected}\" in {answer}");
        // Path MTU discovery of TCP follows.
        streams::copy(&ground.node("primary"), &ground.node("mirror"), at, 1, 1_000_000);
    }
}
