//! The way back from a configuration that is not kept or not followed by all lanes: everything is as before.

use std::time::{Duration, Instant};

use onwire::{appliance::status::candidate::CandidateState, io::hold::HeldThread};
use serde_json::{Value, json};

use crate::{
    appliance::{Appliance, Pair},
    apply::{candidate, onwire, state},
    datagrams::{Sink, datagram, sender},
    protected_site::{make_key, notify},
    reload::reload,
    testbed::{MIRROR, Testbed},
};

/// Another peer, which is never reached.
fn utica(path: Value) -> Value {
    let key = "1nuvm6GBB0fIa18x8nswNQBjV92lr08gkyfD8y05Ah8=";
    json!({ "name": "utica", "public_key": key, "prefixes": ["10.9.0.0/24"], "path": path })
}

/// The peers of ithaca with another one.
fn with(appliance: &Appliance<'_>, other: Value) -> Value {
    let config: Value = serde_json::from_str(&appliance.text(&[])).unwrap();
    let mut peers = config["peers"].as_array().unwrap().clone();
    peers.push(other);
    json!(peers)
}

fn apply(testbed: &Testbed, appliance: &Appliance<'_>, text: &str, within: &str) -> (Option<i32>, String) {
    let file = candidate(testbed, "new.yaml", text);
    onwire(appliance, &["apply", file.to_str().unwrap(), "--confirm-within", within])
}

fn wait_back(appliance: &Appliance<'_>) {
    appliance.wait("the way back", |status| {
        status.configuration.candidate.as_ref().is_some_and(|it| it.state == CandidateState::WentBack)
    });
}

#[test]
fn a_peer_that_could_be_new_only_after_a_restart_is_back_all_the_same() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::prepare(&testbed, &[]);
    // No other peer has this, so that a reload cannot add it; this process has had it from the start.
    let peers = with(&pair.ithaca, utica(json!({ "udp_gso": "off" })));
    pair.ithaca.configure(&[("/peers", peers)]);
    pair.run();
    let (code, said) = apply(&testbed, &pair.ithaca, &pair.ithaca.text(&[]), "1s");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(pair.ithaca.status().peers.len(), 1);
    wait_back(&pair.ithaca);
    assert_eq!(pair.ithaca.status().peers.len(), 2);
    assert_eq!(reload(&pair.ithaca), (Some(0), "reloaded: nothing has changed\n".to_owned()));
}

#[test]
fn a_way_back_that_the_kernel_refuses_is_tried_until_it_works() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::prepare(&testbed, &[]);
    let peers = with(&pair.ithaca, utica(json!({})));
    pair.ithaca.configure(&[("/peers", peers)]);
    pair.run();
    let (code, said) = apply(&testbed, &pair.ithaca, &pair.ithaca.text(&[]), "2s");
    assert_eq!(code, Some(0), "{said}");
    testbed.run("ithaca", &["ip", "route", "add", "10.9.0.0/24", "dev", "site0"]).unwrap();
    pair.ithaca.wait("a failure", |status| {
        let candidate = status.configuration.candidate.as_ref();
        candidate.is_some_and(|it| it.state == CandidateState::GoingBack && it.text.contains("10.9.0.0/24"))
    });
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(state(&pair.ithaca), Some(CandidateState::GoingBack));
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"), "who stays is carried meanwhile");
    assert_eq!(pair.ithaca.output().matches("cannot go back to what was followed").count(), 1, "said once");
    testbed.run("ithaca", &["ip", "route", "del", "10.9.0.0/24", "dev", "site0"]).unwrap();
    wait_back(&pair.ithaca);
    assert!(testbed.run("ithaca", &["ip", "route", "show", "10.9.0.0/24"]).unwrap().contains("dev ow0"));
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
}

#[test]
fn a_refused_reload_leaves_sessions_and_what_is_known_of_a_link_as_they_were() {
    let testbed = Testbed::emulated("loss 3%");
    make_key(&testbed);
    // What no plan reaches on this link.
    let repair = json!({ "steady": { "repair": { "residual": 1e-12, "max_overhead": "2%" } } });
    let ithaca = [notify(&testbed, "on_wire"), ("/redundancy", repair.clone())];
    let pair = Pair::start_each(&testbed, &ithaca, &[]);
    let reason = || pair.ithaca.status().peers[0].protection.as_ref().map(|protection| protection.reason.clone());
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    let sender = sender(&testbed.node("primary"), sink.address);
    let send_until = |is_so: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(30);
        for number in 0.. {
            let _ = sender.send(&datagram(number, 1000));
            if number % 100 == 0 && is_so() {
                break;
            }
            assert!(Instant::now() < deadline, "{:?}", reason());
            std::thread::sleep(Duration::from_micros(500));
        }
    };
    send_until(&|| reason().as_deref() == Some("target not reachable"));
    // The only peer is gone in the file that is refused, and a prefix of another one is taken.
    testbed.run("ithaca", &["ip", "route", "add", "10.9.0.0/24", "dev", "site0"]).unwrap();
    pair.ithaca.configure(&[&ithaca[..], &[("/peers", json!([utica(json!({}))]))]].concat());
    let (code, said) = reload(&pair.ithaca);
    assert_eq!((code, said.contains("nothing has changed")), (Some(1), true), "{said}");
    let refused = Instant::now();
    pair.ithaca.wait("its session", |status| status.peers[0].state == "up");
    send_until(&|| reason().as_deref() == Some("target not reachable"));
    assert!(refused.elapsed() < Duration::from_secs(20), "{:?}", refused.elapsed());
}

#[test]
fn lanes_that_follow_different_configurations_are_all_brought_back() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[("/tun/queues", json!(4))]);
    let profile = json!({ "steady": { "block_symbols": 32, "repair": { "fixed": 9 } } });
    let text = pair.ithaca.text(&[("/tun/queues", json!(4)), ("/redundancy", profile)]);
    // Lanes follow from the last to the first. Lane 2 does not, and then lane 3 does not go back: lane 2 is not even asked to.
    let id = pair.ithaca.id();
    let second = HeldThread::hold(id, "lane-2").unwrap();
    let third = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1000));
        HeldThread::hold(id, "lane-3").unwrap()
    });
    let (code, said) = apply(&testbed, &pair.ithaca, &text, "10min");
    drop((second, third.join().unwrap()));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("the way back is tried each second") && !said.contains("nothing has changed"), "{said}");
    wait_back(&pair.ithaca);
    // Every lane has the profile of before: four repair symbols for a block.
    let sent = || {
        let sent = pair.ithaca.status().peers[0].sent;
        (sent.blocks, sent.repair_symbols)
    };
    let sink = Sink::listen(&testbed.node("mirror"), MIRROR[0]);
    pair.ithaca.wait_up();
    let before = sent();
    for _ in 0..100 {
        // Each has its own port, and with that a lane.
        sender(&testbed.node("primary"), sink.address).send(&datagram(0, 100)).unwrap();
    }
    pair.ithaca.wait("blocks", |status| status.peers[0].sent.blocks >= before.0 + 20);
    std::thread::sleep(Duration::from_millis(200));
    let after = sent();
    let ratio = (after.1 - before.1) as f64 / (after.0 - before.0) as f64;
    let base = before.1 as f64 / before.0.max(1) as f64;
    assert!(ratio <= base.max(4.0), "{ratio} repair symbols a block, {base} before");
}
