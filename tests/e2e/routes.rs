//! Changes to the tunnel's routes from outside: renewed addresses, a device set down, preferred routes of other
//! programs.

use std::time::Duration;

use onwire::appliance::host::route_trouble::RouteTrouble;
use serde_json::json;

use crate::{
    appliance::{Appliance, Pair},
    testbed::{MIRROR, ONWIRE, Testbed},
};

const PREFIX: &str = "10.2.0.0/24";

fn ip(testbed: &Testbed, words: &str) -> String {
    let words: Vec<&str> = std::iter::once("ip").chain(words.split(' ')).collect();
    testbed.run("ithaca", &words).unwrap_or_else(|error| panic!("{error}"))
}

fn trouble(appliance: &Appliance<'_>, prefix: &str) -> Option<RouteTrouble> {
    appliance.status().tun.route_troubles.get(prefix).cloned()
}

fn wait_well(appliance: &Appliance<'_>) {
    appliance.wait("routes that are well", |status| status.tun.route_troubles.is_empty());
}

fn is_answered(testbed: &Testbed, node: &str, words: &str) -> bool {
    testbed.ping(node, words).contains(" 0% packet loss")
}

#[test]
fn routes_are_restored_after_an_address_was_renewed() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let shown = || ip(&testbed, &format!("route show {PREFIX}"));
    assert!(shown().contains("dev ow0") && shown().contains("src 10.1.0.254"), "{}", shown());
    for round in 0..2 {
        ip(&testbed, "addr del 10.1.0.254/24 dev site0");
        pair.ithaca.wait("a route without a source", |_| shown().contains("dev ow0") && !shown().contains("src"));
        ip(&testbed, "addr add 10.1.0.254/24 dev site0");
        pair.ithaca.wait("a route with a source", |_| shown().contains("src 10.1.0.254"));
        // For IPv6 the kernel removes the source address and keeps the route.
        ip(&testbed, "-6 addr del fd00:1::fe/64 dev site0");
        ip(&testbed, "-6 addr add fd00:1::fe/64 dev site0 nodad");
        let shown = || ip(&testbed, "-6 route show fd00:2::/64");
        pair.ithaca.wait("an IPv6 route with a source", |_| shown().contains("src fd00:1::fe"));
        wait_well(&pair.ithaca);
        for at in MIRROR {
            assert!(is_answered(&testbed, "primary", at) && is_answered(&testbed, "ithaca", at), "round {round}, {at}");
        }
    }
    pair.ithaca.wait_said("route restored");
}

#[test]
fn routes_are_restored_after_the_tun_was_set_down_and_up() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    ip(&testbed, "link set ow0 down");
    pair.ithaca
        .wait("word of the device", |status| status.tun.route_troubles.get(PREFIX) == Some(&RouteTrouble::DeviceDown));
    let told = testbed.command(&[ONWIRE, "status", "--socket", pair.ithaca.socket.to_str().unwrap()]);
    assert!(told.contains("10.2.0.0/24: route missing, ow0 is down: `ip link set ow0 up`"), "{told}");
    // Another second with the device down: the message appears only once.
    std::thread::sleep(Duration::from_millis(1500));
    ip(&testbed, "link set ow0 up");
    wait_well(&pair.ithaca);
    for at in MIRROR {
        assert!(is_answered(&testbed, "primary", at), "{at}");
    }
    let both = |log: &str| log.matches("come to ow0 again").count() == 2;
    pair.ithaca.wait("word of both prefixes", |_| both(&pair.ithaca.output()));
    let log = pair.ithaca.output();
    assert_eq!(log.matches("was set down").count(), 2, "one for each prefix: {log}");
    assert_eq!(log.matches("come to ow0 again").count(), 2, "{log}");
}

#[test]
fn a_preferred_foreign_route_is_reported_until_it_is_removed() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    ip(&testbed, "route add 10.2.0.0/25 via 192.0.2.2");
    let status = pair.ithaca.wait("word of the other route", |status| !status.tun.route_troubles.is_empty());
    let told = status.tun.route_troubles.get(PREFIX);
    assert!(matches!(told, Some(RouteTrouble::Elsewhere { prefix, .. }) if prefix == "10.2.0.0/25"), "{told:?}");
    ip(&testbed, "route del 10.2.0.0/25");
    wait_well(&pair.ithaca);
    // A route of the same prefix and metric that replaces the tunnel's.
    ip(&testbed, "route replace 10.2.0.0/24 via 192.0.2.2");
    pair.ithaca.wait("word of it", |status| status.tun.route_troubles.contains_key(PREFIX));
    ip(&testbed, "route del 10.2.0.0/24 via 192.0.2.2");
    wait_well(&pair.ithaca);
    assert!(is_answered(&testbed, "primary", MIRROR[0]));
}

#[test]
fn disabled_forwarding_and_a_changed_mtu_are_reported() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[("/tun/mtu", json!(1400))]);
    assert_eq!(trouble(&pair.ithaca, PREFIX), None);
    testbed.run("ithaca", &["sysctl", "-qw", "net.ipv4.ip_forward=0"]).unwrap();
    pair.ithaca.wait("word of forwarding", |status| {
        status.tun.route_troubles.get(PREFIX) == Some(&RouteTrouble::OwnProgramsOnly)
    });
    ip(&testbed, "link set ow0 mtu 1300");
    testbed.run("ithaca", &["sysctl", "-qw", "net.ipv4.ip_forward=1"]).unwrap();
    wait_well(&pair.ithaca);
    pair.ithaca.wait("word of the MTU", |_| pair.ithaca.output().contains("`ip link set ow0 mtu 1400`"));
}

/// Unencrypted packets to the mirror that left ithaca.
fn leaked(testbed: &Testbed) -> u64 {
    let counters = testbed.run("ithaca", &["nft", "list", "counter", "inet", "leak", "clear"]).unwrap();
    let count = counters.split_whitespace().skip_while(|word| *word != "packets").nth(1);
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{counters}"))
}

#[test]
fn without_a_route_packets_leave_unencrypted_unless_a_blackhole_route_exists() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    // The host has another route, as every host with a default route has.
    ip(&testbed, "route add default via 192.0.2.2");
    for words in [
        "add table inet leak",
        "add counter inet leak clear",
        "add chain inet leak out { type filter hook postrouting priority 0 ; }",
        "add rule inet leak out oifname wan0 ip daddr 10.2.0.0/24 counter name clear",
    ] {
        let words: Vec<&str> = std::iter::once("nft").chain(words.split(' ')).collect();
        testbed.run("ithaca", &words).unwrap_or_else(|error| panic!("{error}: apt-get install nftables"));
    }
    for (is_guarded, leaks) in [(false, true), (true, false)] {
        if is_guarded {
            // As docs/operations.md recommends.
            ip(&testbed, "route add blackhole 10.2.0.0/24 metric 4294967295");
        }
        let before = leaked(&testbed);
        ip(&testbed, "link set ow0 down");
        testbed.ping("primary", "-i 0.1 -W 1 10.2.0.1");
        assert_eq!(leaked(&testbed) > before, leaks, "with a blackhole: {is_guarded}");
        ip(&testbed, "link set ow0 up");
        wait_well(&pair.ithaca);
        assert!(is_answered(&testbed, "primary", "10.2.0.1"));
    }
}
