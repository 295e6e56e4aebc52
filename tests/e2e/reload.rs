//! A configuration that changes while the appliance runs: all of it or nothing, no packet and no session lost.

use std::{fs, time::Duration};

use serde_json::{Value, json};

use crate::{
    appliance::{Appliance, Pair},
    datagrams::{Sink, Stream},
    streams,
    testbed::{MIRROR, ONWIRE, Testbed},
};

/// Runs `onwire reload`; its exit code and everything that it says.
pub fn reload(appliance: &Appliance<'_>) -> (Option<i32>, String) {
    let socket = appliance.socket.to_str().unwrap();
    let output = std::process::Command::new(ONWIRE).args(["reload", "--socket", socket]).output().unwrap();
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (output.status.code(), said)
}

fn sessions(appliance: &Appliance<'_>) -> Vec<u64> {
    appliance.status().peers.iter().map(|peer| peer.sessions).collect()
}

#[test]
fn reloads_under_load_lose_no_packet_and_no_session() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[("/tun/queues", json!(2))]);
    let (primary, mirror) = (testbed.node("primary"), testbed.node("mirror"));
    let before = [&pair.ithaca, &pair.syracuse].map(sessions);
    let sink = Sink::listen(&mirror, MIRROR[0]);
    let stream = Stream::begin(&primary, sink.address, 900, Duration::from_micros(500));
    // Each changes something else, and some many things at once.
    let variants: [&[(&str, Value)]; 6] = [
        &[("/log", json!({ "level": "debug" }))],
        &[("/peers/0/path", json!({ "rate": "500mbit", "queue": "20ms" }))],
        &[("/redundancy", json!({ "steady": { "block_symbols": 64, "repair": { "fixed": 9 } } }))],
        &[(
            "/redundancy",
            json!({ "steady": { "repair": { "residual": 1e-6, "survive_burst": "1ms", "max_overhead": "400%" } } }),
        )],
        &[
            ("/redundancy", json!({ "other": { "repair": { "fixed": 2 } }, "steady": { "repair": "none" } })),
            ("/policy", json!([{ "protocol": "udp", "redundancy": "other" }])),
        ],
        &[],
    ];
    for round in 0..20 {
        let appliance = if round % 2 == 0 { &mut pair.ithaca } else { &mut pair.syracuse };
        appliance.configure([variants[round / 2 % 6], &[("/tun/queues", json!(2))]].concat().as_slice());
        let (code, said) = reload(appliance);
        assert_eq!(code, Some(0), "round {round}: {said}");
        assert!(said.starts_with("reloaded: "), "{said}");
    }
    streams::copy(&primary, &mirror, MIRROR[0], 4, 500_000);
    let sent = stream.end();
    assert!(sink.wait_for(sent as usize), "{} of {sent} arrived", sink.count());
    sink.arrived().assert_once();
    assert_eq!([&pair.ithaca, &pair.syracuse].map(sessions), before, "no session was made anew");
    assert_eq!(pair.ithaca.status().reload.attempts, 10);
    assert_eq!(pair.ithaca.drops("no_peer") + pair.ithaca.drops("no_session"), 0);
}

#[test]
fn peers_and_prefixes_come_and_go() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let stranger = testbed.directory().join("utica.key");
    testbed.command(&[ONWIRE, "keygen", stranger.to_str().unwrap()]);
    let public = testbed.command(&[ONWIRE, "pubkey", stranger.to_str().unwrap()]).trim().to_owned();
    let shown = || testbed.run("ithaca", &["ip", "route", "show", "10.9.0.0/24"]).unwrap();
    let before = sessions(&pair.ithaca);
    let config: Value = serde_json::from_slice(&fs::read(&pair.ithaca.config).unwrap()).unwrap();
    let mut peers = config["peers"].as_array().unwrap().clone();
    let utica = json!({ "name": "utica", "public_key": public, "prefixes": ["10.9.0.0/24"] });
    for round in 0..2 {
        // In front, so that numbers differ between the file and the appliance.
        peers.insert(0, utica.clone());
        pair.ithaca.configure(&[("/peers", json!(peers))]);
        assert_eq!(reload(&pair.ithaca).1, "reloaded: peers[utica] added\n", "round {round}");
        assert!(shown().contains("dev ow0"), "{}", shown());
        let names = |appliance: &Appliance<'_>| -> Vec<String> {
            appliance.status().peers.iter().map(|peer| peer.name.clone()).collect()
        };
        assert_eq!(names(&pair.ithaca), ["syracuse", "utica"]);
        assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
        peers.remove(0);
        pair.ithaca.configure(&[("/peers", json!(peers))]);
        assert_eq!(reload(&pair.ithaca).1, "reloaded: peers[utica] removed\n");
        assert_eq!((shown(), names(&pair.ithaca)), (String::new(), vec!["syracuse".to_owned()]));
        assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
    }
    assert_eq!(sessions(&pair.ithaca), before);
    // The only real peer goes and comes back: it has a session again, and carries.
    pair.ithaca.configure(&[("/peers", json!([utica]))]);
    assert_eq!(reload(&pair.ithaca).0, Some(0));
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 100% packet loss"));
    pair.ithaca.configure(&[]);
    assert_eq!(reload(&pair.ithaca).0, Some(0));
    pair.ithaca.wait_up();
    streams::copy(&testbed.node("primary"), &testbed.node("mirror"), MIRROR[1], 2, 500_000);
}

#[test]
fn a_bad_file_or_a_fixed_key_changes_nothing_and_all_faults_are_named() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let good = fs::read_to_string(&pair.ithaca.config).unwrap();
    fs::write(&pair.ithaca.config, good.replace("\"tun\"", "\"tum\"").replace("10.2.0.0/24", "10.2.0.0/42")).unwrap();
    let (code, said) = reload(&pair.ithaca);
    assert_eq!(code, Some(1));
    assert!(said.contains("prefixes[0]") && said.contains("tum") && said.contains("nothing has changed"), "{said}");
    pair.ithaca.configure(&[("/tun/queues", json!(2)), ("/log", json!({ "level": "debug" }))]);
    let (code, said) = reload(&pair.ithaca);
    assert_eq!((code, said.contains("tun.queues")), (Some(1), true), "{said}");
    let status = pair.ithaca.status();
    assert_eq!((status.lanes.len(), status.reload.attempts), (1, 2));
    assert!(!status.reload.last.unwrap().is_good);
    // A route that the kernel refuses takes everything back.
    testbed.run("ithaca", &["ip", "route", "add", "10.8.0.0/24", "dev", "site0", "metric", "0"]).unwrap();
    let config: Value = serde_json::from_str(&good).unwrap();
    let mut peer = config["peers"][0].clone();
    peer["prefixes"] = json!(["10.2.0.0/24", "fd00:2::/64", "10.7.0.0/24", "10.8.0.0/24"]);
    pair.ithaca.configure(&[("/peers", json!([peer])), ("/redundancy", json!({ "steady": { "repair": "none" } }))]);
    let (code, said) = reload(&pair.ithaca);
    let routes = testbed.run("ithaca", &["ip", "route", "show", "dev", "ow0"]).unwrap();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("10.8.0.0/24") && said.contains("nothing has changed"), "{said}");
    assert!(routes.contains("10.2.0.0/24") && !routes.contains("10.7.0.0"), "{said}\n{routes}");
    let repair = || pair.ithaca.status().peers[0].sent.repair_symbols;
    let before = repair();
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
    assert!(repair() > before, "the lanes repair as before");
    fs::write(&pair.ithaca.config, good).unwrap();
    let (code, said) = reload(&pair.ithaca);
    assert_eq!(code, Some(0), "{said}");
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
}
