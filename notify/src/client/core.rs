//! The client without socket and clock: the program's calls and outgoing datagrams. Incoming datagrams are in
//! [`super::receive`].
//!
//! The client trusts a run of the publisher only after that run has answered requests of this run of the client: first
//! with a challenge, then by granting the subscription. So no recorded datagram can pass as a present one, and no
//! clocks are compared. Contact is lost when no heartbeat arrives for a lease time, or when no renewal requested within
//! the lease was granted: an attacker who delays heartbeats gains at most one lease time.
//!
//! Claims are cumulative and stay true within an instance, so lost, duplicated or late notifications cannot make a
//! status wrong. A gap in the notification numbers makes the client ask for what changed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::need::Need;
use super::requests::{Outcome, Purpose, Requests};
use super::sequence::Sequence;
use super::status::{Reason, Status};
use super::violations::Violations;
use super::watch::Watch;
use crate::envelope::{self, Direction, Envelope, Key, KeyRing};
use crate::message::{Filter, FlowKey, GROUP_BLOCKS, GROUP_FLOWS, LinkState, Message, Peer, Request, Token};
use crate::replay::ReplayWindow;

/// After this long without a heartbeat the client subscribes again: the appliance may have restarted.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a gap may last before the client asks about it: repetitions and reordered datagrams may fill it first.
const GAP: Duration = Duration::from_millis(15);
/// The most flows watched at once.
const MAX_WATCHES: usize = 65_536;
/// The most messages kept for [`Core::poll_message`].
pub(super) const MAX_MESSAGES: usize = 4096;

/// What a client subscribes to, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// How long the publisher keeps the subscription without renewal, and how long heartbeats may be missing before the
    /// client calls nothing protected any more.
    pub lease: Duration,
    /// Groups of notifications: [`GROUP_FLOWS`] and [`GROUP_BLOCKS`].
    pub groups: u32,
    /// Which flows to subscribe to; watch no others.
    pub filter: Filter,
    /// Keep every message for [`Core::poll_message`], those of the first dump included.
    pub follow: bool,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { lease: Duration::from_secs(1), groups: GROUP_FLOWS, filter: Filter::default(), follow: false }
    }
}

impl Wish {
    /// Keeps every message about these flows, and about each block too if `blocks`.
    pub fn following(filter: Filter, blocks: bool) -> Wish {
        let groups = if blocks { GROUP_FLOWS | GROUP_BLOCKS } else { GROUP_FLOWS };
        Wish { follow: true, groups, filter, ..Wish::default() }
    }
}

/// A run of the publisher that has granted the subscription.
#[derive(Debug)]
pub(super) struct Contact {
    pub(super) epoch: u64,
    pub(super) window: ReplayWindow,
    pub(super) sequence: Sequence,
    pub(super) gap_since: Option<Instant>,
    /// Everything up to this version is known.
    pub(super) mark: u64,
    /// A full dump is in progress; its first page had this head.
    pub(super) begun: Option<u64>,
    pub(super) violations: Violations,
    pub(super) lease: Duration,
    /// When the present lease ends, counted from its request.
    pub(super) ends: Instant,
    pub(super) heartbeat: Instant,
    /// When the last heartbeat or grant arrived.
    pub(super) received: Instant,
}

/// The state of a client. The caller owns the socket and the clock.
///
/// ```no_run
/// use std::net::UdpSocket;
/// use std::time::{Duration, Instant};
///
/// use onwire_notify::client::{Core, Status, Wish};
/// use onwire_notify::message::{FlowKey, Level};
/// use onwire_notify::secret::Secret;
///
/// let key = Secret::parse(&std::fs::read_to_string("/etc/onwire/notify.key")?)?.to_key(1);
/// let socket = UdpSocket::bind("0.0.0.0:0")?;
/// socket.connect("127.0.0.1:7118")?;
///
/// // A program draws the epoch at random at each start.
/// let epoch = 0x1234_5678_9abc_def0;
/// let mut core = Core::new(key, Wish::default(), epoch, Instant::now());
/// let flow = FlowKey::tcp("10.1.0.1:40000".parse()?, "10.2.0.1:5432".parse()?);
/// core.watch(flow, Instant::now());
///
/// let (mut request, mut datagram) = (Vec::new(), [0; 2048]);
/// loop {
///     while core.poll_datagram(&mut request, Instant::now()) {
///         socket.send(&request)?;
///     }
///     let wait = core.poll_timeout().saturating_duration_since(Instant::now());
///     socket.set_read_timeout(Some(wait.max(Duration::from_millis(1))))?;
///     if let Ok(len) = socket.recv(&mut datagram) {
///         core.handle_datagram(&datagram[..len], Instant::now());
///     }
///     match core.status(&flow, 100, Level::OnWire, Instant::now()) {
///         Status::Protected { level } => break println!("100 bytes are protected: {}", level.name()),
///         Status::Never(reason) => break println!("not protected: {reason}"),
///         Status::Pending(_) => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Core {
    pub(super) key: Key,
    pub(super) ring: KeyRing,
    pub(super) wish: Wish,
    pub(super) epoch: u64,
    /// Datagrams sent.
    pub(super) count: u64,
    pub(super) requests: Requests,
    /// A run of the publisher that has sent a challenge and granted nothing yet, and its token.
    pub(super) candidate: Option<(u64, Token)>,
    pub(super) contact: Option<Contact>,
    pub(super) renew: Instant,
    pub(super) peers: BTreeMap<u32, Peer>,
    pub(super) watches: HashMap<FlowKey, Watch>,
    /// Lost ranges of watched flows that the program has not polled yet.
    pub(super) violated: VecDeque<(FlowKey, std::ops::Range<u64>)>,
    pub(super) messages: VecDeque<Message>,
    pub(super) messages_dropped: u64,
}

impl Core {
    /// A client that will subscribe. `epoch` is random, not 0, and drawn at each start.
    pub fn new(key: Key, wish: Wish, epoch: u64, now: Instant) -> Core {
        let mut ring = KeyRing::new();
        ring.insert(key.clone()).expect("an empty ring takes a key");
        let epoch = epoch.max(1);
        Core {
            key,
            ring,
            wish,
            epoch,
            count: 0,
            // Any number but 0 identifies our answers.
            requests: Requests::new((epoch >> 32) as u32 | 1),
            candidate: None,
            contact: None,
            renew: now,
            peers: BTreeMap::new(),
            watches: HashMap::new(),
            violated: VecDeque::new(),
            messages: VecDeque::new(),
            messages_dropped: 0,
        }
    }

    /// From now on asks another publisher, or the same one with another key; the caller sends from another socket. There is no
    /// contact until that one has granted the subscription, and no claim about a flow counts until it has answered about that flow.
    /// `epoch` is random and not 0.
    pub fn move_to(&mut self, key: Key, epoch: u64, now: Instant) {
        let mut ring = KeyRing::new();
        ring.insert(key.clone()).expect("an empty ring takes a key");
        self.requests.remove(|purpose| purpose == Purpose::Subscribe);
        (self.key, self.ring, self.epoch, self.count) = (key, ring, epoch.max(1), 0);
        (self.contact, self.candidate, self.renew) = (None, None, now);
        self.peers.clear();
        self.watches.values_mut().for_each(Watch::on_move);
    }

    /// Whether the present run of the publisher has granted a lease that still lasts, and its heartbeats arrive.
    pub fn has_contact(&self, now: Instant) -> bool {
        let is_current = |contact: &Contact| now < contact.ends && now < contact.heartbeat + contact.lease;
        self.contact.as_ref().is_some_and(is_current)
    }

    /// Whether something may have changed unnoticed: no subscription was granted yet, or a notification is missing.
    /// Known positions stay true.
    pub fn is_stale(&self) -> bool {
        self.contact.as_ref().is_none_or(|contact| contact.sequence.has_gap())
    }

    /// The links, as last reported.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// Begins to watch a flow whose connection exists, and forgets an earlier connection with these addresses. False
    /// when too many flows are watched.
    pub fn watch(&mut self, key: FlowKey, now: Instant) -> bool {
        if self.watches.len() >= MAX_WATCHES && !self.watches.contains_key(&key) {
            return false;
        }
        self.requests.remove(|purpose| purpose == Purpose::Lookup(key));
        self.watches.insert(key, Watch::new(key));
        self.look_up(key, now);
        true
    }

    /// Whether a flow is watched.
    pub fn is_watched(&self, key: &FlowKey) -> bool {
        self.watches.contains_key(key)
    }

    /// Ends a watch.
    pub fn unwatch(&mut self, key: &FlowKey) {
        self.requests.remove(|purpose| purpose == Purpose::Lookup(*key));
        self.watches.remove(key);
    }

    /// Takes the number of bytes the program has written into the flow: claims of more belong to another connection.
    pub fn handle_written(&mut self, key: &FlowKey, written: u64) {
        if let Some(watch) = self.watches.get_mut(key).filter(|watch| watch.highest() > written) {
            watch.on_mismatch();
        }
    }

    /// The status of all bytes below `offset` of a watched flow: whether they meet `need`, a [`Need`] or a level.
    pub fn status(&self, key: &FlowKey, offset: u64, need: impl Into<Need>, now: Instant) -> Status {
        let Some(watch) = self.watches.get(key) else {
            return Status::Never(Reason::UnknownFlow);
        };
        let trusting = self.contact.as_ref().is_some_and(|contact| contact.violations.are_known());
        match watch.status(offset, need.into(), trusting) {
            Status::Protected { .. } | Status::Pending(_) if !self.has_contact(now) => {
                Status::Pending(Reason::NoContact)
            }
            Status::Pending(Reason::Deadline) => match watch.peer().and_then(|id| self.peers.get(&id)) {
                Some(peer) if peer.state != LinkState::Up => Status::Pending(Reason::Link(peer.state, peer.reason)),
                _ => Status::Pending(Reason::Deadline),
            },
            status => status,
        }
    }

    /// The offset below which all bytes of a watched flow were claimed to meet `need`. For display only: violations and
    /// lost contact do not lower it. Decide by [`Core::status`].
    pub fn covered(&self, key: &FlowKey, need: impl Into<Need>) -> u64 {
        self.watches.get(key).map_or(0, |watch| watch.covered(need.into()))
    }

    /// The interruption that a watched flow's bytes on the wire survive, as reported last; `None` before the first
    /// report. For display only, too.
    pub fn survives_burst(&self, key: &FlowKey) -> Option<Duration> {
        self.watches.get(key).and_then(Watch::survives_burst)
    }

    /// The next range of a watched flow that was lost after it had been called protected, as stream offsets. Each
    /// reported range is returned once. For display and counters: [`Core::status`] accounts for losses itself.
    pub fn poll_violation(&mut self) -> Option<(FlowKey, std::ops::Range<u64>)> {
        self.violated.pop_front()
    }

    /// The lowest lost offset of a watched flow that was called protected. It may be known without its range.
    pub fn lowest_loss(&self, key: &FlowKey) -> Option<u64> {
        self.watches.get(key).and_then(Watch::lowest_loss)
    }

    /// The epoch of the publisher that has granted the subscription; it changes with a restart.
    pub fn run(&self) -> Option<u64> {
        self.contact.as_ref().map(|contact| contact.epoch)
    }

    /// When the last heartbeat or grant arrived; `None` before the first grant.
    pub fn last_received(&self) -> Option<Instant> {
        self.contact.as_ref().map(|contact| contact.received)
    }

    /// Whether everything that this run of the publisher has published is known here: the first dump is complete and no
    /// notification is missing since.
    pub fn is_complete(&self) -> bool {
        !self.is_stale() && !self.requests.has(|purpose| purpose == Purpose::Page)
    }

    /// Queues a request and returns its number, for [`Core::poll_outcome`]. `None` when too many requests wait already.
    pub fn request(&mut self, request: Request, now: Instant) -> Option<u32> {
        self.requests.push(request, Purpose::Program, now)
    }

    /// How a request of the program ended; returned once.
    pub fn poll_outcome(&mut self, number: u32) -> Option<Outcome> {
        self.requests.poll_outcome(number)
    }

    /// The next message in order of arrival; only with [`Wish::follow`].
    pub fn poll_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// Messages that were dropped because the program did not take them.
    pub fn messages_dropped(&self) -> u64 {
        self.messages_dropped
    }

    /// Writes the next datagram to send; false when there is none. Requests without an answer are sent again.
    pub fn poll_datagram(&mut self, out: &mut Vec<u8>, now: Instant) -> bool {
        self.handle_timeout(now);
        let granted = self.contact.as_ref().map(|contact| contact.epoch);
        let Some((request, seq)) = self.requests.poll_due(granted.is_some(), now) else {
            return false;
        };
        let (request, receiver) = match request {
            Request::Subscribe { lease, groups, filter, .. } => {
                let (epoch, token) = self.candidate.unwrap_or((granted.unwrap_or(0), Token::default()));
                (Request::Subscribe { lease, groups, filter, token }, epoch)
            }
            request => (request, granted.unwrap_or(0)),
        };
        out.clear();
        out.resize(envelope::LEN, 0);
        request.emit(seq, self.requests.port(), out);
        self.count += 1;
        let envelope = Envelope {
            direction: Direction::Request,
            key: self.key.id(),
            sender: self.epoch,
            receiver,
            counter: self.count,
        };
        self.key.seal(&envelope, out);
        true
    }

    /// Renews the subscription and asks about gaps, when due. [`Core::poll_datagram`] does it too.
    pub fn handle_timeout(&mut self, now: Instant) {
        let silent = self.contact.as_ref().is_none_or(|contact| now >= contact.received + SILENCE);
        if (now >= self.renew || silent) && !self.requests.has(|purpose| purpose == Purpose::Subscribe) {
            let Wish { lease, groups, filter, .. } = self.wish;
            let request = Request::Subscribe { lease, groups, filter, token: Token::default() };
            self.requests.push(request, Purpose::Subscribe, now);
        }
        if let Some(contact) = &mut self.contact {
            // The publisher may have forgotten a counted loss before it sent the violation.
            match contact.sequence.has_gap() || !contact.violations.are_known() {
                false => contact.gap_since = None,
                true if contact.gap_since.is_none() => contact.gap_since = Some(now),
                true => {}
            }
            if contact.gap_since.is_some_and(|since| now >= since + GAP) {
                let since = contact.mark;
                self.ask_page(since, now);
            }
        }
    }

    /// When to call [`Core::poll_datagram`] next, if no datagram arrives.
    pub fn poll_timeout(&self) -> Instant {
        let gap = self.contact.as_ref().and_then(|contact| contact.gap_since).map(|since| since + GAP);
        let gap = gap.filter(|_| !self.requests.has(|purpose| purpose == Purpose::Page));
        let subscribing = self.requests.has(|purpose| purpose == Purpose::Subscribe);
        let silence = self.contact.as_ref().map(|contact| contact.received + SILENCE);
        let renew = silence.map_or(self.renew, |silence| silence.min(self.renew));
        let next = [gap, Some(renew).filter(|_| !subscribing), self.requests.poll_timeout(self.contact.is_some())];
        // Nothing else is due: check for silence.
        next.into_iter().flatten().min().unwrap_or(self.renew + SILENCE)
    }

    pub(super) fn look_up(&mut self, key: FlowKey, now: Instant) {
        let request = Request::GetFlows { since: 0, begun: None, count: 1, filter: Filter::exactly(&key) };
        if !self.requests.has(|purpose| purpose == Purpose::Lookup(key)) {
            self.requests.push(request, Purpose::Lookup(key), now);
        }
    }

    pub(super) fn ask_page(&mut self, since: u64, now: Instant) {
        if !self.requests.has(|purpose| purpose == Purpose::Page) {
            let begun = self.contact.as_ref().and_then(|contact| contact.begun).filter(|_| since > 0);
            let request = Request::GetFlows { since, begun, count: self.requests.page(), filter: self.wish.filter };
            self.requests.push(request, Purpose::Page, now);
        }
    }
}
