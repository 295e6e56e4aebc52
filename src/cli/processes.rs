//! The appliances and gates of this host, found by their status sockets.
//!
//! A socket is a file, and outlives a process that was killed: only one on which a process listens counts. What the
//! processes say is printed elsewhere.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::{NO_CONTACT, USAGE, print_error};
use crate::config::gate::DEFAULT_STATUS;
use crate::config::{self, ConfigErrors, Source, gate_file};
use crate::gate::status::ROLE;
use crate::io::status_socket;

/// Where status sockets are unless a file says otherwise.
const DIRECTORY: &str = "/run/onwire";
/// The variable that names another directory.
const VARIABLE: &str = "ONWIRE_SOCKETS";
/// Processes asked at the same time, with a thread each.
const AT_ONCE: usize = 64;
/// How long a process may take to say what it is.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Appliance,
    Gates,
}

/// A process that listens on a status socket.
#[derive(Debug)]
pub(super) struct Process {
    /// Its socket.
    pub socket: PathBuf,
    /// What it is; as its file is named, where it does not answer.
    pub kind: Kind,
    /// Its status, or why it gives none.
    pub answer: Result<Value, String>,
}

/// All processes of this host.
#[derive(Debug, Default)]
pub(super) struct Host {
    /// Appliances first, then by name.
    pub processes: Vec<Process>,
    /// Sockets on which nothing listens, left behind.
    pub stale: Vec<PathBuf>,
    /// Why the sockets cannot be looked for.
    pub fault: Option<String>,
}

/// The directory of the status sockets.
pub(super) fn directory() -> PathBuf {
    env::var_os(VARIABLE).filter(|path| !path.is_empty()).map_or_else(|| DIRECTORY.into(), PathBuf::from)
}

impl Kind {
    /// What a document is of.
    pub fn of(document: &Value) -> Self {
        match document.get("role").and_then(Value::as_str) {
            Some(ROLE) => Self::Gates,
            _ => Self::Appliance,
        }
    }

    fn of_name(socket: &Path) -> Self {
        match socket.file_name() == Path::new(DEFAULT_STATUS).file_name() {
            true => Self::Gates,
            false => Self::Appliance,
        }
    }
}

impl Process {
    /// Asks the process at this socket; `None` if none listens there.
    fn ask(socket: PathBuf, patience: Duration) -> Option<Self> {
        let answer = match status_socket::ask_within(&socket, patience) {
            Err(error) if is_stale(&error) => return None,
            Err(error) => Err(error.to_string()),
            Ok(text) => serde_json::from_str(&text).map_err(|error| unknown(&socket, &error)),
        };
        let kind = answer.as_ref().map_or_else(|_| Kind::of_name(&socket), Kind::of);
        Some(Self { socket, kind, answer })
    }

    /// One that could not be asked.
    fn unanswered(socket: &Path) -> Self {
        let answer = Err(format!("{}: it could not be asked, which is a bug of this command", socket.display()));
        Self { socket: socket.to_owned(), kind: Kind::of_name(socket), answer }
    }
}

/// What to say of an answer that is no status.
pub(super) fn unknown(socket: &Path, error: &serde_json::Error) -> String {
    format!(
        "{}: the answer is no status that this version knows ({error}); are both programs of the same version?",
        socket.display()
    )
}

fn is_stale(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Asks these at the same time: each may be slow.
fn ask_all(sockets: &[PathBuf], patience: Duration) -> Vec<Option<Process>> {
    std::thread::scope(|scope| {
        let ask = |socket: &PathBuf| {
            let thread = std::thread::Builder::new();
            let wanted = socket.clone();
            let started = thread.spawn_scoped(scope, move || Process::ask(wanted, patience));
            // Without a thread nobody is left out: it only takes longer.
            started.map_err(|_| Process::ask(socket.clone(), patience))
        };
        let asked: Vec<_> = sockets.iter().map(ask).collect();
        let answers = asked.into_iter().zip(sockets).map(|(asked, socket)| match asked {
            // One of which nothing is known is not one that has ended.
            Ok(thread) => thread.join().unwrap_or_else(|_| Some(Process::unanswered(socket))),
            Err(process) => process,
        });
        answers.collect()
    })
}

impl Host {
    /// Asks all, [`AT_ONCE`] at the same time.
    pub fn ask(patience: Duration) -> Self {
        let directory = directory();
        let mut sockets: Vec<PathBuf> = match std::fs::read_dir(&directory) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => {
                let fault = format!("cannot look for status sockets in {}: {error}", directory.display());
                return Self { fault: Some(fault), ..Self::default() };
            }
        };
        sockets.retain(|path| path.extension().is_some_and(|extension| extension == "sock"));
        sockets.sort();
        let mut host = Self::default();
        for sockets in sockets.chunks(AT_ONCE) {
            for (socket, process) in sockets.iter().zip(ask_all(sockets, patience)) {
                match process {
                    Some(process) => host.processes.push(process),
                    None => host.stale.push(socket.clone()),
                }
            }
        }
        host.processes.sort_by(|one, other| (one.kind, &one.socket).cmp(&(other.kind, &other.socket)));
        host
    }

    /// Why there is nothing to ask.
    pub fn nothing(&self) -> String {
        let directory = directory();
        let stale: Vec<String> = self.stale.iter().map(|path| path.display().to_string()).collect();
        match (&self.fault, &stale[..]) {
            (Some(fault), _) => fault.clone(),
            (None, []) => format!(
                "no appliance and no gate runs with a status socket in {}; start one with `onwire run` or `onwire \
                 gate`, or name its socket with --socket or its file with --config",
                directory.display()
            ),
            (None, stale) => format!(
                "nothing listens on {}: what had made {} was killed; start an appliance with `onwire run` or gates \
                 with `onwire gate`",
                stale.join(", "),
                if stale.len() == 1 { "it" } else { "them" }
            ),
        }
    }

    /// The status sockets of appliances; where none listens, those that may have been left behind by one.
    pub fn appliance_sockets(&self) -> Vec<PathBuf> {
        let appliances = self.processes.iter().filter(|process| process.kind == Kind::Appliance);
        let found: Vec<PathBuf> = appliances.map(|process| process.socket.clone()).collect();
        if found.is_empty() {
            return self.stale.iter().filter(|socket| Kind::of_name(socket) == Kind::Appliance).cloned().collect();
        }
        found
    }

    /// All status sockets, also those that were left behind.
    pub fn all_sockets(&self) -> Vec<PathBuf> {
        self.processes.iter().map(|process| &process.socket).chain(&self.stale).cloned().collect()
    }

    /// The process that is meant where none is named: the only one, or the only appliance beside gates.
    fn only(self) -> Result<Process, (u8, String)> {
        if self.processes.is_empty() {
            return Err((NO_CONTACT, self.nothing()));
        }
        let mut processes = self.processes;
        if processes.iter().any(|process| process.kind == Kind::Appliance) {
            processes.retain(|process| process.kind == Kind::Appliance);
        }
        let names: Vec<String> = processes.iter().map(|process| process.socket.display().to_string()).collect();
        match <[Process; 1]>::try_from(processes) {
            Ok([process]) => Ok(process),
            Err(_) => {
                Err((USAGE, format!("which? Name one with --socket, or its file with --config: {}", names.join(", "))))
            }
        }
    }
}

/// The status of the only appliance of this host; `None` if there is none, or several, or it does not answer in time.
pub(super) fn only_appliance(patience: Duration) -> Option<Value> {
    let mut appliances = Host::ask(patience).processes.into_iter().filter(|process| process.kind == Kind::Appliance);
    match (appliances.next(), appliances.next()) {
        (Some(only), None) => only.answer.ok(),
        _ => None,
    }
}

/// The status socket of the process to ask: the one that is named, or that of the only process. Prints an error in the
/// name of `command` if nothing listens, or it is not clear which one is meant. Of one that is named, asking it shows
/// whether it listens.
pub(super) fn find_socket(socket: Option<&Path>, config: Option<&Path>, command: &str) -> Result<PathBuf, ExitCode> {
    match (socket, config) {
        (Some(socket), _) => Ok(socket.to_owned()),
        (None, Some(file)) => socket_of(file).map_err(|errors| {
            print_error(errors);
            ExitCode::from(USAGE)
        }),
        (None, None) => Host::ask(PATIENCE).only().map(|process| process.socket).map_err(|(code, text)| {
            print_error(format_args!("onwire {command}: {text}\n"));
            ExitCode::from(code)
        }),
    }
}

/// The status socket that a file of either kind names.
fn socket_of(file: &Path) -> Result<PathBuf, ConfigErrors> {
    let source = Source::read(file, None)?;
    if source.is_of_gates() {
        let gates = gate_file::parse(&source.text, &source.path)?;
        return Ok(gates.status.unwrap_or_else(|| PathBuf::from(DEFAULT_STATUS)));
    }
    config::parse(&source.text, &source.path).map(|config| config.status.socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(socket: &str, kind: Kind) -> Process {
        Process { socket: socket.into(), kind, answer: Err(String::new()) }
    }

    #[test]
    fn the_only_process_is_meant_and_else_the_only_appliance() {
        type Row = (&'static [(&'static str, Kind)], Result<&'static str, u8>);
        use Kind::{Appliance, Gates};
        let rows: [Row; 6] = [
            (&[], Err(NO_CONTACT)),
            (&[("a", Appliance)], Ok("a")),
            (&[("g", Gates)], Ok("g")),
            (&[("a", Appliance), ("g", Gates), ("h", Gates)], Ok("a")),
            (&[("a", Appliance), ("b", Appliance), ("g", Gates)], Err(USAGE)),
            (&[("g", Gates), ("h", Gates)], Err(USAGE)),
        ];
        for (processes, expected) in rows {
            let processes = processes.iter().map(|(name, kind)| process(name, *kind)).collect();
            let host = Host { processes, ..Host::default() };
            let found = host.only().map(|process| process.socket.display().to_string()).map_err(|(code, _)| code);
            assert_eq!(found, expected.map(str::to_owned));
        }
    }

    #[test]
    fn the_sockets_of_appliances_are_those_that_listen_or_else_those_that_were_left() {
        let stale = vec!["/s/gate.sock".into(), "/s/old.sock".into()];
        let mut host = Host { stale, ..Host::default() };
        assert_eq!(host.appliance_sockets(), [Path::new("/s/old.sock")]);
        host.processes = vec![process("/s/a.sock", Kind::Appliance), process("/s/g.sock", Kind::Gates)];
        assert_eq!(host.appliance_sockets(), [Path::new("/s/a.sock")]);
        assert_eq!(host.all_sockets(), ["/s/a.sock", "/s/g.sock", "/s/gate.sock", "/s/old.sock"].map(PathBuf::from));
    }

    #[test]
    fn why_nothing_answers_is_said() {
        let stale = Host { stale: vec!["/run/onwire/a.sock".into()], ..Host::default() };
        assert!(stale.nothing().contains("nothing listens on /run/onwire/a.sock"), "{}", stale.nothing());
        assert!(Host::default().nothing().contains("no appliance and no gate runs"));
        let fault = Host { fault: Some("cannot look".to_owned()), ..Host::default() };
        assert_eq!(fault.nothing(), "cannot look");
    }
}
