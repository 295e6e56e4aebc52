//! From what a lane knows to what subscribers are told: one value of the core, one message.
//!
//! Nothing is decided here and nothing is sent.

use std::net::SocketAddr;

use crate::flow::{self, FlowState};
use crate::notify::message::{
    self, Event, Flow, FlowKey, GoneReason, LinkState, Origin, Positions, Range, StateReason,
};
use crate::protect::{self, Evidence, Notice, PeerProtection};
use crate::tunnel::PeerId;

/// A message to subscribers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notification {
    /// Of a flow.
    Flow(Flow),
    /// Of a block, if somebody wants to know of each.
    Block(message::Block),
    /// The link to a peer, as this lane sees it.
    State {
        /// The peer.
        peer: u32,
        /// The lane.
        lane: u8,
        /// Its state there.
        state: protect::LinkState,
        /// Why it is no better.
        reason: protect::StateReason,
    },
    /// Ranges that were called protected are lost.
    Violation {
        /// The peer that could not rebuild them.
        peer: u32,
        /// The ranges.
        ranges: Vec<Range>,
    },
    /// One peer on one lane has an answer to a barrier.
    Barrier {
        /// Which barrier.
        id: u64,
        /// What everything asked about has reached there; none if something never will. `Acked`: nothing was ever read
        /// there.
        level: Option<message::Level>,
    },
}

impl Notification {
    /// Tells what `protection`, of `peer` on `lane`, has noticed. Calls `tell` once, or for each flow if a reader was
    /// too slow for the single changes.
    pub fn of(notice: Notice, protection: &PeerProtection, peer: PeerId, lane: u8, mut tell: impl FnMut(Self)) {
        let peer = u32::from(peer.0);
        let flow = |state: &FlowState, event| Self::Flow(flow_message(state, event, peer, protection.evidence()));
        match notice {
            Notice::Flow(flow::Event::New(state)) => tell(flow(&state, Event::New)),
            Notice::Flow(flow::Event::Protected { flow: state, block, .. }) => {
                let block = block.and_then(|block| protection.size(block));
                let message = flow_message(&state, Event::Protected, peer, protection.evidence());
                tell(Self::Flow(Flow { block, ..message }));
            }
            Notice::Flow(flow::Event::Gone { flow: state, reason }) => {
                tell(flow(&state, Event::Gone(gone_reason(reason))));
            }
            Notice::Flow(flow::Event::Overflow) => {
                protection.flows().flows().for_each(|state| tell(flow(&state, Event::Protected)));
            }
            Notice::Block { block, source_symbols, repair_symbols, level, ranges } => {
                tell(Self::Block(message::Block {
                    peer,
                    lane,
                    profile: block.profile,
                    sbn: block.sbn,
                    k: source_symbols,
                    m: repair_symbols,
                    level: level.map(level_of),
                    ranges: ranges.iter().map(range_of).collect(),
                }))
            }
            Notice::State(state, reason) => tell(Self::State { peer, lane, state, reason }),
            Notice::Violation(violation) => {
                if violation.forgotten {
                    // Whose bytes were lost is not known any more: no flow keeps what was said of it. Notification first: who
                    // knows the count of violations has to know what they took back.
                    protection.flows().flows().for_each(|state| tell(flow(&state, Event::Protected)));
                }
                tell(Self::Violation { peer, ranges: violation.ranges.iter().map(range_of).collect() });
            }
            Notice::Barrier(id, level) => tell(Self::Barrier { id, level: level.map(level_of) }),
        }
    }
}

/// What is called protected where there is this evidence.
pub fn level_told(evidence: Evidence) -> message::Level {
    match evidence {
        Evidence::Timestamps => message::Level::OnWire,
        Evidence::HandOver | Evidence::HandOverOnly => message::Level::Queued,
    }
}

fn flow_message(state: &FlowState, event: Event, peer: u32, evidence: Evidence) -> Flow {
    let told = |level| state.told(level).map(|position| position.bytes);
    let level = level_told(evidence);
    let packets = state.told(match level {
        message::Level::Queued => flow::Level::Queued,
        _ => flow::Level::OnWire,
    });
    Flow {
        key: key_of(&state.key),
        instance: state.id.instance(),
        peer,
        event,
        level,
        origin: match state.origin {
            flow::Origin::Syn => Origin::Start,
            flow::Origin::FirstSeen if state.origin_sequence.is_none() => Origin::Start,
            flow::Origin::FirstSeen => Origin::Middle,
        },
        origin_seq: state.origin_sequence,
        positions: Positions {
            queued: told(flow::Level::Queued),
            on_wire: told(flow::Level::OnWire),
            decoded: told(flow::Level::Decoded),
            acked: told(flow::Level::Acked),
        },
        violated: state.violated.map(|position| position.bytes),
        packets: packets.filter(|_| state.origin_sequence.is_none()).map(|position| position.packets),
        cookie: state.cookie,
        block: None,
    }
}

fn range_of(range: &flow::BlockRange) -> Range {
    Range {
        key: key_of(&range.flow.key),
        instance: range.flow.id.instance(),
        start: range.start.bytes,
        end: range.end.bytes,
    }
}

/// The 5-tuple as subscribers write it.
fn key_of(key: &flow::FlowKey) -> FlowKey {
    FlowKey {
        protocol: key.protocol,
        source: SocketAddr::new(key.source, key.source_port),
        destination: SocketAddr::new(key.destination, key.destination_port),
    }
}

/// The 5-tuple as subscribers write it, for the flow table.
pub fn key_from(key: &FlowKey) -> flow::FlowKey {
    flow::FlowKey {
        protocol: key.protocol,
        source: key.source.ip(),
        source_port: key.source.port(),
        destination: key.destination.ip(),
        destination_port: key.destination.port(),
    }
}

fn level_of(level: flow::Level) -> message::Level {
    match level {
        flow::Level::Queued => message::Level::Queued,
        flow::Level::OnWire => message::Level::OnWire,
        flow::Level::Decoded => message::Level::Decoded,
        flow::Level::Acked => message::Level::Acked,
    }
}

fn gone_reason(reason: flow::GoneReason) -> GoneReason {
    match reason {
        flow::GoneReason::Closed => GoneReason::Closed,
        flow::GoneReason::Idle => GoneReason::Idle,
        flow::GoneReason::Evicted => GoneReason::Evicted,
        // A UDP flow whose count is broken goes on as a new instance, too.
        flow::GoneReason::Replaced | flow::GoneReason::Broken => GoneReason::Replaced,
    }
}

/// The state of a link in the words of the protocol.
pub fn state_of(state: protect::LinkState) -> LinkState {
    match state {
        protect::LinkState::Up => LinkState::Up,
        protect::LinkState::Draining => LinkState::Draining,
        protect::LinkState::Degraded => LinkState::Degraded,
        protect::LinkState::Down => LinkState::Down,
    }
}

/// The reason in the words of the protocol.
pub fn reason_of(reason: protect::StateReason) -> StateReason {
    match reason {
        protect::StateReason::None => StateReason::None,
        protect::StateReason::Administrator => StateReason::Administrator,
        protect::StateReason::NoReports => StateReason::NoReports,
        protect::StateReason::Violation => StateReason::Violation,
        protect::StateReason::SendErrors => StateReason::SendErrors,
        protect::StateReason::NoTimestamps => StateReason::NoTimestamps,
        protect::StateReason::NoSession => StateReason::NoSession,
    }
}
