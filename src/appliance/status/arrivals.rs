//! What has arrived from a peer, as status: whether anything is still in flight or waits, what was given up, and how
//! far each TCP flow has come.
//!
//! This file collects it from the lanes; whether the mirror may be promoted is decided in
//! [`crate::appliance::status::drain`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::appliance::lane::listening::Silence;
use crate::flow::arrivals::{Arrival, Arrivals};
use crate::io::status_socket::unspecified;
use crate::tunnel::lost_blocks::LostBlocks;
use crate::tunnel::peer::Peer;
use crate::tunnel::receiver::ReceiveProgress;

/// A silence shorter than this never means that nothing is in flight.
const QUIET_MIN: Duration = Duration::from_millis(500);
/// Flows that are listed one by one: those that lack something first.
const FLOWS_LISTED: usize = 256;
/// Flows idle for this long are left out: their TCP has given up long ago.
const FLOW_LIFE: Duration = Duration::from_secs(125 * 60);

/// What one lane knows of what came from one peer.
#[derive(Clone, Debug)]
pub struct ArrivalsSnapshot {
    taken_at: Instant,
    heard_at: Option<Instant>,
    silence: Silence,
    quiet_after: Duration,
    is_empty: bool,
    receive_progress: Vec<ReceiveProgress>,
    lost_blocks: u64,
    lost: Vec<LostBlocks>,
    flows: Vec<Arrival>,
    flows_evicted: u64,
    refused_at: Option<Instant>,
}

impl ArrivalsSnapshot {
    /// Copies the state at `now`; `owns` returns whether a flow is from this peer.
    pub fn take(
        peer: &Peer,
        arrivals: &Arrivals,
        owns: impl Fn(&Arrival) -> bool,
        silence: Silence,
        now: Instant,
    ) -> Self {
        let losses = peer.losses();
        // What is still in flight is behind what came last by at most the variation of the path's delay; a live peer
        // sends something in each interval.
        let variation = (peer.hold() * 2).max(peer.reporting().rtt().unwrap_or_default() * 3).max(QUIET_MIN);
        let lives = |flow: &&Arrival| now.saturating_duration_since(flow.seen) < FLOW_LIFE;
        Self {
            taken_at: now,
            heard_at: peer.last_heard(),
            silence,
            quiet_after: variation + peer.reporting().peer_interval(),
            is_empty: peer.earlier_runs_drained(),
            receive_progress: peer.receive_progress().collect(),
            lost_blocks: losses.blocks(),
            lost: losses.newest().copied().collect(),
            flows: arrivals
                .flows()
                .filter(|flow| !flow.is_over())
                .filter(lives)
                .filter(|it| owns(it))
                .cloned()
                .collect(),
            flows_evicted: arrivals.evicted(),
            refused_at: arrivals.refused_at(),
        }
    }
}

/// What has arrived from a peer, over all lanes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ArrivedStatus {
    /// How long ago anything came; `None` if nothing has come since the start.
    pub heard_ms_ago: Option<f64>,
    /// For how long since then the sockets were found empty. Time in which the appliance stood still does not count. An
    /// appliance of an earlier release omits this, and is never silent.
    pub silent_ms: f64,
    /// Lanes that had not read their socket to its end when they answered.
    pub unread_lanes: u64,
    /// How long ago the kernel was found to have dropped datagrams for want of room in a socket; `None` if something
    /// came from the peer later.
    pub overflowed_ms_ago: Option<f64>,
    /// After a silence of this length nothing is in flight any more.
    pub quiet_after_ms: f64,
    /// Blocks that wait for symbols, or hold back what came.
    pub waiting_blocks: u64,
    /// The last blocks, if their end never came.
    pub unfinished: Vec<UnfinishedBlock>,
    /// Blocks given up with something missing, since the start.
    pub lost_blocks: u64,
    /// The newest of these.
    pub lost: Vec<LostStatus>,
    /// How long ago the TUN last refused a packet, of any peer.
    pub refused_ms_ago: Option<f64>,
    /// TCP flows that are known and not over.
    pub flows_known: u64,
    /// TCP flows that were dropped from a full table, of all peers.
    pub flows_evicted: u64,
    /// The flows, those that lack something first.
    pub flows: Vec<ArrivalStatus>,
}

/// A block with something missing, which may never have been sent to its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct UnfinishedBlock {
    /// The lane.
    pub lane: u8,
    /// The sender's profile.
    pub profile: u8,
    /// Its number.
    pub block: u64,
}

/// Consecutive blocks that were given up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LostStatus {
    /// The lane.
    pub lane: u8,
    /// The sender's profile.
    pub profile: u8,
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// How long ago the last of them was given up.
    pub ms_ago: f64,
}

/// One TCP flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ArrivalStatus {
    /// The end at the peer's side.
    #[serde(default = "unspecified")]
    pub source: SocketAddr,
    /// The end at our side.
    #[serde(default = "unspecified")]
    pub destination: SocketAddr,
    /// Bytes are counted from the beginning of the connection; if false, from the first byte that was seen.
    #[serde(default)]
    pub from_syn: bool,
    /// Bytes handed on without a gap.
    #[serde(default)]
    pub bytes: u64,
    /// The sequence number of the next byte.
    #[serde(default)]
    pub sequence: u32,
    /// The end of the highest byte handed on.
    #[serde(default)]
    pub highest: u64,
    /// What is missing before that.
    #[serde(default)]
    pub missing: Vec<MissingBytes>,
    /// For how long something is missing.
    #[serde(default)]
    pub missing_for_ms: Option<f64>,
    /// Bytes that the TCP at our end has acknowledged; `None` if its acknowledgements were not seen.
    #[serde(default)]
    pub acknowledged: Option<u64>,
    /// Bytes not acknowledged that are kept here to be handed on again.
    #[serde(default)]
    pub kept: u64,
}

/// Bytes of a flow that did not come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MissingBytes {
    /// The first missing byte, counted from the flow's beginning.
    pub from: u64,
    /// The first byte that is there again.
    pub to: u64,
    /// The sequence number of the first missing byte.
    pub sequence: u32,
}

impl ArrivedStatus {
    /// Combines what the lanes know; `None` without lanes.
    pub fn gather<'a>(lanes: impl Iterator<Item = (u8, &'a ArrivalsSnapshot)> + Clone) -> Option<Self> {
        let (_, first) = lanes.clone().next()?;
        let now = lanes.clone().map(|(_, lane)| lane.taken_at).max().unwrap_or(first.taken_at);
        let ms_since = |at: Instant| now.saturating_duration_since(at).as_secs_f64() * 1e3;
        let mut flows: Vec<Arrival> = lanes.clone().flat_map(|(_, lane)| lane.flows.iter().cloned()).collect();
        let ends = |flow: &Arrival| {
            let key = flow.key;
            [(key.source, key.source_port), (key.destination, key.destination_port)]
        };
        flows.sort_by_key(|flow| (ends(flow), !flow.from_syn));
        flows.dedup_by(|other, flow| {
            let same = other.key == flow.key;
            if same {
                flow.merge(other);
            }
            same
        });
        flows.retain(|flow| !flow.is_over());
        let flows_known = flows.len() as u64;
        flows.sort_by_key(|flow| (!flow.has_gap(), flow.unacknowledged() == 0, std::cmp::Reverse(flow.seen)));
        flows.truncate(FLOWS_LISTED);
        let mut status = Self {
            heard_ms_ago: lanes.clone().filter_map(|(_, lane)| lane.heard_at).max().map(ms_since),
            silent_ms: lanes.clone().map(|(_, lane)| lane.silence.lasted).min().unwrap_or_default().as_secs_f64() * 1e3,
            unread_lanes: lanes.clone().filter(|(_, lane)| !lane.silence.is_read).count() as u64,
            overflowed_ms_ago: lanes.clone().filter_map(|(_, lane)| lane.silence.overflowed_at).max().map(ms_since),
            quiet_after_ms: lanes.clone().map(|(_, lane)| lane.quiet_after.as_secs_f64() * 1e3).fold(0.0, f64::max),
            refused_ms_ago: lanes.clone().filter_map(|(_, lane)| lane.refused_at).max().map(ms_since),
            flows_known,
            flows: flows.iter().map(|flow| ArrivalStatus::of(flow, ms_since)).collect(),
            ..Self::default()
        };
        for (number, lane) in lanes {
            status.waiting_blocks += u64::from(!lane.is_empty);
            status.lost_blocks += lane.lost_blocks;
            status.flows_evicted += lane.flows_evicted;
            for receive_progress in &lane.receive_progress {
                status.waiting_blocks += receive_progress.waiting as u64;
                let unfinished = |block| UnfinishedBlock { lane: number, profile: receive_progress.profile, block };
                status.unfinished.extend(receive_progress.unfinished.map(unfinished));
            }
            status.lost.extend(lane.lost.iter().map(|lost| LostStatus {
                lane: number,
                profile: lost.profile,
                first: lost.first,
                count: lost.count,
                ms_ago: ms_since(lost.at),
            }));
        }
        Some(status)
    }
}

impl ArrivalStatus {
    fn of(flow: &Arrival, ms_since: impl Fn(Instant) -> f64) -> Self {
        let missing = flow.missing().map(|(from, to)| MissingBytes { from, to, sequence: flow.sequence(from) });
        Self {
            source: SocketAddr::new(flow.key.source, flow.key.source_port),
            destination: SocketAddr::new(flow.key.destination, flow.key.destination_port),
            from_syn: flow.from_syn,
            bytes: flow.contiguous,
            sequence: flow.sequence(flow.contiguous),
            highest: flow.highest,
            missing: missing.collect(),
            missing_for_ms: flow.gap_since.map(ms_since),
            acknowledged: flow.acked,
            kept: flow.kept,
        }
    }
}
