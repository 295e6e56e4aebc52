//! A server that runs beside the lab in a node, whatever processes it makes of itself.
//!
//! It gets a process namespace of its own, so that one signal ends all of it at the same instant, as the loss of its
//! site would, and an IPC namespace, so that its shared memory goes with it. Knows nothing of what it serves.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

use super::data_dir::DataDir;
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
        place: &DataDir,
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
        for pid in self.first().map(processes).unwrap_or_default() {
            let _ = kill_process(pid, signal);
        }
    }

    /// The same for somebody who has it halted while others use it.
    pub fn signals(&self) -> impl FnMut(Signal) + Send + 'static {
        let first = self.first();
        move |signal| {
            for pid in first.map(processes).unwrap_or_default() {
                let _ = kill_process(pid, signal);
            }
        }
    }

    /// Halts each of its processes and waits until the last has come to a halt: a system call may end first, and one that
    /// was being started must be asked too.
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

/// Every process of the process namespace of this one.
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

/// The state in `/proc/PID/stat`, behind the name in brackets, which may hold anything.
fn state_of(stat: &str) -> Option<char> {
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_past_a_name_with_brackets() {
        assert_eq!(state_of("12 (a) T) S 1 12 12"), Some('S'));
        assert_eq!(state_of("12 (postgres) T 1"), Some('T'));
        assert_eq!(state_of(""), None);
    }
}
