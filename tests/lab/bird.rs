//! The files of BIRD that the lab runs, and that a user takes: BIRD itself reads them.

use std::path::Path;
use std::process::Command;

use onwire::lab::{bird::FILES, topology::Topology, trace::need_programs};

const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/bird");

/// Lets BIRD check a file; returns whether it accepts it, and what it says.
fn check(file: &Path) -> (bool, String) {
    need_programs(&["bird"]).unwrap_or_else(|error| panic!("{error}"));
    let output = Command::new("bird").arg("-p").arg("-c").arg(file).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn bird_accepts_the_file_of_each_node() {
    let topology = Topology::load("scale-out").unwrap();
    let nodes: Vec<_> =
        topology.nodes.keys().filter(|node| FILES.iter().any(|(name, _)| *name == format!("{node}.conf"))).collect();
    assert_eq!(nodes.len(), 6, "two routers and four appliances: {nodes:?}");
    for node in nodes {
        let (is_accepted, said) = check(&Path::new(DIRECTORY).join(format!("{node}.conf")));
        assert!(is_accepted, "{node}: {said}");
    }
}

#[test]
fn every_file_in_the_directory_is_one_of_the_lab() {
    let mut found: Vec<_> =
        std::fs::read_dir(DIRECTORY).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    found.sort();
    let mut known = FILES.map(|(name, _)| name.to_owned());
    known.sort();
    assert_eq!(found, known);
    for (name, text) in FILES {
        assert_eq!(std::fs::read_to_string(Path::new(DIRECTORY).join(name)).unwrap(), text, "{name}");
    }
}

#[test]
fn a_file_that_bird_does_not_understand_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in FILES {
        std::fs::write(directory.path().join(name), text.replace("krt_source", "krt_sauce")).unwrap();
    }
    assert!(!check(&directory.path().join("ithaca-a.conf")).0);
}
