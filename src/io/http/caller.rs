//! One caller of the HTTP server: it sends a head, waits, reads the answer, and goes. Each step has its time.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;

use super::request::{Head, MOST_BYTES, Request, parse};

/// How long a caller may take to send its head.
const HEAD_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to read the answer.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// How long it may take to close the connection after the answer. What it still sends is thrown away: closing before would
/// take the answer from it.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// The most that is thrown away.
const MOST_THROWN_AWAY: usize = 64 * 1024;

/// The connection, and how far it is.
#[derive(Debug)]
pub(super) struct Caller {
    stream: TcpStream,
    step: Step,
    since: Instant,
}

#[derive(Debug)]
enum Step {
    /// What has come of the head.
    Sends(Vec<u8>),
    /// The whole request, to be handed out.
    Asks(Request),
    /// The request was handed out.
    Waits,
    /// The answer, and how much of it is written.
    Reads(Arc<[u8]>, usize),
    /// It has everything; how much was thrown away since then.
    Closes(usize),
}

impl Caller {
    pub(super) fn new(stream: TcpStream, now: Instant) -> Self {
        Self { stream, step: Step::Sends(Vec::new()), since: now }
    }

    /// The request, once.
    pub(super) fn take_request(&mut self) -> Option<Request> {
        if !matches!(self.step, Step::Asks(_)) {
            return None;
        }
        match std::mem::replace(&mut self.step, Step::Waits) {
            Step::Asks(request) => Some(request),
            _ => None,
        }
    }

    /// Begins to send the answer.
    pub(super) fn answer(&mut self, bytes: Arc<[u8]>, now: Instant) {
        (self.step, self.since) = (Step::Reads(bytes, 0), now);
    }

    /// When it has been slow for too long. Whoever waits for an answer is not slow.
    pub(super) fn ends_at(&self) -> Option<Instant> {
        let patience = match self.step {
            Step::Sends(_) => HEAD_WITHIN,
            Step::Reads(..) => READ_WITHIN,
            Step::Closes(_) => CLOSED_WITHIN,
            Step::Asks(_) | Step::Waits => return None,
        };
        Some(self.since + patience)
    }

    /// Since when it keeps a place and wants nothing.
    pub(super) fn hangs_since(&self) -> Option<Instant> {
        matches!(self.step, Step::Sends(_) | Step::Closes(_)).then_some(self.since)
    }

    /// Reads or writes what the socket has or takes. False if the caller is done or gone.
    pub(super) fn goes_on(&mut self, now: Instant) -> bool {
        loop {
            let step = match &mut self.step {
                Step::Sends(head) => match read_head(&mut self.stream, head) {
                    Ok(Head::Partial) => return true,
                    Ok(Head::Whole(request)) => Step::Asks(request),
                    Ok(Head::Refused(answer)) => Step::Reads(answer.to_bytes(false).into(), 0),
                    Err(_) => return false,
                },
                Step::Asks(_) | Step::Waits => return true,
                Step::Reads(bytes, written) => match write(&mut self.stream, bytes, written) {
                    Ok(true) if self.stream.shutdown(Shutdown::Write).is_ok() => Step::Closes(0),
                    Ok(false) => return true,
                    Ok(true) | Err(_) => return false,
                },
                Step::Closes(thrown_away) => return throw_away(&mut self.stream, thrown_away),
            };
            (self.step, self.since) = (step, now);
        }
    }
}

/// Reads what has come of the head. An error if the caller has gone before its end.
fn read_head(stream: &mut TcpStream, head: &mut Vec<u8>) -> io::Result<Head> {
    let (mut bytes, mut looked_at) = ([0; 1024], head.len());
    loop {
        let room = bytes.len().min(MOST_BYTES - head.len());
        match stream.read(&mut bytes[..room]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => head.extend_from_slice(&bytes[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Head::Partial),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        }
        // The first bytes may already be something else than HTTP. After them, a head that comes byte by byte is not parsed for
        // each byte.
        let seen = std::mem::replace(&mut looked_at, head.len());
        if seen == 0 || head.len() == MOST_BYTES || has_empty_line(&head[seen.saturating_sub(3)..]) {
            match parse(head) {
                Head::Partial => {}
                whole => return Ok(whole),
            }
        }
    }
}

fn has_empty_line(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|two| two == b"\n\n") || bytes.windows(3).any(|three| three == b"\n\r\n")
}

/// Writes what the socket takes. True when everything is written.
fn write(stream: &mut TcpStream, bytes: &[u8], written: &mut usize) -> io::Result<bool> {
    while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
        match stream.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *written += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Throws away what the caller still sends. False when it has closed the connection, or sends too much.
fn throw_away(stream: &mut TcpStream, thrown_away: &mut usize) -> bool {
    let mut bytes = [0; 4096];
    while *thrown_away < MOST_THROWN_AWAY {
        match stream.read(&mut bytes) {
            Ok(count) if count > 0 => *thrown_away += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            _ => return false,
        }
    }
    false
}
