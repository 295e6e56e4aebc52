//! One run of a hook: a program in a process group of its own, with a time limit, bounded output, and nothing left behind.

use std::fs;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, OFlags, fcntl_getfl, fcntl_setfl, memfd_create};
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions, WaitOptions, getpid, kill_process,
    kill_process_group, pidfd_open, set_child_subreaper, setrlimit, waitid, waitpid,
};

use crate::io::restriction;

/// Bytes of the output that are kept.
const OUTPUT_MAX: usize = 1024;
/// Output that is read at once, so that a program that always writes holds up nothing.
const READ_BUDGET: usize = 16;
/// From the request to end to the end without one.
const GRACE: Duration = Duration::from_secs(1);
/// How long what a hook has left behind may take to end.
const ORPHANS_END_WITHIN: Duration = Duration::from_millis(500);
/// Processes and threads of our user while a hook runs, all of its others included. More cannot be started: a program that forks
/// for ever meets this bound. The kernel does not hold root to it.
const PROCESSES_MAX: u64 = 512;
/// What a hook inherits of our environment.
const INHERITED: [&str; 3] = ["LANG", "LC_ALL", "TZ"];
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Gives this process what running hooks takes, and nothing more: no privilege, a bound on processes, and what its programs leave
/// behind becomes its own to end.
///
/// # Errors
/// The system refuses. Then nothing must be run.
pub fn confine() -> io::Result<()> {
    restriction::drop_privileges()?;
    set_child_subreaper(Some(getpid()))?;
    setrlimit(Resource::Nproc, Rlimit { current: Some(PROCESSES_MAX), maximum: Some(PROCESSES_MAX) })?;
    // A memory image would hold what the program was told.
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(())
}

/// How a run has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The exit code, unless a signal has ended it.
    pub code: Option<i32>,
    /// The signal that has ended it.
    pub signal: Option<i32>,
    /// It took longer than it may, and was ended.
    pub is_overdue: bool,
    /// How long it took.
    pub took: Duration,
    /// The beginning of what it has written to standard output and standard error.
    pub output: Vec<u8>,
    /// Bytes that it has written beyond.
    pub output_left_out: u64,
    /// Processes that it has left behind and that could not be ended.
    pub left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Runs,
    AskedToEnd,
    Killed,
}

/// A run.
#[derive(Debug)]
pub struct Running {
    pid: Pid,
    pidfd: OwnedFd,
    /// `None` once it is closed.
    pipe: Option<File>,
    output: Vec<u8>,
    left_out: u64,
    began: Instant,
    step: Step,
    deadline: Instant,
    is_overdue: bool,
    /// Its number may mean another process.
    is_reaped: bool,
}

impl Running {
    /// Starts `program` with `input` as its standard input, and with these variables beside a plain environment.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        program: &Path,
        arguments: &[String],
        input: &[u8],
        variables: &[(&str, String)],
        limit: Duration,
        now: Instant,
    ) -> io::Result<Self> {
        // A file in memory: a program that does not read it is no trouble.
        let mut stdin = File::from(memfd_create("event", MemfdFlags::CLOEXEC)?);
        stdin.write_all(input)?;
        stdin.rewind()?;
        let (reader, writer) = io::pipe()?;
        let pipe = File::from(OwnedFd::from(reader));
        fcntl_setfl(&pipe, fcntl_getfl(&pipe)? | OFlags::NONBLOCK)?;
        let inherited = INHERITED.iter().filter_map(|name| Some((*name, std::env::var_os(name)?)));
        let child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .envs(inherited)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::from(stdin))
            .stdout(Stdio::from(writer.try_clone()?))
            .stderr(Stdio::from(writer))
            .process_group(0)
            .spawn()?;
        let pid = Pid::from_child(&child);
        // Nobody reaps it before this: the number still means it.
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).inspect_err(|_| {
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = waitpid(Some(pid), WaitOptions::empty());
        })?;
        Ok(Self {
            pid,
            pidfd,
            pipe: Some(pipe),
            output: Vec::new(),
            left_out: 0,
            began: now,
            step: Step::Runs,
            deadline: now + limit,
            is_overdue: false,
            is_reaped: false,
        })
    }

    /// When [`poll`](Self::poll) has something to do if nothing is readable.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Readable when the program has ended, or has written something.
    pub fn descriptors(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        [Some(self.pidfd.as_fd()), self.pipe.as_ref().map(AsFd::as_fd)].into_iter().flatten()
    }

    /// Asks it to end, and ends it when it does not.
    pub fn stop(&mut self, now: Instant) {
        if self.step == Step::Runs {
            self.step = Step::AskedToEnd;
            self.deadline = now + GRACE;
            let _ = kill_process_group(self.pid, Signal::TERM);
        }
    }

    /// Reads what it has written, and ends it when its time is over. How it has ended, if it has; then nothing of it is left.
    pub fn poll(&mut self, now: Instant) -> Option<End> {
        self.read_output();
        if let Some(status) = self.reap() {
            // What it has written last.
            self.read_output();
            return Some(End {
                code: status.code(),
                signal: status.signal(),
                is_overdue: self.is_overdue,
                took: now.saturating_duration_since(self.began),
                output: std::mem::take(&mut self.output),
                output_left_out: self.left_out,
                left: end_orphans(),
            });
        }
        if now >= self.deadline {
            match self.step {
                Step::Runs => {
                    self.is_overdue = true;
                    self.stop(now);
                }
                Step::AskedToEnd | Step::Killed => {
                    self.step = Step::Killed;
                    self.deadline = now + GRACE;
                    let _ = kill_process_group(self.pid, Signal::KILL);
                }
            }
        }
        None
    }

    /// The program's status, when it has ended. The rest of its group ends first: until the program is reaped, its number means no
    /// other group.
    fn reap(&mut self) -> Option<ExitStatus> {
        let seen = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        if !matches!(waitid(WaitId::Pid(self.pid), seen), Ok(Some(_))) {
            return None;
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        let (_, status) = waitpid(Some(self.pid), WaitOptions::NOHANG).ok()??;
        self.is_reaped = true;
        Some(ExitStatus::from_raw(status.as_raw()))
    }

    fn read_output(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..READ_BUDGET {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(&mut buffer) {
                Ok(0) => self.pipe = None,
                Ok(length) => {
                    let kept = length.min(OUTPUT_MAX - self.output.len());
                    self.output.extend_from_slice(&buffer[..kept]);
                    self.left_out += (length - kept) as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.pipe = None,
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.is_reaped {
            return;
        }
        let _ = kill_process_group(self.pid, Signal::KILL);
        let _ = waitpid(Some(self.pid), WaitOptions::NOHANG);
    }
}

/// Ends all children of this process, which are what its programs have left behind: also those that have left their group, because
/// they are ours once their parents have ended ([`confine`]). Returns how many are left after half a second.
pub fn end_orphans() -> usize {
    let until = Instant::now() + ORPHANS_END_WITHIN;
    loop {
        while let Ok(Some(_)) = waitpid(None, WaitOptions::NOHANG) {}
        let children = children();
        for &child in &children {
            let _ = kill_process(child, Signal::KILL);
        }
        if children.is_empty() || Instant::now() >= until {
            return children.len();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// This thread's children. A kernel without that list shows none.
fn children() -> Vec<Pid> {
    let list = fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|number| Pid::from_raw(number.parse().ok()?)).collect()
}

#[cfg(test)]
mod tests;
