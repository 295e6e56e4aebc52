//! Sentences of `docs/protocol.md` that a client relies on, each checked against the publisher with hand-made datagrams
//! and their answers.
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use crate::flows::{at, flow};
use onwire_notify::client::{Core, Wish};
use onwire_notify::envelope::{Direction, Envelope, Key, KeyRing, LEN};
use onwire_notify::message::*;
use onwire_notify::publisher::{Limits, Publisher};

const EPOCH: u64 = 42;
const PORT: u32 = 99;

fn key() -> Key {
    Key::new(1, &[1; 32]).unwrap()
}

fn range(port: u16) -> Range {
    Range { key: flow(port, 10).key, instance: u64::from(port) + 1, start: 0, end: 5 }
}

/// A publisher, and a client that does exactly what the page describes.
struct Harness {
    publisher: Publisher,
    ring: KeyRing,
    now: Instant,
    counter: u64,
}

impl Harness {
    fn new() -> Harness {
        let now = Instant::now();
        let mut ring = KeyRing::new();
        ring.insert(key()).unwrap();
        let publisher = Publisher::new(ring.clone(), Limits::default(), EPOCH, &[3; 32], now);
        Harness { publisher, ring, now, counter: 0 }
    }

    /// Sends a request, whose bytes `change` may change, and returns all that the publisher sends then.
    fn ask_with(&mut self, seq: u32, request: Request, change: impl FnOnce(&mut Vec<u8>)) -> Vec<(Header, Message)> {
        let mut datagram = vec![0; LEN];
        request.emit(seq, PORT, &mut datagram);
        change(&mut datagram);
        self.counter += 1;
        let envelope =
            Envelope { direction: Direction::Request, key: 1, sender: 7, receiver: EPOCH, counter: self.counter };
        key().seal(&envelope, &mut datagram);
        self.publisher.handle_datagram(at(9, 9), &datagram, self.now);
        self.received()
    }

    fn ask(&mut self, seq: u32, request: Request) -> Vec<(Header, Message)> {
        self.ask_with(seq, request, |_| {})
    }

    fn received(&mut self) -> Vec<(Header, Message)> {
        let (mut received, ring) = (vec![], &self.ring);
        self.publisher.poll_datagrams(1000, self.now, |_, bytes| {
            let (_, messages) = ring.open(Direction::Notification, bytes).unwrap();
            received.extend(Messages::new(messages).map(|raw| {
                let raw = raw.unwrap();
                (raw.header, Message::parse(&raw).unwrap())
            }));
            true
        });
        received
    }

    fn token(&mut self, filter: Filter) -> Token {
        match &self.ask(1, subscribe(Token::default(), filter))[..] {
            [(_, Message::Challenge(challenge))] => challenge.token,
            other => panic!("no challenge: {other:?}"),
        }
    }

    /// Begins a subscription to everything that `filter` matches.
    fn subscribe(&mut self, filter: Filter) {
        let token = self.token(filter);
        assert!(granted(&self.ask(1, subscribe(token, filter))));
    }
}

fn subscribe(token: Token, filter: Filter) -> Request {
    Request::Subscribe { lease: Duration::from_secs(1), groups: GROUP_FLOWS | GROUP_BLOCKS, filter, token }
}

fn granted(received: &[(Header, Message)]) -> bool {
    received.iter().any(|(_, message)| matches!(message, Message::Subscribed(_)))
}

fn done(received: &[(Header, Message)]) -> Done {
    match received.iter().find_map(|(_, message)| if let Message::Done(done) = message { Some(*done) } else { None }) {
        Some(done) => done,
        None => panic!("no end of a page: {received:?}"),
    }
}

/// The numbers of notifications, heartbeats apart.
fn numbers(received: &[(Header, Message)]) -> Vec<u32> {
    let counted = |message: &Message| !matches!(message, Message::Heartbeat(_));
    received
        .iter()
        .filter(|(header, message)| header.port == 0 && counted(message))
        .map(|(header, _)| header.seq)
        .collect()
}

#[test]
fn the_answer_about_an_unknown_flow_ends_at_the_head_so_that_a_client_stops_asking() {
    let mut harness = Harness::new();
    harness.subscribe(Filter::default());
    (0..100).for_each(|port| harness.publisher.publish_flow(&flow(port, 10), harness.now));
    harness.received();
    for (port, since, flows) in [(5, 0, 1), (5, 90, 1), (500, 0, 0), (500, 90, 0)] {
        let request = Request::GetFlows { since, begun: None, count: 1, filter: Filter::exactly(&flow(port, 10).key) };
        let received = harness.ask(2, request);
        let end = done(&received);
        let found = received.iter().filter(|(header, _)| header.port == PORT).count() - 1;
        assert_eq!((found, end.count, end.version), (flows, flows as u32, end.head), "{port} since {since}");
        assert!(end.head >= 100);
    }
    // Our own client with such a filter stops asking, too.
    let wish = Wish { filter: Filter::exactly(&flow(500, 10).key), follow: true, ..Wish::default() };
    let mut client = Core::new(key(), wish, 8, harness.now);
    let mut asked = 0;
    for _ in 0..40 {
        let mut out = vec![];
        while client.poll_datagram(&mut out, harness.now) {
            asked += 1;
            harness.publisher.handle_datagram(at(8, 8), &out, harness.now);
        }
        let now = harness.now;
        harness.publisher.poll_datagrams(1000, now, |to, bytes| {
            if to == at(8, 8) {
                client.handle_datagram(bytes, now);
            }
            true
        });
    }
    assert!(client.is_complete() && asked <= 3, "{asked} requests");
}

#[test]
fn a_renewal_takes_any_token_and_a_new_subscription_is_challenged_and_counts_from_1() {
    let mut harness = Harness::new();
    harness.subscribe(Filter::default());
    harness.publisher.publish_flow(&flow(1, 10), harness.now);
    harness.publisher.publish_flow(&flow(2, 10), harness.now);
    assert_eq!(numbers(&harness.received()), [1, 2]);
    for token in [Token::default(), Token([0xab; 16])] {
        assert!(granted(&harness.ask(3, subscribe(token, Filter::default()))));
    }
    harness.publisher.publish_flow(&flow(3, 10), harness.now);
    assert_eq!(numbers(&harness.received()), [3], "a renewal goes on counting");

    harness.now += Duration::from_secs(2);
    harness.publisher.handle_timeout(harness.now);
    harness.received();
    assert_eq!(harness.publisher.subscribers().count(), 0, "the lease has ended");
    harness.subscribe(Filter::default());
    harness.publisher.publish_flow(&flow(4, 10), harness.now);
    let received = harness.received();
    assert_eq!(numbers(&received), [1]);
    assert!(matches!(&received[0].1, Message::Flow(flow) if flow.key.source.port() == 4), "from then on: {received:?}");
}

#[test]
fn a_filter_applies_to_flows_only() {
    let mut harness = Harness::new();
    let filter = Filter { source_port: Some(5), ..Filter::default() };
    harness.subscribe(filter);
    (1..10).for_each(|port| harness.publisher.publish_flow(&flow(port, 10), harness.now));
    let peer = Peer { id: 0, name: Some("syracuse".into()), state: LinkState::Up, reason: StateReason::None };
    harness.publisher.publish_state(&peer, harness.now);
    harness.publisher.publish_violation(0, &[range(7)], harness.now);
    harness.publisher.publish_violation(0, &[], harness.now);
    let block =
        Block { peer: 0, lane: 0, profile: 0, sbn: 1, k: 1, m: 1, level: Some(Level::OnWire), ranges: vec![range(7)] };
    harness.publisher.publish_block(&block);
    harness.now += Duration::from_millis(200);
    let notifications = harness.received();
    let page = harness.ask(2, Request::GetFlows { since: 0, begun: None, count: 48, filter });
    for (received, blocks) in [(&notifications, 1), (&page, 0)] {
        let count = |is: fn(&Message) -> bool| received.iter().filter(|(_, message)| is(message)).count();
        assert_eq!(count(|message| matches!(message, Message::Flow(_))), 1, "{received:?}");
        assert_eq!(count(|message| matches!(message, Message::State(_))), 1, "{received:?}");
        assert_eq!(count(|message| matches!(message, Message::Violation(_))), 2, "{received:?}");
        assert_eq!(count(|message| matches!(message, Message::Block(_))), blocks, "{received:?}");
    }
    assert_eq!(done(&page).violations, 2);
    let counted = |(_, message): &(Header, Message)| match message {
        Message::Heartbeat(heartbeat) => Some(heartbeat.violations),
        _ => None,
    };
    assert_eq!(notifications.iter().find_map(counted), Some(2));
}

#[test]
fn a_loss_of_many_ranges_is_several_violations_and_a_loss_without_ranges_counts_too() {
    let mut harness = Harness::new();
    harness.subscribe(Filter::default());
    let ranges: Vec<Range> = (0..20).map(range).collect();
    harness.publisher.publish_violation(0, &ranges, harness.now);
    harness.publisher.publish_violation(0, &[], harness.now);
    let received = harness.received();
    let received: Vec<(u64, usize)> = received
        .iter()
        .filter_map(|(_, message)| match message {
            Message::Violation(violation) => Some((violation.number, violation.ranges.len())),
            _ => None,
        })
        .collect();
    assert_eq!(received, [(1, 8), (2, 8), (3, 4), (4, 0)]);
}

#[test]
fn flags_beyond_the_request_flag_change_nothing() {
    let whole = Request::GetFlows { since: 0, begun: None, count: 1, filter: Filter::exactly(&flow(1, 10).key) };
    let register = Request::Register { key: flow(1, 10).key, cookie: 5 };
    for request in [whole, register, Request::Flush, Request::Unsubscribe] {
        let answers = [1u16, 1 | 4, 1 | 0x300, 0xffff].map(|flags| {
            let mut harness = Harness::new();
            harness.subscribe(Filter::default());
            harness.publisher.publish_flow(&flow(1, 10), harness.now);
            harness.received();
            harness.ask_with(2, request, |bytes| bytes[LEN + 6..LEN + 8].copy_from_slice(&flags.to_le_bytes()))
        });
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{request:?}: {answers:?}");
        let flags: Vec<u16> = answers[0].iter().map(|(header, _)| header.flags).collect();
        let wanted: &[u16] = match request {
            Request::GetFlows { .. } => &[flags::MULTI; 2],
            Request::Unsubscribe => &[],
            _ => &[flags::CAPPED],
        };
        assert_eq!(flags, wanted, "{request:?}");
    }
    // Without the request flag it is not a request.
    let mut harness = Harness::new();
    harness.subscribe(Filter::default());
    let received = harness.ask_with(2, Request::Flush, |bytes| bytes[LEN + 6..LEN + 8].fill(0));
    assert!(
        matches!(&received[..], [(_, Message::Refused(refusal))] if refusal.code == RefusalCode::Invalid),
        "{received:?}"
    );
}

#[test]
fn a_complete_dump_contains_everything_up_to_notified() {
    let mut harness = Harness::new();
    harness.subscribe(Filter::default());
    for port in 1..8 {
        harness.publisher.publish_flow(&flow(port, 10), harness.now);
    }
    assert_eq!(numbers(&harness.received()), [1, 2, 3, 4, 5, 6, 7]);
    // The dump is read in pages of three flows.
    let mut since = 0;
    let mut seen = 0;
    let end = loop {
        let received =
            harness.ask(10 + seen, Request::GetFlows { since, begun: None, count: 3, filter: Filter::default() });
        let end = done(&received);
        seen += end.count;
        since = end.version;
        if end.version == end.head {
            break end;
        }
    };
    assert_eq!((seen, end.notified, end.head), (7, 7, 7));
}
