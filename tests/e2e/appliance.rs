//! The appliances of a test: configurations made from a base and a few changes, processes, statuses.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    thread,
    time::{Duration, Instant},
};

use onwire::{appliance::status::Status, lab::process::Process};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::testbed::{ONWIRE, Testbed};

/// How long two appliances may take to set up their session.
const UP_WITHIN: Duration = Duration::from_secs(60);

const NODES: [&str; 2] = ["ithaca", "syracuse"];

/// Changes to the base configuration: a JSON pointer and its new value; null removes the key.
pub type Changes<'a> = &'a [(&'a str, Value)];

/// An appliance of the executable, running or not.
pub struct Appliance<'g> {
    testbed: &'g Testbed,
    node: &'static str,
    base: Value,
    /// Its configuration file.
    pub config: PathBuf,
    /// Its status socket.
    pub socket: PathBuf,
    starts: u32,
    process: Option<Process>,
}

impl Appliance<'_> {
    /// Writes its configuration: the base with these changes.
    pub fn configure(&self, changes: Changes<'_>) {
        fs::write(&self.config, self.text(changes)).unwrap();
        self.testbed.command(&[ONWIRE, "check", self.config.to_str().unwrap()]);
    }

    /// The text of a configuration: the base with these changes.
    pub fn text(&self, changes: Changes<'_>) -> String {
        let mut config = self.base.clone();
        for (pointer, value) in changes {
            let (parent, key) = pointer.rsplit_once('/').expect("a pointer begins with a slash");
            let parent = config.pointer_mut(parent).and_then(Value::as_object_mut).expect("changes go into tables");
            match value {
                Value::Null => drop(parent.remove(key)),
                value => drop(parent.insert(key.to_owned(), value.clone())),
            }
        }
        // JSON is YAML.
        format!("{config:#}")
    }

    /// Starts it, or starts it again.
    pub fn start(&mut self) {
        self.start_with(&[]);
    }

    /// As [`start`](Self::start), with these variables in its environment: `NAME=value`.
    pub fn start_with(&mut self, variables: &[&str]) {
        self.starts += 1;
        let (name, config) = (format!("{}-{}", self.node, self.starts), self.config.to_str().unwrap());
        let words = [&["env"], variables, &[ONWIRE, "run", "--config", config]].concat();
        self.process = Some(self.testbed.start(self.node, &name, &words));
    }

    /// Starts it with its log in the file `log`.
    pub fn start_logging_to(&mut self, log: &Path) {
        self.starts += 1;
        let (name, config) = (format!("{}-{}", self.node, self.starts), self.config.to_str().unwrap());
        let script = format!("exec {ONWIRE} run --config {config} 2>{}", log.display());
        self.process = Some(self.testbed.start(self.node, &name, &["sh", "-c", &script]));
    }

    /// Kills it, like a crash.
    pub fn kill(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// Halts or resumes it; to others this looks like a paused virtual machine.
    pub fn set_halted(&mut self, is_halted: bool) {
        let signal = if is_halted { Signal::STOP } else { Signal::CONT };
        self.process.as_mut().expect("it runs").signal(signal);
    }

    /// Sends SIGTERM and does not wait.
    pub fn ask_to_stop(&mut self) {
        self.process.as_mut().expect("it runs").signal(Signal::TERM);
    }

    /// Ends it with SIGTERM; returns its exit status and its output.
    pub fn terminate(&mut self) -> (ExitStatus, String) {
        let mut process = self.process.take().expect("it runs");
        let exit = process.terminate().unwrap_or_else(|error| panic!("{error}"));
        (exit, process.output())
    }

    /// The output of `onwire status --json`, or its error message.
    pub fn try_status(&self) -> Result<Status, String> {
        let socket = self.socket.to_str().unwrap();
        let output = Command::new(ONWIRE).args(["status", "--json", "--socket", socket]).output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).expect("the status is JSON of a known shape")),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// The status of a running appliance.
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|error| panic!("{error}\n{}", self.output()))
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("it runs").id()
    }

    /// Its output since its last start.
    pub fn output(&self) -> String {
        self.process.as_ref().map(Process::output).unwrap_or_default()
    }

    /// Waits until it has said these words; returns its output. A thread of its own writes the log, so that a line may come after
    /// what it is about.
    pub fn wait_said(&self, words: &str) -> String {
        let deadline = Instant::now() + UP_WITHIN;
        loop {
            let output = self.output();
            if output.contains(words) {
                return output;
            }
            assert!(Instant::now() < deadline, "{}: nothing of {words:?} in {UP_WITHIN:?}: {output}", self.node);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until its session is up.
    pub fn wait_up(&self) {
        self.wait("a session", |status| status.peers[0].state == "up");
    }

    /// Waits until its status meets a condition.
    pub fn wait(&self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + UP_WITHIN;
        loop {
            let status = self.try_status();
            match status {
                Ok(status) if is_so(&status) => return status,
                _ if Instant::now() < deadline => thread::sleep(Duration::from_millis(20)),
                _ => panic!("{}: no {what} in {UP_WITHIN:?}: {status:?}\n{}", self.node, self.output()),
            }
        }
    }

    /// Packets and datagrams dropped for this reason.
    pub fn drops(&self, reason: &str) -> u64 {
        self.status().drops.get(reason).copied().unwrap_or(0)
    }
}

impl Drop for Appliance<'_> {
    fn drop(&mut self) {
        if thread::panicking() && self.process.is_some() {
            let status = self.try_status().map(|status| serde_json::to_string(&status).unwrap());
            eprintln!("--- {}\n{}\n{status:?}", self.node, self.output());
        }
    }
}

/// Ithaca and syracuse.
pub struct Pair<'g> {
    /// At the primary's site.
    pub ithaca: Appliance<'g>,
    /// At the mirror's site.
    pub syracuse: Appliance<'g>,
}

impl<'g> Pair<'g> {
    /// Writes keys and configurations, the base with the same changes on both sides, and starts nothing.
    pub fn prepare(testbed: &'g Testbed, changes: Changes<'_>) -> Self {
        Self::prepare_each(testbed, changes, changes)
    }

    /// Like [`prepare`](Self::prepare), with separate changes for each side.
    pub fn prepare_each(testbed: &'g Testbed, ithaca: Changes<'_>, syracuse: Changes<'_>) -> Self {
        let public = NODES.map(|node| {
            let key = testbed.directory().join(format!("{node}.key"));
            let key = key.to_str().unwrap();
            testbed.command(&[ONWIRE, "keygen", key]);
            testbed.command(&[ONWIRE, "pubkey", key]).trim().to_owned()
        });
        let [ithaca, syracuse] = [(0, ithaca), (1, syracuse)].map(|(side, changes)| {
            let path = |ending: &str| testbed.directory().join(format!("{}.{ending}", NODES[side]));
            let base = base(testbed, side, &public[1 - side]);
            let appliance = Appliance {
                testbed,
                node: NODES[side],
                base,
                config: path("yaml"),
                socket: path("sock"),
                starts: 0,
                process: None,
            };
            appliance.configure(changes);
            appliance
        });
        Self { ithaca, syracuse }
    }

    /// Stops both, and starts them with other changes to the base.
    pub fn reconfigure(&mut self, ithaca: Changes<'_>, syracuse: Changes<'_>) {
        for (appliance, changes) in [(&mut self.ithaca, ithaca), (&mut self.syracuse, syracuse)] {
            appliance.terminate();
            appliance.configure(changes);
        }
        self.run();
    }

    /// Starts both and waits until their session is up.
    pub fn start(testbed: &'g Testbed, changes: Changes<'_>) -> Self {
        Self::start_each(testbed, changes, changes)
    }

    /// Like [`start`](Self::start), with separate changes for each side.
    pub fn start_each(testbed: &'g Testbed, ithaca: Changes<'_>, syracuse: Changes<'_>) -> Self {
        let mut pair = Self::prepare_each(testbed, ithaca, syracuse);
        pair.run();
        pair
    }

    /// Starts both and waits for their session.
    pub fn run(&mut self) {
        self.ithaca.start();
        self.syracuse.start();
        self.wait_up();
    }

    /// Waits until both report that the session is up.
    pub fn wait_up(&self) {
        self.ithaca.wait_up();
        self.syracuse.wait_up();
    }
}

/// The base configuration of one side, 0 or 1.
fn base(testbed: &Testbed, side: usize, peer_key: &str) -> Value {
    let prefixes = [["10.1.0.0/24", "fd00:1::/64"], ["10.2.0.0/24", "fd00:2::/64"]];
    let endpoints = ["192.0.2.1:7117", "192.0.2.2:7117"];
    let path = |ending: &str| testbed.directory().join(format!("{}.{ending}", NODES[side]));
    json!({
        "node": {
            "name": NODES[side],
            "key_file": path("key"),
            "listen": endpoints[side],
            "local_prefixes": prefixes[side],
        },
        "tun": { "name": "ow0" },
        "peers": [{
            "name": NODES[1 - side],
            "public_key": peer_key,
            "endpoint": endpoints[1 - side],
            "prefixes": prefixes[1 - side],
            "path": {},
            "redundancy": "steady",
        }],
        "redundancy": { "steady": { "block_symbols": 32, "repair": { "fixed": 4 } } },
        "policy": [],
        "delivery": {},
        "status": { "socket": path("sock") },
    })
}

/// Changes for an outer path over IPv6: ithaca's, then syracuse's.
pub fn outer_ipv6() -> [Vec<(&'static str, Value)>; 2] {
    let (near, far) = ("[2001:db8::1]:7117", "[2001:db8::2]:7117");
    [(near, far), (far, near)].map(|(own, peer)| vec![("/node/listen", json!(own)), ("/peers/0/endpoint", json!(peer))])
}
