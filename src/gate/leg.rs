//! One socket of a connection, with the bytes that wait to be written to it.
//!
//! A leg counts the stream it sends, as the socket carries it: `offset` is the end of all bytes given to the leg,
//! `written` the end of the bytes the kernel has taken. TLS may start in the middle. A leg does not know what the bytes
//! mean, and does not bound its memory: its user checks [`Leg::has_room`].

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use rustix::net::sockopt;

use super::tls::Session;

/// When this many bytes wait, nothing more is read for the leg.
pub const HIGH: usize = 256 * 1024;
/// Memory kept for the next bytes.
const KEPT: usize = 64 * 1024;
/// A far end that has gone silently is noticed after about a minute.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(30), Duration::from_secs(10), 3);

/// The result of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum ReadOutcome<'a> {
    /// Plain text, may be empty; and whether these bytes completed the TLS handshake.
    Bytes(&'a [u8], bool),
    /// Nothing for now.
    Nothing,
    /// The far end sends nothing more.
    End,
}

/// The result of [`Leg::peek`], which takes nothing from the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peeked {
    /// Bytes have arrived.
    Bytes,
    /// Nothing for now.
    Nothing,
    /// The far end has gone, or has ended its stream.
    End,
}

/// One socket.
#[derive(Debug)]
pub struct Leg {
    stream: TcpStream,
    connected: bool,
    readable: bool,
    writable: bool,
    out: Vec<u8>,
    /// Bytes of `out` that the kernel has taken.
    head: usize,
    offset: u64,
    received: u64,
    /// The far end sends nothing more.
    ended: bool,
    /// Our end of the stream follows after the bytes that wait.
    finishing: bool,
    finished: bool,
    /// The kernel reports that the connection is lost: reset, or given up because the far end does not answer.
    broken: bool,
    failed: Option<String>,
    tls: Option<Box<Session>>,
}

impl Leg {
    /// A connection that a caller made to us.
    pub fn accepted(stream: TcpStream) -> Leg {
        let leg = Leg::new(stream, true);
        leg.tune();
        leg
    }

    /// Starts to connect.
    ///
    /// # Errors
    /// The kernel refuses at once.
    pub fn connecting(to: SocketAddr) -> io::Result<Leg> {
        Ok(Leg::new(TcpStream::connect(to)?, false))
    }

    fn new(stream: TcpStream, connected: bool) -> Leg {
        Leg {
            stream,
            connected,
            readable: false,
            writable: false,
            out: Vec::new(),
            head: 0,
            offset: 0,
            received: 0,
            ended: false,
            finishing: false,
            finished: false,
            broken: false,
            failed: None,
            tls: None,
        }
    }

    /// Sets options of the socket. The connection also works without them, but is slower or is kept too long.
    fn tune(&self) {
        let (idle, interval, count) = KEEPALIVE;
        let tuned = self.stream.set_nodelay(true).and_then(|()| {
            sockopt::set_socket_keepalive(&self.stream, true)?;
            sockopt::set_tcp_keepidle(&self.stream, idle)?;
            sockopt::set_tcp_keepintvl(&self.stream, interval)?;
            Ok(sockopt::set_tcp_keepcnt(&self.stream, count)?)
        });
        if let Err(error) = tuned {
            tracing::debug!("cannot tune a socket: {error}");
        }
    }

    /// The socket, for a poll.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Our address and the far end's.
    pub fn addresses(&self) -> io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.stream.local_addr()?, self.stream.peer_addr()?))
    }

    /// The poll has reported an event.
    pub fn on_event(&mut self, event: &Event) {
        let failed = event.is_error();
        self.on_ready(
            failed || event.is_readable() || event.is_read_closed(),
            failed || event.is_writable() || event.is_write_closed(),
        );
        // The connection is lost. What came before can still be read; a read or a write will return the reason.
        self.broken |= failed;
    }

    /// The socket may be readable or writable.
    pub fn on_ready(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Whether the connection is established; this checks whether it has become so, or failed.
    ///
    /// # Errors
    /// The connection cannot be made; the error is the reason.
    pub fn poll_connected(&mut self) -> io::Result<bool> {
        if self.connected || !self.writable {
            return Ok(self.connected);
        }
        if let Some(error) = self.stream.take_error()? {
            return Err(error);
        }
        match self.stream.peer_addr() {
            Ok(_) => {
                self.connected = true;
                self.tune();
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.writable = false;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a read may find something.
    pub fn may_read(&self) -> bool {
        self.connected && self.readable && !self.ended
    }

    /// Checks whether something can be read, and leaves it in the socket.
    pub fn peek(&mut self) -> Peeked {
        while self.may_read() {
            match self.stream.peek(&mut [0]) {
                Ok(0) => return Peeked::End,
                Ok(_) => return Peeked::Bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Peeked::End,
            }
        }
        Peeked::Nothing
    }

    /// Reads at most `most` bytes (not 0) from the socket.
    pub fn read<'a>(&mut self, scratch: &'a mut [u8], plain: &'a mut Vec<u8>, most: usize) -> ReadOutcome<'a> {
        let most = most.min(scratch.len());
        let count = match self.stream.read(&mut scratch[..most]) {
            Ok(0) => {
                self.ended = true;
                return ReadOutcome::End;
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                return ReadOutcome::Nothing;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return ReadOutcome::Nothing,
            Err(error) => {
                self.fail(error.to_string());
                return ReadOutcome::End;
            }
        };
        self.received += count as u64;
        let Some(session) = &mut self.tls else {
            return ReadOutcome::Bytes(&scratch[..count], false);
        };
        plain.clear();
        let before = self.out.len();
        let result = session.receive(&scratch[..count], plain, &mut self.out);
        self.ended |= session.has_ended();
        self.offset += (self.out.len() - before) as u64;
        self.flush();
        match result {
            Ok(established) => ReadOutcome::Bytes(plain, established),
            Err(error) => {
                self.fail(error);
                ReadOutcome::End
            }
        }
    }

    /// Sends bytes, after all that were given before.
    pub fn send(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.finishing || self.failed.is_some() {
            return;
        }
        if let Some(session) = &mut self.tls {
            let before = self.out.len();
            session.send(bytes, &mut self.out);
            self.offset += (self.out.len() - before) as u64;
            return self.flush();
        }
        self.offset += bytes.len() as u64;
        // Nothing waits: what the kernel takes at once need not be copied.
        let taken = match self.pending() {
            0 if self.connected => write_now(&mut self.stream, &mut self.writable, bytes),
            _ => Ok(0),
        };
        match taken {
            Ok(taken) => self.out.extend_from_slice(&bytes[taken..]),
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// The offset after all bytes given, if it is known: plain text that waits for the TLS handshake has no offset yet.
    pub fn place(&self) -> Option<u64> {
        let known = self.tls.as_ref().is_none_or(|session| session.is_established());
        known.then_some(self.offset)
    }

    /// Everything from here on is TLS.
    pub fn start_tls(&mut self, mut session: Session) {
        if self.failed.is_some() {
            return;
        }
        let before = self.out.len();
        session.begin(&mut self.out);
        self.offset += (self.out.len() - before) as u64;
        self.tls = Some(Box::new(session));
        self.flush();
    }

    /// Whether TLS was started on it.
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether TLS was started on it and its handshake is not done.
    pub fn is_securing(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| !session.is_established())
    }

    /// Nothing more will be given: the stream ends after the bytes that wait.
    pub fn finish(&mut self) {
        if self.finishing || self.failed.is_some() {
            return;
        }
        if let Some(session) = &mut self.tls {
            let before = self.out.len();
            session.end(&mut self.out);
            self.offset += (self.out.len() - before) as u64;
        }
        self.finishing = true;
        self.flush();
    }

    /// Gives the kernel as many bytes as it takes.
    pub fn flush(&mut self) {
        if !self.connected || self.failed.is_some() {
            return;
        }
        match write_now(&mut self.stream, &mut self.writable, &self.out[self.head..]) {
            Ok(taken) => self.head += taken,
            Err(error) => return self.fail(error.to_string()),
        }
        if self.head == self.out.len() {
            self.out.clear();
            self.head = 0;
            self.out.shrink_to(KEPT);
        } else if self.head >= HIGH {
            self.out.drain(..self.head);
            self.head = 0;
        }
        if self.finishing && !self.finished && self.pending() == 0 {
            self.finished = true;
            // If it fails, the far end has gone already.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
    }

    /// The leg has failed: nothing more is read, and the bytes that wait are dropped.
    fn fail(&mut self, why: String) {
        self.failed.get_or_insert(why);
        self.ended = true;
        self.out = Vec::new();
        self.head = 0;
    }

    /// Bytes that wait for the kernel or for TLS; 0 if they will never leave.
    pub fn backlog(&self) -> usize {
        if self.failed.is_some() {
            return 0;
        }
        self.pending() + self.tls.as_ref().map_or(0, |session| session.backlog())
    }

    /// Whether more may be read for it.
    pub fn has_room(&self) -> bool {
        self.backlog() < HIGH
    }

    /// Bytes of the stream given to it so far.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of the stream that the kernel has taken; `None` if that is no longer known.
    pub fn written(&self) -> Option<u64> {
        self.failed.is_none().then(|| self.offset - self.pending() as u64)
    }

    /// Bytes received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Whether the far end sends nothing more.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether the kernel has taken all bytes and our end of the stream, or never will.
    pub fn is_done(&self) -> bool {
        self.finished || self.failed.is_some()
    }

    /// Whether its connection is lost, even if no read or write has failed yet.
    pub fn is_broken(&self) -> bool {
        self.broken || self.failed.is_some()
    }

    /// Why it failed.
    pub fn failure(&self) -> Option<&str> {
        self.failed.as_deref()
    }

    fn pending(&self) -> usize {
        self.out.len() - self.head
    }
}

/// Returns how many of these bytes the kernel takes; clears `writable` when it takes no more for now.
fn write_now(stream: &mut TcpStream, writable: &mut bool, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    while taken < bytes.len() && *writable {
        match stream.write(&bytes[taken..]) {
            Ok(0) => break,
            Ok(count) => taken += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => *writable = false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// A claim beyond the bytes written is about another connection, so bytes that wait here must not count as written.
    #[test]
    fn waiting_bytes_do_not_count_as_written_and_a_leg_with_many_has_no_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        near.set_nonblocking(true).unwrap();
        let (mut far, _) = listener.accept().unwrap();
        let mut leg = Leg::accepted(TcpStream::from_std(near));
        leg.on_ready(true, true);
        assert!(leg.has_room());
        let bytes = vec![7; 32 << 20];
        leg.send(&bytes);
        let waiting = leg.backlog();
        assert!(waiting > HIGH && !leg.has_room(), "the kernel takes less than that");
        assert_eq!((leg.offset(), leg.written()), (bytes.len() as u64, Some((bytes.len() - waiting) as u64)));
        let mut taken = vec![0; bytes.len() - waiting];
        far.read_exact(&mut taken).unwrap();
        assert!(taken.iter().all(|&byte| byte == 7));
    }
}
