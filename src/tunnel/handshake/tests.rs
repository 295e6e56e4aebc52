//! Handshakes of nodes over a network in virtual time, which loses, delays, repeats and forges datagrams.

mod flood;
mod keys;
mod reload;

use std::collections::HashSet;
use std::net::SocketAddr;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::tunnel::hello::PROTOCOL_VERSION;
use crate::tunnel::keys::PresharedKey;
use crate::tunnel::seal::CipherSet;
use crate::wire::datagram::{HEADER_LEN, Header};
use crate::wire::handshake::{MAC_LEN, MAX_LEN};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn key(node: u8) -> PrivateKey {
    PrivateKey::generate(&mut StdRng::seed_from_u64(u64::from(node)))
}

fn address(node: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, node], 7117))
}

fn hello(epoch: u64) -> Hello {
    Hello { version: PROTOCOL_VERSION, lanes: 1, ciphers: CipherSet::from_bits(3), symbol_size: 1408, epoch }
}

fn peer(node: u8) -> HandshakePeer {
    let preshared = PresharedKey::default();
    let public = key(node).public_key();
    HandshakePeer { public, next: None, preshared, endpoint: Some(address(node)), symbol_size: 1408 }
}

/// A node as an appliance would run it: it keeps its sessions and seals with the one that may seal.
struct Node {
    number: u8,
    handshakes: Handshakes,
    sessions: Vec<Established>,
    confirmed: HashSet<u32>,
    /// Local index of the session it seals with.
    current: Option<u32>,
    incompatible: Vec<String>,
    drops: Vec<HandshakeDrop>,
    opened: usize,
}

impl Node {
    fn new(number: u8, hello: Hello, peers: Vec<HandshakePeer>, now: Instant, seed: u64) -> Self {
        let random = Box::new(StdRng::seed_from_u64(seed ^ u64::from(number) << 32 ^ hello.epoch << 40));
        let unix_time = Duration::from_secs(1_700_000_000) + SECOND * (hello.epoch as u32);
        let identity = Identity { private: key(number), hello };
        Self {
            number,
            handshakes: Handshakes::new(identity, peers, random, unix_time, now),
            sessions: Vec::new(),
            confirmed: HashSet::new(),
            current: None,
            incompatible: Vec::new(),
            drops: Vec::new(),
            opened: 0,
        }
    }

    fn session(&self, local_index: u32) -> Option<&Established> {
        self.sessions.iter().find(|session| session.local_index == local_index)
    }

    fn current(&self) -> &Established {
        self.current.and_then(|index| self.session(index)).expect("a session")
    }

    /// An empty report under the current session.
    fn keepalive(&self, count: u64) -> Option<(SocketAddr, Vec<u8>)> {
        let session = self.session(self.current?)?;
        let header =
            Header { datagram_type: DatagramType::Report, receiver_index: session.remote_index, counter: count }.emit();
        let tag = session.sealing.seal(count, &header, &mut []);
        Some((session.endpoint.remote, [&header[..], &tag[..]].concat()))
    }

    fn handle(&mut self, datagram: &mut [u8], from: SocketAddr, now: Instant) {
        let Some(header) = Header::parse(datagram) else {
            if let Err(reason) = self.handshakes.handle_datagram(datagram, from, now) {
                self.drops.push(reason);
            }
            return;
        };
        let Some(session) = self.session(header.receiver_index) else { return };
        let (clear, sealed) = datagram.split_at_mut(HEADER_LEN);
        if session.opening.open(header.counter, clear, sealed).is_none() {
            return;
        }
        let role = session.role;
        self.opened += 1;
        if role == Role::Responder && self.confirmed.insert(header.receiver_index) {
            self.handshakes.on_confirmed(header.receiver_index, now);
            self.current = Some(header.receiver_index);
        }
    }
}

type Fate = Box<dyn FnMut(&[u8], &mut StdRng) -> Vec<Duration>>;

/// Nodes 1, 2, ... and what is in flight between them.
struct Net {
    start: Instant,
    now: Instant,
    nodes: Vec<Node>,
    flying: Vec<(Instant, SocketAddr, SocketAddr, Vec<u8>)>,
    /// The delays of the copies that arrive.
    fate: Fate,
    random: StdRng,
    keepalives: u64,
    carried: Vec<(SocketAddr, Vec<u8>)>,
}

impl Net {
    fn new(nodes: Vec<(Hello, Vec<HandshakePeer>)>, seed: u64) -> Self {
        let start = Instant::now();
        let nodes = (1..).zip(nodes).map(|(number, (hello, peers))| Node::new(number, hello, peers, start, seed));
        Self {
            start,
            now: start,
            nodes: nodes.collect(),
            flying: Vec::new(),
            fate: Box::new(|_, _| vec![25 * MS]),
            random: StdRng::seed_from_u64(seed),
            keepalives: 0,
            carried: Vec::new(),
        }
    }

    fn pair() -> Self {
        Self::new(vec![(hello(1), vec![peer(2)]), (hello(2), vec![peer(1)])], 0)
    }

    fn request(&mut self, node: usize) {
        let now = self.now;
        self.nodes[node].handshakes.request(PeerId(0), now);
        self.collect();
    }

    fn send(&mut self, from: SocketAddr, to: SocketAddr, datagram: Vec<u8>) {
        for delay in (self.fate)(&datagram, &mut self.random) {
            self.flying.push((self.now + delay, to, from, datagram.clone()));
        }
        self.carried.push((from, datagram));
    }

    /// Empties the queues of all nodes.
    fn collect(&mut self) {
        for i in 0..self.nodes.len() {
            let from = address(self.nodes[i].number);
            while let Some(event) = self.nodes[i].handshakes.poll_event() {
                let node = &mut self.nodes[i];
                match event {
                    HandshakeEvent::Incompatible { what, .. } => node.incompatible.push(what.to_string()),
                    HandshakeEvent::Load(_) => {}
                    HandshakeEvent::Established(session) => {
                        assert!(node.session(session.local_index).is_none(), "an index was used twice");
                        let initiator = session.role == Role::Initiator;
                        let index = session.local_index;
                        node.sessions.push(session);
                        if initiator {
                            node.current = Some(index);
                            self.send_keepalive(i);
                        }
                    }
                }
            }
            while let Some((to, datagram)) = self.nodes[i].handshakes.poll_transmit() {
                self.send(from, to.remote, datagram);
            }
        }
    }

    fn send_keepalive(&mut self, node: usize) {
        self.keepalives += 1;
        if let Some((to, datagram)) = self.nodes[node].keepalive(self.keepalives) {
            self.send(address(self.nodes[node].number), to, datagram);
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let timeouts = self.nodes.iter().filter_map(|node| node.handshakes.poll_timeout());
            let arrivals = self.flying.iter().map(|flying| flying.0);
            let Some(next) = timeouts.chain(arrivals).min().filter(|next| *next <= end) else { break };
            self.now = self.now.max(next);
            let now = self.now;
            let (arrived, flying) = self.flying.drain(..).partition(|flying| flying.0 <= now);
            self.flying = flying;
            for (_, to, from, mut datagram) in arrived {
                if let Some(node) = self.nodes.iter_mut().find(|node| address(node.number) == to) {
                    node.handle(&mut datagram, from, now);
                }
            }
            for node in &mut self.nodes {
                node.handshakes.handle_timeout(now);
                let timeout = node.handshakes.poll_timeout();
                assert!(timeout.is_none_or(|due| due > now), "a timeout that is handled is over");
            }
            self.collect();
        }
        self.now = end;
    }

    /// Checks that each node opens what the other seals.
    fn assert_both_open(&self) {
        for (from, to) in [(0, 1), (1, 0)] {
            let from = self.nodes[from].current();
            let to = self.nodes[to].session(from.remote_index).expect("the session of the datagram");
            let mut body = *b"a symbol";
            let tag = from.sealing.seal(1, b"header", &mut body);
            let mut sealed = [&body[..], &tag].concat();
            assert_eq!(to.opening.open(1, b"header", &mut sealed).unwrap(), b"a symbol");
            assert!(from.at + REJECT_AFTER > self.now && to.at + REJECT_AFTER > self.now);
        }
    }

    /// Checks that they also use the same session in both directions.
    fn assert_one_session(&self) {
        self.assert_both_open();
        let (a, b) = (self.nodes[0].current(), self.nodes[1].current());
        assert_eq!((a.local_index, a.remote_index), (b.remote_index, b.local_index));
        assert_ne!(a.role, b.role);
    }

    /// The last datagram of this type.
    fn last(&self, kind: DatagramType) -> Vec<u8> {
        let found = self.carried.iter().rev().find(|(_, datagram)| DatagramType::of(datagram) == Some(kind));
        found.expect("such a datagram was sent").1.clone()
    }

    /// Hands in a datagram from an unknown address, a moment later. If it is dropped, nothing may be sent or kept.
    fn inject(&mut self, node: usize, datagram: &[u8]) -> Result<(), HandshakeDrop> {
        self.now += 10 * MS;
        let (now, node) = (self.now, &mut self.nodes[node]);
        let state = |node: &Node| {
            let Handshakes { transmits, events, indices, .. } = &node.handshakes;
            (transmits.len(), events.len(), indices.len())
        };
        let before = state(node);
        let outcome = node.handshakes.handle_datagram(datagram, address(99), now);
        assert!(outcome.is_ok() || state(node) == before, "{outcome:?} left something behind");
        outcome
    }
}

/// Makes mac1 right again, as any sender can that knows the receiver's public key.
fn sign(mut datagram: Vec<u8>, receiver: u8) -> Vec<u8> {
    datagram.truncate(datagram.len().saturating_sub(MAC_LEN));
    let mac = MacKey::of(&key(receiver).public_key()).sign(&datagram);
    datagram.extend(mac);
    datagram
}

#[test]
fn a_handshake_makes_one_session_that_works_both_ways() {
    let mut net = Net::pair();
    net.request(0);
    net.request(0);
    net.run(SECOND);
    net.assert_one_session();
    assert_eq!([0, 1].map(|i| net.nodes[i].sessions.len()), [1, 1]);
    assert_eq!([0, 1].map(|i| net.nodes[i].current().remote.epoch), [2, 1]);
    assert_eq!(net.nodes[0].current().role, Role::Initiator);
    assert_eq!(net.nodes[0].current().sealing.cipher(), Cipher::Aes256Gcm);
    assert_eq!(net.nodes[0].current().at, net.start + 50 * MS);
    assert_eq!(net.carried.len(), 3);
}

#[test]
fn a_response_and_the_next_initiation_leave_from_the_address_that_the_peer_used() {
    let mut net = Net::pair();
    net.request(0);
    net.run(SECOND);
    let called = Endpoint { remote: address(1), local: Some("198.51.100.7".parse().unwrap()) };
    net.request(0);
    let call = net.last(DatagramType::Initiation);
    let now = net.now;
    // `call` has not reached node 1 yet.
    let node = &mut net.nodes[1];
    assert_eq!(node.handshakes.handle_datagram(&call, called, now), Ok(()));
    assert_eq!(node.handshakes.poll_transmit().map(|(to, _)| to), Some(called));
    let Some(HandshakeEvent::Established(session)) = node.handshakes.poll_event() else { panic!("no session") };
    assert_eq!(session.endpoint, called);
    assert!(node.handshakes.on_confirmed(session.local_index, now).is_some());
    node.handshakes.request(PeerId(0), now);
    assert_eq!(node.handshakes.poll_transmit().map(|(to, _)| to), Some(called));
    // No response comes from there: our address may be gone, so the kernel chooses for every second initiation.
    node.handshakes.handle_timeout(now + SECOND);
    assert_eq!(node.handshakes.poll_transmit().map(|(to, _)| to), Some(address(1).into()));
}

#[test]
fn two_handshakes_begun_at_once_end_with_the_same_session() {
    for skew in [0, 1, 24, 25, 26, 49, 50, 51] {
        let mut net = Net::pair();
        net.request(0);
        net.run(skew * MS);
        net.request(1);
        net.run(SECOND);
        net.assert_one_session();
        let carried = net.carried.len();
        net.run(30 * SECOND);
        assert_eq!(net.carried.len(), carried, "skew {skew} ms: datagrams are still sent");
    }
}

#[test]
fn any_of_the_first_messages_may_be_lost() {
    for lost in 0..1u32 << 7 {
        for both in [false, true] {
            let mut net = Net::pair();
            let mut number = 0;
            net.fate = Box::new(move |_, _| {
                number += 1;
                if number <= 7 && lost >> (number - 1) & 1 == 1 { Vec::new() } else { vec![25 * MS] }
            });
            net.request(0);
            if both {
                net.request(1);
            }
            for _ in 0..30 {
                net.run(SECOND);
                net.send_keepalive(0);
                net.send_keepalive(1);
            }
            net.run(SECOND);
            // Lost datagrams can leave them with two sessions, one for each direction; the next renewal makes it one.
            net.assert_both_open();
            net.run(140 * SECOND);
            net.assert_one_session();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn a_bad_network_only_delays_a_session(seed: u64, loss in 0.0..0.5f64, slowest in 1..600u32) {
        let mut net = Net::new(vec![(hello(1), vec![peer(2)]), (hello(2), vec![peer(1)])], seed);
        net.fate = Box::new(move |_, random| {
            let copies = if random.random_bool(loss) { 0 } else { random.random_range(1..3) };
            (0..copies).map(|_| random.random_range(1..=slowest) * MS).collect()
        });
        net.request(0);
        net.request(1);
        for _ in 0..300 {
            net.run(SECOND);
            net.send_keepalive(0);
            net.send_keepalive(1);
        }
        net.fate = Box::new(|_, _| vec![25 * MS]);
        for _ in 0..150 {
            net.run(SECOND);
            net.send_keepalive(0);
            net.send_keepalive(1);
        }
        net.run(5 * SECOND);
        net.assert_one_session();
        for node in &net.nodes {
            prop_assert!(node.current().at + REKEY_AS_RESPONDER_AFTER + 10 * SECOND >= net.now, "not renewed");
            prop_assert!(node.handshakes.indices.len() < 40);
        }
    }
}

#[test]
fn sessions_are_renewed_by_the_initiator_and_forgotten_when_expired() {
    let mut net = Net::pair();
    net.request(0);
    net.run(3600 * SECOND);
    net.assert_one_session();
    assert_eq!(net.nodes[0].sessions.len(), 30);
    assert!(net.nodes[0].sessions.iter().all(|session| session.role == Role::Initiator));
    assert!(net.nodes.iter().all(|node| node.handshakes.indices.len() <= 2));
}

#[test]
fn the_responder_renews_when_the_initiator_does_not() {
    let mut net = Net::pair();
    net.request(0);
    net.run(SECOND);
    net.nodes[0] = Node::new(1, hello(3), vec![HandshakePeer { endpoint: None, ..peer(2) }], net.now, 0);
    net.run(130 * SECOND);
    assert!(net.nodes[0].sessions.is_empty());
    net.run(6 * SECOND);
    net.assert_one_session();
    assert_eq!(net.nodes[1].current().role, Role::Initiator);
    assert_eq!(net.nodes[1].current().remote.epoch, 3);
}

#[test]
fn after_a_restart_of_either_side_a_new_session_is_there_within_a_second() {
    for (restarted, survivor) in [(0, 1), (1, 0)] {
        let mut net = Net::pair();
        net.request(0);
        net.run(10 * SECOND);
        let number = net.nodes[restarted].number;
        let other = net.nodes[survivor].number;
        net.nodes[restarted] = Node::new(number, hello(9), vec![peer(other)], net.now, 7);
        net.request(restarted);
        net.run(SECOND);
        net.assert_one_session();
        assert_eq!(net.nodes[survivor].current().remote.epoch, 9);
    }
}

#[test]
fn initiations_to_a_dead_peer_continue_at_a_low_rate() {
    let mut net = Net::pair();
    net.fate = Box::new(|_, _| Vec::new());
    net.request(0);
    net.run(600 * SECOND);
    assert!((100..130).contains(&net.carried.len()), "{} initiations", net.carried.len());
    assert_eq!(net.nodes[0].handshakes.indices.len(), 1);
    net.fate = Box::new(|_, _| vec![25 * MS]);
    net.run(7 * SECOND);
    net.assert_one_session();
}

#[test]
fn a_node_without_endpoints_waits_for_an_initiation() {
    let mut net =
        Net::new(vec![(hello(1), vec![HandshakePeer { endpoint: None, ..peer(2) }]), (hello(2), vec![peer(1)])], 0);
    net.request(0);
    assert!(net.carried.is_empty() && net.nodes[0].handshakes.poll_timeout().is_none());
    net.request(1);
    net.run(SECOND);
    net.assert_one_session();
    // Now it knows the peer's address.
    net.request(0);
    net.run(SECOND);
    assert_eq!(net.nodes[0].current().role, Role::Initiator);
    net.assert_one_session();
}

#[test]
fn three_nodes_do_not_disturb_each_other() {
    let mut net =
        Net::new(vec![(hello(1), vec![peer(2), peer(3)]), (hello(2), vec![peer(1)]), (hello(3), vec![peer(1)])], 0);
    net.nodes[0].handshakes.request(PeerId(1), net.start);
    net.request(0);
    net.request(2);
    net.run(SECOND);
    let with: HashSet<_> = net.nodes[0].sessions.iter().map(|session| (session.peer, session.remote.epoch)).collect();
    assert_eq!(with, HashSet::from([(PeerId(0), 2), (PeerId(1), 3)]));
    assert!(net.nodes[1].opened > 0 && net.nodes[1].current.is_some() && net.nodes[2].current.is_some());
}

#[test]
fn a_different_preshared_key_makes_no_proven_session() {
    let preshared = PresharedKey::generate(&mut StdRng::seed_from_u64(8));
    let mut net =
        Net::new(vec![(hello(1), vec![HandshakePeer { preshared, ..peer(2) }]), (hello(2), vec![peer(1)])], 0);
    net.request(0);
    net.request(1);
    net.run(20 * SECOND);
    for node in &net.nodes {
        assert!(node.current.is_none() && node.confirmed.is_empty());
        assert!(node.sessions.iter().all(|session| session.role == Role::Responder));
        assert!(node.handshakes.indices.len() < 40);
    }
    let wrong = |drop: &HandshakeDrop| *drop == HandshakeDrop::NotAuthentic;
    assert!(net.nodes.iter().any(|node| node.drops.iter().any(wrong)));
}

#[test]
fn incompatible_nodes_both_report_it_once_and_recover_after_a_change() {
    let lanes = Hello { lanes: 4, ..hello(2) };
    let mut net = Net::new(vec![(hello(1), vec![peer(2)]), (lanes, vec![peer(1)])], 0);
    net.request(0);
    net.run(60 * SECOND);
    assert_eq!(net.nodes[0].incompatible.len(), 1);
    assert_eq!(net.nodes[1].incompatible.len(), 1);
    assert!(net.nodes[0].incompatible[0].contains("the peer runs 4 lanes, this node 1"));
    assert!(net.nodes.iter().all(|node| node.sessions.is_empty() && node.handshakes.indices.len() <= 1));
    net.nodes[1] = Node::new(2, hello(3), vec![peer(1)], net.now, 0);
    net.run(7 * SECOND);
    net.assert_one_session();
}

#[test]
fn an_unauthenticated_sender_gets_no_reply_and_leaves_no_state() {
    let mut net = Net::new(vec![(hello(1), vec![peer(2)]), (hello(2), vec![]), (hello(3), vec![peer(2)])], 0);
    net.fate = Box::new(|_, _| Vec::new());
    net.request(0);
    let initiation = net.last(DatagramType::Initiation);
    assert_eq!(net.inject(1, &initiation), Err(HandshakeDrop::UnknownPeer));
    assert_eq!(net.inject(2, &initiation), Err(HandshakeDrop::Stranger));
    assert_eq!(net.inject(2, &sign(initiation, 3)), Err(HandshakeDrop::NotAuthentic));
    let mut random = StdRng::seed_from_u64(4);
    for length in 0..MAX_LEN + 10 {
        let mut datagram = vec![0; length];
        random.fill(&mut datagram[..]);
        if let Some(first) = datagram.first_mut() {
            *first %= 8;
        }
        assert!(net.inject(1, &datagram).is_err());
        assert!(net.inject(1, &sign(datagram, 2)).is_err());
    }
}

#[test]
fn damage_to_any_byte_is_detected_and_the_genuine_message_still_works() {
    let mut net = Net::pair();
    net.fate = Box::new(|_, _| Vec::new());
    net.request(0);
    let initiation = net.last(DatagramType::Initiation);
    for (at, bit) in (0..initiation.len()).flat_map(|at| [(at, 1), (at, 0x80)]) {
        let mut damaged = initiation.clone();
        damaged[at] ^= bit;
        assert!(net.inject(1, &damaged).is_err(), "byte {at}");
        // Only mac1 covers indices: an attacker on the path who can forge it could as well drop the datagram.
        if !(1..4).contains(&at) {
            let outcome = net.inject(1, &sign(damaged, 2));
            assert_eq!(outcome.is_ok(), at >= initiation.len() - MAC_LEN, "byte {at}");
            net.nodes[1] = Node::new(2, hello(2), vec![peer(1)], net.now, 0);
        }
    }
    for length in 0..initiation.len() {
        assert!(net.inject(1, &initiation[..length]).is_err());
    }
    assert_eq!(net.inject(1, &initiation), Ok(()));
    net.collect();

    let response = net.last(DatagramType::Response);
    for (at, bit) in (0..response.len()).flat_map(|at| [(at, 1), (at, 0x80)]) {
        let mut damaged = response.clone();
        damaged[at] ^= bit;
        assert!(net.inject(0, &damaged).is_err(), "byte {at}");
        if !(4..7).contains(&at) && at < response.len() - MAC_LEN {
            assert!(net.inject(0, &sign(damaged, 1)).is_err(), "byte {at}");
        }
    }
    for length in 0..response.len() {
        assert!(net.inject(0, &response[..length]).is_err());
    }
    assert_eq!(net.inject(0, &response), Ok(()));
    assert_eq!(net.inject(0, &response), Err(HandshakeDrop::Unexpected));
    net.fate = Box::new(|_, _| vec![25 * MS]);
    net.collect();
    assert_eq!(net.nodes[0].current().role, Role::Initiator);
}

#[test]
fn a_replayed_initiation_is_dropped_and_after_a_restart_does_not_move_the_peer() {
    let mut net = Net::pair();
    net.request(0);
    net.run(SECOND);
    let old = net.last(DatagramType::Initiation);
    assert_eq!(net.inject(1, &old), Err(HandshakeDrop::Replayed));
    net.run(300 * SECOND);
    assert_eq!(net.inject(1, &old), Err(HandshakeDrop::Replayed));
    let newer = net.last(DatagramType::Initiation);
    assert_eq!(net.inject(1, &newer), Err(HandshakeDrop::Replayed));

    net.nodes[1] = Node::new(2, hello(7), vec![peer(1)], net.now, 0);
    assert_eq!(net.inject(1, &newer), Ok(()));
    assert_eq!(net.inject(1, &newer), Err(HandshakeDrop::Replayed));
    net.request(1);
    net.run(SECOND);
    net.assert_one_session();
    assert_eq!(net.nodes[1].current().endpoint.remote, address(1));
}

#[test]
fn every_drop_has_its_own_name() {
    let names: HashSet<_> = HandshakeDrop::ALL.map(HandshakeDrop::name).into();
    assert_eq!(names.len(), HandshakeDrop::ALL.len());
    for (place, reason) in HandshakeDrop::ALL.into_iter().enumerate() {
        assert_eq!(reason as usize, place);
    }
}
