//! Incoming requests: which are accepted, and what they do.
//!
//! The checks in order: the envelope opens → it is for this run → address, key and epoch belong to a subscriber, and
//! the counter is new → the request is well formed. A datagram that fails before the last check is counted and not
//! answered: an answer would only serve a forger. An unknown sender may only subscribe, and must first prove that it
//! receives at its address.
//!
//! A request beyond its sender's share ([`super::allowance`]) is counted and dropped, too. The client repeats it, with
//! longer and longer waits, as if it were lost. An answer would cost the work that the limit saves, and a program would
//! take it as final.

use std::net::SocketAddr;
use std::time::Instant;

use super::allowance::Share;
use super::challenge::Sender;
use super::session::{Page, Session};
use super::{Asked, HEARTBEAT, Publisher};
use crate::envelope::{Direction, Envelope, Forged};
use crate::message::{Filter, Header, Message, Messages, Raw, Refusal, RefusalCode, Request, Subscribed, Token};
use crate::replay::ReplayWindow;

/// Waiting answers to senders without a subscription.
const UNSUBSCRIBED_MAX: usize = 64;
/// Requests to the appliance that it has not taken yet.
const MAX_ASKED: usize = 256;
/// Requests in one datagram.
const MAX_REQUESTS: usize = 4;

impl Publisher {
    /// Processes a datagram from a client. A refused datagram is counted by its fault.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let keys = std::mem::take(&mut self.keys);
        match keys.open(Direction::Request, datagram) {
            Ok((envelope, messages)) => self.on_opened(from, &envelope, messages, now),
            Err(Forged::NotOurs) => self.counters.not_ours += 1,
            Err(Forged::Direction) => self.counters.wrong_direction += 1,
            Err(Forged::UnknownKey | Forged::Tag) => self.counters.forged += 1,
        }
        self.keys = keys;
    }

    fn on_opened(&mut self, from: SocketAddr, envelope: &Envelope, messages: &[u8], now: Instant) {
        let asker = Sender { address: from, key: envelope.key, epoch: envelope.sender };
        let ours = envelope.receiver == self.epoch;
        if !ours && envelope.receiver != 0 {
            // A client of an earlier run learns of this one by the challenge: only its subscription is looked at.
            self.counters.old_epoch += 1;
            return self.on_unsubscribed(&asker, false, messages, now);
        }
        let known = |session: &Session| {
            session.address == from && session.key == envelope.key && session.epoch == envelope.sender
        };
        let Some(at) = self.sessions.iter().position(known).filter(|_| ours) else {
            return self.on_unsubscribed(&asker, ours, messages, now);
        };
        if !self.sessions[at].window.accept(envelope.counter) {
            self.counters.replayed += 1;
            return;
        }
        for raw in Messages::new(messages).take(MAX_REQUESTS) {
            let Ok(raw) = raw else {
                self.counters.not_ours += 1;
                return;
            };
            if !self.on_request(at, &raw, now) {
                return;
            }
        }
    }

    /// A datagram from a sender without a subscription, which may ask for one.
    fn on_unsubscribed(&mut self, asker: &Sender, ours: bool, messages: &[u8], now: Instant) {
        let Some(Ok(raw)) = Messages::new(messages).next() else {
            self.counters.not_ours += 1;
            return;
        };
        let Ok(request @ Request::Subscribe { token, .. }) = Request::parse(&raw) else {
            self.counters.not_subscribed += 1;
            return;
        };
        if !self.allowance.take_newcomer(asker.address, asker.key, now) {
            return self.on_excess(asker.address, asker.key);
        }
        let header = answer_to(&raw);
        if !ours || !self.challenger.accepts(asker, &token, now) {
            self.counters.challenged += 1;
            match self.unsubscribed.len() < UNSUBSCRIBED_MAX {
                true => self.unsubscribed.push_back((*asker, header, None)),
                false => self.counters.answers_dropped += 1,
            }
            return;
        }
        // An earlier run of the client at the same address keeps its session until its lease ends. If it ended here, a
        // recorded subscription of an earlier run could end the session of the present one.
        let refusal = self.limit_reached(asker);
        self.sessions.push(Session {
            address: asker.address,
            key: asker.key,
            epoch: asker.epoch,
            // The subscription itself needs no place in the window: replayed, it only renews, while its token is valid.
            window: ReplayWindow::default(),
            lease: self.limits.least_lease,
            ends: now,
            groups: 0,
            filter: Filter::default(),
            seq: 0,
            cursor: self.log.version(),
            missed: self.forgotten,
            blocks: self.block_count,
            heartbeat: now,
            heartbeat_link: 0,
            answers: Default::default(),
            barriers: Default::default(),
            pages: Default::default(),
            share: Share::new(now),
        });
        let at = self.sessions.len() - 1;
        match refusal {
            None => {
                self.on_subscribe(at, header, request, now);
                self.counters.requests += 1;
            }
            Some(text) => {
                self.sessions.pop();
                self.counters.full += 1;
                self.counters.refused += 1;
                let refusal = Refusal { code: RefusalCode::Full, offset: None, text: text.into() };
                match self.unsubscribed.len() < UNSUBSCRIBED_MAX {
                    true => self.unsubscribed.push_back((*asker, header, Some(refusal))),
                    false => self.counters.answers_dropped += 1,
                }
            }
        }
    }

    fn limit_reached(&self, asker: &Sender) -> Option<&'static str> {
        let count = |same: &dyn Fn(&Session) -> bool| self.sessions.iter().filter(|session| same(session)).count();
        if self.sessions.len() >= self.limits.subscribers {
            Some("too many subscribers: end one or wait for a lease to end")
        } else if count(&|session| session.key == asker.key) >= self.limits.subscribers_per_key {
            Some("too many subscribers with this key: end one or use another key")
        } else if count(&|session| session.address.ip() == asker.address.ip()) >= self.limits.subscribers_per_address {
            Some("too many subscribers at this address: end one")
        } else {
            None
        }
    }

    /// A request of a subscriber; false when the subscription is over.
    fn on_request(&mut self, at: usize, raw: &Raw<'_>, now: Instant) -> bool {
        let header = answer_to(raw);
        let request = Request::parse(raw);
        let Session { address, key, share, .. } = &mut self.sessions[at];
        let granted = match request {
            Ok(Request::Subscribe { .. }) => share.take_renewal(now),
            // Pages are paid for when they are sent. The end of a subscription is less work than its beginning.
            Ok(Request::GetFlows { .. } | Request::Unsubscribe) => true,
            Ok(_) | Err(_) => self.allowance.take_ask(share, now),
        };
        if !granted {
            let (address, key) = (*address, *key);
            self.on_excess(address, key);
            return true;
        }
        self.counters.requests += 1;
        let answer = match request {
            Ok(Request::Unsubscribe) => {
                self.sessions.swap_remove(at);
                return false;
            }
            Ok(request @ Request::Subscribe { .. }) => {
                self.on_subscribe(at, header, request, now);
                return true;
            }
            Ok(Request::GetFlows { since, begun, count, filter }) => {
                let since = self.since_when(since, begun);
                self.on_page(at, header, since, count, filter);
                return true;
            }
            Ok(Request::Register { key, cookie }) => self.ask(Asked::Register { key, cookie }),
            // Blocks are closed at the end of the turn: one flush serves any number of requests.
            Ok(Request::Flush) if self.asked.contains(&Asked::Flush) => Message::Acknowledged,
            Ok(Request::Flush) => self.ask(Asked::Flush),
            Ok(Request::Barrier) => {
                let id = self.barrier_count + 1;
                if self.asked.len() >= MAX_ASKED {
                    refused_full()
                } else {
                    if self.sessions[at].wait_for(header, id) {
                        self.barrier_count = id;
                        self.asked.push_back(Asked::Barrier { id });
                    }
                    return true;
                }
            }
            Err(refusal) => Message::Refused(refusal),
        };
        self.counters.refused += u64::from(matches!(answer, Message::Refused(_)));
        self.counters.answers_dropped += u64::from(!self.sessions[at].answer(header, answer));
        true
    }

    fn ask(&mut self, asked: Asked) -> Message {
        if self.asked.len() >= MAX_ASKED {
            return refused_full();
        }
        self.asked.push_back(asked);
        Message::Acknowledged
    }

    fn on_subscribe(&mut self, at: usize, header: Header, request: Request, now: Instant) {
        let Request::Subscribe { lease, groups, filter, token: Token(_) } = request else {
            return;
        };
        let lease = lease.clamp(self.limits.least_lease, self.limits.most_lease);
        let violations = self.violation_count;
        let session = &mut self.sessions[at];
        session.lease = lease;
        session.ends = now + lease;
        if session.groups & crate::message::GROUP_BLOCKS == 0 {
            session.blocks = self.block_count;
        }
        session.groups = groups;
        session.filter = filter;
        let answer = Message::Subscribed(Subscribed { lease, heartbeat: HEARTBEAT, violations });
        self.counters.answers_dropped += u64::from(!session.answer(header, answer));
    }

    /// The version after which a page must begin, for a client that asks for what changed after `since`.
    fn since_when(&self, since: u64, begun: Option<u64>) -> u64 {
        // A forgotten flow cannot be reported as gone, so the page must hold everything. A full dump need not report
        // flows that were gone before it began, so it may continue: otherwise it would start again for ever while flows
        // come and go.
        let is_known = since >= self.forgotten || begun.is_some_and(|head| head >= self.forgotten && head >= since);
        // A version from the future is invalid: the page holds everything, too.
        if is_known && since.max(begun.unwrap_or(0)) <= self.log.version() { since } else { 0 }
    }

    fn on_page(&mut self, at: usize, header: Header, since: u64, count: u32, filter: Filter) {
        let head = self.log.version();
        let session = &mut self.sessions[at];
        let begun = session.begin_page(Page {
            header,
            filter,
            since,
            cursor: since,
            told: 0,
            left: count.clamp(1, self.limits.page),
            passed: 0,
            notified: session.seq,
            head,
        });
        if !begun {
            let (address, key) = (session.address, session.key);
            self.on_excess(address, key);
        }
    }

    /// Counts a request that is dropped because its sender asks for more than its share.
    fn on_excess(&mut self, address: SocketAddr, key: u16) {
        self.counters.excess += 1;
        self.excessive = Some((address, key));
    }
}

fn refused_full() -> Message {
    let text = "too many requests are waiting: ask again later";
    Message::Refused(Refusal { code: RefusalCode::Full, offset: None, text: text.into() })
}

fn answer_to(raw: &Raw<'_>) -> Header {
    Header { flags: 0, seq: raw.header.seq, port: raw.header.port }
}
