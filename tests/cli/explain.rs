//! `onwire explain` and what `onwire check` says of profiles with targets, run as a user runs them.
//!
//! After a change of wording, `ONWIRE_BLESS=1 cargo test --test cli explain` writes the golden text; read the diff.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output};

use onwire::config::key_file;

/// The private key of Bob in RFC 7748.
const KEY: &str = "XasIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Os=\n";

const FILE: &str = r#"
node: { name: ithaca, key_file: ithaca.key, local_prefixes: [10.1.0.0/24] }
peers:
  - name: syracuse
    public_key: "1nuvm6GBB0fIa18x8nswNQBjV92lr08gkyfD8y05Ah8="
    endpoint: 203.0.113.2:7117
    prefixes: [10.2.0.0/24]
redundancy:
  steady: { repair: { fixed: 4 } }
  planned: { repair: { residual: 1e-9, survive_burst: 2ms, max_overhead: 50% } }
  off: { repair: none }
"#;

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    key_file::write(&directory.path().join("ithaca.key"), KEY).unwrap();
    fs::write(directory.path().join("ithaca.yaml"), FILE).unwrap();
    directory
}

fn onwire(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onwire")).args(arguments).current_dir(directory).output().unwrap()
}

fn explained(directory: &Path, more: &[&str]) -> String {
    let arguments = ["explain", "ithaca.yaml"].iter().chain(more).copied().collect::<Vec<_>>();
    let output = onwire(directory, &arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn every_profile_is_explained_as_in_the_golden_text() {
    let directory = directory();
    let mut found = explained(directory.path(), &[]);
    found += &explained(directory.path(), &["planned", "--rate", "5mbit", "--loss", "0.1%", "--rtt", "12ms"]);
    found += &explained(directory.path(), &["planned", "--sweep"]);
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/explain.txt");
    if std::env::var_os("ONWIRE_BLESS").is_some() {
        fs::write(&golden, &found).unwrap();
    }
    let expected = fs::read_to_string(golden).unwrap_or_default();
    assert!(found == expected, "not as in tests/cli/explain.txt:\n{found}");
}

#[test]
fn programs_get_json_and_people_a_chart() {
    let directory = directory();
    let text = explained(directory.path(), &["planned", "--json", "--svg", "chart.svg"]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let lone = &value["profiles"][0]["lone"];
    assert_eq!((lone["k"].as_u64(), lone["late"].as_u64()), (Some(4), Some(4)));
    assert!(lone["survives_s"].as_f64().unwrap() >= 0.002);
    let svg = fs::read_to_string(directory.path().join("chart.svg")).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n") && svg.contains(">planned</text>"));
}

#[test]
fn what_is_not_there_is_told_with_what_is() {
    let directory = directory();
    for (arguments, code, words) in [
        (&["explain", "ithaca.yaml", "plannned"][..], 4, "no such profile; allowed: steady, planned, off"),
        (&["explain", "ithaca.yaml", "--peer", "troy"], 4, "no such peer; allowed: syracuse"),
        (&["explain", "ithaca.yaml", "--loss", "90%"], 2, "allowed: a loss above 0"),
        (&["explain", "troy.yaml"], 2, "troy.yaml: cannot be read"),
        (&["explain", "ithaca.yaml", "--socket", "none.sock"], 3, "none.sock"),
        (&["explain", "ithaca.yaml", "--svg", "no/chart.svg"], 1, "no/chart.svg cannot be written"),
    ] {
        let output = onwire(directory.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_running_appliance_is_asked_for_what_it_has_measured() {
    let directory = directory();
    let socket = UnixListener::bind(directory.path().join("it.sock")).unwrap();
    let answer = r#"{"peers":[{"name":"syracuse","rtt_ms":7.5,"sent":{"blocks":30000},
        "link":{"loss_upper":0.00001,"datagrams":300000,"age_ms":20},"peer_report":{"unrecoverable_blocks":0,"age_ms":9}}]}"#;
    let answers = std::thread::spawn(move || {
        let (mut caller, _) = socket.accept().unwrap();
        caller.write_all(answer.as_bytes()).unwrap();
    });
    let text = explained(directory.path(), &["steady", "--socket", "it.sock"]);
    answers.join().unwrap();
    assert!(text.contains("none of 30000 blocks lost: at most 1.0e-4 at 95 %"), "{text}");
    assert!(text.contains("measured 20 ms ago; single losses only"), "{text}");
    assert!(text.contains("an answer of the peer takes 7.5 ms"), "{text}");
}

#[test]
fn check_says_what_would_be_planned_at_the_assumed_loss() {
    let output = onwire(directory().path(), &["check", "ithaca.yaml"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("at 1 % loss: ") && text.contains(" early and 4 late repair symbols for a commit of 4"),
        "{text}"
    );
}
