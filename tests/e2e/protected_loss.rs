//! Protection when blocks are lost: unrecoverable loss on the path, and drops in a queue of this host.

use std::{
    collections::HashMap,
    io::Write,
    thread,
    time::{Duration, Instant},
};

use onwire::notify::{
    client::{Client, Reason, Status},
    message::{Level, LinkState, Message, StateReason},
};
use serde_json::json;

use crate::{
    datagrams::{Sink, datagram, sender},
    protected_site::{client, connection, follower, messages, notifying_pair, turn, wait_link, write_protected},
    testbed::{MIRROR, Testbed},
};

#[test]
fn a_lost_protected_write_is_a_violation_with_its_bytes_until_acknowledged() {
    let testbed = Testbed::emulated("delay 100ms");
    // One datagram and one repair symbol: one write in eleven is lost. The peer reports that before TCP retransmits.
    let changes = [
        ("/redundancy/steady", json!({ "block_symbols": 8, "repair": { "fixed": 1 } })),
        ("/delivery", json!({ "hold": "20ms" })),
    ];
    let (pair, secret) = notifying_pair(&testbed, &changes);
    let (mut client, mut follower) = (client(&testbed, &secret), follower(&testbed, &secret));
    wait_link(&mut client, LinkState::Up);
    wait_link(&mut follower, LinkState::Up);
    let mut streams = [0; 3].map(|_| connection(&testbed));
    let mut written = 0;
    let deadline = Instant::now() + Duration::from_secs(120);
    for stream in &mut streams {
        wait_link(&mut client, LinkState::Up);
        write_protected(&mut client, stream, b"first");
        let key = Client::flow_of(stream).unwrap().key;
        testbed.wan().tell("set forth loss 30%").unwrap();
        let (mut offset, mut violated) = (5, false);
        while !violated {
            wait_link(&mut client, LinkState::Up);
            let before = offset;
            stream.write_all(&[1; 200]).unwrap();
            offset += 200;
            let mut claimed = false;
            loop {
                let counted = || pair.ithaca.status().peers[0].protection.clone();
                assert!(Instant::now() < deadline, "no violation of {offset} bytes: {:?}", counted());
                match client.status(&key, offset).unwrap() {
                    Status::Protected { level } if level > Level::OnWire => break,
                    Status::Protected { .. } => claimed = true,
                    Status::Pending(Reason::Violated) if claimed => {
                        violated = true;
                        // Data before the loss is not violated.
                        let earlier = client.status(&key, before).unwrap();
                        assert!(matches!(earlier, Status::Protected { .. }), "{earlier:?}");
                        break;
                    }
                    _ => thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        // Only the mirror's acknowledgement ends the violation, and it arrives.
        let mut status = client.status(&key, offset).unwrap();
        while !matches!(status, Status::Protected { .. }) {
            assert!(status == Status::Pending(Reason::Violated) && Instant::now() < deadline, "{status:?}");
            turn(&mut follower);
            status = client.status(&key, offset).unwrap();
        }
        assert_eq!(status, Status::Protected { level: Level::Acked });
        testbed.wan().tell("set forth loss 0%").unwrap();
        written = offset.max(written);
    }
    wait_link(&mut client, LinkState::Up);
    for stream in &mut streams {
        // The violation has ended: new bytes need not wait for the mirror's acknowledgement.
        assert_eq!(write_protected(&mut client, stream, b"after"), Level::OnWire);
    }

    let counted = pair.ithaca.status().peers[0].protection.clone().unwrap();
    assert!(counted.violations >= 3 && counted.lost_blocks >= counted.violations, "{counted:?}");
    let log = pair.ithaca.wait_said("a promise was broken");
    assert!(log.contains(" > 10.2.0.1:"), "{log}");
    let received = messages(&mut follower);
    let mut numbers = Vec::new();
    let mut ranges = 0;
    for message in &received {
        if let Message::Violation(violation) = message {
            numbers.push(violation.number);
            for range in &violation.ranges {
                assert!(range.start < range.end && range.end <= written, "{range:?} of {written} bytes");
                ranges += 1;
            }
        }
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (1..=counted.violations).collect::<Vec<_>>(), "each is received, with a number of its own");
    assert!(ranges >= 3, "{received:?}");
    let is_said = |message: &Message| matches!(message, Message::State(peer) if peer.reason == StateReason::Violation);
    assert!(received.iter().any(is_said), "the link was degraded for a while");
}

/// A flood through a queue on the uplink that is far too small: checks protection during it and after it.
fn flood(gso: &str, commands: &[&str]) {
    let testbed = Testbed::perfect();
    // Between the data of a block and its repair symbols the queue has time to make room.
    let steady = json!({ "close_when_idle": "10ms", "close_after": "20ms", "repair": { "fixed": 4 } });
    let changes = [("/peers/0/path", json!({ "udp_gso": gso })), ("/redundancy/steady", steady)];
    let (pair, secret) = notifying_pair(&testbed, &changes);
    let mut follower = follower(&testbed, &secret);
    wait_link(&mut follower, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut follower, &mut stream, b"first");
    for words in commands {
        let done = testbed.run("ithaca", &words.split(' ').collect::<Vec<_>>());
        assert!(done.is_ok(), "{done:?}; tc missing? apt-get install iproute2");
    }
    // A queue that is added at run time is noticed within a second.
    thread::sleep(Duration::from_secs(2));
    turn(&mut follower);
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    let socket = sender(&testbed.node("primary"), sink.address);
    let mut received = Vec::new();
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        // More than the queue holds and more than it sends before the next burst, by which time it is empty.
        for _ in 0..24 {
            let _ = socket.send(&datagram(number, 1000));
            number += 1;
        }
        let next = Instant::now() + Duration::from_millis(50);
        while Instant::now() < next {
            turn(&mut follower);
        }
        received.append(&mut messages(&mut follower));
    }
    thread::sleep(Duration::from_millis(500));
    turn(&mut follower);
    received.append(&mut messages(&mut follower));
    // After an unprotected packet the count continues in a new instance, from its own beginning.
    let mut packets: HashMap<u64, u64> = HashMap::new();
    for message in &received {
        if let Message::Flow(flow) = message
            && flow.key.destination == sink.address
        {
            let most = packets.entry(flow.instance).or_default();
            *most = (*most).max(flow.packets.unwrap_or(0));
        }
    }
    let claimed: u64 = packets.values().sum();
    let arrived = sink.count() as u64;
    let counted = pair.ithaca.status().peers[0].protection.clone().unwrap();
    println!("{commands:?}, segmentation {gso}: {number} sent, {claimed} protected, {arrived} arrived, {counted:?}");
    assert!(arrived < number * 9 / 10, "the control: {arrived} of {number} passed");
    assert!(claimed <= arrived, "{claimed} called protected, {arrived} arrived: {counted:?}");
    assert_eq!(counted.violations, 0, "{counted:?}");
    assert!(counted.unsendable_blocks > 0, "{counted:?}");
    let is_said = |message: &Message| matches!(message, Message::State(peer) if peer.reason == StateReason::SendErrors);
    assert!(received.iter().any(is_said), "the link was degraded, and not for that reason");
    // Afterwards protection works again.
    wait_link(&mut follower, LinkState::Up);
    write_protected(&mut follower, &mut stream, b"after the flood");
}

#[test]
fn a_datagram_refused_by_a_full_queue_is_not_protected() {
    flood("off", &["tc qdisc add dev wan0 root tbf rate 4mbit burst 5kb limit 10kb"]);
}

#[test]
fn a_train_accepted_only_in_part_is_not_protected() {
    flood("auto", &["tc qdisc add dev wan0 root tbf rate 4mbit burst 5kb limit 10kb"]);
}

#[test]
fn a_datagram_accepted_and_dropped_later_is_not_protected() {
    let queue = [
        "tc qdisc add dev wan0 root handle 1: htb default 1",
        "tc class add dev wan0 parent 1: classid 1:1 htb rate 4mbit burst 5kb",
        "tc qdisc add dev wan0 parent 1:1 pfifo_head_drop limit 10",
    ];
    flood("off", &queue);
}

/// Such a queue refuses with an error and has no counter that is read: only the error reveals the loss.
#[test]
fn a_datagram_refused_by_a_short_queue_below_a_class_is_not_protected() {
    let queue = [
        "tc qdisc add dev wan0 root handle 1: htb default 1",
        "tc class add dev wan0 parent 1: classid 1:1 htb rate 4mbit burst 5kb",
        "tc qdisc add dev wan0 parent 1:1 pfifo limit 10",
    ];
    flood("off", &queue);
}
