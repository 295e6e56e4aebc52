//! `onwire apply` at a terminal: what is typed there, Ctrl-C, and a terminal that is gone.

use std::{
    fs,
    io::Write,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use onwire::{appliance::status::candidate::CandidateState, lab::trace::need_programs};
use serde_json::json;

use crate::{
    appliance::{Appliance, Pair},
    apply::{candidate, state},
    testbed::{ONWIRE, Testbed},
};

/// Begins `onwire apply` at a terminal of its own, and waits until the candidate is followed.
fn begin(appliance: &Appliance<'_>, file: &str, within: &str) -> Child {
    let socket = appliance.socket.display();
    let line = format!("exec {ONWIRE} apply {file} --confirm-within {within} --socket {socket}");
    // `-e` returns the exit code of the command.
    let mut command = Command::new("script");
    command.args(["-qefc", &line, "/dev/null"]).env("SHELL", "/bin/sh");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    appliance.wait("candidate", |status| {
        // On a busy machine a short time may be over already; then it has another number of attempts behind it.
        let candidate = status.configuration.candidate.as_ref();
        candidate.is_some_and(|it| it.state == CandidateState::Unconfirmed)
            || within == "2s" && candidate.is_some_and(|it| it.text.contains("not confirmed in time"))
    });
    child
}

/// Types each of these lines, and lets the command end; its exit code and all that the terminal showed.
fn finish(mut child: Child, typed: &[&str]) -> (Option<i32>, String) {
    let mut terminal = child.stdin.take().unwrap();
    for text in typed {
        terminal.write_all(text.as_bytes()).unwrap();
        terminal.flush().unwrap();
        thread::sleep(Duration::from_millis(100));
    }
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn what_is_typed_decides_and_a_lost_terminal_does_not() {
    need_programs(&["script"]).unwrap_or_else(|error| panic!("{error}"));
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let before = fs::read_to_string(&pair.ithaca.config).unwrap();
    let new = pair.ithaca.text(&[("/log", json!({ "level": "debug" }))]);
    let file = candidate(&testbed, "new.yaml", &new);
    let file = file.to_str().unwrap();
    let is_as_before = || {
        assert_eq!(state(&pair.ithaca), Some(CandidateState::WentBack));
        assert_eq!(fs::read_to_string(&pair.ithaca.config).unwrap(), before);
    };

    // An empty line, as of someone who tries whether the terminal still lives, keeps nothing.
    let (code, said) = finish(begin(&pair.ithaca, file, "10min"), &["\n", "no\n"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("type yes to keep it, no to go back now") && said.contains("rejected: went back"), "{said}");
    is_as_before();
    let (code, said) = finish(begin(&pair.ithaca, file, "10min"), &["\u{3}"]);
    assert_eq!((code, said.contains("rejected: went back")), (Some(1), true), "{said}");
    is_as_before();
    // Nothing is typed: the appliance goes back, and the command says so.
    let (code, said) = finish(begin(&pair.ithaca, file, "2s"), &[]);
    assert_eq!((code, said.contains("went back: not confirmed in time")), (Some(1), true), "{said}");
    is_as_before();
    // The terminal and the command are gone at once.
    let start = Instant::now();
    let mut child = begin(&pair.ithaca, file, "3s");
    child.kill().unwrap();
    child.wait().unwrap();
    pair.ithaca.wait("way back", |status| {
        status.configuration.candidate.as_ref().is_some_and(|it| it.state == CandidateState::WentBack)
    });
    assert!(start.elapsed() >= Duration::from_secs(3), "the appliance owns the time");
    is_as_before();

    let child = begin(&pair.ithaca, file, "10min");
    let (code, said) = finish(child, &["yes\n"]);
    assert_eq!((code, said.contains("confirmed: ")), (Some(0), true), "{said}");
    assert_eq!(state(&pair.ithaca), Some(CandidateState::Saved));
    assert_eq!(fs::read_to_string(&pair.ithaca.config).unwrap(), new);
}
