//! The metrics port: a thread of its own that answers HTTP requests for metrics, health and status.
//!
//! It asks its owner for a status and never waits for anything else: the owner sees [`MetricsPort::is_asked`] in its turn and
//! hands over a copy with [`MetricsPort::answer`], which the thread turns into text. A copy serves all requests of half a second, so
//! that no number of callers costs the owner more than two a second. Without an answer in time the requests fail.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token, Waker};
use serde::Serialize;

use super::family::{Family, Format};
use crate::io::cpu;
use crate::io::http::{self, Answer, CallerId, HttpServer, Request};
use crate::io::restriction::without_privileges;

/// What names the address: the key of both kinds of files, or the option of gates.
const KEY: &str = "`metrics.listen` (or --metrics)";
/// For how long a copy serves requests.
const FRESH: Duration = Duration::from_millis(500);
/// How long the owner may take to answer. An appliance waits 500 ms for its lanes.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// Descriptors that a port has open at most.
pub const DESCRIPTORS: u64 = http::CALLERS as u64 + 4;

const WAKER: Token = Token(0);
const SERVER: usize = 1;

const METRICS: &str = "/metrics";
const HEALTH: &str = "/healthz";
const STATUS: &str = "/status.json";

/// How a status becomes what callers read.
#[derive(Debug)]
pub struct Pages<S> {
    /// Its metrics.
    pub metrics: fn(&S) -> Vec<Family>,
    /// What is degraded, a few words each; empty if nothing is.
    pub degraded: fn(&S) -> Vec<String>,
}

/// The owner's end: dropping it closes the port and ends the thread.
#[derive(Debug)]
pub struct MetricsPort<S> {
    address: SocketAddr,
    shared: Arc<Shared>,
    statuses: SyncSender<S>,
    thread: Option<JoinHandle<()>>,
}

/// What the two threads share.
#[derive(Debug)]
struct Shared {
    is_asked: AtomicBool,
    stops: AtomicBool,
    waker: Waker,
}

impl<S: Serialize + Send + 'static> MetricsPort<S> {
    /// Listens at the address and starts the thread, which has no privilege and opens no file. `wake_owner` makes the owner look
    /// whether it is asked.
    ///
    /// # Errors
    /// The address cannot be used, or there is no descriptor or thread left; the text says what to do.
    pub fn open(address: SocketAddr, pages: Pages<S>, wake_owner: impl Fn() + Send + 'static) -> io::Result<Self> {
        let listener = http::listen(address, KEY)?;
        let address = listener.local_addr()?;
        let poll = Poll::new()?;
        let server = HttpServer::new(listener, poll.registry(), SERVER)?;
        let waker = Waker::new(poll.registry(), WAKER)?;
        let shared = Arc::new(Shared { is_asked: AtomicBool::default(), stops: AtomicBool::default(), waker });
        let (statuses, received) = sync_channel(1);
        let service = Service {
            poll,
            server,
            shared: Arc::clone(&shared),
            received,
            pages,
            wake_owner: Box::new(wake_owner),
            asked_at: None,
            waiting: Vec::new(),
            copy: None,
        };
        let thread = without_privileges(|| {
            thread::Builder::new().name("metrics".to_owned()).spawn(move || {
                cpu::give_way();
                service.run();
            })
        })?;
        Ok(Self { address, shared, statuses, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether a status is wanted: then call [`answer`](Self::answer).
    pub fn is_asked(&self) -> bool {
        self.shared.is_asked.swap(false, Ordering::AcqRel)
    }

    /// Hands over a status.
    pub fn answer(&self, status: S) {
        // A status that waits already is about as new; a thread that is gone wants none.
        let _ = self.statuses.try_send(status);
        let _ = self.shared.waker.wake();
    }
}

impl<S> Drop for MetricsPort<S> {
    fn drop(&mut self) {
        self.shared.stops.store(true, Ordering::Release);
        let _ = self.shared.waker.wake();
        if let Some(thread) = self.thread.take() {
            // It waits for nothing but its poll. The port is free for another when it has ended.
            let _ = thread.join();
        }
    }
}

/// The thread's end.
struct Service<S> {
    poll: Poll,
    server: HttpServer,
    shared: Arc<Shared>,
    received: Receiver<S>,
    pages: Pages<S>,
    wake_owner: Box<dyn Fn() + Send>,
    /// When the owner was asked for what has not come yet.
    asked_at: Option<Instant>,
    waiting: Vec<(CallerId, Request)>,
    copy: Option<StatusCopy<S>>,
}

/// A status, and the answers that were made of it.
struct StatusCopy<S> {
    status: S,
    came_at: Instant,
    answers: Vec<Made>,
}

/// An answer that was made: to what, whether without a body, and its bytes.
type Made = (Page, bool, Arc<[u8]>);

/// What a caller wants to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    Metrics(Format),
    Health,
    Status,
}

impl Page {
    fn of(request: &Request) -> Option<Self> {
        match &*request.path {
            METRICS => Some(Self::Metrics(Format::accepted(&request.accept))),
            HEALTH => Some(Self::Health),
            STATUS => Some(Self::Status),
            _ => None,
        }
    }
}

impl<S: Serialize> Service<S> {
    fn run(mut self) {
        let mut events = Events::with_capacity(http::CALLERS);
        loop {
            let now = Instant::now();
            let timeout = self.poll_timeout().map(|at| at.saturating_duration_since(now));
            match self.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return tracing::error!("the metrics port has ended: cannot wait for callers: {error}"),
                Ok(()) => {}
            }
            if self.shared.stops.load(Ordering::Acquire) {
                return;
            }
            let now = Instant::now();
            events.iter().for_each(|event| self.server.handle_event(event.token(), now));
            self.server.handle_timeout(self.poll.registry(), now);
            self.turn(now);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let late = self.asked_at.filter(|_| !self.waiting.is_empty()).map(|at| at + ANSWERED_WITHIN);
        [late, self.server.poll_timeout()].into_iter().flatten().min()
    }

    fn turn(&mut self, now: Instant) {
        while let Ok(status) = self.received.try_recv() {
            self.copy = Some(StatusCopy { status, came_at: now, answers: Vec::new() });
            self.asked_at = None;
        }
        while let Some((caller, request)) = self.server.poll_request() {
            match Page::of(&request) {
                Some(_) => self.waiting.push((caller, request)),
                None => {
                    let answer = Answer::not_found(&format!("{METRICS}, {HEALTH} or {STATUS}"));
                    self.server.answer(caller, answer.to_bytes(request.is_head).into(), now);
                }
            }
        }
        if self.waiting.is_empty() {
            return;
        }
        if let Some(copy) = self.copy.as_mut().filter(|copy| now < copy.came_at + FRESH) {
            for (caller, request) in self.waiting.drain(..) {
                let bytes = copy.answer(&request, &self.pages);
                self.server.answer(caller, bytes, now);
            }
            return;
        }
        self.copy = None;
        match self.asked_at {
            None => {
                self.asked_at = Some(now);
                self.shared.is_asked.store(true, Ordering::Release);
                (self.wake_owner)();
            }
            Some(at) if at + ANSWERED_WITHIN <= now => {
                self.asked_at = None;
                let answer = Answer::unavailable("no status came within 2 s: the process is busy, or stands still");
                for (caller, request) in self.waiting.drain(..) {
                    self.server.answer(caller, answer.to_bytes(request.is_head).into(), now);
                }
            }
            Some(_) => {}
        }
    }
}

impl<S: Serialize> StatusCopy<S> {
    fn answer(&mut self, request: &Request, pages: &Pages<S>) -> Arc<[u8]> {
        let Some(wanted) = Page::of(request) else { return Arc::default() };
        let is_head = request.is_head;
        if let Some((.., bytes)) = self.answers.iter().find(|(made, of_head, _)| (*made, *of_head) == (wanted, is_head))
        {
            return Arc::clone(bytes);
        }
        let bytes: Arc<[u8]> = page(wanted, &self.status, pages).to_bytes(is_head).into();
        self.answers.push((wanted, is_head, Arc::clone(&bytes)));
        bytes
    }
}

fn page<S: Serialize>(page: Page, status: &S, pages: &Pages<S>) -> Answer {
    match page {
        Page::Metrics(format) => Answer::document(format.content_type(), format.text((pages.metrics)(status))),
        Page::Health => match (pages.degraded)(status) {
            degraded if degraded.is_empty() => Answer::document("text/plain; charset=utf-8", "ok\n".to_owned()),
            degraded => Answer::unavailable(&degraded.join("; ")),
        },
        Page::Status => {
            let text = serde_json::to_string_pretty(status).expect("a status is plain values");
            Answer::document("application/json", text + "\n")
        }
    }
}

#[cfg(test)]
mod tests;
