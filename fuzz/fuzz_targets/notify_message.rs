//! Any bytes as messages and as requests: a parsed message is emitted and read back equal. The same bytes are also read
//! as the attributes of a flow whose other attributes are there, so that few bytes reach what is optional.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::notify::message::{
    Event, Flow, FlowKey, Header, Level, Message, Messages, Origin, Positions, Request,
};

/// A level that is reserved is sent as the one below.
fn lowered(level: Level) -> Level {
    if level == Level::Early { Level::Queued } else { level }
}

/// What is read back of a message.
fn expected(message: Message) -> Message {
    match message {
        Message::Flow(flow) => Message::Flow(Flow { level: lowered(flow.level), ..flow }),
        Message::Block(mut block) => {
            block.level = block.level.map(lowered);
            Message::Block(block)
        }
        Message::Barrier(mut barrier) => {
            barrier.level = barrier.level.map(lowered);
            Message::Barrier(barrier)
        }
        other => other,
    }
}

/// A message of a flow to which these attributes are appended.
fn flow_with(attributes: &[u8]) -> Vec<u8> {
    let flow = Flow {
        key: FlowKey::tcp(([10, 0, 0, 1], 1).into(), ([10, 0, 0, 2], 2).into()),
        instance: 1,
        peer: 1,
        event: Event::Protected,
        level: Level::OnWire,
        origin: Origin::Start,
        origin_seq: Some(1),
        positions: Positions { early: Some(300), on_wire: Some(200), ..Positions::default() },
        violated: None,
        packets: None,
        cookie: None,
        block: None,
        survives_burst: 2000,
    };
    let mut bytes = vec![];
    flow.emit(Header::default(), &mut bytes);
    bytes.extend_from_slice(attributes);
    let len = (bytes.len() as u32).to_le_bytes();
    bytes[..4].copy_from_slice(&len);
    bytes
}

fuzz_target!(|input: &[u8]| {
    let flow = flow_with(input);
    for raw in Messages::new(input).chain(Messages::new(&flow)).flatten() {
        if let Ok(message) = Message::parse(&raw) {
            let mut bytes = vec![];
            message.emit(raw.header, &mut bytes);
            let again = Messages::new(&bytes).next().expect("one message").expect("well formed");
            // Texts are cut to fit, and bytes that are not UTF-8 are replaced; everything else is kept.
            if !matches!(message, Message::State(_) | Message::Refused(_) | Message::Heartbeat(_)) {
                if let Message::Flow(Flow { positions: Positions { early: Some(early), on_wire, .. }, .. }) = message {
                    assert!(Some(early) > on_wire, "early says something only where it is ahead");
                }
                assert_eq!(Message::parse(&again), Ok(expected(message)));
            }
        }
        if let Ok(request) = Request::parse(&raw) {
            let mut bytes = vec![];
            request.emit(raw.header.seq, raw.header.port, &mut bytes);
            let again = Messages::new(&bytes).next().expect("one message").expect("well formed");
            assert_eq!(Request::parse(&again), Ok(request));
        }
    }
});
