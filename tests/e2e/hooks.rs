//! Hooks of a running appliance: each event comes with its facts, and a hook that hangs, floods, fails or is not there holds up
//! nothing.

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use onwire::notify::message::LinkState;
use serde_json::{Value, json};

use crate::{
    appliance::Pair,
    protected_site::{client, connection, notifying_pair, soon, wait_link},
    reload::reload,
    testbed::{MIRROR, ONWIRE, Testbed},
};

/// A program with this script.
fn program(testbed: &Testbed, name: &str, script: &str) -> PathBuf {
    let path = testbed.directory().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// A program that notes its environment and its input as one line of JSON, and where.
fn recorder(testbed: &Testbed, name: &str) -> (PathBuf, PathBuf) {
    let notes = testbed.directory().join(format!("{name}.notes"));
    let script = format!(
        "input=$(cat)\nprintf '{{\"arguments\":\"%s\",\"event\":\"%s\",\"peer\":\"%s\",\"state\":\"%s\",\"verdict\":\"%s\",\"input\":%s}}\\n' \
         \"$*\" \"$ONWIRE_EVENT\" \"$ONWIRE_PEER\" \"$ONWIRE_STATE\" \"$ONWIRE_VERDICT\" \"$input\" >> {}",
        notes.display()
    );
    (program(testbed, name, &script), notes)
}

/// What a recorder has noted, once it has noted something that `is_it`.
fn noted(notes: &PathBuf, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    let deadline = soon();
    loop {
        let text = fs::read_to_string(notes).unwrap_or_default();
        let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let found = lines.find_map(|line| serde_json::from_str(line).ok().filter(&is_it));
        if let Some(found) = found {
            return found;
        }
        assert!(Instant::now() < deadline, "never {what}: {text}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The children of a process.
fn children(process: u32) -> Vec<u32> {
    let of = |task: fs::DirEntry| fs::read_to_string(task.path().join("children")).unwrap_or_default();
    let lists = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|task| of(task.unwrap()));
    lists.flat_map(|list| list.split_whitespace().map(|id| id.parse().unwrap()).collect::<Vec<_>>()).collect()
}

fn is_alive(process: u32) -> bool {
    fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_link_and_a_drain_are_told_on_a_side_without_notifications_with_their_facts() {
    let testbed = Testbed::perfect();
    let (hook, notes) = recorder(&testbed, "hook");
    let hooks = json!([{ "run": [hook, "--to", "the night shift"] }]);
    let mut pair = Pair::start_each(&testbed, &[], &[("/hooks", hooks)]);
    let up = noted(&notes, "up", |note| note["state"] == "up");
    assert_eq!((&up["event"], &up["peer"]), (&json!("link"), &json!("ithaca")));
    assert_eq!(up["arguments"], "--to the night shift");
    let input = &up["input"];
    assert_eq!(
        (&input["event"], &input["node"], &input["before"]),
        (&json!("link"), &json!("syracuse"), &json!("down"))
    );
    assert!(input["at_s"].as_f64().unwrap() > 1.7e9, "{input}");

    pair.ithaca.kill();
    let down = noted(&notes, "down", |note| note["state"] == "down");
    assert_eq!((&down["input"]["before"], &down["input"]["reason"]), (&json!("up"), &json!("silent")));

    let socket = pair.syracuse.socket.to_str().unwrap();
    let output = Command::new(ONWIRE).args(["drain", "--socket", socket]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let drained = noted(&notes, "drained", |note| note["event"] == "drain");
    assert_eq!((&drained["verdict"], &drained["peer"]), (&json!("complete"), &json!("ithaca")));
    assert!(drained["input"]["waited_s"].is_number() && drained["input"]["reasons"] == json!([]), "{drained}");

    let status = pair.syracuse.wait("three runs", |status| status.hooks[0].runs >= 3);
    assert_eq!((status.hooks[0].failed, status.hooks[0].last.as_deref()), (0, Some("ended with exit code 0")));
    let text = testbed.command(&[ONWIRE, "status", "--socket", socket]);
    assert!(text.contains("runs, 0 failed; the last ended with exit code 0"), "{text}");
}

#[test]
fn a_broken_promise_is_told_with_its_bytes_where_notifications_are_configured() {
    let testbed = Testbed::emulated("delay 100ms");
    let (hook, notes) = recorder(&testbed, "hook");
    let changes = [
        ("/redundancy/steady", json!({ "block_symbols": 8, "repair": { "fixed": 1 } })),
        ("/delivery", json!({ "hold": "20ms" })),
        ("/hooks", json!([{ "on": ["violation"], "run": [hook] }])),
    ];
    let (pair, secret) = notifying_pair(&testbed, &changes);
    wait_link(&mut client(&testbed, &secret), LinkState::Up);
    let mut stream = connection(&testbed);
    let source = stream.local_addr().unwrap().to_string();
    stream.write_all(b"first").unwrap();
    testbed.wan().tell("set forth loss 30%").unwrap();
    // One write in eleven loses both of its datagrams. TCP sends it again.
    let deadline = Instant::now() + Duration::from_secs(120);
    while fs::metadata(&notes).is_err() {
        let protection = || pair.ithaca.status().peers[0].protection.clone();
        assert!(Instant::now() < deadline, "no violation: {:?}", protection());
        stream.write_all(&[1; 200]).unwrap();
        thread::sleep(Duration::from_millis(50));
    }
    let note = noted(&notes, "a violation", |note| note["event"] == "violation");
    let input = &note["input"];
    assert!(input["losses"].as_u64() >= Some(1) && input["bytes"].as_u64() >= Some(1), "{input}");
    let range = &input["ranges"][0];
    assert!(range["source"] == source.as_str() && range["start"].as_u64() < range["end"].as_u64(), "{input}");
    let text = fs::read_to_string(&notes).unwrap();
    assert!(!text.contains("\"link\""), "the hook is for violations alone: {text}");
}

#[test]
fn a_hook_that_never_ends_holds_up_nothing_and_later_states_become_one() {
    let testbed = Testbed::perfect();
    let hangs = testbed.directory().join("hangs");
    let script = format!(
        "trap '' TERM\nif [ \"$ONWIRE_STATE\" = up ] && [ ! -e {0} ]; then : >{0}; while :; do sleep 0.1; done; fi",
        hangs.display()
    );
    let hook = program(&testbed, "hook", &script);
    let (other, notes) = recorder(&testbed, "other");
    let hooks = json!([{ "run": [hook], "time_limit": "10s" }, { "run": [other] }]);
    let mut pair = Pair::start_each(&testbed, &[], &[("/hooks", hooks)]);
    noted(&notes, "up", |note| note["state"] == "up");
    let deadline = soon();
    while !hangs.exists() {
        assert!(Instant::now() < deadline, "the hook was not run");
        thread::sleep(Duration::from_millis(5));
    }
    // While it hangs: packets pass, the status comes, and the other hook is run.
    assert!(testbed.ping("primary", &format!("-c 5 -i 0.05 -W 2 {}", MIRROR[0])).contains(" 0% packet loss"));
    assert_eq!(pair.syracuse.status().hooks[0].runs, 0);
    pair.ithaca.kill();
    noted(&notes, "down", |note| note["state"] == "down");
    pair.ithaca.start();
    pair.wait_up();
    pair.syracuse.wait("the end", |status| status.hooks[0].overdue == 1);
    // Down and up have become one run.
    let status = pair.syracuse.wait("the next run", |status| status.hooks[0].runs == 2);
    assert_eq!((status.hooks[0].merged, status.hooks[0].failed), (1, 1));
    pair.syracuse.wait_said("took longer than its time_limit of 10s");
}

#[test]
fn hooks_that_fail_or_cannot_be_run_are_logged_with_what_they_say_and_end_with_the_appliance() {
    let testbed = Testbed::perfect();
    let fails = program(&testbed, "fails", "echo 'no route to the pager' >&2; yes more | head -c 5000; exit 3");
    let gone = program(&testbed, "gone", "exit 0");
    let hangs = program(&testbed, "hangs", "sleep 1000 & setsid sleep 1000 & wait");
    let hooks = json!([{ "run": [fails] }, { "run": [gone] }, { "run": [hangs], "time_limit": "600s" }]);
    let mut pair = Pair::prepare_each(&testbed, &[], &[("/hooks", hooks)]);
    fs::remove_file(&gone).unwrap();
    pair.run();
    let output = pair.syracuse.wait_said("the hook ended with exit code 3");
    assert!(output.contains("no route to the pager"), "{output}");
    pair.syracuse.wait_said("the hook cannot be run: No such file or directory");
    let status = pair.syracuse.wait("two runs", |status| status.hooks[..2].iter().all(|hook| hook.runs == 1));
    assert_eq!(status.hooks[..2].iter().map(|hook| hook.failed).collect::<Vec<_>>(), [1, 1]);
    // The appliance itself still starts nothing.
    assert!(
        status.restrictions.no_new_privileges && status.restrictions.missing.is_empty(),
        "{:?}",
        status.restrictions
    );
    assert!(status.restrictions.refused_system_calls > 60);

    let processes: Vec<u32> = status.hooks.iter().map(|hook| hook.pid.unwrap()).collect();
    assert_eq!(children(pair.syracuse.id()).len(), 3);
    let deadline = soon();
    while children(processes[2]).is_empty() {
        assert!(Instant::now() < deadline, "the third hook does not run");
        thread::sleep(Duration::from_millis(20));
    }
    let running: Vec<u32> =
        children(processes[2]).into_iter().flat_map(|id| [vec![id], children(id)].concat()).collect();
    assert!(pair.syracuse.terminate().0.success());
    let deadline = soon();
    while processes.iter().chain(&running).any(|&process| is_alive(process)) {
        assert!(Instant::now() < deadline, "a hook outlives its appliance: {processes:?} {running:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_changed_hook_needs_a_restart_and_a_hook_whose_process_has_died_is_said() {
    let testbed = Testbed::perfect();
    let (hook, _) = recorder(&testbed, "hook");
    let with = |limit: &str| json!([{ "run": [hook], "time_limit": limit }]);
    let pair = Pair::start_each(&testbed, &[("/hooks", with("1s"))], &[]);
    pair.ithaca.configure(&[("/hooks", with("2s"))]);
    let (code, said) = reload(&pair.ithaca);
    assert!(code == Some(1) && said.contains("hooks") && said.contains("restart"), "{code:?} {said}");
    let process = pair.ithaca.status().hooks[0].pid.unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(process as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let status = pair.ithaca.wait("the end of the process", |status| status.hooks[0].pid.is_none());
    assert_eq!(status.peers[0].state, "up");
    pair.ithaca.wait_said("the process of the hook has ended");
}
