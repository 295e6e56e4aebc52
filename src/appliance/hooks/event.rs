//! What hooks are told: an event with its facts, as JSON and as variables of the environment.

use serde::{Deserialize, Serialize};

use crate::config::hooks::HookEvent;

/// The most ranges, and the most reasons, that an event names. It says how many it leaves out.
pub const NAMED_MAX: usize = 32;
/// The longest reason, in bytes.
const REASON_MAX: usize = 500;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The appliance.
    pub node: String,
    /// The peer.
    pub peer: String,
    /// When, in seconds since 1970; of several, the last.
    pub at_s: f64,
    /// Earlier events of the same kind and peer that are part of this one, because the hook was still running.
    pub merged: u64,
    /// What.
    #[serde(flatten)]
    pub fact: Fact,
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Fact {
    /// The state of the link has changed.
    Link {
        /// `up`, `degraded`, `down` or `draining`.
        state: String,
        /// Why, as notifications name it.
        reason: String,
        /// The state that was told last.
        before: String,
    },
    /// Bytes that were called protected are lost.
    Violation {
        /// Losses; each is a block.
        losses: u64,
        /// Bytes, over all ranges.
        bytes: u64,
        /// Where they are, the first of them.
        ranges: Vec<LostRange>,
        /// Ranges that are not named.
        ranges_left_out: u64,
    },
    /// A drain has ended.
    Drain {
        /// `complete`, `unfinished` or `incomplete`.
        verdict: String,
        /// Why, the first of them.
        reasons: Vec<String>,
        /// How long the drain took, in seconds.
        waited_s: f64,
    },
}

/// Lost bytes of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    /// Address and port.
    pub source: String,
    /// Address and port.
    pub destination: String,
    /// The first byte, counted from the beginning of the flow.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
}

impl Fact {
    /// A drain's, cut to what an event may hold.
    pub fn of_drain(verdict: &str, reasons: &[String], waited_s: f64) -> Self {
        let cut = |reason: &String| {
            let end = reason.char_indices().map(|(at, _)| at).take_while(|at| *at <= REASON_MAX).last().unwrap_or(0);
            if reason.len() > REASON_MAX { format!("{}...", &reason[..end]) } else { reason.clone() }
        };
        let reasons = reasons.iter().take(NAMED_MAX).map(cut).collect();
        Self::Drain { verdict: verdict.to_owned(), reasons, waited_s }
    }

    /// What it is, for `hooks[].on`.
    pub fn kind(&self) -> HookEvent {
        match self {
            Self::Link { .. } => HookEvent::Link,
            Self::Violation { .. } => HookEvent::Violation,
            Self::Drain { .. } => HookEvent::Drain,
        }
    }
}

impl Event {
    /// Both are about the same: a hook that has been told of neither is told of both at once.
    pub fn is_like(&self, other: &Self) -> bool {
        self.peer == other.peer && self.fact.kind() == other.fact.kind()
    }

    /// Takes in a later event [like it](Self::is_like).
    pub fn merge(&mut self, later: Self) {
        self.at_s = later.at_s;
        self.merged += later.merged + 1;
        match (&mut self.fact, later.fact) {
            (Fact::Link { state, reason, .. }, Fact::Link { state: new, reason: why, .. }) => {
                (*state, *reason) = (new, why);
            }
            (
                Fact::Violation { losses, bytes, ranges, ranges_left_out },
                Fact::Violation { losses: more, bytes: also, ranges: new, ranges_left_out: unnamed },
            ) => {
                *losses += more;
                *bytes = bytes.saturating_add(also);
                *ranges_left_out += unnamed;
                for range in new {
                    if ranges.len() < NAMED_MAX { ranges.push(range) } else { *ranges_left_out += 1 }
                }
            }
            (fact, later) => *fact = later,
        }
    }

    /// What a hook finds in its environment. Names are stable; lists are only in the JSON.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("ONWIRE_EVENT", self.fact.kind().name().to_owned()),
            ("ONWIRE_NODE", self.node.clone()),
            ("ONWIRE_PEER", self.peer.clone()),
            ("ONWIRE_TIME", format!("{:.3}", self.at_s)),
            ("ONWIRE_MERGED", self.merged.to_string()),
        ];
        match &self.fact {
            Fact::Link { state, reason, before } => variables.extend([
                ("ONWIRE_STATE", state.clone()),
                ("ONWIRE_REASON", reason.clone()),
                ("ONWIRE_BEFORE", before.clone()),
            ]),
            Fact::Violation { losses, bytes, .. } => {
                variables.extend([("ONWIRE_LOSSES", losses.to_string()), ("ONWIRE_BYTES", bytes.to_string())]);
            }
            Fact::Drain { verdict, waited_s, .. } => {
                variables.extend([("ONWIRE_VERDICT", verdict.clone()), ("ONWIRE_WAITED", format!("{waited_s:.3}"))]);
            }
        }
        variables
    }

    /// The JSON, in bytes.
    pub fn emit(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("an event is plain values")
    }

    /// Reads the JSON.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::io::hook::MESSAGE_MAX;

    pub fn event(peer: &str, fact: Fact) -> Event {
        Event { node: "ithaca".to_owned(), peer: peer.to_owned(), at_s: 1.5, merged: 0, fact }
    }

    pub fn link(peer: &str, before: &str, state: &str) -> Event {
        let [state, reason, before] = [state, "silent", before].map(str::to_owned);
        event(peer, Fact::Link { state, reason, before })
    }

    pub fn violation(ranges: usize) -> Event {
        let range = LostRange {
            source: "[fd00:1:2:3:4:5:6:7]:65535".to_owned(),
            destination: "[fd00:2:2:3:4:5:6:7]:65535".to_owned(),
            start: u64::MAX - 1,
            end: u64::MAX,
        };
        event("syracuse", Fact::Violation { losses: 1, bytes: 10, ranges: vec![range; ranges], ranges_left_out: 0 })
    }

    #[test]
    fn events_survive_their_json_and_the_longest_fits_into_a_message() {
        let reasons = vec!["\u{1}\u{e9}".repeat(1000); 100];
        let drain = event(&"p".repeat(63), Fact::of_drain("incomplete", &reasons, 10.0));
        let Fact::Drain { reasons, .. } = &drain.fact else { panic!() };
        assert_eq!(reasons.len(), NAMED_MAX);
        assert!(reasons.iter().all(|reason| reason.len() <= REASON_MAX + 3 && reason.ends_with("...")));
        for event in [link("syracuse", "up", "down"), violation(NAMED_MAX), drain] {
            let json = event.emit();
            assert!(json.len() <= MESSAGE_MAX, "{}", json.len());
            assert_eq!(Event::parse(&json).unwrap(), event);
        }
        let json: serde_json::Value = serde_json::from_slice(&link("syracuse", "up", "down").emit()).unwrap();
        let wanted = serde_json::json!({
            "event": "link", "node": "ithaca", "peer": "syracuse", "at_s": 1.5, "merged": 0,
            "state": "down", "reason": "silent", "before": "up",
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn merged_events_keep_the_first_before_and_the_last_state_and_count_losses() {
        let mut first = link("syracuse", "up", "degraded");
        first.merge(link("syracuse", "degraded", "down"));
        assert_eq!((first.merged, first.fact.clone()), (1, link("syracuse", "up", "down").fact));
        let mut lost = violation(NAMED_MAX - 1);
        lost.merge(violation(3));
        let Fact::Violation { losses, bytes, ranges, ranges_left_out } = &lost.fact else { panic!() };
        assert_eq!((*losses, *bytes, ranges.len(), *ranges_left_out), (2, 20, NAMED_MAX, 2));
        assert!(first.is_like(&link("syracuse", "a", "b")));
        assert!(!first.is_like(&link("utica", "a", "b")) && !first.is_like(&lost));
    }

    #[test]
    fn the_environment_has_the_facts() {
        let find = |event: &Event, name: &str| {
            event.variables().into_iter().find(|(it, _)| *it == name).map(|(_, value)| value).unwrap_or_default()
        };
        let link = link("syracuse", "up", "down");
        let names = ["ONWIRE_EVENT", "ONWIRE_NODE", "ONWIRE_PEER", "ONWIRE_STATE", "ONWIRE_REASON", "ONWIRE_BEFORE"];
        assert_eq!(names.map(|name| find(&link, name)), ["link", "ithaca", "syracuse", "down", "silent", "up"]);
        assert_eq!(["ONWIRE_LOSSES", "ONWIRE_BYTES"].map(|name| find(&violation(1), name)), ["1", "10"]);
        let drain = event("syracuse", Fact::of_drain("complete", &[], 0.25));
        assert_eq!(["ONWIRE_VERDICT", "ONWIRE_WAITED"].map(|name| find(&drain, name)), ["complete", "0.250"]);
    }
}
