//! Sessions with one peer on one lane: which key seals, which keys still open, and what was seen under each.
//!
//! As in WireGuard there are up to three. `current` seals. `previous` still opens what was under way when the keys
//! changed. `next` is a responder's new session: it becomes current with the first authentic datagram under it, because
//! only that proves that the initiator has the key. Keys are agreed in [`super::handshake`].

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use super::datagram_loss::Loss;
use super::handshake::{Established, REJECT_AFTER, Role};
use super::hello::Hello;
use super::replay::{Freshness, ReplayWindow};
use super::seal::{Counter, OpeningKey, SealingKey};
use crate::wire::datagram::{DatagramType, Header, TAG_LEN, count_of};
use crate::wire::report::{LossRun, Reception};

/// One pair of keys, and what was sent and received under it on this lane.
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
    local: Option<IpAddr>,
    established_at: Instant,
    heard: bool,
    /// `confirm` has noted that a datagram came under it.
    told: bool,
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
            local: established.endpoint.local,
            established_at: established.at,
            heard: false,
            told: false,
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

    /// Notes an authentic datagram; also returns whether its counter is the highest so far.
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

    /// Appends the newest final runs of the peer's datagrams that did not arrive, at most `most`, for a report under this
    /// session.
    pub fn tell_runs(&mut self, most: usize, runs: &mut Vec<LossRun>, now: Instant) {
        self.loss.tell_runs(most, runs, now);
    }

    /// The session may still be used for sending.
    pub fn can_seal(&self, now: Instant) -> bool {
        !self.counter.is_exhausted() && !self.is_expired(now)
    }

    /// A new session is due: enough was sealed, or enough time has passed.
    pub fn is_worn(&self, now: Instant) -> bool {
        self.counter.wants_rekey() || self.is_expired(now)
    }

    /// Too old to seal or open.
    pub fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.established_at) >= REJECT_AFTER
    }

    /// When its handshake ended.
    pub fn established_at(&self) -> Instant {
        self.established_at
    }

    /// The peer's hello.
    pub fn remote(&self) -> &Hello {
        &self.remote
    }

    /// Our own address for this session; `None`: the kernel chooses.
    pub fn local(&self) -> Option<IpAddr> {
        self.local
    }

    fn add_to(&self, reception: &mut Reception) {
        reception.received += self.loss.received();
        reception.lost += self.loss.lost();
        for (sum, runs) in reception.burst_lengths.iter_mut().zip(self.loss.burst_lengths()) {
            *sum += runs;
        }
    }
}

/// What a new session means for the state of the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The same run of the peer, new keys.
    Rekeyed,
    /// The peer was restarted, or this is its first session: its blocks are numbered from the beginning.
    NewEpoch,
}

/// The sessions with one peer.
#[derive(Debug, Default)]
pub struct Sessions {
    current: Option<Session>,
    previous: Option<Session>,
    next: Option<Session>,
    /// `previous` is of a handshake that crossed the one of `current`: the peer may still use it.
    crossed: bool,
    epoch: Option<u64>,
    established: u64,
    confirmed: Option<u32>,
    /// What was received under sessions that are gone.
    retired: Reception,
}

impl Sessions {
    /// Takes the keys of a finished handshake; `Some` if they are in use at once. A session that is here already stays as it
    /// is: a second one under its keys would use their counters again.
    pub fn install(&mut self, established: &Established, lane: u8) -> Option<Change> {
        let is_it = |known: &Session| {
            known.local_index == established.local_index && Arc::ptr_eq(&known.sealing, &established.sealing)
        };
        if [&self.current, &self.previous, &self.next].into_iter().flatten().any(is_it) {
            return None;
        }
        self.established += 1;
        let session = Session::new(established, lane);
        match established.role {
            Role::Initiator => {
                // Both ends may have begun a handshake at the same time. The peer uses the session that it began until
                // a datagram of this one arrives there, so that session still opens. But it must not become the sealing
                // one when a late datagram comes under it: the peer may have dropped it by then.
                let pending = self.next.take_if(|next| next.remote.epoch == session.remote.epoch);
                self.crossed = pending.is_some();
                Some(self.promote(session, pending))
            }
            Role::Responder => {
                let displaced = self.next.replace(session);
                self.retire(displaced);
                None
            }
        }
    }

    /// Ends all sessions. What was counted stays.
    pub fn end(&mut self) {
        for session in [self.current.take(), self.previous.take(), self.next.take()] {
            self.retire(session);
        }
        (self.crossed, self.confirmed) = (false, None);
    }

    /// The session that a datagram with this receiver index belongs to.
    pub fn find(&mut self, receiver_index: u32) -> Option<&mut Session> {
        [&mut self.current, &mut self.previous, &mut self.next]
            .into_iter()
            .flatten()
            .find(|session| session.local_index == receiver_index)
    }

    /// Notes an authentic datagram under this index. If the index is that of `next`, this session is in use from now
    /// on.
    pub fn confirm(&mut self, receiver_index: u32) -> Option<Change> {
        if let Some(current) = self.current.as_mut().filter(|current| current.local_index == receiver_index) {
            if !std::mem::replace(&mut current.told, true) {
                self.confirmed = Some(receiver_index);
            }
            return None;
        }
        let mut session = self.next.take_if(|next| next.local_index == receiver_index)?;
        session.told = true;
        self.confirmed = Some(receiver_index);
        self.crossed = false;
        Some(self.promote(session, None))
    }

    /// The receiver index of a session under which the first authentic datagram has come; returned once.
    pub fn poll_confirmed(&mut self) -> Option<u32> {
        self.confirmed.take()
    }

    /// The session that seals, if one may.
    pub fn sealing(&mut self, now: Instant) -> Option<&mut Session> {
        self.current.as_mut().filter(|session| session.can_seal(now))
    }

    /// The peer is known to have the keys of the session in use.
    pub fn is_confirmed(&self) -> bool {
        // A peer that uses the session of a crossing handshake has answered ours before.
        let crossing = self.previous.as_ref().filter(|_| self.crossed);
        [self.current.as_ref(), crossing].into_iter().flatten().any(|session| session.heard)
    }

    /// The session in use.
    pub fn current(&self) -> Option<&Session> {
        self.current.as_ref()
    }

    /// This receiver index is that of the session in use.
    pub fn is_current(&self, receiver_index: u32) -> bool {
        self.current.as_ref().is_some_and(|session| session.local_index == receiver_index)
    }

    /// A datagram with this header was sent to the peer in a live session.
    pub fn has_sent(&self, receiver_index: u32, counter: u64) -> bool {
        let live = [&self.current, &self.previous, &self.next].into_iter().flatten();
        live.into_iter().any(|session| session.remote_index == receiver_index && session.counter.has_given(counter))
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

    fn promote(&mut self, session: Session, pending: Option<Session>) -> Change {
        let epoch = Some(session.remote.epoch);
        let ended = self.epoch.filter(|_| self.epoch != epoch);
        let change = if self.epoch == epoch { Change::Rekeyed } else { Change::NewEpoch };
        self.epoch = epoch;
        let replaced = self.current.replace(session);
        for session in [replaced, pending].into_iter().flatten() {
            let displaced = self.previous.replace(session);
            self.retire(displaced);
        }
        // Datagrams of an earlier run of the peer would be matched with blocks of the new one, and its sessions must
        // not become current.
        for slot in [&mut self.previous, &mut self.next] {
            let stale = slot.take_if(|session| Some(session.remote.epoch) == ended);
            if let Some(session) = stale {
                session.add_to(&mut self.retired);
            }
        }
        change
    }

    fn retire(&mut self, session: Option<Session>) {
        if let Some(session) = session {
            session.add_to(&mut self.retired);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tunnel::PeerId;
    use crate::tunnel::hello::PROTOCOL_VERSION;
    use crate::tunnel::seal::{Cipher, CipherSet};
    use std::net::SocketAddr;
    use std::time::Duration;

    fn established(role: Role, local_index: u32, epoch: u64, at: Instant) -> Established {
        Established {
            peer: PeerId(0),
            role,
            local_index,
            remote_index: local_index + 100,
            sealing: Arc::new(SealingKey::new(Cipher::ChaCha20Poly1305, &[1; 32])),
            opening: Arc::new(OpeningKey::new(Cipher::ChaCha20Poly1305, &[2; 32])),
            remote: Hello {
                version: PROTOCOL_VERSION,
                lanes: 1,
                ciphers: CipherSet::preferred(),
                epoch,
                symbol_size: 1408,
            },
            endpoint: SocketAddr::from(([192, 0, 2, 1], 7117)).into(),
            at,
        }
    }

    enum Step {
        Initiated(u32, u64),
        Responded(u32, u64),
        Received(u32),
    }
    use Step::{Initiated, Received, Responded};

    /// The index that seals, and the other indices that open, after these steps.
    fn after(steps: &[Step]) -> (Option<u32>, Vec<u32>) {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        for step in steps {
            match *step {
                Initiated(index, epoch) => {
                    assert!(sessions.install(&established(Role::Initiator, index, epoch, now), 0).is_some());
                }
                Responded(index, epoch) => {
                    assert_eq!(sessions.install(&established(Role::Responder, index, epoch, now), 0), None);
                }
                Received(index) => {
                    sessions.find(index).expect("a step names a known session").accept(0);
                    sessions.confirm(index);
                }
            }
        }
        let current = sessions.current().map(|session| session.local_index);
        (current, sessions.indices().filter(|&index| Some(index) != current).collect())
    }

    #[test]
    fn which_session_seals_and_which_still_open() {
        let rows: &[(&[Step], Option<u32>, &[u32])] = &[
            (&[Responded(1, 7)], None, &[1]),
            (&[Responded(1, 7), Received(1)], Some(1), &[]),
            (&[Initiated(1, 7), Initiated(2, 7)], Some(2), &[1]),
            (&[Initiated(1, 7), Initiated(2, 7), Initiated(3, 7)], Some(3), &[2]),
            (&[Initiated(1, 7), Responded(2, 7)], Some(1), &[2]),
            (&[Initiated(1, 7), Responded(2, 7), Received(1)], Some(1), &[2]),
            (&[Initiated(1, 7), Responded(2, 7), Received(2)], Some(2), &[1]),
            // A new run of the peer: nothing of the earlier one opens any more.
            (&[Initiated(1, 7), Initiated(2, 8)], Some(2), &[]),
            (&[Initiated(1, 7), Responded(2, 8), Received(2)], Some(2), &[]),
            (&[Initiated(1, 7), Responded(2, 7), Initiated(3, 8)], Some(3), &[]),
            // The response of an earlier run comes late, after the initiation of the new run: the session of the new
            // run stays.
            (&[Initiated(1, 7), Responded(2, 8), Initiated(3, 7)], Some(3), &[1, 2]),
            (&[Initiated(1, 7), Responded(2, 8), Initiated(3, 7), Received(2)], Some(2), &[]),
        ];
        for (row, (steps, current, others)) in rows.iter().enumerate() {
            assert_eq!(after(steps), (*current, others.to_vec()), "row {row}");
        }
    }

    #[test]
    fn a_late_datagram_of_a_crossing_handshake_does_not_change_the_sealing_session() {
        let (current, others) = after(&[Initiated(1, 7), Responded(2, 7), Initiated(3, 7), Received(2)]);
        assert_eq!((current, others), (Some(3), vec![2]));
    }

    #[test]
    fn a_datagram_under_a_crossing_session_confirms_the_current_one() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.install(&established(Role::Responder, 1, 7, now), 0);
        sessions.install(&established(Role::Initiator, 2, 7, now), 0);
        assert!(!sessions.is_confirmed());
        sessions.find(1).unwrap().accept(0);
        assert!(sessions.is_confirmed());
        sessions.install(&established(Role::Initiator, 3, 7, now), 0);
        assert!(!sessions.is_confirmed());
        sessions.find(3).unwrap().accept(0);
        assert!(sessions.is_confirmed());
    }

    #[test]
    fn datagrams_under_retired_sessions_still_count() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        for index in 1..6 {
            sessions.install(&established(Role::Initiator, index, u64::from(index / 3), now), 0);
            sessions.find(index).unwrap().accept(0);
            sessions.find(index).unwrap().accept(2);
            let mut reception = Reception::default();
            sessions.add_to(&mut reception);
            assert_eq!((reception.received, reception.lost), (2 * u64::from(index), u64::from(index)));
        }
    }

    #[test]
    fn a_session_that_is_installed_twice_does_not_begin_its_counters_again() {
        let now = Instant::now();
        for role in [Role::Initiator, Role::Responder] {
            let mut sessions = Sessions::default();
            let first = established(role, 1, 7, now);
            sessions.install(&first, 0);
            sessions.find(1).unwrap().accept(9);
            sessions.confirm(1);
            let counter =
                |sessions: &mut Sessions| sessions.sealing(now).unwrap().next_header(DatagramType::Report).counter;
            let used = counter(&mut sessions);
            for _ in 0..2 {
                assert_eq!(sessions.install(&first, 0), None);
                assert!(counter(&mut sessions) > used, "{role:?}");
                assert_eq!(sessions.indices().count(), 1, "{role:?}");
                assert_eq!(sessions.find(1).unwrap().accept(9).0, Freshness::Replayed, "{role:?}");
            }
            // It may have been replaced meanwhile.
            sessions.install(&established(Role::Initiator, 2, 7, now), 0);
            assert_eq!(sessions.install(&first, 0), None);
            assert_eq!(sessions.current().map(|session| session.local_index), Some(2));
        }
    }

    #[test]
    fn an_old_session_does_not_seal_and_is_expired() {
        let now = Instant::now();
        let mut sessions = Sessions::default();
        sessions.install(&established(Role::Initiator, 1, 7, now), 0);
        assert!(sessions.sealing(now + REJECT_AFTER - Duration::from_nanos(1)).is_some());
        assert!(sessions.sealing(now + REJECT_AFTER).is_none());
        assert!(sessions.find(1).unwrap().is_expired(now + REJECT_AFTER));
    }

    #[test]
    fn a_session_is_worn_in_time_and_stops_sealing_before_its_counter_ends() {
        use crate::tunnel::seal::{REFUSE_AFTER_DATAGRAMS, REKEY_AFTER_DATAGRAMS};
        let now = Instant::now();
        let rows = [
            (0, true, false),
            (REKEY_AFTER_DATAGRAMS - 1, true, false),
            (REKEY_AFTER_DATAGRAMS, true, true),
            (REFUSE_AFTER_DATAGRAMS - 1, true, true),
            (REFUSE_AFTER_DATAGRAMS, false, true),
        ];
        for (sealed, can_seal, is_worn) in rows {
            let mut sessions = Sessions::default();
            sessions.install(&established(Role::Initiator, 1, 7, now), 3);
            sessions.current.as_mut().unwrap().counter = Counter::after(3, sealed);
            assert_eq!(sessions.sealing(now).is_some(), can_seal, "{sealed}");
            assert_eq!(sessions.current().unwrap().is_worn(now), is_worn, "{sealed}");
        }
    }
}
