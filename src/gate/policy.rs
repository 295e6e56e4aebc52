//! The three policies: when a connection acknowledges without protection, and when it must end instead.
//!
//! Under every policy a mark is acknowledged when it is protected or when the mirror acknowledges it, whichever comes
//! first; [`super::connection`] does that. This file holds what a policy adds. It has no clock.

use std::time::{Duration, Instant};

use crate::config::gate::Policy;
use crate::notify::client::Reason;

/// How long a connection under `strict` may wait for an appliance that does not see it.
pub const GRACE: Duration = Duration::from_secs(5);

/// The policy of one connection, and its state.
#[derive(Debug)]
pub struct PolicyState {
    policy: Policy,
    /// Since when, without a break, the appliance has been unable to protect anything of this flow; counted from the
    /// first mark.
    blind_since: Option<Instant>,
    replicates: bool,
    /// The reason, as seen last.
    blind: Option<Reason>,
}

impl PolicyState {
    /// A connection without a mark.
    pub fn new(policy: Policy) -> PolicyState {
        PolicyState { policy, blind_since: None, replicates: false, blind: None }
    }

    /// A mark was noted.
    pub fn on_mark(&mut self, now: Instant) {
        if !self.replicates {
            self.replicates = true;
            self.blind_since = Some(now);
        }
    }

    /// Whether there has ever been a mark.
    pub fn replicates(&self) -> bool {
        self.replicates
    }

    /// Notes why nothing beyond what is covered can be called protected now. Returns the reason when the connection
    /// must end because of it.
    pub fn on_condition(&mut self, condition: Reason, now: Instant) -> Option<Reason> {
        if !self.replicates {
            return None;
        }
        if !is_blind(condition) {
            (self.blind, self.blind_since) = (None, None);
            return None;
        }
        self.blind = Some(condition);
        let since = *self.blind_since.get_or_insert(now);
        (self.policy == Policy::Strict && now >= since + GRACE).then_some(condition)
    }

    /// The reason why the appliance has been unable to protect the flow for `GRACE`, for the log.
    pub fn blind(&self, now: Instant) -> Option<Reason> {
        self.blind.filter(|_| self.blind_since.is_some_and(|since| now >= since + GRACE))
    }

    /// When a mark noted at `since` is acknowledged without protection; none: never.
    pub fn exposes(&self, since: Instant) -> Option<Instant> {
        match self.policy {
            Policy::Available(time) => Some(since + time),
            Policy::Strict | Policy::Auto => None,
        }
    }
}

/// Whether the appliance does not know the flow, or reports a lower level or promises less than the gate requires. A link that
/// is down and an appliance that does not answer do not count: they recover, and until then the gate waits for the
/// mirror's own acknowledgement.
fn is_blind(condition: Reason) -> bool {
    match condition {
        Reason::UnknownFlow
        | Reason::MiddleOfFlow
        | Reason::Level(_)
        | Reason::SurvivesBurst(_)
        | Reason::Gone(_)
        | Reason::OtherConnection
        | Reason::Refused => true,
        Reason::Deadline
        | Reason::NoContact
        | Reason::Link(..)
        | Reason::Violated
        | Reason::Failed
        | Reason::Restarted => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::message::{Level, LinkState, StateReason};

    #[test]
    fn strict_ends_only_connections_that_the_appliance_does_not_see() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let link = Reason::Link(LinkState::Down, StateReason::NoSession);
        for (policy, reason, ends) in [
            (Policy::Strict, Reason::UnknownFlow, true),
            (Policy::Strict, Reason::Level(Level::Queued), true),
            (Policy::Strict, Reason::MiddleOfFlow, true),
            (Policy::Strict, Reason::SurvivesBurst(Duration::ZERO), true),
            (Policy::Strict, Reason::NoContact, false),
            (Policy::Strict, link, false),
            (Policy::Strict, Reason::Deadline, false),
            (Policy::Auto, Reason::UnknownFlow, false),
            (Policy::Available(Duration::ZERO), Reason::UnknownFlow, false),
        ] {
            let mut policy = PolicyState::new(policy);
            for ms in [0, 9000] {
                assert_eq!(policy.on_condition(reason, at(ms)), None, "nothing is replicated yet");
            }
            policy.on_mark(at(10_000));
            policy.on_mark(at(12_000));
            assert_eq!(policy.on_condition(reason, at(14_999)), None);
            assert_eq!(policy.on_condition(reason, at(15_000)).is_some(), ends, "{policy:?} {reason:?}");
        }
    }

    #[test]
    fn the_grace_time_begins_again_after_the_appliance_has_seen_the_flow() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut policy = PolicyState::new(Policy::Strict);
        policy.on_mark(at(0));
        assert_eq!(policy.on_condition(Reason::UnknownFlow, at(4)), None);
        assert_eq!(policy.on_condition(Reason::Deadline, at(5)), None);
        assert_eq!(policy.on_condition(Reason::UnknownFlow, at(6)), None);
        assert_eq!(policy.on_condition(Reason::UnknownFlow, at(10)), None);
        assert_eq!(policy.on_condition(Reason::UnknownFlow, at(11)), Some(Reason::UnknownFlow));
        assert_eq!(policy.blind(at(11)), Some(Reason::UnknownFlow));
    }

    #[test]
    fn only_available_exposes_and_exactly_after_its_time() {
        let start = Instant::now();
        let time = Duration::from_millis(700);
        assert_eq!(PolicyState::new(Policy::Available(time)).exposes(start), Some(start + time));
        assert_eq!(PolicyState::new(Policy::Auto).exposes(start), None);
        assert_eq!(PolicyState::new(Policy::Strict).exposes(start), None);
    }
}
