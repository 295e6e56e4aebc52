//! The status socket: whoever connects is told the status as one JSON document, and the connection ends.
//!
//! Unix file permissions decide who may ask. Nothing is read from the caller.

use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mio::net::{UnixListener, UnixStream};

use super::status::Status;

/// How long a caller may be slow.
const PATIENCE: Duration = Duration::from_millis(200);

/// Where status is asked for. The socket's file is removed when this is dropped.
pub struct StatusDesk {
    listener: UnixListener,
    path: PathBuf,
}

/// Somebody who wants to know the status.
pub struct Caller(UnixStream);

impl StatusDesk {
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
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The socket, for a poll.
    pub fn listener(&mut self) -> &mut UnixListener {
        &mut self.listener
    }

    /// Whoever has come, if anybody.
    pub fn next_caller(&mut self) -> Option<Caller> {
        self.listener.accept().ok().map(|(stream, _)| Caller(stream))
    }
}

impl Drop for StatusDesk {
    fn drop(&mut self) {
        // A file that is gone already is what was wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Caller {
    /// Tells the status; a caller that does not read it in time goes without.
    pub fn answer(self, status: &Status) {
        let stream = StdStream::from(self.0);
        let told = serde_json::to_vec(status).map_err(io::Error::from).and_then(|mut document| {
            document.push(b'\n');
            stream.set_nonblocking(false)?;
            stream.set_write_timeout(Some(PATIENCE))?;
            (&stream).write_all(&document)
        });
        if let Err(error) = told {
            tracing::debug!("status not told: {error}");
        }
    }
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
        let error = StatusDesk::open(&path).err().unwrap().to_string();
        assert!(error.contains("status.socket"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }

    #[test]
    fn a_socket_that_a_crash_left_is_replaced_and_one_that_answers_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("status.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let desk = StatusDesk::open(&path).unwrap();
        assert!(StatusDesk::open(&path).err().unwrap().to_string().contains("another onwire"));
        drop(desk);
        assert!(!path.exists());
    }
}
