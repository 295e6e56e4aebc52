//! `onwire doctor` and `onwire bugreport` as a user runs them, without an appliance: exit codes and where output goes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use serde_json::Value;

fn onwire(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_onwire")).args(arguments).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_file_that_is_missing_or_of_gates_is_a_usage_error_that_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let gates = directory.path().join("gate.yaml");
    fs::write(&gates, "gates: []\n").unwrap();
    let gates = gates.to_str().unwrap();
    for command in ["doctor", "bugreport"] {
        for (file, words) in [("/nowhere/a.yaml", "cannot be read"), (gates, "of gates see `onwire check")] {
            let output = onwire(&[command, "--config", file]);
            assert_eq!(output.status.code(), Some(2), "{command} {file}");
            let said = text(&output.stderr);
            assert!(said.contains(words) && said.starts_with(&format!("onwire {command}: ")), "{said}");
            assert!(output.stdout.is_empty());
        }
    }
}

#[test]
fn a_configuration_that_cannot_be_used_is_a_fault_and_the_host_is_examined_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("a.yaml");
    fs::write(&file, "node: { name: ithaca }\n").unwrap();
    let output = onwire(&["doctor", "--json", "--config", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["schema_version"], &report["verdict"]), (&Value::from(1), &Value::from("fault")));
    let checks: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|of| of["check"].as_str().unwrap()).collect();
    for check in ["configuration", "appliance", "tun", "privileges", "buffers", "forwarding", "firewall", "clock"] {
        assert!(checks.contains(&check), "{check}: {checks:?}");
    }
    let fault = &report["findings"][0];
    assert!(fault["remedies"][0].as_str().unwrap().contains("onwire check"), "{fault}");
    // Each that is not good says what to do, or what it takes to see it.
    for finding in report["findings"].as_array().unwrap() {
        let is_bad = finding["level"] == "fault" || finding["level"] == "warning";
        assert!(!is_bad || !finding["remedies"].as_array().unwrap().is_empty(), "{finding}");
    }
}

#[test]
fn a_report_is_for_its_owner_alone_and_no_file_is_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    let (file, report) = (directory.path().join("a.yaml"), directory.path().join("report.txt"));
    fs::write(&file, "node: { name: ithaca, password: hunter2 }\n# hunter2\n").unwrap();
    let arguments = ["bugreport", "--config", file.to_str().unwrap(), "-o", report.to_str().unwrap()];
    let output = onwire(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert_eq!(fs::metadata(&report).unwrap().permissions().mode() & 0o7777, 0o600);
    let written = fs::read_to_string(&report).unwrap();
    assert!(written.contains("name: ithaca") && !written.contains("hunter2"), "{written}");
    let output = onwire(&arguments);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("not overwritten"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&report).unwrap(), written);
    let elsewhere = onwire(&["bugreport", "--config", file.to_str().unwrap(), "-o", "/nowhere/report.txt"]);
    assert_eq!(elsewhere.status.code(), Some(1));
}
