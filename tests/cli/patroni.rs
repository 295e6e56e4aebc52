//! `config/patroni/pre_promote.py`, with programs in the place of `onwire`, `ss` and `psql` that say what a test tells
//! them to: Patroni promotes with exit code 0 alone.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/patroni/pre_promote.py");

/// What the programs do: a drain that is complete, and a mirror that has read everything.
struct Host {
    directory: TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { directory: tempfile::tempdir().unwrap() };
        host.drain(0, &answer("complete", false, json!([])));
        host.program("ss", "echo 'ESTAB 0 0 10.2.0.10:50000 10.1.0.10:6432'");
        host.program("psql", "echo 0/3000148");
        host
    }

    /// Installs a program, a script.
    fn program(&self, name: &str, script: &str) {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// `onwire` ends with this exit code and prints this, and notes its arguments.
    fn drain(&self, code: i32, answer: &str) {
        fs::write(self.path("answer"), answer).unwrap();
        let noted = self.directory.path().display();
        self.program("onwire", &format!("echo \"$@\" >{noted}/arguments\ncat {noted}/answer\nexit {code}"));
    }

    /// A script that says `first` in its first two runs, then `then`.
    fn changes(&self, name: &str, first: &str, then: &str) {
        let count = self.path(&format!("{name}.count"));
        let count = count.display();
        let script = format!("echo >>{count}\n[ $(wc -l <{count}) -le 2 ] && echo '{first}' || echo '{then}'");
        self.program(name, &script);
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Runs the hook; returns its exit code and what it says.
    fn promote(&self, arguments: &[&str]) -> (i32, String) {
        let path = format!("{}:/usr/bin:/bin", self.directory.path().display());
        let mut command = Command::new("python3");
        let run = command.arg(HOOK).args(["--timeout", "4"]).args(arguments).env("PATH", path).output();
        let output = run.expect("`python3` is not installed; on Debian or Ubuntu: apt-get install python3");
        assert!(output.stdout.is_empty());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    fn expect(&self, arguments: &[&str], code: i32, said: &str) {
        let (found, text) = self.promote(arguments);
        assert!(found == code && text.contains(said), "{arguments:?}: {found}, not {code}, and `{said}`: {text}");
    }
}

/// The answer of `onwire drain --json` about one peer.
fn answer(verdict: &str, is_alive: bool, missing: Value) -> String {
    let reasons = if verdict == "incomplete" { json!(["block 7 was given up"]) } else { json!([]) };
    let arrived = json!({ "flows": [{ "source": "10.1.0.10:1", "missing": missing }] });
    let peer =
        json!({ "name": "ithaca", "verdict": verdict, "alive": is_alive, "reasons": reasons, "arrived": arrived });
    json!({ "schema_version": 1, "node": "syracuse", "verdict": verdict, "waited_s": 0.5, "peers": [peer] }).to_string()
}

#[test]
fn a_mirror_is_promoted_after_a_drain_that_lacks_nothing() {
    let host = Host::new();
    host.expect(&["--peer", "ithaca", "--socket", "/run/onwire/syracuse.sock"], 0, "drained: complete");
    let arguments = fs::read_to_string(host.path("arguments")).unwrap();
    assert!(arguments.starts_with("drain --json --timeout 3"), "{arguments}");
    assert!(arguments.contains("--peer ithaca --socket /run/onwire/syracuse.sock"), "{arguments}");
    host.drain(0, &answer("unfinished", false, json!([])));
    host.expect(&[], 0, "drained: unfinished");
    host.program("ss", "true");
    host.program("psql", "echo");
    host.expect(&[], 0, "read to no position");
}

#[test]
fn missing_bytes_are_the_operators_decision_made_before() {
    let host = Host::new();
    host.drain(1, &answer("incomplete", false, json!([{ "from": 5, "to": 9 }])));
    host.expect(&[], 1, "ithaca: block 7 was given up");
    host.expect(&["--if-alive", "stream-ended"], 1, "missing");
    host.expect(&["--if-incomplete", "promote"], 0, "missing");
}

#[test]
fn a_peer_that_lives_is_promoted_past_only_after_it_has_ended_the_stream() {
    let host = Host::new();
    host.drain(1, &answer("incomplete", true, json!([])));
    host.expect(&[], 1, "ithaca lives");
    host.expect(&["--if-incomplete", "promote"], 1, "ithaca lives");
    host.expect(&["--if-alive", "stream-ended"], 1, "has not ended");
    host.program("ss", "true");
    host.expect(&[], 1, "ithaca lives");
    host.expect(&["--if-alive", "stream-ended"], 0, "promote");
    host.drain(1, &answer("incomplete", true, json!([{ "from": 5, "to": 9 }])));
    host.expect(&["--if-alive", "stream-ended"], 1, "ithaca lives");
}

#[test]
fn an_answer_that_says_nothing_promotes_nobody() {
    let host = Host::new();
    host.drain(3, "");
    host.expect(&["--if-incomplete", "promote", "--if-alive", "stream-ended"], 1, "does not answer");
    host.drain(2, "");
    host.expect(&[], 2, "cannot work");
    for nonsense in ["", "yes", "{}", "[]", "{ \"verdict\": \"complete\", \"peers\": [] }"] {
        host.drain(0, nonsense);
        host.expect(&[], 1, "onwire drain");
    }
    for (code, verdict) in [(0, "incomplete"), (1, "complete"), (139, "complete")] {
        host.drain(code, &answer(verdict, false, json!([])));
        assert_ne!(host.promote(&[]).0, 0, "{code} {verdict}");
    }
}

#[test]
fn the_mirror_must_have_read_what_has_come() {
    let unread = "ESTAB 17 0 10.2.0.10:50000 10.1.0.10:6432";
    let host = Host::new();
    host.program("ss", &format!("echo '{unread}'"));
    host.expect(&[], 1, "has not read 17 bytes");
    host.changes("ss", unread, "ESTAB 0 0 10.2.0.10:50000 10.1.0.10:6432");
    host.expect(&[], 0, "promote");
    let host = Host::new();
    host.changes("psql", "0/3000000", "0/3000148");
    host.expect(&[], 0, "read to 0/3000148");
    host.program(
        "psql",
        &format!("date +%N | cut -c 1-6 >>{0}; echo 0/$(wc -l <{0})", host.path("positions").display()),
    );
    host.expect(&[], 1, "still receives");
    host.program("psql", "echo 'no server' >&2; exit 2");
    host.expect(&[], 1, "no server");
    host.program("psql", "echo nonsense");
    host.expect(&[], 2, "not expected");
    host.program("ss", "echo State Recv-Q");
    host.expect(&[], 2, "not expected");
}

#[test]
fn the_time_is_bounded_whatever_hangs() {
    for program in ["onwire", "ss", "psql"] {
        let host = Host::new();
        host.program(program, "exec sleep 60");
        let began = Instant::now();
        host.expect(&[], 1, "did not end within");
        assert!(began.elapsed() < Duration::from_secs(15), "{program}: {:?}", began.elapsed());
    }
}

#[test]
fn a_program_that_is_missing_is_named() {
    let host = Host::new();
    fs::remove_file(host.path("psql")).unwrap();
    // The server's own package has another `psql` on the path.
    host.program("psql", "");
    fs::set_permissions(host.path("psql"), fs::Permissions::from_mode(0o644)).unwrap();
    let only = host.directory.path().to_str().unwrap();
    for name in ["sh", "cat"] {
        std::os::unix::fs::symlink(Path::new("/bin").join(name), host.path(name)).unwrap();
    }
    let python = ["/usr/bin/python3", "/usr/local/bin/python3"].into_iter().find(|path| Path::new(path).is_file());
    let python = python.expect("`python3` is not installed; on Debian or Ubuntu: apt-get install python3");
    let output = Command::new(python).arg(HOOK).env("PATH", only).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains("`psql` cannot be run")), (Some(2), true), "{said}");
}
