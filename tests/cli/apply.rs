//! `onwire apply` and `onwire confirm` without an appliance, or with one that lies. tests/e2e/apply.rs has real ones.
//!
//! After a change of wording, `ONWIRE_BLESS=1 cargo test --test cli apply` writes the golden text; read the diff.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use onwire::appliance::control::request::{Answer, Request};
use onwire::appliance::status::candidate::{CandidateState, CandidateStatus, ConfigurationStatus};
use onwire::config::sha256;

fn onwire(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_onwire"));
    command.args(arguments).current_dir(directory).env("COLUMNS", "100").output().unwrap()
}

#[test]
fn the_help_is_as_in_the_golden_text() {
    let here = Path::new(".");
    let found: String = ["apply", "confirm"]
        .map(|command| String::from_utf8(onwire(here, &[command, "--help"]).stdout).unwrap())
        .join("----\n");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/apply.txt");
    if std::env::var_os("ONWIRE_BLESS").is_some() {
        fs::write(&golden, &found).unwrap();
    }
    let expected = fs::read_to_string(golden).unwrap_or_default();
    assert!(found == expected, "not as in tests/cli/apply.txt:\n{found}");
}

#[test]
fn without_an_appliance_or_with_a_wrong_time_it_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("new.yaml"), "").unwrap();
    let rows: [(&[&str], i32, &str); 5] = [
        (&["apply", "new.yaml", "--socket", "a.sock"], 3, "a.ctl: no appliance of this version is running"),
        (&["confirm", "--socket", "a.sock"], 3, "a.ctl: no appliance of this version is running"),
        (&["apply", "new.yaml", "--confirm-within", "0s"], 2, "1s to 1440min are possible"),
        (&["apply", "new.yaml", "--confirm-within", "60"], 2, "add the unit: 60us, 60ms or 60s"),
        (&["apply", "new.yaml", "--no-wait"], 2, "--confirm-within <TIME>"),
    ];
    for (words, code, expected) in rows {
        let output = onwire(directory.path(), words);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.contains(expected)), (Some(code), true), "{words:?}: {said}");
    }
}

#[test]
fn a_process_that_names_another_file_gets_nothing_written() {
    let directory = tempfile::tempdir().unwrap();
    let precious = directory.path().join("passwd");
    fs::write(&precious, "root:x:0:0\n").unwrap();
    let listener = UnixListener::bind(directory.path().join("a.ctl")).unwrap();
    let candidate = CandidateStatus {
        state: CandidateState::Unconfirmed,
        goes_back_in_s: Some(60.0),
        sha256: sha256("evil::0:0\n"),
        before_sha256: sha256("root:x:0:0\n"),
        text: String::new(),
    };
    let configuration = ConfigurationStatus {
        file: precious.display().to_string(),
        sha256: sha256("evil::0:0\n"),
        candidate: Some(candidate),
    };
    let answer = Answer { is_good: true, text: String::new(), configuration, followed: "evil::0:0\n".to_owned() };
    let asked = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        writeln!(stream, "{}", serde_json::to_string(&answer).unwrap()).unwrap();
        // Nothing more is asked: the command has ended when this is looked at.
        (Request::parse(line.trim_end().as_bytes()).unwrap(), listener)
    });
    let output = onwire(directory.path(), &["confirm", "--socket", "a.sock"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), said.contains("no good configuration")), (Some(1), true), "{said}");
    assert_eq!(fs::read_to_string(&precious).unwrap(), "root:x:0:0\n");
    let (request, listener) = asked.join().unwrap();
    listener.set_nonblocking(true).unwrap();
    assert_eq!((request, listener.accept().is_err()), (Request::Show, true));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "nothing is left behind");
}
