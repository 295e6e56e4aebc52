//! The event loop of a gate process: sockets, connections, the subscription and the status socket on one thread.
//!
//! A turn: wait; read the appliance's notifications and release what they cover; move the bytes of connections that are
//! ready; do what is due. The clock is read once per turn. The loop knows no protocol and decides nothing about marks.
//! `admission` decides which callers are accepted, and when the gate connects to the server for them; `service` when the loop
//! wakes, and what the service manager is told. `reload` follows a file that was read again, `report` says what the gates do.

mod admission;
mod monitoring;
mod reload;
mod report;
mod service;
mod stop;

pub use stop::Stop;

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token, Waker};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use service::Service;

use super::arrival::Arrival;
use super::connection::{Connection, Scratch};
use super::dialect::Side;
use super::kinds::{self, FirstSender};
use super::listener::{GateListener, ListeningSocket, Make, Settings};
use super::prepared::Prepared;
use super::run_queue::RunQueue;
use super::status::{ConnectionStatus, Status, Totals};
use super::subscription::Subscription;
use super::violation_log::ViolationLog;
use crate::config::gate::{Gate, Gates};
use crate::config::reload::Reloads;
use crate::io::status_socket::{CALLERS, Owner, StatusSocket};
use crate::metrics::port::MetricsPort;

const WAKER: Token = Token(0);
const SUBSCRIPTION: Token = Token(1);
const STATUS: usize = 2;
/// The first token of the listening sockets.
const LISTENERS: usize = STATUS + CALLERS + 1;
/// Only the user that runs the gate may ask.
const OWNER: Owner = Owner {
    mode: 0o600,
    on_denied: ": choose a path that this user may write, with --status",
    on_in_use: ": another gate with this status socket is running; stop it, or choose another path with --status",
    option: "with --status",
};
/// The first token of the legs; a connection has two.
const LEGS: usize = 1 << 16;
/// How often all connections are checked when no event comes.
const TICK: Duration = Duration::from_millis(250);
/// How long connections may take to deliver what the gate holds when the process is asked to stop.
const STOP_LINGER: Duration = Duration::from_secs(1);

/// Chooses the side that connects to a gate, and its dialect.
type Dialects = Box<dyn Fn(&Gate) -> (Side, Make) + Send>;

/// A caller of a gate, and what it came with.
struct Slot {
    /// The number of its listener.
    listener: usize,
    settings: Arc<Settings>,
    occupant: Occupant,
}

enum Occupant {
    /// It has sent nothing yet.
    Arrival(Arrival),
    /// The gate has connected to the server for it, or is connecting.
    Connection(Box<Connection>),
}

/// All gates of a process. Its owner calls [`start`](Self::start) and then [`run`](Self::run), which returns when the
/// process ends; other threads use [`Stop`].
///
/// `run` works in one order, and new code has to keep it:
///
/// * **Inputs**: `on_event` is called for each event of the poll. It only notes what is ready; `on_wake` and
///   `on_callers` answer requests of programs at once.
/// * **The turn**, after all events: first the subscription, because a new notification may withdraw protection; then
///   losses (`on_violations`); then `release` for each connection with waiting marks, because commits wait for that;
///   then a reload; then `accept`; then `pump`, followed by `release`, for each connection that is ready; then what is due: the tick,
///   slow callers of the status socket, deadlines. `turn` returns whether there is more to do at once.
/// * **`settle`** follows every action on a connection. It removes a connection that is over. For any other it notes in
///   the run queue whether marks wait and when the connection is due. A connection that is not settled keeps its slot
///   and its old deadline, and its new marks wait for the next event.
/// * **The timer**: `timeout`, called when no turn has more to do. **Queries**: `addresses`, `status`.
///
/// [`Connection`] has the same kinds of methods: after `pump`, `release` and `on_tick`, `settle` calls `is_over`,
/// `is_waiting` and `poll_timeout`; `poll_overdue` and `end` come last. What a dialect wants (its
/// [`Turn`](super::dialect::Turn)) is done before the dialect gets more bytes.
pub struct Proxy {
    poll: Poll,
    /// Those of the configuration, in its order, then those that only have connections.
    listeners: Vec<GateListener>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    run_queue: RunQueue,
    /// Some connection has noted marks, so that the tick is needed.
    replicates: bool,
    subscription: Subscription,
    status_socket: Option<StatusSocket>,
    metrics: Option<MetricsPort<Status>>,
    violation_log: ViolationLog,
    scratch: Scratch,
    stop: Stop,
    stopping: Option<Instant>,
    started: Instant,
    tick: Instant,
    next_number: u64,
    service: Service,
    next_listener: usize,
    dialects: Dialects,
    /// What the gates follow.
    config: Gates,
    reloads: Reloads,
    read: Receiver<stop::Read>,
    on_reloaded: fn(&Gates),
}

impl Occupant {
    fn counts(&self) -> Totals {
        match self {
            Occupant::Arrival(arrival) => arrival.counts(),
            Occupant::Connection(connection) => connection.counts(),
        }
    }

    fn status(&self, subscription: &Subscription, now: Instant) -> ConnectionStatus {
        match self {
            Occupant::Arrival(arrival) => arrival.status(now),
            Occupant::Connection(connection) => connection.status(subscription, now),
        }
    }
}

fn cannot_watch(error: io::Error) -> io::Error {
    let words = format!("cannot watch sockets and signals (`ulimit -n` shows how many files may be open): {error}");
    io::Error::new(error.kind(), words)
}

impl Proxy {
    /// Opens everything: from here on the kernel accepts callers.
    ///
    /// # Errors
    /// An address or a file cannot be used; the message names it and the remedy.
    pub fn start(config: &Gates) -> io::Result<Proxy> {
        Proxy::start_with(config, |gate| (kinds::listens_to(gate.kind), Box::new(kinds::dialect)))
    }

    /// As [`Proxy::start`], with other dialects than those of the gates' kinds: for tests, and for protocols of other
    /// projects.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub fn start_with(config: &Gates, dialects: impl Fn(&Gate) -> (Side, Make) + Send + 'static) -> io::Result<Proxy> {
        let now = Instant::now();
        let poll = Poll::new().map_err(cannot_watch)?;
        let (stop, read) = Stop::new(Waker::new(poll.registry(), WAKER).map_err(cannot_watch)?);
        let Prepared { gates: config, tls } =
            Prepared::new(config.clone()).map_err(|faults| io::Error::other(faults.join("\n")))?;
        let mut subscription =
            Subscription::open(config.notify.address, config.notify.key(), StdRng::from_os_rng().random(), now)?;
        poll.registry().register(subscription.socket(), SUBSCRIPTION, Interest::READABLE).map_err(cannot_watch)?;
        let mut listeners = Vec::new();
        for ((number, gate), tls) in config.gates.iter().enumerate().zip(tls) {
            let socket = ListeningSocket::open(gate, poll.registry(), Token(LISTENERS + number))?;
            let (caller, make) = dialects(gate);
            let settings = Settings { gate: Arc::new(gate.clone()), tls, caller, make };
            listeners.push(GateListener::new(number, Arc::new(settings), Some(socket)));
        }
        let status_socket =
            config.status.as_ref().map(|path| StatusSocket::open(path, &OWNER, poll.registry(), STATUS)).transpose()?;
        let metrics = config.metrics.map(|metrics| monitoring::open(metrics, &stop)).transpose()?;
        Ok(Proxy {
            poll,
            next_listener: listeners.len(),
            listeners,
            slots: Vec::new(),
            free: Vec::new(),
            run_queue: RunQueue::default(),
            replicates: false,
            subscription,
            status_socket,
            metrics,
            violation_log: ViolationLog::default(),
            scratch: Scratch::default(),
            stop,
            stopping: None,
            started: now,
            tick: now + TICK,
            next_number: 1,
            service: Service::default(),
            dialects: Box::new(dialects),
            reloads: Reloads::new(config.file.clone()),
            config,
            read,
            on_reloaded: |_| {},
        })
    }

    /// What to call with the configuration that a reload has taken over.
    pub fn on_reloaded(self, on_reloaded: fn(&Gates)) -> Proxy {
        Proxy { on_reloaded, ..self }
    }

    /// The handle that stops it.
    pub fn stopper(&self) -> Stop {
        self.stop.clone()
    }

    /// The addresses on which the gates listen, in the order of the configuration.
    ///
    /// # Errors
    /// The kernel does not return an address.
    pub fn addresses(&self) -> io::Result<Vec<std::net::SocketAddr>> {
        let sockets = self.listeners.iter().filter_map(|listener| listener.socket.as_ref());
        sockets.map(|listening| listening.socket.local_addr()).collect()
    }

    /// Serves until it is asked to stop. Returns the last status.
    ///
    /// # Errors
    /// The kernel refuses to wait for events.
    pub fn run(mut self) -> io::Result<Status> {
        self.listeners.iter().for_each(GateListener::announce);
        self.tell_ready();
        let mut events = Events::with_capacity(1024);
        let mut more = false;
        loop {
            let wait = if more { Duration::ZERO } else { self.timeout() };
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            let now = Instant::now();
            for event in &events {
                self.on_event(event, now);
            }
            more = self.turn(now);
            self.tell_service(now);
            if self.stopping.is_some() && self.slots.iter().all(Option::is_none) {
                return Ok(self.status(now));
            }
        }
    }

    fn on_event(&mut self, event: &Event, now: Instant) {
        match event.token() {
            WAKER => self.on_wake(now),
            SUBSCRIPTION => self.subscription.on_ready(),
            token if token.0 >= LEGS => {
                let at = (token.0 - LEGS) / 2;
                match self.slots.get_mut(at) {
                    Some(Some(Slot { occupant: Occupant::Arrival(arrival), .. })) => arrival.leg().on_event(event),
                    Some(Some(Slot { occupant: Occupant::Connection(it), .. })) => {
                        it.leg(token.0 % 2 == 0).on_event(event);
                    }
                    _ => return,
                }
                self.run_queue.on_ready(at);
            }
            token if token.0 >= LISTENERS => {
                let is_it = |it: &&mut GateListener| it.socket.as_ref().is_some_and(|socket| socket.token == token);
                self.listeners.iter_mut().filter(is_it).for_each(|listener| listener.ready = true);
            }
            _ => self.on_callers(now),
        }
    }

    fn on_wake(&mut self, now: Instant) {
        if self.stop.poll_report() {
            let text = serde_json::to_string(&self.status(now)).expect("a status is plain values");
            tracing::info!("status {text}");
        }
        if self.stop.is_asked_to_stop() && self.stopping.is_none() {
            self.stopping = Some(now);
            self.service.stopping(STOP_LINGER);
            for listener in &mut self.listeners {
                listener.socket = None;
            }
            for at in 0..self.slots.len() {
                match self.slots.get_mut(at) {
                    Some(Some(Slot { occupant: Occupant::Connection(connection), .. })) => {
                        connection.end_by(now + STOP_LINGER);
                        self.run_queue.on_ready(at);
                    }
                    Some(Some(Slot { occupant: Occupant::Arrival(_), .. })) => self.drop_arrival(at),
                    _ => {}
                }
            }
        }
    }

    /// One turn; true when there is more to do at once.
    fn turn(&mut self, now: Instant) -> bool {
        // First what commits wait for.
        let mut more = self.subscription.turn(now);
        self.on_violations(now);
        for at in self.run_queue.waiting() {
            self.release(at, now);
        }
        self.poll_reload(now);
        for at in 0..self.listeners.len() {
            more |= self.accept(at, now);
        }
        for at in self.run_queue.poll_ready() {
            match self.slots.get_mut(at) {
                Some(Some(Slot { occupant: Occupant::Connection(connection), .. })) => {
                    if connection.pump(&mut self.scratch, &mut self.subscription, now) {
                        self.run_queue.on_ready(at);
                    }
                    self.release(at, now);
                }
                _ => self.settle(at, now),
            }
        }
        if now >= self.tick {
            (self.tick, self.replicates) = (now + TICK, false);
            for at in 0..self.slots.len() {
                if let Some(Some(Slot { occupant: Occupant::Connection(connection), .. })) = self.slots.get_mut(at) {
                    connection.on_tick(&mut self.subscription, now);
                    if let Some(range) = connection.poll_unreported_loss(&self.subscription) {
                        connection.on_violation(&range, &mut self.violation_log);
                    }
                }
                self.settle(at, now);
            }
        }
        if self.status_socket.as_ref().and_then(StatusSocket::poll_timeout).is_some_and(|at| at <= now) {
            self.on_callers(now);
        }
        for at in self.run_queue.overdue(now) {
            self.settle(at, now);
        }
        for listener in &mut self.listeners {
            if let Some(message) = listener.probes.poll_end(now) {
                tracing::info!(gate = %listener.settings.gate.name, "{message}");
            }
        }
        self.drop_drained();
        self.answer_metrics(now);
        more || self.run_queue.has_ready()
    }

    /// Counts and logs what was lost after it had been called protected.
    fn on_violations(&mut self, now: Instant) {
        let mut lost = HashMap::<u64, Vec<Range<u64>>>::new();
        while let Some((number, range)) = self.subscription.poll_violation() {
            lost.entry(number).or_default().push(range);
        }
        if !lost.is_empty() {
            for slot in self.slots.iter_mut().flatten() {
                if let Occupant::Connection(connection) = &mut slot.occupant {
                    let ranges = lost.remove(&connection.number()).unwrap_or_default();
                    ranges.iter().for_each(|range| connection.on_violation(range, &mut self.violation_log));
                }
            }
        }
        self.violation_log.flush(now);
    }

    fn release(&mut self, at: usize, now: Instant) {
        let Some(Some(Slot { occupant: Occupant::Connection(connection), .. })) = self.slots.get_mut(at) else {
            return;
        };
        if connection.is_waiting() && connection.release(&mut self.scratch, &mut self.subscription, now) {
            // The connection may now do what it held back.
            self.run_queue.on_ready(at);
        }
        self.settle(at, now);
    }

    /// Follows every action on a caller: removes the caller if it is over, else notes when to look at it again.
    fn settle(&mut self, at: usize, now: Instant) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        let over = match slot {
            Some(Slot { occupant: Occupant::Arrival(_), .. }) => return self.look_at_arrival(at, now),
            Some(Slot { occupant: Occupant::Connection(connection), .. }) if !connection.is_over(now) => {
                self.replicates |= connection.replicates();
                return self.run_queue.on_state(at, connection.is_waiting(), connection.poll_timeout());
            }
            slot => slot.take(),
        };
        let Some(Slot { listener, settings, occupant: Occupant::Connection(mut connection) }) = over else { return };
        let overdue = connection.poll_overdue(now);
        let mute = connection.silent_caller();
        for is_caller in [true, false] {
            // Closing the socket also removes it from the poll.
            let _ = self.poll.registry().deregister(connection.leg(is_caller).stream());
        }
        let (key, counts) = connection.end();
        if let Some(key) = key {
            self.subscription.unwatch(&key);
        }
        self.forget(at, listener, &counts);
        let Some(listener) = numbered(&mut self.listeners, listener) else { return };
        let gate = &settings.gate;
        if let Some(message) = overdue {
            listener.warn(now, &message);
        } else if let Some(client) = mute.filter(|_| kinds::first_sender(gate.kind) == FirstSender::Server) {
            listener.totals.probes += 1;
            if let Some(message) = listener.probes.on_late_probe(client, gate.upstream, now) {
                tracing::warn!(gate = %gate.name, "{message}");
            }
        }
    }

    /// Frees the slot.
    fn forget(&mut self, at: usize, listener: usize, counts: &Totals) {
        self.run_queue.forget(at);
        self.free.push(at);
        if let Some(listener) = numbered(&mut self.listeners, listener) {
            listener.connections -= 1;
            listener.totals.add(counts);
        }
    }
}

/// The listener with this number.
fn numbered(listeners: &mut [GateListener], number: usize) -> Option<&mut GateListener> {
    listeners.iter_mut().find(|listener| listener.number == number)
}
