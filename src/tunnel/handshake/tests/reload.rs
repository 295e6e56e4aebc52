//! Peers that come, go and change while the appliance runs.

use super::*;

#[test]
fn a_reload_calls_only_peers_that_are_new_or_have_changed() {
    let now = Instant::now();
    let mut node = Node::new(1, hello(1), vec![peer(2), peer(3)], now, 0).handshakes;
    let calls = |node: &mut Handshakes| -> Vec<SocketAddr> {
        std::iter::from_fn(|| node.poll_transmit()).map(|(to, _)| to.remote).collect()
    };
    let other = || PresharedKey::generate(&mut StdRng::seed_from_u64(9));
    node.reload(vec![Some(peer(2)), Some(peer(3))], now);
    assert_eq!(calls(&mut node), [], "nothing has changed");
    node.reload(vec![Some(HandshakePeer { preshared: other(), ..peer(2) }), Some(peer(3)), Some(peer(4))], now);
    assert_eq!(calls(&mut node), [address(2), address(4)]);
    let moved = HandshakePeer { endpoint: Some(address(7)), ..peer(3) };
    node.reload(vec![Some(HandshakePeer { preshared: other(), ..peer(2) }), Some(moved), None], now);
    assert_eq!(calls(&mut node), [address(7)]);
    node.handle_timeout(now + Duration::from_secs(60));
    assert!(!calls(&mut node).contains(&address(4)), "a removed peer is not called");
}

#[test]
fn a_removed_peer_is_not_answered_and_comes_back() {
    let mut net = Net::new(vec![(hello(1), vec![peer(2)]), (hello(2), vec![peer(1)])], 0);
    let now = net.now;
    net.nodes[1].handshakes.reload(vec![None], now);
    let mut initiation = {
        net.nodes[0].handshakes.request(PeerId(0), now);
        net.nodes[0].handshakes.poll_transmit().unwrap().1
    };
    net.nodes[1].handle(&mut initiation, address(1), now);
    assert_eq!(net.nodes[1].drops, [HandshakeDrop::UnknownPeer]);
    assert!(net.nodes[1].handshakes.poll_transmit().is_none());
    net.nodes[1].handshakes.reload(vec![Some(peer(1))], now);
    assert!(net.nodes[1].handshakes.poll_transmit().is_some(), "it is called at once");
}

#[test]
fn a_request_for_a_removed_peer_that_comes_late_calls_nobody() {
    let now = Instant::now();
    let mut node = Node::new(1, hello(1), vec![peer(2)], now, 0).handshakes;
    node.reload(vec![None], now);
    node.request(PeerId(0), now);
    node.handle_timeout(now + Duration::from_secs(60));
    assert!(node.poll_transmit().is_none());
}
