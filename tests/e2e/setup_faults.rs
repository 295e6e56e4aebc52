//! Errors in a configuration and around it: logged once, with a remedy, and without effect on anything else.

use std::{thread, time::Duration};

use serde_json::json;

use crate::{
    appliance::Pair,
    testbed::{MIRROR, ONWIRE, Testbed},
};

fn key(testbed: &Testbed, name: &str) -> String {
    let file = testbed.directory().join(name);
    let file = file.to_str().unwrap();
    testbed.command(&[ONWIRE, "keygen", file]);
    testbed.command(&[ONWIRE, "pubkey", file]).trim().to_owned()
}

#[test]
fn a_wrong_key_is_logged_once_on_both_sides() {
    // First ithaca has a wrong key for syracuse, then syracuse for ithaca, then only ithaca has a preshared key.
    for (change, at_ithaca, at_syracuse) in [
        (Some(0), "does not answer at 192.0.2.2:7117", "is meant for another node"),
        (Some(1), "is meant for another node", "does not answer at 192.0.2.1:7117"),
        (None, "cannot be opened", "cannot be opened"),
    ] {
        let testbed = Testbed::perfect();
        let other = key(&testbed, &format!("other-{change:?}.key"));
        let wrong = [("/peers/0/public_key", json!(other))];
        key(&testbed, "psk");
        let psk = [("/peers/0/preshared_key_file", json!(testbed.directory().join("psk")))];
        let (ithaca, syracuse): (&[_], &[_]) = match change {
            Some(0) => (&wrong, &[]),
            Some(_) => (&[], &wrong),
            None => (&psk, &[]),
        };
        let mut pair = Pair::prepare_each(&testbed, ithaca, syracuse);
        pair.ithaca.start();
        pair.syracuse.start();
        let log = [pair.ithaca.wait_said(at_ithaca), pair.syracuse.wait_said(at_syracuse)];
        // Several further handshakes follow; each message still appears only once.
        thread::sleep(Duration::from_secs(3));
        for (log, words) in log.iter().zip([at_ithaca, at_syracuse]) {
            assert_eq!(log.matches(words).count(), 1, "{log}");
            assert!(!log.contains("session established"), "{log}");
        }
        pair.ithaca.terminate();
        pair.syracuse.terminate();
    }
}

#[test]
fn a_session_is_logged_only_when_data_passes_not_only_handshakes() {
    let testbed = Testbed::perfect();
    for words in [
        "add table inet wall",
        "add chain inet wall in { type filter hook prerouting priority -400 ; }",
        "add rule inet wall in udp dport 7117 @th,64,8 >= 4 drop",
    ] {
        let words: Vec<&str> = std::iter::once("nft").chain(words.split(' ')).collect();
        testbed.run("syracuse", &words).unwrap_or_else(|error| panic!("{error}: apt-get install nftables"));
        testbed.run("ithaca", &words).unwrap();
    }
    let mut pair = Pair::prepare(&testbed, &[]);
    pair.ithaca.start();
    pair.syracuse.start();
    let log = pair.ithaca.wait_said("answers handshakes, but nothing else of it arrives");
    assert!(!log.contains("session established"), "{log}");
    for node in ["ithaca", "syracuse"] {
        testbed.run(node, &["nft", "delete", "table", "inet", "wall"]).unwrap();
    }
    pair.wait_up();
    let log = pair.ithaca.wait_said("session established");
    assert_eq!(
        (log.matches("nothing else of it").count(), log.matches("session established").count()),
        (1, 1),
        "{log}"
    );
}

#[test]
fn an_unresolvable_endpoint_does_not_stop_the_appliance() {
    let testbed = Testbed::perfect();
    let name = [("/peers/0/endpoint", json!("mirror.invalid:7117"))];
    let mut pair = Pair::prepare_each(&testbed, &name, &[]);
    pair.ithaca.start();
    // No peer has called yet: the appliance runs and logs the error.
    let log = pair.ithaca.wait_said("cannot resolve the endpoint mirror.invalid:7117");
    assert!(log.contains("getent hosts") && log.contains("it is asked for again"), "{log}");
    pair.syracuse.start();
    pair.wait_up();
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
}

#[test]
fn disagreeing_prefixes_are_logged_once() {
    let testbed = Testbed::perfect();
    let narrow = [("/peers/0/prefixes", json!(["10.1.0.128/25", "fd00:1::/64"]))];
    let pair = Pair::start_each(&testbed, &[], &narrow);
    for _ in 0..3 {
        assert!(testbed.ping("primary", "-W 1 10.2.0.1").contains("100% packet loss"));
    }
    let log = pair.syracuse.wait_said("dropped, as foreign_address: a packet from 10.1.0.1 to 10.2.0.1");
    assert_eq!(log.matches("foreign_address").count(), 1, "{log}");
}

#[test]
fn a_path_mtu_larger_than_the_device_is_logged_once() {
    let testbed = Testbed::perfect();
    let large = [("/peers/0/path/mtu", json!(9000))];
    let pair = Pair::start(&testbed, &large);
    let log = pair.ithaca.wait_said("path.mtu is 9000, and wan0, by which the peer is reached, has 1500");
    assert_eq!(log.matches("path.mtu is 9000").count(), 1, "{log}");
}

#[test]
fn a_handshake_from_inside_the_tunnels_prefixes_is_dropped_and_logged() {
    let testbed = Testbed::perfect();
    // Syracuse sends from the mirror's network, which ithaca routes into the tunnel.
    let inside = [("/node/listen", json!("10.2.0.254:7117"))];
    let mut pair = Pair::prepare_each(&testbed, &[("/peers/0/endpoint", json!(null))], &inside);
    pair.ithaca.start();
    pair.syracuse.start();
    pair.ithaca.wait_said("comes from inside peers[].prefixes");
    thread::sleep(Duration::from_secs(2));
    let status = pair.ithaca.status();
    assert!(status.drops.get("handshake_inside_tunnel").is_some_and(|count| *count > 1), "{status:?}");
    assert_eq!((status.peers[0].state.as_str(), status.peers[0].sent.datagrams), ("connecting", 0), "{status:?}");
}
