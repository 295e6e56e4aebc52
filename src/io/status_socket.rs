//! The status socket of an appliance or a gate: each caller gets the status as one JSON document, and the connection ends.
//!
//! File permissions decide who may ask. Nothing is read from callers, and no caller blocks the process: what a caller does not
//! read at once waits for it, up to a bound and for a while. What the document says is the owner's business.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::local_listener::LocalListener;
pub use super::local_listener::Owner;
use super::socket_owner;
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

/// The version of the form of every JSON document of onwire. It grows when a field is renamed or removed, or means
/// something else; fields are added without that.
pub const SCHEMA_VERSION: u32 = 1;

/// What to say of a document whose form is later than [`SCHEMA_VERSION`].
pub fn later_form(version: u32) -> String {
    format!("its schema_version is {version}, and this program knows {SCHEMA_VERSION}: use the onwire of that release")
}

/// For an address that a document of another release does not have.
pub fn unspecified() -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, 0).into()
}

/// Callers served at once; more wait in the backlog until a place is free.
pub const CALLERS: usize = 8;
/// How long a caller may be slow.
const PATIENCE: Duration = Duration::from_secs(2);
/// More than any status.
const MOST_BYTES: u64 = 64 * 1024 * 1024;

/// The socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct StatusSocket {
    listener: LocalListener,
    callers: Vec<Option<Caller>>,
    /// The token of the listener; those of callers follow it.
    first: usize,
}

#[derive(Debug)]
struct Caller {
    stream: UnixStream,
    /// What is left of its document; none before it is answered.
    rest: Option<Vec<u8>>,
    since: Instant,
}

impl StatusSocket {
    /// Binds the socket. One that a crash has left behind is replaced, one that answers is not. It takes the tokens from
    /// `first` to `first + CALLERS`.
    ///
    /// # Errors
    /// The path cannot be used; the text says what to do.
    pub fn open(path: &Path, owner: &Owner, registry: &Registry, first: usize) -> io::Result<StatusSocket> {
        let listener = LocalListener::open("status socket", path, owner, registry, Token(first))?;
        Ok(StatusSocket { listener, callers: (0..CALLERS).map(|_| None).collect(), first })
    }

    /// Whether this token is one of ours.
    pub fn owns(&self, token: Token) -> bool {
        (self.first..=self.first + CALLERS).contains(&token.0)
    }

    /// Drops callers that were slow for too long, goes on with the others and accepts more. True if callers wait for a
    /// document: then call [`answer`](Self::answer), and this again, because their places may be free then. The poll reports
    /// each of them once: call this too when [`poll_timeout`](Self::poll_timeout) has come.
    pub fn handle_ready(&mut self, registry: &Registry, now: Instant) -> bool {
        for place in &mut self.callers {
            if place.as_ref().is_some_and(|caller| now >= caller.since + PATIENCE) {
                *place = None;
            }
        }
        self.write();
        while let Some(at) = self.callers.iter().position(Option::is_none) {
            let Some(mut stream) = self.listener.accept() else { break };
            if registry.register(&mut stream, Token(self.first + 1 + at), Interest::WRITABLE).is_ok() {
                self.callers[at] = Some(Caller { stream, rest: None, since: now });
            }
        }
        self.callers.iter().flatten().any(|caller| caller.rest.is_none())
    }

    /// Sends the document to all callers that have none.
    pub fn answer(&mut self, document: &[u8]) {
        for caller in self.callers.iter_mut().flatten() {
            caller.rest.get_or_insert_with(|| document.to_vec());
        }
        self.write();
    }

    fn write(&mut self) {
        for place in &mut self.callers {
            if place.as_mut().is_some_and(|caller| caller.is_done()) {
                *place = None;
            }
        }
    }

    /// When the next caller will have been slow for too long.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.callers.iter().flatten().map(|caller| caller.since + PATIENCE).min()
    }
}

impl Caller {
    /// Writes what the socket takes. True if the caller has everything or has gone.
    fn is_done(&mut self) -> bool {
        let Some(rest) = &mut self.rest else { return false };
        loop {
            match self.stream.write(rest) {
                Ok(0) => return true,
                Ok(count) => drop(rest.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return true,
            }
        }
    }
}

/// Asks the appliance or gate whose status socket is at `path`; returns the document as text.
///
/// # Errors
/// There is no answer; the text says what to do.
pub fn ask(path: &Path) -> io::Result<String> {
    ask_within(path, Duration::from_secs(5))
}

/// The same, for who does not wait that long for an appliance that stands still.
///
/// # Errors
/// As [`ask`].
pub fn ask_within(path: &Path, patience: Duration) -> io::Result<String> {
    let explain = |error| explain(path, error);
    let stream = StdStream::connect(path).map_err(explain)?;
    stream.set_read_timeout(Some(patience))?;
    let mut text = String::new();
    stream.take(MOST_BYTES).read_to_string(&mut text).map_err(explain)?;
    Ok(text)
}

/// The error of asking the process whose status socket is at `path`, with what to do.
pub fn explain(path: &Path, error: io::Error) -> io::Error {
    let advice = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ": nothing is running with this status socket; start an appliance with `onwire run` or a gate with `onwire \
             gate`, or name another socket with --socket"
        }
        io::ErrorKind::PermissionDenied => {
            ": ask as root, as the user it runs as, or as a member of the socket's group"
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ": it does not answer in time",
        _ => "",
    };
    io::Error::new(error.kind(), format!("cannot ask {}{advice} ({error})", path.display()))
}

/// Sends SIGHUP to the process whose status socket is at `path`.
///
/// # Errors
/// There is none, or it may not be signalled; the text says what to do.
pub fn signal_owner(path: &Path) -> io::Result<()> {
    let hidden = || io::Error::other("its process is in another container: send SIGHUP to it there");
    let owner = socket_owner::owner(&StdStream::connect(path)?)?.ok_or_else(hidden)?;
    rustix::process::kill_process(owner, rustix::process::Signal::HUP).map_err(|error| {
        let text = format!(
            "cannot signal process {owner}: {error}; run this as root, or as the user of that process",
            owner = owner.as_raw_nonzero()
        );
        io::Error::new(io::Error::from(error).kind(), text)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use mio::{Events, Poll};

    use super::*;

    const OWNER: Owner =
        Owner { mode: 0o600, on_denied: "", on_in_use: ": another gate is running", option: "with --status" };

    #[test]
    fn only_the_owner_may_ask_and_slow_callers_delay_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let mut poll = Poll::new().unwrap();
        let mut socket = StatusSocket::open(&path, &OWNER, poll.registry(), 1).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let refused = StatusSocket::open(&path, &OWNER, poll.registry(), 1).err().unwrap();
        assert!(refused.to_string().contains("another gate"));
        while socket.listener.accept().is_some() {}

        let (document, start) = ("x".repeat(4_000_000), Instant::now());
        let registry = poll.registry().try_clone().unwrap();
        let turn = |socket: &mut StatusSocket, now| {
            let waits = socket.handle_ready(&registry, now);
            if waits {
                socket.answer(document.as_bytes());
            }
            waits
        };
        let slow: Vec<_> = (0..CALLERS - 1).map(|_| StdStream::connect(&path).unwrap()).collect();
        assert!(turn(&mut socket, start));
        assert!(!turn(&mut socket, start), "all of them are answered");
        let asked = path.clone();
        let reader = std::thread::spawn(move || ask(&asked).unwrap());
        while !reader.is_finished() && start.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
            turn(&mut socket, start);
        }
        assert_eq!(reader.join().unwrap().len(), document.len());
        assert_eq!(socket.callers.iter().flatten().count(), slow.len());
        let surplus = StdStream::connect(&path).unwrap();
        let asked = path.clone();
        let behind = std::thread::spawn(move || ask(&asked).unwrap());
        while !turn(&mut socket, start) {}
        assert_eq!(socket.callers.iter().flatten().count(), CALLERS);
        turn(&mut socket, start);
        assert_eq!(socket.callers.iter().flatten().count(), CALLERS, "more wait");
        // Places are free after the time of the slow ones, and those that waited take them.
        let late = start + PATIENCE;
        while !behind.is_finished() && start.elapsed() < Duration::from_secs(20) {
            turn(&mut socket, late);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(behind.join().unwrap().len(), document.len());
        drop((slow, surplus));
        poll.poll(&mut Events::with_capacity(8), Some(Duration::ZERO)).unwrap();
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn many_callers_at_once_are_all_answered() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("gate.sock");
        let poll = Poll::new().unwrap();
        let mut socket = StatusSocket::open(&path, &OWNER, poll.registry(), 1).unwrap();
        let callers: Vec<_> = (0..5 * CALLERS).map(|_| StdStream::connect(&path).unwrap()).collect();
        while socket.handle_ready(poll.registry(), Instant::now()) {
            socket.answer(b"{}");
        }
        for mut caller in callers {
            let mut text = String::new();
            caller.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            caller.read_to_string(&mut text).unwrap();
            assert_eq!(text, "{}");
        }
    }

    #[test]
    fn a_status_socket_that_is_a_regular_file_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("precious");
        std::fs::write(&path, "data").unwrap();
        let poll = Poll::new().unwrap();
        let error = StatusSocket::open(&path, &OWNER, poll.registry(), 1).err().unwrap().to_string();
        assert!(error.contains("with --status"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "data");
    }
}
