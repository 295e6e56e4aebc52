//! Datagrams of unauthenticated senders to the tunnel's port, and packets that a site may not send: counted,
//! unanswered, harmless.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use onwire::{appliance::status::Status, io::namespace::NetworkNamespace};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use crate::{
    appliance::Pair,
    capture::Capture,
    datagrams::{Sink, datagram},
    streams,
    testbed::{MIRROR, PRIMARY, Testbed},
};

/// Without segmentation each captured packet is one datagram.
fn unsegmented() -> [(&'static str, Value); 1] {
    [("/peers/0/path", json!({ "udp_gso": "off" }))]
}

/// The number of refused datagrams, for any reason.
fn refused(status: &Status) -> u64 {
    // Handshakes are counted together, and again by their reasons.
    let of_datagrams = [
        "not_ours",
        "unknown_session",
        "expired_session",
        "wrong_lane",
        "bad_tag",
        "replayed",
        "too_old",
        "bad_payload",
        "handshake",
    ];
    let lost: u64 = status.lanes.iter().map(|lane| lane.notices_lost + lane.receive_overflows).sum();
    of_datagrams.iter().filter_map(|reason| status.drops.get(*reason)).sum::<u64>() + lost
}

/// A sender at another address than the peer's.
struct UnauthenticatedSender {
    socket: UdpSocket,
    sent: u64,
}

impl UnauthenticatedSender {
    fn new(node: &NetworkNamespace) -> Self {
        let target: SocketAddr = "192.0.2.2:7117".parse().unwrap();
        let socket = node.run(|| UdpSocket::bind("192.0.2.1:0").unwrap()).unwrap();
        socket.connect(target).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        Self { socket, sent: 0 }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.socket.send(bytes).unwrap();
        self.sent += 1;
        // Slow enough that the control thread sees all of them.
        std::thread::sleep(Duration::from_micros(500));
    }

    fn assert_no_reply(&self) {
        let mut buffer = [0; 2000];
        let reply = self.socket.recv(&mut buffer);
        assert!(reply.is_err(), "{:02x?}", &buffer[..reply.unwrap().min(32)]);
    }
}

/// The datagrams from ithaca to syracuse while a session is set up and used.
fn recorded(testbed: &Testbed, pair: &mut Pair<'_>) -> Vec<Vec<u8>> {
    let capture = Capture::begin(&testbed.node("ithaca"));
    // Syracuse starts first: a handshake that it had not received would be new to it later, from any sender.
    pair.syracuse.start();
    pair.syracuse.wait("status", |_| true);
    pair.ithaca.start();
    pair.wait_up();
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 1, 300_000);
    std::thread::sleep(Duration::from_millis(100));
    let to_syracuse = |it: &crate::capture::Seen| it.to.to_string() == "192.0.2.2:7117";
    let datagrams: Vec<_> = capture.end().into_iter().filter(to_syracuse).map(|it| it.bytes).collect();
    for kind in [4, 5, 6] {
        assert!(datagrams.iter().any(|bytes| bytes[0] == kind), "a datagram of type {kind} was recorded");
    }
    assert!(datagrams.iter().any(|bytes| bytes[0] < 4), "a handshake was recorded");
    datagrams
}

#[test]
fn unauthenticated_datagrams_are_counted_and_not_answered() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::prepare(&testbed, &unsegmented());
    let real = recorded(&testbed, &mut pair);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let mut rng = SmallRng::seed_from_u64(7);
    let before = pair.syracuse.status();
    let tcp = testbed.tcp("primary");
    let mut sender = UnauthenticatedSender::new(&testbed.node("ithaca"));
    std::thread::scope(|scope| {
        // The tunnel is in use at the same time.
        let copy =
            scope.spawn(|| streams::copy_paced(&primary, &mirror, MIRROR[1], 1, 1_500_000, Duration::from_millis(20)));
        for length in (0..1473).step_by(8) {
            let mut bytes = vec![0; length];
            rng.fill_bytes(&mut bytes);
            sender.send(&bytes);
            // With each of the tunnel's datagram types.
            for kind in 0..8 {
                if let Some(first) = bytes.first_mut() {
                    *first = kind;
                    sender.send(&bytes);
                }
            }
        }
        for bytes in real.iter().step_by(3) {
            for length in [0, 1, 11, 12, 27, 28, bytes.len() / 2, bytes.len() - 1] {
                sender.send(&bytes[..length.min(bytes.len() - 1)]);
            }
            let mut flipped = bytes.clone();
            flipped[rng.random_range(0..bytes.len())] ^= 1 << rng.random_range(0..8);
            sender.send(&flipped);
            sender.send(&[&bytes[..], &[0]].concat());
            sender.send(bytes);
        }
        copy.join().unwrap();
    });
    sender.assert_no_reply();
    let after = pair.syracuse.status();
    assert_eq!(refused(&after) - refused(&before), sender.sent, "{:?}\n{:?}", before.drops, after.drops);
    assert_eq!(after.peers[0].endpoint, before.peers[0].endpoint, "nobody was led to another address");
    assert_eq!(after.peers[0].sessions, before.peers[0].sessions);
    assert_eq!(after.peers[0].received.unrecoverable_blocks, 0);
    assert!(testbed.tcp("primary").since(&tcp).retransmitted < 20, "traffic was disturbed");
    streams::copy(&mirror, &primary, PRIMARY[0], 1, 500_000);
}

#[test]
fn datagrams_recorded_before_a_restart_do_not_move_the_endpoint() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::prepare(&testbed, &unsegmented());
    let real = recorded(&testbed, &mut pair);
    let calls = real.iter().filter(|bytes| bytes[0] == 1).count() as u64;
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    // A restarted node cannot distinguish a recorded initiation from a new one and may answer it once. That sets up no
    // session, because the sender has no key, and does not change the endpoint.
    for (restart, answers_at_most) in [("ithaca", 0), ("syracuse", calls)] {
        let appliance = if restart == "ithaca" { &mut pair.ithaca } else { &mut pair.syracuse };
        appliance.kill();
        appliance.start();
        pair.wait_up();
        streams::copy(&primary, &mirror, MIRROR[0], 1, 300_000);
        let before = pair.syracuse.status();
        let mut sender = UnauthenticatedSender::new(&testbed.node("ithaca"));
        real.iter().for_each(|bytes| sender.send(bytes));
        let mut answers = 0;
        while sender.socket.recv(&mut [0; 2000]).is_ok() {
            answers += 1;
        }
        assert!(answers <= answers_at_most, "{restart}: {answers} answers to {calls} recorded calls");
        let after = pair.syracuse.status();
        let unanswered = refused(&after) - refused(&before);
        assert_eq!(unanswered + answers, sender.sent, "{restart}: {:?}\n{:?}", before.drops, after.drops);
        assert_eq!(after.peers[0].endpoint.map(|it| it.port()), Some(7117), "{restart}");
        assert_eq!(after.peers[0].epoch, before.peers[0].epoch, "{restart}");
        let arrived = after.peers[0].received.adus;
        streams::copy(&primary, &mirror, MIRROR[0], 1, 300_000);
        streams::copy(&mirror, &primary, PRIMARY[1], 1, 300_000);
        assert!(pair.syracuse.status().peers[0].received.adus > arrived);
    }
}

#[test]
fn a_packet_with_a_source_outside_the_site_does_not_pass() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    testbed.run("primary", &["ip", "addr", "add", "10.9.9.9/32", "dev", "lo"]).unwrap();
    let socket = testbed.node("primary").run(|| UdpSocket::bind("10.9.9.9:0").unwrap()).unwrap();
    let before = pair.ithaca.drops("foreign_source");
    for number in 0..10 {
        socket.send_to(&datagram(number, 100), sink.address).unwrap();
    }
    pair.ithaca.wait("ten foreign packets", |status| {
        status.drops.get("foreign_source").is_some_and(|count| *count >= before + 10)
    });
    assert_eq!(sink.count(), 0);
    sink.expect_all(&testbed.node("primary"), 10, 100);
}
