//! The test vectors in `docs/protocol/vectors.txt` equal the datagrams of this crate; `UPDATE_VECTORS=1` writes them.
#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use onwire_notify::envelope::{Direction, Envelope, Key, KeyRing, LEN};
use onwire_notify::message::*;

const PUBLISHER: u64 = 0x1111_2222_3333_4444;
const CLIENT: u64 = 0x5555_6666_7777_8888;
const PORT: u32 = 0x0000_c0de;

fn secret() -> [u8; 32] {
    std::array::from_fn(|at| at as u8)
}

fn flow() -> Flow {
    Flow {
        key: FlowKey::tcp(([10, 1, 0, 1], 43210).into(), ([10, 2, 0, 10], 5432).into()),
        instance: 7,
        peer: 1,
        event: Event::Protected,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(0xfffffff0),
        positions: Positions {
            early: None,
            queued: Some(70_000),
            on_wire: Some(65_536),
            decoded: Some(40_000),
            acked: Some(32_768),
        },
        violated: None,
        packets: None,
        cookie: Some(0xfeed),
        block: Some((32, 4)),
        survives_burst: 0,
    }
}

fn vectors() -> Vec<(&'static str, Direction, u64, u64, Vec<u8>)> {
    let key = flow().key;
    let v6 = FlowKey { protocol: 17, source: ("fd00::1".parse::<std::net::IpAddr>().unwrap(), 1000).into(), ..key };
    let v6 = FlowKey { destination: ("fd00:2::1".parse::<std::net::IpAddr>().unwrap(), 53).into(), ..v6 };
    let up = Peer { id: 1, name: Some("syracuse".into()), state: LinkState::Up, reason: StateReason::None };
    let degraded = Peer { state: LinkState::Degraded, reason: StateReason::NoReports, ..up.clone() };
    let range = Range { key, instance: 7, start: 1000, end: 2448 };
    let token = Token(*b"0123456789abcdef");
    let subscribe = |token| Request::Subscribe {
        lease: Duration::from_secs(1),
        groups: GROUP_FLOWS,
        filter: Filter::default(),
        token,
    };
    let answer = |seq| Header { flags: 0, seq, port: PORT };
    let notification = |seq| Header { flags: 0, seq, port: 0 };
    let refusal =
        Refusal { code: RefusalCode::Invalid, offset: Some(20), text: "attribute 99 at byte 0 is unknown".into() };
    let done = Done { count: 1, since: 0, version: 2, head: 2, notified: 0, violations: 0 };
    let udp = Flow {
        key: v6,
        instance: 8,
        event: Event::Gone(GoneReason::Idle),
        origin: Origin::Middle,
        origin_seq: None,
        positions: Positions { on_wire: Some(512), ..Positions::default() },
        violated: Some(256),
        packets: Some(4),
        cookie: None,
        block: None,
        survives_burst: 0,
        ..flow()
    };
    let block =
        Block { peer: 1, lane: 0, profile: 1, sbn: 91, k: 32, m: 4, level: Some(Level::OnWire), ranges: vec![range] };
    let late = Flow {
        positions: Positions { early: Some(69_000), ..flow().positions },
        survives_burst: 2000,
        block: Some((4, 6)),
        ..flow()
    };
    let whole = Flow { positions: Positions { on_wire: Some(69_000), early: None, ..flow().positions }, ..late };
    let unreachable = Peer { reason: StateReason::Target, ..degraded.clone() };
    let mismodelled = Peer { reason: StateReason::Model, ..degraded.clone() };
    let bypassed = Peer { reason: StateReason::Bypass, ..degraded.clone() };
    let requests: Vec<(&'static str, u64, u32, Request)> = vec![
        ("subscribe, without a token", 0, 1, subscribe(Token::default())),
        ("subscribe, with the token", PUBLISHER, 1, subscribe(token)),
        (
            "get flows: a page",
            PUBLISHER,
            2,
            Request::GetFlows { since: 0, begun: None, count: 48, filter: Filter::default() },
        ),
        (
            "get flows: one flow",
            PUBLISHER,
            3,
            Request::GetFlows { since: 0, begun: None, count: 1, filter: Filter::exactly(&key) },
        ),
        ("register", PUBLISHER, 4, Request::Register { key, cookie: 0xfeed }),
        ("flush", PUBLISHER, 5, Request::Flush),
        ("barrier", PUBLISHER, 6, Request::Barrier),
        ("unsubscribe", PUBLISHER, 7, Request::Unsubscribe),
    ];
    let messages: Vec<(&'static str, Header, Message)> = vec![
        ("challenge", answer(1), Message::Challenge(Challenge { token })),
        (
            "subscribed",
            answer(1),
            Message::Subscribed(Subscribed {
                lease: Duration::from_secs(1),
                heartbeat: Duration::from_millis(100),
                violations: 0,
            }),
        ),
        ("flow, of a page", Header { flags: flags::MULTI, ..answer(2) }, Message::Flow(flow())),
        ("done", answer(2), Message::Done(done)),
        ("flow, notification", notification(1), Message::Flow(flow())),
        ("flow, gone, UDP over IPv6", notification(2), Message::Flow(udp)),
        ("state", notification(3), Message::State(degraded.clone())),
        ("violation", notification(4), Message::Violation(Violation { number: 1, peer: 1, ranges: vec![range] })),
        ("block", notification(5), Message::Block(block)),
        (
            "heartbeat",
            notification(5),
            Message::Heartbeat(Heartbeat { version: 9, violations: 1, peers: vec![Peer { name: None, ..degraded }] }),
        ),
        ("barrier, reached", answer(6), Message::Barrier(Barrier { level: Some(Level::OnWire) })),
        ("acknowledgement", answer(5), Message::Acknowledged),
        ("refusal", answer(8), Message::Refused(refusal)),
        ("flow, late repair has not left", notification(6), Message::Flow(late)),
        ("flow, late repair has left", notification(7), Message::Flow(whole)),
        ("state, a target that cannot be reached", notification(8), Message::State(unreachable)),
        ("state, a model that does not hold", notification(9), Message::State(mismodelled)),
        ("state, packets take another route", notification(10), Message::State(bypassed)),
    ];
    let mut vectors = vec![];
    for (at, (name, receiver, seq, request)) in requests.into_iter().enumerate() {
        let mut bytes = vec![];
        request.emit(seq, PORT, &mut bytes);
        let raw = Messages::new(&bytes).next().unwrap().unwrap();
        assert_eq!(Request::parse(&raw), Ok(request));
        vectors.push((name, Direction::Request, receiver, at as u64 + 1, bytes));
    }
    for (at, (name, header, message)) in messages.into_iter().enumerate() {
        let mut bytes = vec![];
        message.emit(header, &mut bytes);
        let raw = Messages::new(&bytes).next().unwrap().unwrap();
        assert_eq!(Message::parse(&raw), Ok(message));
        vectors.push((name, Direction::Notification, CLIENT, at as u64 + 1, bytes));
    }
    vectors
}

#[test]
fn the_documented_vectors_equal_the_datagrams_of_this_crate() {
    let key = Key::new(1, &secret()).unwrap();
    let mut ring = KeyRing::new();
    ring.insert(key.clone()).unwrap();
    let mut text = String::from(
        "# Datagrams of the notification protocol: a name, then the UDP payload in hexadecimal.\n\
         # Key 1 is the 32 bytes 00 01 02 ... 1f. See ../protocol.md.\n",
    );
    for (name, direction, receiver, counter, messages) in vectors() {
        let sender = if direction == Direction::Request { CLIENT } else { PUBLISHER };
        let mut datagram = [&[0; LEN][..], &messages].concat();
        let envelope = Envelope { direction, key: 1, sender, receiver, counter };
        key.seal(&envelope, &mut datagram);
        assert_eq!(ring.open(direction, &datagram), Ok((envelope, &messages[..])));
        writeln!(text, "\n[{name}]").unwrap();
        for line in datagram.chunks(16) {
            let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(text, "{}", line.join(" ")).unwrap();
        }
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/protocol/vectors.txt");
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let found = std::fs::read_to_string(&path).expect("the vectors are in docs/protocol/vectors.txt");
    assert!(found == text, "docs/protocol/vectors.txt is not what is made here: run with UPDATE_VECTORS=1 and look");
}

/// The names of levels and reasons are those of the documents.
#[test]
fn every_level_and_reason_is_documented() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = std::fs::read_to_string(docs.join("protocol.md")).expect("docs/protocol.md");
    let yaml = std::fs::read_to_string(docs.join("protocol/onwire.yaml")).expect("docs/protocol/onwire.yaml");
    let lua = std::fs::read_to_string(docs.join("protocol/onwire.lua")).expect("docs/protocol/onwire.lua");
    let mut levels = Level::ALL.map(|level| (level.to_wire(), level.name()));
    levels.sort();
    use StateReason::*;
    let reasons =
        [None, NoReports, Violation, SendErrors, NoTimestamps, NoSession, Administrator, Target, Model, Bypass];
    let reasons = reasons.map(|reason| (reason as u8, reason.name()));
    for (row, list) in [("`level` | u8", &levels[..]), ("`reason` | u8", &reasons[..])] {
        let line = page.lines().find(|line| line.contains(row)).expect("a row of the table");
        for (number, name) in list {
            assert!(line.contains(&format!("{number} {name}")), "{number} {name} in protocol.md: {line}");
            assert!(lua.contains(&format!("[{number}] = \"{name}\"")), "{number} {name} in onwire.lua");
        }
        let entries: Vec<String> = list.iter().map(|(_, name)| name.replace([' ', '_'], "-")).collect();
        let entries = format!("entries: [{}]", entries.join(", "));
        assert!(yaml.contains(&entries), "{entries} in onwire.yaml");
    }
}

/// Every attribute is in the tables of `docs/protocol.md`, in the YAML description and in the Lua dissector.
#[test]
fn every_attribute_is_documented() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let page = std::fs::read_to_string(docs.join("protocol.md")).expect("docs/protocol.md");
    let yaml = std::fs::read_to_string(docs.join("protocol/onwire.yaml")).expect("docs/protocol/onwire.yaml");
    let lua = std::fs::read_to_string(docs.join("protocol/onwire.lua")).expect("docs/protocol/onwire.lua");
    for fields in [FIELDS, KEY_FIELDS, PEER_FIELDS, RANGE_FIELDS] {
        for (number, name, shape) in fields {
            let type_name = match shape {
                Shape::U8 => "u8",
                Shape::U16 => "u16",
                Shape::U32 => "u32",
                Shape::U64 => "u64",
                Shape::Port => "port",
                Shape::Address => "address",
                Shape::Text => "string",
                Shape::Binary => "binary",
                Shape::Nested => "nest",
            };
            assert!(page.contains(&format!("| {number} | `{name}` | {type_name} |")), "{name} in protocol.md");
            let entry = format!("name: {name}\n        value: {number}\n");
            assert!(yaml.contains(&entry), "{name} = {number} in onwire.yaml");
            assert!(lua.contains(&format!("[{number}] = {{ \"{name}\", \"{type_name}\"")), "{name} in onwire.lua");
        }
    }
}
