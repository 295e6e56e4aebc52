//! The head of a request to the metrics port: no panic, what is whole stays whole with more behind it, and a refusal is an answer.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::io::http::{Head, MOST_BYTES, parse};

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Head::Partial => assert!(bytes.len() < MOST_BYTES, "a head has an end"),
        Head::Whole(request) => {
            assert!(!request.path.contains(['?', '#']));
            let more = [bytes, b"more"].concat();
            assert_eq!(parse(&more), Head::Whole(request));
        }
        Head::Refused(answer) => assert!(answer.to_bytes(false).starts_with(b"HTTP/1.1 4")),
    }
});
