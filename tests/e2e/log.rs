//! A log that nobody reads, or that cannot be written, costs log lines and nothing else.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use serde_json::json;

use crate::{
    appliance::Pair,
    datagrams::sender,
    streams,
    testbed::{MIRROR, Testbed},
};

/// Packets pass beside a log with more lines than fit anywhere; lines are lost, and told to be.
fn expect_traffic<'g>(testbed: &'g Testbed, log: &Path) -> Pair<'g> {
    let changes = [("/log", json!({ "level": "debug" }))];
    let mut pair = Pair::prepare_each(testbed, &changes, &[]);
    pair.ithaca.start_logging_to(log);
    pair.syracuse.start();
    pair.wait_up();
    let stranger = sender(&testbed.node("syracuse"), SocketAddr::from(([192, 0, 2, 1], 7117)));
    pair.ithaca.wait("lost line", |status| {
        // An initiation by its first byte, and no more: a line of the log each.
        (0..200).for_each(|_| drop(stranger.send(&[1; 40])));
        status.log_lines_lost > 0
    });
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 2, 1_000_000);
    pair
}

#[test]
fn a_full_disk_below_the_log_costs_lines() {
    let testbed = Testbed::perfect();
    let mut pair = expect_traffic(&testbed, Path::new("/dev/full"));
    assert!(pair.ithaca.terminate().0.success(), "the statistics at the end cannot be written either");
}

#[test]
fn a_log_that_is_not_read_costs_lines_and_says_so_when_it_is_read_again() {
    let testbed = Testbed::perfect();
    let log = testbed.directory().join("log");
    testbed.command(&["mkfifo", log.to_str().unwrap()]);
    // Open at both ends: nothing waits for the other side, and nothing ends.
    let reader = File::options().read(true).write(true).open(&log).unwrap();
    let mut pair = expect_traffic(&testbed, &log);
    let (tell, told) = channel();
    thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map_while(Result::ok);
        lines.filter(|line| line.contains("log lines are missing")).for_each(|line| drop(tell.send(line)));
    });
    let line = told.recv_timeout(Duration::from_secs(20)).unwrap();
    assert!(line.starts_with("WARN "), "{line}");
    assert!(pair.ithaca.terminate().0.success());
}
