//! What a running appliance may still do: as root it keeps what its routes need, on every thread, and reloads all the same.

use std::fs;

use serde_json::json;

use crate::{
    appliance::{Appliance, Pair},
    reload::reload,
    testbed::{MIRROR, ONWIRE, Testbed},
};

const NONE: u64 = 0;
/// `CAP_NET_ADMIN` is number 12.
const NET_ADMIN: u64 = 1 << 12;

/// The name of each thread of a process, and the lines of its status.
fn threads(process: u32) -> Vec<(String, String)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let status = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("status")).unwrap());
    status.map(|status| (line(&status, "Name").to_owned(), status)).collect()
}

fn line<'a>(status: &'a str, name: &str) -> &'a str {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    value.unwrap_or_else(|| panic!("no {name} in {status}"))
}

fn assert_restricted(appliance: &Appliance<'_>) {
    let threads = threads(appliance.id());
    for (name, status) in &threads {
        let capabilities = |set: &str| u64::from_str_radix(line(status, set), 16).unwrap();
        let needed = if name == "onwire" || name.starts_with("lane-") { NET_ADMIN } else { NONE };
        // The one thread of `ctrlc` is called as the library wants.
        assert_eq!(["CapEff", "CapPrm"].map(capabilities), [needed; 2], "{name}: {status}");
        assert_eq!(["CapInh", "CapBnd", "CapAmb"].map(capabilities), [NONE; 3], "{name}: {status}");
        assert_eq!((line(status, "NoNewPrivs"), line(status, "Seccomp")), ("1", "2"), "{name}: {status}");
    }
    let names: Vec<&str> = threads.iter().map(|(name, _)| &name[..]).collect();
    for expected in ["onwire", "lane-0", "lane-1", "log", "metrics", "signals"] {
        assert!(names.contains(&expected), "{names:?}");
    }
}

#[test]
fn every_thread_of_a_running_appliance_keeps_only_what_routes_need() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[("/tun/queues", json!(2)), ("/metrics", json!({}))]);
    assert_restricted(&pair.ithaca);
    let restrictions = pair.ithaca.status().restrictions;
    assert_eq!((restrictions.no_new_privileges, restrictions.missing), (true, vec![]));
    assert_eq!(restrictions.capabilities, ["CAP_NET_ADMIN"]);
    assert!(restrictions.refused_system_calls > 60);
    let files = restrictions.files.unwrap();
    let home = testbed.directory().canonicalize().unwrap();
    assert!(files.readable.contains(&home) && files.sockets == [home], "{files:?}");
    let text = testbed.command(&[ONWIRE, "status", "--socket", pair.ithaca.socket.to_str().unwrap()]);
    assert!(text.contains("restricted to: CAP_NET_ADMIN; files by Landlock"), "{text}");
    // Routes are restored, and the threads are as they were.
    testbed.run("ithaca", &["ip", "link", "set", "ow0", "down"]).unwrap();
    testbed.run("ithaca", &["ip", "link", "set", "ow0", "up"]).unwrap();
    // The kernel tells of the change a moment later: status may still be that of before.
    pair.ithaca.wait("its routes", |_| testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
    assert_restricted(&pair.ithaca);
}

/// The nice value of each thread of a process: the 19th field of proc_pid_stat(5).
fn nice_values(process: &str) -> Vec<(String, i32)> {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let stat = tasks.map(|task| fs::read_to_string(task.unwrap().path().join("stat")).unwrap());
    let parse = |stat: String| {
        let (name, fields) = stat.split_once(" (").unwrap().1.rsplit_once(") ").unwrap();
        (name.to_owned(), fields.split(' ').nth(16).unwrap().parse().unwrap())
    };
    stat.map(parse).collect()
}

#[test]
fn lanes_run_before_ordinary_programs_and_other_threads_do_not() {
    let testbed = Testbed::perfect();
    let pair = Pair::start(&testbed, &[("/tun/queues", json!(2)), ("/metrics", json!({}))]);
    // Whoever starts the tests may have chosen a value, which an appliance keeps.
    let own = nice_values("self").into_iter().map(|(_, nice)| nice).min().unwrap();
    let lanes = if own == 0 { -10 } else { own };
    let found = nice_values(&pair.ithaca.id().to_string());
    let is_lane = |name: &str| name.starts_with("lane-");
    assert_eq!(found.iter().filter(|(name, _)| is_lane(name)).count(), 2, "{found:?}");
    for (name, nice) in &found {
        let expected = if is_lane(name) { lanes } else { own };
        // Metrics give way.
        assert!(*nice == expected || name == "metrics", "{name} at {nice}, expected {expected}: {found:?}");
    }
    assert!(pair.ithaca.output().contains(&format!("lanes run at nice {lanes}")), "{}", pair.ithaca.output());
}

#[test]
fn a_reload_reads_new_and_replaced_files_beside_the_old_ones_and_says_why_it_reads_no_others() {
    let testbed = Testbed::perfect();
    let mut pair = Pair::start(&testbed, &[]);
    let elsewhere = tempfile::tempdir().unwrap();
    let outside = elsewhere.path().join("psk.key");
    testbed.command(&[ONWIRE, "keygen", outside.to_str().unwrap()]);
    pair.ithaca.configure(&[("/peers/0/preshared_key_file", json!(outside))]);
    let (code, said) = reload(&pair.ithaca);
    assert_eq!(code, Some(1), "{said}");
    for words in [
        "preshared_key_file",
        "psk.key is outside of what this process may read",
        "restart onwire",
        "nothing has changed",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(testbed.ping("primary", MIRROR[0]).contains(" 0% packet loss"));
    // Beside the configuration, both a file that was not there before, and a configuration that another one replaces.
    let inside = testbed.directory().join("later.key");
    fs::copy(&outside, &inside).unwrap();
    pair.ithaca.configure(&[("/peers/0/preshared_key_file", json!(inside))]);
    let text = fs::read(&pair.ithaca.config).unwrap();
    let (replacement, config) = (testbed.directory().join("new.yaml"), pair.ithaca.config.clone());
    fs::write(&replacement, text).unwrap();
    fs::rename(&replacement, &config).unwrap();
    let (code, said) = reload(&pair.ithaca);
    assert_eq!((code, said.contains("preshared_key_file")), (Some(0), true), "{said}");
    // At the end it removes its socket and its routes.
    let (exit, output) = pair.ithaca.terminate();
    assert!(exit.success(), "{output}");
    assert!(!pair.ithaca.socket.exists());
    let routes = testbed.run("ithaca", &["ip", "route", "show", "proto", "117"]).unwrap();
    assert_eq!(routes, "");
}
