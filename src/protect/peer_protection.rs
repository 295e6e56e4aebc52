//! The protection of one peer's flows on one lane.
//!
//! Pass inputs in the order in which they happened, then drain [`PeerProtection::poll_notification`]. Read the clock
//! after the event it goes with: a link that was trusted at the start of a turn may no longer be.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::barrier::Barriers;
use super::evidence::Evidence;
use super::health::Health;
use super::ledger::{Fate, Ledger, Size};
use super::notification::{Counters, Notification, StateTimes};
use super::send_lag::SendLag;
use super::tx_timestamps::Departures;
use crate::flow::{Event as FlowEvent, FlowKey, FlowTable, TooManyCookies};
use crate::notify::message::{Event, Level, LinkState, StateReason};
use crate::tunnel::block_event::BlockEvent;
use crate::tunnel::feedback::Feedback;
use crate::tunnel::forwarder::{Deliverable, Outgoing};
use crate::tunnel::late_repair;
use crate::tunnel::receiver::SENDER_PAUSE;
use crate::wire::payload_id::BlockId;

/// A block that takes longer to leave is not claimed: the peer may give it up before its repair symbols arrive.
const LEAVES_WITHIN: Duration = Duration::from_millis(400);
/// The remaining time that the peer waits covers a varying path delay.
const _: () = assert!(LEAVES_WITHIN.as_millis() + 100 <= SENDER_PAUSE.as_millis());

/// Ranges of flows reported per block.
const RANGES_PUBLISHED: usize = 8;

/// The protection of one peer's flows on one lane.
#[derive(Debug)]
pub struct PeerProtection {
    evidence: Evidence,
    flows: FlowTable,
    ledger: Ledger,
    departures: Departures,
    lag: SendLag,
    /// Blocks whose early part has left, until they are polled.
    early_left: VecDeque<BlockId>,
    health: Health,
    barriers: Barriers,
    plan_reason: Option<StateReason>,
    is_bypassed: bool,
    published_state: (LinkState, StateReason),
    /// When the state became this one, and when its reason did; `None` before the first change.
    changed_at: Option<StateTimes>,
    notifications: VecDeque<Notification>,
    /// Where in the flow table to continue: all flows are reported again, because the reader missed changes.
    refresh: Option<usize>,
    /// The refresh before the violation at the front is done.
    is_refreshed: bool,
    /// A subscriber wants a notification for each block.
    publishes_blocks: bool,
    counters: Counters,
}

impl PeerProtection {
    /// Nothing is protected yet.
    pub fn new(flows: FlowTable, evidence: Evidence) -> Self {
        Self {
            evidence,
            flows,
            ledger: Ledger::default(),
            departures: Departures::default(),
            lag: SendLag::default(),
            early_left: VecDeque::new(),
            health: Health::new(evidence == Evidence::HandOverOnly),
            barriers: Barriers::default(),
            plan_reason: None,
            is_bypassed: false,
            published_state: (LinkState::Down, StateReason::NoSession),
            changed_at: None,
            notifications: VecDeque::new(),
            refresh: None,
            is_refreshed: false,
            publishes_blocks: false,
            counters: Counters::default(),
        }
    }

    /// The link is trusted for at most `max` after our last datagram that is known to have arrived.
    pub fn limit_trust(&mut self, max: Duration) {
        self.health.limit_trust(max);
    }

    /// A packet is about to be put into its block, or was dropped here.
    #[inline]
    pub fn on_outgoing(&mut self, outgoing: &Outgoing<'_>, now: Instant) {
        let next_send = self.departures.next_send();
        if outgoing.block.is_some_and(|block| self.ledger.on_packet(block, next_send, now)) {
            self.flows.hold_all();
        }
        self.flows.on_sent(outgoing.packet, outgoing.view, outgoing.header, outgoing.block, now);
    }

    /// A packet came from the peer; its acknowledgement counts.
    #[inline]
    pub fn on_incoming(&mut self, incoming: &Deliverable<'_>, now: Instant) {
        self.flows.on_received(incoming.packet, &incoming.view, incoming.header, now);
    }

    /// A block on its way out changed its state.
    pub fn on_block(&mut self, event: BlockEvent, now: Instant) {
        match event {
            BlockEvent::Closed { block, source_symbols, repair_symbols, has_late, keeps_promise, survives } => {
                let size = (source_symbols, repair_symbols);
                self.ledger.on_closed(block, size, has_late, (keeps_promise, survives));
            }
            BlockEvent::Sent { block, part, last, alone } => {
                let Some(sent) = self.ledger.on_sent(block, part, now) else { return };
                if self.evidence == Evidence::Timestamps {
                    self.departures.on_sent((block, part), sent.first_send, last, alone);
                } else if sent.is_followed {
                    // The kernel has it, and nothing will show more.
                    self.ledger.on_left(block, part, self.departures.next_send(), now);
                } else if sent.level >= Level::OnWire && self.health_allows(now) {
                    self.claim(block, sent.size, Level::Queued);
                    self.settle_barriers();
                }
            }
            BlockEvent::PromiseBroken { block } => {
                self.counters.promises_broken += 1;
                self.ledger.on_promise_broken(block);
            }
            BlockEvent::Abandoned { block } => {
                self.ledger.on_abandoned(block);
                self.flows.on_block_failed(block, now);
                self.on_void(block);
            }
            BlockEvent::Unsendable => {
                self.counters.unsendable += self.ledger.on_unsendable();
                self.health.on_error(now);
            }
            BlockEvent::Moved => {
                self.counters.untrusted += self.ledger.distrust_pending();
                self.health.on_new_path(now);
            }
            BlockEvent::PeerRestarted => {
                self.health.on_epoch();
                let notifications = &mut self.notifications;
                self.barriers.fail_all(|id| notifications.push_back(Notification::Barrier(id, None)));
            }
            BlockEvent::Void { below } => {
                self.flows.on_blocks_void(below, now);
                self.ledger.on_void(below);
            }
        }
    }

    /// The kernel took the send with this number.
    pub fn on_taken(&mut self, send: u64) {
        self.departures.on_taken(send);
    }

    /// The kernel has taken a whole block that is not known to have left.
    pub fn awaits_departures(&self) -> bool {
        self.departures.is_waiting()
    }

    /// The send with this number, whose first datagram was queued at `queued`, has left this host.
    pub fn on_left(&mut self, send: u64, queued: Instant, now: Instant) {
        self.health.on_stamp();
        self.lag.on_left(queued, now);
        self.departures.on_left(send, now);
        while let Some((block, part)) = self.departures.poll_left() {
            let next_send = self.departures.next_send();
            let Some(left) = self.ledger.on_left(block, part, next_send, now) else { continue };
            if left.is_followed {
                self.early_left.push_back(block);
            }
            let in_time = left.took.is_some_and(|took| took <= LEAVES_WITHIN)
                && left.after_early.is_none_or(|after| after <= late_repair::spread(left.survives));
            if in_time && self.health.is_healthy(now) {
                self.claim(block, left.size, left.level);
            } else {
                self.counters.untrusted += 1;
                self.publish_block(block, left.size, None);
            }
        }
        self.settle_barriers();
    }

    /// A block whose early part has left, and whose late part follows in time after this; and how long what has left
    /// lately has lagged at most.
    pub fn poll_early_left(&mut self, now: Instant) -> Option<(BlockId, Duration)> {
        Some((self.early_left.pop_front()?, self.lag.greatest(now)))
    }

    /// A report of the peer brought the outcome of blocks.
    pub fn on_feedback(&mut self, feedback: &Feedback, now: Instant) {
        self.health.on_proof(feedback.proven_at, feedback.least_rtt, now);
        for run in &feedback.lost {
            self.on_lost(BlockId { profile: run.profile, sbn: run.first }, run.count.into(), run.symbols, now);
        }
        for progress in &feedback.progress {
            if let Some(first) = self.ledger.first(progress.profile).filter(|first| *first < progress.decoded_from) {
                // The peer began to count behind blocks that it never received.
                let block = BlockId { profile: progress.profile, sbn: first };
                self.on_lost(block, progress.decoded_from - first, 0, now);
            }
            // The peer cannot have an open block, whatever its report contains.
            let below = progress.decoded_below.min(self.ledger.closed_below(progress.profile));
            self.flows.on_blocks_decoded(progress.profile, below);
            self.ledger.on_decoded(progress.profile, below);
        }
    }

    fn on_lost(&mut self, first: BlockId, count: u64, symbols: u16, now: Instant) {
        let Self { ledger, flows, barriers, notifications, counters, health, .. } = self;
        ledger.on_lost(first, count, symbols, |block, fate| match fate {
            Fate::Whole => flows.on_block_protected(block, Level::Decoded, Duration::ZERO),
            Fate::Lost { claimed } => {
                counters.lost += 1;
                let violation = flows.violation(block, now);
                if claimed {
                    counters.violations += 1;
                    health.on_violation(now);
                    notifications.push_back(Notification::Violation(violation));
                }
                barriers.on_void(block, |id| notifications.push_back(Notification::Barrier(id, None)));
            }
        });
    }

    fn on_void(&mut self, block: BlockId) {
        let notifications = &mut self.notifications;
        self.barriers.on_void(block, |id| notifications.push_back(Notification::Barrier(id, None)));
    }

    /// A datagram was dropped in this host, without an error that identifies it.
    pub fn on_dropped_here(&mut self, now: Instant) {
        self.counters.unsendable += self.ledger.distrust_pending();
        self.health.on_error(now);
    }

    /// Whether there is a session that can seal datagrams.
    pub fn on_session(&mut self, there_is_one: bool) {
        self.health.on_session(there_is_one);
    }

    /// The appliance is about to stop.
    pub fn on_drain(&mut self) {
        self.health.on_drain();
    }

    /// Handles everything due at `now`: overdue timestamps, changes of trust in the link, idle flows.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.evidence == Evidence::Timestamps {
            self.departures.handle_timeout(now);
            for _ in 0..self.ledger.handle_timeout(now) {
                self.counters.stamps_missing += 1;
                self.health.on_stamp_missing();
            }
        }
        self.flows.handle_timeout(now);
        self.publish_state(now);
        self.settle_barriers();
    }

    /// When [`handle_timeout`](Self::handle_timeout) is next due if no input comes.
    pub fn deadline(&mut self, now: Instant) -> Option<Instant> {
        let stamps = self.ledger.deadline().filter(|_| self.evidence == Evidence::Timestamps);
        [stamps, self.health.deadline(now), self.flows.deadline()].into_iter().flatten().min()
    }

    /// The next notification. Positions come before the violations that void them, and before the barrier answers that
    /// depend on them.
    pub fn poll_notification(&mut self) -> Option<Notification> {
        loop {
            // Before a refresh goes on: a flow's beginning must not follow a newer report of the same flow.
            match self.flows.poll_event() {
                Some(FlowEvent::New(state)) => {
                    return Some(Notification::Flow { state, event: Event::New, block: None });
                }
                Some(FlowEvent::Protected { flow: state, block, .. }) => {
                    let block = block.and_then(|block| self.ledger.size(block));
                    return Some(Notification::Flow { state, event: Event::Protected, block });
                }
                Some(FlowEvent::Gone { flow: state, reason }) => {
                    return Some(Notification::Flow { state, event: Event::Gone(reason), block: None });
                }
                Some(FlowEvent::Overflow) => {
                    self.refresh = Some(0);
                    continue;
                }
                None => {}
            }
            if let Some(place) = self.refresh {
                let next = self.flows.flows_from(place).next();
                self.refresh = next.map(|(after, _)| after);
                let Some((_, state)) = next else { continue };
                return Some(Notification::Flow { state, event: Event::Protected, block: None });
            }
            match self.notifications.front() {
                // The flows with lost bytes are not known. A subscriber that sees the new violation count must know which
                // positions are valid, so all flows are reported before the violation.
                Some(Notification::Violation(lost)) if lost.forgotten && !self.is_refreshed => {
                    self.is_refreshed = true;
                    self.refresh = Some(0);
                }
                _ => {
                    self.is_refreshed = false;
                    return self.notifications.pop_front();
                }
            }
        }
    }

    /// Adds a barrier for everything read so far; the answer is a [`Notification::Barrier`].
    pub fn ask_barrier(&mut self, id: u64) {
        if !self.barriers.push(id, &self.ledger) {
            self.notifications.push_back(Notification::Barrier(id, None));
        }
    }

    /// Sets a subscriber's cookie for a flow.
    pub fn register(&mut self, key: &FlowKey, cookie: u64, now: Instant) -> Result<(), TooManyCookies> {
        self.flows.register(key, cookie, now).map(|_| ())
    }

    /// Whether to send a notification for each block from now on.
    pub fn set_publishes_blocks(&mut self, tells: bool) {
        self.publishes_blocks = tells;
    }

    /// No block waits for the kernel or for a timestamp.
    pub fn is_settled(&mut self) -> bool {
        self.ledger.is_settled()
    }

    /// The flows.
    pub fn flows(&self) -> &FlowTable {
        &self.flows
    }

    /// The kind of evidence used here.
    pub fn evidence(&self) -> Evidence {
        self.evidence
    }

    /// The state of the link as last reported.
    pub fn state(&self) -> (LinkState, StateReason) {
        self.published_state
    }

    /// Since when that is so; `None`: from the beginning.
    pub fn state_since(&self) -> Option<StateTimes> {
        self.changed_at
    }

    /// The counts so far.
    pub fn counters(&self) -> Counters {
        Counters { forgotten: self.ledger.forgotten, ..self.counters }
    }

    /// A device without timestamps degrades the link, but blocks that the kernel took may still be reported as queued.
    fn health_allows(&mut self, now: Instant) -> bool {
        self.health.is_healthy(now) || self.health.state(now).1 == StateReason::NoTimestamps
    }

    fn claim(&mut self, block: BlockId, size: Size, level: Level) {
        let survives = if level >= Level::Early {
            self.counters.protected += u64::from(level >= Level::OnWire);
            self.ledger.claim(block, level)
        } else {
            Duration::ZERO
        };
        self.flows.on_block_protected(block, level, survives);
        self.publish_block(block, size, Some(level));
    }

    fn settle_barriers(&mut self) {
        let Self { barriers, ledger, flows, notifications, .. } = self;
        let answer = |id, level| notifications.push_back(Notification::Barrier(id, Some(level)));
        barriers.settle(ledger, || flows.repaired_level(), answer);
    }

    fn publish_block(&mut self, block: BlockId, (source_symbols, repair_symbols): Size, level: Option<Level>) {
        if self.publishes_blocks {
            let ranges = self.flows.ranges(block, RANGES_PUBLISHED);
            self.notifications.push_back(Notification::Block { block, source_symbols, repair_symbols, level, ranges });
        }
    }

    /// Why the link is degraded although it works: what the plan promises is not what was asked for.
    pub fn set_plan_reason(&mut self, reason: Option<StateReason>) {
        self.plan_reason = reason;
    }

    /// Packets for the peer take another route, or no longer do. What went into blocks before is claimed as ever.
    pub fn set_bypassed(&mut self, is_bypassed: bool) {
        self.is_bypassed = is_bypassed;
    }

    fn publish_state(&mut self, now: Instant) {
        let state = match (self.health.state(now), self.plan_reason) {
            // Of all reasons of a link that is not down, this one says what becomes of the next packet.
            ((state, _), _) if self.is_bypassed && state != LinkState::Down => {
                (LinkState::Degraded, StateReason::Bypass)
            }
            // What has less than it was promised is claimed early at most, so claims go on.
            ((LinkState::Up, _), Some(reason)) => (LinkState::Degraded, reason),
            (state, _) => state,
        };
        if state != self.published_state {
            let goes_on = self.changed_at.filter(|_| state.0 == self.published_state.0);
            self.changed_at = Some(StateTimes { state: goes_on.map_or(now, |before| before.state), reason: now });
            self.published_state = state;
            self.notifications.push_back(Notification::State(state.0, state.1));
        }
    }
}
