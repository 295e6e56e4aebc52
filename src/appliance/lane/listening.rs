//! How long a peer was silent on this lane, and whether the lane had read everything when a snapshot was requested.
//!
//! Silence is not just time that passed. It is counted from one read that finds the socket empty to the next, at most
//! `LOOK_MAX` for each: a lane that stood still must read again before its silence grows. A request is answered once
//! everything that came before it is read. If more comes than the lane can read, it is answered after a bounded number
//! of turns, and the answer says that not all was read. Datagrams for which the kernel had no room are never received;
//! they may be the last that came.
//!
//! Reads no socket and no clock; [`ReceiveLag`] knows up to when everything is read.

use std::time::{Duration, Instant};

use crate::appliance::lane::receive_lag::ReceiveLag;

/// The most that one read adds to a silence.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// How often the socket is read although no event reported more.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// After this many turns a request is answered although the socket was not read to its end.
const TURNS_MAX: u32 = 256;
/// Requests that may wait. When there are more, the oldest is answered at once.
const QUESTIONS_MAX: usize = 8;

/// The silence of one peer on a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// For how long the socket was found empty since something last came from the peer.
    pub lasted: Duration,
    /// Everything that came before the request was read.
    pub is_read: bool,
    /// When the kernel was found to have dropped datagrams for want of room; `None` if something came from this peer
    /// later.
    pub overflowed_at: Option<Instant>,
}

/// A request for a snapshot that waits for its answer.
#[derive(Debug)]
struct SnapshotRequest<T> {
    from: T,
    at: Instant,
    turns: u32,
}

/// The silence on a lane's socket. `T` identifies who requested a snapshot.
#[derive(Debug)]
pub struct Listening<T> {
    /// Up to when everything is read.
    pub receive_lag: ReceiveLag,
    checked_at: Instant,
    /// For each peer: when something last came from it, as of the last read, and its silence since then.
    peers: Vec<(Option<Instant>, Duration)>,
    overflows: u64,
    overflowed_at: Option<Instant>,
    questions: Vec<SnapshotRequest<T>>,
}

impl<T> Listening<T> {
    /// Nothing has come from any of `peers` peers.
    pub fn new(receive_lag: ReceiveLag, peers: usize, now: Instant) -> Self {
        Self {
            receive_lag,
            checked_at: now,
            peers: vec![(None, Duration::ZERO); peers],
            overflows: 0,
            overflowed_at: None,
            questions: Vec::new(),
        }
    }

    /// There are `peers` peers now, at least as many as before.
    pub fn set_peers(&mut self, peers: usize) {
        self.peers.resize(peers, (None, Duration::ZERO));
    }

    /// Whether to read the socket although no event reported more: a request waits, a hole is about to be given up at
    /// `held_until`, or the socket was not read for a while.
    pub fn wants_look(&self, held_until: Option<Instant>, now: Instant) -> bool {
        !self.questions.is_empty()
            || now.saturating_duration_since(self.checked_at) >= LOOK_EVERY
            || held_until.is_some_and(|due| due <= now)
    }

    /// The socket was found empty in the turn that began at `now`. `received` yields when something last came from each
    /// peer.
    pub fn on_empty(&mut self, received: impl Iterator<Item = Option<Instant>>, now: Instant) {
        self.receive_lag.on_empty(now);
        let since = now.saturating_duration_since(self.checked_at).min(LOOK_MAX);
        self.checked_at = self.checked_at.max(now);
        for ((last, silence), received) in self.peers.iter_mut().zip(received) {
            *silence = if *last == received { *silence + since } else { Duration::ZERO };
            *last = received;
        }
    }

    /// The kernel has dropped `total` datagrams since the start; this was found with what came at `at`.
    pub fn on_overflows(&mut self, total: u64, at: Instant) {
        if total > self.overflows {
            (self.overflows, self.overflowed_at) = (total, Some(at));
        }
    }

    /// A snapshot is requested at `now`. Returns a request that has to be answered at once, to make room.
    pub fn on_question(&mut self, from: T, now: Instant) -> Option<T> {
        let oldest = (self.questions.len() >= QUESTIONS_MAX).then(|| self.questions.remove(0).from);
        self.questions.push(SnapshotRequest { from, at: now, turns: 0 });
        oldest
    }

    /// A turn is over.
    pub fn on_turn_end(&mut self) {
        self.questions.iter_mut().for_each(|question| question.turns += 1);
    }

    /// A request that may be answered now, and whether everything that came before it is read.
    pub fn poll_question(&mut self) -> Option<(T, bool)> {
        let read_until = self.receive_lag.read_until();
        let ready = |question: &SnapshotRequest<T>| question.at <= read_until || question.turns >= TURNS_MAX;
        let place = self.questions.iter().position(ready)?;
        let SnapshotRequest { from, at, .. } = self.questions.remove(place);
        Some((from, at <= read_until))
    }

    /// A request waits for its answer.
    pub fn has_questions(&self) -> bool {
        !self.questions.is_empty()
    }

    /// The silence of a peer from which something last came at `received`.
    pub fn silence(&self, peer: usize, received: Option<Instant>, is_read: bool) -> Silence {
        let lasted =
            self.peers.get(peer).filter(|(last, _)| *last == received).map_or(Duration::ZERO, |(_, lasted)| *lasted);
        let overflowed_at = self.overflowed_at.filter(|at| received.is_none_or(|received| *at > received));
        Silence { lasted, is_read, overflowed_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: usize = 1 << 20;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn listening(now: Instant) -> Listening<&'static str> {
        Listening::new(ReceiveLag::new(ms(20), ROOM, now), 2, now)
    }

    #[test]
    fn silence_counts_only_time_in_which_the_socket_was_read() {
        let start = Instant::now();
        let at = |millis| start + ms(millis);
        // When the socket was found empty, when something last came from the first peer, and its silence.
        let rows = [
            (10, None, 10),
            (30, Some(20), 0),
            (80, Some(20), 50),
            (130, Some(20), 100),
            // It stood still for three seconds, and finds nothing; then it finds that something had come.
            (3130, Some(20), 200),
            (3180, Some(3100), 0),
            (3230, Some(3100), 50),
        ];
        let mut listening = listening(start);
        for (now, received, silence) in rows {
            let received = received.map(at);
            listening.on_empty([received, None].into_iter(), at(now));
            assert_eq!(listening.silence(0, received, true).lasted, ms(silence), "at {now}");
        }
        assert_eq!(listening.silence(1, None, true).lasted, ms(330), "of a peer from which nothing ever came");
        assert_eq!(listening.silence(0, Some(at(3231)), true).lasted, ms(0), "something came since the last read");
        assert_eq!(listening.silence(2, None, true), Silence { is_read: true, ..Silence::default() }, "no such peer");
    }

    #[test]
    fn a_request_is_answered_once_what_came_before_it_is_read() {
        let start = Instant::now();
        let at = |millis| start + ms(millis);
        let mut listening = listening(start);
        assert!(!listening.wants_look(None, at(19)) && listening.wants_look(None, at(20)));
        assert!(listening.wants_look(Some(at(5)), at(5)) && !listening.wants_look(Some(at(6)), at(5)));
        assert_eq!(listening.on_question("drain", at(10)), None);
        assert!(listening.wants_look(None, at(10)) && listening.has_questions());
        assert_eq!(listening.poll_question(), None);
        // What is read came before the request.
        listening.receive_lag.on_train(Some(at(9)), 1000, at(11));
        listening.on_turn_end();
        assert_eq!(listening.poll_question(), None);
        listening.receive_lag.on_train(Some(at(12)), 1000, at(12));
        assert_eq!(listening.poll_question(), Some(("drain", true)));
        assert!(!listening.has_questions());
        listening.on_question("drain", at(20));
        listening.on_empty([None; 2].into_iter(), at(20));
        assert_eq!(listening.poll_question(), Some(("drain", true)));
    }

    #[test]
    fn a_lane_under_a_flood_answers_that_it_has_not_read_all() {
        let start = Instant::now();
        let mut listening = listening(start);
        assert_eq!(listening.on_question("status", start + ms(5)), None);
        for turn in 0..TURNS_MAX {
            assert_eq!(listening.poll_question(), None, "turn {turn}");
            listening.receive_lag.on_train(Some(start + ms(1)), 1000, start + ms(6));
            listening.on_turn_end();
        }
        assert_eq!(listening.poll_question(), Some(("status", false)));
        // Of many requests only a few wait.
        for _ in 0..QUESTIONS_MAX {
            assert_eq!(listening.on_question("many", start + ms(7)), None);
        }
        assert_eq!(listening.on_question("more", start + ms(7)), Some("many"));
        assert_eq!(listening.questions.len(), QUESTIONS_MAX);
    }

    #[test]
    fn drops_behind_the_last_datagram_of_a_peer_are_reported_until_more_comes() {
        let start = Instant::now();
        let at = |millis| start + ms(millis);
        let mut listening = listening(start);
        let overflowed = |listening: &Listening<_>, received| listening.silence(0, received, true).overflowed_at;
        listening.on_overflows(3, at(10));
        assert_eq!(overflowed(&listening, Some(at(10))), None, "its gaps show what was dropped before");
        assert_eq!(overflowed(&listening, Some(at(9))), Some(at(10)));
        assert_eq!(overflowed(&listening, None), Some(at(10)));
        listening.on_overflows(3, at(20));
        assert_eq!(overflowed(&listening, Some(at(10))), None, "the same count is not new");
        listening.on_overflows(4, at(30));
        assert_eq!(overflowed(&listening, Some(at(10))), Some(at(30)));
    }
}
