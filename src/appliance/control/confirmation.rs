//! Whether the candidate that the appliance follows is confirmed: one that is not confirmed in time goes back by itself.
//!
//! A state machine without a clock. It follows nothing itself: the control thread asks what is due, does it, and says how it ended.

use std::time::{Duration, Instant};

use crate::appliance::status::candidate::{CandidateState, CandidateStatus};

/// How long the caller that has confirmed may take to replace the file.
pub const SAVED_WITHIN: Duration = Duration::from_secs(10);
/// How long after a way back that failed the next is tried.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// A candidate, by the digests of its text and of the text before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Of its text.
    pub digest: String,
    /// Of the text before.
    pub before: String,
    /// What it changes, for people.
    pub changes: String,
}

/// The last candidate. `B` is what goes back.
#[derive(Debug)]
pub struct Confirmation<B> {
    last: Option<(Candidate, State<B>)>,
}

#[derive(Debug)]
enum State<B> {
    Unconfirmed { before: B, until: Instant },
    GoingBack { before: B, why: Why, next: Instant, error: Option<String> },
    WentBack(Why),
    Confirmed { until: Instant, is_late: bool },
    Saved,
}

/// Why a candidate goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Its time is over.
    NotConfirmed,
    /// Someone has asked for it.
    Rejected,
    /// Some lanes did not follow it, and did not go back.
    HalfDone,
}

impl Why {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotConfirmed => "not confirmed in time",
            Self::Rejected => "rejected",
            Self::HalfDone => "not followed by all lanes",
        }
    }
}

/// What a moment brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Follow what was before, and report to [`Confirmation::on_back`].
    GoBack,
    /// The confirmed candidate is not in the file.
    NotSaved,
}

/// How an attempt to go back ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Back {
    /// What was before is followed again.
    Done(Why),
    /// It is not, for the first time.
    Failed,
    /// It is still not.
    FailedAgain,
}

impl<B> Default for Confirmation<B> {
    fn default() -> Self {
        Self { last: None }
    }
}

impl<B> Confirmation<B> {
    /// Why nothing else may be followed at this time; `None` if it may.
    pub fn refusal(&self, now: Instant) -> Option<String> {
        match &self.last.as_ref()?.1 {
            State::Unconfirmed { until, .. } => Some(format!(
                "a candidate is unconfirmed and goes back in {} s: keep it with `onwire confirm`, or go back with `onwire \
                 confirm --reject`, and then try again",
                seconds(*until, now).ceil()
            )),
            State::GoingBack { .. } => Some(
                "the appliance is going back to what it followed before the last candidate, and tries each second: its log \
                 says why it cannot yet; then try again"
                    .to_owned(),
            ),
            State::Confirmed { until, .. } if now < *until => {
                Some("a confirmed candidate is being written to the file: try again in a moment".to_owned())
            }
            _ => None,
        }
    }

    /// The candidate is followed; without confirmation `before` is followed again after `within`.
    pub fn on_followed(&mut self, candidate: Candidate, before: B, within: Duration, now: Instant) {
        self.last = Some((candidate, State::Unconfirmed { before, until: now + within }));
    }

    /// Some lanes follow the candidate and some do not: all must go back.
    pub fn on_half_done(&mut self, candidate: Candidate, before: B, now: Instant) {
        let state = State::GoingBack { before, why: Why::HalfDone, next: now + AGAIN_AFTER, error: None };
        self.last = Some((candidate, state));
    }

    /// Keeps the candidate with this digest.
    ///
    /// # Errors
    /// It is not the one that is followed, or too late.
    pub fn confirm(&mut self, digest: &str, now: Instant) -> Result<(), String> {
        let Some((candidate, state)) = &mut self.last else { return Err(nothing_unconfirmed()) };
        if candidate.digest != digest {
            return Err("another candidate than this one is followed: look at `onwire status`".to_owned());
        }
        match state {
            State::Unconfirmed { until, .. } if now < *until => {
                *state = State::Confirmed { until: now + SAVED_WITHIN, is_late: false };
                Ok(())
            }
            // Whoever repeats it writes the file now: nothing else is followed meanwhile.
            State::Confirmed { until, .. } => {
                *until = now + SAVED_WITHIN;
                Ok(())
            }
            State::Saved => Ok(()),
            State::Unconfirmed { .. } => Err(format!("too late: it goes back, {}", Why::NotConfirmed.text())),
            State::GoingBack { why, .. } | State::WentBack(why) => {
                Err(format!("too late: it went back, {}", why.text()))
            }
        }
    }

    /// Lets the candidate go back now: [`poll_due`](Self::poll_due) says so next.
    ///
    /// # Errors
    /// There is no candidate that can.
    pub fn reject(&mut self, now: Instant) -> Result<(), String> {
        match self.last.take() {
            Some((candidate, State::Unconfirmed { before, .. })) => {
                self.last = Some((candidate, State::GoingBack { before, why: Why::Rejected, next: now, error: None }));
                Ok(())
            }
            last => {
                self.last = last;
                Err(nothing_unconfirmed())
            }
        }
    }

    /// The file has the candidate with this digest.
    ///
    /// # Errors
    /// It is not the one that was confirmed.
    pub fn on_saved(&mut self, digest: &str) -> Result<(), String> {
        match &mut self.last {
            Some((candidate, state @ (State::Confirmed { .. } | State::Saved))) if candidate.digest == digest => {
                *state = State::Saved;
                Ok(())
            }
            _ => Err("no candidate with this content is confirmed: look at `onwire status`".to_owned()),
        }
    }

    /// The file was read again and is followed: what was confirmed and not saved is gone.
    pub fn on_reloaded(&mut self) {
        if matches!(self.last, Some((_, State::Confirmed { .. }))) {
            self.last = None;
        }
    }

    /// What is due now.
    pub fn poll_due(&mut self, now: Instant) -> Option<Due> {
        match self.last.take() {
            Some((candidate, State::Unconfirmed { before, until })) if now >= until => {
                self.last =
                    Some((candidate, State::GoingBack { before, why: Why::NotConfirmed, next: now, error: None }));
            }
            Some((candidate, State::Confirmed { until, is_late: false })) if now >= until => {
                self.last = Some((candidate, State::Confirmed { until, is_late: true }));
                return Some(Due::NotSaved);
            }
            last => self.last = last,
        }
        match &self.last {
            Some((_, State::GoingBack { next, .. })) if now >= *next => Some(Due::GoBack),
            _ => None,
        }
    }

    /// What to go back to, while [`poll_due`](Self::poll_due) says so.
    pub fn before(&self) -> Option<&B> {
        match &self.last {
            Some((_, State::GoingBack { before, .. })) => Some(before),
            _ => None,
        }
    }

    /// How an attempt to go back ended; one that failed is tried again.
    pub fn on_back(&mut self, outcome: Result<(), String>, now: Instant) -> Option<Back> {
        let Some((_, state)) = &mut self.last else { return None };
        let State::GoingBack { why, next, error, .. } = state else { return None };
        let why = *why;
        match outcome {
            Ok(()) => {
                *state = State::WentBack(why);
                Some(Back::Done(why))
            }
            Err(text) => {
                *next = now + AGAIN_AFTER;
                Some(if error.replace(text).is_none() { Back::Failed } else { Back::FailedAgain })
            }
        }
    }

    /// When something will be due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.last.as_ref()?.1 {
            State::Unconfirmed { until, .. } | State::Confirmed { until, is_late: false } => Some(*until),
            State::GoingBack { next, .. } => Some(*next),
            State::Confirmed { .. } | State::Saved | State::WentBack(_) => None,
        }
    }

    /// For status.
    pub fn status(&self, now: Instant) -> Option<CandidateStatus> {
        let (candidate, state) = self.last.as_ref()?;
        let (name, text) = match state {
            State::Unconfirmed { .. } => (CandidateState::Unconfirmed, &candidate.changes[..]),
            State::GoingBack { why, error, .. } => {
                (CandidateState::GoingBack, error.as_deref().unwrap_or_else(|| why.text()))
            }
            State::WentBack(why) => (CandidateState::WentBack, why.text()),
            State::Confirmed { .. } => (CandidateState::Confirmed, &candidate.changes[..]),
            State::Saved => (CandidateState::Saved, &candidate.changes[..]),
        };
        let goes_back_in_s = match state {
            State::Unconfirmed { until, .. } => Some(seconds(*until, now)),
            _ => None,
        };
        Some(CandidateStatus {
            state: name,
            goes_back_in_s,
            sha256: candidate.digest.clone(),
            before_sha256: candidate.before.clone(),
            text: text.to_owned(),
        })
    }
}

fn seconds(until: Instant, now: Instant) -> f64 {
    until.saturating_duration_since(now).as_secs_f64()
}

fn nothing_unconfirmed() -> String {
    "no candidate is unconfirmed: look at `onwire status`".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const MILLISECOND: Duration = Duration::from_millis(1);

    fn candidate() -> Candidate {
        Candidate { digest: "new".into(), before: "old".into(), changes: "bypass changed".into() }
    }

    fn followed(start: Instant) -> Confirmation<&'static str> {
        let mut confirmation = Confirmation::default();
        assert!(confirmation.refusal(start).is_none() && confirmation.status(start).is_none());
        confirmation.on_followed(candidate(), "the old one", MINUTE, start);
        confirmation
    }

    fn state(confirmation: &Confirmation<&str>, now: Instant) -> CandidateState {
        confirmation.status(now).unwrap().state
    }

    #[test]
    fn without_confirmation_it_goes_back_at_its_time_and_not_before() {
        let start = Instant::now();
        let (mut confirmation, until) = (followed(start), start + MINUTE);
        assert_eq!(confirmation.poll_timeout(), Some(until));
        assert_eq!(confirmation.poll_due(until - MILLISECOND), None);
        assert!(confirmation.before().is_none());
        let status = confirmation.status(start + MINUTE / 2).unwrap();
        assert_eq!((status.state, status.goes_back_in_s), (CandidateState::Unconfirmed, Some(30.0)));
        assert_eq!(status.text, "bypass changed");
        assert_eq!(confirmation.poll_due(until), Some(Due::GoBack));
        assert!(confirmation.confirm("new", until).unwrap_err().contains("not confirmed in time"));
        assert_eq!(confirmation.before(), Some(&"the old one"));
        assert_eq!(confirmation.on_back(Ok(()), until), Some(Back::Done(Why::NotConfirmed)));
        assert_eq!(confirmation.poll_timeout(), None);
        assert_eq!(confirmation.status(until).unwrap().text, "not confirmed in time");
        assert_eq!(state(&confirmation, until), CandidateState::WentBack);
        assert!(confirmation.refusal(until).is_none());
        assert!(confirmation.reject(until).is_err());
    }

    #[test]
    fn a_confirmation_that_comes_at_the_end_is_too_late() {
        let start = Instant::now();
        let mut confirmation = followed(start);
        assert!(confirmation.confirm("new", start + MINUTE).unwrap_err().contains("too late"));
        assert_eq!(confirmation.poll_due(start + MINUTE), Some(Due::GoBack));
        let mut confirmation = followed(start);
        assert_eq!(confirmation.confirm("new", start + MINUTE - MILLISECOND), Ok(()));
        assert_eq!(confirmation.poll_due(start + MINUTE), None);
    }

    #[test]
    fn what_is_confirmed_stays_and_is_reported_if_it_is_not_saved() {
        let start = Instant::now();
        let mut confirmation = followed(start);
        assert!(confirmation.confirm("another", start).is_err());
        assert!(confirmation.on_saved("new").is_err(), "not before it is confirmed");
        assert_eq!(confirmation.confirm("new", start), Ok(()));
        assert_eq!(confirmation.confirm("new", start), Ok(()), "two may confirm at once");
        // Whoever repeats it later writes the file then: it has the same time.
        let later = start + SAVED_WITHIN;
        assert!(confirmation.refusal(later).is_none());
        assert_eq!(confirmation.confirm("new", later), Ok(()));
        assert!(confirmation.refusal(later + SAVED_WITHIN - MILLISECOND).is_some());
        let start = later;
        assert!(confirmation.refusal(start).is_some(), "a reload would read the file of before");
        assert!(confirmation.reject(start).is_err());
        let late = start + SAVED_WITHIN;
        assert_eq!(confirmation.poll_timeout(), Some(late));
        assert_eq!(confirmation.poll_due(late - MILLISECOND), None);
        assert_eq!(confirmation.poll_due(late), Some(Due::NotSaved));
        assert_eq!(confirmation.poll_due(late), None, "once");
        assert!(confirmation.refusal(late).is_none());
        assert_eq!(state(&confirmation, late), CandidateState::Confirmed);
        assert!(confirmation.on_saved("another").is_err());
        assert_eq!((confirmation.on_saved("new"), confirmation.on_saved("new")), (Ok(()), Ok(())));
        assert_eq!((state(&confirmation, late), confirmation.poll_timeout()), (CandidateState::Saved, None));
        confirmation.on_reloaded();
        assert_eq!(state(&confirmation, late), CandidateState::Saved);
    }

    #[test]
    fn a_reload_ends_what_was_confirmed_and_not_saved() {
        let start = Instant::now();
        let mut confirmation = followed(start);
        confirmation.confirm("new", start).unwrap();
        confirmation.on_reloaded();
        assert_eq!(confirmation.status(start), None);
    }

    #[test]
    fn nothing_else_is_followed_while_one_is_unconfirmed() {
        let start = Instant::now();
        let mut confirmation = followed(start);
        let refusal = confirmation.refusal(start + MINUTE - MILLISECOND).unwrap();
        assert!(refusal.contains("in 1 s") && refusal.contains("onwire confirm --reject"), "{refusal}");
        confirmation.on_reloaded();
        assert_eq!(state(&confirmation, start), CandidateState::Unconfirmed);
    }

    #[test]
    fn a_way_back_that_fails_is_tried_until_it_works() {
        let start = Instant::now();
        let mut confirmation = followed(start);
        assert_eq!(confirmation.reject(start), Ok(()));
        assert_eq!(confirmation.poll_due(start), Some(Due::GoBack));
        assert_eq!(confirmation.on_back(Err("lane 1 is busy".into()), start), Some(Back::Failed));
        assert_eq!(confirmation.poll_due(start), None);
        assert_eq!(confirmation.status(start).unwrap().text, "lane 1 is busy");
        assert!(confirmation.refusal(start).unwrap().contains("going back"));
        assert!(confirmation.confirm("new", start).is_err());
        let next = start + AGAIN_AFTER;
        assert_eq!((confirmation.poll_timeout(), confirmation.poll_due(next)), (Some(next), Some(Due::GoBack)));
        assert_eq!(confirmation.on_back(Err("lane 1 is busy".into()), next), Some(Back::FailedAgain));
        assert_eq!(confirmation.before(), Some(&"the old one"));
        let last = next + AGAIN_AFTER;
        assert_eq!(confirmation.on_back(Ok(()), last), Some(Back::Done(Why::Rejected)));
        assert_eq!(confirmation.on_back(Ok(()), last), None);
    }

    #[test]
    fn what_only_some_lanes_follow_goes_back() {
        let start = Instant::now();
        let mut confirmation = Confirmation::default();
        confirmation.on_half_done(candidate(), "the old one", start);
        assert_eq!((confirmation.poll_due(start), state(&confirmation, start)), (None, CandidateState::GoingBack));
        assert!(confirmation.confirm("new", start).is_err());
        assert_eq!(confirmation.poll_due(start + AGAIN_AFTER), Some(Due::GoBack));
        assert_eq!(confirmation.on_back(Ok(()), start), Some(Back::Done(Why::HalfDone)));
    }
}
