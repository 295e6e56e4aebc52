//! What a process gives up once it is set up, for good: privileges, files and system calls that it has no more use for.
//!
//! [`restrict`] is the one place. It comes last in the set-up, before the threads that work are started: they inherit
//! everything. The few threads that are older (log, signals) need nothing, and were started by [`without_privileges`].
//! What the kernel does not know is left out and said; nothing here makes a process fail. Which files and which
//! privileges a process needs is decided by its owner, and so is the log.

mod capabilities;
mod files;
mod system_calls;

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

pub use rustix::thread::CapabilitySet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a process needs after it is set up.
#[derive(Clone, Debug)]
pub struct Needs {
    /// The privileges to keep, as far as the process has them.
    pub capabilities: CapabilitySet,
    /// Files that it reads again. Their directories count: a file that is replaced is another one.
    pub files: Vec<PathBuf>,
    /// What else it reads: files, or directories with all that is below.
    pub readable: Vec<PathBuf>,
    /// Sockets that it removes when it ends, or opens again.
    pub sockets: Vec<PathBuf>,
}

impl Default for Needs {
    /// Nothing.
    fn default() -> Self {
        Self { capabilities: CapabilitySet::empty(), files: vec![], readable: vec![], sockets: vec![] }
    }
}

/// What is in force, as status shows it. Names are stable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Restrictions {
    /// No program that it might start gains a privilege.
    pub no_new_privileges: bool,
    /// The privileges that are left.
    pub capabilities: Vec<String>,
    /// What it may still open by name; `None`: whatever its user may.
    pub files: Option<Files>,
    /// How many system calls are refused; 0 without a filter.
    pub refused_system_calls: usize,
    /// What is not in force, and what it takes; empty when all is.
    pub missing: Vec<String>,
}

/// What a process may still open by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Files {
    /// The version of the kernel's Landlock that restricts it.
    pub landlock: u32,
    /// It reads these, and what is below them.
    pub readable: Vec<PathBuf>,
    /// It removes and makes sockets in these.
    pub sockets: Vec<PathBuf>,
}

impl Restrictions {
    /// What to do about a file that this process was denied; `None` if it may read there, as far as this is about.
    pub fn advice(&self, denied: &Path) -> Option<String> {
        let readable = &self.files.as_ref()?.readable;
        let places = [denied.parent().map(Path::to_owned), real_directory(denied)];
        if places.into_iter().flatten().all(|place| readable.iter().any(|allowed| place.starts_with(allowed))) {
            return None;
        }
        let shown: Vec<_> = readable.iter().map(|path| path.display().to_string()).collect();
        Some(format!(
            "{} is outside of what this process may read since it has started ({}): put it there, or restart onwire",
            denied.display(),
            shown.join(", ")
        ))
    }

    /// One line for people.
    pub fn summary(&self) -> String {
        let capabilities = match self.capabilities.is_empty() {
            true => "no capability".to_owned(),
            false => self.capabilities.join(", "),
        };
        let files = self
            .files
            .as_ref()
            .map_or("every file of its user".to_owned(), |files| format!("files by Landlock {}", files.landlock));
        format!("{capabilities}; {files}; {} system calls refused", self.refused_system_calls)
    }
}

/// Restricts this thread and those that it starts from now on; refused system calls are refused for all threads of the
/// process. There is no way back.
pub fn restrict(needs: &Needs) -> Restrictions {
    let mut missing = Vec::new();
    let no_new_privileges = rustix::thread::set_no_new_privs(true);
    if let Err(error) = no_new_privileges {
        missing.push(format!("programs that this process starts could gain privileges: {error}"));
    }
    let files = files::Rules::new(needs);
    if let Err(error) = capabilities::reduce(needs.capabilities, &needs.files) {
        missing.push(format!("privileges that are not needed could not be dropped: {error}"));
    }
    let files = files.confine().map_err(|error| missing.push(error)).ok();
    let refused = system_calls::refuse().map_err(|error| missing.push(error));
    Restrictions {
        no_new_privileges: no_new_privileges.is_ok(),
        capabilities: capabilities::names(),
        files,
        refused_system_calls: refused.unwrap_or(0),
        missing,
    }
}

/// Drops all privileges of this process, which has one thread, for itself and for the programs that it starts. Files and system
/// calls stay as they are.
///
/// # Errors
/// It still has some.
pub fn drop_privileges() -> std::io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    capabilities::reduce(CapabilitySet::empty(), &[])
}

/// Runs `action` on a thread that has given up all privileges and every file, and returns when it has ended. Threads that
/// `action` starts have none either: for those that are older than [`restrict`].
///
/// What cannot be given up is not reported here: [`restrict`] meets the same, and says so.
pub fn without_privileges<T: Send>(action: impl FnOnce() -> T + Send) -> T {
    let (mut action, mut result) = (Some(action), None);
    thread::scope(|scope| {
        let restricted = || {
            let _ = rustix::thread::set_no_new_privs(true);
            let _ = capabilities::reduce(CapabilitySet::empty(), &[]);
            let _ = files::Rules::new(&Needs::default()).confine();
            result = action.take().map(|action| action());
        };
        let thread = thread::Builder::new().name("restricted".to_owned()).spawn_scoped(scope, restricted);
        if let Ok(Err(panic)) = thread.map(thread::ScopedJoinHandle::join) {
            resume_unwind(panic);
        }
    });
    // The system starts no thread. The next one is needed, and its error is for its owner to report.
    result.or_else(|| action.map(|action| action())).expect("either the thread ran the action or this one does")
}

/// The directory that a file lies in, behind all links.
fn real_directory(file: &Path) -> Option<PathBuf> {
    let absolute = std::path::absolute(file).ok()?;
    let real = absolute.canonicalize().unwrap_or(absolute);
    Some(real.parent()?.to_owned())
}

#[cfg(test)]
pub(crate) mod tests;
