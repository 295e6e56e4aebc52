//! The codec of the notification protocol: emitted messages are read back equal, another netlink library reads the same
//! bytes, and no bytes make the parser panic.
//!
//! The other library reads in the machine's byte order. This protocol is little-endian, like the machines that run this
//! test.
#![allow(clippy::unwrap_used)]

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use netlink_packet_core::{DoneBuffer, ErrorBuffer, NetlinkBuffer, NlasIterator};
use onwire_notify::message::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

fn address() -> impl Strategy<Value = SocketAddr> {
    prop_oneof![any::<([u8; 4], u16)>().prop_map(SocketAddr::from), any::<([u8; 16], u16)>().prop_map(SocketAddr::from)]
}

fn key() -> impl Strategy<Value = FlowKey> {
    (any::<u8>(), address(), address()).prop_map(|(protocol, source, destination)| FlowKey {
        protocol,
        source,
        destination,
    })
}

/// A level that messages name; `early` is reserved.
fn level() -> impl Strategy<Value = Level> {
    (0..Level::COUNT).prop_map(|at| Level::ALL[at]).prop_filter("reserved", |level| *level != Level::Early)
}

fn positions() -> impl Strategy<Value = Positions> {
    any::<[Option<u64>; 5]>().prop_map(|[queued, early, on_wire, decoded, acked]| Positions {
        queued,
        early: early.filter(|early| Some(*early) > on_wire),
        on_wire,
        decoded,
        acked,
    })
}

fn event() -> impl Strategy<Value = Event> {
    use GoneReason::*;
    prop_oneof![
        Just(Event::New),
        Just(Event::Protected),
        prop_oneof![Just(Closed), Just(Idle), Just(Evicted), Just(Replaced)].prop_map(Event::Gone)
    ]
}

prop_compose! {
    fn flow()(
        key in key(), instance: u64, peer: u32, event in event(), level in level(), middle: bool,
        origin_seq: Option<u32>, positions in positions(), violated: Option<u64>, packets: Option<u64>, cookie: Option<u64>,
        block: Option<(u16, u16)>, survives_burst: u32,
    ) -> Flow {
        let origin = if middle { Origin::Middle } else { Origin::Start };
        Flow { key, instance, peer, event, level, origin, origin_seq, positions, violated, packets, cookie, block, survives_burst }
    }
}

prop_compose! {
    fn peer(named: bool)(id: u32, name in "[a-zäß]{1,20}", state in 0..4usize, reason in 0..9usize) -> Peer {
        use StateReason::*;
        Peer {
            id,
            name: named.then(|| name.into()),
            state: [LinkState::Up, LinkState::Degraded, LinkState::Down, LinkState::Draining][state],
            reason: [None, NoReports, Violation, SendErrors, NoTimestamps, NoSession, Administrator, Target, Model][reason],
        }
    }
}

prop_compose! {
    fn range()(key in key(), instance: u64, start: u64, end: u64) -> Range {
        Range { key, instance, start, end }
    }
}

prop_compose! {
    fn block()(
        peer: u32, lane: u8, profile: u8, sbn: u64, k: u16, m: u16,
        level in option::of(level()), ranges in vec(range(), 0..=MAX_RANGES),
    ) -> Block {
        Block { peer, lane, profile, sbn, k, m, level, ranges }
    }
}

fn refusal() -> impl Strategy<Value = Refusal> {
    let codes = [
        RefusalCode::Invalid,
        RefusalCode::NotSupported,
        RefusalCode::Other(-107),
        RefusalCode::Full,
        RefusalCode::Other(-5),
    ];
    (0..5usize, any::<Option<u32>>(), "[a-zäß ]{0,60}").prop_map(move |(code, offset, text)| Refusal {
        code: codes[code],
        offset,
        text: Cow::Owned(text),
    })
}

fn message() -> impl Strategy<Value = Message> {
    prop_oneof![
        flow().prop_map(Message::Flow),
        block().prop_map(Message::Block),
        peer(true).prop_map(Message::State),
        (any::<(u64, u32)>(), vec(range(), 0..=MAX_RANGES))
            .prop_map(|((number, peer), ranges)| Message::Violation(Violation { number, peer, ranges })),
        (any::<(u64, u64)>(), vec(peer(false), 0..=HEARTBEAT_PEERS))
            .prop_map(|((version, violations), peers)| Message::Heartbeat(Heartbeat { version, violations, peers })),
        option::of(level()).prop_map(|level| Message::Barrier(Barrier { level })),
        any::<[u8; 16]>().prop_map(|token| Message::Challenge(Challenge { token: Token(token) })),
        any::<(u32, u32, u64)>().prop_map(|(lease, heartbeat, violations)| Message::Subscribed(Subscribed {
            lease: Duration::from_millis(lease.into()),
            heartbeat: Duration::from_millis(heartbeat.into()),
            violations,
        })),
        any::<(u32, u64, u64, u64, u32, u64)>().prop_map(|(count, since, version, head, notified, violations)| {
            Message::Done(Done { count, since, version, head, notified, violations })
        }),
        refusal().prop_map(Message::Refused),
        Just(Message::Acknowledged),
    ]
}

prop_compose! {
    fn filter()(
        protocol: Option<u8>, source in option::of(address()), destination in option::of(address()),
        source_port: Option<u16>, destination_port: Option<u16>, cookie: Option<u64>,
    ) -> Filter {
        let (source, destination) = (source.map(|at| at.ip()), destination.map(|at| at.ip()));
        Filter { protocol, source, destination, source_port, destination_port, cookie }
    }
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        (any::<(u32, u32, [u8; 16])>(), filter()).prop_map(|((lease, groups, token), filter)| Request::Subscribe {
            lease: Duration::from_millis(lease.into()),
            groups,
            filter,
            token: Token(token)
        }),
        Just(Request::Unsubscribe),
        (any::<(u64, u32, Option<u64>)>(), filter()).prop_map(|((since, count, begun), filter)| Request::GetFlows {
            since,
            begun,
            count,
            filter
        }),
        (key(), any::<u64>()).prop_map(|(key, cookie)| Request::Register { key, cookie }),
        Just(Request::Flush),
        Just(Request::Barrier),
    ]
}

fn header() -> impl Strategy<Value = Header> {
    any::<(bool, u32, u32)>().prop_map(|(multi, seq, port)| Header {
        flags: if multi { flags::MULTI } else { 0 },
        seq,
        port,
    })
}

/// Counts attributes, those inside nested attributes included, as the other library sees them.
fn walk(list: &[u8]) -> usize {
    let mut count = 0;
    for attribute in NlasIterator::new(list) {
        let attribute = attribute.expect("the oracle reads every attribute");
        count += 1;
        if attribute.nested_flag() {
            count += walk(attribute.value());
        }
    }
    count
}

proptest! {
    #[test]
    fn emitted_messages_are_read_back(messages in vec((header(), message()), 1..4)) {
        let mut bytes = vec![];
        for (header, message) in &messages {
            let start = bytes.len();
            message.emit(*header, &mut bytes);
            prop_assert!(bytes.len() - start <= MAX_DATAGRAM - onwire_notify::envelope::LEN);
            prop_assert_eq!(bytes.len() % 4, 0);
            prop_assert!(!matches!(message, Message::Flow(_)) || bytes.len() - start <= 268);
        }
        let read: Vec<_> = Messages::new(&bytes).collect();
        prop_assert_eq!(read.len(), messages.len());
        for (raw, (header, message)) in read.into_iter().zip(messages) {
            let raw = raw.unwrap();
            prop_assert_eq!((raw.header.seq, raw.header.port), (header.seq, header.port));
            prop_assert_eq!(Message::parse(&raw).unwrap(), message);
        }
    }

    #[test]
    fn requests_are_read_back(request in request(), seq: u32, port in 1..=u32::MAX) {
        let mut bytes = vec![];
        request.emit(seq, port, &mut bytes);
        let raw = Messages::new(&bytes).next().unwrap().unwrap();
        prop_assert_eq!((raw.header.seq, raw.header.port), (seq, port));
        prop_assert_eq!(Request::parse(&raw), Ok(request));
    }

    #[test]
    fn another_netlink_library_reads_the_same(header in header(), message in message()) {
        let mut bytes = vec![];
        message.emit(header, &mut bytes);
        let seen = NetlinkBuffer::new_checked(&bytes).unwrap();
        let raw = Messages::new(&bytes).next().unwrap().unwrap();
        prop_assert_eq!(seen.length() as usize, bytes.len());
        prop_assert_eq!(seen.message_type(), raw.kind);
        prop_assert_eq!(seen.flags(), raw.header.flags);
        prop_assert_eq!(seen.sequence_number(), header.seq);
        prop_assert_eq!(seen.port_number(), header.port);
        prop_assert_eq!(seen.payload(), raw.body);
        match &message {
            Message::Refused(_) | Message::Acknowledged => {
                let error = ErrorBuffer::new_checked(raw.body).unwrap();
                prop_assert_eq!(error.code().is_none(), message == Message::Acknowledged);
                let repeated = NetlinkBuffer::new_checked(error.payload()).unwrap();
                prop_assert_eq!(repeated.sequence_number(), header.seq);
                walk(&error.payload()[16..]);
            }
            Message::Done(_) => {
                let done = DoneBuffer::new_checked(raw.body).unwrap();
                prop_assert_eq!(done.code(), 0);
                prop_assert_eq!(walk(done.extended_ack()), 6);
            }
            Message::Barrier(Barrier { level: None }) => prop_assert_eq!(walk(&raw.body[4..]), 0),
            _ => prop_assert!(walk(&raw.body[4..]) > 0),
        }
    }

    #[test]
    fn no_bytes_make_the_parser_panic(mut bytes in vec(any::<u8>(), 0..200), kind in 0..6u16, command in 0..14u8) {
        read_all(&bytes);
        // A header that fits lets the parser read the rest of the bytes.
        if bytes.len() >= 20 {
            let len = (bytes.len() as u32).to_le_bytes();
            bytes[..4].copy_from_slice(&len);
            let kind = if kind < 4 { kind } else { FAMILY };
            bytes[4..6].copy_from_slice(&kind.to_le_bytes());
            bytes[16] = command;
            bytes[17] = VERSION;
            read_all(&bytes);
        }
    }

    #[test]
    fn changed_bytes_do_not_make_the_parser_panic(
        message in message(), request in request(), changes in vec(any::<(proptest::sample::Index, u8)>(), 1..5),
    ) {
        let (mut one, mut two) = (vec![], vec![]);
        message.emit(Header::default(), &mut one);
        request.emit(1, 1, &mut two);
        for mut bytes in [one, two] {
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            read_all(&bytes);
        }
    }
}

fn read_all(bytes: &[u8]) {
    for raw in Messages::new(bytes).flatten() {
        let _ = Message::parse(&raw);
        let _ = Request::parse(&raw);
    }
}

/// A request with the given attributes after it.
fn request_with(request: Request, extra: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    request.emit(1, 1, &mut bytes);
    bytes.extend_from_slice(extra);
    let len = (bytes.len() as u32).to_le_bytes();
    bytes[..4].copy_from_slice(&len);
    bytes
}

#[test]
fn unknown_attributes_are_refused_in_requests_and_ignored_in_messages() {
    let unknown = [5, 0, 99, 0, 1, 0, 0, 0];
    let bytes = request_with(Request::Flush, &unknown);
    let refusal = Request::parse(&Messages::new(&bytes).next().unwrap().unwrap()).unwrap_err();
    assert_eq!((refusal.code, refusal.offset), (RefusalCode::Invalid, Some(20)));
    assert_eq!(refusal.text, "attribute 99 at byte 0 is unknown");

    let mut bytes = vec![];
    Message::Barrier(Barrier { level: Some(Level::OnWire) }).emit(Header::default(), &mut bytes);
    bytes.extend_from_slice(&unknown);
    let len = (bytes.len() as u32).to_le_bytes();
    bytes[..4].copy_from_slice(&len);
    let raw = Messages::new(&bytes).next().unwrap().unwrap();
    assert_eq!(Message::parse(&raw), Ok(Message::Barrier(Barrier { level: Some(Level::OnWire) })));
}

/// Clients from before level `early` drop a whole message in which they meet it.
#[test]
fn no_message_says_level_early() {
    let flow = crate::flows::flow(1, 100);
    let block = Block { peer: 0, lane: 0, profile: 0, sbn: 1, k: 1, m: 1, level: Some(Level::Early), ranges: vec![] };
    for message in [
        Message::Flow(Flow { level: Level::Early, ..flow }),
        Message::Block(block),
        Message::Barrier(Barrier { level: Some(Level::Early) }),
    ] {
        let mut bytes = vec![];
        message.emit(Header::default(), &mut bytes);
        let level = match Message::parse(&Messages::new(&bytes).next().unwrap().unwrap()).unwrap() {
            Message::Flow(flow) => Some(flow.level),
            Message::Block(block) => block.level,
            Message::Barrier(barrier) => barrier.level,
            other => panic!("{other:?}"),
        };
        assert_eq!(level, Some(Level::Queued), "{message:?}");
    }
}

/// Publishers and clients from before `early` and `survives-burst`, and values that say nothing.
#[test]
fn a_flow_without_late_repair_has_neither_attribute_and_early_counts_only_where_it_is_ahead() {
    let emitted = |flow: &Flow| {
        let mut bytes = vec![];
        flow.emit(Header::default(), &mut bytes);
        bytes
    };
    let read = |bytes: &[u8]| match Message::parse(&Messages::new(bytes).next().unwrap().unwrap()).unwrap() {
        Message::Flow(flow) => flow,
        other => panic!("{other:?}"),
    };
    let plain = crate::flows::flow(1, 100);
    let early = |early| Flow { positions: Positions { early: Some(early), ..plain.positions }, ..plain };
    for same in [early(0), early(99), early(100)] {
        assert_eq!(emitted(&same), emitted(&plain));
    }
    let ahead = Flow { survives_burst: 2000, ..early(101) };
    assert_eq!(read(&emitted(&ahead)), ahead);
    assert_eq!(emitted(&ahead).len(), emitted(&plain).len() + 12 + 8);
    // A value that is not ahead says nothing, whoever sent it.
    let mut bytes = emitted(&ahead);
    let at = bytes.windows(4).position(|bytes| bytes == [12, 0, 33, 0]).unwrap() + 4;
    bytes[at..at + 8].copy_from_slice(&100u64.to_le_bytes());
    assert_eq!(read(&bytes), Flow { survives_burst: 2000, ..plain });
}

#[test]
fn offsets_point_into_nested_lists() {
    // A key (type 1) that holds a protocol (type 1) of two bytes.
    let key = [12, 0, 1, 0x80, 6, 0, 1, 0, 6, 6, 0, 0];
    let bytes = request_with(Request::GetFlows { since: 0, begun: None, count: 9, filter: Filter::default() }, &key);
    let refusal = Request::parse(&Messages::new(&bytes).next().unwrap().unwrap()).unwrap_err();
    // Headers, the attributes `since` and `count`, the header of the key.
    assert_eq!(refusal.offset, Some(20 + 12 + 8 + 4));
}
