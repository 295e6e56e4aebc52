//! Status sockets that say what a test wants, in a directory of their own: for commands that look for the processes of
//! a host.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

/// A directory of sockets.
pub struct Sockets {
    directory: tempfile::TempDir,
}

/// What a socket says; `None`: nothing, but it stays open.
pub type Said = Arc<Mutex<Option<Value>>>;

impl Sockets {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A process that says this; the test may change it.
    pub fn serve(&self, name: &str, document: Option<Value>) -> Said {
        let listener = UnixListener::bind(self.path(name)).unwrap();
        let said = Arc::new(Mutex::new(document));
        let shown = Arc::clone(&said);
        // It ends with the test program.
        std::thread::spawn(move || {
            let mut silent = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                match &*shown.lock().unwrap() {
                    Some(document) => drop(stream.write_all(document.to_string().as_bytes())),
                    None => silent.push(stream),
                }
            }
        });
        said
    }

    /// A socket that a process left behind.
    pub fn leave(&self, name: &str) {
        drop(UnixListener::bind(self.path(name)).unwrap());
        assert!(self.path(name).exists());
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onwire"));
        command.args(arguments).env("ONWIRE_SOCKETS", self.directory.path());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }
}

/// A document of an appliance of an earlier release, as it was written.
pub fn earlier_appliance() -> Value {
    serde_json::from_str(include_str!("earlier/appliance.json")).unwrap()
}

/// The same of gates.
pub fn earlier_gates() -> Value {
    serde_json::from_str(include_str!("earlier/gates.json")).unwrap()
}

/// An appliance of this release with these peers: name and state.
pub fn appliance(node: &str, peers: &[(&str, &str)]) -> Value {
    let peer = |(name, state): &(&str, &str)| {
        json!({
            "name": name, "state": state, "since": { "at_s": 1_796_000_000.5, "for_s": 3725.0 },
            "rtt_ms": 40.5, "trains": "in trains", "endpoint": "192.0.2.2:7117",
        })
    };
    json!({
        "role": "appliance", "schema_version": 1, "node": node, "version": "0.1.0", "uptime_s": 4000.0, "epoch": "a",
        "state": "running", "peers": peers.iter().map(peer).collect::<Vec<_>>(),
    })
}

/// Gates of this release, with the link to this peer in this state.
pub fn gates(contact: bool, link: &str) -> Value {
    json!({
        "role": "gate", "schema_version": 1, "version": "0.1.0", "state": "running", "uptime_s": 9.0,
        "notify": {
            "address": "127.0.0.1:7118", "contact": contact, "since": { "at_s": 5.0, "for_s": 61.0 }, "heard_s": 0.1,
            "links": [{
                "name": "syracuse", "state": link, "reason": "no reports", "since": { "at_s": 5.0, "for_s": 7.0 },
            }],
        },
        "gates": [{
            "name": "ledger", "kind": "postgres", "state": "listening", "listen": "127.0.0.1:6432",
            "upstream": "127.0.0.1:5432", "policy": "auto", "level": "on_wire",
            "connections": [{ "waiting": 2, "oldest_waiting_s": 0.25, "unprotected": 4096, "replicates": true }],
        }],
    })
}

#[test]
fn more_processes_than_are_asked_at_once_are_all_asked() {
    let sockets = Sockets::new();
    for number in 0..150 {
        let _said = sockets.serve(&format!("a{number:03}.sock"), Some(appliance("ithaca", &[("syracuse", "up")])));
    }
    sockets.leave("left.sock");
    let output = sockets.run(&["status", "--json", "-v"]);
    let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(shown["appliances"].as_array().map(Vec::len), Some(150));
    assert_eq!(shown["unanswered"], json!([]));
    assert!(String::from_utf8_lossy(&output.stderr).contains("left.sock: nothing listens"), "{output:?}");
}
