//! Floods of initiations, and cookies.

use std::net::Ipv4Addr;
use std::sync::OnceLock;

use super::*;
use crate::tunnel::handshake::admission::WITHOUT_COOKIE;
use crate::wire::handshake::CookieReply;

/// An initiation that is right but for its Noise message, which is what takes a computation to find.
fn forged(net: &mut Net, receiver: u8) -> Vec<u8> {
    net.request(usize::from(receiver == 1));
    let mut forged = net.last(DatagramType::Initiation);
    forged[60] ^= 1;
    sign(forged, receiver)
}

/// Some address of the Internet, as a sender may write it.
fn any_address(number: u32) -> SocketAddr {
    let ip = Ipv4Addr::from_bits(0x0b00_0000 + number.wrapping_mul(2_654_435_761) % 0x4000_0000);
    SocketAddr::from((ip, (number % 60_000) as u16 + 1024))
}

/// What came of datagrams.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcomes {
    computed: usize,
    cookies: usize,
    dropped: usize,
}

impl Outcomes {
    /// Hands in a datagram, and checks that a reply is only a cookie and shorter.
    fn hand_in(&mut self, node: &mut Handshakes, datagram: &[u8], from: SocketAddr, now: Instant) {
        let before = node.transmits.len();
        match node.handle_datagram(datagram, from, now) {
            Err(HandshakeDrop::RateLimited) => self.dropped += 1,
            Err(HandshakeDrop::WithoutCookie) => {
                self.cookies += 1;
                let (to, reply) = node.transmits.back().unwrap();
                assert_eq!(to.remote, from);
                assert!(reply.len() < datagram.len() && CookieReply::parse(reply).is_some());
            }
            _ => self.computed += 1,
        }
        assert!(node.transmits.len() <= before + 1);
    }
}

/// A hundred thousand initiations of any address in a second. A peer that calls meanwhile, from the address that is known
/// or from another, has its session within that second, and nothing is computed for the flood but its beginning.
#[test]
fn a_peer_gets_its_session_through_a_flood_from_spoofed_addresses() {
    for (is_known, seed) in [(true, 1), (true, 2), (false, 3)] {
        let called = if is_known { peer(2) } else { HandshakePeer { endpoint: None, ..peer(2) } };
        let mut net = Net::new(vec![(hello(1), vec![called]), (hello(2), vec![peer(1)])], seed);
        let forged = forged(&mut Net::pair(), 1);
        let mut outcomes = Outcomes::default();
        for number in 0..100_000 {
            if number == 20_000 {
                net.request(1);
            }
            // A peer at an address that is not known shares its cookies with strangers: 5000 a second are for them, and here
            // 2000 come.
            if is_known || number < 20_000 || number % 50 == 0 {
                let now = net.now;
                outcomes.hand_in(&mut net.nodes[0].handshakes, &forged, any_address(number), now);
            }
            if number % 100 == 99 {
                // Cookies of the flood go nowhere.
                net.nodes[0].handshakes.transmits.retain(|(to, _)| to.remote == address(2));
                net.run(MS);
            }
        }
        assert_eq!(outcomes.computed, WITHOUT_COOKIE.1 as usize, "seed {seed}: {outcomes:?}");
        assert!(outcomes.cookies <= 6200, "seed {seed}: {outcomes:?}");
        net.assert_one_session();
        let took = net.nodes[0].current().at - net.start;
        assert!(took <= 400 * MS, "seed {seed}: a session after {took:?}");
        assert_eq!(net.nodes[1].current().role, Role::Initiator, "its own initiation went through");
        assert!(net.nodes[0].drops.contains(&HandshakeDrop::WithoutCookie), "it had to show a cookie");
        assert!(net.nodes[0].handshakes.indices.len() <= 3 && net.nodes[0].handshakes.admission.sources() <= 2);
    }
}

#[test]
fn a_flood_is_limited_and_does_not_stop_our_own_handshakes() {
    let mut net = Net::pair();
    let forged = forged(&mut Net::pair(), 1);
    net.request(0);
    let mut outcomes = Outcomes::default();
    for _ in 0..1000 {
        outcomes.hand_in(&mut net.nodes[0].handshakes, &forged, address(99), net.now);
    }
    assert_eq!(outcomes.computed, WITHOUT_COOKIE.1 as usize, "{outcomes:?}");
    net.nodes[0].handshakes.transmits.retain(|(to, _)| to.remote == address(2));
    net.run(51 * MS);
    assert_eq!(net.nodes[0].current().role, Role::Initiator);
}

/// Brings node 1 under load and drops what it sends.
fn load(net: &mut Net) {
    static FORGED: OnceLock<Vec<u8>> = OnceLock::new();
    let forged = FORGED.get_or_init(|| forged(&mut Net::pair(), 1));
    let node = &mut net.nodes[0].handshakes;
    let mut outcomes = Outcomes::default();
    for number in 0..110 {
        outcomes.hand_in(node, forged, any_address(number), net.now);
    }
    node.transmits.clear();
}

#[test]
fn an_initiation_with_a_cookie_counts_only_from_its_address_and_until_the_secret_changes() {
    let mut net = Net::pair();
    load(&mut net);
    net.request(1);
    net.run(60 * MS);
    let with_cookie = net.last(DatagramType::CookieInitiation);
    let now = net.now;
    let mut try_from = |from: SocketAddr, datagram: &[u8], now| {
        let node = &mut net.nodes[0].handshakes;
        let outcome = node.handle_datagram(datagram, from, now).unwrap_err();
        node.transmits.clear();
        outcome
    };
    // It was not computed yet: it is still on its way.
    let mut wrong = with_cookie.clone();
    *wrong.last_mut().unwrap() ^= 1;
    assert_eq!(try_from(address(2), &wrong, now), HandshakeDrop::WithoutCookie);
    assert_eq!(try_from(address(3), &with_cookie, now), HandshakeDrop::WithoutCookie);
    let other_port = SocketAddr::new(address(2).ip(), 7118);
    assert_eq!(try_from(other_port, &with_cookie, now), HandshakeDrop::WithoutCookie);
    net.run(80 * MS);
    net.assert_one_session();
    let now = net.now;
    let node = &mut net.nodes[0].handshakes;
    assert_eq!(node.handle_datagram(&with_cookie, address(2), now), Err(HandshakeDrop::Replayed), "computed");
    net.run(120 * SECOND);
    load(&mut net);
    let now = net.now;
    let node = &mut net.nodes[0].handshakes;
    assert_eq!(node.handle_datagram(&with_cookie, address(2), now), Err(HandshakeDrop::WithoutCookie), "too old");
}

#[test]
fn a_cookie_is_used_once_and_only_for_the_initiation_it_answers() {
    let mut net = Net::pair();
    load(&mut net);
    net.request(1);
    net.run(26 * MS);
    let reply = net.last(DatagramType::CookieReply);
    let node = &mut net.nodes[1].handshakes;
    for bit in 0..reply.len() * 8 {
        let mut damaged = reply.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(node.handle_datagram(&damaged, address(1), net.now).is_err(), "bit {bit}");
        assert!(node.transmits.is_empty(), "bit {bit}");
        net.now += 10 * MS;
    }
    assert_eq!(node.handle_datagram(&reply, address(1), net.now), Ok(()));
    assert_eq!(node.transmits.len(), 1);
    assert_eq!(node.handle_datagram(&reply, address(1), net.now), Err(HandshakeDrop::Unexpected));
    node.handle_timeout(net.now + SECOND);
    node.transmits.clear();
    assert_eq!(node.handle_datagram(&reply, address(1), net.now + SECOND), Err(HandshakeDrop::Unexpected));
}

/// A release before cookies knows neither the reply nor the initiation with a cookie. It gets no session under load by
/// its own initiations, but by ours, which the loaded node begins when its lanes miss the peer.
#[test]
fn a_peer_of_an_earlier_release_is_called_by_the_loaded_node() {
    let mut net = Net::pair();
    net.fate = Box::new(|datagram, _| {
        let is_known = !matches!(datagram[0], 3 | 7);
        if is_known { vec![25 * MS] } else { Vec::new() }
    });
    load(&mut net);
    net.request(1);
    net.run(500 * MS);
    assert!(net.nodes.iter().all(|node| node.sessions.is_empty()));
    load(&mut net);
    net.request(0);
    net.run(100 * MS);
    net.assert_one_session();
    assert_eq!(net.nodes[0].current().role, Role::Initiator);
    // Without a load it needs no cookie.
    let mut net = Net::pair();
    net.fate = Box::new(|datagram, _| if matches!(datagram[0], 3 | 7) { Vec::new() } else { vec![25 * MS] });
    net.request(1);
    net.run(100 * MS);
    net.assert_one_session();
    assert_eq!(net.nodes[1].current().role, Role::Initiator);
}

#[test]
fn a_load_is_told_once_and_its_end_too() {
    let mut net = Net::pair();
    let news = |net: &mut Net| -> Vec<bool> {
        let node = &mut net.nodes[0].handshakes;
        node.handle_timeout(net.now);
        let is_loaded = |event| if let HandshakeEvent::Load(is_loaded) = event { Some(is_loaded) } else { None };
        std::iter::from_fn(|| node.poll_event()).filter_map(is_loaded).collect()
    };
    assert!(news(&mut net).is_empty());
    load(&mut net);
    assert_eq!(news(&mut net), [true]);
    net.now += 20 * SECOND;
    load(&mut net);
    assert!(news(&mut net).is_empty());
    net.now = net.nodes[0].handshakes.poll_timeout().unwrap();
    assert_eq!((news(&mut net), net.now - net.start), (vec![false], 51 * SECOND));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    /// Whatever the network does with the four datagrams while the responder is under load.
    #[test]
    fn a_session_comes_through_load_and_loss(seed: u64, loss in 0.0..0.15f64, slowest in 1..300u32) {
        let mut net = Net::new(vec![(hello(1), vec![peer(2)]), (hello(2), vec![peer(1)])], seed);
        net.fate = Box::new(move |_, random| {
            let copies = if random.random_bool(loss) { 0 } else { random.random_range(1..3) };
            (0..copies).map(|_| random.random_range(1..=slowest) * MS).collect()
        });
        net.request(1);
        for _ in 0..240 {
            load(&mut net);
            net.run(500 * MS);
            net.send_keepalive(0);
            net.send_keepalive(1);
        }
        prop_assert!(net.nodes.iter().all(|node| node.current.is_some()), "seed {seed}: no session");
        prop_assert!(net.nodes[0].handshakes.indices.len() < 40);
    }

    /// Bytes of any kind as a cookie reply: nothing is sent and nothing kept, unless they are the reply.
    #[test]
    fn no_forged_cookie_reply_moves_anything(bytes in proptest::collection::vec(any::<u8>(), 56), index: u32) {
        let mut net = Net::pair();
        net.request(1);
        let awaited = net.nodes[1].handshakes.peers[0].attempt.as_ref().unwrap().local_index;
        for index in [awaited, index & INDEX_MAX] {
            let datagram = [&(3 << 24 | index).to_be_bytes()[..], &bytes].concat();
            prop_assert!(net.inject(1, &datagram).is_err());
        }
    }
}

#[test]
fn copies_of_old_initiations_do_not_hold_up_a_node_that_has_started_again() {
    let mut net = Net::pair();
    // The one whose attempt gives way.
    let lesser = usize::from(key(2).public_key() < key(1).public_key());
    let other = 1 - lesser;
    let mut recorded = Vec::new();
    for _ in 0..8 {
        net.request(other);
        recorded.push(net.last(DatagramType::Initiation));
        net.run(3 * SECOND);
    }
    let (number, peer) = (net.nodes[lesser].number, peer(net.nodes[other].number));
    net.nodes[lesser] = Node::new(number, hello(90), vec![peer], net.now, 7);
    let started = net.now;
    net.request(lesser);
    let mut accepted = 0;
    for copy in &recorded {
        let (now, node) = (net.now, &mut net.nodes[lesser]);
        accepted += usize::from(node.handshakes.handle_datagram(copy, address(200), now).is_ok());
        net.collect();
        net.run(60 * MS);
    }
    assert_eq!(accepted, recorded.len(), "it cannot know that they are old");
    net.run(SECOND);
    let session = net.nodes[lesser].current();
    assert_eq!(session.role, Role::Initiator);
    assert!(session.at < started + 700 * MS, "{:?}", session.at - started);
    net.assert_both_open();
}
