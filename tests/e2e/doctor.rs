//! `onwire doctor` names each fault of a host, of the path and of a peer, with a remedy that mends it; and `onwire
//! bugreport` writes what a person needs, without secrets.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::{
    appliance::{Appliance, Pair},
    testbed::{MIRROR, ONWIRE, Testbed},
};

/// The machine that runs the tests may have a clock that nothing keeps.
const OF_THE_MACHINE: [&str; 1] = ["clock"];
/// All steps together, on a busy machine.
const BOUNDED_BY: Duration = Duration::from_secs(30);

struct Examined {
    code: i32,
    report: Value,
}

/// Runs it in a node.
fn examine(testbed: &Testbed, node: &str, appliance: &Appliance<'_>) -> Examined {
    let config = appliance.config.to_str().unwrap();
    let script = format!("{ONWIRE} doctor --json --config {config}; echo \"exit $?\"");
    let begun = Instant::now();
    let output = testbed.run(node, &["sh", "-c", &script]).unwrap();
    assert!(begun.elapsed() < BOUNDED_BY, "{:?}", begun.elapsed());
    let (report, code) = output.rsplit_once("exit ").unwrap();
    let code = code.trim().parse().unwrap();
    Examined { code, report: serde_json::from_str(report).unwrap_or_else(|error| panic!("{error}: {report}")) }
}

impl Examined {
    /// The findings that are neither good nor of the machine that runs the tests.
    fn bad(&self) -> Vec<&Value> {
        let findings = self.report["findings"].as_array().unwrap().iter();
        let is_bad = |of: &&Value| of["level"] == "fault" || of["level"] == "warning";
        findings.filter(is_bad).filter(|of| !OF_THE_MACHINE.iter().any(|check| of["check"] == *check)).collect()
    }

    /// The one bad finding of this check; panics if there is none.
    fn of(&self, check: &str) -> &Value {
        let bad = self.bad();
        bad.iter().find(|of| of["check"] == check).unwrap_or_else(|| panic!("nothing of {check} in {:#}", self.report))
    }

    /// The remedies of a finding in one text.
    fn remedies(&self, check: &str) -> String {
        self.of(check)["remedies"].to_string()
    }

    fn assert_well(&self) {
        assert!(self.bad().is_empty(), "{:#?}", self.bad());
        assert_eq!((self.code, &self.report["faults"]), (0, &json!(0)), "{:#}", self.report);
    }
}

fn run(testbed: &Testbed, node: &str, line: &str) {
    let words: Vec<&str> = line.split(' ').collect();
    testbed.run(node, &words).unwrap_or_else(|error| panic!("{line}: {error}"));
}

/// What the first remedy says between backquotes, which is a command.
fn follow(testbed: &Testbed, node: &str, finding: &Value) {
    for remedy in finding["remedies"].as_array().unwrap() {
        let text = remedy.as_str().unwrap();
        let command = text.split('`').nth(1).unwrap_or_default();
        if ["sysctl -w", "ip ", "nft ", "tc "].iter().any(|start| command.starts_with(start)) {
            testbed.run(node, &["sh", "-c", command]).unwrap_or_else(|error| panic!("{command}: {error}"));
        }
    }
}

#[test]
fn a_pair_that_is_well_has_no_finding_and_each_fault_of_its_host_has_a_remedy_that_mends_it() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[("/bypass", json!({ "when_down": "withdraw_routes" }))]);
    let routes = || testbed.run("ithaca", &["ip", "route", "show", "proto", "117"]).unwrap();
    pair.ithaca.wait("routes", |_| routes().contains("10.2.0.0/24"));
    let look = || examine(&testbed, "ithaca", &pair.ithaca);
    look().assert_well();
    examine(&testbed, "syracuse", &pair.syracuse).assert_well();

    // Each fault with its check, its level, and a part of its remedy; the remedy is followed, and all is well again.
    for (fault, check, level, remedy) in [
        ("sysctl -qw net.ipv4.ip_forward=0", "forwarding", "fault", "net.ipv4.ip_forward=1"),
        ("sysctl -qw net.ipv6.conf.all.forwarding=0", "forwarding", "fault", "net.ipv6.conf.all.forwarding=1"),
        ("sysctl -qw net.ipv4.conf.wan0.rp_filter=1", "rp_filter", "warning", "net.ipv4.conf.wan0.rp_filter=2"),
        ("ip route add 10.2.0.0/25 via 192.0.2.2", "routes", "fault", "ip route del 10.2.0.0/25 dev wan0"),
        ("ip route add 10.2.0.128/25 via 192.0.2.2", "routes", "warning", "ip route del 10.2.0.128/25 dev wan0"),
        ("ip link set ow0 mtu 1300", "mtu", "warning", "ip link set ow0 mtu 1500"),
        ("ip link set ow0 down", "routes", "fault", "ip link set ow0 up"),
    ] {
        run(&testbed, "ithaca", fault);
        let found = look();
        let finding = found.of(check);
        assert_eq!(finding["level"], level, "{fault}: {finding}");
        assert_eq!(found.code, if level == "fault" { 1 } else { 0 }, "{fault}: {:#}", found.report);
        assert!(found.remedies(check).contains(remedy), "{fault}: {finding}");
        assert_eq!(finding["at"], Value::Null);
        follow(&testbed, "ithaca", finding);
        if check == "routes" {
            pair.ithaca.wait("its routes", |status| status.tun.route_troubles.is_empty());
        }
        look().assert_well();
    }
}

#[test]
fn a_forward_chain_that_drops_is_named_with_the_rules_that_admit_the_tunnel() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    for words in [
        "nft add table inet filter",
        "nft add chain inet filter forward { type filter hook forward priority 0 ; policy drop ; }",
        "nft add rule inet filter forward ct state established accept",
    ] {
        run(&testbed, "ithaca", words);
    }
    assert!(testbed.ping("primary", MIRROR[0]).contains("100% packet loss"));
    let found = examine(&testbed, "ithaca", &pair.ithaca);
    let finding = found.of("firewall");
    assert_eq!((finding["level"].as_str(), found.code), (Some("warning"), 0), "{finding}");
    assert!(found.remedies("firewall").contains("nft insert rule inet filter forward iifname"), "{finding}");
    follow(&testbed, "ithaca", finding);
    examine(&testbed, "ithaca", &pair.ithaca).assert_well();
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
}

#[test]
fn a_narrow_path_is_found_by_probes_and_the_mtu_that_it_names_passes() {
    let testbed = Testbed::perfect();
    // Larger packets vanish on their way, without a word to their sender.
    for words in [
        "nft add table inet narrow",
        "nft add chain inet narrow in { type filter hook prerouting priority -400 ; }",
        "nft add rule inet narrow in iifname wan0 ip length > 1400 drop",
    ] {
        run(&testbed, "syracuse", words);
    }
    let mut pair = Pair::start(&testbed, &[]);
    let found = examine(&testbed, "ithaca", &pair.ithaca);
    let finding = found.of("mtu");
    assert_eq!((finding["level"].as_str(), found.code), (Some("fault"), 1), "{finding}");
    assert!(finding["found"].as_str().unwrap().contains("the path carries 1400"), "{finding}");
    assert!(found.remedies("mtu").contains("mtu: 1400") && found.remedies("mtu").contains("syracuse"), "{finding}");
    let narrow = [("/peers/0/path/mtu", json!(1400))];
    pair.reconfigure(&narrow, &narrow);
    examine(&testbed, "ithaca", &pair.ithaca).assert_well();
}

#[test]
fn a_device_that_is_narrower_than_the_path_is_a_fault() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[("/peers/0/path/mtu", json!(9000))]);
    let found = examine(&testbed, "ithaca", &pair.ithaca);
    assert!(found.remedies("mtu").contains("mtu: 1500") && found.code == 1, "{:#}", found.report);
}

#[test]
fn a_wrong_key_is_named_with_the_host_where_it_is_wrong() {
    let testbed = Testbed::perfect();
    let file = testbed.directory().join("other.key");
    testbed.command(&[ONWIRE, "keygen", file.to_str().unwrap()]);
    let other = testbed.command(&[ONWIRE, "pubkey", file.to_str().unwrap()]).trim().to_owned();
    // Ithaca has a wrong key for syracuse.
    let mut pair = Pair::prepare_each(&testbed, &[("/peers/0/public_key", json!(other))], &[]);
    pair.ithaca.start();
    pair.syracuse.start();
    pair.syracuse.wait("refused handshakes", |status| status.drops.contains_key("handshake_stranger"));
    pair.ithaca.wait("some time", |status| status.uptime_s > 6.0);
    pair.syracuse.wait("some time", |status| status.uptime_s > 6.0);

    let found = examine(&testbed, "syracuse", &pair.syracuse);
    let finding = found.of("peer");
    assert_eq!(
        (finding["level"].as_str(), finding["at"].as_str(), found.code),
        (Some("fault"), Some("ithaca"), 1),
        "{finding}"
    );
    let right = pair.syracuse.status().public_key;
    assert!(found.remedies("peer").contains(&format!("public_key: {right}")), "{finding}");
    // Ithaca knows the caller by no key of its file, and is not answered.
    let found = examine(&testbed, "ithaca", &pair.ithaca);
    assert_eq!((found.of("peer")["level"].as_str(), found.of("peer")["at"].as_str()), (Some("fault"), None));
    let remedies = found.remedies("peer");
    assert!(
        remedies.contains("`public_key` of syracuse here must be what `onwire pubkey KEY-FILE` prints"),
        "{remedies}"
    );

    pair.ithaca.terminate();
    pair.ithaca.configure(&[("/peers/0/public_key", json!(right))]);
    pair.ithaca.start();
    pair.wait_up();
    examine(&testbed, "syracuse", &pair.syracuse).assert_well();
    examine(&testbed, "ithaca", &pair.ithaca).assert_well();
}

#[test]
fn prefixes_that_disagree_are_named_while_packets_are_dropped() {
    let testbed = Testbed::perfect();
    let narrow = [("/peers/0/prefixes", json!(["10.1.0.128/25", "fd00:1::/64"]))];
    let pair = Pair::start_each(&testbed, &[], &narrow);
    let _pings = testbed.start("primary", "pings", &["ping", "-i", "0.2", "10.2.0.1"]);
    pair.syracuse.wait("drops", |status| status.drops.contains_key("foreign_address"));
    let found = examine(&testbed, "syracuse", &pair.syracuse);
    assert_eq!(found.of("prefixes")["level"], "fault", "{:#}", found.report);
}

#[test]
fn without_an_appliance_the_host_is_examined_and_routes_in_the_way_are_named() {
    let testbed = Testbed::perfect();
    let pair = Pair::prepare(&testbed, &[]);
    let found = examine(&testbed, "ithaca", &pair.ithaca);
    found.assert_well();
    let unseen = found.report["findings"].as_array().unwrap().iter().filter(|of| of["level"] == "unseen");
    assert!(unseen.clone().any(|of| of["check"] == "appliance"), "{:#}", found.report);
    run(&testbed, "ithaca", "ip route add 10.2.0.0/24 via 192.0.2.2");
    let found = examine(&testbed, "ithaca", &pair.ithaca);
    assert_eq!((found.of("routes")["level"].as_str(), found.code), (Some("fault"), 1));
    follow(&testbed, "ithaca", found.of("routes"));
    examine(&testbed, "ithaca", &pair.ithaca).assert_well();
}

#[test]
fn a_user_without_rights_is_told_what_could_not_be_seen() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[]);
    let config = pair.ithaca.config.to_str().unwrap();
    fs::set_permissions(testbed.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = testbed.directory().join("onwire");
    fs::copy(ONWIRE, &program).unwrap();
    let script =
        format!("setpriv --reuid 65534 --regid 65534 --clear-groups {} doctor --config {config}", program.display());
    let shown = testbed.run("ithaca", &["sh", "-c", &format!("{script}; echo \"exit $?\"")]);
    let shown = shown.unwrap_or_else(|error| panic!("{error}: apt-get install util-linux"));
    assert!(shown.contains("unseen   configuration") && shown.contains("sudo onwire doctor"), "{shown}");
    assert!(shown.contains("exit 0"), "{shown}");
}

#[test]
fn a_bug_report_has_everything_but_secrets_and_overwrites_nothing() {
    let testbed = Testbed::perfect();
    let psk = testbed.directory().join("psk.key");
    let notify = testbed.directory().join("notify.key");
    testbed.command(&[ONWIRE, "keygen", psk.to_str().unwrap()]);
    testbed.command(&[ONWIRE, "keygen", "--notify", notify.to_str().unwrap()]);
    let changes =
        [("/peers/0/preshared_key_file", json!(psk)), ("/notify", json!({ "keys": [{ "id": 1, "file": notify }] }))];
    let pair = Pair::start(&testbed, &changes);
    let report = testbed.directory().join("report.txt");
    let config = pair.ithaca.config.to_str().unwrap();
    let words = [ONWIRE, "bugreport", "--config", config, "-o", report.to_str().unwrap()];
    testbed.run("ithaca", &words).unwrap();
    let text = fs::read_to_string(&report).unwrap();
    assert_eq!(fs::metadata(&report).unwrap().permissions().mode() & 0o777, 0o600);
    for part in [
        "In this file:",
        "Left out",
        "kernel ",
        "\"node\": \"ithaca\"",
        "keys are accepted",
        "10.2.0.0/24 dev ow0",
        "wan0",
        "/proc/sys/net/core/rmem_max",
        "Max open files",
        "(without secrets)",
        "192.0.2.2:7117",
    ] {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
    let secrets = ["ithaca.key", "psk.key", "notify.key"].map(|name| {
        fs::read_to_string(testbed.directory().join(name)).unwrap().trim().trim_end_matches('=').to_owned()
    });
    for secret in &secrets {
        assert!(!text.contains(&secret[..12]), "a key is in the report");
    }
    let refused = testbed.run("ithaca", &words).unwrap_err();
    assert!(refused.contains("not overwritten"), "{refused}");
    assert_eq!(fs::read_to_string(&report).unwrap(), text);

    // The same secrets, written into the file itself, in place of what belongs there; and then the file is no YAML
    // either.
    let mut broken = pair.ithaca.text(&changes);
    broken = broken
        .replace(psk.to_str().unwrap(), &secrets[1])
        .replace("\"notify\": {", &format!("\"password\": \"{} my secret\",\n  \"notify\": {{", secrets[2]));
    for (at, text) in
        [broken.clone(), broken.replacen('}', "", 1), format!("{broken}\n# {}", secrets[0])].iter().enumerate()
    {
        let file = testbed.directory().join(format!("broken-{at}.yaml"));
        fs::write(&file, text).unwrap();
        let words = [ONWIRE, "bugreport", "--config", file.to_str().unwrap(), "-o", "-"];
        let shown = testbed.run("ithaca", &words).unwrap();
        assert!(shown.contains("192.0.2.2:7117") && shown.contains("(left out)"), "{shown}");
        for secret in secrets.iter().map(|secret| &secret[..12]).chain(["my secret"]) {
            assert!(!shown.contains(secret), "a secret is in the report");
        }
    }
}

#[test]
fn an_appliance_that_stands_still_holds_nothing_up_and_progress_is_shown() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    pair.ithaca.set_halted(true);
    thread::sleep(Duration::from_millis(100));
    let begun = Instant::now();
    let config = pair.ithaca.config.to_str().unwrap().to_owned();
    let shown = testbed.run("ithaca", &["sh", "-c", &format!("{ONWIRE} doctor --config {config} 2>&1; true")]).unwrap();
    pair.ithaca.set_halted(false);
    assert!(begun.elapsed() < BOUNDED_BY);
    assert!(shown.contains("after 2 s: ") && shown.contains("unseen   appliance"), "{shown}");
}
