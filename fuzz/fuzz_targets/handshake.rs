//! Handshake datagrams of senders that know the node's public key and have no key of a peer: with a right mac1 or a wrong one,
//! with a Noise message that is whole, damaged or nonsense, to a node that waits for an answer and is under load or not. No
//! panic, no session, no reply that is longer than its cause or anything but a cookie, and what the node sends by itself is an
//! initiation.
//!
//! The input is a sequence of records: one byte of kind, one byte of time to wait, one byte of length, the bytes.
#![no_main]

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use onwire::tunnel::PeerId;
use onwire::tunnel::handshake::{HandshakeEvent, HandshakePeer, Handshakes, Identity};
use onwire::tunnel::hello::{Hello, PROTOCOL_VERSION};
use onwire::tunnel::keys::{PresharedKey, PrivateKey};
use onwire::tunnel::mac::MacKey;
use onwire::tunnel::seal::CipherSet;
use onwire::wire::datagram::DatagramType;
use onwire::wire::handshake::{CookieReply, Initiation, MAC_LEN, split_mac2};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// The numbers of the node under test, its peer, and a node that is no peer.
const NODE: u64 = 1;
const PEER: u64 = 2;
const STRANGER: u64 = 5;

/// Bits of the kind of a record, above the type of its datagram.
const AWAITED: u8 = 8;
const SIGNED: u8 = 0x10;
const WELL_FORMED: u8 = 0x20;
const MANY: u8 = 0x80;

fn key(seed: u64) -> PrivateKey {
    PrivateKey::generate(&mut StdRng::seed_from_u64(seed))
}

fn node(own: u64, other: u64, now: Instant) -> Handshakes {
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

/// The initiation of a stranger: right in every byte.
fn well_formed() -> &'static [u8] {
    static INITIATION: OnceLock<Vec<u8>> = OnceLock::new();
    INITIATION.get_or_init(|| {
        let mut stranger = node(STRANGER, NODE, Instant::now());
        stranger.request(PeerId(0), Instant::now());
        stranger.poll_transmit().map(|(_, initiation)| initiation).unwrap_or_default()
    })
}

/// What the node sends by itself; the last of it.
fn own_initiation(node: &mut Handshakes) -> Option<Vec<u8>> {
    let mut last = None;
    while let Some((_, datagram)) = node.poll_transmit() {
        assert_eq!(DatagramType::of(&datagram), Some(DatagramType::Initiation), "{datagram:02x?}");
        last = Some(datagram);
    }
    last
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
    let mac = MacKey::of(&key(NODE).public_key());
    let mut node = node(NODE, PEER, now);
    node.request(PeerId(0), now);
    let mut awaited = own_initiation(&mut node).unwrap_or_default();
    let mut rest = input;
    while let Some((&[kind, wait, len], behind)) = rest.split_first_chunk::<3>() {
        let (bytes, behind) = behind.split_at(usize::from(len).min(behind.len()));
        rest = behind;
        // Up to 31 milliseconds, or that many times as long: until a load is over, or a handshake is due again.
        now += Duration::from_millis(u64::from(wait & 0x1f)) * if wait & 0x80 != 0 { 100 } else { 1 };
        node.handle_timeout(now);
        awaited = own_initiation(&mut node).unwrap_or(awaited);
        let mut datagram = vec![kind & 7];
        if kind & AWAITED != 0 {
            // The index that the node waits for an answer under.
            datagram.extend(awaited.get(1..4).unwrap_or_default());
        }
        match kind & WELL_FORMED {
            0 => datagram.extend(bytes),
            _ => {
                let noise = well_formed().get(datagram.len()..well_formed().len() - MAC_LEN).unwrap_or_default();
                datagram.extend(noise);
                // The input damages the end.
                datagram.iter_mut().rev().zip(bytes).for_each(|(byte, damage)| *byte ^= damage);
            }
        }
        if kind & SIGNED != 0 {
            datagram.extend(mac.sign(&datagram));
            if kind & 7 == DatagramType::CookieInitiation as u8 {
                datagram.extend([wait; MAC_LEN]);
            }
        }
        let copies = if kind & MANY != 0 { 100 } else { 1 };
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
