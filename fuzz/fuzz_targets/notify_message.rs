//! Any bytes as messages and as requests: a parsed message is emitted and read back equal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::notify::message::{Message, Messages, Request};

fuzz_target!(|input: &[u8]| {
    for raw in Messages::new(input).flatten() {
        if let Ok(message) = Message::parse(&raw) {
            let mut bytes = vec![];
            message.emit(raw.header, &mut bytes);
            let again = Messages::new(&bytes).next().expect("one message").expect("well formed");
            // Texts are cut to fit, and bytes that are not UTF-8 are replaced; everything else is kept.
            if !matches!(message, Message::State(_) | Message::Refused(_) | Message::Heartbeat(_)) {
                assert_eq!(Message::parse(&again), Ok(message));
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
