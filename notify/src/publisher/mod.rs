//! The publisher: it sends what the appliance knows to subscribers, as datagrams.
//!
//! 1. `publish_*` stores what changed (this file);
//! 2. [`Publisher::handle_datagram`] processes requests and passes on to the appliance what only it can do ([`Asked`]);
//! 3. [`Publisher::poll_datagrams`] sends each subscriber what was not sent to it yet, in the same turn.
//!
//! Pure: no socket, no clock, no randomness. The caller decides whether bytes are protected, and the publisher trusts
//! it. The publisher only keeps positions from falling within an instance and refuses older instances.
//!
//! Start with this file, then `log` (what is sent, and how often) and `deliver`. `requests` is the other direction;
//! `allowance` and `challenge` limit what senders of requests can cause.

mod allowance;
mod challenge;
mod deliver;
mod keys;
mod log;
mod requests;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use self::allowance::Allowance;
use self::challenge::Challenger;
use self::log::{Log, Slot};
use self::session::Session;
use super::envelope::KeyRing;
use super::message::{
    Block, Event, Flow, FlowKey, Header, Level, MAX_RANGES, Message, Peer, Range, Refusal, Violation,
};

/// Bounds on everything that could grow.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Subscribers in all.
    pub subscribers: usize,
    /// Subscribers with one key.
    pub subscribers_per_key: usize,
    /// Subscribers at one IP address.
    pub subscribers_per_address: usize,
    /// The shortest lease granted.
    pub least_lease: Duration,
    /// The longest lease granted.
    pub most_lease: Duration,
    /// Flows in the log, gone flows included.
    pub flows: usize,
    /// Gone flows that are kept in the log.
    pub gone: usize,
    /// Violation messages kept for dumps.
    pub violations: usize,
    /// Block messages kept until they are sent to every subscriber.
    pub blocks: usize,
    /// Messages in one page of a dump.
    pub page: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            subscribers: 64,
            subscribers_per_key: 48,
            subscribers_per_address: 48,
            least_lease: Duration::from_millis(500),
            most_lease: Duration::from_secs(60),
            flows: 65_536,
            gone: 4096,
            violations: 256,
            blocks: 256,
            page: 48,
        }
    }
}

/// The most links that a publisher tells of, from its start on.
pub const MAX_PEERS: usize = 1024;

/// The time between heartbeats.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// What happened so far, for status and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams handed to the socket.
    pub sent: u64,
    /// Datagrams the socket refused.
    pub send_errors: u64,
    /// Requests of subscribers that were processed, and subscriptions granted.
    pub requests: u64,
    /// Datagrams that were not this protocol, or cut short.
    pub not_ours: u64,
    /// Datagrams with an unknown key or a wrong authentication.
    pub forged: u64,
    /// Datagrams made by a publisher.
    pub wrong_direction: u64,
    /// Datagrams for an earlier run of this publisher.
    pub old_epoch: u64,
    /// Datagrams seen before.
    pub replayed: u64,
    /// Requests from senders without a subscription.
    pub not_subscribed: u64,
    /// Requests refused with an error.
    pub refused: u64,
    /// Subscriptions refused because of a limit.
    pub full: u64,
    /// Subscriptions answered with a challenge.
    pub challenged: u64,
    /// Leases that ended without renewal.
    pub leases_ended: u64,
    /// Requests dropped because their sender asked for more than its share.
    pub excess: u64,
    /// Answers and challenges dropped because too many were waiting.
    pub answers_dropped: u64,
    /// Blocks not sent to a subscriber that was too slow.
    pub blocks_skipped: u64,
    /// Flows not published because of a limit.
    pub flows_refused: u64,
    /// Updates of an instance that was already replaced or gone.
    pub stale_updates: u64,
}

/// What a subscriber asked the appliance for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Put a cookie on a flow, present or future.
    Register {
        /// The flow.
        key: FlowKey,
        /// The cookie.
        cookie: u64,
    },
    /// Close the open blocks now.
    Flush,
    /// Answer with [`Publisher::publish_barrier`] when everything read from the TUN so far is protected, or cannot be.
    Barrier {
        /// To pass to [`Publisher::publish_barrier`].
        id: u64,
    },
}

/// An entry of the log.
#[derive(Debug)]
enum Entry {
    Flow(Flow),
    Peer(Peer),
    Violation(Violation),
}

/// The state of the publisher. The caller owns the socket and the clock.
///
/// ```
/// use std::time::Instant;
///
/// use onwire_notify::client::{Core, Status, Wish};
/// use onwire_notify::envelope::{Key, KeyError, KeyRing};
/// use onwire_notify::message::{Event, Flow, FlowKey, Level, Origin, Positions};
/// use onwire_notify::publisher::{Limits, Publisher};
///
/// let (now, key) = (Instant::now(), Key::new(1, &[7; 32])?);
/// let mut keys = KeyRing::new();
/// keys.insert(key.clone())?;
/// let mut publisher = Publisher::new(keys, Limits::default(), 42, &[3; 32], now);
/// let flow = Flow {
///     key: FlowKey::tcp(([10, 1, 0, 1], 40_000).into(), ([10, 2, 0, 1], 5432).into()),
///     instance: 1,
///     peer: 0,
///     event: Event::Protected,
///     level: Level::OnWire,
///     origin: Origin::Start,
///     origin_seq: Some(1),
///     positions: Positions { on_wire: Some(100), ..Positions::default() },
///     violated: None,
///     packets: None,
///     cookie: None,
///     block: None,
///     survives_burst: 0,
/// };
/// publisher.publish_flow(&flow, now);
///
/// // Datagrams of a client. An appliance receives them from its socket, and sends answers to the address of each.
/// let mut client = Core::new(key, Wish::default(), 7, now);
/// client.watch(flow.key, now);
/// let mut request = Vec::new();
/// while client.poll_datagram(&mut request, now) {
///     publisher.handle_datagram(([10, 1, 0, 1], 4000).into(), &request, now);
///     publisher.poll_datagrams(64, now, |_address, bytes| {
///         client.handle_datagram(bytes, now);
///         true
///     });
/// }
/// let status = client.status(&flow.key, 100, Level::OnWire, now);
/// assert_eq!(status, Status::Protected { level: Level::OnWire });
/// # Ok::<(), KeyError>(())
/// ```
#[derive(Debug)]
pub struct Publisher {
    limits: Limits,
    keys: KeyRing,
    epoch: u64,
    challenger: Challenger,
    log: Log<Entry>,
    flows: HashMap<FlowKey, Slot>,
    /// Gone flows, oldest first, with their instance: a newer instance may use the slot by now.
    gone: VecDeque<(FlowKey, u64)>,
    /// The highest version of a forgotten entry: a client that asks from below it gets everything.
    forgotten: u64,
    peers: Vec<(u32, Slot)>,
    violations: VecDeque<Slot>,
    violation_count: u64,
    blocks: VecDeque<Block>,
    /// How many blocks were published; the last of `blocks` has this number.
    block_count: u64,
    sessions: Vec<Session>,
    /// The session that is served first in the next turn.
    first: usize,
    /// Sessions that may have more to send in this turn.
    round: VecDeque<usize>,
    /// When waiting pages may continue.
    resume: Option<Instant>,
    allowance: Allowance,
    /// The last sender that asked for more than its share, and its key.
    excessive: Option<(SocketAddr, u16)>,
    /// Answers to senders without a subscription: a challenge (`None`) or a refusal.
    unsubscribed: VecDeque<(challenge::Sender, Header, Option<Refusal>)>,
    asked: VecDeque<Asked>,
    barrier_count: u64,
    /// Datagrams sent, one count for all subscribers.
    datagram_count: u64,
    counters: Counters,
    /// The datagram being built.
    datagram: Vec<u8>,
}

impl Publisher {
    /// A publisher with its keys. `epoch` (not 0) and `secret` are random and drawn at each start.
    pub fn new(keys: KeyRing, limits: Limits, epoch: u64, secret: &[u8; 32], now: Instant) -> Publisher {
        Publisher {
            limits,
            keys,
            // 0 means "unknown" in an envelope; a random 0 must not make an unusable publisher.
            epoch: epoch.max(1),
            challenger: Challenger::new(secret, now),
            log: Log::new(),
            flows: HashMap::new(),
            gone: VecDeque::new(),
            forgotten: 0,
            peers: vec![],
            violations: VecDeque::new(),
            violation_count: 0,
            blocks: VecDeque::new(),
            block_count: 0,
            sessions: vec![],
            first: 0,
            round: VecDeque::new(),
            resume: None,
            allowance: Allowance::new(secret, now),
            excessive: None,
            unsubscribed: VecDeque::new(),
            asked: VecDeque::new(),
            barrier_count: 0,
            datagram_count: 0,
            counters: Counters::default(),
            datagram: Vec::with_capacity(2 * super::message::MAX_DATAGRAM),
        }
    }

    /// Publishes a flow. Positions lower than the published ones are ignored. A loss ends with the first call without
    /// `violated`: the caller must set it until the mirror has acknowledged the loss.
    pub fn publish_flow(&mut self, flow: &Flow, now: Instant) {
        let known = self.flows.get(&flow.key).copied();
        let before = known.and_then(|slot| match self.log.value(slot) {
            Some(Entry::Flow(before)) => Some((before.instance, matches!(before.event, Event::Gone(_)))),
            _ => None,
        });
        match (known, before) {
            (_, Some((instance, gone))) if instance > flow.instance || (gone && instance == flow.instance) => {
                self.counters.stale_updates += 1;
                return;
            }
            (Some(slot), Some((instance, _))) => self.log.change(slot, now, |told| {
                let mut next = *flow;
                if let (Entry::Flow(before), true) = (&*told, instance == flow.instance) {
                    next.positions.raise(&before.positions);
                    next.packets = next.packets.max(before.packets);
                    next.cookie = next.cookie.or(before.cookie);
                }
                *told = Entry::Flow(next);
            }),
            _ => {
                if self.flows.len() >= self.limits.flows && !self.forget_oldest_gone() {
                    self.counters.flows_refused += 1;
                    return;
                }
                let slot = self.log.insert(Entry::Flow(*flow), now);
                self.flows.insert(flow.key, slot);
            }
        }
        if matches!(flow.event, Event::Gone(_)) {
            self.gone.push_back((flow.key, flow.instance));
            while self.gone.len() > self.limits.gone && self.forget_oldest_gone() {}
        }
    }

    /// Publishes the state of the link to a peer. Peers beyond [`MAX_PEERS`] are ignored.
    pub fn publish_state(&mut self, peer: &Peer, now: Instant) {
        match self.peers.iter().find(|(id, _)| *id == peer.id) {
            Some((_, slot)) => self.log.change(*slot, now, |told| {
                let mut next = peer.clone();
                if let Entry::Peer(before) = told {
                    next.name = next.name.or(before.name.take());
                }
                *told = Entry::Peer(next);
            }),
            None if self.peers.len() < MAX_PEERS => {
                let slot = self.log.insert(Entry::Peer(peer.clone()), now);
                self.peers.push((peer.id, slot));
            }
            None => {}
        }
    }

    /// Publishes that ranges which were called protected are lost.
    pub fn publish_violation(&mut self, peer: u32, ranges: &[Range], now: Instant) {
        // The flow itself reports the loss too, while it is in the log: a client that missed the violation sees it
        // there.
        for range in ranges {
            let Some(slot) = self.flows.get(&range.key).copied() else {
                continue;
            };
            if matches!(self.log.value(slot), Some(Entry::Flow(flow)) if flow.instance == range.instance) {
                self.log.change(slot, now, |told| {
                    // Bytes that the mirror has acknowledged arrived another way.
                    if let Entry::Flow(flow) = told
                        && flow.positions.acked.is_none_or(|acked| acked < range.end)
                    {
                        flow.violated = lowest(flow.violated, Some(range.start));
                    }
                });
            }
        }
        // A loss without a known flow is published too: it counts.
        let without_flow = ranges.is_empty().then_some(ranges);
        for ranges in ranges.chunks(MAX_RANGES).chain(without_flow) {
            self.violation_count += 1;
            let violation = Violation { number: self.violation_count, peer, ranges: ranges.to_vec() };
            let slot = self.log.insert(Entry::Violation(violation), now);
            self.violations.push_back(slot);
            if self.violations.len() > self.limits.violations {
                let oldest = self.violations.pop_front();
                self.forget(oldest);
            }
        }
    }

    /// Publishes that a block was decided, to the subscribers of each block. Without such a subscriber nothing is kept.
    pub fn publish_block(&mut self, block: &Block) {
        self.block_count += 1;
        if !self.wants_blocks() {
            self.blocks.clear();
            return;
        }
        self.blocks.push_back(block.clone());
        if self.blocks.len() > self.limits.blocks {
            self.blocks.pop_front();
        }
    }

    /// Answers a barrier: everything read from the TUN before its request has reached `level`; `None`: something
    /// failed. Wait until late repair has left: [`Level::Early`] is sent as [`Level::Queued`], which clients take for no.
    pub fn publish_barrier(&mut self, id: u64, level: Option<Level>) {
        for session in &mut self.sessions {
            if let Some(waiting) = session.barriers.iter_mut().find(|waiting| waiting.id == id) {
                waiting.outcome = Some(level);
                let header = waiting.header;
                if !session.answer(header, Message::Barrier(super::message::Barrier { level })) {
                    self.counters.answers_dropped += 1;
                }
                return;
            }
        }
    }

    /// The next thing that a subscriber asked the appliance for, in order.
    pub fn poll_asked(&mut self) -> Option<Asked> {
        self.asked.pop_front()
    }

    /// Ends leases, and repeats what is due for repetition.
    pub fn handle_timeout(&mut self, now: Instant) {
        let before = self.sessions.len();
        self.sessions.retain(|session| session.ends > now);
        self.counters.leases_ended += (before - self.sessions.len()) as u64;
        self.log.handle_timeout(now);
    }

    /// When to call [`Publisher::handle_timeout`] and then [`Publisher::poll_datagrams`] next, if nothing else happens.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let leases = self.sessions.iter().map(|session| session.heartbeat.min(session.ends));
        leases.chain(self.log.poll_timeout()).chain(self.resume).min()
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The last sender that asked for more than its share since the previous call, and its key.
    pub fn poll_excessive(&mut self) -> Option<(SocketAddr, u16)> {
        self.excessive.take()
    }

    /// Whether a subscriber wants a message for each block.
    pub fn wants_blocks(&self) -> bool {
        self.sessions.iter().any(|session| session.groups & super::message::GROUP_BLOCKS != 0)
    }

    /// Subscribers with a lease.
    pub fn subscribers(&self) -> impl Iterator<Item = SocketAddr> {
        self.sessions.iter().map(|session| session.address)
    }

    /// Makes room by forgetting the oldest gone flow; false when there is none.
    fn forget_oldest_gone(&mut self) -> bool {
        while let Some((key, instance)) = self.gone.pop_front() {
            let slot = self.flows.get(&key).copied();
            let still = slot.and_then(|slot| self.log.value(slot)).is_some_and(|told| match told {
                Entry::Flow(flow) => flow.instance == instance && matches!(flow.event, Event::Gone(_)),
                _ => false,
            });
            if still {
                self.flows.remove(&key);
                self.forget(slot);
                return true;
            }
        }
        false
    }

    fn forget(&mut self, slot: Option<Slot>) {
        if let Some((_, version)) = slot.and_then(|slot| self.log.remove(slot)) {
            self.forgotten = self.forgotten.max(version);
        }
    }
}

fn lowest(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    one.into_iter().chain(other).min()
}
