//! A server with all its processes, running beside the lab in a node.
//!
//! It has a process namespace of its own, so that one signal kills all processes at the same instant, as the loss of
//! its site would. It also has an IPC namespace of its own, so that its shared memory disappears with it. What it
//! serves is not known here.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::data_dir::DataDir;
use crate::lab::{error::LabError, network::Network, process::Process};

/// How long a server may take to end after its stop signal.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server. Dropping it kills it.
#[derive(Debug)]
pub struct Server {
    process: Process,
}

impl Server {
    /// Starts `words` in `node` as the user of `place`; its output goes to `NAME.log`.
    pub fn start(
        network: &Network<'_>,
        place: &DataDir,
        node: &str,
        name: &str,
        words: &[&str],
    ) -> Result<Self, LabError> {
        let owner = place.as_owner();
        let alone = ["unshare", "--ipc", "--pid", "--fork", "--"];
        let owner: Vec<&str> = owner.iter().map(String::as_str).collect();
        // An ordinary user needs the user namespace before creating the others.
        let words = match owner.first() {
            Some(&"unshare") => [&owner[..], &alone[1..], words].concat(),
            _ => [&alone[..], &owner, words].concat(),
        };
        Ok(Self { process: network.start(node, name, &words)? })
    }

    /// Waits until `is_ready`; if it ends first or the time is up, returns an error that quotes its log.
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

    /// Sends this signal and waits until it has ended.
    pub fn stop(&mut self, signal: Signal) -> Result<(), LabError> {
        if let Some(first) = self.first() {
            let _ = kill_process(first, signal);
        }
        // Its exit status does not matter.
        match self.process.wait(PATIENCE) {
            Err(error) if self.process.is_running() => Err(error),
            _ => Ok(()),
        }
    }

    /// Kills all of its processes at once.
    pub fn crash(&mut self) {
        if let Some(first) = self.first() {
            let _ = kill_process(first, Signal::KILL);
        }
        self.process.kill();
    }

    /// Sends a signal to each of its processes, to halt or resume them.
    pub fn signal_all(&self, signal: Signal) {
        for pid in self.first().map(processes).unwrap_or_default() {
            let _ = kill_process(pid, signal);
        }
    }

    /// A function that does the same and can move to another thread.
    pub fn signals(&self) -> impl FnMut(Signal) + Send + 'static {
        let first = self.first();
        move |signal| {
            for pid in first.map(processes).unwrap_or_default() {
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// Halts each of its processes and waits until all have stopped: a system call may have to finish first, and a
    /// process that has just been started needs the signal too.
    pub fn halt(&mut self, limit: Duration) -> Result<(), LabError> {
        let first = self.first();
        self.process.wait_until(limit, "each process halts", |_| {
            let mut going = first.map(processes).unwrap_or_default();
            let is_any = !going.is_empty();
            going.retain(|pid| !is_halted(*pid));
            for pid in &going {
                let _ = kill_process(*pid, Signal::STOP);
            }
            is_any && going.is_empty()
        })
    }

    /// The first process of its namespace; when it ends, the kernel ends the others.
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

/// Every process in the process namespace of `first`.
fn processes(first: Pid) -> Vec<Pid> {
    let space = |pid: &str| fs::read_link(Path::new("/proc").join(pid).join("ns/pid")).ok();
    let own = space(&first.as_raw_nonzero().to_string());
    let (Some(own), Ok(entries)) = (own, fs::read_dir("/proc")) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let ours = names.filter(|name| space(name).is_some_and(|found| found == own));
    ours.filter_map(|pid| pid.parse().ok().and_then(Pid::from_raw)).collect()
}

/// Whether a process is halted, or has ended.
fn is_halted(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    state_of(&stat).is_none_or(|state| matches!(state, 'T' | 'Z'))
}

/// The state in `/proc/PID/stat`; it follows the name in brackets, which may contain any characters.
fn state_of(stat: &str) -> Option<char> {
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_after_a_name_with_brackets() {
        assert_eq!(state_of("12 (a) T) S 1 12 12"), Some('S'));
        assert_eq!(state_of("12 (postgres) T 1"), Some('T'));
        assert_eq!(state_of(""), None);
    }
}
