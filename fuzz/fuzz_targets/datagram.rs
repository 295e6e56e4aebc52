//! Datagrams from anybody, and sealed ones from a peer gone mad: no panic, no delivery outside the prefixes, and memory
//! within its bounds.
//!
//! The input is a sequence of records: a byte of kind, a byte of milliseconds to wait, two bytes of length, the bytes.
#![no_main]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use onwire::fec::plan::Plan;
use onwire::tunnel::PeerId;
use onwire::tunnel::forwarder::{Forwarder, Settings};
use onwire::tunnel::handshake::{Established, Role};
use onwire::tunnel::hello::{Hello, PROTOCOL_VERSION};
use onwire::tunnel::inbound::{Delivery, MEMORY_MAX};
use onwire::tunnel::outbox::Trains;
use onwire::tunnel::peer::PeerSettings;
use onwire::tunnel::policy::{Policy, ProfileId};
use onwire::tunnel::seal::{Cipher, CipherSet, OpeningKey, SealingKey};
use onwire::tunnel::sender::Profile;
use onwire::wire::datagram::{DatagramType, Header};
use onwire::wire::packet::PacketView;

const SYMBOL_SIZE: u16 = 128;

fuzz_target!(|input: &[u8]| {
    let mut now = Instant::now();
    let peer = SocketAddr::from(([192, 0, 2, 2], 7117));
    let mut forwarder = forwarder(now, input.first().is_some_and(|byte| byte & 0x80 != 0));
    forwarder.install(&established(peer, now), now);
    let key = SealingKey::new(Cipher::ChaCha20Poly1305, &[2; 32]);
    let (mut rest, mut counter) = (input, 0);
    while let Some((&[kind, wait, high, low], behind)) = rest.split_first_chunk::<4>() {
        let len = usize::from(u16::from_be_bytes([high, low]) & 0x0fff).min(behind.len());
        let (bytes, behind) = behind.split_at(len);
        rest = behind;
        now += Duration::from_millis(u64::from(wait & 0x1f));
        let datagram_type = match kind & 3 {
            0 => None,
            1 => Some(DatagramType::Source),
            2 => Some(DatagramType::Repair),
            _ => Some(DatagramType::Report),
        };
        let mut datagram = match datagram_type {
            None => bytes.to_vec(),
            Some(datagram_type) => {
                counter += 1 + u64::from(kind >> 6);
                let clear = Header { datagram_type, receiver_index: 1, counter }.emit();
                let mut sealed = bytes.to_vec();
                let tag = key.seal(counter, &clear, &mut sealed);
                [&clear[..], &sealed, &tag].concat()
            }
        };
        forwarder.handle_datagram(&mut datagram, peer, now);
        forwarder.handle_timeout(now);
        while let Some(delivery) = forwarder.poll_delivery(now) {
            let view = PacketView::parse(delivery.packet).expect("what is delivered is a packet");
            assert!(view.source.to_string().starts_with("10.2."), "from {}", view.source);
        }
        while let Some((to, train)) = forwarder.poll_transmit(Trains::All, now) {
            let len = train.bytes.len();
            forwarder.on_sent(to, len, now);
        }
        if kind & 4 != 0 {
            while let Some((_, heard)) = forwarder.poll_heard() {
                assert!(heard.proven_at.is_none_or(|at| at <= now), "the future proves nothing");
            }
        }
        assert!(forwarder.memory() <= MEMORY_MAX);
        while forwarder.poll_request(now).is_some() {}
        assert!(forwarder.poll_timeout(now).is_none_or(|at| at > now), "all is drained and still something is due");
    }
});

fn forwarder(now: Instant, strict: bool) -> Forwarder {
    let profile = Profile {
        number: 0,
        block_symbols: 8,
        close_when_idle: Duration::from_micros(50),
        close_after: Duration::from_millis(2),
        plan: Plan::fixed(8, 2, 0.01),
    };
    let peer = PeerSettings {
        address: None,
        symbol_size: SYMBOL_SIZE.into(),
        bytes_per_second: None,
            queue_max: Duration::ZERO,
        claims: true,
        policy: Policy::new([], ProfileId(0)),
    };
    let settings = Settings {
        lane: 0,
        local_prefixes: [("10.1.0.0/16".parse().expect("a prefix"), ())].into_iter().collect(),
        peer_prefixes: [("10.2.0.0/16".parse().expect("a prefix"), PeerId(0))].into_iter().collect(),
        peers: vec![peer],
        profiles: vec![profile],
        delivery: Delivery { strict, hold: Duration::from_millis(10) },
    };
    Forwarder::new(settings, now)
}

fn established(peer: SocketAddr, now: Instant) -> Established {
    let ciphers = CipherSet::preferred();
    Established {
        peer: PeerId(0),
        role: Role::Initiator,
        local_index: 1,
        remote_index: 2,
        sealing: Arc::new(SealingKey::new(Cipher::ChaCha20Poly1305, &[1; 32])),
        opening: Arc::new(OpeningKey::new(Cipher::ChaCha20Poly1305, &[2; 32])),
        remote: Hello { version: PROTOCOL_VERSION, lanes: 1, ciphers, symbol_size: SYMBOL_SIZE, epoch: 7 },
        endpoint: peer,
        at: now,
    }
}
