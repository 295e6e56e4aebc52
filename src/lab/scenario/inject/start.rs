//! The start of an appliance, each of its system calls refused once: it must end with words, or go on without what it
//! asked for.
//!
//! A start without errors shows which calls there are and how often; then there is one start for each.

use std::{
    collections::{BTreeMap, HashSet},
    fmt, fs, io,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::lab::{
    error::LabError,
    injection::Injected,
    network::Network,
    pair::{Pair, RunningAppliance},
    scenario::Stage,
};

/// How long a start may take until it is up or has ended.
const STARTS_WITHIN: Duration = Duration::from_secs(10);
/// Calls of one name that are tried, spread over all of them.
const MOST: usize = 12;
const STEP: Duration = Duration::from_millis(10);

/// The calls of a start that the kernel may refuse, each with an error that it has for it. Not memory, without which any
/// program ends.
const CALLS: [(&str, &str); 20] = [
    ("openat", "EMFILE"),
    ("read", "EIO"),
    ("socket", "ENFILE"),
    ("socketpair", "EMFILE"),
    ("bind", "EADDRINUSE"),
    ("listen", "EADDRINUSE"),
    ("connect", "ECONNREFUSED"),
    ("getsockname", "ENOBUFS"),
    ("setsockopt", "ENOPROTOOPT"),
    ("getsockopt", "ENOPROTOOPT"),
    ("ioctl", "EPERM"),
    ("epoll_create1", "EMFILE"),
    ("epoll_ctl", "ENOMEM"),
    ("timerfd_create", "EMFILE"),
    ("eventfd2", "EMFILE"),
    ("sendto", "ENOBUFS"),
    ("recvfrom", "ENOMEM"),
    ("chmod", "EPERM"),
    ("clone3", "EAGAIN"),
    ("seccomp", "EINVAL"),
];

/// One start.
#[derive(Clone, Debug)]
pub struct Start {
    /// The call that failed.
    pub call: &'static str,
    /// With which error.
    pub error: &'static str,
    /// Which of these calls.
    pub number: usize,
    /// The exit code; none if a signal ended it or it was killed.
    pub code: Option<i32>,
    /// It was up and ended when it was asked to.
    pub went_on: bool,
    /// What it logged.
    pub log: String,
}

impl Start {
    /// It went on and stopped well, or it was refused with words of its own.
    pub fn is_sound(&self) -> bool {
        let is_calm = !self.log.contains("panicked");
        // 2: the configuration, or a file that it names, cannot be read.
        let is_refused = matches!(self.code, Some(1 | 2)) && !self.went_on && !is_bare(self.words());
        is_calm && (is_refused || (self.went_on && self.code == Some(0)))
    }

    /// The outcome in a word.
    pub fn outcome(&self) -> &'static str {
        match (self.went_on, self.code) {
            (true, Some(0)) => "goes on",
            (true, _) => "goes on, and stops badly",
            (false, Some(_)) => "refused",
            (false, None) => "hangs or crashes",
        }
    }

    /// What it said last; of a start that goes on, its last warning.
    pub fn words(&self) -> &str {
        let is_telling = |line: &&str| if self.went_on { line.contains(" WARN ") } else { !line.trim().is_empty() };
        self.log.lines().rev().find(is_telling).unwrap_or_default()
    }

    /// For the result.
    pub fn to_json(&self) -> Value {
        json!({
            "call": self.call, "error": self.error, "number": self.number, "outcome": self.outcome(),
            "exit_code": self.code, "words": self.words(),
        })
    }
}

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: {}, {}", self.call, self.number, self.error, self.outcome(), self.words())
    }
}

/// Whether a line only has the system's name for an error, and not what was tried.
fn is_bare(line: &str) -> bool {
    let said = line.rsplit("ERROR ").next().unwrap_or_default();
    let number = said.rsplit("(os error ").next().and_then(|rest| rest.strip_suffix(')')?.parse().ok());
    said.trim().is_empty() || number.is_some_and(|number| io::Error::from_raw_os_error(number).to_string() == said)
}

/// Starts the appliance of the primary's site again and again.
pub fn try_all(stage: &Stage<'_>, network: &Network<'_>, pair: &mut Pair<'_>) -> Result<Vec<Start>, LabError> {
    let appliance = &mut pair.appliances[0];
    appliance.process.kill();
    let names = CALLS.map(|(call, _)| call).join(",");
    let record = stage.trace.directory().join("start.txt");
    let words = ["strace", "-D", "-f", "-qq", "-e", &format!("trace={names}"), "-o", &record.display().to_string()]
        .map(str::to_owned);
    let (code, went_on, log) = start(stage, network, appliance, &words)?;
    if !went_on || code != Some(0) {
        return Err(LabError::Sentence(format!("the appliance does not start under strace: {log}")));
    }
    let text = fs::read_to_string(&record).map_err(LabError::doing("read what strace has recorded"))?;
    let counts = count(&text);
    let mut starts = Vec::new();
    for (call, error) in CALLS {
        let numbers = counts.get(call).cloned().unwrap_or_default();
        stage.say(&format!("  start: {call} {error}, {} calls", numbers.len()));
        for number in spread(&numbers) {
            let when = number.to_string();
            let injected = Injected { calls: call, error, when: &when, paths: &[] };
            let mut words = injected.arguments(&record)?;
            words.splice(1..1, ["-D".to_owned(), "-qq".to_owned()]);
            let (code, went_on, log) = start(stage, network, appliance, &words)?;
            starts.push(Start { call, error, number, code, went_on, log });
        }
    }
    Ok(starts)
}

/// Starts it with words before its command, waits until it is up or has ended, and stops it. Returns the exit code, whether
/// it was up, and its log.
fn start(
    stage: &Stage<'_>,
    network: &Network<'_>,
    appliance: &mut RunningAppliance,
    words: &[String],
) -> Result<(Option<i32>, bool, String), LabError> {
    let before: Vec<&str> = words.iter().map(String::as_str).collect();
    appliance.restart_under(network, &before)?;
    let deadline = Instant::now() + STARTS_WITHIN.mul_f64(stage.options.slack);
    // The error about a socket in use says that another one "is running".
    let is_up = |appliance: &RunningAppliance| {
        appliance.process.output().contains(" is running node=") && appliance.socket().exists()
    };
    let mut went_on = false;
    while appliance.process.is_running() && Instant::now() < deadline {
        went_on = is_up(appliance);
        if went_on {
            break;
        }
        stage.pause(STEP)?;
    }
    if appliance.process.is_running() {
        // One that does not end when it is asked to is killed, and has no exit code.
        let _ = appliance.process.terminate();
    }
    Ok((appliance.process.exit_code(), went_on, appliance.process.output()))
}

/// The numbers of the calls of each name, as their thread counts them, without those of the program's loader: its libraries
/// and its memory are not the appliance's.
///
/// An error hits the call with its number in each thread. So a number that is the loader's in the first thread is not
/// tried at all, also if another thread has a call with it.
fn count(record: &str) -> BTreeMap<&str, Vec<usize>> {
    let mut numbers = BTreeMap::<&str, Vec<usize>>::new();
    let mut of_loader = HashSet::<(&str, usize)>::new();
    let mut counts = BTreeMap::<(&str, &str), usize>::new();
    let mut is_loaded = false;
    for line in record.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, arguments)) = rest.trim_start().split_once('(') else { continue };
        let number = counts.entry((thread, call)).or_default();
        *number += 1;
        let is_of_loader = arguments.contains(".so") || arguments.contains("\\177ELF");
        is_loaded |= !is_of_loader;
        if is_of_loader || !is_loaded {
            of_loader.insert((call, *number));
        } else if CALLS.iter().any(|(known, _)| *known == call) {
            let of_call = numbers.entry(call).or_default();
            if !of_call.contains(number) {
                of_call.push(*number);
            }
        }
    }
    for (call, of_call) in &mut numbers {
        of_call.retain(|number| !of_loader.contains(&(*call, *number)));
    }
    numbers
}

/// At most [`MOST`] of them, evenly.
fn spread(numbers: &[usize]) -> Vec<usize> {
    let step = numbers.len().div_ceil(MOST).max(1);
    numbers.iter().copied().step_by(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_thread_and_without_the_loader() {
        let record = "7 openat(AT_FDCWD, \"/etc/ld.so.cache\", O_RDONLY) = 3\n7 read(3, \"\\177ELF\\2\"..., 832) = 832\n\
             7 openat(AT_FDCWD, \"/etc/onwire.yaml\", O_RDONLY) = 3\n7 read(3, \"node\"..., 900) = 900\n\
             8 read(5, \"\", 8) = 8\n8 read(5, \"\", 8) = 8\n8 read(5, \"\", 8) = 8\n8 unknown(5) = 0\n\
             7 socket(AF_INET, SOCK_DGRAM, 0) = 4\n";
        let counts = count(record);
        assert_eq!(counts["openat"], [2]);
        assert_eq!(counts["read"], [2, 3], "the first is the loader's in thread 7");
        assert_eq!(counts["socket"], [1]);
        assert_eq!(counts.len(), 3);
        assert_eq!(spread(&[1, 2, 3]), [1, 2, 3]);
        assert_eq!(spread(&(0..25).collect::<Vec<_>>()), [0, 3, 6, 9, 12, 15, 18, 21, 24]);
    }

    #[test]
    fn a_start_is_refused_with_words_or_goes_on() {
        let start = |code, went_on, log: &str| {
            let log = log.to_owned();
            Start { call: "bind", error: "EADDRINUSE", number: 1, code, went_on, log }.is_sound()
        };
        assert!(start(Some(1), false, "error: the port is in use\n"));
        assert!(start(Some(0), true, ""));
        assert!(!start(Some(1), false, ""), "without a word");
        assert!(!start(Some(1), false, "ERROR Cannot allocate memory (os error 12)"), "without what was tried");
        assert!(start(Some(2), false, "ERROR a.yaml: cannot be read: Input/output error (os error 5)"));
        assert!(!start(Some(0), false, "fine"), "it has not started");
        assert!(!start(Some(101), false, "thread main panicked at"));
        assert!(!start(None, false, "hangs"));
        assert!(!start(Some(1), true, "it does not stop well"));
        assert!(!start(Some(0), true, "thread lane-0 panicked at"));
    }
}
