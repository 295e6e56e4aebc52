//! Status of protection: each peer's link and blocks, and the notification port. What may be called protected is
//! decided in [`crate::protect`].
//!
//! The JSON form is for programs: fields are only added.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::appliance::notify::notification::level_of;
use crate::appliance::notify::port::NotifyPort;
use crate::notify::message::{LinkState, StateReason};
use crate::notify::publisher;
use crate::protect::{Counters, Evidence, PeerProtection};

/// The protection of one peer's flows on one lane.
#[derive(Clone, Copy, Debug)]
pub struct ProtectionSnapshot {
    state: (LinkState, StateReason),
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
            evidence: protection.evidence(),
            flows: protection.flows().len(),
            counters: protection.counters(),
            flow_counters: protection.flows().counters(),
        }
    }
}

/// The protection of one peer's flows, over all lanes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProtectionStatus {
    /// `up`, `draining`, `degraded` or `down`; of the worst lane.
    pub state: String,
    /// Why it is not up.
    pub reason: String,
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
    #[serde(default)]
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
    #[serde(default)]
    pub bad_checksums: u64,
    /// TCP segments, of either direction, that their receiver would not accept: sent on, but counted for nothing else.
    #[serde(default)]
    pub implausible_segments: u64,
}

impl ProtectionStatus {
    /// Combines the lanes; `None` if there is no protection.
    pub fn gather<'a>(lanes: impl Iterator<Item = &'a ProtectionSnapshot> + Clone) -> Option<Self> {
        let first = lanes.clone().next()?;
        let (state, reason) = lanes.clone().map(|lane| lane.state).max_by_key(|(state, _)| state.severity())?;
        let level = lanes.clone().map(|lane| level_of(lane.evidence)).min().unwrap_or(level_of(first.evidence));
        let mut counters = Counters::default();
        lanes.clone().for_each(|lane| counters.add(&lane.counters));
        Some(Self {
            state: state.name().to_owned(),
            reason: reason.name().to_owned(),
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
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NotifyStatus {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Subscribers with a lease.
    pub subscribers: usize,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams the socket refused.
    pub send_errors: u64,
    /// Requests that were carried out.
    pub requests: u64,
    /// Requests refused with an error, including subscriptions beyond a limit.
    pub refused: u64,
    /// Leases that ended without renewal.
    pub leases_ended: u64,
    /// Datagrams of another protocol, or cut short.
    pub not_ours: u64,
    /// Datagrams with an unknown key or a wrong authentication.
    pub forged: u64,
    /// Datagrams seen before, of an earlier run, or sent back to us.
    pub replayed: u64,
    /// Requests without a subscription.
    pub not_subscribed: u64,
    /// Answers and block messages that a slow subscriber did not get.
    pub skipped: u64,
    /// Requests dropped because a program asked for more than its share.
    #[serde(default)]
    pub excess: u64,
    /// Flows that are not published because there are too many.
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
