//! Handshake datagrams of unauthenticated senders, to a node that waits for an answer and is under load or not: no panic, no
//! session, no reply that is longer than its cause or anything but a cookie, and memory within its bounds.
//!
//! The input is a sequence of records: one byte of kind, one byte of milliseconds to wait, one byte of length, the bytes.
#![no_main]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use onwire::tunnel::PeerId;
use onwire::tunnel::handshake::{HandshakeEvent, HandshakePeer, Handshakes, Identity};
use onwire::tunnel::hello::{Hello, PROTOCOL_VERSION};
use onwire::tunnel::keys::{PresharedKey, PrivateKey};
use onwire::tunnel::seal::CipherSet;
use onwire::wire::handshake::{CookieReply, Initiation, MAC_LEN, split_mac2};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn node(own: u64, other: u64, now: Instant) -> Handshakes {
    let key = |seed| PrivateKey::generate(&mut StdRng::seed_from_u64(seed));
    let hello =
        Hello { version: PROTOCOL_VERSION, lanes: 1, ciphers: CipherSet::from_bits(3), symbol_size: 1408, epoch: own };
    let peer = HandshakePeer {
        public: key(other).public_key(),
        next: Some(key(9).public_key()),
        preshared: PresharedKey::default(),
        endpoint: Some(SocketAddr::from(([192, 0, 2, 2], 7117))),
        symbol_size: 1408,
    };
    let identity = Identity { private: key(own), hello };
    let random = Box::new(StdRng::seed_from_u64(own));
    Handshakes::new(identity, vec![peer], random, Duration::from_secs(1_700_000_000), now)
}

fuzz_target!(|input: &[u8]| {
    if let Some(reply) = CookieReply::parse(input) {
        assert_eq!(reply.emit(), input);
    }
    if let Some((initiation, Some(_))) = split_mac2(input)
        && let Some(parsed) = Initiation::parse(initiation)
    {
        assert_eq!(parsed.emit_with_cookie(), initiation[..initiation.len() - MAC_LEN]);
    }
    let mut now = Instant::now();
    let mut node = node(1, 2, now);
    node.request(PeerId(0), now);
    let awaited = node.poll_transmit().map(|(_, initiation)| initiation).unwrap_or_default();
    let mut rest = input;
    while let Some((&[kind, wait, len], behind)) = rest.split_first_chunk::<3>() {
        let (bytes, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        now += Duration::from_millis(u64::from(wait & 0x1f));
        let mut datagram = vec![kind & 7];
        if kind & 8 != 0 {
            // The index that the node waits for an answer under.
            datagram.extend(awaited.get(1..4).unwrap_or_default());
        }
        datagram.extend(bytes);
        let copies = if kind & 0x80 != 0 { 100 } else { 1 };
        for port in 0..copies {
            let from = SocketAddr::from(([203, 0, 113, wait], 1024 + port));
            let _ = node.handle_datagram(&datagram, from, now);
            while let Some((_, reply)) = node.poll_transmit() {
                assert!(reply.len() < datagram.len() && CookieReply::parse(&reply).is_some(), "{reply:02x?}");
            }
        }
        while let Some(event) = node.poll_event() {
            assert!(!matches!(event, HandshakeEvent::Established(_)), "a session without a key");
        }
    }
});
