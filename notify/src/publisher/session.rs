//! One subscriber: its lease, how far the log was sent to it, and what waits for it.
//!
//! Its state is bounded and separate: a subscriber that vanishes or never reads only costs datagrams until its lease
//! ends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::allowance::Share;
use crate::message::{Filter, Header, Level, Message};
use crate::replay::ReplayWindow;

/// Answers waiting to be sent to one subscriber.
const MAX_ANSWERS: usize = 16;
/// Pages waiting to be sent to one subscriber.
const MAX_PAGES: usize = 64;
/// Barriers remembered for one subscriber: the oldest is dropped.
const MAX_BARRIERS: usize = 16;

/// A barrier that a subscriber asked for. It is kept after its answer: the answer may be lost and asked for again.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// The request's number and port.
    pub header: Header,
    /// The id that the appliance got with it.
    pub id: u64,
    /// How it ended.
    pub outcome: Option<Option<Level>>,
}

/// The rest of a page of a dump.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The request's number and port.
    pub header: Header,
    /// Which flows.
    pub filter: Filter,
    /// The version the client asked from, or 0 if that version is not known any more.
    pub since: u64,
    /// The version up to which the page is sent.
    pub cursor: u64,
    /// Messages sent.
    pub told: u32,
    /// Messages that may still be sent.
    pub left: u32,
    /// Entries that did not match.
    pub passed: u32,
    /// The number of the last notification when the request arrived.
    pub notified: u32,
    /// The newest version when the request arrived: the page does not follow later changes.
    pub head: u64,
}

/// A subscriber.
#[derive(Debug)]
pub struct Session {
    /// The address it receives at.
    pub address: SocketAddr,
    /// Its key.
    pub key: u16,
    /// The client's epoch.
    pub epoch: u64,
    /// The counters of its requests that were seen.
    pub window: ReplayWindow,
    /// The granted lease.
    pub lease: Duration,
    /// When the lease ends.
    pub ends: Instant,
    /// The groups it subscribes to.
    pub groups: u32,
    /// Which flows.
    pub filter: Filter,
    /// Notifications so far.
    pub seq: u32,
    /// Everything up to this version was sent to it.
    pub cursor: u64,
    /// An entry of this version was forgotten before it was sent; the gap in the numbers shows it.
    pub missed: u64,
    /// Every block up to this one was sent to it, or skipped.
    pub blocks: u64,
    /// When the next heartbeat is due.
    pub heartbeat: Instant,
    /// The first link of the next heartbeat, counted from 0.
    pub heartbeat_link: usize,
    /// Answers to send.
    pub answers: VecDeque<(Header, Message)>,
    /// Barriers asked for.
    pub barriers: VecDeque<Waiting>,
    /// Pages of dumps to send; the first is being sent.
    pub pages: VecDeque<Page>,
    /// What it may still ask for.
    pub share: Share,
}

impl Session {
    /// Queues an answer; false when too many wait already.
    pub fn answer(&mut self, header: Header, message: Message) -> bool {
        let room = self.answers.len() < MAX_ANSWERS;
        if room {
            self.answers.push_back((header, message));
        }
        room
    }

    /// Queues a page; false when too many wait already. A repeated request does not queue a waiting page twice.
    pub fn begin_page(&mut self, page: Page) -> bool {
        let Header { seq, port, .. } = page.header;
        if self.pages.iter().any(|waiting| (waiting.header.seq, waiting.header.port) == (seq, port)) {
            return true;
        }
        let room = self.pages.len() < MAX_PAGES;
        if room {
            // Lookups go before dumps: until one is answered, nothing about a new connection counts.
            let is_dump = |page: &Page| page.filter.to_key().is_none();
            let dump = if is_dump(&page) { None } else { self.pages.iter().position(is_dump) };
            self.pages.insert(dump.unwrap_or(self.pages.len()), page);
        }
        room
    }

    /// Remembers a barrier; true when it is new and the appliance must be asked for it.
    pub fn wait_for(&mut self, header: Header, id: u64) -> bool {
        let same = |waiting: &&Waiting| waiting.header.seq == header.seq && waiting.header.port == header.port;
        if let Some(known) = self.barriers.iter().find(same).copied() {
            if let Some(level) = known.outcome {
                self.answer(header, Message::Barrier(crate::message::Barrier { level }));
            }
            return false;
        }
        if self.barriers.len() == MAX_BARRIERS {
            self.barriers.pop_front();
        }
        self.barriers.push_back(Waiting { header, id, outcome: None });
        true
    }

    /// The header of the next notification.
    pub fn next_notification(&self) -> Header {
        Header { flags: 0, seq: self.seq.wrapping_add(1), port: 0 }
    }
}
