//! Sessions with one peer on one lane: which key seals, which keys still open, and what was seen under each.
//!
//! As in WireGuard there are up to three. `current` seals. `previous` still opens what was under way when keys changed.
//! `next` is a responder's new session: it becomes current with the first authentic datagram under it, because only
//! that proves that the initiator has the key. Keys are agreed elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handshake::{Established, Role};
use super::hello::Hello;
use super::loss::Loss;
use super::replay::{Freshness, ReplayWindow};
use super::seal::{Counter, OpeningKey, SealingKey};
use crate::wire::datagram::{DatagramType, Header, TAG_LEN, count_of};
use crate::wire::report::Reception;

/// A session this old neither seals nor opens (WireGuard's `REJECT_AFTER_TIME`).
pub const REJECT_AFTER: Duration = Duration::from_secs(180);

/// One pair of keys and what was sent and seen under it on this lane.
#[derive(Debug)]
pub struct Session {
    local_index: u32,
    remote_index: u32,
    sealing: Arc<SealingKey>,
    opening: Arc<OpeningKey>,
    counter: Counter,
    window: ReplayWindow,
    loss: Loss,
    remote: Hello,
    established_at: Instant,
    heard: bool,
}

impl Session {
    fn new(established: &Established, lane: u8) -> Self {
        Self {
            local_index: established.local_index,
            remote_index: established.remote_index,
            sealing: Arc::clone(&established.sealing),
            opening: Arc::clone(&established.opening),
            counter: Counter::new(lane),
            window: ReplayWindow::new(),
            loss: Loss::default(),
            remote: established.remote,
            established_at: established.at,
            heard: false,
        }
    }

    /// The header of the next datagram. Only called while [`can_seal`](Self::can_seal).
    pub fn next_header(&mut self, datagram_type: DatagramType) -> Header {
        let counter = self.counter.take().expect("a session is replaced long before its counter ends");
        Header { datagram_type, receiver_index: self.remote_index, counter }
    }

    /// Seals `text` in place; the tag goes behind it.
    pub fn seal(&self, counter: u64, clear: &[u8], text: &mut [u8]) -> [u8; TAG_LEN] {
        self.sealing.seal(counter, clear, text)
    }

    /// Opens `sealed`, text and tag, in place.
    pub fn open<'a>(&self, counter: u64, clear: &[u8], sealed: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.opening.open(counter, clear, sealed)
    }

    /// Notes an authentic datagram; tells whether it is the newest so far.
    pub fn accept(&mut self, counter: u64) -> (Freshness, bool) {
        let count = count_of(counter);
        let newest = !self.heard || count > self.window.highest();
        let freshness = self.window.accept(count);
        if freshness == Freshness::Fresh {
            self.heard = true;
            self.loss.on_datagram(count);
        }
        (freshness, newest)
    }

    /// The session may still be used for sending.
    pub fn can_seal(&self, now: Instant) -> bool {
        !self.counter.is_exhausted() && !self.is_expired(now)
    }

    /// So much was sealed that a new session is due whatever its age.
    pub fn wants_rekey(&self) -> bool {
        self.counter.wants_rekey()
    }

    /// Too old to seal or open.
    pub fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.established_at) >= REJECT_AFTER
    }

    /// Something authentic came under this session.
    pub fn is_heard(&self) -> bool {
        self.heard
    }

    /// When its handshake ended.
    pub fn established_at(&self) -> Instant {
        self.established_at
    }

    /// What the peer told of itself.
    pub fn remote(&self) -> &Hello {
        &self.remote
    }

    fn add_to(&self, reception: &mut Reception) {
        reception.received += self.loss.received();
        reception.lost += self.loss.lost();
        for (sum, runs) in reception.burst_lengths.iter_mut().zip(self.loss.burst_lengths()) {
            *sum += runs;
        }
    }
}

/// What a new session means for what is known of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The same run of the peer, new keys.
    Rekeyed,
    /// The peer was started anew, or is heard for the first time: its blocks are numbered from the beginning.
    NewEpoch,
}

/// The sessions with one peer.
#[derive(Debug, Default)]
pub struct Sessions {
    current: Option<Session>,
    previous: Option<Session>,
    next: Option<Session>,
    epoch: Option<u64>,
    established: u64,
    confirmed: Option<u32>,
    /// What was received under sessions that are gone.
    retired: Reception,
}

impl Sessions {
    /// Takes the keys of a finished handshake; `Some` if they are in use at once.
    pub fn install(&mut self, established: &Established, lane: u8) -> Option<Change> {
        self.established += 1;
        let session = Session::new(established, lane);
        match established.role {
            Role::Initiator => Some(self.promote(session)),
            Role::Responder => {
                let displaced = self.next.replace(session);
                self.retire(displaced);
                None
            }
        }
    }

    /// The session that a datagram with this receiver index belongs to.
    pub fn find(&mut self, receiver_index: u32) -> Option<&mut Session> {
        [&mut self.current, &mut self.previous, &mut self.next]
            .into_iter()
            .flatten()
            .find(|session| session.local_index == receiver_index)
    }

    /// Notes an authentic datagram under this index: the responder's next session is in use from now on.
    pub fn confirm(&mut self, receiver_index: u32) -> Option<Change> {
        let session = self.next.take_if(|next| next.local_index == receiver_index)?;
        self.confirmed = Some(receiver_index);
        Some(self.promote(session))
    }

    /// The receiver index that [`confirm`](Self::confirm) was last called for, told once.
    pub fn poll_confirmed(&mut self) -> Option<u32> {
        self.confirmed.take()
    }

    /// The session that seals, if there is one that may.
    pub fn sealing(&mut self, now: Instant) -> Option<&mut Session> {
        self.current.as_mut().filter(|session| session.can_seal(now))
    }

    /// The session in use.
    pub fn current(&self) -> Option<&Session> {
        self.current.as_ref()
    }

    /// Receiver indices that datagrams may carry.
    pub fn indices(&self) -> impl Iterator<Item = u32> + '_ {
        [&self.current, &self.previous, &self.next].into_iter().flatten().map(|session| session.local_index)
    }

    /// The peer's epoch, once known.
    pub fn epoch(&self) -> Option<u64> {
        self.epoch
    }

    /// Handshakes finished.
    pub fn established(&self) -> u64 {
        self.established
    }

    /// Adds what was received under all sessions, gone and present.
    pub fn add_to(&self, reception: &mut Reception) {
        reception.add(&self.retired);
        for session in [&self.current, &self.previous, &self.next].into_iter().flatten() {
            session.add_to(reception);
        }
    }

    fn promote(&mut self, session: Session) -> Change {
        let change = if self.epoch == Some(session.remote.epoch) { Change::Rekeyed } else { Change::NewEpoch };
        self.epoch = Some(session.remote.epoch);
        let displaced = self.previous.take();
        self.retire(displaced);
        self.previous = self.current.replace(session);
        if change == Change::NewEpoch {
            // What an earlier run of the peer sealed would be numbered against this one's blocks.
            let displaced = self.previous.take();
            self.retire(displaced);
        }
        change
    }

    fn retire(&mut self, session: Option<Session>) {
        if let Some(session) = session {
            session.add_to(&mut self.retired);
        }
    }
}
