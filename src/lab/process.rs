//! A program that runs beside the lab: the lab waits for it, measures it, and always ends it.
//!
//! Knows processes, not what they are for.

use std::{
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::{Child, ExitStatus},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use super::error::{LabError, tail};

/// How long a program may take to end after SIGTERM. On a busy machine the kernel alone takes seconds to remove a TUN device: it
/// waits until all processors have passed an RCU grace period.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(20);

/// A running program. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    command: String,
    child: Child,
    log: PathBuf,
    stop: Arc<AtomicBool>,
    ended: Option<ExitStatus>,
}

impl Process {
    pub(super) fn new(name: &str, command: String, child: Child, log: PathBuf, stop: Arc<AtomicBool>) -> Self {
        Self { name: name.to_owned(), command, child, log, stop, ended: None }
    }

    /// Its name in the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The file with its output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// What it has written so far.
    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Writes a line to its standard input, for programs that read commands there.
    pub fn tell(&mut self, line: &str) -> Result<(), LabError> {
        let result = match &mut self.child.stdin {
            Some(input) => input.write_all(format!("{line}\n").as_bytes()),
            None => Err(ErrorKind::BrokenPipe.into()),
        };
        result.map_err(LabError::doing(format!("tell {} \"{line}\"", self.name)))
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().ok().flatten();
        }
        self.ended.is_none()
    }

    /// Its exit code, if it has ended by itself or was asked to; none after a signal.
    pub fn exit_code(&self) -> Option<i32> {
        self.ended?.code()
    }

    /// Processor time it has used, user and system, all threads; `None` after its end.
    pub fn cpu_time(&self) -> Option<Duration> {
        self.cpu_times().map(|times| times.iter().sum())
    }

    /// The same by place: in user mode and in the kernel.
    pub fn cpu_times(&self) -> Option<[Duration; 2]> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        cpu_times_of(&stat)
    }

    /// Its resident memory in bytes, without swapped pages; `None` after its end.
    pub fn memory(&self) -> Option<u64> {
        memory(self.id())
    }

    /// How many descriptors it has open, and how many threads; `None` after its end.
    pub fn descriptors_and_threads(&self) -> Option<[u64; 2]> {
        let count = |what: &str| Some(std::fs::read_dir(format!("/proc/{}/{what}", self.id())).ok()?.count() as u64);
        Some([count("fd")?, count("task")?])
    }

    /// Waits until it ends by itself; an error if it fails, takes too long, or a signal asks the lab to stop.
    pub fn wait(&mut self, limit: Duration) -> Result<(), LabError> {
        let deadline = Instant::now() + limit;
        while self.is_running() {
            if self.stop.load(Ordering::Relaxed) {
                return Err(LabError::Stopped);
            }
            if Instant::now() > deadline {
                return Err(self.failed(format!("did not end in {limit:?}")));
            }
            thread::sleep(STEP);
        }
        match self.ended {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed(status.to_string())),
            None => Ok(()),
        }
    }

    /// Waits until it has ended, whatever its exit code, but not longer than `limit`.
    pub fn wait_end(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(STEP);
        }
    }

    /// Waits until its output contains `text`.
    pub fn wait_for_output(&mut self, text: &str, limit: Duration) -> Result<(), LabError> {
        self.wait_until(limit, text, |process| process.output().contains(text))
    }

    /// Waits until `is_done`; if it ends first or the time is up, returns an error that quotes its output.
    pub fn wait_until(
        &mut self,
        limit: Duration,
        what: &str,
        mut is_done: impl FnMut(&Self) -> bool,
    ) -> Result<(), LabError> {
        let deadline = Instant::now() + limit;
        loop {
            if is_done(self) {
                return Ok(());
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(LabError::Stopped);
            }
            if !self.is_running() {
                return Err(self.failed(format!("ended before \"{what}\"")));
            }
            if Instant::now() > deadline {
                return Err(self.failed(format!("no \"{what}\" within {limit:?}")));
            }
            thread::sleep(STEP);
        }
    }

    /// Sends SIGTERM and waits; kills it only if it does not end. Returns its exit status.
    pub fn terminate(&mut self) -> Result<ExitStatus, LabError> {
        let deadline = Instant::now() + PATIENCE;
        self.signal(Signal::TERM);
        // Programs that read their input to its end stop then. Only the program itself reads this pipe.
        drop(self.child.stdin.take());
        while self.is_running() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        if self.is_running() {
            self.kill();
            return Err(self.failed(format!("did not end within {PATIENCE:?} of SIGTERM and was killed")));
        }
        self.sweep();
        self.ended.ok_or_else(|| self.failed("lost".to_owned()))
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running()
            && let Some(pid) = Pid::from_raw(self.id() as i32)
        {
            // It may have ended since the check; its number is not reused before the lab has waited for it.
            let _ = kill_process(pid, signal);
        }
    }

    /// Kills it at once, like a crash.
    pub fn kill(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
            self.ended = self.child.wait().ok();
        }
        self.sweep();
    }

    /// Kills what it started itself: it leads a process group of its own.
    fn sweep(&self) {
        if let Some(leader) = Pid::from_raw(self.id() as i32) {
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }

    fn failed(&self, status: String) -> LabError {
        LabError::Command {
            command: self.command.clone(),
            status,
            said: format!("{} (see {})", tail(&self.output()), self.log.display()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.terminate();
        }
    }
}

/// Fields 14 and 15 of `/proc/PID/stat`, in ticks of 10 ms (Linux shows this unit on every known
/// architecture).
fn cpu_times_of(stat: &str) -> Option<[Duration; 2]> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace().skip(11);
    let mut next = || Some(Duration::from_millis(fields.next()?.parse::<u64>().ok()? * 10));
    Some([next()?, next()?])
}

/// The resident memory of a process in bytes, without swapped pages; `None` after its end.
pub fn memory(id: u32) -> Option<u64> {
    memory_of(&std::fs::read_to_string(format!("/proc/{id}/status")).ok()?)
}

/// `VmRSS` of `/proc/PID/status`, in bytes.
fn memory_of(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::trace::Trace;

    fn trace(directory: &Path) -> Trace {
        Trace::new("ow-test", directory, false, Arc::default()).unwrap()
    }

    #[test]
    fn cpu_time_is_read_after_a_name_with_brackets() {
        let stat = "12 (a) b) S 1 12 12 0 -1 4194560 1 2 3 4 150 25 0 0 20 0 1 0 5";
        assert_eq!(cpu_times_of(stat), Some([1500, 250].map(Duration::from_millis)));
        assert_eq!(cpu_times_of("12"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(
            memory_of("Name:\tonwire\nVmHWM:\t    9000 kB\nVmRSS:\t    7884 kB\nThreads:\t2\n"),
            Some(7884 * 1024)
        );
        assert_eq!(memory_of("Name:\tgone\n"), None);
    }

    #[test]
    fn output_is_kept_and_a_failure_quotes_it() {
        let directory = tempfile::tempdir().unwrap();
        let trace = trace(directory.path());
        let mut process = trace.start("talk", &["sh", "-c", "echo ready; read x; exit 4"]).unwrap();
        process.wait_for_output("ready", Duration::from_secs(5)).unwrap();
        assert!(process.cpu_time().is_some());
        let status = process.terminate().unwrap();
        assert!(!status.success());
        let mut process = trace.start("fail", &["sh", "-c", "echo no luck; exit 4"]).unwrap();
        let error = process.wait(Duration::from_secs(5)).unwrap_err().to_string();
        assert!(error.contains("exit status: 4") && error.contains("no luck"), "{error}");
    }

    #[test]
    fn a_process_receives_lines_on_its_standard_input() {
        let directory = tempfile::tempdir().unwrap();
        let mut process = trace(directory.path()).start("obey", &["sh"]).unwrap();
        assert!(
            process.descriptors_and_threads().is_some_and(|[descriptors, threads]| descriptors >= 3 && threads == 1)
        );
        process.tell("echo one; echo two").unwrap();
        process.wait_for_output("one\ntwo\n", Duration::from_secs(5)).unwrap();
        process.terminate().unwrap();
        assert!(process.tell("echo three").is_err());
    }

    #[test]
    fn dropping_a_process_ends_it_and_its_children() {
        let directory = tempfile::tempdir().unwrap();
        let trace = trace(directory.path());
        let mut process = trace.start("parent", &["sh", "-c", "sleep 1000 & echo child $!; wait"]).unwrap();
        process.wait_for_output("child ", Duration::from_secs(5)).unwrap();
        let child = process.output().trim().replace("child ", "");
        drop(process);
        let deadline = Instant::now() + Duration::from_secs(5);
        let is_alive = || {
            let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        while is_alive() && Instant::now() < deadline {
            thread::sleep(STEP);
        }
        assert!(!is_alive());
    }
}
