//! The client without a socket or a clock: what a program asks, and the datagrams that go out. Those that come in are
//! in [`super::receive`].
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
use crate::envelope::{self, Direction, Envelope, Key, KeyRing};
use crate::message::{Filter, FlowKey, GROUP_BLOCKS, GROUP_FLOWS, Level, LinkState, Message, Peer, Request, Token};
use crate::replay::ReplayWindow;

/// Without a heartbeat for this long the subscription is asked for again: the appliance may have restarted.
const SILENCE: Duration = Duration::from_millis(250);
/// How long a gap may last before it is asked about: the repetitions may fill it, and reordering does.
const GAP: Duration = Duration::from_millis(15);
/// Flows watched at once.
const MAX_WATCHES: usize = 65_536;
/// Messages kept for [`Core::poll_message`].
pub(super) const MAX_MESSAGES: usize = 4096;

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

impl Wish {
    /// To be given every message about these flows, and about each block too if `blocks`.
    pub fn following(filter: Filter, blocks: bool) -> Wish {
        let groups = if blocks { GROUP_FLOWS | GROUP_BLOCKS } else { GROUP_FLOWS };
        Wish { follow: true, groups, filter, ..Wish::default() }
    }
}

/// A run of the publisher whose subscription was granted.
#[derive(Debug)]
pub(super) struct Contact {
    pub(super) epoch: u64,
    pub(super) window: ReplayWindow,
    pub(super) sequence: Sequence,
    pub(super) gap_since: Option<Instant>,
    /// Everything up to this version is known.
    pub(super) mark: u64,
    /// A dump of all goes on whose first page had this head.
    pub(super) begun: Option<u64>,
    pub(super) violations: Violations,
    pub(super) lease: Duration,
    /// When the present lease ends, counted from when it was asked for.
    pub(super) ends: Instant,
    pub(super) heartbeat: Instant,
    /// The last heartbeat or grant.
    pub(super) heard: Instant,
}

/// The state of a client.
#[derive(Debug)]
pub struct Core {
    pub(super) key: Key,
    pub(super) ring: KeyRing,
    pub(super) wish: Wish,
    pub(super) epoch: u64,
    /// Datagrams sent.
    pub(super) count: u64,
    pub(super) requests: Requests,
    /// A publisher that answered with a challenge and has not granted anything.
    pub(super) candidate: Option<(u64, Token)>,
    pub(super) contact: Option<Contact>,
    pub(super) renew: Instant,
    pub(super) peers: BTreeMap<u32, Peer>,
    pub(super) watches: HashMap<FlowKey, Watch>,
    /// Lost ranges of watched flows that the program has not taken.
    pub(super) violated: VecDeque<(FlowKey, std::ops::Range<u64>)>,
    pub(super) messages: VecDeque<Message>,
    pub(super) messages_dropped: u64,
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
            violated: VecDeque::new(),
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

    /// Up to which offset of a watched flow everything was claimed at `least` or better: for people. Violations and lost
    /// contact do not lower it, so decide by [`Core::status`].
    pub fn covered(&self, key: &FlowKey, least: Level) -> u64 {
        self.watches.get(key).map_or(0, |watch| watch.covered(least))
    }

    /// Bytes of a watched flow that were lost after they had been called protected, as offsets in the stream: each range that is
    /// told, once. For people and counters: [`Core::status`] takes losses into account by itself.
    pub fn poll_violation(&mut self) -> Option<(FlowKey, std::ops::Range<u64>)> {
        self.violated.pop_front()
    }

    /// The lowest offset of a watched flow that is lost and was called protected. It may be known without its range.
    pub fn lowest_loss(&self, key: &FlowKey) -> Option<u64> {
        self.watches.get(key).and_then(Watch::lowest_loss)
    }

    /// The run of the publisher that has granted the subscription: another number after a restart.
    pub fn run(&self) -> Option<u64> {
        self.contact.as_ref().map(|contact| contact.epoch)
    }

    /// When the last heartbeat came, or the subscription was granted; `None` before that.
    pub fn last_heard(&self) -> Option<Instant> {
        self.contact.as_ref().map(|contact| contact.heard)
    }

    /// Whether everything that this run of the publisher had to tell has come: the dump at the beginning is whole and
    /// nothing is missing since.
    pub fn is_complete(&self) -> bool {
        !self.is_stale() && !self.requests.has(|purpose| purpose == Purpose::Page)
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
            // A loss that was counted and is not known of may have been forgotten before it was told.
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
