//! From values of [`crate::protect`] and [`crate::flow`] to messages of the protocol.
//!
//! This file decides nothing and sends nothing.

use std::net::SocketAddr;

use crate::flow::{self, BlockRange, FlowState};
use crate::notify::message::{Block, Event, Flow, FlowKey, Level, Positions, Range};
use crate::protect::{Evidence, Notification};
use crate::wire::payload_id::BlockId;

/// What a lane reports about a peer, on its way to the notification port.
#[derive(Clone, Debug)]
pub struct LaneNotification {
    /// The peer, by number.
    pub peer: u32,
    /// The lane.
    pub lane: u8,
    /// The level that counts as protected on the lane.
    pub level: Level,
    /// The report.
    pub notification: Notification,
}

/// The level that this evidence proves.
pub fn level_of(evidence: Evidence) -> Level {
    match evidence {
        Evidence::Timestamps => Level::OnWire,
        Evidence::HandOver | Evidence::HandOverOnly => Level::Queued,
    }
}

/// The message about a flow toward `peer`; `level` is the one that counts as protected.
pub fn flow_message(state: &FlowState, event: Event, block: Option<(u16, u16)>, peer: u32, level: Level) -> Flow {
    let position = |level| state.reported(level).map(|position| position.bytes);
    let packets = state.reported(level).filter(|_| state.origin_sequence.is_none());
    Flow {
        key: key_of(&state.key),
        instance: state.id.instance(),
        peer,
        event,
        level,
        origin: state.origin,
        origin_seq: state.origin_sequence,
        positions: Positions {
            queued: position(Level::Queued),
            early: position(Level::Early),
            on_wire: position(Level::OnWire),
            decoded: position(Level::Decoded),
            acked: position(Level::Acked),
        },
        violated: state.violated.map(|position| position.bytes),
        packets: packets.map(|position| position.packets),
        cookie: state.cookie,
        block,
        survives_burst: u32::try_from(state.survives_burst.as_micros()).unwrap_or(u32::MAX),
    }
}

/// The message about a block of k and m symbols (`size`) toward `peer` on `lane`.
pub fn block_message(
    block: BlockId,
    size: (u16, u16),
    level: Option<Level>,
    ranges: &[BlockRange],
    (peer, lane): (u32, u8),
) -> Block {
    let (k, m) = size;
    let ranges = ranges.iter().map(range_message).collect();
    Block { peer, lane, profile: block.profile, sbn: block.sbn, k, m, level, ranges }
}

/// A range of bytes in a block.
pub fn range_message(range: &BlockRange) -> Range {
    Range {
        key: key_of(&range.flow.key),
        instance: range.flow.id.instance(),
        start: range.start.bytes,
        end: range.end.bytes,
    }
}

/// The 5-tuple in the form of the protocol.
fn key_of(key: &flow::FlowKey) -> FlowKey {
    FlowKey {
        protocol: key.protocol,
        source: SocketAddr::new(key.source, key.source_port),
        destination: SocketAddr::new(key.destination, key.destination_port),
    }
}

/// The 5-tuple of a subscriber in the form of the flow table.
pub fn key_from(key: &FlowKey) -> flow::FlowKey {
    flow::FlowKey {
        protocol: key.protocol,
        source: key.source.ip(),
        source_port: key.source.port(),
        destination: key.destination.ip(),
        destination_port: key.destination.port(),
    }
}
