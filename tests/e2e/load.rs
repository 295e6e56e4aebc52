//! Under load: lanes pause instead of being woken for each packet, and senders are told of a queue in front of a slow peer.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    appliance::Pair,
    datagrams::{Sink, Stream},
    streams,
    testbed::{MIRROR, Testbed},
};

/// How long a load may take to show what it should.
const PATIENCE: Duration = Duration::from_secs(30);

/// Runs steps until one shows it; false after [`PATIENCE`].
fn shows(mut step: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if step() {
            return true;
        }
    }
    false
}

#[test]
fn lanes_pause_under_load_and_not_without() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let paused = || [&pair.ithaca, &pair.syracuse].map(|it| it.status().lanes.iter().map(|lane| lane.paused_ms).sum());
    let sink = Sink::listen(&mirror, MIRROR[0]);
    let stream = Stream::begin(&primary, sink.address, 200, Duration::from_millis(5));
    thread::sleep(Duration::from_secs(1));
    assert!(stream.end() > 20, "a light load");
    assert_eq!(paused(), [0.0, 0.0], "with some packets a second");
    let all_paused = || {
        streams::copy(&primary, &mirror, MIRROR[0], 2, 20_000_000);
        // A pause lasts 0.2 ms.
        paused().iter().all(|&paused: &f64| paused > 2.0)
    };
    assert!(shows(all_paused), "{:?} ms with as much as this machine carries", paused());
}

#[test]
fn a_queue_that_stands_in_front_of_a_peer_is_reported_and_its_senders_are_told() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    let waits =
        |pair: &Pair<'_>| pair.syracuse.status().lanes.iter().map(|lane| lane.receive_wait_ms).fold(0.0, f64::max);
    let dropped = |pair: &Pair<'_>| pair.ithaca.drops("peer_queue_stands");
    let light = Stream::begin(&testbed.node("primary"), sink.address, 1_200, Duration::from_millis(5));
    thread::sleep(Duration::from_millis(500));
    light.end();
    assert_eq!(dropped(&pair), 0, "the peer reads what comes");
    let flood = Stream::begin(&testbed.node("primary"), sink.address, 1_200, Duration::ZERO);
    // The peer's host has a processor for a small part of the time alone.
    let (mut longest, mut looked_at) = (0.0_f64, Instant::now());
    let is_told = shows(|| {
        pair.syracuse.set_halted(true);
        thread::sleep(Duration::from_millis(20));
        pair.syracuse.set_halted(false);
        thread::sleep(Duration::from_millis(1));
        if looked_at.elapsed() < Duration::from_millis(500) {
            return false;
        }
        longest = longest.max(waits(&pair));
        looked_at = Instant::now();
        dropped(&pair) > 0 && longest > 2.0
    });
    flood.end();
    assert!(is_told, "{longest} ms in the peer's socket, {} dropped: {:?}", dropped(&pair), pair.ithaca.status().drops);
    pair.syracuse.wait("an empty socket", |status| status.lanes.iter().all(|lane| lane.receive_wait_ms == 0.0));
}
