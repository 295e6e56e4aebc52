//! The client without a socket or a clock: datagrams and time in, datagrams and answers out.
//!
//! A run of the publisher is believed only after it has answered a question of this run of the client: first by a
//! challenge, then by granting the subscription. So nothing recorded earlier can be taken for the present, without any
//! clock being compared. Contact is lost when heartbeats stay away for a lease time, or when no renewal that was asked
//! for within the lease has been granted: whoever holds back heartbeats to give them out later gains a lease at most.
//!
//! Claims are cumulative and true for ever within an instance, so lost, doubled or late notifications cannot make an
//! answer wrong. A gap in the numbers makes the client ask for what changed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::requests::{Outcome, Purpose, Requests};
use super::sequence::Sequence;
use super::status::{Reason, Status};
use super::violations::Violations;
use super::watch::Watch;
use crate::notify::envelope::{self, Direction, Envelope, Key, KeyRing};
use crate::notify::message::{
    Done, Filter, FlowKey, GROUP_FLOWS, Heartbeat, Level, LinkState, Message, Messages, Peer, Raw, Request,
    Token, flags,
};
use crate::notify::replay::ReplayWindow;

/// Without a heartbeat for this long the subscription is asked for again: the appliance may have restarted.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a gap may last before it is asked about: the repetitions may fill it, and reordering does.
const GAP: Duration = Duration::from_millis(15);
/// Flows watched at once.
const MAX_WATCHES: usize = 65_536;
/// Messages kept for [`Core::poll_message`].
const MAX_MESSAGES: usize = 4096;

/// What a client wants.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// How long the publisher keeps the subscription without a renewal, and how long silence may last before nothing is
    /// called protected any more.
    pub lease: Duration,
    /// Groups of notifications.
    pub groups: u32,
    /// Which flows to be told about; watch no others.
    pub filter: Filter,
    /// Keep every message for [`Core::poll_message`], and ask for a dump at the beginning.
    pub follow: bool,
}

impl Default for Wish {
    fn default() -> Wish {
        Wish { lease: Duration::from_secs(1), groups: GROUP_FLOWS, filter: Filter::default(), follow: false }
    }
}

/// A run of the publisher whose subscription was granted.
#[derive(Debug)]
struct Contact {
    epoch: u64,
    window: ReplayWindow,
    sequence: Sequence,
    gap_since: Option<Instant>,
    /// Everything up to this version is known.
    mark: u64,
    violations: Violations,
    lease: Duration,
    /// When the present lease ends, counted from when it was asked for.
    ends: Instant,
    heartbeat: Instant,
    /// The last heartbeat or grant.
    heard: Instant,
}

/// The state of a client.
#[derive(Debug)]
pub struct Core {
    key: Key,
    ring: KeyRing,
    wish: Wish,
    epoch: u64,
    /// Datagrams sent.
    count: u64,
    requests: Requests,
    /// A publisher that answered with a challenge and has not granted anything.
    candidate: Option<(u64, Token)>,
    contact: Option<Contact>,
    renew: Instant,
    peers: BTreeMap<u32, Peer>,
    watches: HashMap<FlowKey, Watch>,
    messages: VecDeque<Message>,
    messages_dropped: u64,
}

impl Core {
    /// A client that wants to subscribe. `epoch` (not 0) is random and drawn at each start.
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
            // Any number but 0 marks our answers.
            requests: Requests::new((epoch >> 32) as u32 | 1),
            candidate: None,
            contact: None,
            renew: now,
            peers: BTreeMap::new(),
            watches: HashMap::new(),
            messages: VecDeque::new(),
            messages_dropped: 0,
        }
    }

    /// Whether the publisher is heard, and this run of it has granted the subscription.
    pub fn has_contact(&self, now: Instant) -> bool {
        let heard = |contact: &Contact| now < contact.ends && now < contact.heartbeat + contact.lease;
        self.contact.as_ref().is_some_and(heard)
    }

    /// Whether something may have changed that is not known here. Positions that are known stay true.
    pub fn is_stale(&self) -> bool {
        self.contact.as_ref().is_none_or(|contact| contact.sequence.has_gap())
    }

    /// The links as told last.
    pub fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    /// Begins to watch a flow whose connection exists; what was known of an earlier one with these addresses is
    /// forgotten. False when too many are watched.
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

    /// Tells how much the program has written into the flow: claims of more belong to another connection.
    pub fn handle_written(&mut self, key: &FlowKey, written: u64) {
        if let Some(watch) = self.watches.get_mut(key).filter(|watch| watch.highest() > written) {
            watch.on_mismatch();
        }
    }

    /// What can be said about everything below `offset` of a watched flow.
    pub fn status(&self, key: &FlowKey, offset: u64, least: Level, now: Instant) -> Status {
        let Some(watch) = self.watches.get(key) else {
            return Status::Never(Reason::UnknownFlow);
        };
        let trusting = self.contact.as_ref().is_some_and(|contact| contact.violations.are_known());
        match watch.status(offset, least, trusting) {
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

    /// Asks for something; the outcome comes from [`Core::poll_outcome`] under the number this gives. `None`: too much
    /// is being asked already.
    pub fn request(&mut self, request: Request, now: Instant) -> Option<u32> {
        self.requests.push(request, Purpose::Program, now)
    }

    /// How a request of the program ended; told once.
    pub fn poll_outcome(&mut self, number: u32) -> Option<Outcome> {
        self.requests.poll_outcome(number)
    }

    /// Messages in the order in which they came, when the wish was to follow.
    pub fn poll_message(&mut self) -> Option<Message> {
        self.messages.pop_front()
    }

    /// Messages that were dropped because the program did not take them.
    pub fn messages_dropped(&self) -> u64 {
        self.messages_dropped
    }

    /// Writes the next datagram to send; false when there is none. Datagrams sent in vain are repeated by themselves.
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

    /// Renews what must be renewed and asks about gaps. [`Core::poll_datagram`] does it too.
    pub fn handle_timeout(&mut self, now: Instant) {
        let silent = self.contact.as_ref().is_none_or(|contact| now >= contact.heard + SILENCE);
        if (now >= self.renew || silent) && !self.requests.has(|purpose| purpose == Purpose::Subscribe) {
            let Wish { lease, groups, filter, .. } = self.wish;
            let request = Request::Subscribe { lease, groups, filter, token: Token::default() };
            self.requests.push(request, Purpose::Subscribe, now);
        }
        if let Some(contact) = &mut self.contact {
            match contact.sequence.has_gap() {
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

    /// When to call [`Core::poll_datagram`] next, if nothing comes in.
    pub fn poll_timeout(&self) -> Instant {
        let gap = self.contact.as_ref().and_then(|contact| contact.gap_since).map(|since| since + GAP);
        let gap = gap.filter(|_| !self.requests.has(|purpose| purpose == Purpose::Page));
        let subscribing = self.requests.has(|purpose| purpose == Purpose::Subscribe);
        let silence = self.contact.as_ref().map(|contact| contact.heard + SILENCE);
        let renew = silence.map_or(self.renew, |silence| silence.min(self.renew));
        let next = [gap, Some(renew).filter(|_| !subscribing), self.requests.poll_timeout(self.contact.is_some())];
        // While nothing else is due, a heartbeat is.
        next.into_iter().flatten().min().unwrap_or(self.renew + SILENCE)
    }

    /// Takes in a datagram from the publisher; what is not for us changes nothing.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        let ring = std::mem::take(&mut self.ring);
        if let Ok((envelope, messages)) = ring.open(Direction::Notification, datagram)
            && envelope.receiver == self.epoch
        {
            self.on_opened(&envelope, messages, now);
        }
        self.ring = ring;
    }

    fn on_opened(&mut self, envelope: &Envelope, messages: &[u8], now: Instant) {
        let granted = self.contact.as_mut().filter(|contact| contact.epoch == envelope.sender);
        let Some(contact) = granted else {
            return self.on_newcomer(envelope, messages, now);
        };
        // A challenge in the present run means that the subscription is lost there: it counts like any other message.
        if !contact.window.accept(envelope.counter) {
            return;
        }
        for raw in Messages::new(messages) {
            let Ok(raw) = raw else {
                return;
            };
            if let Ok(message) = Message::parse(&raw) {
                self.on_message(&raw, message, envelope.sender, now);
            }
        }
    }

    /// A run of the publisher that has granted nothing: it may challenge, and grant what was asked of it.
    fn on_newcomer(&mut self, envelope: &Envelope, messages: &[u8], now: Instant) {
        let Some(Ok(raw)) = Messages::new(messages).next() else {
            return;
        };
        let Some(asked) = self.requests.find(raw.header.seq, raw.header.port, Purpose::Subscribe) else {
            return;
        };
        match Message::parse(&raw) {
            Ok(Message::Challenge(challenge)) => {
                self.candidate = Some((envelope.sender, challenge.token));
                self.requests.repeat_now(raw.header.seq, now);
            }
            Ok(Message::Subscribed(granted)) if self.candidate.is_some_and(|(epoch, _)| epoch == envelope.sender) => {
                let mut window = ReplayWindow::default();
                window.accept(envelope.counter);
                self.contact = Some(Contact {
                    epoch: envelope.sender,
                    window,
                    sequence: Sequence::new(),
                    gap_since: None,
                    mark: 0,
                    violations: Violations::new(granted.violations),
                    lease: granted.lease,
                    ends: asked + granted.lease,
                    heartbeat: now,
                    heard: now,
                });
                self.requests.finish(raw.header.seq);
                self.on_run(granted.lease, asked, now);
            }
            _ => {}
        }
    }

    /// A run of the publisher has granted the subscription for the first time.
    fn on_run(&mut self, lease: Duration, asked: Instant, now: Instant) {
        self.candidate = None;
        self.renew = asked + lease / 4;
        self.peers.clear();
        self.requests.on_restart(now);
        self.watches.values_mut().for_each(Watch::on_restart);
        let open: Vec<FlowKey> =
            self.watches.iter().filter(|(_, watch)| watch.is_open()).map(|(key, _)| *key).collect();
        for key in open {
            self.look_up(key, now);
        }
        self.ask_page(0, now);
    }

    fn on_message(&mut self, raw: &Raw<'_>, message: Message, sender: u64, now: Instant) {
        let Some(contact) = &mut self.contact else {
            return;
        };
        let (seq, port) = (raw.header.seq, raw.header.port);
        let notification = port == 0;
        if notification && !matches!(message, Message::Heartbeat(_)) {
            contact.sequence.on_number(seq);
        }
        match &message {
            Message::Flow(flow) => {
                let asked = !notification && self.requests.find(seq, port, Purpose::Lookup(flow.key)).is_some();
                if let Some(watch) = self.watches.get_mut(&flow.key) {
                    match asked {
                        true => watch.on_answer(flow),
                        false => watch.on_flow(flow),
                    }
                }
            }
            Message::State(peer) => self.on_peer(peer),
            Message::Violation(violation) => {
                contact.violations.on_number(violation.number);
                for range in &violation.ranges {
                    if let Some(watch) = self.watches.get_mut(&range.key) {
                        watch.on_violation(range);
                    }
                }
            }
            Message::Heartbeat(heartbeat) if notification => self.on_heartbeat(heartbeat, seq, now),
            Message::Subscribed(granted) => {
                if let Some(asked) = self.requests.find(seq, port, Purpose::Subscribe) {
                    contact.lease = granted.lease;
                    contact.heard = contact.heard.max(now);
                    contact.ends = contact.ends.max(asked + granted.lease);
                    self.renew = asked + granted.lease / 4;
                    self.requests.finish(seq);
                    // A grant after a challenge in the same run is a new subscription: its numbers begin anew.
                    if self.candidate.take().is_some() {
                        contact.sequence = Sequence::new();
                        contact.gap_since = None;
                        contact.violations.on_highest(granted.violations);
                        let since = contact.mark;
                        self.ask_page(since, now);
                    }
                }
            }
            Message::Challenge(challenge) => {
                if self.requests.find(seq, port, Purpose::Subscribe).is_some() {
                    self.candidate = Some((sender, challenge.token));
                    self.requests.repeat_now(seq, now);
                }
            }
            Message::Barrier(barrier) => self.requests.on_answer(seq, port, Outcome::Barrier(barrier.level)),
            Message::Acknowledged => self.requests.on_answer(seq, port, Outcome::Acknowledged),
            Message::Refused(refusal) => self.requests.on_answer(seq, port, Outcome::Refused(refusal.clone())),
            Message::Done(done) => {
                self.on_done(seq, port, done, now);
                return;
            }
            Message::Block(_) | Message::Heartbeat(_) => {}
        }
        if raw.header.flags & flags::MULTI != 0 {
            self.requests.on_part(seq, port, now);
        }
        if self.wish.follow {
            if self.messages.len() == MAX_MESSAGES {
                self.messages.pop_front();
                self.messages_dropped += 1;
            }
            self.messages.push_back(message);
        }
    }

    fn on_peer(&mut self, told: &Peer) {
        let known = self.peers.entry(told.id).or_insert_with(|| told.clone());
        let name = told.name.clone().or(known.name.take());
        *known = Peer { name, ..*told };
    }

    fn on_heartbeat(&mut self, heartbeat: &Heartbeat, seq: u32, now: Instant) {
        heartbeat.peers.iter().for_each(|peer| self.on_peer(peer));
        let Some(contact) = &mut self.contact else {
            return;
        };
        contact.heartbeat = contact.heartbeat.max(now);
        contact.heard = contact.heard.max(now);
        contact.violations.on_highest(heartbeat.violations);
        contact.sequence.on_highest(seq);
        if !contact.sequence.has_gap() && !self.requests.has(|purpose| purpose == Purpose::Page) {
            contact.mark = contact.mark.max(heartbeat.version);
        }
    }

    fn on_done(&mut self, seq: u32, port: u32, done: &Done, now: Instant) {
        let Some((purpose, parts)) = self.requests.end_page(seq, port) else {
            return;
        };
        match purpose {
            Purpose::Lookup(key) if self.watches.get(&key).is_some_and(Watch::is_open) => {
                self.requests.retry_page(seq, now);
            }
            Purpose::Page if parts < done.count => self.requests.retry_page(seq, now),
            Purpose::Page => {
                self.requests.finish(seq);
                self.requests.on_page_whole();
                let Some(contact) = &mut self.contact else {
                    return;
                };
                contact.mark = done.version;
                if done.version < done.head {
                    return self.ask_page(done.version, now);
                }
                contact.sequence.settle(done.notified);
                contact.gap_since = None;
                contact.violations.settle(done.violations);
            }
            _ => self.requests.finish(seq),
        }
    }

    fn look_up(&mut self, key: FlowKey, now: Instant) {
        let request = Request::GetFlows { since: 0, count: 1, filter: Filter::exactly(&key) };
        if !self.requests.has(|purpose| purpose == Purpose::Lookup(key)) {
            self.requests.push(request, Purpose::Lookup(key), now);
        }
    }

    fn ask_page(&mut self, since: u64, now: Instant) {
        if !self.requests.has(|purpose| purpose == Purpose::Page) {
            let request = Request::GetFlows { since, count: self.requests.page(), filter: self.wish.filter };
            self.requests.push(request, Purpose::Page, now);
        }
    }
}

