//! Protection with two lanes at each end: each connection is on one of them, and subscribers see one appliance.

use std::{
    collections::BTreeSet,
    io::Write,
    time::{Duration, Instant},
};

use onwire::notify::{
    client::{Client, Waited},
    message::{Event, Level, LinkState, Message},
};
use serde_json::json;

use crate::{
    protected_site::{
        client, connect, follower, listener, messages, notifying_pair, protected, soon, turn, wait_link, wait_until,
    },
    testbed::{MIRROR, Testbed},
};

#[test]
fn two_lanes_notify_as_one_appliance() {
    let testbed = Testbed::emulated("delay 5ms");
    let (pair, secret) = notifying_pair(&testbed, &[("/tun/queues", json!(2))]);
    let (mut client, mut follower) = (client(&testbed, &secret), follower(&testbed, &secret));
    wait_link(&mut client, LinkState::Up);
    wait_link(&mut follower, LinkState::Up);
    let listeners = MIRROR.map(|at| listener(&testbed, at));
    let mut streams: Vec<_> = (0..40).map(|number| connect(&testbed, listeners[number % 2])).collect();
    for (number, stream) in streams.iter().enumerate() {
        // Registering a cookie must find the flow on either lane.
        let key = Client::flow_of(stream).unwrap().key;
        assert_eq!(client.register(key, 1000 + number as u64, soon()).unwrap(), Ok(()));
    }
    for round in 1..=5 {
        for stream in &mut streams {
            stream.write_all(&vec![round; 777]).unwrap();
            turn(&mut follower);
        }
        for stream in &streams {
            assert!(protected(&mut client, stream) >= Level::OnWire);
            turn(&mut follower);
        }
    }
    let keys: Vec<_> = streams.iter().map(|stream| Client::flow_of(stream).unwrap().key).collect();
    wait_until(&mut follower, "complete", |follower| follower.core().is_complete());
    let received = messages(&mut follower);
    let lanes: BTreeSet<u8> = received
        .iter()
        .filter_map(|message| match message {
            Message::Block(block) => Some(block.lane),
            _ => None,
        })
        .collect();
    assert_eq!(lanes, BTreeSet::from([0, 1]), "connections are spread over both");
    for (number, key) in keys.iter().enumerate() {
        let of_it = |message: &&Message| matches!(message, Message::Flow(flow) if flow.key == *key);
        let Some(Message::Flow(last)) = received.iter().rfind(of_it) else { panic!("{key:?} was never received") };
        assert_eq!(last.positions.on_wire, Some(5 * 777), "{last:?}");
        assert_eq!(last.cookie, Some(1000 + number as u64), "{last:?}");
        assert!(last.event == Event::Protected && last.violated.is_none(), "{last:?}");
    }
    let instances: BTreeSet<u64> = received
        .iter()
        .filter_map(|message| match message {
            Message::Flow(flow) => Some(flow.instance),
            _ => None,
        })
        .collect();
    assert_eq!(instances.len(), 40, "each connection has a number of its own: {instances:?}");

    // A barrier after the writes covers those of both lanes.
    for round in 1..=5 {
        for stream in &mut streams {
            stream.write_all(&[round; 100]).unwrap();
        }
        assert_eq!(client.flush(soon()).unwrap(), Ok(()));
        let waited = client.barrier(soon()).unwrap();
        assert!(matches!(waited, Waited::Protected { .. }), "{waited:?}");
    }
    assert_eq!(pair.ithaca.status().peers[0].protection.as_ref().unwrap().flows, 40);
}

#[test]
fn a_link_has_the_state_of_its_worst_lane() {
    let testbed = Testbed::perfect();
    let (_pair, secret) = notifying_pair(&testbed, &[("/tun/queues", json!(2))]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let nft = |rule: &str| {
        let words: Vec<&str> = ["nft"].into_iter().chain(rule.split(' ')).collect();
        let done = testbed.run("syracuse", &words);
        assert!(done.is_ok(), "{done:?}; nft missing? apt-get install nftables");
    };
    nft("add table inet lanes");
    nft("add chain inet lanes inward { type filter hook prerouting priority 0 ; }");
    let to = listener(&testbed, MIRROR[0]);
    for port in [7117, 7118] {
        nft(&format!("add rule inet lanes inward udp dport {port} drop"));
        wait_link(&mut client, LinkState::Degraded);
        nft("flush chain inet lanes inward");
        wait_link(&mut client, LinkState::Up);
    }
    let mut streams: Vec<_> = (0..16).map(|_| connect(&testbed, to)).collect();
    for stream in &mut streams {
        stream.write_all(b"both lanes are back").unwrap();
        assert!(protected(&mut client, stream) >= Level::OnWire);
    }

    nft("add rule inet lanes inward udp dport 7117-7118 drop");
    wait_link(&mut client, LinkState::Degraded);
    streams.iter_mut().for_each(|stream| stream.write_all(b"to nobody").unwrap());
    let waited = client.barrier(Instant::now() + Duration::from_millis(500)).unwrap();
    assert!(matches!(waited, Waited::NotProtected { .. }), "{waited:?}");
    nft("flush chain inet lanes inward");
    wait_until(&mut client, "up", |client| client.core().peers().all(|peer| peer.state == LinkState::Up));
    for stream in &streams {
        assert!(protected(&mut client, stream) >= Level::OnWire);
    }
    let waited = client.barrier(soon()).unwrap();
    assert!(matches!(waited, Waited::Protected { .. }), "{waited:?}");
}
