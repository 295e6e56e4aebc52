//! The status socket: whoever connects is told the status as one JSON document, and the connection ends.
//!
//! Unix file permissions decide who may ask. Nothing is read from the caller, and none holds up the control thread: what the
//! socket does not take at once, as of a status longer than its buffer, is left to a thread.

use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};

use crate::appliance::status::Status;

/// How long a caller may be slow.
const PATIENCE: Duration = Duration::from_secs(2);
/// Slow callers that are served at once; more are turned away.
const SLOW_MAX: usize = 8;

/// Where status is asked for. The socket's file is removed when this is dropped.
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    slow: Arc<()>,
}

/// Somebody who wants to know the status.
pub struct Caller {
    stream: UnixStream,
    /// Counts those that are slow.
    slow: Arc<()>,
}

impl StatusSocket {
    /// Binds the socket; one that a crash has left behind is replaced, one that answers is not.
    pub fn open(path: &Path) -> io::Result<Self> {
        let words = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => ": run as root, or choose another path in `status.socket`",
                io::ErrorKind::NotFound => ": its directory does not exist",
                io::ErrorKind::AddrInUse => ": another onwire with this status socket is running",
                _ => "",
            };
            io::Error::new(error.kind(), format!("cannot open the status socket {}{advice} ({error})", path.display()))
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(words)?;
        }
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    format!(
                        "cannot open the status socket {}: there is something else of this name, which is left alone; \
                         choose another path in `status.socket`",
                        path.display()
                    ),
                ));
            }
            if StdStream::connect(path).is_ok() {
                return Err(words(io::ErrorKind::AddrInUse.into()));
            }
            std::fs::remove_file(path).map_err(words)?;
        }
        let listener = UnixListener::bind(path).map_err(words)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(words)?;
        Ok(Self { listener, path: path.to_owned(), slow: Arc::new(()) })
    }

    /// The socket, for a poll.
    pub fn listener(&mut self) -> &mut UnixListener {
        &mut self.listener
    }

    /// Whoever has come, if anybody.
    pub fn next_caller(&mut self) -> Option<Caller> {
        let (stream, _) = self.listener.accept().ok()?;
        Some(Caller { stream, slow: Arc::clone(&self.slow) })
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // A file that is gone already is what was wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Caller {
    /// Tells the status; a caller that does not read it in time goes without.
    pub fn answer(self, status: &Status) {
        let Self { mut stream, slow } = self;
        let told = serde_json::to_vec(status).map_err(io::Error::from).and_then(|mut document| {
            document.push(b'\n');
            let mut written = 0;
            while written < document.len() {
                match stream.write(&document[written..]) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => written += count,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        document.drain(..written);
                        return finish(stream.into(), document, &slow);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        });
        if let Err(error) = told {
            tracing::debug!("status not told: {error}");
        }
    }
}

/// Tells the rest to a caller that is slow, beside everything else.
fn finish(stream: StdStream, rest: Vec<u8>, slow: &Arc<()>) -> io::Result<()> {
    // Each thread holds one of them, the desk one, and this caller one.
    if Arc::strong_count(slow) >= SLOW_MAX + 2 {
        return Err(io::Error::other("too many callers are slow"));
    }
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let held = Arc::clone(slow);
    let body = move || {
        let (deadline, mut written) = (Instant::now() + PATIENCE, 0);
        while written < rest.len() && Instant::now() < deadline {
            match (&stream).write(&rest[written..]) {
                Ok(count @ 1..) => written += count,
                _ => break,
            }
        }
        drop(held);
    };
    std::thread::Builder::new().name("status".to_owned()).spawn(body).map(drop)
}

/// Asks the appliance whose status socket is at `path`.
pub fn ask(path: &Path) -> io::Result<Status> {
    let words = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ": no appliance is running with this status socket; start one with `onwire run`, or name another \
                 socket with --socket"
            }
            io::ErrorKind::PermissionDenied => ": ask as root, or as a member of the socket's group",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot ask {}{advice} ({error})", path.display()))
    };
    let stream = StdStream::connect(path).map_err(words)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    serde_json::from_reader(stream).map_err(|error| words(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_named_as_the_status_socket_was_deleted() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let error = StatusSocket::open(&path).err().unwrap().to_string();
        assert!(error.contains("status.socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn a_caller_that_does_not_read_held_up_the_control_thread() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.sock");
        let mut desk = StatusSocket::open(&path).unwrap();
        let label = "x".repeat(4_000_000);
        let status: Status = serde_json::from_value(serde_json::json!({
            "node": label, "version": "1", "uptime_s": 1.0, "epoch": "0", "state": "running", "lanes": [], "peers": [],
            "tun": { "name": "ow0", "mtu": 1500, "backend": "fast", "fallback": null, "tcp_offload": true,
                     "udp_offload": true, "queues": 1, "tx_dropped": null },
            "notify": null, "drops": {},
        }))
        .unwrap();
        // None of them reads, and one does.
        let silent: Vec<_> = (0..3 * SLOW_MAX).map(|_| StdStream::connect(&path).unwrap()).collect();
        let reader = std::thread::spawn({
            let path = path.clone();
            move || ask(&path)
        });
        let (start, mut served, mut spent) = (Instant::now(), 0, Duration::ZERO);
        while served <= silent.len() && start.elapsed() < Duration::from_secs(20) {
            match desk.next_caller() {
                Some(caller) => {
                    let since = Instant::now();
                    caller.answer(&status);
                    spent += since.elapsed();
                    served += 1;
                    assert!(Arc::strong_count(&desk.slow) <= SLOW_MAX + 2);
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        assert!(
            spent < PATIENCE * (silent.len() as u32 / 4),
            "{spent:?} for callers of whom each waits for {PATIENCE:?}"
        );
        // Turned away or not, the one that reads costs nobody anything, and it is told when the others are given up.
        let _ = reader.join().unwrap();
        while Arc::strong_count(&desk.slow) > 1 && start.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let reader = std::thread::spawn({
            let path = path.clone();
            move || ask(&path)
        });
        let caller = loop {
            if let Some(caller) = desk.next_caller() {
                break caller;
            }
        };
        caller.answer(&status);
        assert_eq!(reader.join().unwrap().unwrap().node.len(), label.len());
        drop(silent);
    }

    #[test]
    fn a_socket_that_a_crash_left_is_replaced_and_one_that_answers_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let desk = StatusSocket::open(&path).unwrap();
        assert!(StatusSocket::open(&path).err().unwrap().to_string().contains("another onwire"));
        drop(desk);
        assert!(!path.exists());
    }
}
