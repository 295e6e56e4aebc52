//! How an appliance starts and ends: its routes, its device, its socket, its final statistics.

use std::{net::UdpSocket, time::Duration};

use onwire::lab::process::Process;
use rustix::process::Signal;
use serde_json::json;

use crate::{
    appliance::{Appliance, Pair},
    datagrams::{Sink, datagram, sender},
    streams,
    testbed::{MIRROR, ONWIRE, Testbed},
};

/// The appliance's routes in ithaca, IPv4 and IPv6.
fn routes(testbed: &Testbed) -> String {
    ["-4", "-6"].map(|family| testbed.run("ithaca", &["ip", family, "route", "show", "proto", "117"]).unwrap()).concat()
}

fn assert_nothing_left(testbed: &Testbed, appliance: &Appliance<'_>) {
    assert_eq!(routes(testbed), "");
    assert!(testbed.run("ithaca", &["ip", "link", "show", "ow0"]).is_err(), "the device is still there");
    assert!(appliance.try_status().is_err());
    let route = testbed.run("ithaca", &["ip", "route", "get", MIRROR[0]]);
    assert!(route.is_err(), "{route:?}");
}

#[test]
fn routes_carry_our_protocol_and_the_preferred_source() {
    let testbed = Testbed::perfect();
    let _pair = Pair::start(&testbed, &[]);
    let routes = routes(&testbed);
    let rows = [("10.2.0.0/24 dev ow0", "src 10.1.0.254"), ("fd00:2::/64 dev ow0", "src fd00:1::fe")];
    for (route, source) in rows {
        let line = routes.lines().find(|line| line.starts_with(route)).unwrap_or_else(|| panic!("{route} in {routes}"));
        assert!(line.contains(source), "{line}");
    }
    assert_eq!(routes.lines().count(), 2, "{routes}");
    // So a program on the appliance's own host needs no configuration.
    let (host, mirror) = (testbed.node("ithaca"), testbed.node("mirror"));
    for at in MIRROR {
        streams::copy(&host, &mirror, at, 2, 1_000_000);
        Sink::listen(&mirror, at).expect_all(&host, 32, 1200);
    }
}

#[test]
fn a_stopping_appliance_sends_the_packets_that_wait_for_its_rate() {
    let testbed = Testbed::perfect();
    let slow = [("/peers/0/path", json!({ "rate": "1mbit", "queue": "1s" }))];
    let mut pair = Pair::start_each(&testbed, &slow, &[]);
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    let socket = sender(&testbed.node("primary"), sink.address);
    // With repair this takes a fifth of a second at that rate, of the half second that a stop may take.
    for number in 0..16 {
        socket.send(&datagram(number, 1000)).unwrap();
    }
    pair.ithaca.wait("has read them", |status| status.peers[0].sent.adus >= 16);
    assert!(sink.count() < 16, "the control: they wait");
    pair.ithaca.terminate();
    assert!(sink.wait_for(16), "{} of 16 came", sink.count());
}

#[test]
fn a_clean_stop_leaves_nothing_and_prints_statistics() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 1, 200_000);
    let (exit, said) = pair.ithaca.terminate();
    assert_eq!(exit.code(), Some(0), "{said}");
    for words in ["ithaca: stopped", "peer syracuse: ", "source and", "repair symbols"] {
        assert!(said.contains(words), "\"{words}\" in {said}");
    }
    assert_nothing_left(&testbed, &pair.ithaca);
    assert!(!pair.ithaca.socket.exists());
}

#[test]
fn an_interrupt_is_a_clean_stop_too() {
    let testbed = Testbed::perfect();
    let pair = Pair::prepare(&testbed, &[]);
    let config = pair.ithaca.config.to_str().unwrap();
    let mut process = testbed.start("ithaca", "interrupted", &[ONWIRE, "run", "--config", config]);
    process.wait_for_output("is running", Duration::from_secs(60)).unwrap_or_else(|error| panic!("{error}"));
    process.signal(Signal::INT);
    process.wait(Duration::from_secs(60)).unwrap_or_else(|error| panic!("{error}"));
    assert_nothing_left(&testbed, &pair.ithaca);
}

#[test]
fn a_crash_leaves_no_route_and_no_obstacle() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    assert_eq!(routes(&testbed).lines().count(), 2);
    pair.ithaca.kill();
    assert_nothing_left(&testbed, &pair.ithaca);
    assert!(pair.ithaca.socket.exists(), "nobody was left to remove it");
    pair.ithaca.start();
    pair.wait_up();
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 1, 200_000);
}

/// Waits for a program that must fail to start; returns its output.
fn refused(mut process: Process) -> String {
    let error = process.wait(Duration::from_secs(60)).unwrap_err().to_string();
    assert!(error.contains("exit status: 1"), "{error}");
    process.output()
}

#[test]
fn a_second_start_is_refused_with_a_reason_and_changes_nothing() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let epoch = pair.ithaca.status().epoch;
    let config = pair.ithaca.config.to_str().unwrap();
    let said = refused(testbed.start("ithaca", "second", &[ONWIRE, "run", "--config", config]));
    assert!(said.contains("another onwire with this status socket is running"), "{said}");
    assert_eq!(routes(&testbed).lines().count(), 2);
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[0], 1, 200_000);
    assert_eq!(pair.ithaca.status().epoch, epoch);
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    let testbed = Testbed::perfect();
    let pair = Pair::prepare(&testbed, &[]);
    let taken = testbed.node("ithaca").run(|| UdpSocket::bind("192.0.2.1:7117").unwrap()).unwrap();
    let config = pair.ithaca.config.to_str().unwrap();
    let said = refused(testbed.start("ithaca", "refused", &[ONWIRE, "run", "--config", config]));
    assert!(said.contains("192.0.2.1:7117"), "{said}");
    assert_nothing_left(&testbed, &pair.ithaca);
    assert!(!pair.ithaca.socket.exists());
    drop(taken);
}
