//! What our crates depend on, as `cargo tree` lists it: `onwire` without its features, and the crate of the protocol
//! alone.

use std::collections::BTreeSet;
use std::env;
use std::process::Command;

/// Crates that only the lab uses, and the screen.
const OF_FEATURES: [(&str, &str); 3] = [("hdrhistogram", "lab"), ("indicatif", "lab"), ("ratatui", "top")];

/// All that a program takes in with the crate of the protocol.
const OF_THE_PROTOCOL: [&str; 5] = ["base64", "libc", "ring", "thiserror", "zeroize"];

#[test]
fn the_program_without_features_needs_no_crate_of_theirs() {
    let crates = crates(&["--package", "onwire", "--no-default-features"]);
    assert!(crates.contains("onwire-notify") && crates.contains("mio"), "this is not the tree of onwire: {crates:?}");
    for (name, feature) in OF_FEATURES {
        assert!(!crates.contains(name), "Cargo.toml:1: onwire needs `{name}`; make it part of the feature `{feature}`");
    }
}

#[test]
fn the_protocol_needs_few_crates() {
    let mut crates = crates(&["--package", "onwire-notify", "--depth", "1"]);
    assert!(crates.remove("onwire-notify"), "this is not the tree of onwire-notify: {crates:?}");
    for name in crates {
        assert!(
            OF_THE_PROTOCOL.contains(&name.as_str()),
            "notify/Cargo.toml:1: needs `{name}`; other programs would have to take it in, so do without"
        );
    }
}

/// The names in the tree of what is compiled into a program.
fn crates(arguments: &[&str]) -> BTreeSet<String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| env!("CARGO").into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
    let mut command = Command::new(cargo);
    command.args([
        "tree",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--offline",
        "--locked",
        "--manifest-path",
        manifest,
    ]);
    let output = command.args(arguments).output().expect("cargo can be started");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    lines.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}
