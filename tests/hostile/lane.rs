//! One lane of an appliance with one peer whose keys are known, so that a test can seal the peer's datagrams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use onwire::fec::plan::Plan;
use onwire::tunnel::PeerId;
use onwire::tunnel::forwarder::{Forwarder, Settings};
use onwire::tunnel::handshake::{Established, Role};
use onwire::tunnel::hello::{Hello, PROTOCOL_VERSION};
use onwire::tunnel::outer_class::OuterRule;
use onwire::tunnel::peer::PeerSettings;
use onwire::tunnel::policy::{Policy, ProfileId};
use onwire::tunnel::receiver::Delivery;
use onwire::tunnel::seal::{Cipher, CipherSet, OpeningKey, SealingKey};
use onwire::tunnel::sender::Profile;

/// A lane that delivers only packets from 10.2.0.0/16 to 10.1.0.0/16.
pub fn forwarder(symbol_size: u16, claims: bool, delivery: Delivery, now: Instant) -> Forwarder {
    let profile = Profile {
        number: 0,
        block_symbols: 8,
        close_when_idle: Duration::from_micros(50),
        close_after: Duration::from_millis(2),
        plan: Plan::fixed(8, 2, 0.01),
        survive_burst: Duration::ZERO,
        keeps_promise: true,
    };
    let peer = PeerSettings {
        address: None,
        symbol_size: symbol_size.into(),
        bytes_per_second: None,
        queue_max: Duration::ZERO,
        outer: OuterRule::default(),
        signals_rebuilt: false,
        claims,
        is_removed: false,
        policy: Policy::new([], ProfileId(0)),
    };
    let settings = Settings {
        lane: 0,
        local_prefixes: [("10.1.0.0/16".parse().expect("a prefix"), ())].into_iter().collect(),
        peer_prefixes: [("10.2.0.0/16".parse().expect("a prefix"), PeerId(0))].into_iter().collect(),
        peers: vec![peer],
        profiles: vec![profile],
        delivery,
        survive_burst: Duration::ZERO,
    };
    Forwarder::new(settings, now)
}

/// The key with which the peer seals.
pub fn peers_key() -> SealingKey {
    SealingKey::new(Cipher::ChaCha20Poly1305, &[2; 32])
}

/// A session with the peer; datagrams to the lane have the receiver index 1.
pub fn established(peer: SocketAddr, symbol_size: u16, now: Instant) -> Established {
    let ciphers = CipherSet::preferred();
    Established {
        peer: PeerId(0),
        role: Role::Initiator,
        local_index: 1,
        remote_index: 2,
        sealing: Arc::new(SealingKey::new(Cipher::ChaCha20Poly1305, &[1; 32])),
        opening: Arc::new(OpeningKey::new(Cipher::ChaCha20Poly1305, &[2; 32])),
        remote: Hello { version: PROTOCOL_VERSION, lanes: 1, ciphers, symbol_size, epoch: 7 },
        endpoint: peer.into(),
        at: now,
    }
}
