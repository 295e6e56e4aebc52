//! Holds each rule to short sources: it notices what it is for, and passes what it allows.

use crate::content::{MOST_LINES, MOST_LINES_WITH_A_REASON};
use crate::source::{self, Source};
use crate::{check, circles, words};

/// What the rules say about a file with this text behind a proper first line.
fn violations_in(path: &str, text: &str, long_files: &[(&str, &str)]) -> Vec<String> {
    let mut violations = Vec::new();
    check(&Source::parse(path, &format!("//! A file.\n{text}\n")), long_files, &mut violations);
    violations
}

/// The circles among these files.
fn circles_among(files: &[(&str, &str)]) -> Vec<String> {
    let mut sources: Vec<Source> = files.iter().map(|(path, text)| Source::parse(path, text)).collect();
    source::mark_tests(&mut sources);
    let mut violations = Vec::new();
    circles::check(&sources, &mut violations);
    violations
}

#[test]
fn each_rule_notices_what_it_is_for() {
    let long = "fn a() {}\n".repeat(MOST_LINES - 1);
    let cases = [
        ("src/wire/a.rs", "use crate::fec::code::Code;", ":2: `wire` imports `fec::code`"),
        ("src/fec/a.rs", "fn a() { crate::tunnel::b() }", "imports `tunnel::b`"),
        ("src/fec/a.rs", "fn a() {\n    assert!(b(1) == crate::tunnel::b(1))\n}", ":3: `fec` imports `tunnel::b`"),
        ("src/fec/a.rs", "a! { use crate::{wire::b, lab::{c, d}}; }", "imports `lab::c`"),
        ("src/fec/a.rs", "#[b(c = crate::lab::d)]\nfn a() {}", "imports `lab::d`"),
        ("src/fec/a.rs", "type A = Vec<Option<crate::lab::B>>;", "imports `lab::B`"),
        ("src/fec/a.rs", "use crate::{wire::adu, io::{udp, tun}};", "imports `io::udp`"),
        ("src/fec/a.rs", "use crate::{\n    wire::adu,\n    lab,\n};", ":4: `fec` imports `lab`"),
        ("src/fec/a.rs", "use crate::lab::*;", "imports `lab`"),
        ("src/fec/mod.rs", "use super::tunnel::peer;", "imports `tunnel::peer`"),
        ("src/fec/a.rs", "use super::super::tunnel;", "imports `tunnel`"),
        ("src/fec/a.rs", "mod b {\n    use super::super::super::tunnel;\n}", "imports `tunnel`"),
        ("src/fec/a.rs", "#[cfg(test)]\nmod tests {\n    use crate::lab::b;\n}", "imports `lab::b`"),
        ("src/lab/wan/a.rs", "use super::super::super::cli;", "imports `cli`"),
        ("src/lab/a.rs", "use crate::appliance::lane::Lane;", "imports `appliance::lane`"),
        ("src/main.rs", "fn main() { onwire::lab::run() }", "imports `lab::run`"),
        ("src/bin/a.rs", "fn main() { onwire::cli::main() }", "imports `cli::main`"),
        ("src/wire/a.rs", "use onwire_notify::message;", "imports `notify::message`"),
        ("notify/src/a.rs", "use onwire::wire::adu;", "notify/src/a.rs:2: `notify` imports `wire::adu`"),
        ("src/novel/a.rs", "", "not in the table"),
        ("src/wire/a.rs", &long, ":1: 451 lines"),
        ("src/wire/a.rs", "fn a() { unsafe { b() } }", ":2: `unsafe` outside"),
        ("src/wire/a.rs", "a! { unsafe { b() } }", "`unsafe` outside"),
        ("src/wire/a.rs", "#![allow(unsafe_code)]", "`unsafe` outside"),
        ("src/fec/code.rs", "fn a() { unsafe { b() } }", "`unsafe` outside"),
        ("notify/src/a.rs", "fn a() { unsafe { b() } }", "`unsafe` outside"),
        ("src/tunnel/a.rs", "fn a() { let now = Instant::now(); }", ":2: `Instant::now` in a pure module"),
        ("src/tunnel/a.rs", "fn a() { assert!(time::Instant::now() > b); }", "`Instant::now` in a pure module"),
        ("src/tunnel/a.rs", "use std::time::Instant as Clock;\nfn a() { Clock::now(); }", ":3: `Instant::now` in"),
        ("src/tunnel/a.rs", "use std::{fmt, fs};", "`std::fs` in a pure module"),
        ("src/tunnel/a.rs", "use std::sync::*;\nstruct A(Mutex<u8>);", "`Mutex` in a pure module"),
        ("src/tunnel/a.rs", "fn a() { libc::getpid() }", "`libc` in a pure module"),
        ("src/wire/a.rs", "struct DataShard;", ":2: `DataShard` says `shard`"),
        ("src/io/a.rs", "fn poll_chunks() {}", "`poll_chunks` says `chunk`"),
        ("src/io/a.rs", "const PARITY_MAX: u8 = 1;", "`PARITY_MAX` says `parity`"),
        ("src/io/a.rs", "fn get_mtu() {}", ":2: `get_mtu`; leave `get_` out"),
        ("src/io/a.rs", "// TODO: more", ":2: `TODO`; do it, or open an issue"),
        ("src/io/a.rs", "fn a(herald: u8) {}", ":2: `herald` says `herald`; say notification port"),
        ("src/io/a.rs", "struct LaneGuard;", "`LaneGuard` says `guard`"),
        ("src/io/a.rs", "fn a() {}\n// Its voice.", ":3: `voice` says `voice`"),
        ("src/io/a.rs", "/// Errands of a lane.\nfn a() {}", ":2: `Errands` says `errand`"),
        ("src/io/a.rs", "fn a() {\n    /* a\n    witness */\n}", ":4: `witness` says"),
        ("src/io/a.rs", "enum Told { A }", ":2: `enum Told` names nothing; say notification"),
        ("src/io/a.rs", "impl A for B {\n    type Way = u8;\n}", ":3: `type Way`"),
        ("src/io/a.rs", "mod door;", "`mod door`"),
        ("tests/io/udp.rs", "struct Desk;", "tests/io/udp.rs:2: `Desk` says `desk`"),
        ("notify/examples/wait.rs", "// A vigil.", "`vigil` says"),
    ];
    for (path, text, wanted) in cases {
        let found = violations_in(path, text, &[]);
        let is_wanted = |it: &String| it.starts_with(path) && it.contains(wanted);
        assert!(found.iter().any(is_wanted), "{path}: {text}\nwanted {wanted}, got {found:?}");
    }
    let mut violations = Vec::new();
    check(&Source::parse("src/wire/a.rs", "use std::fmt;\n"), &[], &mut violations);
    assert!(violations.iter().any(|it| it.contains("src/wire/a.rs:1: begins without")), "{violations:?}");
}

#[test]
fn what_the_rules_allow_passes() {
    let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "    // a line\n".repeat(MOST_LINES));
    let cases = [
        ("src/fec/a.rs", "use crate::wire::{self, adu, virtio::VirtioHeader};"),
        ("src/fec/a.rs", "use crate::wire;\nfn a() { wire::adu::b() }"),
        ("src/fec/a.rs", "/// See [`crate::appliance`].\nconst A: &str = \"crate::cli::x unsafe shard\";"),
        ("src/fec/a.rs", "const A: &str = r#\"a \" crate::cli \"#; const B: char = '\"'; fn c<'a>(_: &'a str) {}"),
        ("src/fec/a.rs", "#[cfg(test)]\nmod tests {\n    use super::super::code::Code;\n}"),
        ("src/fec/a.rs", "pub(crate) fn a() {}\npub(in crate::fec) fn b() {}"),
        ("src/tunnel/a.rs", "#[cfg(test)]\nmod tests {\n    fn a() { let now = Instant::now(); }\n}"),
        ("src/tunnel/a.rs", "impl A {\n    #[cfg(test)]\n    fn a() { let now = Instant::now(); }\n}"),
        ("src/fec/a.rs", "fn a() { for run in bytes.chunks_exact(4) { coder.add_recovery_shard(run) } }"),
        ("src/lab/a.rs", "use crate::appliance::status::Status;"),
        ("src/io/a.rs", "#![allow(unsafe_code)]\nfn a() { /* unsafe /* twice */ */ unsafe { b() } }"),
        ("notify/src/tcp_info.rs", "fn a() { unsafe { b() } }"),
        ("src/fec/gfni.rs", "fn a() { unsafe { b() } }"),
        ("notify/src/a.rs", "use crate::client::Core;\nconst GROUP_FLOWS: u8 = 1;"),
        ("src/main.rs", "fn main() { onwire::cli::main() }"),
        ("src/lib.rs", "pub mod wire;\npub use onwire_notify as notify;"),
        ("src/wire/a.rs", &tests),
        ("src/io/a.rs", "// A guard of the crowd stands at the door.\nfn told(way: &str, heard: Course) {}"),
        ("src/io/a.rs", "fn a() -> MutexGuard<'static, u8> { b(\"crowd, voice\") }"),
        ("tests/io/a.rs", "fn get_chunk() { unsafe { onwire::lab::b() } } // TODO"),
    ];
    for (path, text) in cases {
        assert_eq!(violations_in(path, text, &[]), Vec::<String>::new(), "{path}: {text}");
    }
}

#[test]
fn a_long_file_needs_a_reason() {
    let lines = |count: usize| "fn a() {}\n".repeat(count - 2);
    let unlisted: &[(&str, &str)] = &[];
    let listed: &[(&str, &str)] = &[("src/wire/a.rs", "its table has a row for each field")];
    let cases = [
        (MOST_LINES, unlisted, None),
        (MOST_LINES + 1, unlisted, Some("451 lines without tests, at most 450")),
        (MOST_LINES + 1, listed, None),
        (MOST_LINES_WITH_A_REASON, listed, None),
        (MOST_LINES_WITH_A_REASON + 1, listed, Some("601 lines without tests, at most 600")),
        (MOST_LINES, listed, Some("take it off the list")),
    ];
    for (count, long_files, wanted) in cases {
        let found = violations_in("src/wire/a.rs", &lines(count), long_files);
        assert_eq!(found.len(), usize::from(wanted.is_some()), "{count}: {found:?}");
        assert!(found.iter().all(|it| it.contains(wanted.unwrap_or_default())), "{count}: {found:?}");
    }
}

#[test]
fn files_that_import_each_other_are_found() {
    let pair = circles_among(&[
        ("src/wire/a.rs", "use std::fmt;\nuse crate::wire::b::B;"),
        ("src/wire/b.rs", "fn b() { super::a::A::new() }"),
    ]);
    assert_eq!(
        pair,
        ["src/wire/a.rs:2: imports src/wire/b.rs, which imports it; move what both need into a file of its own"]
    );
    let over_others = circles_among(&[
        ("src/io/c/mod.rs", "use crate::io::a;"),
        ("src/io/a.rs", "use crate::notify::client::Core;"),
        ("notify/src/client.rs", "use onwire::io::b;\nfn a() { b::c() }"),
        ("src/io/b.rs", "a! { crate::io::c::d() }"),
        ("src/io/d.rs", "use crate::io::a;"),
    ]);
    let circle =
        "imports notify/src/client.rs, which imports src/io/b.rs, which imports src/io/c/mod.rs, which imports it";
    assert_eq!(over_others.len(), 1, "{over_others:?}");
    assert!(over_others[0].starts_with("src/io/a.rs:1: ") && over_others[0].contains(circle), "{over_others:?}");
}

#[test]
fn what_is_no_circle_passes() {
    let cases: [&[(&str, &str)]; 3] = [
        // A module and those below it.
        &[
            ("src/io/a/mod.rs", "mod b;\npub use b::B;"),
            ("src/io/a/b.rs", "use super::A;\nuse crate::io::a::c::C;"),
            ("src/io/a/c.rs", "use super::super::a;"),
        ],
        // Tests, in the file and in their own.
        &[
            ("src/io/a.rs", "#[cfg(test)]\nmod tests;\nuse crate::io::b;"),
            ("src/io/b.rs", "#[cfg(test)]\nmod tests {\n    use crate::io::a::A;\n}\n#[cfg(test)]\nuse super::a;"),
            ("src/io/a/tests.rs", "use crate::io::c;\nmod more;"),
            ("src/io/a/tests/more.rs", "use crate::io::c;"),
            ("src/io/c.rs", "use super::a::tests;\nuse super::a::tests::more;"),
        ],
        // Two that import a third.
        &[("src/io/a.rs", "use super::{b, c};"), ("src/io/b.rs", "use super::c;"), ("src/io/c.rs", "use std::io::a;")],
    ];
    for files in cases {
        assert_eq!(circles_among(files), Vec::<String>::new(), "{files:?}");
    }
}

#[test]
fn documents_do_without_the_private_words() {
    let mut violations = Vec::new();
    let text = "# Lanes\n\n| `outlet.rs` | writes |\nA guard of the crowd was told.\nInvoices, the DeskList.\n";
    words::check_prose("docs/a.md", text, &mut violations);
    assert_eq!(
        violations,
        [
            "docs/a.md:3: `outlet` says `outlet`; say TUN writer",
            "docs/a.md:5: `DeskList` says `desk`; say status socket, or testbed"
        ]
    );
}
