//! Senders without a subscription and misbehaving subscribers are counted by the publisher, and affect no other
//! subscriber.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::flows::{at, flow};
use onwire_notify::client::{Core, Wish};
use onwire_notify::envelope::{Direction, Envelope, Key, KeyRing, LEN};
use onwire_notify::message::*;
use onwire_notify::publisher::{Asked, Limits, Publisher};

const EPOCH: u64 = 42;

fn key(id: u16) -> Key {
    Key::new(id, &[id as u8; 32]).unwrap()
}

fn publisher(now: Instant) -> Publisher {
    let mut keys = KeyRing::new();
    keys.insert(key(1)).unwrap();
    keys.insert(key(2)).unwrap();
    Publisher::new(keys, Limits::default(), EPOCH, &[3; 32], now)
}

/// Carries datagrams both ways until neither side has more; nothing is lost. Returns those that the client sent.
fn exchange(publisher: &mut Publisher, client: &mut Core, from: SocketAddr, now: Instant) -> Vec<Vec<u8>> {
    let mut sent = vec![];
    for _ in 0..20 {
        let mut out = vec![];
        while client.poll_datagram(&mut out, now) {
            publisher.handle_datagram(from, &out, now);
            sent.push(out.clone());
        }
        publisher.poll_datagrams(1000, now, |to, bytes| {
            if to == from {
                client.handle_datagram(bytes, now);
            }
            true
        });
    }
    sent
}

fn subscribed(publisher: &mut Publisher, id: u16, from: SocketAddr, epoch: u64, now: Instant) -> (Core, Vec<Vec<u8>>) {
    let mut client = Core::new(key(id), Wish::default(), epoch, now);
    let sent = exchange(publisher, &mut client, from, now);
    (client, sent)
}

#[test]
fn a_flood_of_subscriptions_is_bounded_per_key_and_in_all() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    for port in 0..200 {
        subscribed(&mut publisher, 1, at((port % 7) as u8, port), 1000 + u64::from(port), now);
    }
    assert_eq!(publisher.subscribers().count(), 48);
    // Another key still has room, until all is full.
    for port in 0..200 {
        subscribed(&mut publisher, 2, at(9, 1000 + port), 5000 + u64::from(port), now);
    }
    assert_eq!(publisher.subscribers().count(), 64);
    assert!(publisher.counters().full >= 300, "{:?}", publisher.counters());
    publisher.handle_timeout(now + Duration::from_secs(2));
    assert_eq!(publisher.subscribers().count(), 0);
}

#[test]
fn senders_without_a_subscription_get_no_more_bytes_than_they_send() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    let mut bytes_in = 0;
    let mut bytes_out = 0;
    for epoch in 1..2000u64 {
        let mut client = Core::new(key(1), Wish::default(), epoch, now);
        let mut out = vec![];
        client.poll_datagram(&mut out, now);
        bytes_in += out.len();
        publisher.handle_datagram(at(1, epoch as u16), &out, now);
    }
    publisher.poll_datagrams(10_000, now, |_, bytes| {
        bytes_out += bytes.len();
        true
    });
    assert!(bytes_out > 0 && bytes_out < bytes_in);
    assert_eq!(publisher.subscribers().count(), 0);
    let counters = publisher.counters();
    assert!(counters.answers_dropped + counters.excess > 1900, "{counters:?}");
}

#[test]
fn a_recorded_subscription_is_useless_elsewhere_or_later() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    let (_, sent) = subscribed(&mut publisher, 1, at(1, 1), 7, now);
    assert_eq!(publisher.subscribers().count(), 1);
    for datagram in &sent {
        publisher.handle_datagram(at(2, 2), datagram, now);
    }
    assert_eq!(publisher.subscribers().count(), 1);
    let later = now + Duration::from_secs(90);
    publisher.handle_timeout(later);
    for datagram in &sent {
        publisher.handle_datagram(at(1, 1), datagram, later);
    }
    assert_eq!(publisher.subscribers().count(), 0);
    // Another run of the publisher, with the same keys.
    let mut keys = KeyRing::new();
    keys.insert(key(1)).unwrap();
    let mut next = Publisher::new(keys, Limits::default(), EPOCH + 1, &[4; 32], now);
    for datagram in &sent {
        next.handle_datagram(at(1, 1), datagram, now);
    }
    assert_eq!(next.subscribers().count(), 0);
    assert!(next.counters().old_epoch > 0);
}

#[test]
fn garbage_wrong_keys_and_reflected_datagrams_are_counted() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    let (_, sent) = subscribed(&mut publisher, 1, at(1, 1), 7, now);
    publisher.handle_datagram(at(1, 1), b"GET / HTTP/1.1\r\n", now);
    publisher.handle_datagram(at(1, 1), &sent[0][..30], now);
    let mut wrong = sent[0].clone();
    wrong[6] = 9;
    publisher.handle_datagram(at(1, 1), &wrong, now);
    publisher.handle_datagram(at(1, 1), sent.last().unwrap(), now);
    let mut echo = vec![];
    publisher.publish_flow(&flow(1, 1), now);
    publisher.poll_datagrams(9, now, |_, bytes| {
        echo = bytes.to_vec();
        true
    });
    publisher.handle_datagram(at(1, 1), &echo, now);
    let counters = publisher.counters();
    assert_eq!((counters.not_ours, counters.forged, counters.replayed, counters.wrong_direction), (2, 1, 1, 1));
}

#[test]
fn a_budget_is_kept_and_nothing_is_lost_by_it() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    let mut clients: Vec<_> =
        (0..5u16).map(|port| subscribed(&mut publisher, 1, at(1, port), 70 + u64::from(port), now).0).collect();
    for port in 0..500 {
        publisher.publish_flow(&flow(port, 10), now);
    }
    let keys: Vec<FlowKey> = (0..500).map(|port| flow(port, 0).key).collect();
    let mut turns = 0;
    loop {
        let mut count = 0;
        publisher.poll_datagrams(8, now, |to, bytes| {
            clients[usize::from(to.port())].handle_datagram(bytes, now);
            count += 1;
            true
        });
        assert!(count <= 8);
        turns += 1;
        if count < 8 {
            break;
        }
    }
    assert!(turns > 10);
    for client in &mut clients {
        assert!(!client.is_stale());
        assert!(client.watch(keys[0], now));
    }
}

#[test]
fn a_subscriber_that_never_reads_does_not_affect_others() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    subscribed(&mut publisher, 1, at(1, 1), 7, now);
    let (mut good, _) = subscribed(&mut publisher, 1, at(2, 2), 8, now);
    let watched = flow(5, 0).key;
    publisher.publish_flow(&flow(5, 10), now);
    good.watch(watched, now);
    exchange(&mut publisher, &mut good, at(2, 2), now);
    publisher.publish_flow(&flow(5, 20), now);
    publisher.poll_datagrams(64, now, |to, bytes| {
        if to == at(2, 2) {
            good.handle_datagram(bytes, now);
        }
        to == at(2, 2)
    });
    assert!(publisher.counters().send_errors > 0);
    let status = good.status(&watched, 20, Level::OnWire, now);
    assert!(matches!(status, onwire_notify::client::Status::Protected { .. }), "{status:?}");
}

#[test]
fn positions_never_fall_and_old_instances_are_not_sent() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    let mut client = Core::new(key(1), Wish { follow: true, ..Wish::default() }, 9, now);
    publisher.publish_flow(&flow(1, 100), now);
    publisher.publish_flow(&flow(1, 50), now);
    publisher.publish_flow(&Flow { instance: 1, ..flow(1, 900) }, now);
    publisher.publish_violation(0, &[Range { key: flow(1, 0).key, instance: 2, start: 30, end: 60 }], now);
    exchange(&mut publisher, &mut client, at(1, 1), now);
    let received: Vec<Flow> = std::iter::from_fn(|| client.poll_message())
        .filter_map(|message| match message {
            Message::Flow(flow) => Some(flow),
            _ => None,
        })
        .collect();
    assert!(!received.is_empty());
    for flow in received {
        assert_eq!((flow.instance, flow.positions.on_wire, flow.violated), (2, Some(100), Some(30)));
    }
    assert_eq!(publisher.counters().stale_updates, 1);
}

#[test]
fn blocks_are_sent_to_their_subscribers_and_a_slow_one_sees_a_gap() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    let wish = Wish { follow: true, groups: GROUP_BLOCKS, ..Wish::default() };
    let mut client = Core::new(key(1), wish, 9, now);
    exchange(&mut publisher, &mut client, at(1, 1), now);
    let block = |sbn| Block { peer: 0, lane: 0, profile: 0, sbn, k: 3, m: 1, level: None, ranges: vec![] };
    for sbn in 0..300 {
        publisher.publish_block(&block(sbn));
    }
    exchange(&mut publisher, &mut client, at(1, 1), now);
    let received: Vec<u64> = std::iter::from_fn(|| client.poll_message())
        .filter_map(|message| match message {
            Message::Block(block) => Some(block.sbn),
            _ => None,
        })
        .collect();
    assert_eq!(received, (44..300).collect::<Vec<_>>());
    assert_eq!(publisher.counters().blocks_skipped, 44);
    assert!(client.is_stale());
}

#[test]
fn flushes_are_merged_refusals_are_counted_and_unsubscribing_ends_the_session() {
    let now = Instant::now();
    let mut publisher = publisher(now);
    let (mut client, _) = subscribed(&mut publisher, 1, at(1, 1), 7, now);
    let number = client.request(Request::Flush, now).unwrap();
    client.request(Request::Flush, now).unwrap();
    exchange(&mut publisher, &mut client, at(1, 1), now);
    assert!(client.poll_outcome(number).is_some());
    assert_eq!((publisher.poll_asked(), publisher.poll_asked()), (Some(Asked::Flush), None));

    let mut datagram = vec![0; LEN];
    Request::Flush.emit(900, 1, &mut datagram);
    datagram.extend_from_slice(&[4, 0, 99, 0]);
    datagram[LEN] += 4;
    let envelope = Envelope { direction: Direction::Request, key: 1, sender: 7, receiver: EPOCH, counter: 900 };
    key(1).seal(&envelope, &mut datagram);
    publisher.handle_datagram(at(1, 1), &datagram, now);
    assert_eq!(publisher.counters().refused, 1);

    client.request(Request::Unsubscribe, now).unwrap();
    let mut out = vec![];
    while client.poll_datagram(&mut out, now) {
        publisher.handle_datagram(at(1, 1), &out, now);
    }
    assert_eq!(publisher.subscribers().count(), 0);
}
