//! Data that must not be called protected: data that the kernel only accepted, and data that travels without repair.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use onwire::notify::{
    client::{Reason, Waited},
    message::{Flow, Level, LinkState, Message},
};
use serde_json::json;

use crate::{
    appliance::Pair,
    protected_site::{
        connection, follower, make_key, messages, notify, notifying_pair, protected, run, soon, text, wait_link,
    },
    testbed::{MIRROR, Testbed},
};

fn flows(received: &[Message]) -> Vec<Flow> {
    let flow = |message: &Message| match message {
        Message::Flow(flow) => Some(*flow),
        _ => None,
    };
    received.iter().filter_map(flow).collect()
}

#[test]
fn level_queued_is_reported_and_does_not_count_as_protected() {
    let testbed = Testbed::emulated("delay 1s");
    let secret = make_key(&testbed);
    let pair = Pair::start_each(&testbed, &[notify(&testbed, "queued")], &[]);
    let mut client = follower(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    stream.write_all(&[1; 5000]).unwrap();
    let waited = client.wait_all(&stream, Instant::now() + Duration::from_millis(700)).unwrap();
    assert_eq!(waited, Waited::NotProtected { reason: Reason::Level(Level::Queued) });
    let output = run(&testbed, &["wait", "--to", MIRROR[0], "--timeout", "300ms"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("the appliance can say no more than queued"), "{output:?}");
    let output = run(&testbed, &["wait", "--to", MIRROR[0], "--level", "queued"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");

    // Only the mirror's feedback gives more, and it arrives.
    assert!(protected(&mut client, &stream) >= Level::Decoded);
    let barrier = client.barrier(soon()).unwrap();
    assert!(!matches!(barrier, Waited::Protected { level: Level::OnWire }), "{barrier:?}");
    let received = messages(&mut client);
    let flows = flows(&received);
    assert!(flows.iter().any(|flow| flow.positions.queued == Some(5000) && flow.positions.acked < Some(5000)));
    for flow in &flows {
        assert_eq!(flow.level, Level::Queued, "{flow:?}");
        let certain = flow.positions.decoded.max(flow.positions.acked);
        assert!(flow.positions.on_wire <= certain.or(Some(0)), "{flow:?}");
    }
    for message in &received {
        if let Message::Block(block) = message {
            assert!(block.level.is_none_or(|level| level == Level::Queued), "{block:?}");
        }
    }
    let protection = pair.ithaca.status().peers[0].protection.clone().unwrap();
    assert_eq!((protection.level.as_str(), protection.protected_blocks), ("queued", 0), "{protection:?}");
}

#[test]
fn without_repair_nothing_is_protected_before_the_peer_has_it() {
    let testbed = Testbed::emulated("delay 1s");
    let off = [
        ("/redundancy/off", json!({ "repair": "none" })),
        ("/policy", json!([{ "protocol": "tcp", "redundancy": "off" }])),
    ];
    let (pair, secret) = notifying_pair(&testbed, &off);
    let mut client = follower(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let mut stream = connection(&testbed);
    messages(&mut client);
    for round in 1..=3 {
        stream.write_all(&[round; 4000]).unwrap();
        let soon_enough = Instant::now() + Duration::from_millis(500);
        let waited = client.wait_all(&stream, soon_enough).unwrap();
        assert!(matches!(waited, Waited::NotProtected { reason: Reason::Deadline }), "{waited:?}");
        assert!(protected(&mut client, &stream) >= Level::Decoded);
    }
    let flows = flows(&messages(&mut client));
    assert!(flows.iter().any(|flow| flow.positions.decoded == Some(12_000)), "{flows:?}");
    for flow in &flows {
        assert!(flow.positions.on_wire <= flow.positions.decoded.max(flow.positions.acked), "{flow:?}");
    }
    assert_eq!(pair.ithaca.status().peers[0].protection.as_ref().unwrap().protected_blocks, 0);
}
