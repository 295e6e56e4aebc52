//! ICMP and ICMPv6 pass the tunnel, requests as well as errors.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use serde_json::json;

use crate::{
    appliance::Pair,
    datagrams::sender,
    streams,
    testbed::{MIRROR, PRIMARY, Testbed, address},
};

#[test]
fn pings_of_all_sizes_are_answered() {
    let testbed = Testbed::perfect();
    let _pair = Pair::start(&testbed, &[]);
    // The largest two are fragmented.
    for size in [0, 56, 1400, 1472, 8000, 60_000] {
        for (from, at) in [("primary", MIRROR), ("mirror", PRIMARY)] {
            for at in at {
                let answer = testbed.ping(from, &format!("-s {size} {at}"));
                assert!(answer.contains(" 0% packet loss"), "{size} bytes to {at}: {answer}");
            }
        }
    }
}

#[test]
fn a_closed_port_of_the_mirror_is_reported_to_the_sender() {
    let testbed = Testbed::perfect();
    let _pair = Pair::start(&testbed, &[]);
    for at in MIRROR {
        let socket = sender(&testbed.node("primary"), SocketAddr::new(address(at), 9));
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.send(b"is anybody there").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{at}: {error}");
    }
}

#[test]
fn the_far_appliance_reports_an_exceeded_hop_limit() {
    let testbed = Testbed::perfect();
    let _pair = Pair::start(&testbed, &[]);
    // The first hop is ithaca. The second is syracuse, whose answer comes back through the tunnel.
    let rows = [
        (1, MIRROR[0], "From 10.1.0.254 icmp_seq=1 Time to live exceeded"),
        (2, MIRROR[0], "From 10.2.0.254 icmp_seq=1 Time to live exceeded"),
        (1, MIRROR[1], "From fd00:1::fe icmp_seq=1 Time exceeded: Hop limit"),
        (2, MIRROR[1], "From fd00:2::fe icmp_seq=1 Time exceeded: Hop limit"),
    ];
    for (hops, at, expected) in rows {
        let answer = testbed.ping("primary", &format!("-t {hops} {at}"));
        assert!(answer.contains(expected), "\"{expected}\" in {answer}");
    }
}

#[test]
fn a_packet_that_is_too_big_for_the_tunnel_is_answered_with_its_mtu() {
    let testbed = Testbed::perfect();
    let _pair = Pair::start(&testbed, &[("/tun/mtu", json!(1280))]);
    let rows = [
        (MIRROR[0], "From 10.1.0.254 icmp_seq=1 Frag needed and DF set (mtu = 1280)"),
        (MIRROR[1], "From fd00:1::fe icmp_seq=1 Packet too big: mtu=1280"),
    ];
    for (at, expected) in rows {
        let answer = testbed.ping("primary", &format!("-M do -s 1400 {at}"));
        assert!(answer.contains(expected), "\"{expected}\" in {answer}");
        // Path MTU discovery of TCP works.
        streams::copy(&testbed.node("primary"), &testbed.node("mirror"), at, 1, 1_000_000);
    }
}

/// The checksum of RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum = words.sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes()
}

/// An ICMP "destination unreachable" message with this code, about a datagram from ithaca's appliance to syracuse's
/// that begins with `payload`.
fn unreachable(code: u8, mtu: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![3, code, 0, 0, 0, 0];
    message.extend(mtu.to_be_bytes());
    let length = 20 + 8 + payload.len() as u16;
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    message.extend(header);
    for field in [7117, 7117, 8 + payload.len() as u16, 0] {
        message.extend(field.to_be_bytes());
    }
    message.extend(payload);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum);
    message
}

#[test]
fn a_forged_icmp_error_has_no_effect() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    let forge = || {
        let raw = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).unwrap();
        let to: SocketAddr = "192.0.2.1:0".parse().unwrap();
        for code in [1, 3, 4, 13] {
            // Quotes of no payload, of a header without a session, and of the beginning of a handshake.
            let indices = (0u8..20).map(|index| vec![6, 0, 0, index, 0, 0, 0, 0, 0, 0, 0, 1]);
            for payload in [vec![], vec![7; 40], vec![1; 148]].into_iter().chain(indices) {
                sendto(&raw, &unreachable(code, 68, &payload), SendFlags::empty(), &to).unwrap();
            }
        }
    };
    testbed.node("syracuse").run(forge).unwrap();
    let status = pair.ithaca.wait("doubtful errors", |status| status.lanes[0].doubtful_errors >= 40);
    assert_eq!((status.lanes[0].send_errors, status.lanes[0].path_mtu), (0, None), "{status:?}");
    assert!(!pair.ithaca.output().contains("too big"), "{}", pair.ithaca.output());
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 1, 1_000_000);
    // A real host's answer quotes the datagram it received.
    pair.syracuse.terminate();
    pair.ithaca.wait("an error that is believed", |status| status.lanes[0].send_errors > 0);
}
