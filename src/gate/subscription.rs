//! What the appliance reports about the flows of this process: one subscription for all connections.
//!
//! A thin layer of socket and log around [`Core`], which decides which reports are accepted. Without contact nothing is
//! protected. This module holds no marks.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use mio::net::UdpSocket;

use super::status::{LinkStatus, NotifyStatus};
use crate::io::since::Since;
use crate::notify::client::{Core, Need, Reason, Status, Wish};
use crate::notify::envelope::Key;
use crate::notify::message::{Filter, FlowKey, LinkState, Request, StateReason};

/// Datagrams read at once; connections are served in between.
const BUDGET: usize = 512;
/// Flows whose cookies are registered again at once after the appliance restarted.
const REGISTRATIONS: usize = 512;

/// An appliance that the gate was moved to answers within this time, or its silence is logged.
const ANSWERS_WITHIN: Duration = Duration::from_secs(1);
/// The same after the gate's start: both may start with the machine.
const STARTS_WITHIN: Duration = Duration::from_secs(5);

/// A link between appliances, as it was reported last.
#[derive(Clone, Copy, Debug)]
struct Link {
    peer: u32,
    state: (LinkState, StateReason),
    /// Since when it has that state for that reason.
    since: Instant,
}

/// The subscription.
#[derive(Debug)]
pub struct Subscription {
    socket: UdpSocket,
    address: SocketAddr,
    core: Core,
    readable: bool,
    /// Flows watched, each with its cookie.
    flows: HashMap<FlowKey, u64>,
    run: Option<u64>,
    contact: bool,
    /// Since when there is contact, or none.
    since: Instant,
    datagram: Vec<u8>,
    received: u64,
    runs: u64,
    losses: u64,
    links: Vec<Link>,
    /// When silence is logged although there was no contact before: since the start, or since it was moved to this address.
    expected: Option<Instant>,
    /// There is no contact, and that was logged.
    silence_logged: bool,
    /// Since when links are degraded or down, for whatever reasons, of those that were known before. It outlives a restart of the
    /// appliance, which tells its links anew.
    troubled: HashMap<u32, Instant>,
}

impl Subscription {
    /// A subscription at the appliance whose notification port is `address`. The appliance need not run yet. `epoch` is
    /// random.
    ///
    /// # Errors
    /// A socket cannot be opened.
    pub fn open(address: SocketAddr, key: Key, epoch: u64, now: Instant) -> io::Result<Subscription> {
        // Only TCP: a gate has no other flows.
        let wish = Wish { filter: Filter { protocol: Some(6), ..Filter::default() }, ..Wish::default() };
        Ok(Subscription {
            socket: Subscription::bind(address)?,
            address,
            core: Core::new(key, wish, epoch, now),
            readable: false,
            flows: HashMap::new(),
            run: None,
            contact: false,
            since: now,
            datagram: Vec::new(),
            received: 0,
            runs: 0,
            losses: 0,
            links: Vec::new(),
            expected: Some(now + STARTS_WITHIN),
            silence_logged: false,
            troubled: HashMap::new(),
        })
    }

    /// A socket for an appliance at this address.
    ///
    /// # Errors
    /// The kernel has none.
    pub fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
        let any: SocketAddr = match address {
            SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        UdpSocket::bind(any)
    }

    /// From now on asks the appliance at `address`, or the same one with another key. The flows stay watched. `epoch` is random.
    pub fn move_to(&mut self, socket: UdpSocket, address: SocketAddr, key: Key, epoch: u64, now: Instant) {
        (self.socket, self.address, self.readable) = (socket, address, true);
        self.core.move_to(key, epoch, now);
        // Where there was no contact before, that lasts.
        if self.contact {
            self.since = now;
        }
        (self.run, self.contact, self.expected) = (None, false, Some(now + ANSWERS_WITHIN));
    }

    /// The socket, for a poll.
    pub fn socket(&mut self) -> &mut UdpSocket {
        &mut self.socket
    }

    /// The poll reports that something has arrived.
    pub fn on_ready(&mut self) {
        self.readable = true;
    }

    /// Reads what has arrived, sends what is due, and logs when the appliance appears or vanishes. True while more has
    /// arrived than was read.
    pub fn turn(&mut self, now: Instant) -> bool {
        let mut datagram = [0; 2048];
        // Read even without an event: this process may have been suspended, and an unread notification may withdraw
        // protection.
        self.readable = true;
        for _ in 0..BUDGET {
            if !self.readable {
                break;
            }
            match self.socket.recv_from(&mut datagram) {
                Ok((len, from)) if from == self.address => {
                    self.received += 1;
                    self.core.handle_datagram(&datagram[..len], now);
                }
                Ok(_) => {}
                // Any error but "nothing more" is about an earlier datagram of ours, which is sent again anyway.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
                Err(_) => {}
            }
        }
        self.on_change(now);
        while self.core.poll_datagram(&mut self.datagram, now) {
            let _ = self.socket.send_to(&self.datagram, self.address);
        }
        self.readable
    }

    fn on_change(&mut self, now: Instant) {
        let contact = self.core.has_contact(now);
        let is_missed = !contact && self.expected.is_some_and(|expected| now >= expected);
        if contact != self.contact || is_missed {
            let before = self.since;
            if contact != self.contact {
                self.since = now;
            }
            (self.contact, self.expected) = (contact, None);
            match contact {
                true => {
                    let after = match std::mem::take(&mut self.silence_logged) {
                        true => format!(", after {:.1} s without an answer", (now - before).as_secs_f64()),
                        false => String::new(),
                    };
                    tracing::info!("the appliance at {} tells what is protected{after}", self.address);
                }
                false => {
                    self.losses += u64::from(!is_missed);
                    self.silence_logged = true;
                    tracing::warn!(
                        "the appliance at {} does not answer: nothing counts as protected until it does, and the \
                         mirror's own acknowledgements are waited for. Does `onwire run` run there with this \
                         `notify.listen`, has it this secret under this `key_id`, and does UDP pass between?",
                        self.address
                    );
                }
            }
        }
        if self.core.run() != self.run {
            self.run = self.core.run();
            self.runs += 1;
            let again: Vec<_> = self.flows.iter().take(REGISTRATIONS).map(|(key, cookie)| (*key, *cookie)).collect();
            for (key, cookie) in again {
                self.core.request(Request::Register { key, cookie }, now);
            }
        }
        let links = || self.core.peers().map(|peer| (peer.id, (peer.state, peer.reason)));
        if !links().eq(self.links.iter().map(|link| (link.peer, link.state))) {
            let before = |peer: u32| self.links.iter().find(|link| link.peer == peer);
            let followed = links().map(|(peer, state)| {
                let since = before(peer).filter(|link| link.state == state).map_or(now, |link| link.since);
                Link { peer, state, since }
            });
            let followed: Vec<_> = followed.collect();
            // Another reason for the same state is no news for the log.
            for peer in self.core.peers().filter(|peer| before(peer.id).is_none_or(|link| link.state.0 != peer.state)) {
                let (name, state, why) = (peer.name.as_deref().unwrap_or("?"), peer.state.name(), peer.reason.name());
                let was_known = before(peer.id).is_some();
                match (peer.state, self.troubled.get(&peer.id)) {
                    (LinkState::Up, Some(since)) => {
                        let lasted = (now - *since).as_secs_f64();
                        tracing::info!("the link to {name} is up again, after {lasted:.1} s");
                        self.troubled.remove(&peer.id);
                    }
                    (LinkState::Up, None) => tracing::info!("the link to {name} is up"),
                    (LinkState::Draining, _) => tracing::info!("the link to {name} is {state} ({why})"),
                    (LinkState::Degraded | LinkState::Down, _) => {
                        if was_known {
                            self.troubled.entry(peer.id).or_insert(now);
                        }
                        tracing::warn!(
                            "the link to {name} is {state} ({why}): nothing more becomes protected; the log of the \
                             appliance at {} has the remedy",
                            self.address
                        );
                    }
                }
            }
            self.links = followed;
        }
    }

    /// When to call [`Subscription::turn`] next if no event comes.
    pub fn poll_timeout(&self) -> Instant {
        self.core.poll_timeout()
    }

    /// The appliance's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to watch the flow of a connection that exists. False when too many are watched.
    pub fn watch(&mut self, key: FlowKey, cookie: u64, now: Instant) -> bool {
        if !self.core.watch(key, now) {
            return false;
        }
        self.flows.insert(key, cookie);
        if self.run.is_some() {
            // The cookie only helps people who watch the flows; nothing else depends on it.
            self.core.request(Request::Register { key, cookie }, now);
        }
        true
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, key: &FlowKey) {
        self.flows.remove(key);
        self.core.unwatch(key);
    }

    /// The socket of the flow has taken `written` bytes: a claim beyond that is about another connection.
    pub fn handle_written(&mut self, key: &FlowKey, written: u64) {
        self.core.handle_written(key, written);
    }

    /// Whether everything below `offset` meets `need`. False while some datagrams are unread: they may withdraw
    /// protection.
    pub fn covers(&self, key: &FlowKey, offset: u64, need: Need, now: Instant) -> bool {
        !self.readable
            && matches!(self.core.status(key, offset, need, now), Status::Protected { level } if level >= need.level)
    }

    /// Why nothing beyond what is covered can be called protected at this moment; [`Reason::Deadline`] when nothing is
    /// wrong and protection will follow.
    pub fn condition(&self, key: &FlowKey, need: Need, now: Instant) -> Reason {
        match self.core.status(key, u64::MAX, need, now) {
            Status::Pending(reason) | Status::Never(reason) => reason,
            // No stream is that long.
            Status::Protected { .. } => Reason::OtherConnection,
        }
    }

    /// The end of what was claimed as covered, for people. 0 when claims are void.
    pub fn covered(&self, key: &FlowKey, need: Need, now: Instant) -> u64 {
        match self.condition(key, need, now) {
            Reason::Violated | Reason::OtherConnection => 0,
            _ => self.core.covered(key, need),
        }
    }

    /// The interruption that the flow's bytes on the wire survive, for people; `None` before the first report.
    pub fn survives_burst(&self, key: &FlowKey) -> Option<Duration> {
        self.core.survives_burst(key)
    }

    /// A range of bytes that was lost after it had been called protected, with the number of the connection whose
    /// stream it is in.
    pub fn poll_violation(&mut self) -> Option<(u64, Range<u64>)> {
        while let Some((key, range)) = self.core.poll_violation() {
            if let Some(cookie) = self.flows.get(&key) {
                return Some((*cookie, range));
            }
        }
        None
    }

    /// The lowest byte of a flow that was called protected and is lost.
    pub fn lowest_loss(&self, key: &FlowKey) -> Option<u64> {
        self.core.lowest_loss(key)
    }

    /// For the status.
    pub fn status(&self, now: Instant) -> NotifyStatus {
        let link = |peer: &crate::notify::message::Peer| LinkStatus {
            name: peer.name.as_deref().unwrap_or_default().to_owned(),
            state: peer.state.name().to_owned(),
            since: self.links.iter().find(|link| link.peer == peer.id).map(|link| Since::of(link.since, now)),
            reason: peer.reason.name().to_owned(),
        };
        let contact = self.core.has_contact(now);
        // A turn that sees the change comes later than this question.
        let since = if contact == self.contact { self.since } else { now };
        NotifyStatus {
            address: self.address,
            contact,
            since: Some(Since::of(since, now)),
            stale: self.core.is_stale(),
            heard_s: self.core.last_received().map(|at| now.saturating_duration_since(at).as_secs_f64()),
            runs: self.runs,
            contacts_lost: self.losses,
            datagrams: self.received,
            flows: self.flows.len() as u64,
            links: self.core.peers().map(link).collect(),
        }
    }
}
