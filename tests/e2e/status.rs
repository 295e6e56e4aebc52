//! `onwire status` of real appliances: since when, rates, whether all is well; and what it writes is as the schema
//! says.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    appliance::Pair,
    protected_site::notifying_pair,
    schema_check::assert_valid,
    testbed::{MIRROR, ONWIRE, Testbed},
};

/// Runs `onwire` where the only sockets are those of the test.
fn onwire(testbed: &Testbed, arguments: &[&str]) -> Output {
    Command::new(ONWIRE).args(arguments).env("ONWIRE_SOCKETS", testbed.directory()).output().unwrap()
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn a_status_says_since_when_and_how_fast_and_a_check_sees_the_end_of_a_peer() {
    let testbed = Testbed::emulated("delay 2ms, loss 10%");
    let (mut pair, _) = notifying_pair(&testbed, &[]);
    let check = || {
        let output = onwire(&testbed, &["status", "--check"]);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let all_is_well = |pair: &Pair<'_>| {
        pair.wait_up();
        let deadline = Instant::now() + Duration::from_secs(20);
        while check().0 != Some(0) {
            assert!(Instant::now() < deadline, "{:?}", check());
            std::thread::sleep(Duration::from_millis(100));
        }
    };
    all_is_well(&pair);
    assert_eq!(check().1, "OK: ithaca: 1 of 1 peer up; syracuse: 1 of 1 peer up\n");

    // Ten pings a second for some seconds, of 1000 bytes.
    testbed
        .run("primary", &["sh", "-c", &format!("ping -q -i 0.02 -s 1000 -c 200 -W 1 {} || true", MIRROR[0])])
        .unwrap();
    let shown = json_of(&onwire(&testbed, &["status", "--json"]));
    assert_valid("status", &shown);
    for socket in [&pair.ithaca.socket, &pair.syracuse.socket] {
        let one = json_of(&onwire(&testbed, &["status", "--json", "--socket", socket.to_str().unwrap()]));
        assert_valid("appliance-status", &one);
    }
    let status = pair.ithaca.status();
    let peer = &status.peers[0];
    let rates = peer.rates.expect("it has run for some seconds");
    let there = rates.peer_report.expect("the peer reports");
    assert!(rates.over_s > 2.0 && rates.over_s < 12.5, "{rates:?}");
    // 200 packets within the ten seconds, or less than ten if it has not run for so long.
    let packets = rates.sent.adus_per_second * rates.over_s;
    assert!((150.0..=260.0).contains(&packets), "{packets} packets: {rates:?}");
    let per_packet = rates.sent.adu_bytes_per_second / rates.sent.adus_per_second;
    assert!((900.0..=1100.0).contains(&per_packet), "{rates:?}");
    assert!(rates.sent.overhead.unwrap() > 0.05 && rates.sent.repair_symbols_per_second > 1.0, "{rates:?}");
    let loss = there.raw_loss.unwrap();
    assert!((0.02..0.3).contains(&loss) && there.recovered_symbols_per_second > 0.0, "{there:?}");
    let since = peer.since.unwrap();
    assert!(since.for_s > 1.0 && since.for_s < status.uptime_s, "{since:?} of {}", status.uptime_s);
    let protection = peer.protection.as_ref().unwrap();
    assert!(protection.since.unwrap().for_s < status.uptime_s, "{protection:?}");
    let text = onwire(&testbed, &["status"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("peer syracuse: up for ") && text.contains("  last ") && text.contains("packets/s"),
        "{text}"
    );

    // A crash leaves a socket: it is no process that does not answer.
    pair.syracuse.kill();
    assert!(pair.syracuse.socket.exists());
    let status = pair.ithaca.wait("end of the link", |status| {
        status.peers[0].state == "silent"
            && status.peers[0].protection.as_ref().is_some_and(|it| it.state == "degraded")
    });
    let degraded = status.peers[0].protection.clone().unwrap();
    assert!(degraded.since.unwrap().for_s < 15.0 && degraded.reason == "no reports", "{degraded:?}");
    let (code, text) = check();
    assert!(code == Some(1) && text.starts_with("DEGRADED: ithaca: peer syracuse is silent, for "), "{code:?} {text}");
    std::thread::sleep(Duration::from_secs(2));
    let later = pair.ithaca.status().peers[0].protection.clone().unwrap();
    let passed = later.since.unwrap().for_s - degraded.since.unwrap().for_s;
    assert!(passed > 1.5, "the link is degraded since one moment: {passed}");
    assert!((later.since.unwrap().at_s - degraded.since.unwrap().at_s).abs() < 0.5, "{later:?}");
    let skipped = onwire(&testbed, &["status", "-v", "--json"]);
    assert!(String::from_utf8_lossy(&skipped.stderr).contains("syracuse.sock: nothing listens"), "{skipped:?}");
    assert_eq!(json_of(&skipped)["unanswered"], json!([]));
    pair.syracuse.start();
    all_is_well(&pair);
    assert!(pair.ithaca.status().peers[0].since.unwrap().for_s < 20.0);
}
