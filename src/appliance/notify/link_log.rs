//! The log lines about the state of a link: its trouble once, with what it means and what to do, and its end with how long
//! it lasted. A link that changes often is logged at most once in five seconds. That a peer is silent is logged by
//! [`crate::appliance::peer_log`], with its remedy; here it is said what it means for protection.

use std::time::{Duration, Instant};

use tracing::Level;

use crate::notify::message::{LinkState, StateReason};

/// At least this long between two lines about a link.
const PACE: Duration = Duration::from_secs(5);

type State = (LinkState, StateReason);

/// What was logged of one link.
#[derive(Debug, Default)]
pub struct LinkLog {
    state: Option<State>,
    /// What the last line said, and when.
    logged: Option<(State, Instant)>,
    /// Since when it is degraded or down, after it was up.
    troubled_since: Option<Instant>,
    /// How long it was so, in all, since the last line that called it up.
    troubled: Duration,
    /// Changes since the last line.
    changes: u32,
}

impl LinkLog {
    /// The link has this state now.
    pub fn note(&mut self, state: State, now: Instant) {
        let before = self.state.replace(state);
        // A link begins without a session, and whether the peer answers is another line.
        if before == Some(state) || (before.is_none() && state.0 == LinkState::Down) {
            return;
        }
        self.changes += 1;
        match state.0 {
            LinkState::Degraded | LinkState::Down => self.troubled_since = self.troubled_since.or(Some(now)),
            LinkState::Up | LinkState::Draining => {
                let troubled = self.troubled_since.take().map(|since| now - since);
                self.troubled += troubled.unwrap_or_default();
            }
        }
    }

    /// When there is a line to log.
    pub fn deadline(&self) -> Option<Instant> {
        let (_, at) = self.logged?;
        (self.changes > 0).then_some(at + PACE)
    }

    /// The line that is due, with its level.
    pub fn poll(&mut self, now: Instant) -> Option<(Level, String)> {
        let state = self.state.filter(|_| self.changes > 0)?;
        if self.logged.is_some_and(|(_, at)| now < at + PACE) {
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        let is_first = self.logged.replace((state, now)).is_none();
        let often = match changes {
            1 => String::new(),
            count => format!("; its state has changed {count} times since the last line about it"),
        };
        if state.0 == LinkState::Up {
            let troubled = std::mem::take(&mut self.troubled).as_secs_f64();
            let after = if is_first { String::new() } else { format!(" again, after {troubled:.1} s") };
            return Some((Level::INFO, format!("the link is up{after}: what goes to the peer is protected{often}")));
        }
        let (name, reason) = (state.0.name(), state.1.name());
        let level = match state.0 {
            LinkState::Degraded => Level::WARN,
            _ => Level::INFO,
        };
        Some((level, format!("the link is {name} ({reason}): {}{often}", meaning(state.1))))
    }
}

/// What a reason means for protection, and what to do.
fn meaning(reason: StateReason) -> &'static str {
    match reason {
        StateReason::None => "the peer's state is not known",
        StateReason::NoSession => {
            "there is no session with the peer, and packets for it are dropped or take another route"
        }
        StateReason::NoReports => {
            "nothing is called protected until the peer's reports arrive again. They come each 20 ms by the way back: is that \
             way interrupted or full, or the peer too busy? `onwire status` has its loss, and `ping` its delay"
        }
        StateReason::Violation => {
            "a block that was called protected was lost; nothing is called protected for the next seconds. The error before this \
             line has the bytes and the remedy"
        }
        StateReason::SendErrors => {
            "this host refuses or drops datagrams of the tunnel, and nothing is called protected until that ends. `lanes[]` of \
             `onwire status` counts them by kind; look at the queue of the uplink (`tc -s qdisc`) and at firewall rules of output"
        }
        StateReason::NoTimestamps => {
            "the device gives no transmit timestamps, so nothing is called protected; `notify.level: queued` tells what the \
             kernel has taken"
        }
        StateReason::Administrator => "it is drained by an administrator's command, and is protected meanwhile",
        StateReason::Target => {
            "this link cannot keep what `redundancy` promises, so nothing more is called protected; `onwire explain` has the cause \
             and what would be reached"
        }
        StateReason::Model => {
            "the link has lost longer runs than the plan assumes, so nothing more is called protected meanwhile; a longer \
             `survive_burst` covers them, `onwire explain` says at what price"
        }
        StateReason::Bypass => "packets take the plain route, UNPROTECTED; `bypass` of `onwire status` has the cause",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: State = (LinkState::Up, StateReason::None);
    const SILENT: State = (LinkState::Degraded, StateReason::NoReports);
    const DOWN: State = (LinkState::Down, StateReason::NoSession);

    fn at(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn trouble_is_a_warning_with_a_remedy_and_its_end_has_its_length() {
        let (mut log, start) = (LinkLog::default(), Instant::now());
        log.note(DOWN, start);
        assert_eq!(log.poll(start), None, "it begins so");
        log.note(UP, at(start, 20.0));
        assert_eq!(
            log.poll(at(start, 20.0)),
            Some((Level::INFO, "the link is up: what goes to the peer is protected".to_owned()))
        );
        log.note(SILENT, at(start, 40.0));
        let (level, text) = log.poll(at(start, 40.0)).unwrap();
        assert!(
            level == Level::WARN && text.starts_with("the link is degraded (no reports): nothing is called"),
            "{text}"
        );
        log.note(SILENT, at(start, 41.0));
        assert_eq!((log.poll(at(start, 99.0)), log.deadline()), (None, None), "once");
        log.note(UP, at(start, 99.5));
        assert!(log.poll(at(start, 99.5)).unwrap().1.contains("again, after 59.5 s"));
        log.note(DOWN, at(start, 150.0));
        let (level, text) = log.poll(at(start, 150.0)).unwrap();
        assert!(level == Level::INFO && text.starts_with("the link is down (no session): "), "{text}");
        // The line comes later than the change, for another one came just before.
        log.note(UP, at(start, 152.5));
        assert_eq!((log.poll(at(start, 152.5)), log.deadline()), (None, Some(at(start, 155.0))));
        assert!(log.poll(at(start, 155.0)).unwrap().1.contains("again, after 2.5 s"));
    }

    #[test]
    fn a_link_that_changes_often_is_logged_once_in_five_seconds_with_the_number_of_changes() {
        let (mut log, start) = (LinkLog::default(), Instant::now());
        let mut lines = Vec::new();
        for tenth in 0..1000_u32 {
            let now = at(start, f64::from(tenth) / 10.0);
            log.note(if tenth % 2 == 0 { UP } else { SILENT }, now);
            lines.extend(log.poll(now));
        }
        assert_eq!(lines.len(), 20, "{lines:?}");
        assert!(
            lines[1..].iter().all(|(_, text)| text.ends_with("has changed 50 times since the last line about it")),
            "{lines:?}"
        );
        let due = log.deadline().unwrap();
        assert!(log.poll(due).is_some() && log.deadline().is_none());
    }

    #[test]
    fn each_reason_says_what_to_do_or_what_happens() {
        use StateReason::{
            Administrator, Bypass, Model, NoReports, NoSession, NoTimestamps, SendErrors, Target, Violation,
        };
        for reason in [NoReports, Violation, SendErrors, NoTimestamps, NoSession, Administrator, Target, Model, Bypass]
        {
            assert!(meaning(reason).len() > 40, "{reason:?}");
        }
    }
}
