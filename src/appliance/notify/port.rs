//! The notification port: its socket and the publisher. Lane 0 owns it and runs it in its turns.
//!
//! It combines what the lanes report about the same peer: a link is as good as on its worst lane, and a barrier is
//! answered when all lanes have answered. What is protected was decided in [`crate::protect`]. A barrier fails if it
//! covers nothing, or if packets for a peer are dropped because it has no session.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

use crate::appliance::notify::excess_log::ExcessLog;
use crate::appliance::notify::link_log::LinkLog;
use crate::appliance::notify::notification::{LaneNotification, block_message, flow_message, range_message};
use crate::appliance::notify::port_news::PortNews;
use crate::appliance::notify::violation_log::ViolationLog;
use crate::notify::envelope::KeyRing;
use crate::notify::message::{Level, LinkState, Peer, StateReason};
use crate::notify::publisher::{Asked, Counters, Limits, Publisher};
use crate::protect::Notification;

/// Requests read in one turn.
const READ_BUDGET: usize = 32;
/// Notifications sent in one turn.
const SEND_BUDGET: usize = 256;
/// A request is far shorter; a longer one is cut and refused.
const REQUEST_MAX: usize = 2048;

/// The values that make a port.
#[derive(Debug)]
pub struct NotifyPortSettings {
    /// Where requests come in.
    pub listen: SocketAddr,
    /// The keys of subscribers.
    pub keys: KeyRing,
    /// Names of the peers, by number.
    pub peers: Vec<String>,
    /// Lanes that publish through the port.
    pub lanes: usize,
    /// Random, of this run.
    pub epoch: u64,
    /// Random, of this run, and secret.
    pub secret: [u8; 32],
}

/// One peer, as each lane sees it.
#[derive(Debug)]
struct Link {
    name: String,
    lanes: Vec<(LinkState, StateReason)>,
    published: Option<(LinkState, StateReason)>,
    log: LinkLog,
    /// It is no peer any more: nothing is sent there, so it says nothing about what is.
    is_removed: bool,
}

impl Link {
    fn new(name: String, lanes: usize) -> Self {
        let unknown = (LinkState::Down, StateReason::NoSession);
        Self { name, lanes: vec![unknown; lanes], published: None, log: LinkLog::default(), is_removed: false }
    }

    fn is_down(&self) -> bool {
        !self.is_removed && self.lanes.iter().any(|(state, _)| *state == LinkState::Down)
    }
}

/// What of a port can change while it runs.
#[derive(Clone, Debug)]
pub struct NotifyPortChanges {
    /// The keys of subscribers.
    pub keys: KeyRing,
    /// The peers by number: their names, and whether they are peers no more. At least as many as before.
    pub peers: Vec<(String, bool)>,
}

/// Who answers a barrier: a lane, for one of its peers, both by number.
pub type Answerer = (u8, u32);

/// A barrier that lanes still have to answer. While a configuration changes, lanes know different peers: only the answers count
/// that were missing when it began.
#[derive(Debug)]
struct Barrier {
    id: u64,
    missing: Vec<Answerer>,
    level: Level,
}

/// The publisher and its socket.
#[derive(Debug)]
pub struct NotifyPort {
    socket: UdpSocket,
    listen: SocketAddr,
    publisher: Publisher,
    links: Vec<Link>,
    barriers: Vec<Barrier>,
    /// `None` where nobody takes them.
    news: Option<PortNews>,
    violation_log: ViolationLog,
    excess_log: ExcessLog,
    buffer: Box<[u8; REQUEST_MAX]>,
    /// Requests may wait in the socket, which is edge-triggered.
    readable: bool,
    /// Something may wait to be sent.
    pending: bool,
}

impl NotifyPort {
    /// Opens the port.
    pub fn open(settings: NotifyPortSettings, now: Instant) -> io::Result<Self> {
        let words = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    ": the port is in use; `ss -lunp` says by whom: stop that program or choose another port in \
                     `notify.listen`"
                }
                io::ErrorKind::AddrNotAvailable => {
                    ": no interface of this host has this address; `ip address` lists them: correct `notify.listen`"
                }
                _ => "",
            };
            io::Error::new(
                error.kind(),
                format!("cannot open the notification port {}{advice} ({error})", settings.listen),
            )
        };
        let socket = UdpSocket::bind(settings.listen).map_err(words)?;
        socket.set_nonblocking(true).map_err(words)?;
        let listen = socket.local_addr().map_err(words)?;
        let links = settings.peers.into_iter().map(|name| Link::new(name, settings.lanes));
        let mut port = Self {
            socket,
            listen,
            publisher: Publisher::new(settings.keys, Limits::default(), settings.epoch, &settings.secret, now),
            links: links.collect(),
            barriers: Vec::new(),
            news: None,
            violation_log: ViolationLog::default(),
            excess_log: ExcessLog::default(),
            buffer: Box::new([0; REQUEST_MAX]),
            readable: true,
            pending: true,
        };
        (0..port.links.len()).for_each(|peer| port.publish_link(peer, now));
        Ok(port)
    }

    /// Keeps news for the control thread from now on.
    pub fn keep_news(&mut self) {
        self.news = Some(PortNews::default());
    }

    /// The news that wait for the control thread.
    pub fn news_mut(&mut self) -> Option<&mut PortNews> {
        self.news.as_mut()
    }

    /// Follows these changes. Subscribers keep their subscriptions, unless their key is gone.
    pub fn reload(&mut self, changes: NotifyPortChanges, lanes: usize, now: Instant) {
        self.publisher.set_keys(changes.keys);
        for (number, (name, is_removed)) in changes.peers.into_iter().enumerate() {
            match self.links.get_mut(number) {
                Some(link) => link.is_removed = is_removed,
                None => {
                    self.links.push(Link::new(name, lanes));
                    self.publish_link(number, now);
                }
            }
        }
        self.pending = true;
    }

    /// Takes a notification of a lane; [`send`](Self::send) sends it to subscribers.
    pub fn publish(&mut self, from: LaneNotification, now: Instant) {
        self.pending = true;
        let LaneNotification { peer, lane, level: protected, notification } = from;
        match notification {
            Notification::Flow { state, event, block } => {
                self.publisher.publish_flow(&flow_message(&state, event, block, peer, protected), now);
            }
            Notification::Block { block, source_symbols, repair_symbols, level, ranges } => {
                let size = (source_symbols, repair_symbols);
                self.publisher.publish_block(&block_message(block, size, level, &ranges, (peer, lane)));
            }
            Notification::Violation(lost) => {
                let ranges: Vec<_> = lost.ranges.iter().map(range_message).collect();
                let name = self.links.get(peer as usize).map_or("?", |link| &link.name);
                self.violation_log.note(name, &ranges, now);
                if let Some(news) = &mut self.news {
                    news.on_violation(peer, &ranges);
                }
                self.publisher.publish_violation(peer, &ranges, now);
            }
            Notification::State(state, reason) => {
                let Some(link) = self.links.get_mut(peer as usize) else { return };
                if let Some(seen) = link.lanes.get_mut(usize::from(lane)) {
                    *seen = (state, reason);
                }
                self.publish_link(peer as usize, now);
            }
            Notification::Barrier(id, level) => self.on_barrier(id, (lane, peer), level),
        }
    }

    fn publish_link(&mut self, peer: usize, now: Instant) {
        let link = &mut self.links[peer];
        let worst = link.lanes.iter().max_by_key(|(state, _)| state.severity()).copied();
        let (state, reason) = worst.unwrap_or((LinkState::Down, StateReason::NoSession));
        if link.published.replace((state, reason)) == Some((state, reason)) {
            return;
        }
        tracing::debug!(peer = link.name, state = state.name(), reason = reason.name(), "link");
        if !link.is_removed {
            link.log.note((state, reason), now);
        }
        if let Some(news) = &mut self.news {
            news.on_state(peer as u32, state, reason);
        }
        let name = Some(link.name.clone().into_boxed_str());
        self.publisher.publish_state(&Peer { id: peer as u32, name, state, reason }, now);
    }

    /// Begins a barrier that waits for `missing`.
    pub fn begin_barrier(&mut self, id: u64, missing: Vec<Answerer>) {
        let is_hopeless = missing.is_empty() || self.links.iter().any(Link::is_down);
        self.barriers.push(Barrier { id, missing, level: Level::Acked });
        // Packets for a peer without a session are dropped and are in no block, so no lane could answer for them.
        if is_hopeless {
            self.fail_barrier(id);
        }
    }

    /// The barrier cannot be answered.
    pub fn fail_barrier(&mut self, id: u64) {
        if let Some(at) = self.barriers.iter().position(|barrier| barrier.id == id) {
            self.barriers.swap_remove(at);
            self.publisher.publish_barrier(id, None);
        }
    }

    fn on_barrier(&mut self, id: u64, from: Answerer, level: Option<Level>) {
        let Some(at) = self.barriers.iter().position(|barrier| barrier.id == id) else { return };
        let barrier = &mut self.barriers[at];
        let Some(answered) = barrier.missing.iter().position(|missing| *missing == from) else { return };
        barrier.missing.swap_remove(answered);
        let outcome = match level {
            None => None,
            Some(level) => {
                barrier.level = barrier.level.min(level);
                if !barrier.missing.is_empty() {
                    return;
                }
                // No lane ever read anything: there is nothing that could be protected.
                Some(barrier.level).filter(|level| *level < Level::Acked)
            }
        };
        self.barriers.swap_remove(at);
        self.publisher.publish_barrier(id, outcome);
    }

    /// Requests may have come.
    pub fn on_readable(&mut self) {
        self.readable = true;
    }

    /// Reads requests, as many as one turn may.
    pub fn read(&mut self, now: Instant) {
        for _ in 0..READ_BUDGET {
            if !self.readable {
                return;
            }
            match self.socket.recv_from(&mut self.buffer[..]) {
                Ok((len, from)) => {
                    self.publisher.handle_datagram(from, &self.buffer[..len], now);
                    self.pending = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                // A subscriber that is gone shows as an error of the next call; other subscribers may have sent
                // requests meanwhile.
                Err(_) => {}
            }
        }
    }

    /// There is more to read or to send than one turn may.
    pub fn is_busy(&self) -> bool {
        self.readable || self.pending
    }

    /// The next request of subscribers to the appliance.
    pub fn poll_asked(&mut self) -> Option<Asked> {
        self.publisher.poll_asked()
    }

    /// Sends to subscribers what is new to them, and logs what is due.
    pub fn send(&mut self, now: Instant) {
        self.violation_log.log_due(now);
        for link in &mut self.links {
            match link.log.poll(now) {
                Some((tracing::Level::WARN, words)) => tracing::warn!(peer = link.name, "{words}"),
                Some((_, words)) => tracing::info!(peer = link.name, "{words}"),
                None => {}
            }
        }
        let (who, count) = (self.publisher.poll_excessive(), self.publisher.counters().excess);
        if let Some(words) = who.and_then(|(address, key)| self.excess_log.note(address, key, count, now)) {
            tracing::warn!("{words}");
        }
        if let Some(words) = self.excess_log.poll_ended(now) {
            tracing::info!("{words}");
        }
        if self.publisher.poll_timeout().is_some_and(|at| at <= now) {
            self.publisher.handle_timeout(now);
            self.pending = true;
        }
        if self.pending {
            let socket = &self.socket;
            let sent =
                self.publisher.poll_datagrams(SEND_BUDGET, now, |to, datagram| socket.send_to(datagram, to).is_ok());
            self.pending = sent >= SEND_BUDGET;
        }
    }

    /// When to send next if nothing comes.
    pub fn deadline(&self) -> Option<Instant> {
        let links = self.links.iter().filter_map(|link| link.log.deadline());
        let said = self.violation_log.deadline().into_iter().chain(self.excess_log.deadline()).chain(links);
        self.publisher.poll_timeout().into_iter().chain(said).min()
    }

    /// A subscriber wants to know of each block.
    pub fn wants_blocks(&self) -> bool {
        self.publisher.wants_blocks()
    }

    /// Where it listens.
    pub fn listen(&self) -> SocketAddr {
        self.listen
    }

    /// Subscribers with a lease.
    pub fn subscribers(&self) -> usize {
        self.publisher.subscribers().count()
    }

    /// Counts since the start.
    pub fn counters(&self) -> Counters {
        self.publisher.counters()
    }
}

impl AsRawFd for NotifyPort {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::notify::client::{Client, Reason, Waited};
    use crate::notify::secret::Secret;

    /// How a barrier of a client ends at an appliance with two peers, whose links have these states and whose lanes
    /// give these answers.
    fn answered(links: [LinkState; 2], answers: [Option<Level>; 2]) -> Waited {
        let secret = Secret::from_random(&[5; 32]);
        let mut keys = KeyRing::new();
        keys.insert(secret.to_key(1)).unwrap();
        let settings = NotifyPortSettings {
            listen: ([127, 0, 0, 1], 0).into(),
            keys,
            peers: vec!["syracuse".to_owned(), "utica".to_owned()],
            lanes: 1,
            epoch: 3,
            secret: [0; 32],
        };
        let mut port = NotifyPort::open(settings, Instant::now()).unwrap();
        let publish = |port: &mut NotifyPort, peer, notification| {
            port.publish(LaneNotification { peer, lane: 0, level: Level::OnWire, notification }, Instant::now());
        };
        for (peer, state) in (0..).zip(links) {
            publish(&mut port, peer, Notification::State(state, StateReason::None));
        }
        let at = port.listen();
        let asking = std::thread::spawn(move || {
            let mut client = Client::connect(at, secret.to_key(1)).unwrap();
            client.set_least_level(Level::Queued);
            client.barrier(Instant::now() + Duration::from_secs(10)).unwrap()
        });
        while !asking.is_finished() {
            let now = Instant::now();
            port.on_readable();
            port.read(now);
            while let Some(asked) = port.poll_asked() {
                let Asked::Barrier { id } = asked else { panic!("{asked:?}") };
                port.begin_barrier(id, vec![(0, 0), (0, 1)]);
                for (peer, level) in (0..).zip(answers) {
                    // Answers of a lane that follows a change of the configuration earlier or later, and one twice.
                    publish(&mut port, 7, Notification::Barrier(id, Some(Level::Decoded)));
                    publish(&mut port, peer, Notification::Barrier(id, level));
                    publish(&mut port, peer, Notification::Barrier(id, Some(Level::Decoded)));
                }
            }
            port.send(now);
            std::thread::sleep(Duration::from_millis(1));
        }
        asking.join().unwrap()
    }

    #[test]
    fn a_barrier_that_covers_nothing_or_meets_a_peer_that_is_down_is_not_protected() {
        use LinkState::{Degraded, Down, Up};
        let no = Waited::NotProtected { reason: Reason::Failed };
        let yes = |level| Waited::Protected { level };
        let (nothing, decoded, on_wire) = (Some(Level::Acked), Some(Level::Decoded), Some(Level::OnWire));
        for (links, answers, wanted) in [
            ([Up, Up], [nothing, nothing], no),
            ([Up, Up], [nothing, decoded], yes(Level::Decoded)),
            ([Up, Up], [on_wire, decoded], yes(Level::OnWire)),
            ([Up, Up], [decoded, None], no),
            ([Degraded, Up], [decoded, decoded], yes(Level::Decoded)),
            ([Up, Down], [decoded, decoded], no),
            ([Up, Down], [decoded, nothing], no),
        ] {
            assert_eq!(answered(links, answers), wanted, "{links:?} {answers:?}");
        }
    }
}
