//! `bypass: withdraw_routes`: who dies, stands still or is not reached leaves the plain route to the packets, and takes them
//! back later.

use std::time::{Duration, Instant};

use onwire::{
    appliance::host::route_trouble::RouteTrouble,
    io::{hold::HeldThread, namespace::NetworkNamespace},
    notify::message::LinkState,
};
use serde_json::{Value, json};

use crate::{
    appliance::{Appliance, Pair},
    capture::{Capture, Seen},
    datagrams::{Sink, Stream},
    protected_site::{client, make_key, notify, wait_link},
    reload::reload,
    streams,
    testbed::{MIRROR, PRIMARY, Testbed},
};

const INTERVAL: Duration = Duration::from_millis(1);
/// Far more than any bypass takes: how fast it is, the lab measures.
const SOON: Duration = Duration::from_secs(20);

fn withdraws() -> (&'static str, Value) {
    ("/bypass", json!({ "when_down": "withdraw_routes", "return_after": "300ms" }))
}

/// A pair with a plain route on both sides, of a worse metric.
fn pair<'t>(testbed: &'t Testbed, changes: &[(&'static str, Value)]) -> Pair<'t> {
    pair_each(testbed, changes, changes)
}

fn pair_each<'t>(testbed: &'t Testbed, ithaca: &[(&str, Value)], syracuse: &[(&str, Value)]) -> Pair<'t> {
    for (node, prefix, via) in [("ithaca", "10.2.0.0/24", "192.0.2.2"), ("syracuse", "10.1.0.0/24", "192.0.2.1")] {
        testbed.run(node, &["ip", "route", "add", prefix, "via", via, "metric", "1000"]).unwrap();
    }
    let pair = Pair::start_each(testbed, &[&[withdraws()], ithaca].concat(), &[&[withdraws()], syracuse].concat());
    [&pair.ithaca, &pair.syracuse].into_iter().for_each(wait_carried);
    pair
}

fn wait_carried(appliance: &Appliance<'_>) {
    appliance.wait("way through the tunnel", |status| {
        status.peers[0].bypass.as_ref().is_some_and(|bypass| !bypass.withdrawn)
    });
}

fn wait_withdrawn(appliance: &Appliance<'_>, cause: &str) {
    let is_so = |cause_found: &Option<String>| cause_found.as_deref() == Some(cause);
    appliance.wait(cause, |status| status.peers[0].bypass.as_ref().is_some_and(|bypass| is_so(&bypass.cause)));
}

/// The device that packets from ithaca to the mirror take.
fn device(testbed: &Testbed) -> String {
    let shown = testbed.run("ithaca", &["ip", "route", "get", MIRROR[0]]).unwrap();
    shown.split_once(" dev ").unwrap().1.split(' ').next().unwrap().to_owned()
}

/// Waits until packets from ithaca to the mirror take the plain route.
fn wait_plain(testbed: &Testbed) {
    let deadline = Instant::now() + SOON;
    while device(testbed) != "wan0" {
        assert!(Instant::now() < deadline, "packets still go into the device of an appliance that does not carry them");
        std::thread::sleep(INTERVAL);
    }
}

/// Waits until packets arrive that were sent after this call.
fn wait_flow(sink: &Sink) {
    let (count, deadline) = (sink.count(), Instant::now() + SOON);
    while sink.count() < count + 20 {
        assert!(Instant::now() < deadline, "nothing arrives any more");
        std::thread::sleep(INTERVAL);
    }
}

fn flow(testbed: &Testbed) -> (Sink, Stream) {
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    let stream = Stream::begin(&testbed.node("primary"), sink.address, 300, INTERVAL);
    (sink, stream)
}

/// Packets flow both ways.
fn copy(testbed: &Testbed) {
    let (primary, mirror): (NetworkNamespace, NetworkNamespace) = (testbed.node("primary"), testbed.node("mirror"));
    streams::copy(&primary, &mirror, MIRROR[0], 2, 300_000);
    streams::copy(&mirror, &primary, PRIMARY[0], 2, 300_000);
}

#[test]
fn the_death_of_either_appliance_leaves_the_plain_route_and_the_return_loses_nothing() {
    let testbed = Testbed::perfect();
    let mut pair = pair(&testbed, &[("/tun/queues", json!(2))]);
    assert_eq!(device(&testbed), "ow0");
    for round in 0..2 {
        let (sink, stream) = flow(&testbed);
        wait_flow(&sink);
        let victim = if round == 0 { &mut pair.syracuse } else { &mut pair.ithaca };
        victim.kill();
        wait_flow(&sink);
        let survivor = if round == 0 { &pair.ithaca } else { &pair.syracuse };
        wait_withdrawn(survivor, "nobody listens at the peer's address");
        assert_eq!(device(&testbed), "wan0");
        copy(&testbed);
        stream.end();
        sink.arrived().assert_once();
        // The way back.
        let (sink, stream) = flow(&testbed);
        let victim = if round == 0 { &mut pair.syracuse } else { &mut pair.ithaca };
        victim.start();
        [&pair.ithaca, &pair.syracuse].into_iter().for_each(wait_carried);
        wait_flow(&sink);
        let sent = stream.end();
        assert!(sink.wait_for(sent as usize), "{} of {sent} arrived", sink.count());
        sink.arrived().assert_once();
        assert_eq!(device(&testbed), "ow0");
        copy(&testbed);
    }
    pair.syracuse.wait_said("its routes are withdrawn");
}

#[test]
fn an_appliance_that_stands_still_leaves_the_plain_route() {
    let testbed = Testbed::perfect();
    let mut pair = pair(&testbed, &[]);
    let (sink, stream) = flow(&testbed);
    wait_flow(&sink);
    let before = pair.ithaca.status().watchdog.unwrap();
    assert_eq!((before.pid.is_some(), before.stalls), (true, 0));
    pair.ithaca.set_halted(true);
    // Nothing of ithaca runs but the watchdog process.
    wait_plain(&testbed);
    wait_flow(&sink);
    wait_withdrawn(&pair.syracuse, "the peer is silent");
    copy(&testbed);
    pair.ithaca.set_halted(false);
    [&pair.ithaca, &pair.syracuse].into_iter().for_each(wait_carried);
    assert_eq!(device(&testbed), "ow0");
    wait_flow(&sink);
    stream.end();
    sink.arrived().assert_once();
    let status = pair.ithaca.status();
    assert_eq!(status.watchdog.unwrap(), onwire::appliance::status::bypass::WatchdogStatus { stalls: 1, ..before });
    assert_eq!(status.peers[0].bypass.as_ref().unwrap().withdrawals, 1);
    pair.ithaca.wait_said("onwire stood still");
    copy(&testbed);
}

#[test]
fn a_lane_that_hangs_leaves_the_plain_route_and_is_said() {
    let testbed = Testbed::perfect();
    let pair = pair(&testbed, &[("/tun/queues", json!(2))]);
    for lane in ["lane-1", "lane-0"] {
        let (sink, stream) = flow(&testbed);
        wait_flow(&sink);
        let held = HeldThread::hold(pair.ithaca.id(), lane).unwrap();
        wait_plain(&testbed);
        wait_flow(&sink);
        wait_withdrawn(&pair.syracuse, "the peer is silent");
        copy(&testbed);
        drop(held);
        [&pair.ithaca, &pair.syracuse].into_iter().for_each(wait_carried);
        assert_eq!(device(&testbed), "ow0");
        copy(&testbed);
        stream.end();
        sink.arrived().assert_once();
    }
    pair.ithaca.wait_said("the lane stands still");
    let said = pair.ithaca.wait_said("the lane turns again");
    assert!(!said.contains("onwire stood still"), "{said}");
}

#[test]
fn a_device_made_by_hand_does_not_swallow_packets_after_a_crash_and_old_routes_are_cleaned() {
    let testbed = Testbed::perfect();
    testbed.run("ithaca", &["ip", "tuntap", "add", "dev", "ow0", "mode", "tun"]).unwrap();
    let mut pair = pair(&testbed, &[]);
    let (sink, stream) = flow(&testbed);
    wait_flow(&sink);
    pair.ithaca.kill();
    wait_plain(&testbed);
    wait_flow(&sink);
    // What a run without a watchdog would have left.
    testbed.run("ithaca", &["ip", "link", "set", "ow0", "up"]).unwrap();
    for prefix in ["10.2.0.0/24", "10.77.0.0/24"] {
        testbed.run("ithaca", &["ip", "route", "add", prefix, "dev", "ow0", "proto", "117"]).unwrap();
    }
    pair.ithaca.start();
    [&pair.ithaca, &pair.syracuse].into_iter().for_each(wait_carried);
    assert_eq!(testbed.run("ithaca", &["ip", "route", "show", "10.77.0.0/24"]).unwrap(), "");
    copy(&testbed);
    // A stop in good order leaves the device as its owner wants it: up.
    assert!(pair.ithaca.terminate().0.success());
    assert!(testbed.run("ithaca", &["ip", "link", "show", "ow0"]).unwrap().contains(",UP"), "it was set down");
    assert_eq!(testbed.run("ithaca", &["ip", "route", "show", "proto", "117"]).unwrap(), "");
    wait_flow(&sink);
    stream.end();
    sink.arrived().assert_once();
}

#[test]
fn a_missing_plain_route_is_said_and_a_peer_that_was_never_reached_gets_no_routes() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::prepare(&testbed, &[withdraws()]);
    pair.ithaca.start();
    let trouble = |appliance: &Appliance<'_>| appliance.status().tun.route_troubles.get("10.2.0.0/24").cloned();
    pair.ithaca.wait("word of the missing route", |status| {
        status.tun.route_troubles.get("10.2.0.0/24") == Some(&RouteTrouble::NoPlainRoute)
    });
    wait_withdrawn(&pair.ithaca, "no session");
    assert_eq!(testbed.run("ithaca", &["ip", "route", "show", "proto", "117"]).unwrap(), "");
    testbed.run("ithaca", &["ip", "route", "add", "10.2.0.0/24", "via", "192.0.2.2", "metric", "1000"]).unwrap();
    pair.ithaca.wait("word of the new route", |status| !status.tun.route_troubles.contains_key("10.2.0.0/24"));
    pair.syracuse.start();
    [&pair.ithaca, &pair.syracuse].into_iter().for_each(wait_carried);
    assert_eq!(trouble(&pair.ithaca), None);
    copy(&testbed);
    pair.ithaca.wait_said("there is a plain route to the prefix again");
    pair.ithaca.wait_said("there is no plain route to the prefix either");
}

#[test]
fn the_end_of_the_watchdog_process_is_said() {
    let testbed = Testbed::perfect();
    let pair = pair(&testbed, &[]);
    let watchdog = pair.ithaca.status().watchdog.unwrap().pid.unwrap();
    // It outlives requests to stop, which come to all processes of a service.
    let process = rustix::process::Pid::from_raw(watchdog.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    copy(&testbed);
    assert_eq!(pair.ithaca.status().watchdog.unwrap().pid, Some(watchdog));
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    pair.ithaca.wait("word of its end", |status| status.watchdog.as_ref().is_some_and(|it| it.pid.is_none()));
    pair.ithaca.wait_said("the watchdog process has ended");
    copy(&testbed);
}

/// The DSCP that ithaca gives to packets which leave by the plain route.
const PLAIN: u8 = 10;
/// The attribute `reason` 9 of a notification `STATE`, see docs/protocol.md.
const REASON_BYPASS: [u8; 5] = [5, 0, 4, 0, 9];

#[test]
fn subscribers_hear_of_a_bypass_before_the_first_packet_takes_the_plain_route() {
    let testbed = Testbed::perfect();
    let secret = make_key(&testbed);
    let mut pair = pair_each(&testbed, &[notify(&testbed, "on_wire")], &[]);
    let mut client = client(&testbed, &secret);
    wait_link(&mut client, LinkState::Up);
    let marks = format!("oifname wan0 ip daddr {} ip dscp set {PLAIN}", MIRROR[0]);
    let chain = "add table ip t; add chain ip t c { type filter hook postrouting priority 0; }";
    let rule = format!("{chain}; add rule ip t c {marks}");
    testbed.run("ithaca", &["nft", &rule]).unwrap();
    for is_killed in [false, true] {
        let capture = Capture::begin(&testbed.node("ithaca"));
        let (sink, stream) = flow(&testbed);
        wait_flow(&sink);
        match is_killed {
            true => pair.syracuse.kill(),
            false => pair.syracuse.set_halted(true),
        }
        // The client keeps its subscription meanwhile.
        wait_link(&mut client, LinkState::Degraded);
        wait_flow(&sink);
        stream.end();
        let seen = capture.end();
        let is_told = |it: &Seen| it.from.port() == 7118 && it.bytes.windows(5).any(|bytes| bytes == REASON_BYPASS);
        let is_plain = |it: &Seen| it.to == sink.address && it.class >> 2 == PLAIN;
        let [told, plain] = [seen.iter().position(is_told), seen.iter().position(is_plain)];
        // A capture on all devices keeps the order in which the kernel handled the packets.
        assert!(told.is_some() && plain.is_some() && told < plain, "told {told:?}, plain {plain:?} of {}", seen.len());
        if !is_killed {
            pair.syracuse.set_halted(false);
            [&pair.ithaca, &pair.syracuse].into_iter().for_each(wait_carried);
            wait_link(&mut client, LinkState::Up);
        }
    }
}

#[test]
fn a_peer_that_was_removed_and_is_back_is_carried_again() {
    let testbed = Testbed::perfect();
    let pair = pair(&testbed, &[("/tun/queues", json!(2))]);
    let with = [withdraws(), ("/tun/queues", json!(2))];
    let key = "1nuvm6GBB0fIa18x8nswNQBjV92lr08gkyfD8y05Ah8=";
    let other = json!([{ "name": "utica", "public_key": key, "prefixes": ["10.9.0.0/24"] }]);
    let without = [&with[..], &[("/peers", other)]].concat();
    for _ in 0..3 {
        pair.ithaca.configure(&without);
        assert_eq!(reload(&pair.ithaca).0, Some(0));
        assert_eq!(device(&testbed), "wan0");
        pair.ithaca.configure(&with);
        assert_eq!(reload(&pair.ithaca).0, Some(0));
        wait_carried(&pair.ithaca);
        assert_eq!(device(&testbed), "ow0");
        copy(&testbed);
    }
}

#[test]
fn a_route_of_somebody_else_is_not_replaced_and_that_is_said_once() {
    let testbed = Testbed::perfect();
    // The plain route has the metric that ours would have.
    testbed.run("ithaca", &["ip", "route", "add", "10.2.0.0/24", "via", "192.0.2.2"]).unwrap();
    let pair = Pair::start(&testbed, &[withdraws()]);
    wait_withdrawn(&pair.ithaca, "its routes cannot be added");
    let tried = Instant::now();
    // It is tried again each 300 ms.
    while tried.elapsed() < Duration::from_secs(1) {
        wait_withdrawn(&pair.ithaca, "its routes cannot be added");
        let shown = testbed.run("ithaca", &["ip", "route", "show", "10.2.0.0/24"]).unwrap();
        assert!(shown.contains("via 192.0.2.2") && !shown.contains("ow0"), "{shown}");
    }
    assert_eq!(pair.ithaca.output().matches("there is one with this metric already").count(), 1);
    testbed.run("ithaca", &["ip", "route", "change", "10.2.0.0/24", "via", "192.0.2.2"]).unwrap();
    testbed.run("ithaca", &["ip", "route", "del", "10.2.0.0/24", "via", "192.0.2.2"]).unwrap();
    wait_carried(&pair.ithaca);
    copy(&testbed);
}
