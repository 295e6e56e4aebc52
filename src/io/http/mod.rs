//! A small HTTP/1.1 server for a few documents that are read only: one request a connection, answered whole.
//!
//! It is a state machine around nonblocking sockets: its owner polls, calls [`HttpServer::handle_event`] and
//! [`HttpServer::handle_timeout`], then drains [`HttpServer::poll_request`] and gives each an answer. Callers, their heads and
//! their time are bounded. What the paths mean is the owner's business. There is no TLS and no authentication.

mod caller;
mod request;

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpListener;
use mio::{Interest, Registry, Token};

use caller::Caller;
pub use request::{Answer, Head, MOST_BYTES, Request, parse};

use super::explain;

/// Callers served at once; more wait in the backlog until a place is free.
pub const CALLERS: usize = 128;
/// When all places are taken, a caller that has said nothing whole for this long gives its place to the next.
const GIVES_WAY_AFTER: Duration = Duration::from_secs(1);
/// How long to accept no one after the system has refused, as when no descriptor is left.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// A caller that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerId(usize);

/// The listening socket, its callers, and what each of them wants.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    callers: Vec<Option<Caller>>,
    /// The token of the listener; those of callers follow it.
    first: usize,
    /// Callers may wait in the backlog.
    has_waiting: bool,
    /// The system refused to accept; not again before this.
    accept_at: Option<Instant>,
}

/// Opens a listening socket for a server.
///
/// # Errors
/// The address cannot be used; the text says for what it was wanted (`key`), and what to do.
pub fn listen(address: SocketAddr, key: &str) -> io::Result<StdListener> {
    let listener = StdListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    listener.map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("; another program listens there, or on all addresses: choose another in {key}")
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("; this host does not have that address: choose one of its own in {key}")
            }
            io::ErrorKind::PermissionDenied => format!("; ports below 1024 are for root: choose a higher one in {key}"),
            _ => String::new(),
        };
        explain(&error, format_args!("cannot listen on {address} for metrics{advice}"))
    })
}

impl HttpServer {
    /// Serves the callers of a listening socket. It takes the tokens from `first` to `first + CALLERS`.
    ///
    /// # Errors
    /// The poll does not take the socket.
    pub fn new(listener: StdListener, registry: &Registry, first: usize) -> io::Result<Self> {
        let mut listener = TcpListener::from_std(listener);
        registry.register(&mut listener, Token(first), Interest::READABLE)?;
        let callers = (0..CALLERS).map(|_| None).collect();
        Ok(Self { listener, callers, first, has_waiting: true, accept_at: None })
    }

    /// The poll has reported this token: goes on with its caller, or notes that there are new ones.
    pub fn handle_event(&mut self, token: Token, now: Instant) {
        match token.0.checked_sub(self.first) {
            Some(0) => self.has_waiting = true,
            Some(number) => self.go_on(number - 1, now),
            None => {}
        }
    }

    /// Once a turn, after the events: drops callers that are too slow, and accepts more.
    pub fn handle_timeout(&mut self, registry: &Registry, now: Instant) {
        for place in &mut self.callers {
            if place.as_ref().is_some_and(|caller| caller.ends_at().is_some_and(|at| at <= now)) {
                *place = None;
            }
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            (self.accept_at, self.has_waiting) = (None, true);
        }
        while self.has_waiting && self.accept_at.is_none() {
            let Some(at) = self.free_place(now) else { break };
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let (token, interest) = (Token(self.first + 1 + at), Interest::READABLE | Interest::WRITABLE);
                    if registry.register(&mut stream, token, interest).is_ok() {
                        self.callers[at] = Some(Caller::new(stream, now));
                        self.go_on(at, now);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.has_waiting = false,
                // The caller has gone already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.accept_at = Some(now + ACCEPT_AGAIN),
            }
        }
    }

    /// A place for the next caller: a free one, or that of the caller that has hung longest.
    fn free_place(&self, now: Instant) -> Option<usize> {
        let hanging = |caller: &Caller| caller.hangs_since().filter(|since| *since + GIVES_WAY_AFTER <= now);
        let oldest = || {
            let callers = self.callers.iter().enumerate();
            callers.filter_map(|(at, caller)| Some((hanging(caller.as_ref()?)?, at))).min().map(|(_, at)| at)
        };
        self.callers.iter().position(Option::is_none).or_else(oldest)
    }

    /// The next request. Give each an [`answer`](Self::answer).
    pub fn poll_request(&mut self) -> Option<(CallerId, Request)> {
        let callers = self.callers.iter_mut().enumerate();
        callers.filter_map(|(at, caller)| Some((CallerId(at), caller.as_mut()?.take_request()?))).next()
    }

    /// Sends these bytes, which other callers may share.
    pub fn answer(&mut self, to: CallerId, bytes: Arc<[u8]>, now: Instant) {
        if let Some(Some(caller)) = self.callers.get_mut(to.0) {
            caller.answer(bytes, now);
            self.go_on(to.0, now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do even if nothing happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let ends = self.callers.iter().flatten().filter_map(Caller::ends_at).min();
        // The first that hangs long enough gives its place to a caller in the backlog.
        let is_full = self.has_waiting && self.callers.iter().all(Option::is_some);
        let hanging = || self.callers.iter().flatten().filter_map(Caller::hangs_since).min();
        let gives_way = is_full.then(hanging).flatten().map(|since| since + GIVES_WAY_AFTER);
        [ends, gives_way, self.accept_at].into_iter().flatten().min()
    }

    fn go_on(&mut self, at: usize, now: Instant) {
        if let Some(Some(caller)) = self.callers.get_mut(at)
            && !caller.goes_on(now)
        {
            self.callers[at] = None;
        }
    }

    /// Callers that have a place.
    #[cfg(test)]
    pub(crate) fn callers(&self) -> usize {
        self.callers.iter().flatten().count()
    }
}

#[cfg(test)]
mod tests;
