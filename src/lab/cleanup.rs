//! Marks a live run, and removes what dead runs left behind.
//!
//! A run holds a lock on its marker file while it lives; the kernel releases the lock when the process dies, for
//! whatever reason. The next run takes every marker whose lock is free, kills the processes that carry that run's mark
//! in their environment, deletes its namespaces and its files, and then the marker. Nothing without a mark is touched.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use rustix::process::{Pid, Signal, kill_process};

use super::{
    error::LabError,
    private,
    servers::data_dir,
    trace::{RUN_MARK, Trace},
};

/// The directory where `ip netns` keeps its names.
const NAMESPACES: &str = "/run/netns";

/// The marker of a live run; dropping it removes the marker.
#[derive(Debug)]
pub struct Marker {
    path: PathBuf,
    _lock: File,
}

impl Marker {
    /// The directory of this user's markers.
    pub fn directory() -> Result<PathBuf, LabError> {
        let user = rustix::process::getuid();
        let root = PathBuf::from("/run/onwire-lab");
        if user.is_root() && private::own(&root).is_ok() {
            return Ok(root);
        }
        let path = std::env::temp_dir().join(format!("onwire-lab-{}", user.as_raw()));
        private::own(&path).map_err(LabError::doing("find a place for the marks of runs"))?;
        Ok(path)
    }

    /// Marks the run `run` in `directory` as alive; its logs and data are in `files`.
    pub fn set(directory: &Path, run: &str, files: &Path) -> Result<Self, LabError> {
        let path = directory.join(format!("{run}.run"));
        let mark = || {
            fs::create_dir_all(directory)?;
            // The file gets its final name only after it is locked, so no other run sees it unlocked while this one
            // lives.
            let unnamed = directory.join(format!("{run}.new"));
            let mut file = File::create(&unnamed)?;
            file.try_lock()?;
            file.write_all(files.as_os_str().as_encoded_bytes())?;
            fs::rename(&unnamed, &path)?;
            Ok(file)
        };
        let lock = mark().map_err(|error: io::Error| LabError::System {
            doing: format!("mark this run in {}", path.display()),
            source: error,
        })?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// The runs whose markers in `directory` are unlocked. Each marker stays until its run is cleaned up.
pub fn dead_runs(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let runs = names.filter_map(|name| Some(name.strip_suffix(".run")?.to_owned()));
    // The test lock is released at once: two cleaners at the same time do no harm.
    runs.filter(|run| File::open(directory.join(format!("{run}.run"))).is_ok_and(|file| file.try_lock().is_ok()))
        .collect()
}

/// Cleans up after every dead run and returns their names.
pub fn clean_up(directory: &Path, trace: &Trace) -> Vec<String> {
    let runs = dead_runs(directory);
    for run in &runs {
        end_processes(run);
        delete_namespaces(run, trace);
        let marker = directory.join(format!("{run}.run"));
        let files = PathBuf::from(fs::read_to_string(&marker).unwrap_or_default());
        // Delete only a directory that has the name this program gives.
        if files.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&run_files(run))) {
            let _ = fs::remove_dir_all(&files);
            files.file_name().into_iter().for_each(data_dir::remove_stale);
        }
        let _ = fs::remove_file(marker);
    }
    runs
}

/// The prefix of the name of a run's directory.
pub fn run_files(run: &str) -> String {
    format!("onwire-lab-{run}-")
}

/// Kills every process that carries the mark of this run, except the caller.
pub fn end_processes(run: &str) {
    let mark = format!("{RUN_MARK}={run}");
    let Ok(entries) = fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let is_marked = environment.split(|byte| *byte == 0).any(|word| word == mark.as_bytes());
        if is_marked
            && pid != std::process::id() as i32
            && let Some(pid) = Pid::from_raw(pid)
        {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Deletes the namespaces of a run, and with them every device and route in them.
pub fn delete_namespaces(run: &str, trace: &Trace) {
    let prefix = format!("{run}-");
    let Ok(entries) = fs::read_dir(NAMESPACES) else { return };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    for name in names.filter(|name| name.starts_with(&prefix)) {
        // A namespace that cannot be deleted must not stop the deletion of the others.
        let _ = trace.run_always(&["ip", "netns", "del", &name]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_live_run_is_kept_and_a_dead_one_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path().join("onwire-lab-ow-2-test");
        fs::create_dir(&files).unwrap();
        let alive = Marker::set(directory.path(), "ow-1", directory.path()).unwrap();
        fs::write(directory.path().join("ow-2.run"), files.to_str().unwrap()).unwrap();
        fs::write(directory.path().join("other"), "").unwrap();
        assert_eq!(dead_runs(directory.path()), ["ow-2"]);
        drop(alive);
        let trace = Trace::new("ow-3", directory.path(), false, Default::default()).unwrap();
        assert_eq!(clean_up(directory.path(), &trace), ["ow-2"]);
        assert!(dead_runs(directory.path()).is_empty());
        assert!(!files.exists() && directory.path().exists());
    }

    /// Starts a process with this mark. The kernel shows a process's environment only a moment after its start.
    fn sleeper(run: &str) -> std::process::Child {
        let child = std::process::Command::new("sleep").arg("1000").env(RUN_MARK, run).spawn().unwrap();
        let environment = format!("/proc/{}/environ", child.id());
        for _ in 0..1000 {
            if fs::read(&environment).is_ok_and(|words| !words.is_empty()) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        child
    }

    #[test]
    fn only_processes_with_this_mark_are_killed() {
        let (mut marked, mut other) = (sleeper("ow-mark-1"), sleeper("ow-mark-12"));
        end_processes("ow-mark-1");
        assert!(!marked.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
