//! What a lane may say of a silence: for how long its socket was found empty, and whether it has read what had come when
//! it was asked.
//!
//! Time that only passed is no silence. It is counted from one look at the socket that finds it empty to the next, and no
//! more than a moment for each: a lane that stood still gets there by looking again. A question is answered once everything
//! that had come before it is read, or, where more comes than is read, after a bounded number of turns: then the answer says
//! so. What the kernel had no room for is not heard at all, and may be the last that came.
//!
//! Reads nothing and no clock; [`ReceiveLag`] knows up to when everything is read.

use std::time::{Duration, Instant};

use crate::appliance::lane::receive_lag::ReceiveLag;

/// The most that one look adds to a silence.
const LOOK_MAX: Duration = Duration::from_millis(100);
/// How often the socket is looked at though nothing told of more.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Turns after which a question is answered though the socket was not read to its end.
const TURNS_MAX: u32 = 256;
/// Questions that wait; of more, the oldest is answered at once.
const QUESTIONS_MAX: usize = 8;

/// What is known of one peer's silence on a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Silence {
    /// For how long the socket was found empty since something came from it.
    pub lasted: Duration,
    /// Everything was read that had come when it was asked for.
    pub is_read: bool,
    /// When the kernel was found to have dropped datagrams for want of room, if none from this peer came after them.
    pub overflowed_at: Option<Instant>,
}

/// Somebody who wants to know.
#[derive(Debug)]
struct Question<T> {
    from: T,
    at: Instant,
    turns: u32,
}

/// A lane's socket, as far as silence is concerned. `T` is whoever asks.
#[derive(Debug)]
pub struct Listening<T> {
    /// Up to when everything is read.
    pub receive_lag: ReceiveLag,
    checked_at: Instant,
    /// When each peer was heard last, as of the last look, and its silence since.
    peers: Vec<(Option<Instant>, Duration)>,
    overflows: u64,
    overflowed_at: Option<Instant>,
    questions: Vec<Question<T>>,
}

impl<T> Listening<T> {
    /// Nothing was heard of so many peers.
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

    /// Whether to look at the socket although nothing told of more: somebody asks, something is about to be given up at
    /// `held_until`, or nobody has looked for a while.
    pub fn wants_look(&self, held_until: Option<Instant>, now: Instant) -> bool {
        !self.questions.is_empty()
            || now.saturating_duration_since(self.checked_at) >= LOOK_EVERY
            || held_until.is_some_and(|due| due <= now)
    }

    /// The socket was found empty in the turn that began at `now`; when each peer was heard last.
    pub fn on_empty(&mut self, heard: impl Iterator<Item = Option<Instant>>, now: Instant) {
        self.receive_lag.on_empty(now);
        let since = now.saturating_duration_since(self.checked_at).min(LOOK_MAX);
        self.checked_at = self.checked_at.max(now);
        for ((last, silence), heard) in self.peers.iter_mut().zip(heard) {
            *silence = if *last == heard { *silence + since } else { Duration::ZERO };
            *last = heard;
        }
    }

    /// The kernel has dropped so many datagrams since the start, as of what came at `at`.
    pub fn on_overflows(&mut self, total: u64, at: Instant) {
        if total > self.overflows {
            (self.overflows, self.overflowed_at) = (total, Some(at));
        }
    }

    /// Somebody asks at `now`. Gives back who has to be answered at once to make room.
    pub fn on_question(&mut self, from: T, now: Instant) -> Option<T> {
        let oldest = (self.questions.len() >= QUESTIONS_MAX).then(|| self.questions.remove(0).from);
        self.questions.push(Question { from, at: now, turns: 0 });
        oldest
    }

    /// A turn is over.
    pub fn on_turn_end(&mut self) {
        self.questions.iter_mut().for_each(|question| question.turns += 1);
    }

    /// Who may be answered now, and whether what had come before the question is read.
    pub fn poll_question(&mut self) -> Option<(T, bool)> {
        let read_until = self.receive_lag.read_until();
        let ready = |question: &Question<T>| question.at <= read_until || question.turns >= TURNS_MAX;
        let place = self.questions.iter().position(ready)?;
        let Question { from, at, .. } = self.questions.remove(place);
        Some((from, at <= read_until))
    }

    /// Somebody waits for an answer.
    pub fn has_questions(&self) -> bool {
        !self.questions.is_empty()
    }

    /// What is known of a peer's silence, which was heard last then.
    pub fn silence(&self, peer: usize, heard: Option<Instant>, is_read: bool) -> Silence {
        let lasted =
            self.peers.get(peer).filter(|(last, _)| *last == heard).map_or(Duration::ZERO, |(_, lasted)| *lasted);
        let overflowed_at = self.overflowed_at.filter(|at| heard.is_none_or(|heard| *at > heard));
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
    fn a_silence_is_what_was_listened_to_and_not_what_passed() {
        let start = Instant::now();
        let at = |millis| start + ms(millis);
        // When the socket was found empty, when the first peer was heard last, and the silence.
        let rows = [
            (10, None, 10),
            (30, Some(20), 0),
            (80, Some(20), 50),
            (130, Some(20), 100),
            // It stood still for three seconds, and finds nothing; then that something had come.
            (3130, Some(20), 200),
            (3180, Some(3100), 0),
            (3230, Some(3100), 50),
        ];
        let mut listening = listening(start);
        for (now, heard, silence) in rows {
            let heard = heard.map(at);
            listening.on_empty([heard, None].into_iter(), at(now));
            assert_eq!(listening.silence(0, heard, true).lasted, ms(silence), "at {now}");
        }
        assert_eq!(listening.silence(1, None, true).lasted, ms(330), "of a peer that was never heard");
        assert_eq!(listening.silence(0, Some(at(3231)), true).lasted, ms(0), "it was heard since the last look");
        assert_eq!(listening.silence(2, None, true), Silence { is_read: true, ..Silence::default() }, "no such peer");
    }

    #[test]
    fn a_question_is_answered_once_what_came_before_it_is_read() {
        let start = Instant::now();
        let at = |millis| start + ms(millis);
        let mut listening = listening(start);
        assert!(!listening.wants_look(None, at(19)) && listening.wants_look(None, at(20)));
        assert!(listening.wants_look(Some(at(5)), at(5)) && !listening.wants_look(Some(at(6)), at(5)));
        assert_eq!(listening.on_question("drain", at(10)), None);
        assert!(listening.wants_look(None, at(10)) && listening.has_questions());
        assert_eq!(listening.poll_question(), None);
        // What is read came before the question.
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
    fn a_lane_under_a_flood_answers_and_says_that_it_has_not_read_all() {
        let start = Instant::now();
        let mut listening = listening(start);
        assert_eq!(listening.on_question("status", start + ms(5)), None);
        for turn in 0..TURNS_MAX {
            assert_eq!(listening.poll_question(), None, "turn {turn}");
            listening.receive_lag.on_train(Some(start + ms(1)), 1000, start + ms(6));
            listening.on_turn_end();
        }
        assert_eq!(listening.poll_question(), Some(("status", false)));
        // However many ask, few wait.
        for _ in 0..QUESTIONS_MAX {
            assert_eq!(listening.on_question("many", start + ms(7)), None);
        }
        assert_eq!(listening.on_question("more", start + ms(7)), Some("many"));
        assert_eq!(listening.questions.len(), QUESTIONS_MAX);
    }

    #[test]
    fn what_was_dropped_behind_the_last_that_came_is_told_until_more_comes() {
        let start = Instant::now();
        let at = |millis| start + ms(millis);
        let mut listening = listening(start);
        let told = |listening: &Listening<_>, heard| listening.silence(0, heard, true).overflowed_at;
        listening.on_overflows(3, at(10));
        assert_eq!(told(&listening, Some(at(10))), None, "what came tells of it by its gaps");
        assert_eq!(told(&listening, Some(at(9))), Some(at(10)));
        assert_eq!(told(&listening, None), Some(at(10)));
        listening.on_overflows(3, at(20));
        assert_eq!(told(&listening, Some(at(10))), None, "the same count is no news");
        listening.on_overflows(4, at(30));
        assert_eq!(told(&listening, Some(at(10))), Some(at(30)));
    }
}
