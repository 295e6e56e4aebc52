//! A log that is not read or cannot be written loses log lines and nothing else. As JSON it is JSON to its last line.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::json;

use crate::{
    appliance::Pair,
    datagrams::sender,
    streams,
    testbed::{MIRROR, Testbed},
};

/// Packets pass although more log lines are written than buffers hold; lines are lost, and the loss is reported.
fn expect_traffic<'g>(testbed: &'g Testbed, log: &Path) -> Pair<'g> {
    let changes = [("/log", json!({ "level": "debug" }))];
    let mut pair = Pair::prepare_each(testbed, &changes, &[]);
    pair.ithaca.start_logging_to(log);
    pair.syracuse.start();
    pair.wait_up();
    let attacker = sender(&testbed.node("syracuse"), SocketAddr::from(([192, 0, 2, 1], 7117)));
    pair.ithaca.wait("lost line", |status| {
        // Each looks like an initiation in its first byte only, and causes one log line.
        (0..200).for_each(|_| drop(attacker.send(&[1; 40])));
        status.log_lines_lost > 0
    });
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 2, 1_000_000);
    pair
}

#[test]
fn a_full_disk_loses_only_log_lines() {
    let testbed = Testbed::perfect();
    let mut pair = expect_traffic(&testbed, Path::new("/dev/full"));
    assert!(pair.ithaca.terminate().0.success(), "the statistics at the end cannot be written either");
}

#[test]
fn an_unread_log_loses_lines_and_reports_that_later() {
    let testbed = Testbed::perfect();
    let log = testbed.directory().join("log");
    testbed.command(&["mkfifo", log.to_str().unwrap()]);
    // Open for reading and writing: opening does not block, and closing the other end causes no end of file.
    let reader = File::options().read(true).write(true).open(&log).unwrap();
    let mut pair = expect_traffic(&testbed, &log);
    let (tell, received) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map_while(Result::ok);
        lines.filter(|line| line.contains("log lines are missing")).for_each(|line| drop(tell.send(line)));
    });
    let line = received.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(line.starts_with("WARN "), "{line}");
    assert!(pair.ithaca.terminate().0.success());
}

/// The keys of a JSON object, each time they come: a map would keep the last of two.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfMap;

        impl<'de> Visitor<'de> for OfMap {
            type Value = Keys;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, _)) = map.next_entry::<String, IgnoredAny>()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }

        deserializer.deserialize_map(OfMap)
    }
}

#[test]
fn a_log_as_json_is_json_to_its_last_line_and_has_no_key_twice() {
    let testbed = Testbed::perfect();
    let changes = [("/log", json!({ "level": "debug", "format": "json" }))];
    let mut pair = Pair::prepare_each(&testbed, &changes, &[]);
    let log = testbed.directory().join("json.log");
    pair.ithaca.start_logging_to(&log);
    pair.syracuse.start();
    pair.wait_up();
    // The status, and the outcome of a reload, are lines too.
    for signal in [Signal::USR1, Signal::HUP] {
        kill_process(Pid::from_raw(pair.ithaca.id() as i32).unwrap(), signal).unwrap();
    }
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 3, 100_000);
    assert!(pair.ithaca.terminate().0.success());
    let said = std::fs::read_to_string(&log).unwrap();
    let mut last = None;
    for line in said.lines() {
        let Keys(mut keys) = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let count = keys.len();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), count, "a key twice: {line}");
        last = Some(line);
    }
    let last: serde_json::Value = serde_json::from_str(last.expect("lines")).unwrap();
    let status: serde_json::Value = serde_json::from_str(last["status"].as_str().expect("a status")).unwrap();
    assert_eq!((&last["message"], &status["state"]), (&json!("stopped"), &json!("stopped")), "{said}");
}
