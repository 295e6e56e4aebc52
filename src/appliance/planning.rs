//! The plans of profiles that state targets: from the lanes' estimates of their links to profiles for the lanes.
//!
//! Each lane cuts its own blocks, so each has its own plans: one for each peer and profile. All lanes of a peer share one
//! link, so what is known of it is added up, except the rate. Planning takes milliseconds now and then, and is done in the control
//! thread: no packet waits for it. What is worth a line in the log is decided here, too.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::appliance::setup;
use crate::appliance::status::plan::PlanStatus;
use crate::config::{Config, Repair};
use crate::notify::message::StateReason;
use crate::plan::planner::Change;
use crate::plan::{Link, Planner, Targets};
use crate::tunnel::PeerId;
use crate::tunnel::estimate::link_estimate::LinkEstimate;
use crate::tunnel::estimate::send_times::Interruption;
use crate::tunnel::sender::Profile;

/// Fewer datagrams than this say nothing about a link: the assumed loss counts.
const EVIDENCE_MIN: f64 = 1000.0;
/// Rates are averaged over this time, as `max_overhead` is.
const RATE_OVER: Duration = Duration::from_secs(1);

/// What a lane knows of its link to a peer.
#[derive(Clone, Debug, Default)]
pub struct LaneLink {
    /// What was measured.
    pub estimate: LinkEstimate,
    /// The peer waits for late repair.
    pub peer_knows_late: bool,
    /// Source symbols sent so far.
    pub source_symbols: u64,
}

/// A new profile for one lane and peer.
#[derive(Clone, Debug)]
pub struct NewPlan {
    /// The lane.
    pub lane: usize,
    /// The peer.
    pub peer: PeerId,
    /// The profile.
    pub profile: Box<Profile>,
    /// Why the link is degraded although it works; none if it is not.
    pub reason: Option<StateReason>,
}

/// The planner of one profile toward one peer on one lane.
struct Entry {
    lane: usize,
    peer: usize,
    profile: usize,
    targets: Targets,
    assume_loss: f64,
    planner: Planner,
    changes: u64,
    /// What the lane was told last.
    state: PlanState,
}

impl Entry {
    fn place(&self) -> (usize, usize, usize) {
        (self.lane, self.peer, self.profile)
    }

    /// The model that `residual` was planned with is violated by an interruption that the plan does not survive anyway.
    fn is_doubted(&self, violated_by: Option<Interruption>) -> bool {
        self.targets.residual.is_some() && violated_by.is_some_and(|it| it.at_least > self.targets.survive_burst)
    }
}

/// What a plan is worth on the link as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
struct PlanState {
    keeps_promise: bool,
    reason: Option<StateReason>,
}

/// One lane's link to one peer.
#[derive(Clone, Debug, Default)]
struct KnownLink {
    link: LaneLink,
    /// Source symbols a second, over about a second.
    rate: f64,
    heard_at: Option<Instant>,
}

impl KnownLink {
    fn on_link(&mut self, link: LaneLink, now: Instant) {
        let passed = self.heard_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at)).as_secs_f64();
        if passed > 0.0 {
            let sent = link.source_symbols.saturating_sub(self.link.source_symbols) as f64;
            let forgotten = 1.0 - (-passed / RATE_OVER.as_secs_f64()).exp();
            self.rate += (sent / passed - self.rate) * forgotten;
        }
        self.heard_at = Some(now);
        self.link = link;
    }
}

impl NewPlan {
    fn is_replaced_by(&self, other: &Self) -> bool {
        let place = |plan: &Self| (plan.lane, plan.peer, plan.profile.number);
        place(self) == place(other)
    }
}

/// All plans.
pub struct Planning {
    entries: Vec<Entry>,
    /// By lane, then by peer.
    links: Vec<Vec<KnownLink>>,
    names: Vec<String>,
    profiles: Vec<String>,
    /// New plans that no lane has taken yet.
    waiting: VecDeque<NewPlan>,
}

impl Planning {
    /// The plans at the start, which every lane has already.
    pub fn new(config: &Config, lanes: usize, now: Instant) -> Self {
        let mut entries = Vec::new();
        for lane in 0..lanes {
            for (peer, peer_config) in config.peers.iter().enumerate().filter(|(_, peer)| !peer.is_removed) {
                for (profile, profile_config) in config.profiles.iter().enumerate() {
                    let Repair::Targets(configured) = profile_config.repair else { continue };
                    let targets = setup::targets(&configured);
                    let limits = setup::limits(profile_config, usize::from(peer_config.path.symbol_size()));
                    let assume_loss = configured.assume_loss;
                    let planner = Planner::new(targets, limits, &Link::assumed(assume_loss), now);
                    let state = PlanState { keeps_promise: planner.plan().keeps_promise(), reason: None };
                    entries.push(Entry { lane, peer, profile, targets, assume_loss, planner, changes: 0, state });
                }
            }
        }
        Self {
            entries,
            links: vec![vec![KnownLink::default(); config.peers.len()]; lanes],
            names: config.peers.iter().map(|peer| peer.name.clone()).collect(),
            profiles: config.profiles.iter().map(|profile| profile.name.clone()).collect(),
            waiting: VecDeque::new(),
        }
    }

    /// Follows another configuration with the same numbers. A plan goes on where neither its profile nor its peer has changed.
    pub fn reload(&mut self, before: &Config, config: &Config, now: Instant) {
        let lanes = self.links.len();
        let mut fresh = Self::new(config, lanes, now);
        let is_same = |(_, peer, profile): (usize, usize, usize)| {
            before.profiles.get(profile) == Some(&config.profiles[profile])
                && before.peers.get(peer).is_some_and(|peer| !peer.is_removed)
        };
        for entry in fresh.entries.iter_mut().filter(|entry| is_same(entry.place())) {
            if let Some(at) = self.entries.iter().position(|known| known.place() == entry.place()) {
                *entry = self.entries.swap_remove(at);
                // The lane has forgotten why its link is degraded, and is told again.
                entry.state.reason = None;
            }
        }
        for (links, known) in fresh.links.iter_mut().zip(&mut self.links) {
            for (link, known) in links.iter_mut().zip(known) {
                *link = std::mem::take(known);
            }
        }
        fresh.waiting = std::mem::take(&mut self.waiting);
        fresh.waiting.retain(|plan| is_same((plan.lane, plan.peer.0.into(), plan.profile.number.into())));
        *self = fresh;
    }

    /// Takes what a lane knows of its link to `peer`.
    pub fn on_link(&mut self, lane: u8, peer: PeerId, link: LaneLink, now: Instant) {
        let (lane, peer) = (usize::from(lane), usize::from(peer.0));
        let Some(known) = self.links.get_mut(lane).and_then(|links| links.get_mut(peer)) else { return };
        known.on_link(link, now);
        let mut all = LinkEstimate::default();
        self.links.iter().for_each(|links| all.merge(&links[peer].link.estimate));
        let own = &self.links[lane][peer];
        let of_link = |entry: &&mut Entry| (entry.lane, entry.peer) == (lane, peer);
        let mut changed = Vec::new();
        for (at, entry) in self.entries.iter_mut().enumerate().filter(|(_, entry)| of_link(entry)) {
            let link = link_of(&all, entry.assume_loss, own.rate, own.link.peer_knows_late);
            if let Some(change) = entry.planner.update(&link, now) {
                entry.changes += 1;
                log_change(&change, &self.names[peer], &self.profiles[entry.profile], lane);
                changed.push(at);
            }
        }
        let reason = self.reason(lane, peer, all.violated_by);
        for (at, entry) in self.entries.iter_mut().enumerate().filter(|(_, entry)| of_link(entry)) {
            let keeps_promise = entry.planner.plan().keeps_promise() && !entry.is_doubted(all.violated_by);
            let state = PlanState { keeps_promise, reason };
            if changed.contains(&at) || state != entry.state {
                entry.state = state;
                let mut profile = setup::planned(entry.profile as u8, entry.planner.plan());
                profile.keeps_promise = state.keeps_promise;
                let new = NewPlan { lane, peer: PeerId(peer as u16), profile: Box::new(profile), reason };
                self.waiting.retain(|waiting| !waiting.is_replaced_by(&new));
                self.waiting.push_back(new);
            }
        }
    }

    /// Why the link is degraded although it works.
    fn reason(&self, lane: usize, peer: usize, violated_by: Option<Interruption>) -> Option<StateReason> {
        let mut entries = self.entries.iter().filter(|entry| (entry.lane, entry.peer) == (lane, peer));
        let is_missed = entries.clone().any(|entry| !entry.planner.plan().keeps_promise());
        let is_doubted = entries.any(|entry| entry.is_doubted(violated_by));
        is_missed.then_some(StateReason::Target).or(is_doubted.then_some(StateReason::Model))
    }

    /// The next new plan for a lane.
    pub fn poll_plan(&mut self) -> Option<NewPlan> {
        self.waiting.pop_front()
    }

    /// The lane was too busy for this plan; it is offered again, unless a newer one replaces it.
    pub fn on_unsent(&mut self, plan: NewPlan) {
        if !self.waiting.iter().any(|newer| plan.is_replaced_by(newer)) {
            self.waiting.push_back(plan);
        }
    }

    /// The plans toward one peer, for status.
    pub fn status(&self, peer: usize) -> Vec<PlanStatus> {
        let of = |entry: &Entry| {
            let plan = entry.planner.plan();
            PlanStatus {
                profile: self.profiles[entry.profile].clone(),
                lane: entry.lane,
                block_symbols: plan.block_symbols,
                close_after_us: plan.close_after.as_micros() as u64,
                repair_symbols: plan.repair.repair_symbols(plan.block_symbols),
                survive_burst_us: plan.survive_burst.as_micros() as u64,
                overhead: plan.overhead_at(self.links[entry.lane][peer].rate),
                unreached: plan.unreached.iter().map(ToString::to_string).collect(),
                changes: entry.changes,
            }
        };
        self.entries.iter().filter(|entry| entry.peer == peer).map(of).collect()
    }
}

fn link_of(estimate: &LinkEstimate, assume_loss: f64, symbols_per_second: f64, peer_knows_late: bool) -> Link {
    let is_measured = estimate.datagrams >= EVIDENCE_MIN;
    Link {
        loss: if is_measured { estimate.loss_upper } else { assume_loss.max(estimate.loss) },
        bursts: estimate.fit.filter(|_| is_measured).filter(|fit| fit.bad.is_some()).map(|fit| fit.link),
        symbols_per_second,
        congested: estimate.congested,
        peer_knows_late,
    }
}

fn log_change(change: &Change, peer: &str, profile: &str, lane: usize) {
    let plan = &change.to;
    tracing::debug!(
        peer,
        profile,
        lane,
        "{}: blocks of up to {} symbols and {:?}, {} repair symbols at once, late ones {:?} later",
        change.reason,
        plan.block_symbols,
        plan.close_after,
        plan.repair.repair_symbols(plan.block_symbols),
        plan.survive_burst
    );
    for target in change.lost() {
        let why = plan.unreached.iter().find(|unreached| unreached.target == target);
        let why = why.map(ToString::to_string).unwrap_or_default();
        tracing::info!(peer, profile, lane, "{why}");
    }
    for target in change.regained() {
        tracing::info!(peer, profile, lane, "{} is reached again", target.key());
    }
}
