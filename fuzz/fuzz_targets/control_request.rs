//! A line from a caller of the control socket: no panic, and what is understood survives a line of our own.
#![no_main]

use libfuzzer_sys::fuzz_target;
use onwire::appliance::control::request::Request;

fuzz_target!(|line: &[u8]| {
    let Ok(request) = Request::parse(line) else { return };
    let emitted = request.emit();
    assert!(!emitted.contains('\n'), "a request is one line");
    assert_eq!(Request::parse(emitted.as_bytes()), Ok(request));
});
