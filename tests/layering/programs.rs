//! The program `onwire` holds nothing of the lab, also when both are built from one library: the linker leaves out what
//! `onwire` does not reach. Texts stand for the code that has them.

use std::fs;

/// Texts of the lab: its command line, its scenarios, and one of them.
const TEXTS: [&str; 3] = [
    "Builds a network of two sites and an emulated WAN on this machine",
    "how fast: plain route, bare tunnel, 4 repair symbols for 32",
    "begin to send from primary to mirror",
];

#[test]
fn onwire_holds_nothing_of_the_lab() {
    let read = |program: &str| fs::read(program).unwrap_or_else(|error| panic!("{program}: {error}"));
    let (lab, onwire) = (read(env!("CARGO_BIN_EXE_onwire-lab")), read(env!("CARGO_BIN_EXE_onwire")));
    for text in TEXTS {
        assert!(holds(&lab, text), "src/lab no longer says {text:?}; put a text in its place that it says");
        assert!(!holds(&onwire, text), "`onwire` holds {text:?} of src/lab; find what reaches the lab, and move it");
    }
}

fn holds(program: &[u8], text: &str) -> bool {
    program.windows(text.len()).any(|bytes| bytes == text.as_bytes())
}
