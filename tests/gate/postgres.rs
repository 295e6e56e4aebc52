//! Real PostgreSQL servers through the gate: an unmodified primary and its unmodified mirror, on the loopback device of
//! a separate network namespace, and an appliance that reports what the test wants.
//!
//! Each test except that of TLS runs with the distribution's PostgreSQL and with another version, from
//! `tests/gate/servers/requirements.txt`. The tests need root, both versions and `ip`; if one is missing they fail, and
//! the message names the command that installs it.

mod site;

use std::time::Duration;

use self::site::{GATE, MIRROR, PRIMARY, Site};
use crate::servers::found::Version;

/// Long enough for a commit that waits for nothing, on a busy machine.
const SURELY: Duration = Duration::from_millis(1500);

/// Runs each of these tests once per version.
macro_rules! with_each_version {
    ($($test:ident)*) => {
        mod distribution {
            $(#[test] fn $test() { super::$test(super::Version::Distribution); })*
        }
        mod other {
            $(#[test] fn $test() { super::$test(super::Version::Other); })*
        }
    };
}

with_each_version! {
    a_commit_waits_for_protection_and_a_flush_for_the_mirror
    a_program_that_only_keeps_wal_is_not_the_mirror
    commits_complete_when_a_killed_gate_is_started_again
    a_logical_subscriber_also_releases_commits
    a_mirror_that_comes_back_without_acknowledged_commits_is_reported
}

/// A primary with a synchronous mirror, which was made by a base backup through the gate.
fn replicating(version: Version) -> Site {
    let mut site = Site::new(version);
    site.start_primary("");
    site.start_gate(&[]);
    site.backup(&format!("host={GATE} port=6432 user=postgres"));
    site.start_mirror("application_name=mirror");
    site.sql(PRIMARY, "CREATE TABLE kept (id serial, words text)");
    site.make_synchronous("mirror");
    site
}

fn a_commit_waits_for_protection_and_a_flush_for_the_mirror(version: Version) {
    let site = replicating(version);
    assert_eq!(site.phase(), "replication of slot mirror");
    // Nothing is protected: only the mirror's own acknowledgement releases a commit.
    site.sql(PRIMARY, "INSERT INTO kept (words) VALUES ('real')");

    let receiver = site.freeze_receiver();
    let commit = site.commit("remote_write", "INSERT INTO kept (words) VALUES ('waits')");
    assert!(!commit.returns_within(SURELY), "neither protected nor written at the mirror");
    site.appliance.protect_all();
    commit.returns();
    // Seventy more commits, which the mirror does not receive.
    for _ in 0..70 {
        site.sql(PRIMARY, "INSERT INTO kept (words) SELECT repeat('x', 1000)");
    }
    let flushed = site.commit("on", "INSERT INTO kept (words) VALUES ('flushed')");
    let applied = site.commit("remote_apply", "INSERT INTO kept (words) VALUES ('applied')");
    assert!(!flushed.returns_within(SURELY), "`on` still means the mirror's disk");
    assert!(!applied.returns_within(Duration::ZERO), "`remote_apply` still means the mirror's tables");

    site.sql(PRIMARY, "CHECKPOINT");
    let has = site.sql(MIRROR, "SELECT pg_last_wal_receive_lsn()");
    let behind = format!("SELECT restart_lsn <= '{has}' FROM pg_replication_slots WHERE slot_name = 'mirror'");
    assert_eq!(site.sql(PRIMARY, &behind), "t", "the slot keeps what the mirror has not flushed");
    let positions = format!("SELECT write_lsn > '{has}', flush_lsn <= '{has}' FROM pg_stat_replication");
    assert_eq!(site.sql(PRIMARY, &positions), "t|t");
    let connection = site.connection();
    assert!(connection["injected_acks"].as_u64().unwrap() > 70, "{connection:#}");

    site.thaw(receiver);
    flushed.returns();
    applied.returns();
    site.compare("SELECT count(*) FROM kept", "74");
}

fn a_program_that_only_keeps_wal_is_not_the_mirror(version: Version) {
    let mut site = Site::new(version);
    site.start_primary("");
    site.start_gate(&[]);
    site.sql(PRIMARY, "CREATE TABLE kept (words text)");
    let receiver = site.receive_wal(&format!("host={GATE} port=6432 user=postgres application_name=mirror"), "kept");
    // The primary itself counts the program as a standby, because of its name and because it reports what it has
    // flushed.
    site.make_synchronous("mirror");
    site.commit("remote_write", "INSERT INTO kept VALUES ('its own words')").returns();
    site.appliance.protect_all();
    site.halt(receiver);
    let commit = site.commit("remote_write", "INSERT INTO kept VALUES ('no mirror has it')");
    assert!(!commit.returns_within(SURELY), "there is no mirror that could have it");
    assert_eq!(site.connection()["injected_acks"], 0);
    assert!(site.gate_log().contains("it is no mirror"), "{}", site.gate_log());
    site.thaw(receiver);
    commit.returns();
}

fn commits_complete_when_a_killed_gate_is_started_again(version: Version) {
    let mut site = replicating(version);
    site.appliance.protect_all();
    let load = site.load(4, 8);
    std::thread::sleep(Duration::from_secs(2));
    for _ in 0..2 {
        site.kill_gate();
        let commit = site.commit("remote_write", "INSERT INTO kept (words) VALUES ('blocked')");
        assert!(!commit.returns_within(SURELY), "no mirror is connected");
        site.start_gate(&[]);
        commit.returns();
    }
    let commits = load.finish();
    assert!(commits > 100, "{commits} commits");
    site.compare("SELECT count(*) FROM kept", &(commits + 2).to_string());
}

fn a_logical_subscriber_also_releases_commits(version: Version) {
    let mut site = Site::new(version);
    site.start_primary("");
    site.start_gate(&[]);
    site.sql(PRIMARY, "CREATE TABLE kept (id serial primary key, words text)");
    site.sql(PRIMARY, "CREATE TABLE private (words text)");
    site.sql(PRIMARY, "CREATE PUBLICATION everything FOR TABLE kept");
    site.start_empty_mirror();
    site.sql(MIRROR, "CREATE TABLE kept (id serial primary key, words text)");
    let connection = format!("host={GATE} port=6432 user=postgres dbname=postgres");
    site.sql(MIRROR, &format!("CREATE SUBSCRIPTION mirror CONNECTION '{connection}' PUBLICATION everything"));
    site.make_synchronous("mirror");
    assert_eq!(site.phase(), "logical replication of slot mirror");
    site.sql(PRIMARY, "INSERT INTO kept (words) VALUES ('real')");

    let worker = site.freeze("SELECT pid FROM pg_stat_subscription WHERE subname = 'mirror' AND relid IS NULL");
    let commit = site.commit("remote_write", "INSERT INTO kept (words) VALUES ('waits')");
    assert!(!commit.returns_within(SURELY), "neither protected nor received by the subscriber");
    site.appliance.protect_all();
    commit.returns();
    // A change that no subscription includes is sent only as a keepalive.
    site.commit("remote_write", "INSERT INTO private VALUES ('nobody hears of it')").returns();
    let flushed = site.commit("on", "INSERT INTO kept (words) VALUES ('flushed')");
    assert!(!flushed.returns_within(SURELY), "`on` still means the subscriber's disk");
    site.thaw(worker);
    flushed.returns();
    site.compare("SELECT count(*) FROM kept", "3");
}

/// Only with the distribution's version: the other was built without TLS.
#[test]
fn tls_ends_at_the_gate_on_both_legs_and_scram_passes() {
    let mut site = Site::new(Version::Distribution);
    let files = site.certificates("gate.test");
    site.start_primary(&format!(
        "ssl = on\nssl_cert_file = '{0}'\nssl_key_file = '{1}'\npassword_encryption = 'scram-sha-256'\n",
        files.chain.display(),
        files.server_key.display()
    ));
    site.sql(PRIMARY, "CREATE ROLE r REPLICATION SUPERUSER LOGIN PASSWORD 'secret'");
    site.allow("hostssl all,replication r 127.0.0.0/8 scram-sha-256");
    let (chain, key) = (files.chain.to_str().unwrap(), files.gate_key.to_str().unwrap());
    let tls = ["--tls-cert", chain, "--tls-key", key, "--upstream-tls", "gate.test", "--upstream-ca", chain];
    site.start_gate(&[&tls[..], &["--start-timeout", "3s"]].concat());

    let through = format!("hostaddr={GATE} host=gate.test port=6432 user=r password=secret dbname=postgres");
    let verified = format!("{through} sslmode=verify-full sslrootcert={chain}");
    let ask = |words: &str| site.ask(words, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()");
    assert_eq!(ask(&format!("{verified} channel_binding=disable")), Ok("t".into()), "TLS to the primary");
    let error = ask(&verified).unwrap_err();
    assert!(error.contains("channel_binding=disable"), "the client gets the remedy: {error}");
    let error = ask(&format!("{through} sslmode=disable")).unwrap_err();
    assert!(error.contains("accepts only connections with TLS"), "{error}");
    let error = ask(&format!("{verified} channel_binding=disable").replace("=secret", "=wrong")).unwrap_err();
    assert!(error.contains("password authentication failed"), "{error}");

    let mirror = format!("{verified} channel_binding=disable").replace(" dbname=postgres", "");
    site.backup(&mirror);
    site.start_mirror("application_name=mirror");
    site.sql(PRIMARY, "CREATE TABLE kept (id serial, words text)");
    site.make_synchronous("mirror");
    let receiver = site.freeze_receiver();
    let commit = site.commit("remote_write", "INSERT INTO kept (words) VALUES ('waits')");
    assert!(!commit.returns_within(SURELY), "neither protected nor written at the mirror");
    site.appliance.protect_all();
    commit.returns();
    site.thaw(receiver);
    site.compare("SELECT count(*) FROM kept", "1");
    // If the gate did not see that the connection has begun, it would drop it, and the mirror would reconnect, again
    // and again.
    site.outlives(3.0);
}

fn a_mirror_that_comes_back_without_acknowledged_commits_is_reported(version: Version) {
    let mut site = replicating(version);
    site.sql(PRIMARY, "INSERT INTO kept (words) VALUES ('real')");
    site.appliance.protect_all();
    // Five commits that are acknowledged before the mirror has read them; the caller decides what the mirror does then.
    let insert = |site: &Site| {
        let receiver = site.freeze_receiver();
        for _ in 0..5 {
            site.commit("remote_write", "INSERT INTO kept (words) SELECT repeat('x', 1000)").returns();
        }
        receiver
    };
    let receiver = insert(&site);
    site.thaw(receiver);
    site.compare("SELECT count(*) FROM kept", "6");
    // A mirror that stops with everything comes back with everything, although it asks from the beginning of a segment.
    site.stop_mirror();
    site.copy_mirror("mirror", "backup");
    site.start_mirror_again();
    site.sql(PRIMARY, "INSERT INTO kept (words) VALUES ('behind it')");
    let receiver = insert(&site);
    site.thaw(receiver);
    site.compare("SELECT count(*) FROM kept", "12");
    site.end_receiver();
    site.sql(PRIMARY, "INSERT INTO kept (words) VALUES ('for another receiver')");
    site.compare("SELECT count(*) FROM kept", "13");
    assert_eq!(site.shortfalls(), (0, 0), "{}", site.gate_log());

    // The mirror crashes before it has read what was acknowledged in its place.
    let receiver = insert(&site);
    site.kill(receiver);
    site.compare("SELECT count(*) FROM kept", "18");
    let (times, bytes) = site.awaits_shortfall(1);
    assert!(times == 1 && bytes > 5000, "{times} times, {bytes} bytes");
    let log = site.gate_log();
    assert!(log.contains("slot mirror came back with less than was acknowledged early for it"), "{log}");

    // An older copy replaces it.
    let receiver = insert(&site);
    site.thaw(receiver);
    site.compare("SELECT count(*) FROM kept", "23");
    site.stop_mirror();
    site.copy_mirror("backup", "mirror");
    site.start_mirror_again();
    site.compare("SELECT count(*) FROM kept", "23");
    let (times, more) = site.awaits_shortfall(2);
    assert!(times == 2 && more - bytes > 15_000, "{times} times, {bytes} bytes, then {more}");
    site.stop_mirror();
    site.start_mirror_again();
    site.sql(PRIMARY, "INSERT INTO kept (words) VALUES ('last')");
    site.compare("SELECT count(*) FROM kept", "24");
    assert_eq!(site.shortfalls(), (times, more), "it had caught up");
}
