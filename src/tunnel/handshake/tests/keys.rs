//! Peers with two public keys, and nodes that take another.

use super::*;

/// Key of node 1 after its change.
const NEW: u8 = 101;

fn session_count(net: &Net) -> [usize; 2] {
    [0, 1].map(|node| net.nodes[node].sessions.len())
}

fn in_use(net: &Net) -> Option<PublicKey> {
    net.nodes[1].handshakes.key_in_use(PeerId(0))
}

fn public(number: u8) -> PublicKey {
    key(number).public_key()
}

fn take_key(net: &mut Net, node: usize, number: u8) {
    let now = net.now;
    net.nodes[node].handshakes.set_private_key(&key(number), now);
    net.collect();
}

/// The change of a key, step by step as the manual has it, with datagrams in both directions all the time.
#[test]
fn a_key_is_changed_and_the_session_goes_on_throughout() {
    let mut net = Net::pair();
    net.request(0);
    net.run(SECOND);
    net.assert_one_session();
    assert_eq!((session_count(&net), in_use(&net)), ([1, 1], Some(public(1))));

    // The new key is added at node 2.
    let both = HandshakePeer { next: Some(public(NEW)), ..peer(1) };
    let now = net.now;
    net.nodes[1].handshakes.reload(vec![Some(both)], now);
    net.run(10 * SECOND);
    net.assert_one_session();
    assert_eq!((session_count(&net), in_use(&net)), ([1, 1], Some(public(1))), "nothing is made anew");

    // Node 1 takes it.
    take_key(&mut net, 0, NEW);
    net.assert_both_open();
    net.run(SECOND);
    net.assert_one_session();
    assert_eq!((session_count(&net), in_use(&net)), ([2, 2], Some(public(NEW))));
    // Renewals of both roles find the new key.
    net.run(300 * SECOND);
    net.request(1);
    net.run(SECOND);
    net.assert_one_session();
    assert_eq!(net.nodes[1].current().role, Role::Initiator);

    // The old one is removed.
    let before = session_count(&net);
    let now = net.now;
    net.nodes[1].handshakes.reload(vec![Some(HandshakePeer { public: public(NEW), ..peer(1) })], now);
    net.run(10 * SECOND);
    net.assert_one_session();
    assert_eq!((session_count(&net), in_use(&net)), (before, Some(public(NEW))), "nothing is made anew");
    net.run(300 * SECOND);
    net.assert_one_session();
}

#[test]
fn a_restart_with_the_new_key_is_the_same_peer() {
    for calls in [0, 1] {
        let mut net = Net::pair();
        net.request(0);
        net.run(SECOND);
        let both = HandshakePeer { next: Some(public(NEW)), ..peer(1) };
        let now = net.now;
        net.nodes[1].handshakes.reload(vec![Some(both)], now);
        let identity = Identity { private: key(NEW), hello: hello(9) };
        let random = Box::new(StdRng::seed_from_u64(5));
        // Where node 2 calls, it does not know yet which key node 1 has.
        let endpoint = (calls == 0).then(|| address(2));
        let peers = vec![HandshakePeer { endpoint, ..peer(2) }];
        let fresh = Handshakes::new(identity, peers, random, Duration::from_secs(1_700_000_100), now);
        net.nodes[0] = Node { handshakes: fresh, ..Node::new(1, hello(9), vec![], now, 0) };
        net.request(calls);
        net.run(2 * SECOND);
        net.assert_one_session();
        assert_eq!(in_use(&net), Some(public(NEW)));
    }
}

#[test]
fn a_key_that_was_removed_is_refused_and_one_in_use_is_replaced_at_once() {
    let mut net = Net::pair();
    net.request(0);
    net.run(SECOND);
    let now = net.now;
    // The operator takes the old key away although node 1 still has it.
    net.nodes[1].handshakes.reload(vec![Some(HandshakePeer { public: public(NEW), ..peer(1) })], now);
    net.collect();
    net.request(0);
    net.run(SECOND);
    assert!(net.nodes[1].drops.contains(&HandshakeDrop::UnknownPeer), "{:?}", net.nodes[1].drops);
    assert!(net.nodes[0].drops.contains(&HandshakeDrop::Stranger), "node 2 calls the new key at once");
    assert_eq!((session_count(&net), in_use(&net)), ([1, 1], None));
    take_key(&mut net, 0, NEW);
    net.run(SECOND);
    net.assert_one_session();
    assert_eq!(in_use(&net), Some(public(NEW)));
}

#[test]
fn the_response_to_a_key_that_was_removed_meanwhile_makes_no_session() {
    let mut net = Net::pair();
    net.request(1);
    net.run(26 * MS);
    let now = net.now;
    net.nodes[1].handshakes.reload(vec![Some(HandshakePeer { public: public(NEW), ..peer(1) })], now);
    net.collect();
    net.run(100 * MS);
    assert_eq!((session_count(&net)[1], in_use(&net)), (0, None));
}

/// A responder's session counts when the peer uses it; by then its key may be gone.
#[test]
fn a_session_of_a_key_that_was_removed_meanwhile_proves_nothing() {
    let mut net = Net::pair();
    let both = HandshakePeer { next: Some(public(NEW)), ..peer(1) };
    let now = net.now;
    net.nodes[1].handshakes.reload(vec![Some(both.clone())], now);
    // Node 1 begins, and node 2 has answered.
    net.request(0);
    net.run(26 * MS);
    let [session] = &net.nodes[1].sessions[..] else { panic!("{}", net.nodes[1].sessions.len()) };
    let local_index = session.local_index;
    let only_new = HandshakePeer { public: public(NEW), next: None, ..both };
    let now = net.now;
    let node = &mut net.nodes[1].handshakes;
    // An attempt under way does not depend on the removed key, and goes on.
    for has_attempt in [false, true] {
        let sent = |node: &mut Handshakes| std::iter::from_fn(|| node.poll_transmit()).count();
        node.peers[0].attempt = None;
        node.reload(vec![Some(only_new.clone())], now);
        if has_attempt {
            node.request(PeerId(0), now);
        }
        let begun = sent(node);
        assert_eq!(node.on_confirmed(local_index, now), Some(PeerId(0)));
        assert_eq!((begun, sent(node)), if has_attempt { (1, 0) } else { (0, 1) });
        let peer = &node.peers[0];
        assert_eq!((peer.in_use, peer.proven, peer.renew_at), (None, None, None));
        assert_eq!(peer.attempt.as_ref().map(|attempt| attempt.key), Some(public(NEW)));
    }
}

#[test]
fn both_nodes_change_their_keys_at_once() {
    let mut net = Net::pair();
    let with_next = |node: u8| HandshakePeer { next: Some(public(node + 100)), ..peer(node) };
    net.request(0);
    net.run(SECOND);
    let now = net.now;
    net.nodes[0].handshakes.reload(vec![Some(with_next(2))], now);
    net.nodes[1].handshakes.reload(vec![Some(with_next(1))], now);
    (0..2).for_each(|node| take_key(&mut net, node, 101 + node as u8));
    net.run(3 * SECOND);
    net.assert_one_session();
    assert_eq!(in_use(&net), Some(public(101)));
    assert_eq!(net.nodes[0].handshakes.key_in_use(PeerId(0)), Some(public(102)));
    // The same key again is no change.
    let now = net.now;
    net.nodes[0].handshakes.set_private_key(&key(101), now);
    assert!(net.nodes[0].handshakes.poll_transmit().is_none());
}

/// A node with a stolen old key cannot block the new one by a time far in the future.
#[test]
fn the_timestamps_of_one_key_do_not_bind_the_other() {
    let mut net = Net::pair();
    let both = HandshakePeer { next: Some(public(NEW)), ..peer(1) };
    let now = net.now;
    net.nodes[1].handshakes.reload(vec![Some(both)], now);
    let thief = Identity { private: key(1), hello: hello(1) };
    let random = Box::new(StdRng::seed_from_u64(6));
    let mut thief = Handshakes::new(thief, vec![peer(2)], random, Duration::from_secs(9_000_000_000), now);
    thief.request(PeerId(0), now);
    let (_, stolen) = thief.poll_transmit().unwrap();
    assert_eq!(net.inject(1, &stolen), Ok(()));
    net.nodes[1].handshakes.transmits.clear();
    net.nodes[1].handshakes.events.clear();
    take_key(&mut net, 0, NEW);
    net.run(SECOND);
    net.assert_one_session();
}
