//! A socket for requests to a running process: each caller sends one line and gets one line, and the connection ends.
//!
//! File permissions decide who may ask. No caller blocks the process: lines are bounded, so is the number of callers, and one that
//! is slow loses its place. What the lines mean is the owner's business.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

use super::local_listener::{LocalListener, Owner};

/// Callers served at once; more wait in the backlog until a place is free.
pub const CALLERS: usize = 4;
/// How long a caller may take to send its line, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest line, the end of the line included.
pub const MOST_BYTES: usize = 2 * 1024 * 1024;
/// How long the process may take to answer: it may have to wait for its lanes twice.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// The socket. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct RequestSocket {
    listener: LocalListener,
    callers: Vec<Option<Caller>>,
    /// The token of the listener; those of callers follow it.
    first: usize,
}

#[derive(Debug)]
struct Caller {
    stream: UnixStream,
    step: Step,
    since: Instant,
}

#[derive(Debug)]
enum Step {
    /// What has come of the line.
    Reads(Vec<u8>),
    /// The line was handed out.
    Waits,
    /// What is left of the answer.
    Writes(Vec<u8>),
}

/// A caller that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerId(usize);

impl RequestSocket {
    /// Binds the socket. It takes the tokens from `first` to `first + CALLERS`.
    ///
    /// # Errors
    /// The path cannot be used; the text says what to do.
    pub fn open(path: &Path, owner: &Owner, registry: &Registry, first: usize) -> io::Result<Self> {
        let listener = LocalListener::open("control socket", path, owner, registry, Token(first))?;
        Ok(Self { listener, callers: (0..CALLERS).map(|_| None).collect(), first })
    }

    /// The next whole line, without its end. Give each an [`answer`](Self::answer), and call this until there is none, after the poll
    /// has reported one of our tokens and when [`poll_timeout`](Self::poll_timeout) has come.
    pub fn poll_request(&mut self, registry: &Registry, now: Instant) -> Option<(CallerId, Vec<u8>)> {
        for place in &mut self.callers {
            // Whoever has sent all of its line is not slow, however long the process was busy.
            let is_slow = |caller: &Caller| now >= caller.since + PATIENCE && !caller.has_line();
            if place.as_mut().is_some_and(|caller| !caller.goes_on() || is_slow(caller)) {
                *place = None;
            }
        }
        while let Some(at) = self.callers.iter().position(Option::is_none) {
            let Some(mut stream) = self.listener.accept() else { break };
            let (token, interest) = (Token(self.first + 1 + at), Interest::READABLE | Interest::WRITABLE);
            if registry.register(&mut stream, token, interest).is_ok() {
                let mut caller = Caller { stream, step: Step::Reads(Vec::new()), since: now };
                self.callers[at] = caller.goes_on().then_some(caller);
            }
        }
        let lines = self.callers.iter_mut().enumerate();
        lines.filter_map(|(at, place)| Some((CallerId(at), place.as_mut()?.take_line()?))).next()
    }

    /// Sends the answer, which must be one line.
    pub fn answer(&mut self, to: CallerId, mut line: Vec<u8>, now: Instant) {
        let Some(place) = self.callers.get_mut(to.0) else { return };
        line.push(b'\n');
        if let Some(caller) = place {
            (caller.step, caller.since) = (Step::Writes(line), now);
            if !caller.goes_on() {
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
    /// Reads or writes what the socket has or takes. False if the caller is done, gone, or sends too much.
    fn goes_on(&mut self) -> bool {
        match &mut self.step {
            Step::Waits => true,
            Step::Reads(line) => {
                let left = (MOST_BYTES - line.len()) as u64;
                let read = (&mut self.stream).take(left).read_to_end(line);
                let is_whole = line.contains(&b'\n');
                // Behind the line the caller says nothing more.
                is_whole || matches!(read, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Step::Writes(rest) => loop {
                match self.stream.write(rest) {
                    Ok(count) if count > 0 => drop(rest.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => break error.kind() == io::ErrorKind::WouldBlock,
                    Ok(_) => break false,
                }
            },
        }
    }

    fn has_line(&self) -> bool {
        matches!(&self.step, Step::Reads(line) if line.contains(&b'\n'))
    }

    fn take_line(&mut self) -> Option<Vec<u8>> {
        let Step::Reads(line) = &mut self.step else { return None };
        let end = line.iter().position(|&byte| byte == b'\n')?;
        let mut line = std::mem::take(line);
        line.truncate(end);
        self.step = Step::Waits;
        Some(line)
    }
}

/// Sends a line to the process whose control socket is at `path`; returns its answer.
///
/// # Errors
/// There is no answer; the text says what to do.
pub fn ask(path: &Path, line: &str) -> io::Result<String> {
    let explain = |error: io::Error| {
        let advice = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ": no appliance of this version is running with this control socket"
            }
            io::ErrorKind::PermissionDenied => ": ask as root, or as the user it runs as",
            io::ErrorKind::WouldBlock => ": it does not answer; its log may say why",
            _ => "",
        };
        io::Error::new(error.kind(), format!("cannot ask {}{advice} ({error})", path.display()))
    };
    let mut stream = StdStream::connect(path).map_err(explain)?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    stream.set_write_timeout(Some(ANSWERED_WITHIN))?;
    stream.write_all(format!("{line}\n").as_bytes()).map_err(explain)?;
    let mut text = String::new();
    stream.take(MOST_BYTES as u64).read_to_string(&mut text).map_err(explain)?;
    match text.ends_with('\n') {
        true => Ok(text),
        false => Err(explain(io::Error::new(io::ErrorKind::UnexpectedEof, "the answer ends early"))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use mio::Poll;

    use super::*;

    const OWNER: Owner = Owner { mode: 0o600, on_denied: "", on_in_use: "", option: "" };

    struct Bench {
        path: PathBuf,
        poll: Poll,
        socket: RequestSocket,
        start: Instant,
        _directory: tempfile::TempDir,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let (path, poll) = (directory.path().join("a.ctl"), Poll::new().unwrap());
            let socket = RequestSocket::open(&path, &OWNER, poll.registry(), 1).unwrap();
            Self { path, poll, socket, start: Instant::now(), _directory: directory }
        }

        fn connect(&self) -> StdStream {
            StdStream::connect(&self.path).unwrap()
        }

        fn poll(&mut self, now: Instant) -> Option<(CallerId, Vec<u8>)> {
            self.socket.poll_request(self.poll.registry(), now)
        }

        fn callers(&self) -> usize {
            self.socket.callers.iter().flatten().count()
        }
    }

    #[test]
    fn a_line_is_answered_however_it_comes_and_only_by_its_owner() {
        let mut bench = Bench::new();
        assert_eq!(std::fs::metadata(&bench.path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut caller = bench.connect();
        for piece in ["{\"a\"", ": 1", "}"] {
            caller.write_all(piece.as_bytes()).unwrap();
            assert_eq!(bench.poll(bench.start), None, "the line has no end yet");
        }
        caller.write_all(b"\nmore").unwrap();
        let (id, line) = bench.poll(bench.start).unwrap();
        assert_eq!(line, b"{\"a\": 1}");
        assert_eq!(bench.poll(bench.start), None, "each line once");
        bench.socket.answer(id, b"yes".to_vec(), bench.start);
        assert_eq!(bench.poll(bench.start), None);
        let mut answer = [0; 4];
        caller.read_exact(&mut answer).unwrap();
        assert_eq!((&answer, bench.callers()), (b"yes\n", 0));
        let path = bench.path.clone();
        drop(bench);
        assert!(!path.exists());
    }

    #[test]
    fn callers_that_are_slow_or_say_too_much_lose_their_places() {
        let mut bench = Bench::new();
        let (start, late) = (bench.start, bench.start + PATIENCE);
        let silent: Vec<_> = (0..CALLERS).map(|_| bench.connect()).collect();
        assert_eq!(bench.poll(start), None);
        let mut behind = bench.connect();
        behind.write_all(b"hello\n").unwrap();
        assert_eq!((bench.poll(start), bench.callers()), (None, CALLERS), "it waits for a place");
        assert_eq!(bench.socket.poll_timeout(), Some(late));
        let (id, line) = bench.poll(late).unwrap();
        assert_eq!((line.as_slice(), bench.callers()), (&b"hello"[..], 1));
        // One that does not read a long answer goes as well.
        bench.socket.answer(id, vec![b'x'; 4_000_000], late);
        assert_eq!((bench.poll(late), bench.callers()), (None, 1));
        assert_eq!((bench.poll(late + PATIENCE), bench.callers()), (None, 0));
        drop((silent, behind));
        // Two came in one turn, and the first held the process up: the second has said all it has to say.
        let mut both = [bench.connect(), bench.connect()];
        both.iter_mut().for_each(|caller| caller.write_all(b"hello\n").unwrap());
        let (first, _) = bench.poll(late).unwrap();
        bench.socket.answer(first, b"yes".to_vec(), late + PATIENCE * 2);
        let (second, _) = bench.poll(late + PATIENCE * 2).unwrap();
        bench.socket.answer(second, b"yes".to_vec(), late + PATIENCE * 2);
        assert_eq!((bench.poll(late + PATIENCE * 2), bench.callers()), (None, 0));

        let mut endless = bench.connect();
        endless.set_nonblocking(true).unwrap();
        let mut written = 0;
        loop {
            match endless.write(&[b'x'; 65536]) {
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
            assert_eq!(bench.poll(late), None);
            assert!(written < 2 * MOST_BYTES, "the line is not bounded");
        }
        assert_eq!(bench.callers(), 0);
        let gone = bench.connect();
        drop(gone);
        assert_eq!((bench.poll(late), bench.callers()), (None, 0), "it has said nothing");
    }
}
