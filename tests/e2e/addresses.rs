//! Hosts with several addresses: an answer leaves from the address that received the datagram, and a tunnel survives
//! the loss of that address.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{
    appliance::Pair,
    testbed::{MIRROR, PRIMARY, Testbed},
};

/// Part of the log line about an address from which no datagram can be sent any more.
const LEFT: &str = "by which the peer called";

/// Syracuse has further addresses, listens on all of them, and does not know ithaca's address; ithaca uses the second
/// one.
fn second_address(testbed: &Testbed) -> Pair<'_> {
    for address in ["192.0.2.22/24", "192.0.2.33/24"] {
        testbed.run("syracuse", &["ip", "address", "add", address, "dev", "wan0"]).unwrap();
    }
    let (ithaca, syracuse) = (
        [("/peers/0/endpoint", json!("192.0.2.22:7117"))],
        [("/node/listen", json!("0.0.0.0:7117")), ("/peers/0/endpoint", json!(null))],
    );
    let mut pair = Pair::prepare_each(testbed, &ithaca, &syracuse);
    pair.run();
    pair
}

#[test]
fn answers_of_a_host_with_two_addresses_pass_a_stateful_firewall() {
    let testbed = Testbed::perfect();
    // Ithaca's firewall accepts only packets of connections that ithaca began.
    for rule in [
        "add table inet guard",
        "add chain inet guard input { type filter hook input priority 0; policy accept; }",
        "add rule inet guard input iifname wan0 meta l4proto udp ct state new drop",
    ] {
        testbed.run("ithaca", &["nft", rule]).unwrap();
    }
    let pair = second_address(&testbed);
    let ping = testbed.ping("primary", MIRROR[0]);
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    assert_eq!(pair.ithaca.status().peers[0].endpoint, Some("192.0.2.22:7117".parse().unwrap()));
}

#[test]
fn a_tunnel_survives_the_removal_of_the_address_in_use() {
    let testbed = Testbed::perfect();
    let pair = second_address(&testbed);
    let ping = testbed.ping("primary", MIRROR[0]);
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    testbed.run("syracuse", &["ip", "address", "del", "192.0.2.22/24", "dev", "wan0"]).unwrap();
    // From now on syracuse sends from another address, and ithaca sends to that one.
    pair.ithaca.wait("follows", |status| status.peers[0].endpoint == Some("192.0.2.2:7117".parse().unwrap()));
    let ping = testbed.ping("primary", MIRROR[0]);
    assert!(ping.contains(" 0% packet loss"), "{ping}");
    let said = pair.syracuse.wait_said(LEFT);
    assert_eq!(said.matches(LEFT).count(), 1, "{said}");
}

#[test]
fn a_short_link_failure_does_not_change_the_source_address() {
    let testbed = Testbed::perfect();
    let pair = second_address(&testbed);
    for _ in 0..3 {
        // Without its device there is no route either; packets for ithaca are still sent.
        testbed.run("syracuse", &["ip", "link", "set", "wan0", "down"]).unwrap();
        testbed.ping("mirror", &format!("-c 20 -i 0.01 -W 1 {}", PRIMARY[0]));
        testbed.run("syracuse", &["ip", "link", "set", "wan0", "up"]).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss") {
        assert!(Instant::now() < deadline, "{}", pair.syracuse.output());
    }
    assert!(pair.syracuse.status().lanes[0].send_errors > 0, "the control: sends failed");
    assert!(!pair.syracuse.output().contains(LEFT), "{}", pair.syracuse.output());
    assert_eq!(pair.ithaca.status().peers[0].endpoint, Some("192.0.2.22:7117".parse().unwrap()));
}
