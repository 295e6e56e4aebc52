//! Status of protection: each peer's link and blocks, and the notification port. What may be called protected is
//! decided in [`crate::protect`].
//!
//! The JSON form is for programs: fields are only added.

use std::net::SocketAddr;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::appliance::notify::notification::level_of;
use crate::appliance::notify::port::NotifyPort;
use crate::io::since::Since;
use crate::io::status_socket::unspecified;
use crate::notify::message::{LinkState, StateReason};
use crate::notify::publisher;
use crate::protect::{Counters, Evidence, PeerProtection, StateTimes};

/// The protection of one peer's flows on one lane.
#[derive(Clone, Copy, Debug)]
pub struct ProtectionSnapshot {
    state: (LinkState, StateReason),
    since: Option<StateTimes>,
    evidence: Evidence,
    flows: usize,
    counters: Counters,
    flow_counters: crate::flow::Counters,
}

impl ProtectionSnapshot {
    /// Copies the current state.
    pub fn take(protection: &PeerProtection) -> Self {
        Self {
            state: protection.state(),
            since: protection.state_since(),
            evidence: protection.evidence(),
            flows: protection.flows().len(),
            counters: protection.counters(),
            flow_counters: protection.flows().counters(),
        }
    }

    /// The state of the worst of these lanes, and since when it is that of the link; `None` for the time: since the
    /// start.
    pub fn worst<'a>(
        lanes: impl Iterator<Item = &'a Self> + Clone,
    ) -> Option<((LinkState, StateReason), Option<StateTimes>)> {
        let (state, reason) = lanes.clone().map(|lane| lane.state).max_by_key(|(state, _)| state.severity())?;
        // What a lane was before is not known. A link is bad since its first lane is, and good since its last.
        let is_good = state.severity() == LinkState::Up.severity();
        let of = |same: fn(&Self, (LinkState, StateReason)) -> bool, moment: fn(StateTimes) -> Instant| {
            let times = lanes.clone().filter(|lane| same(lane, (state, reason))).map(|lane| lane.since.map(moment));
            let time = if is_good { times.max() } else { times.min() };
            time.flatten()
        };
        let state_since = of(|lane, (state, _)| lane.state.0 == state, |since| since.state);
        let reason_since = of(|lane, state| lane.state == state, |since| since.reason);
        let since = state_since.zip(reason_since).map(|(state, reason)| StateTimes { state, reason });
        Some(((state, reason), since))
    }
}

/// The protection of one peer's flows, over all lanes.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ProtectionStatus {
    /// `up`, `draining`, `degraded` or `down`; of the worst lane.
    pub state: String,
    /// Since when; an appliance of an earlier release does not say.
    pub since: Option<Since>,
    /// Why it is not up.
    pub reason: String,
    /// Since when for this reason.
    pub reason_since: Option<Since>,
    /// The level that counts as protected: `on_wire`, or `queued` where there is no better evidence.
    pub level: String,
    /// Flows that are followed.
    pub flows: u64,
    /// Flows that were dropped from a full table.
    pub flows_evicted: u64,
    /// Blocks called protected.
    pub protected_blocks: u64,
    /// Blocks that left this host while the link could not be trusted.
    pub untrusted_blocks: u64,
    /// Blocks whose late repair did not leave as promised: they are protected early at most.
    pub promises_broken: u64,
    /// Blocks with a datagram that could not be sent.
    pub unsendable_blocks: u64,
    /// Timestamps that did not come in time: their blocks are not protected.
    pub stamps_missing: u64,
    /// Blocks the peer could not rebuild.
    pub lost_blocks: u64,
    /// Those of them that had been called protected.
    pub violations: u64,
    /// Blocks that were forgotten before the peer reported their fate.
    pub forgotten_blocks: u64,
    /// TCP segments, of either direction, with a wrong checksum: sent on, but counted for nothing else.
    pub bad_checksums: u64,
    /// TCP segments, of either direction, that their receiver would not accept: sent on, but counted for nothing else.
    pub implausible_segments: u64,
}

impl ProtectionStatus {
    /// Combines the lanes; `None` if there is no protection.
    /// `started`: when the appliance was; `now`: when the lanes answered.
    pub fn gather<'a>(
        lanes: impl Iterator<Item = &'a ProtectionSnapshot> + Clone,
        started: Instant,
        now: Instant,
    ) -> Option<Self> {
        let first = lanes.clone().next()?;
        let ((state, reason), since) = ProtectionSnapshot::worst(lanes.clone())?;
        let since = since.unwrap_or(StateTimes { state: started, reason: started });
        let level = lanes.clone().map(|lane| level_of(lane.evidence)).min().unwrap_or(level_of(first.evidence));
        let mut counters = Counters::default();
        lanes.clone().for_each(|lane| counters.add(&lane.counters));
        Some(Self {
            state: state.name().to_owned(),
            since: Some(Since::of(since.state, now)),
            reason: reason.name().to_owned(),
            reason_since: Some(Since::of(since.reason, now)),
            level: level.name().to_owned(),
            flows: lanes.clone().map(|lane| lane.flows as u64).sum(),
            flows_evicted: lanes.clone().map(|lane| lane.flow_counters.evicted).sum(),
            bad_checksums: lanes.clone().map(|lane| lane.flow_counters.bad_checksums).sum(),
            implausible_segments: lanes
                .map(|lane| lane.flow_counters.implausible_acks + lane.flow_counters.strays)
                .sum(),
            protected_blocks: counters.protected,
            untrusted_blocks: counters.untrusted,
            promises_broken: counters.promises_broken,
            unsendable_blocks: counters.unsendable,
            stamps_missing: counters.stamps_missing,
            lost_blocks: counters.lost,
            violations: counters.violations,
            forgotten_blocks: counters.forgotten,
        })
    }
}

/// The notification port.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NotifyStatus {
    /// Where it listens.
    #[serde(default = "unspecified")]
    pub listen: SocketAddr,
    /// Subscribers with a lease.
    #[serde(default)]
    pub subscribers: usize,
    /// Datagrams sent.
    #[serde(default)]
    pub sent: u64,
    /// Datagrams the socket refused.
    #[serde(default)]
    pub send_errors: u64,
    /// Requests that were carried out.
    #[serde(default)]
    pub requests: u64,
    /// Requests refused with an error, including subscriptions beyond a limit.
    #[serde(default)]
    pub refused: u64,
    /// Leases that ended without renewal.
    #[serde(default)]
    pub leases_ended: u64,
    /// Datagrams of another protocol, or cut short.
    #[serde(default)]
    pub not_ours: u64,
    /// Datagrams with an unknown key or a wrong authentication.
    #[serde(default)]
    pub forged: u64,
    /// Datagrams seen before, of an earlier run, or sent back to us.
    #[serde(default)]
    pub replayed: u64,
    /// Requests without a subscription.
    #[serde(default)]
    pub not_subscribed: u64,
    /// Answers and block messages that a slow subscriber did not get.
    #[serde(default)]
    pub skipped: u64,
    /// Requests dropped because a program asked for more than its share.
    #[serde(default)]
    pub excess: u64,
    /// Flows that are not published because there are too many.
    #[serde(default)]
    pub flows_refused: u64,
}

impl NotifyStatus {
    /// Copies the current state.
    pub fn take(port: &NotifyPort) -> Self {
        let publisher::Counters {
            sent,
            send_errors,
            requests,
            not_ours,
            forged,
            wrong_direction,
            old_epoch,
            replayed,
            not_subscribed,
            refused,
            full,
            challenged: _,
            leases_ended,
            excess,
            answers_dropped,
            blocks_skipped,
            flows_refused,
            stale_updates: _,
        } = port.counters();
        Self {
            listen: port.listen(),
            subscribers: port.subscribers(),
            sent,
            send_errors,
            requests,
            refused: refused + full,
            leases_ended,
            not_ours,
            forged,
            replayed: replayed + old_epoch + wrong_direction,
            not_subscribed,
            skipped: answers_dropped + blocks_skipped,
            excess,
            flows_refused,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_link_is_bad_since_its_first_lane_is_and_good_since_its_last() {
        let start = Instant::now();
        let lane = |state, since: Option<u64>| ProtectionSnapshot {
            state,
            since: since.map(|second| {
                let at = start + Duration::from_secs(second);
                StateTimes { state: at, reason: at + Duration::from_secs(1) }
            }),
            evidence: Evidence::Timestamps,
            flows: 0,
            counters: Counters::default(),
            flow_counters: crate::flow::Counters::default(),
        };
        let (up, down) = ((LinkState::Up, StateReason::None), (LinkState::Down, StateReason::NoSession));
        let silent = (LinkState::Degraded, StateReason::NoReports);
        for (lanes, state, since) in [
            (vec![lane(up, Some(3)), lane(up, Some(9))], up, Some(9)),
            (vec![lane(up, Some(3)), lane(silent, Some(5)), lane(silent, Some(7))], silent, Some(5)),
            (vec![lane(down, None), lane(silent, Some(7))], down, None),
        ] {
            let (found, times) = ProtectionSnapshot::worst(lanes.iter()).unwrap();
            let times = times.map(|times| (times.state, times.reason));
            let at = |second| start + Duration::from_secs(second);
            assert_eq!((found, times), (state, since.map(|second| (at(second), at(second + 1)))));
        }
        assert!(ProtectionSnapshot::worst([].iter()).is_none());
    }
}
