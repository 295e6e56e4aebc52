//! Outgoing datagrams: each subscriber gets the log entries after its cursor, as many messages in a datagram as fit.
//!
//! The order for one subscriber: answers, changes, blocks, the heartbeat when it is due, the page of a dump.
//! Subscribers take turns: one datagram each, or the same amount of page work each. So a budget that runs out hits all
//! of them alike. Pages wait when too much was asked for; nothing else waits.

use std::net::SocketAddr;
use std::time::Instant;

use super::allowance::LOOKED_AT;
use super::session::Session;
use super::{Entry, HEARTBEAT, Publisher};
use crate::envelope::{self, Direction, Envelope};
use crate::message::{
    Challenge, Done, GROUP_BLOCKS, GROUP_FLOWS, HEARTBEAT_PEERS, Header, Heartbeat, MAX_DATAGRAM, Message, Peer, flags,
};

/// Entries of the log looked at for one subscriber in one datagram: a filter that matches nothing must not hold up a
/// turn.
const MAX_SCAN: usize = 1024;

/// Entries skipped in one page: the page ends there, even if few matched, and the client continues from there.
const MAX_PASSED: u32 = 1024;
/// Entries skipped before the next subscriber's turn.
const MAX_PASSED_AT_ONCE: u32 = 256;

/// Page work begun for one subscriber before the next subscriber's turn. With all subscribers waiting, each has a turn
/// about every 20 ms, which is when a client repeats its request if nothing of a page has arrived. Datagrams would be a
/// bad measure: a page with a filter that matches nothing is short and the same work.
const WORK_AT_ONCE: u32 = 16;

/// Where a datagram goes and how it is sealed.
struct Seal {
    address: SocketAddr,
    key: u16,
    receiver: u64,
}

impl Publisher {
    /// Builds up to `most` datagrams, passes each to `send`, and returns how many. `send` returns whether the socket
    /// took the datagram. A datagram that it refused is counted and not tried again: its content is repeated anyway. If
    /// `most` were sent, call again in the next turn.
    pub fn poll_datagrams(
        &mut self,
        most: usize,
        now: Instant,
        mut send: impl FnMut(SocketAddr, &[u8]) -> bool,
    ) -> usize {
        let mut sent = 0;
        while sent < most {
            let Some((asker, header, refusal)) = self.unsubscribed.pop_front() else {
                break;
            };
            let answer = match refusal {
                Some(refusal) => Message::Refused(refusal),
                None => Message::Challenge(Challenge { token: self.challenger.token(&asker, now) }),
            };
            self.begin();
            answer.emit(header, &mut self.datagram);
            let seal = Seal { address: asker.address, key: asker.key, receiver: asker.epoch };
            sent += self.finish(&seal, &mut send);
        }
        sent + self.send_to_subscribers(most - sent, now, &mut send)
    }

    /// Each subscriber gets a datagram, or a few of a page; then each that has more gets as much again. No subscriber
    /// waits for all that another one has asked for.
    fn send_to_subscribers(
        &mut self,
        most: usize,
        now: Instant,
        send: &mut impl FnMut(SocketAddr, &[u8]) -> bool,
    ) -> usize {
        self.allowance.begin_turn();
        self.resume = None;
        let count = self.sessions.len();
        let first = self.first;
        let mut round = std::mem::take(&mut self.round);
        round.clear();
        round.extend((0..count).map(|turn| (first + turn) % count));
        self.first = if count == 0 { 0 } else { (first + 1) % count };
        let mut sent = 0;
        let mut is_found = false;
        let mut left = WORK_AT_ONCE;
        while let Some(at) = round.pop_front() {
            // The next turn begins with the interrupted subscriber, unless it had a part of its turn already.
            let next = if left < WORK_AT_ONCE { (at + 1) % count } else { at };
            if sent == most {
                self.first = next;
                self.resume = Some(now);
                break;
            }
            if !is_found && !self.sessions[at].pages.is_empty() && self.allowance.is_spent(now) {
                // This subscriber and those after it wait for their pages.
                is_found = true;
                self.first = next;
            }
            let more = self.fill(at, &mut left, now);
            let has_turn = 0 < left && left < WORK_AT_ONCE;
            if self.datagram.len() > envelope::LEN {
                let session = &self.sessions[at];
                let seal = Seal { address: session.address, key: session.key, receiver: session.epoch };
                sent += self.finish(&seal, send);
                match more {
                    true if has_turn => {
                        round.push_front(at);
                        continue;
                    }
                    true => round.push_back(at),
                    false => {}
                }
            } else if more && left < WORK_AT_ONCE {
                // It is still looking for entries that match, and continues after the turns of the others.
                round.push_back(at);
            } else if more {
                // Nothing to send, but more entries to look at: the rest is for the next turn.
                self.resume = Some(now);
            }
            left = WORK_AT_ONCE;
        }
        self.round = round;
        let waiting = self.sessions.iter().filter(|session| !session.pages.is_empty());
        let goes_on = waiting.map(|session| self.allowance.when_sent(&session.share, now));
        self.resume = self.resume.into_iter().chain(goes_on).min();
        sent
    }

    fn begin(&mut self) {
        self.datagram.clear();
        self.datagram.resize(envelope::LEN, 0);
    }

    fn finish(&mut self, seal: &Seal, send: &mut impl FnMut(SocketAddr, &[u8]) -> bool) -> usize {
        // A key is not removed while sessions use it. If it were missing, silence is the safe answer.
        let Some(key) = self.keys.find(seal.key) else {
            return 0;
        };
        self.datagram_count += 1;
        let envelope = Envelope {
            direction: Direction::Notification,
            key: seal.key,
            sender: self.epoch,
            receiver: seal.receiver,
            counter: self.datagram_count,
        };
        key.seal(&envelope, &mut self.datagram);
        match send(seal.address, &self.datagram) {
            true => self.counters.sent += 1,
            false => self.counters.send_errors += 1,
        }
        1
    }

    /// Fills a datagram for a subscriber; true when there is more for it than fits. `left` is the page work that may
    /// still be begun.
    fn fill(&mut self, at: usize, left: &mut u32, now: Instant) -> bool {
        self.begin();
        self.fill_answers(at)
            || self.fill_changes(at)
            || self.fill_blocks(at)
            || self.fill_heartbeat(at, now)
            || self.fill_pages(at, left, now)
    }

    fn fill_answers(&mut self, at: usize) -> bool {
        let session = &mut self.sessions[at];
        while let Some((header, answer)) = session.answers.front() {
            if !append(&mut self.datagram, |out| answer.emit(*header, out)) {
                return true;
            }
            session.answers.pop_front();
        }
        false
    }

    fn fill_changes(&mut self, at: usize) -> bool {
        let session = &mut self.sessions[at];
        if session.groups & GROUP_FLOWS == 0 {
            session.cursor = self.log.version();
            return false;
        }
        if self.forgotten > session.cursor.max(session.missed) {
            // The gap in the numbers shows it to the subscriber.
            session.missed = self.forgotten;
            session.seq = session.seq.wrapping_add(1);
        }
        for (scanned, (version, told)) in self.log.after(session.cursor).enumerate() {
            if scanned == MAX_SCAN {
                return true;
            }
            if is_wanted(told, &session.filter) {
                let header = session.next_notification();
                if !append(&mut self.datagram, |out| emit(told, header, out)) {
                    return true;
                }
                session.seq = header.seq;
            }
            session.cursor = version;
        }
        false
    }

    fn fill_blocks(&mut self, at: usize) -> bool {
        let session = &mut self.sessions[at];
        if session.groups & GROUP_BLOCKS == 0 {
            session.blocks = self.block_count;
            return false;
        }
        let waiting = self.block_count - session.blocks;
        let skipped = waiting.saturating_sub(self.blocks.len() as u64);
        if skipped > 0 {
            // The gap in the numbers shows it to the subscriber.
            session.seq = session.seq.wrapping_add(skipped as u32);
            session.blocks += skipped;
            self.counters.blocks_skipped += skipped;
        }
        let oldest = self.blocks.len() - (self.block_count - session.blocks) as usize;
        for block in self.blocks.range(oldest..) {
            let header = session.next_notification();
            if !append(&mut self.datagram, |out| block.emit(header, out)) {
                return true;
            }
            session.seq = header.seq;
            session.blocks += 1;
        }
        false
    }

    fn fill_pages(&mut self, at: usize, left: &mut u32, now: Instant) -> bool {
        while !self.sessions[at].pages.is_empty() {
            if !self.allowance.may_send(&self.sessions[at].share, now) {
                return false;
            }
            if *left == 0 {
                return true;
            }
            let mut work = 0;
            let more = self.fill_page(at, &mut work);
            self.allowance.on_sent(&mut self.sessions[at].share, work, now);
            *left = left.saturating_sub(work);
            if more {
                return true;
            }
        }
        false
    }

    /// Appends the rest of a page, or what fits of it; true when there is more. Adds to `work`.
    fn fill_page(&mut self, at: usize, work: &mut u32) -> bool {
        let Session { pages, .. } = &mut self.sessions[at];
        let Some(page) = pages.front_mut() else {
            return false;
        };
        let header = Header { flags: flags::MULTI, ..page.header };
        let exact = page.filter.to_key().and_then(|key| self.flows.get(&key).copied());
        if page.filter.to_key().is_some() {
            // One flow is found without a walk and sent only here, so that the page has exactly one message or none.
            let told = exact.and_then(|slot| self.log.value(slot));
            if let Some(told) = told.filter(|told| is_wanted(told, &page.filter) && page.told == 0) {
                if !append(&mut self.datagram, |out| emit(told, header, out)) {
                    return true;
                }
                page.told = 1;
                *work += 1;
            }
            // Everything about this flow is sent. With a cursor below the head the client would ask on in vain.
            page.cursor = page.head;
        } else {
            let mut passed = 0u32;
            for (version, told) in self.log.after(page.cursor) {
                // Changes after the request are sent as notifications.
                if page.left == 0 || page.passed == MAX_PASSED || version > page.head {
                    break;
                }
                if passed == MAX_PASSED_AT_ONCE {
                    *work += passed.div_ceil(LOOKED_AT);
                    return true;
                }
                if is_wanted(told, &page.filter) {
                    if !append(&mut self.datagram, |out| emit(told, header, out)) {
                        *work += passed.div_ceil(LOOKED_AT);
                        return true;
                    }
                    page.told += 1;
                    page.left -= 1;
                    *work += 1;
                } else {
                    passed += 1;
                    page.passed += 1;
                }
                page.cursor = version;
            }
            *work += passed.div_ceil(LOOKED_AT);
            if self.log.after(page.cursor).next().is_none_or(|(version, _)| version > page.head) {
                page.cursor = page.head;
            }
        }
        let done = Done {
            count: page.told,
            since: page.since,
            version: page.cursor,
            head: page.head,
            notified: page.notified,
            violations: self.violation_count,
        };
        if !append(&mut self.datagram, |out| done.emit(page.header, out)) {
            return true;
        }
        *work += 1;
        pages.pop_front();
        false
    }

    fn fill_heartbeat(&mut self, at: usize, now: Instant) -> bool {
        let session = &mut self.sessions[at];
        if session.heartbeat > now {
            return false;
        }
        // Where there are more links than fit, each heartbeat has the next ones.
        let (of_links, first) = (self.peers.len(), session.heartbeat_link);
        let next = self.peers.iter().cycle().skip(first).take(of_links.min(HEARTBEAT_PEERS));
        let peers = next.filter_map(|(_, slot)| match self.log.value(*slot) {
            Some(Entry::Peer(peer)) => Some(Peer { name: None, ..*peer }),
            _ => None,
        });
        let heartbeat = Heartbeat { version: session.cursor, violations: self.violation_count, peers: peers.collect() };
        let header = Header { flags: 0, seq: session.seq, port: 0 };
        if !append(&mut self.datagram, |out| heartbeat.emit(header, out)) {
            return true;
        }
        // After a pause of the whole appliance one heartbeat is enough.
        session.heartbeat = (session.heartbeat + HEARTBEAT).max(now + HEARTBEAT / 2);
        session.heartbeat_link = (first + of_links.min(HEARTBEAT_PEERS)) % of_links.max(1);
        false
    }
}

/// Appends a message unless the datagram would get too long.
fn append(datagram: &mut Vec<u8>, emit: impl FnOnce(&mut Vec<u8>)) -> bool {
    let before = datagram.len();
    emit(datagram);
    // Alone in its datagram a message always fits: each `emit` documents its longest form.
    let fits = datagram.len() <= MAX_DATAGRAM || before <= envelope::LEN;
    if !fits {
        datagram.truncate(before);
    }
    fits
}

fn is_wanted(entry: &Entry, filter: &crate::message::Filter) -> bool {
    match entry {
        Entry::Flow(flow) => filter.matches(&flow.key, flow.cookie),
        // Links and violations concern every subscriber; a violation of other flows is sent too, and does no harm.
        Entry::Peer(_) | Entry::Violation(_) => true,
    }
}

fn emit(entry: &Entry, header: Header, out: &mut Vec<u8>) {
    match entry {
        Entry::Flow(flow) => flow.emit(header, out),
        Entry::Peer(peer) => crate::message::emit_state(peer, header, out),
        Entry::Violation(violation) => violation.emit(header, out),
    }
}
