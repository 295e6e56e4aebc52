//! Incoming datagrams from the publisher. A datagram that is not for this run of this client changes nothing.
//!
//! [`super::watch`] evaluates the claims.

use std::time::{Duration, Instant};

use super::core::{Contact, Core, MAX_MESSAGES};
use super::requests::{Outcome, Purpose};
use super::sequence::Sequence;
use super::violations::Violations;
use super::watch::Watch;
use crate::envelope::{Direction, Envelope};
use crate::message::{Done, FlowKey, Heartbeat, Message, Messages, Peer, Raw, flags};
use crate::replay::ReplayWindow;

impl Core {
    /// Processes a datagram from the publisher. A datagram that is not for this client changes nothing.
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
        // A challenge from the present run means that it has lost the subscription. Its counter is checked like any
        // other.
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

    /// A datagram from a run that has granted nothing yet: it may hold a challenge, or the grant that was asked for.
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
                    begun: None,
                    violations: Violations::new(granted.violations),
                    lease: granted.lease,
                    ends: asked + granted.lease,
                    heartbeat: now,
                    received: now,
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
                let news = contact.violations.on_number(violation.number);
                for range in &violation.ranges {
                    let watch = self.watches.get_mut(&range.key);
                    let lost = watch.and_then(|watch| watch.on_violation(range));
                    if let Some(lost) = lost.filter(|_| news && self.violated.len() < MAX_MESSAGES) {
                        self.violated.push_back((range.key, lost));
                    }
                }
            }
            Message::Heartbeat(heartbeat) if notification => self.on_heartbeat(heartbeat, seq, now),
            Message::Subscribed(granted) => {
                if let Some(asked) = self.requests.find(seq, port, Purpose::Subscribe) {
                    contact.lease = granted.lease;
                    contact.received = contact.received.max(now);
                    contact.ends = contact.ends.max(asked + granted.lease);
                    self.renew = asked + granted.lease / 4;
                    self.requests.finish(seq);
                    // A grant after a challenge in the same run is a new subscription: its numbers start at 1 again.
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
        contact.received = contact.received.max(now);
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
                if done.since == 0 {
                    contact.begun = Some(done.head);
                }
                if done.version < done.head {
                    return self.ask_page(done.version, now);
                }
                contact.begun = None;
                contact.sequence.settle(done.notified);
                contact.gap_since = None;
                contact.violations.settle(done.violations);
            }
            _ => self.requests.finish(seq),
        }
    }
}
