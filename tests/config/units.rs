//! The systemd units: what systemd's own review finds open, and no more than that.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// A unit, the exposure that systemd may find (0 to 100, in tenths), and the lines that are open. docs/operations.md says
/// why each of them is.
const UNITS: [(&str, u32, &[&str]); 2] = [
    (
        "onwire@.service",
        17,
        &[
            "AmbientCapabilities=",
            "CapabilityBoundingSet=~CAP_NET_ADMIN",
            "DeviceAllow=",
            "IPAddressDeny=",
            "PrivateNetwork=",
            "PrivateUsers=",
            "ProcSubset=",
            "RestrictAddressFamilies=~AF_(INET|INET6)",
            "RestrictAddressFamilies=~AF_NETLINK",
            "RestrictAddressFamilies=~AF_UNIX",
            "RootDirectory=/RootImage=",
            "SystemCallFilter=~@resources",
        ],
    ),
    (
        "onwire-gate@.service",
        11,
        &[
            "DeviceAllow=",
            "IPAddressDeny=",
            "PrivateNetwork=",
            "RestrictAddressFamilies=~AF_(INET|INET6)",
            "RestrictAddressFamilies=~AF_UNIX",
            "RootDirectory=/RootImage=",
        ],
    ),
];

/// Runs `systemd-analyze security` on a unit; whether the exposure is within `most`, its output, and its warnings.
fn analyze(unit: &str, arguments: &[&str]) -> (bool, String, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(unit);
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager"])
        .args(arguments)
        .arg(path)
        .output()
        .unwrap_or_else(|error| panic!("systemd-analyze: {error}: apt-get install systemd"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

#[test]
fn systemd_finds_open_only_what_the_programs_need() {
    for (unit, most, open) in UNITS {
        let (is_within, output, warnings) = analyze(unit, &[&format!("--threshold={most}")]);
        assert!(is_within, "{unit} is more exposed than {most}: {output}{warnings}");
        assert!(!warnings.contains("Unknown key") && !warnings.contains("Failed to parse"), "{unit}: {warnings}");
        let (_, output, _) = analyze(unit, &["--json=short"]);
        let lines: Vec<Value> = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
        assert!(lines.len() > 70, "{unit}: {output}");
        // A line without an exposure does not apply, or is as it should be.
        let found = lines.iter().filter(|line| line["exposure"].is_string() && line["set"] == false);
        let mut found: Vec<&str> = found.map(|line| line["name"].as_str().unwrap()).collect();
        found.sort_unstable();
        assert_eq!(found, open, "{unit}: what is open is in this list and in docs/operations.md, with the reason");
    }
}

#[test]
fn both_units_wait_until_the_service_is_ready_and_for_its_signs_of_life() {
    for (unit, ..) in UNITS {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(unit)).unwrap();
        for line in ["Type=notify", "NotifyAccess=main", "WatchdogSec=10s", "User=onwire", "RestartPreventExitStatus=2"]
        {
            assert!(text.lines().any(|it| it == line), "{unit}: {line}");
        }
        // Without these calls the program could not restrict itself.
        assert!(text.contains("landlock_restrict_self seccomp"), "{unit}");
    }
}
