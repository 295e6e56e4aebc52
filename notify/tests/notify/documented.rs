//! Sentences of `docs/protocol.md` that a literal client relies on, each against the publisher: datagrams made by hand, and
//! what comes back.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use onwire_notify::client::{Core, Wish};
use onwire_notify::envelope::{Direction, Envelope, Key, KeyRing, LEN};
use onwire_notify::message::*;
use onwire_notify::publisher::{Limits, Publisher};

const EPOCH: u64 = 42;
const PORT: u32 = 99;

fn key() -> Key {
    Key::new(1, &[1; 32]).unwrap()
}

fn at(ip: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, ip], port))
}

fn flow(port: u16) -> Flow {
    Flow {
        key: FlowKey::tcp(at(1, port), at(2, 80)),
        instance: u64::from(port) + 1,
        peer: 0,
        event: Event::Protected,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(1),
        positions: Positions { on_wire: Some(10), ..Positions::default() },
        violated: None,
        packets: None,
        cookie: None,
        block: None,
    }
}

fn range(port: u16) -> Range {
    Range { key: flow(port).key, instance: u64::from(port) + 1, start: 0, end: 5 }
}

/// A publisher and a client that does what the page says and nothing else.
struct Desk {
    publisher: Publisher,
    ring: KeyRing,
    now: Instant,
    counter: u64,
}

impl Desk {
    fn new() -> Desk {
        let now = Instant::now();
        let mut ring = KeyRing::new();
        ring.insert(key()).unwrap();
        let publisher = Publisher::new(ring.clone(), Limits::default(), EPOCH, &[3; 32], now);
        Desk { publisher, ring, now, counter: 0 }
    }

    /// Sends a request, the bytes of which `change` may change, and gives what comes until nothing more does.
    fn ask_with(&mut self, seq: u32, request: Request, change: impl FnOnce(&mut Vec<u8>)) -> Vec<(Header, Message)> {
        let mut datagram = vec![0; LEN];
        request.emit(seq, PORT, &mut datagram);
        change(&mut datagram);
        self.counter += 1;
        let envelope =
            Envelope { direction: Direction::Request, key: 1, sender: 7, receiver: EPOCH, counter: self.counter };
        key().seal(&envelope, &mut datagram);
        self.publisher.handle_datagram(at(9, 9), &datagram, self.now);
        self.told()
    }

    fn ask(&mut self, seq: u32, request: Request) -> Vec<(Header, Message)> {
        self.ask_with(seq, request, |_| {})
    }

    fn told(&mut self) -> Vec<(Header, Message)> {
        let (mut told, ring) = (vec![], &self.ring);
        self.publisher.poll_datagrams(1000, self.now, |_, bytes| {
            let (_, messages) = ring.open(Direction::Notification, bytes).unwrap();
            told.extend(Messages::new(messages).map(|raw| {
                let raw = raw.unwrap();
                (raw.header, Message::parse(&raw).unwrap())
            }));
            true
        });
        told
    }

    fn token(&mut self, filter: Filter) -> Token {
        match &self.ask(1, subscribe(Token::default(), filter))[..] {
            [(_, Message::Challenge(challenge))] => challenge.token,
            other => panic!("no challenge: {other:?}"),
        }
    }

    /// Begins a subscription to everything that `filter` lets pass.
    fn subscribe(&mut self, filter: Filter) {
        let token = self.token(filter);
        assert!(granted(&self.ask(1, subscribe(token, filter))));
    }
}

fn subscribe(token: Token, filter: Filter) -> Request {
    Request::Subscribe { lease: Duration::from_secs(1), groups: GROUP_FLOWS | GROUP_BLOCKS, filter, token }
}

fn granted(told: &[(Header, Message)]) -> bool {
    told.iter().any(|(_, message)| matches!(message, Message::Subscribed(_)))
}

fn done(told: &[(Header, Message)]) -> Done {
    match told.iter().find_map(|(_, message)| if let Message::Done(done) = message { Some(*done) } else { None }) {
        Some(done) => done,
        None => panic!("no end of a page: {told:?}"),
    }
}

/// The numbers of notifications, heartbeats apart.
fn numbers(told: &[(Header, Message)]) -> Vec<u32> {
    let counted = |message: &Message| !matches!(message, Message::Heartbeat(_));
    told.iter().filter(|(header, message)| header.port == 0 && counted(message)).map(|(header, _)| header.seq).collect()
}

#[test]
fn an_answer_about_a_flow_that_nobody_knows_sent_a_literal_client_round_for_ever() {
    let mut desk = Desk::new();
    desk.subscribe(Filter::default());
    (0..100).for_each(|port| desk.publisher.publish_flow(&flow(port), desk.now));
    desk.told();
    for (port, since, flows) in [(5, 0, 1), (5, 90, 1), (500, 0, 0), (500, 90, 0)] {
        let request = Request::GetFlows { since, begun: None, count: 1, filter: Filter::exactly(&flow(port).key) };
        let told = desk.ask(2, request);
        let end = done(&told);
        let found = told.iter().filter(|(header, _)| header.port == PORT).count() - 1;
        assert_eq!((found, end.count, end.version), (flows, flows as u32, end.head), "{port} since {since}");
        assert!(end.head >= 100);
    }
    // Our own client with such a filter asked again and again.
    let wish = Wish { filter: Filter::exactly(&flow(500).key), follow: true, ..Wish::default() };
    let mut client = Core::new(key(), wish, 8, desk.now);
    let mut asked = 0;
    for _ in 0..40 {
        let mut out = vec![];
        while client.poll_datagram(&mut out, desk.now) {
            asked += 1;
            desk.publisher.handle_datagram(at(8, 8), &out, desk.now);
        }
        let now = desk.now;
        desk.publisher.poll_datagrams(1000, now, |to, bytes| {
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
    let mut desk = Desk::new();
    desk.subscribe(Filter::default());
    desk.publisher.publish_flow(&flow(1), desk.now);
    desk.publisher.publish_flow(&flow(2), desk.now);
    assert_eq!(numbers(&desk.told()), [1, 2]);
    for token in [Token::default(), Token([0xab; 16])] {
        assert!(granted(&desk.ask(3, subscribe(token, Filter::default()))));
    }
    desk.publisher.publish_flow(&flow(3), desk.now);
    assert_eq!(numbers(&desk.told()), [3], "a renewal goes on counting");

    desk.now += Duration::from_secs(2);
    desk.publisher.handle_timeout(desk.now);
    desk.told();
    assert_eq!(desk.publisher.subscribers().count(), 0, "the lease has ended");
    desk.subscribe(Filter::default());
    desk.publisher.publish_flow(&flow(4), desk.now);
    let told = desk.told();
    assert_eq!(numbers(&told), [1]);
    assert!(matches!(&told[0].1, Message::Flow(flow) if flow.key.source.port() == 4), "from then on: {told:?}");
}

#[test]
fn a_filter_is_about_flows_and_nothing_else() {
    let mut desk = Desk::new();
    let filter = Filter { source_port: Some(5), ..Filter::default() };
    desk.subscribe(filter);
    (1..10).for_each(|port| desk.publisher.publish_flow(&flow(port), desk.now));
    let peer = Peer { id: 0, name: Some("syracuse".into()), state: LinkState::Up, reason: StateReason::None };
    desk.publisher.publish_state(&peer, desk.now);
    desk.publisher.publish_violation(0, &[range(7)], desk.now);
    desk.publisher.publish_violation(0, &[], desk.now);
    let block =
        Block { peer: 0, lane: 0, profile: 0, sbn: 1, k: 1, m: 1, level: Some(Level::OnWire), ranges: vec![range(7)] };
    desk.publisher.publish_block(&block);
    desk.now += Duration::from_millis(200);
    let notifications = desk.told();
    let page = desk.ask(2, Request::GetFlows { since: 0, begun: None, count: 48, filter });
    for (told, blocks) in [(&notifications, 1), (&page, 0)] {
        let count = |is: fn(&Message) -> bool| told.iter().filter(|(_, message)| is(message)).count();
        assert_eq!(count(|message| matches!(message, Message::Flow(_))), 1, "{told:?}");
        assert_eq!(count(|message| matches!(message, Message::State(_))), 1, "{told:?}");
        assert_eq!(count(|message| matches!(message, Message::Violation(_))), 2, "{told:?}");
        assert_eq!(count(|message| matches!(message, Message::Block(_))), blocks, "{told:?}");
    }
    assert_eq!(done(&page).violations, 2);
    let counted = |(_, message): &(Header, Message)| match message {
        Message::Heartbeat(heartbeat) => Some(heartbeat.violations),
        _ => None,
    };
    assert_eq!(notifications.iter().find_map(counted), Some(2));
}

#[test]
fn a_loss_of_many_ranges_is_several_violations_and_one_of_none_counts_too() {
    let mut desk = Desk::new();
    desk.subscribe(Filter::default());
    let ranges: Vec<Range> = (0..20).map(range).collect();
    desk.publisher.publish_violation(0, &ranges, desk.now);
    desk.publisher.publish_violation(0, &[], desk.now);
    let told = desk.told();
    let told: Vec<(u64, usize)> = told
        .iter()
        .filter_map(|(_, message)| match message {
            Message::Violation(violation) => Some((violation.number, violation.ranges.len())),
            _ => None,
        })
        .collect();
    assert_eq!(told, [(1, 8), (2, 8), (3, 4), (4, 0)]);
}

#[test]
fn flags_of_requests_beyond_the_first_change_nothing() {
    let whole = Request::GetFlows { since: 0, begun: None, count: 1, filter: Filter::exactly(&flow(1).key) };
    let register = Request::Register { key: flow(1).key, cookie: 5 };
    for request in [whole, register, Request::Flush, Request::Unsubscribe] {
        let answers = [1u16, 1 | 4, 1 | 0x300, 0xffff].map(|flags| {
            let mut desk = Desk::new();
            desk.subscribe(Filter::default());
            desk.publisher.publish_flow(&flow(1), desk.now);
            desk.told();
            desk.ask_with(2, request, |bytes| bytes[LEN + 6..LEN + 8].copy_from_slice(&flags.to_le_bytes()))
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
    // Without the first it is no request.
    let mut desk = Desk::new();
    desk.subscribe(Filter::default());
    let told = desk.ask_with(2, Request::Flush, |bytes| bytes[LEN + 6..LEN + 8].fill(0));
    assert!(matches!(&told[..], [(_, Message::Refused(refusal))] if refusal.code == RefusalCode::Invalid), "{told:?}");
}

#[test]
fn what_notified_names_a_complete_dump_has_told() {
    let mut desk = Desk::new();
    desk.subscribe(Filter::default());
    for port in 1..8 {
        desk.publisher.publish_flow(&flow(port), desk.now);
    }
    assert_eq!(numbers(&desk.told()), [1, 2, 3, 4, 5, 6, 7]);
    // The page is asked for and something changes before it is sent: that has a number behind `notified`.
    let mut since = 0;
    let mut seen = 0;
    let end = loop {
        let told = desk.ask(10 + seen, Request::GetFlows { since, begun: None, count: 3, filter: Filter::default() });
        let end = done(&told);
        seen += end.count;
        since = end.version;
        if end.version == end.head {
            break end;
        }
    };
    assert_eq!((seen, end.notified, end.head), (7, 7, 7));
}
