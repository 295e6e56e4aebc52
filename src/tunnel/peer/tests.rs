//! Tests of a peer as a whole.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::fec::plan::Plan;
use crate::tunnel::PeerId;
use crate::tunnel::block_event::Part;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::hello::{Hello, PROTOCOL_VERSION};
use crate::tunnel::outbox::Trains;
use crate::tunnel::policy::ProfileId;
use crate::tunnel::seal::{Cipher, CipherSet, OpeningKey, SealingKey};
use crate::wire::payload_id::BlockId;
use crate::wire::report::{Extension, Report};
use crate::wire::virtio::VirtioHeader;

const HOLD: Duration = Duration::from_millis(20);

fn peer(address: Option<SocketAddr>, lane: u8, now: Instant) -> Peer {
    let settings = PeerSettings {
        address,
        symbol_size: 1408,
        bytes_per_second: None,
        queue_max: Duration::ZERO,
        outer: OuterRule::default(),
        signals_rebuilt: false,
        policy: Policy::new([], ProfileId(0)),
        claims: true,
        is_removed: false,
    };
    Peer::new(settings, lane, Delivery { strict: true, hold: HOLD, hold_max: HOLD }, Duration::ZERO, now)
}

fn established(role: Role, endpoint: SocketAddr, at: Instant) -> Established {
    Established {
        peer: PeerId(0),
        role,
        local_index: 1,
        remote_index: 2,
        sealing: Arc::new(SealingKey::new(Cipher::ChaCha20Poly1305, &[1; 32])),
        opening: Arc::new(OpeningKey::new(Cipher::ChaCha20Poly1305, &[2; 32])),
        remote: Hello {
            version: PROTOCOL_VERSION,
            lanes: 2,
            ciphers: CipherSet::only(Cipher::ChaCha20Poly1305),
            symbol_size: 1408,
            epoch: 7,
        },
        endpoint: endpoint.into(),
        at,
    }
}

#[test]
fn each_new_address_of_the_peer_makes_one_moved_event() {
    let (now, mut code) = (Instant::now(), Code::new());
    let at = |host: u8| SocketAddr::from(([192, 0, 2, host], 7117));
    let mut peer = peer(None, 0, now);
    peer.install(&established(Role::Initiator, at(1), now), &mut code, now);
    let mut moves = |peer: &mut Peer, host| {
        peer.on_authentic(1, false, at(host), true, &mut code, now);
        std::iter::from_fn(|| peer.poll_block_event()).filter(|event| *event == BlockEvent::Moved).count()
    };
    assert_eq!(moves(&mut peer, 1), 0, "nothing was sent to another address");
    assert_eq!(moves(&mut peer, 3), 1);
    assert_eq!(moves(&mut peer, 3), 0);
}

#[test]
fn datagrams_leave_from_the_address_that_the_peer_used_until_it_is_gone() {
    let (now, mut code) = (Instant::now(), Code::new());
    let [called, other]: [IpAddr; 2] = ["198.51.100.7", "2001:db8::7"].map(|text| text.parse().unwrap());
    let remote = SocketAddr::from(([192, 0, 2, 1], 7117));
    let mut peer = peer(None, 0, now);
    let call =
        Established { endpoint: Endpoint { remote, local: Some(called) }, ..established(Role::Responder, remote, now) };
    peer.install(&call, &mut code, now);
    assert_eq!(peer.endpoint(), None, "the initiator has not proven its keys");
    peer.on_authentic(1, false, remote, true, &mut code, now);
    assert_eq!(peer.endpoint(), Some(call.endpoint));
    let moved = |peer: &mut Peer| std::iter::from_fn(|| peer.poll_block_event()).any(|it| it == BlockEvent::Moved);
    moved(&mut peer);
    assert_eq!(peer.on_unroutable(now), Some(called));
    assert!(moved(&mut peer), "the new path needs its own proof");
    assert_eq!(peer.endpoint(), Some(remote.into()));
    assert_eq!(peer.on_unroutable(now), None);
    assert!(!moved(&mut peer));
    // The peer uses that address again.
    let again = Established { local_index: 2, ..call.clone() };
    peer.install(&again, &mut code, now);
    peer.on_authentic(2, false, remote, true, &mut code, now);
    assert_eq!(peer.endpoint(), Some(call.endpoint));
    assert_eq!(peer.on_unroutable(now), None, "reported before");
    assert!(moved(&mut peer));
    // The initiation came to an address of the other family, the data comes over this one: the kernel chooses.
    let call = Established { local_index: 3, endpoint: Endpoint { remote, local: Some(other) }, ..call };
    peer.install(&call, &mut code, now);
    peer.on_authentic(3, false, remote, true, &mut code, now);
    assert_eq!(peer.endpoint(), Some(remote.into()));
}

#[test]
fn a_replayed_initiation_does_not_move_the_peer() {
    let (now, mut code) = (Instant::now(), Code::new());
    let at = |host: u8, port: u16| SocketAddr::from(([192, 0, 2, host], port));
    for lane in [0, 1] {
        let mut peer = peer(Some(at(1, 7117 + u16::from(lane))), lane, now);
        peer.install(&established(Role::Responder, at(66, 6666), now), &mut code, now);
        assert_eq!(peer.address(), Some(at(1, 7117 + u16::from(lane))), "lane {lane}: initiations can be replayed");
        peer.on_authentic(1, false, at(3, 7117 + u16::from(lane)), true, &mut code, now);
        assert_eq!(peer.address(), Some(at(3, 7117 + u16::from(lane))), "lane {lane}: only the peer has the keys");
        peer.install(&established(Role::Initiator, at(4, 7117), now), &mut code, now);
        assert_eq!(peer.address(), Some(at(4, 7117 + u16::from(lane))), "lane {lane}: it answered from there");
    }
}

#[test]
fn a_peer_that_knows_no_late_repair_is_promised_none_with_timestamps_and_without() {
    for (shows_departures, knows_late) in [(true, false), (true, true), (false, false), (false, true)] {
        let (now, mut code) = (Instant::now(), Code::new());
        let to = SocketAddr::from(([192, 0, 2, 1], 7117));
        let mut peer = peer(Some(to), 0, now);
        peer.install(&established(Role::Initiator, to, now), &mut code, now);
        peer.set_shows_departures(shows_departures);
        let extension = knows_late.then(Extension::default);
        let echo = peer.reporting.begin(true, now).sent_at;
        peer.reporting.handle_report(&Report { sent_at: 1, echo, extension, ..Report::default() }, now);
        let profile = Profile {
            number: 0,
            block_symbols: 4,
            close_when_idle: Duration::ZERO,
            close_after: Duration::from_millis(1),
            plan: Plan::fixed(4, 2, 0.01),
            survive_burst: Duration::from_millis(2),
            keeps_promise: true,
        };
        peer.reserve(&profile, &mut code, now).unwrap().commit(VirtioHeader::default(), 50);
        peer.flush(&mut code, now);
        while let Some(train) = peer.outbox.front(to.into(), Trains::All, now) {
            let bytes = train.bytes.len();
            peer.on_sent(bytes, now);
        }
        let block = BlockId { profile: 0, sbn: 0 };
        if shows_departures {
            peer.on_early_left(block, Duration::ZERO, now);
        }
        let events: Vec<_> = std::iter::from_fn(|| peer.poll_block_event()).collect();
        let early = events.iter().position(|it| matches!(it, BlockEvent::Sent { part: Part::Early, .. }));
        let broken = events.iter().position(|it| *it == BlockEvent::PromiseBroken { block });
        assert_eq!(broken.is_some(), !knows_late, "{events:?}");
        assert!(early.is_some() && broken.is_none_or(|broken| Some(broken) > early), "{events:?}");
    }
}
