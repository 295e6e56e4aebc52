//! The status socket of a gate process: whoever connects is told the status as one JSON document.
//!
//! Its owner alone may ask (mode 0600). Nothing is read from callers, and none of them can hold up a commit: what they do
//! not read at once waits for them, up to a bound and for a while.

use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

/// Callers served at once; more are turned away.
pub const CALLERS: usize = 8;
/// How long a caller may be slow.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any status.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// Where status is asked for. The socket's file is removed when this is dropped.
pub struct StatusSocket {
    listener: UnixListener,
    path: PathBuf,
    callers: Vec<Option<Caller>>,
    /// The token of the listener; those of callers follow it.
    first: usize,
}

struct Caller {
    stream: UnixStream,
    rest: Vec<u8>,
    since: Instant,
}

impl StatusSocket {
    /// Binds the socket; one that a crash has left behind is replaced, one that answers is not. It takes the tokens from
    /// `first` to `first + CALLERS`.
    ///
    /// # Errors
    /// The path cannot be used; the words say what to do.
    pub fn open(path: &Path, registry: &Registry, first: usize) -> io::Result<StatusSocket> {
        let words = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => ": choose a path that this user may write, with --status",
                io::ErrorKind::NotFound => ": its directory does not exist",
                io::ErrorKind::AddrInUse => {
                    ": another gate with this status socket is running; stop it, or choose another path with --status"
                }
                _ => "",
            };
            io::Error::new(error.kind(), format!("cannot open the status socket {}{advice} ({error})", path.display()))
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(words)?;
        }
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                let text = format!(
                    "cannot open the status socket {}: there is something else of this name, which is left alone; choose \
                     another path with --status",
                    path.display()
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            if StdStream::connect(path).is_ok() {
                return Err(words(io::ErrorKind::AddrInUse.into()));
            }
            std::fs::remove_file(path).map_err(words)?;
        }
        let mut listener = UnixListener::bind(path).map_err(words)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(words)?;
        registry.register(&mut listener, Token(first), Interest::READABLE)?;
        Ok(StatusSocket { listener, path: path.to_owned(), callers: (0..CALLERS).map(|_| None).collect(), first })
    }

    /// Whether this token is one of ours.
    pub fn owns(&self, token: Token) -> bool {
        (self.first..=self.first + CALLERS).contains(&token.0)
    }

    /// Takes in who has come and gives `tell` to them; goes on with those who were slow.
    pub fn handle_ready(&mut self, registry: &Registry, tell: impl Fn() -> Vec<u8>, now: Instant) {
        while let Ok((stream, _)) = self.listener.accept() {
            let Some(at) = self.callers.iter().position(Option::is_none) else { continue };
            let mut caller = Caller { stream, rest: tell(), since: now };
            let token = Token(self.first + 1 + at);
            if registry.register(&mut caller.stream, token, Interest::WRITABLE).is_ok() {
                self.callers[at] = Some(caller);
            }
        }
        for place in &mut self.callers {
            if place.as_mut().is_some_and(|caller| caller.is_done()) {
                *place = None;
            }
        }
    }

    /// Lets go of who was slow for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        for place in &mut self.callers {
            if place.as_ref().is_some_and(|caller| now >= caller.since + PATIENCE) {
                *place = None;
            }
        }
    }

    /// When somebody will have been slow for too long.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.callers.iter().flatten().map(|caller| caller.since + PATIENCE).min()
    }
}

impl Caller {
    fn is_done(&mut self) -> bool {
        loop {
            match self.stream.write(&self.rest) {
                Ok(0) => return true,
                Ok(count) => drop(self.rest.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }
}

impl Drop for StatusSocket {
    fn drop(&mut self) {
        // A file that is gone already is what was wanted.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Asks whoever has this status socket, gate or appliance: the document as text.
///
/// # Errors
/// Nobody answers; the words say what to do.
pub fn ask(path: &Path) -> io::Result<String> {
    let words = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ": nothing is running with this status socket; start an appliance with `onwire run` or a gate with `onwire \
                 gate`, or name another socket with --socket"
            }
            io::ErrorKind::PermissionDenied => ": ask as root, or as the user it runs as",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot ask {}{advice} ({error})", path.display()))
    };
    let stream = StdStream::connect(path).map_err(words)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut text).map_err(words)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use mio::{Events, Poll};

    use super::*;

    #[test]
    fn only_the_owner_may_ask_and_a_slow_caller_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let mut poll = Poll::new().unwrap();
        let mut status_socket = StatusSocket::open(&path, poll.registry(), 1).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(StatusSocket::open(&path, poll.registry(), 1).err().unwrap().to_string().contains("another gate"));
        while status_socket.listener.accept().is_ok() {}

        let document = "x".repeat(4_000_000);
        let _slow = StdStream::connect(&path).unwrap();
        status_socket.handle_ready(poll.registry(), || document.clone().into_bytes(), Instant::now());
        let asked = path.clone();
        let reader = std::thread::spawn(move || ask(&asked).unwrap());
        let mut events = Events::with_capacity(8);
        let start = Instant::now();
        while !reader.is_finished() && start.elapsed() < Duration::from_secs(20) {
            poll.poll(&mut events, Some(Duration::from_millis(5))).unwrap();
            status_socket.handle_ready(poll.registry(), || document.clone().into_bytes(), start);
        }
        assert_eq!(reader.join().unwrap().len(), document.len());
        assert_eq!(status_socket.callers.iter().flatten().count(), 1);
        status_socket.handle_timeout(start + PATIENCE);
        assert_eq!(status_socket.callers.iter().flatten().count(), 0);
        drop(status_socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_that_name_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let poll = Poll::new().unwrap();
        assert!(StatusSocket::open(&path, poll.registry(), 1).err().unwrap().to_string().contains("--status"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }
}
