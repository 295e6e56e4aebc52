//! The resource agents for a cluster of pacemaker: `ocf-tester` finds no fault, and each exit code is that of the OCF
//! Resource Agent API.

use std::{fs, os::unix::fs::PermissionsExt, process::Command, thread, time::Duration};

use onwire::lab::trace::need_programs;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::{
    appliance::Pair,
    protected_site::make_key,
    testbed::{ONWIRE, Testbed},
};

const AGENTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/config/pacemaker");
// Exit codes of the API.
const SUCCESS: i32 = 0;
const GENERIC: i32 = 1;
const ARGUMENTS: i32 = 2;
const UNIMPLEMENTED: i32 = 3;
const INSTALLED: i32 = 5;
const CONFIGURED: i32 = 6;
const NOT_RUNNING: i32 = 7;

/// An agent with its parameters in a node. What it has started is stopped when the value is dropped.
struct Agent<'t> {
    testbed: &'t Testbed,
    name: &'static str,
    parameters: Vec<(&'static str, String)>,
}

impl<'t> Agent<'t> {
    fn new(testbed: &'t Testbed, name: &'static str, parameters: &[(&'static str, &str)]) -> Self {
        need_programs(&["ocf-tester", "xmllint"]).unwrap_or_else(|error| panic!("{error}"));
        // Any user may ask an agent for its meta-data, so it lies where any may read.
        set_mode(testbed.directory().to_str().unwrap(), 0o755);
        fs::copy(format!("{AGENTS}/{name}"), testbed.directory().join(name)).unwrap();
        let mut agent = Self { testbed, name, parameters: Vec::new() };
        agent.set("binary", ONWIRE);
        parameters.iter().for_each(|(parameter, value)| agent.set(parameter, value));
        agent
    }

    fn set(&mut self, parameter: &'static str, value: &str) {
        self.parameters.retain(|(name, _)| *name != parameter);
        self.parameters.push((parameter, value.to_owned()));
    }

    /// Runs an action; returns its exit code and what it says.
    fn act(&self, action: &str) -> (i32, String) {
        let mut command = Command::new(self.testbed.directory().join(self.name));
        // A stop has two seconds of patience, not 25.
        let meta =
            [("OCF_RESKEY_CRM_meta_timeout", "7000"), ("OCF_RESOURCE_INSTANCE", "test"), ("OCF_ROOT", "/usr/lib/ocf")];
        command.arg(action).envs(meta);
        command.envs(self.parameters.iter().map(|(name, value)| (format!("OCF_RESKEY_{name}"), value)));
        let output = self.testbed.node("ithaca").run(|| command.output().unwrap()).unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn expect(&self, action: &str, code: i32, said: &str) {
        let (found, text) = self.act(action);
        assert!(found == code && text.contains(said), "{action}: {found}, not {code}, and `{said}`: {text}");
    }

    fn tester(&self) {
        // What it finds it writes to its standard output, and an error shows the other one.
        let mut words =
            ["sh", "-c", "\"$@\" >&2 && echo passed", "sh", "ocf-tester", "-n", "test"].map(str::to_owned).to_vec();
        for (name, value) in &self.parameters {
            words.extend(["-o".to_owned(), format!("{name}={value}")]);
        }
        words.push(path(self.testbed, self.name));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let said = self.testbed.run("ithaca", &words).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(said.trim(), "passed");
    }

    /// The process that its PID file names.
    fn pid(&self, file: &str) -> Pid {
        let text = fs::read_to_string(self.testbed.directory().join(file)).unwrap();
        Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }
}

impl Drop for Agent<'_> {
    fn drop(&mut self) {
        self.act("stop");
    }
}

fn set_mode(path: &str, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// A path in the directory of a test.
fn path(testbed: &Testbed, name: &str) -> String {
    testbed.directory().join(name).to_str().unwrap().to_owned()
}

#[test]
fn the_agent_runs_an_appliance_as_a_cluster_expects() {
    let testbed = Testbed::perfect();
    let pair = Pair::prepare(&testbed, &[]);
    let config = pair.ithaca.config.to_str().unwrap().to_owned();
    let (pid_file, log) = (path(&testbed, "agent.pid"), path(&testbed, "agent.log"));
    // Opening the TUN device takes root where the device is not for everybody.
    let parameters = [("config", &*config), ("user", ""), ("pidfile", &*pid_file), ("log", &*log)];
    let mut agent = Agent::new(&testbed, "onwire", &parameters);
    agent.tester();

    agent.expect("monitor", NOT_RUNNING, "");
    agent.expect("start", SUCCESS, "");
    assert!(pair.ithaca.try_status().is_ok(), "a start ends when the appliance answers");
    agent.expect("monitor", SUCCESS, "");
    let pid = agent.pid("agent.pid");
    kill_process(pid, Signal::STOP).unwrap();
    agent.expect("monitor", GENERIC, "does not answer");
    // One that hangs is ended by force, and replaced.
    agent.expect("start", SUCCESS, "");
    let second = agent.pid("agent.pid");
    assert_ne!(pid, second);
    kill_process(second, Signal::KILL).unwrap();
    thread::sleep(Duration::from_millis(200));
    agent.expect("monitor", NOT_RUNNING, "");
    // A process that has the number now is another one.
    fs::write(&pid_file, std::process::id().to_string()).unwrap();
    agent.expect("monitor", NOT_RUNNING, "");
    agent.expect("stop", SUCCESS, "");

    fs::write(&config, "nonsense").unwrap();
    agent.expect("validate-all", ARGUMENTS, "is wrong");
    agent.expect("start", ARGUMENTS, "is wrong");
    agent.expect("reload", UNIMPLEMENTED, "usage");
    pair.ithaca.configure(&[]);
    for (parameter, value, code, said) in [
        ("config", "/nowhere.yaml", INSTALLED, "cannot be read"),
        ("config", "relative.yaml", CONFIGURED, "absolute"),
        ("config", "", CONFIGURED, "missing"),
        ("kind", "both", CONFIGURED, "allowed are"),
        ("user", "nobody-of-this-name", INSTALLED, "useradd"),
        ("binary", "/nowhere/onwire", INSTALLED, "not installed"),
    ] {
        let before = agent.parameters.clone();
        agent.set(parameter, value);
        agent.expect("validate-all", code, said);
        agent.expect("stop", SUCCESS, "");
        agent.parameters = before;
    }
}

#[test]
fn the_agent_runs_gates_as_another_user() {
    let testbed = Testbed::perfect();
    make_key(&testbed);
    let config = path(&testbed, "gates.yaml");
    let gates = json!({
        "notify": { "address": "10.1.0.254:7118", "key_file": "notify.key" },
        "status": { "socket": path(&testbed, "gates.sock") },
        "gates": [{ "kind": "postgres", "listen": "127.0.0.1:6432", "upstream": "127.0.0.1:5432" }],
    });
    fs::write(&config, gates.to_string()).unwrap();
    testbed.command(&["chown", "nobody", &path(&testbed, "notify.key")]);
    let (pid_file, log) = (path(&testbed, "gates.pid"), path(&testbed, "gates.log"));
    let parameters =
        [("config", &*config), ("kind", "gate"), ("user", "nobody"), ("pidfile", &*pid_file), ("log", &*log)];
    let mut agent = Agent::new(&testbed, "onwire", &parameters);
    // Its status socket is made there.
    set_mode(testbed.directory().to_str().unwrap(), 0o777);
    // The one that was built may lie where another user cannot go.
    let binary = path(&testbed, "program");
    fs::copy(ONWIRE, &binary).unwrap();
    agent.set("binary", &binary);
    agent.tester();
    agent.expect("start", SUCCESS, "");
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid("gates.pid").as_raw_nonzero())).unwrap();
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
    let user = testbed.command(&["id", "-u", "nobody"]);
    assert!(line("Uid:").split_whitespace().all(|id| id == user.trim()), "{status}");
    for capabilities in ["CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(line(capabilities), "0000000000000000", "{capabilities}");
    }
}

#[test]
fn the_drain_agent_starts_only_where_nothing_is_missing() {
    let testbed = Testbed::perfect();
    let config = path(&testbed, "any.yaml");
    fs::write(&config, "").unwrap();
    let (state, binary) = (path(&testbed, "drained"), path(&testbed, "fake-onwire"));
    let answers = |code: i32| {
        fs::write(&binary, format!("#!/bin/sh\necho \"$@\" >>{binary}.arguments\nexit {code}\n")).unwrap();
        set_mode(&binary, 0o755);
    };
    answers(0);
    let parameters = [("config", &*config), ("peer", "ithaca"), ("state", &*state), ("binary", &*binary)];
    let mut agent = Agent::new(&testbed, "onwire-drain", &parameters);
    agent.tester();
    let arguments = fs::read_to_string(format!("{binary}.arguments")).unwrap();
    assert_eq!(arguments.lines().next(), Some(&*format!("drain --config {config} --timeout 20s --peer ithaca")));
    for (code, expected, said) in
        [(1, GENERIC, "missing"), (2, ARGUMENTS, "cannot work"), (3, GENERIC, "does not answer")]
    {
        answers(code);
        agent.expect("start", expected, said);
        agent.expect("monitor", NOT_RUNNING, "");
    }
    agent.set("seconds", "1.5");
    agent.expect("validate-all", CONFIGURED, "whole seconds");
    agent.expect("notify", UNIMPLEMENTED, "usage");
}
