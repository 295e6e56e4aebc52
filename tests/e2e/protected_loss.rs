//! Promises where blocks are lost: by the path beyond repair, and by a queue of this host.

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
    protected_site::{client, connection, follower, messages, telling, turn, wait_link, write_protected},
    testbed::{MIRROR, Testbed},
};

#[test]
fn what_was_protected_and_is_lost_is_told_with_its_bytes_and_counts_no_more_until_acknowledged() {
    let testbed = Testbed::emulated("delay 100ms");
    // One datagram and one repair symbol: one write in eleven is lost. The peer says so before TCP sends it again.
    let changes = [
        ("/redundancy/steady", json!({ "block_symbols": 8, "repair": { "fixed": 1 } })),
        ("/delivery", json!({ "hold": "20ms" })),
    ];
    let (pair, secret) = telling(&testbed, &changes);
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
                        // What came before the loss is none of it.
                        let earlier = client.status(&key, before).unwrap();
                        assert!(matches!(earlier, Status::Protected { .. }), "{earlier:?}");
                        break;
                    }
                    _ => thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        // Only the mirror's acknowledgement makes it good, and it does.
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
        // What was lost is made good: the next bytes need not wait for the mirror's word.
        assert_eq!(write_protected(&mut client, stream, b"after"), Level::OnWire);
    }

    let counted = pair.ithaca.status().peers[0].protection.clone().unwrap();
    assert!(counted.violations >= 3 && counted.lost_blocks >= counted.violations, "{counted:?}");
    let log = pair.ithaca.output();
    assert!(log.contains("a promise was broken") && log.contains(" > 10.2.0.1:"), "{log}");
    let told = messages(&mut follower);
    let mut numbers = Vec::new();
    let mut ranges = 0;
    for message in &told {
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
    assert_eq!(numbers, (1..=counted.violations).collect::<Vec<_>>(), "each is told, with a number of its own");
    assert!(ranges >= 3, "{told:?}");
    let is_said = |message: &Message| matches!(message, Message::State(peer) if peer.reason == StateReason::Violation);
    assert!(told.iter().any(is_said), "the link was degraded for a while");
}

/// A flood through a queue on the uplink that is far too small: what is promised during it, and after it.
fn flood(gso: &str, commands: &[&str]) {
    let testbed = Testbed::perfect();
    // Between the data of a block and its repair the queue has time to make room.
    let steady = json!({ "close_when_idle": "10ms", "close_after": "20ms", "repair": { "fixed": 4 } });
    let changes = [("/peers/0/path", json!({ "udp_gso": gso })), ("/redundancy/steady", steady)];
    let (pair, secret) = telling(&testbed, &changes);
    let mut follower = follower(&testbed, &secret);
    wait_link(&mut follower, LinkState::Up);
    let mut stream = connection(&testbed);
    write_protected(&mut follower, &mut stream, b"first");
    for words in commands {
        let done = testbed.run("ithaca", &words.split(' ').collect::<Vec<_>>());
        assert!(done.is_ok(), "{done:?}; tc missing? apt-get install iproute2");
    }
    // A queue that is put there while the appliance runs is noticed within a second.
    thread::sleep(Duration::from_secs(2));
    turn(&mut follower);
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    let socket = sender(&testbed.node("primary"), sink.address);
    let mut told = Vec::new();
    let begin = Instant::now();
    let mut number = 0;
    while begin.elapsed() < Duration::from_secs(4) {
        // More than the queue holds and more than passes until the next time, but it is empty then.
        for _ in 0..24 {
            let _ = socket.send(&datagram(number, 1000));
            number += 1;
        }
        let next = Instant::now() + Duration::from_millis(50);
        while Instant::now() < next {
            turn(&mut follower);
        }
        told.append(&mut messages(&mut follower));
    }
    thread::sleep(Duration::from_millis(500));
    turn(&mut follower);
    told.append(&mut messages(&mut follower));
    // Where a packet is not protected the count goes on as another instance, from its own beginning.
    let mut packets: HashMap<u64, u64> = HashMap::new();
    for message in &told {
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
    assert!(told.iter().any(is_said), "the link was degraded, and not for that reason");
    // And after it all is well.
    wait_link(&mut follower, LinkState::Up);
    write_protected(&mut follower, &mut stream, b"after the flood");
}

#[test]
fn what_a_full_queue_refuses_is_not_protected() {
    flood("off", &["tc qdisc add dev wan0 root tbf rate 4mbit burst 5kb limit 10kb"]);
}

#[test]
fn a_train_of_which_a_queue_took_a_part_is_not_protected() {
    flood("auto", &["tc qdisc add dev wan0 root tbf rate 4mbit burst 5kb limit 10kb"]);
}

#[test]
fn what_a_queue_took_and_dropped_later_is_not_protected() {
    let queue = [
        "tc qdisc add dev wan0 root handle 1: htb default 1",
        "tc class add dev wan0 parent 1: classid 1:1 htb rate 4mbit burst 5kb",
        "tc qdisc add dev wan0 parent 1:1 pfifo_head_drop limit 10",
    ];
    flood("off", &queue);
}

/// Of a queue that says "no" with an error no counter is read: the error alone tells that a datagram is gone.
#[test]
fn what_a_short_queue_below_a_class_refuses_is_not_protected() {
    let queue = [
        "tc qdisc add dev wan0 root handle 1: htb default 1",
        "tc class add dev wan0 parent 1: classid 1:1 htb rate 4mbit burst 5kb",
        "tc qdisc add dev wan0 parent 1:1 pfifo limit 10",
    ];
    flood("off", &queue);
}
