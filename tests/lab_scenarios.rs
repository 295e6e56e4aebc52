//! The lab's command: what it lists, what it refuses, and that a scenario keeps to its documented JSON.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

use onwire::lab::{scenario::SCENARIOS, trace::need_programs};

/// Runs the command; what a failed run keeps goes with the test.
fn lab(words: &[&str]) -> Output {
    let files = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_onwire"));
    command.arg("lab").args(words).env("TMPDIR", files.path()).output().unwrap()
}

#[test]
fn every_scenario_is_listed_and_others_are_refused() {
    let list = String::from_utf8(lab(&["list"]).stdout).unwrap();
    for scenario in SCENARIOS {
        assert!(list.lines().any(|line| line.starts_with(scenario.name)), "{list}");
    }
    let refused = lab(&["quikstart"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("allowed: quickstart, loss, throughput, shell"));
}

#[test]
fn a_topology_with_mistakes_builds_nothing() {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), "nodes: { a: {} }\nlinks: [{ kind: veth, ends: [] }]\n").unwrap();
    let output = lab(&["shell", "--topology", file.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains(file.path().to_str().unwrap()));
}

#[test]
fn commands_are_printed_unless_quiet() {
    for (words, are_printed) in [(&[][..], true), (&["--quiet"], false)] {
        let output = lab(&[&["shell", "--topology", "plain", "--seconds", "0"], words].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}");
        let lines = errors.lines().filter(|line| line.starts_with("+ ip netns add ow-")).count();
        assert_eq!(lines, if are_printed { 5 } else { 0 }, "four nodes and the emulator: {errors}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("+ ip"), "commands are not part of the result");
    }
}

#[test]
fn the_loss_scenario_passes_and_writes_its_result() {
    need_programs(&["ip", "sysctl", "iperf3"]).unwrap_or_else(|error| panic!("{error}"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = lab(&["loss", "--seconds", "2", "--json", file.path().to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).unwrap()).expect(&said);
    assert_eq!(result["scenario"], "loss");
    assert_eq!(result["seed"], 1);
    assert_eq!(result["pass"], output.status.success());
    let sweep = result["metrics"]["sweep"].as_array().expect(&said);
    assert_eq!(sweep.len(), 8);
    for key in ["emulator_loss", "receiver_loss", "residual_loss", "goodput_mbit", "of_loss_free"] {
        assert!(sweep.iter().all(|row| row[key].is_f64()), "{key}: {sweep:?}");
    }
    // How fast, and so how much this machine drops by itself, is for the release build; what the WAN took is true of any.
    let truth = "receiver and emulator agree";
    let claims = result["claims"].as_array().expect(&said);
    let agreement = claims.iter().find(|claim| claim["claim"].as_str().is_some_and(|claim| claim.starts_with(truth)));
    assert_eq!(agreement.expect(&said)["pass"], true, "{said}");
    assert!(sweep[3]["recovered_symbols"].as_u64() > Some(0), "{said}");
}
