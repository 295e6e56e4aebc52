//! Errors of system calls, injected into a running program with `strace`: nothing of the program is changed for it.
//!
//! The kernel does not run a call that gets an error; the program sees the error as if the kernel had returned it. Which
//! calls are hit is decided by their name, their number and the descriptor that they use. What the program should do is
//! not known here.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{error::LabError, process::Process, program::path_text, trace::Trace};

/// How long `strace` may take to attach.
const ATTACHES_WITHIN: Duration = Duration::from_secs(10);
/// How long the program may take to stand still.
const STOPS_WITHIN: Duration = Duration::from_secs(2);
/// What `strace` writes behind a call that it has changed.
const MARK: &str = "(INJECTED)";

/// Which calls get which error.
#[derive(Clone, Debug)]
pub struct Injected<'a> {
    /// Names of system calls, with commas between them.
    pub calls: &'a str,
    /// The name of the error.
    pub error: &'a str,
    /// Which of the calls of a thread: `3`, `1+4` (the first and each fourth after it).
    pub when: &'a str,
    /// What descriptors the calls use, as links in `/proc/PID/fd` show them; empty: any.
    pub paths: &'a [String],
}

/// `strace` beside a program.
#[derive(Debug)]
pub struct Injection {
    process: Process,
    record: PathBuf,
    pid: u32,
}

impl Injected<'_> {
    /// The arguments of `strace` that inject this and write all such calls to `record`.
    pub fn arguments(&self, record: &Path) -> Result<Vec<String>, LabError> {
        let Self { calls, error, when, paths } = self;
        let mut words: Vec<String> = ["strace", "-f", "-s", "0", "-e"].map(str::to_owned).to_vec();
        words.extend([format!("trace={calls}"), "-e".to_owned(), format!("inject={calls}:error={error}:when={when}")]);
        words.extend(paths.iter().flat_map(|path| ["-P".to_owned(), path.clone()]));
        words.extend(["-o".to_owned(), path_text(record)?]);
        Ok(words)
    }
}

impl Injection {
    /// Attaches to all threads of a process; from then on its calls fail.
    pub fn attach(trace: &Trace, pid: u32, injected: &Injected<'_>) -> Result<Self, LabError> {
        let record = trace.directory().join("strace.txt");
        let mut words = injected.arguments(&record)?;
        words.extend(["-p".to_owned(), pid.to_string()]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut process = trace.start("strace", &words)?;
        process.wait_for_output(" attached", ATTACHES_WITHIN)?;
        Ok(Self { process, record, pid })
    }

    /// Detaches: from then on calls succeed again. Returns how many got the error.
    ///
    /// The program stands still meanwhile. A call that `strace` has begun to change would get another error if it let go
    /// just then, which no kernel returns: a program that stands still is in no such call.
    pub fn detach(mut self) -> Result<u64, LabError> {
        // It ends by itself when the program has ended.
        if self.process.is_running() {
            signal(self.pid, Signal::STOP);
            let deadline = Instant::now() + STOPS_WITHIN;
            while !stands_still(self.pid) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
            let ended = self.process.terminate();
            signal(self.pid, Signal::CONT);
            ended?;
        }
        let record = fs::read(&self.record).map_err(LabError::doing("read what strace has recorded"))?;
        let _ = fs::remove_file(&self.record);
        Ok(String::from_utf8_lossy(&record).lines().filter(|line| line.ends_with(MARK)).count() as u64)
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        // After an error on the way the program must not stand still for good.
        signal(self.pid, Signal::CONT);
    }
}

/// The program may have ended.
fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = pid.map(|pid| kill_process(pid, signal));
}

/// Whether all threads of a process are stopped; also if it is gone.
fn stands_still(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return true };
    threads.flatten().all(|thread| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        matches!(state, None | Some('T' | 't' | 'Z' | 'X'))
    })
}

/// The sockets of a process, as links in `/proc/PID/fd` show them.
#[derive(Debug)]
pub struct Sockets {
    pid: u32,
    inodes: HashSet<u64>,
}

impl Sockets {
    /// Looks at them.
    pub fn of(pid: u32) -> io::Result<Self> {
        let mut inodes = HashSet::new();
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
            // A descriptor may be closed meanwhile.
            let Ok(link) = fs::read_link(entry?.path()) else { continue };
            inodes.extend(link.to_str().and_then(inode_of));
        }
        Ok(Self { pid, inodes })
    }

    /// Those bound to a UDP port.
    pub fn udp(&self, port: u16) -> io::Result<Vec<String>> {
        let is_bound = |line: &str| {
            let local = line.split_whitespace().nth(1).and_then(|local| local.rsplit(':').next());
            local.and_then(|port| u16::from_str_radix(port, 16).ok()) == Some(port)
        };
        Ok([self.table("udp", is_bound)?, self.table("udp6", is_bound)?].concat())
    }

    /// Those that speak netlink.
    pub fn netlink(&self) -> io::Result<Vec<String>> {
        self.table("netlink", |_| true)
    }

    /// Those that are ours in a table of the process's network; the inode is its tenth column.
    fn table(&self, name: &str, is_meant: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        let path = format!("/proc/{}/net/{name}", self.pid);
        let text = match fs::read_to_string(path) {
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        let lines = text.lines().skip(1).filter(|line| is_meant(line));
        let inodes = lines.filter_map(|line| line.split_whitespace().nth(9)?.parse().ok());
        Ok(inodes.filter(|inode| self.inodes.contains(inode)).map(|inode: u64| format!("socket:[{inode}]")).collect())
    }
}

fn inode_of(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::lab::trace::need_programs;

    #[test]
    fn sockets_of_this_process_are_found_by_their_port() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let sockets = Sockets::of(std::process::id()).unwrap();
        assert_eq!(sockets.udp(port).unwrap().len(), 1);
        drop(socket);
        assert!(sockets.udp(port).unwrap().is_empty());
    }

    #[test]
    fn a_call_of_a_running_program_fails_while_strace_is_there_and_not_afterwards() {
        need_programs(&["strace"]).unwrap_or_else(|error| panic!("{error}"));
        let directory = tempfile::tempdir().unwrap();
        let trace = Trace::new("ow-test", directory.path(), false, Arc::default()).unwrap();
        let word = directory.path().join("word");
        fs::write(&word, "word").unwrap();
        let word = word.canonicalize().unwrap().display().to_string();
        let script = format!("while read line; do cat {word} >/dev/null 2>&1 && echo $line yes || echo $line no; done");
        let mut program = trace.start("reader", &["sh", "-c", &script]).unwrap();
        program.tell("first").unwrap();
        program.wait_for_output("first yes", Duration::from_secs(10)).unwrap();
        let paths = [word];
        let injected = Injected { calls: "openat", error: "EMFILE", when: "1+1", paths: &paths };
        let injection = Injection::attach(&trace, program.id(), &injected).unwrap();
        program.tell("second").unwrap();
        program.wait_for_output("second no", Duration::from_secs(10)).unwrap();
        assert_eq!(injection.detach().unwrap(), 1);
        program.tell("third").unwrap();
        program.wait_for_output("third yes", Duration::from_secs(10)).unwrap();
    }
}
