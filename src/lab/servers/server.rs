//! A server that runs beside the lab in a node, whatever processes it makes of itself.
//!
//! It gets a process namespace of its own, so that one signal ends all of it at the same instant, as the loss of its
//! site would, and an IPC namespace, so that its shared memory goes with it. Knows nothing of what it serves.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::place::Place;
use crate::lab::{error::LabError, network::Network, process::Process};

/// How long a server may take to end after it was asked to.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server. Dropping it crashes it.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

impl Server {
    /// Starts `words` in `node` as the user of `place`; its output goes to `NAME.log`.
    pub fn start(
        network: &Network<'_>,
        place: &Place,
        node: &str,
        name: &str,
        words: &[&str],
    ) -> Result<Self, LabError> {
        let owner = place.as_owner();
        let alone = ["unshare", "--ipc", "--pid", "--fork", "--"];
        let owner: Vec<&str> = owner.iter().map(String::as_str).collect();
        // An ordinary user needs the user namespace before it may make the others.
        let words = match owner.first() {
            Some(&"unshare") => [&owner[..], &alone[1..], words].concat(),
            _ => [&alone[..], &owner, words].concat(),
        };
        Ok(Self { process: network.start(node, name, &words)? })
    }

    /// Waits until `is_ready`; an error that quotes its log when it ends first or time is up.
    pub fn wait_ready(
        &mut self,
        limit: Duration,
        what: &str,
        mut is_ready: impl FnMut() -> bool,
    ) -> Result<(), LabError> {
        self.process.wait_until(limit, what, |_| is_ready())
    }

    /// Whether it runs.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Asks it to end with this signal and waits until it has.
    pub fn stop(&mut self, signal: Signal) -> Result<(), LabError> {
        if let Some(first) = self.first() {
            let _ = kill_process(first, signal);
        }
        // How it calls its own end is its business.
        match self.process.wait(PATIENCE) {
            Err(error) if self.process.is_running() => Err(error),
            _ => Ok(()),
        }
    }

    /// Ends all of its processes at once.
    pub fn crash(&mut self) {
        if let Some(first) = self.first() {
            let _ = kill_process(first, Signal::KILL);
        }
        self.process.kill();
    }

    /// Sends a signal to each of its processes: to halt them and have them go on.
    pub fn signal_all(&self, signal: Signal) {
        let Some(first) = self.first() else { return };
        let space = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/pid")).ok();
        let Some(own) = space(&first.as_raw_nonzero().to_string()) else { return };
        let Ok(entries) = fs::read_dir("/proc") else { return };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        for pid in names.filter(|name| space(name).is_some_and(|found| found == own)) {
            if let Some(pid) = pid.parse().ok().and_then(Pid::from_raw) {
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// The first process of its namespace, without which the others do not live.
    fn first(&self) -> Option<Pid> {
        let id = self.process.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok().and_then(Pid::from_raw)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.crash();
    }
}
