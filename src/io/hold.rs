//! Holds one thread of another process, as a debugger does: for experiments with programs that hang.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

/// A thread that does not run, until this is dropped.
#[derive(Debug)]
pub struct HeldThread {
    release: Option<Sender<()>>,
    holder: Option<JoinHandle<()>>,
}

impl HeldThread {
    /// Holds the thread of this name in a process. Needs `CAP_SYS_PTRACE` or the same user.
    ///
    /// # Errors
    /// There is no such thread, or it may not be traced.
    pub fn hold(process: u32, name: &str) -> io::Result<Self> {
        let id = find(process, name)?;
        let (release, released) = channel::<()>();
        let (tell, told) = channel();
        // The thread that traces must be the one that lets go; when it ends, the kernel lets go.
        let holder = std::thread::spawn(move || {
            let _ = tell.send(trace(id));
            let _ = released.recv();
        });
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the holding thread ended")))?;
        Ok(Self { release: Some(release), holder: Some(holder) })
    }
}

impl Drop for HeldThread {
    fn drop(&mut self) {
        drop(self.release.take());
        let _ = self.holder.take().map(JoinHandle::join);
    }
}

fn find(process: u32, name: &str) -> io::Result<libc::pid_t> {
    let is_it = |task: &PathBuf| fs::read_to_string(task.join("comm")).is_ok_and(|found| found.trim() == name);
    let tasks = fs::read_dir(format!("/proc/{process}/task"))?;
    let found = tasks.filter_map(|task| Some(task.ok()?.path())).find(is_it);
    let id = found.as_ref().and_then(|task| task.file_name()?.to_str()?.parse().ok());
    id.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("process {process} has no thread {name}")))
}

fn trace(id: libc::pid_t) -> io::Result<()> {
    for request in [libc::PTRACE_SEIZE, libc::PTRACE_INTERRUPT] {
        // SAFETY: neither request reads or writes through a pointer.
        if unsafe { libc::ptrace(request, id, null_mut::<libc::c_void>(), null_mut::<libc::c_void>()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
