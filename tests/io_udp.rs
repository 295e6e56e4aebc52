//! UDP trains over the loopback device: content, segments, fall-backs and errors.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use onwire::io::udp::{GsoOff, GsoState, Received, Switch, UdpOptions, UdpSocket};

fn bind(address: &str, gso: Switch) -> UdpSocket {
    UdpSocket::bind(address.parse().unwrap(), UdpOptions { gso, ..UdpOptions::default() }).unwrap()
}

/// Bytes that differ from datagram to datagram and within one.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8 ^ (at / 1452) as u8).collect()
}

/// Receives until `length` bytes have come or five seconds have passed.
fn receive(socket: &mut UdpSocket, length: usize) -> (Vec<u8>, Vec<Received>) {
    let (mut bytes, mut trains, mut buffer) = (Vec::new(), Vec::new(), vec![0; 65_536]);
    let limit = Instant::now() + Duration::from_secs(5);
    while bytes.len() < length && Instant::now() < limit {
        match socket.recv_train(&mut buffer).unwrap() {
            Some(received) => {
                bytes.extend_from_slice(&buffer[..received.len]);
                trains.push(received);
            }
            None => std::thread::sleep(Duration::from_micros(100)),
        }
    }
    (bytes, trains)
}

#[test]
fn a_train_arrives_whole_with_its_segment_size() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (mut sender, mut receiver) = (bind(address, Switch::Auto), bind(address, Switch::Auto));
        assert_eq!(sender.gso_state(), GsoState::Active);
        // 44 datagrams are what fits 65,000 bytes; the short one last.
        for length in [1452, 100, 1452 * 2, 1452 * 20 + 700, 1452 * 44, 1452 * 130 + 1] {
            let bytes = content(length);
            let outcome = sender.send_train(receiver.local_addr(), &bytes, 1452);
            assert_eq!((outcome.sent, outcome.blocked), (length, false), "{:?}", outcome.error);
            let (received, trains) = receive(&mut receiver, length);
            assert_eq!(received, bytes, "{address} {length}");
            assert_eq!(trains.len(), length.div_ceil(1452 * 44), "{address} {length}");
            for train in trains {
                assert_eq!(train.from, sender.local_addr());
                assert_eq!(train.segment, train.len.min(1452));
            }
        }
        assert_eq!(sender.gso_state(), GsoState::Active);
        assert_eq!(receiver.receive_overflows(), 0);
    }
}

#[test]
fn the_same_train_arrives_without_segmentation() {
    let (mut sender, mut receiver) = (bind("127.0.0.1:0", Switch::Off), bind("127.0.0.1:0", Switch::Off));
    assert_eq!(sender.gso_state(), GsoState::Off(GsoOff::Configured));
    let bytes = content(1452 * 130 + 700);
    let outcome = sender.send_train(receiver.local_addr(), &bytes, 1452);
    assert_eq!(outcome.sent, bytes.len(), "{:?}", outcome.error);
    let (received, trains) = receive(&mut receiver, bytes.len());
    assert_eq!(received, bytes);
    assert_eq!(trains.len(), 131);
    assert_eq!((trains[0].len, trains[0].segment), (1452, 1452));
    assert_eq!((trains[130].len, trains[130].segment), (700, 700));
}

#[test]
fn a_segment_of_zero_is_one_datagram_and_an_empty_train_is_none() {
    let (mut sender, mut receiver) = (bind("127.0.0.1:0", Switch::Auto), bind("127.0.0.1:0", Switch::Auto));
    assert_eq!(sender.send_train(receiver.local_addr(), &[], 1452).sent, 0);
    assert_eq!(sender.send_train(receiver.local_addr(), &content(3000), 0).sent, 3000);
    let (_, trains) = receive(&mut receiver, 3000);
    assert_eq!(trains.len(), 1);
    assert!(receiver.recv_train(&mut [0; 65_536]).unwrap().is_none());
}

#[test]
fn an_ipv6_socket_serves_ipv4_under_its_own_name() {
    let (mut wildcard, mut v4) = (bind("[::]:0", Switch::Auto), bind("127.0.0.1:0", Switch::Auto));
    let wildcard_v4: SocketAddr = ([127, 0, 0, 1], wildcard.local_addr().port()).into();
    let bytes = content(1452 * 3);
    assert_eq!(v4.send_train(wildcard_v4, &bytes, 1452).sent, bytes.len());
    let (received, trains) = receive(&mut wildcard, bytes.len());
    assert_eq!((received, trains[0].from), (bytes.clone(), v4.local_addr()));
    assert_eq!(wildcard.send_train(v4.local_addr(), &bytes, 1452).sent, bytes.len());
    let (received, trains) = receive(&mut v4, bytes.len());
    assert_eq!((received, trains[0].from), (bytes, wildcard_v4));
}

#[test]
fn a_closed_port_is_counted_and_costs_no_later_datagram() {
    for (address, peer) in [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")] {
        let (mut sender, mut receiver) = (bind(address, Switch::Auto), bind(peer, Switch::Auto));
        let mut closed = receiver.local_addr();
        closed.set_port(9);
        for _ in 0..3 {
            assert_eq!(sender.send_train(closed, b"hello", 5).sent, 5);
        }
        // The refusals are pending now: neither direction may stumble over them.
        assert_eq!(sender.send_train(receiver.local_addr(), b"hello", 5).sent, 5);
        let (received, trains) = receive(&mut receiver, 5);
        assert_eq!(received, b"hello");
        assert_eq!(receiver.send_train(trains[0].from, b"back", 4).sent, 4);
        assert_eq!(sender.send_train(closed, b"hello", 5).sent, 5);
        assert_eq!(receive(&mut sender, 4).0, b"back");
        let counts = sender.drain_errors(&mut |_| {});
        assert_eq!((counts.unreachable, counts.total()), (4, 4), "{address}");
        assert_eq!(sender.drain_errors(&mut |_| {}).total(), 0);
    }
}

#[test]
fn what_a_full_receive_buffer_drops_is_counted() {
    let options = UdpOptions { buffer_bytes: 16 << 10, gso: Switch::Off, ..UdpOptions::default() };
    let mut receiver = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
    let mut sender = bind("127.0.0.1:0", Switch::Off);
    assert_eq!(sender.send_train(receiver.local_addr(), &content(1000 * 200), 1000).sent, 200_000);
    let mut buffer = vec![0; 65_536];
    let mut arrived = 0;
    while receiver.recv_train(&mut buffer).unwrap().is_some() {
        arrived += 1;
    }
    // The count rides on the next datagram.
    assert_eq!(sender.send_train(receiver.local_addr(), b"next", 4).sent, 4);
    receive(&mut receiver, 4);
    assert_eq!(receiver.receive_overflows(), 200 - arrived);
    assert!(arrived < 200);
}

#[test]
fn the_wrong_family_is_an_error_value() {
    let mut sender = bind("127.0.0.1:0", Switch::Auto);
    let outcome = sender.send_train("[::1]:9".parse().unwrap(), b"hello", 5);
    assert_eq!((outcome.sent, outcome.blocked), (0, false));
    assert_eq!(outcome.error.unwrap().raw_os_error(), Some(libc::EAFNOSUPPORT));
    assert_eq!(sender.drain_errors(&mut |_| {}).other, 1);
}
