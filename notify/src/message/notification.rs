//! The messages besides FLOW: blocks, link states, violations, heartbeats, barriers.
//!
//! Lists in a message are bounded, so that each message fits a datagram. A publisher with more entries sends several
//! messages.

use super::fields::{self, Fields, attribute as kind};
use super::{Filter, FlowKey, Header, Level, Malformed, command, emit_generic};
use crate::attribute::{put, put_nested, put_u8, put_u16, put_u32, put_u64};

/// The most links in one heartbeat.
pub const HEARTBEAT_PEERS: usize = 32;
/// The most ranges in one BLOCK or VIOLATION.
pub const MAX_RANGES: usize = 8;
/// The most bytes of a peer's name; longer names are cut between characters.
const MAX_NAME: usize = 64;

/// State of the link to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LinkState {
    /// Healthy: blocks can become protected.
    Up = 1,
    /// Carries data, protects nothing.
    Degraded = 2,
    /// Carries nothing.
    Down = 3,
    /// About to stop: sent bytes are still protected, new flows should go elsewhere.
    Draining = 4,
}

impl LinkState {
    /// 0 for a healthy link; the worse the link, the higher. A link is as bad as on its worst lane.
    pub fn severity(self) -> u8 {
        match self {
            LinkState::Up => 0,
            LinkState::Draining => 1,
            LinkState::Degraded => 2,
            LinkState::Down => 3,
        }
    }

    /// As it is written in output.
    pub fn name(self) -> &'static str {
        match self {
            LinkState::Up => "up",
            LinkState::Degraded => "degraded",
            LinkState::Down => "down",
            LinkState::Draining => "draining",
        }
    }
}

/// Why a link is not up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum StateReason {
    /// It is up, or a later version has a reason that this one does not know.
    None = 0,
    /// No reports arrive from the peer.
    NoReports = 1,
    /// A block that was called protected could not be rebuilt.
    Violation = 2,
    /// Datagrams were refused or dropped in this host.
    SendErrors = 3,
    /// The device gives no transmit timestamps, or they do not arrive.
    NoTimestamps = 4,
    /// No session with the peer.
    NoSession = 5,
    /// Set by the administrator.
    Administrator = 6,
    /// What the profile promises cannot be kept on this link.
    Target = 7,
    /// The link loses in another way than the plan assumes.
    Model = 8,
    /// Packets take another route than the tunnel, unprotected.
    Bypass = 9,
}

impl StateReason {
    /// As it is written in output.
    pub fn name(self) -> &'static str {
        match self {
            StateReason::None => "none",
            StateReason::NoReports => "no reports",
            StateReason::Violation => "violation",
            StateReason::SendErrors => "send errors",
            StateReason::NoTimestamps => "no timestamps",
            StateReason::NoSession => "no session",
            StateReason::Administrator => "administrator",
            StateReason::Target => "target not reachable",
            StateReason::Model => "model violated",
            StateReason::Bypass => "bypass",
        }
    }

    fn from_wire(value: u8) -> StateReason {
        use StateReason::{
            Administrator, Bypass, Model, NoReports, NoSession, NoTimestamps, SendErrors, Target, Violation,
        };
        let known = [NoReports, Violation, SendErrors, NoTimestamps, NoSession, Administrator, Target, Model, Bypass];
        known.into_iter().find(|reason| *reason as u8 == value).unwrap_or(StateReason::None)
    }
}

/// A peer and the state of the link to it: notification `STATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its number within the appliance's epoch.
    pub id: u32,
    /// From the configuration; not repeated in heartbeats.
    pub name: Option<Box<str>>,
    /// State of the link.
    pub state: LinkState,
    /// Why it is not up.
    pub reason: StateReason,
}

impl Peer {
    pub(super) fn from_parts(
        id: Option<u32>,
        name: Option<Box<str>>,
        state: Option<u8>,
        reason: Option<u8>,
    ) -> Option<Peer> {
        // A state that this version does not know protects nothing.
        let state = match state? {
            1 => LinkState::Up,
            2 => LinkState::Degraded,
            4 => LinkState::Draining,
            _ => LinkState::Down,
        };
        Some(Peer { id: id?, name, state, reason: StateReason::from_wire(reason.unwrap_or(0)) })
    }

    fn emit(&self, with_name: bool, out: &mut Vec<u8>) {
        put_nested(out, kind::PEER, |out| {
            put_u32(out, fields::peer::ID, self.id);
            if let Some(name) = self.name.as_deref().filter(|_| with_name) {
                put(out, fields::peer::NAME, &name.as_bytes()[..name.floor_char_boundary_at(MAX_NAME)]);
            }
            put_u8(out, fields::peer::STATE, self.state as u8);
            put_u8(out, fields::peer::REASON, self.reason as u8);
        });
    }
}

/// Finds where to cut a text so that no character is split.
pub(super) trait FloorCharBoundary {
    /// The highest character boundary that is at most `limit`.
    fn floor_char_boundary_at(&self, limit: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, limit: usize) -> usize {
        (0..=limit.min(self.len())).rev().find(|at| self.is_char_boundary(*at)).unwrap_or(0)
    }
}

pub(super) fn state_from_fields(mut fields: Fields) -> Result<Peer, Malformed> {
    fields.peers.pop().ok_or(Malformed::AttributeMissing { kind: kind::PEER })
}

pub(crate) fn emit_state(peer: &Peer, header: Header, out: &mut Vec<u8>) {
    emit_generic(command::STATE, header, out, |out| peer.emit(true, out));
}

/// Bytes `start..end` of an instance of a flow, counted like its positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The flow.
    pub key: FlowKey,
    /// Its instance.
    pub instance: u64,
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl Range {
    fn emit(&self, out: &mut Vec<u8>) {
        put_nested(out, kind::RANGE, |out| {
            put_nested(out, fields::range::KEY, |out| Filter::exactly(&self.key).emit_key(out));
            put_u64(out, fields::range::INSTANCE, self.instance);
            put_u64(out, fields::range::START, self.start);
            put_u64(out, fields::range::END, self.end);
        });
    }
}

/// A block was decided: notification `BLOCK` of the verbose group, sent once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The peer it went to.
    pub peer: u32,
    /// The lane it left by.
    pub lane: u8,
    /// Its redundancy profile.
    pub profile: u8,
    /// Its number within peer, lane and profile.
    pub sbn: u64,
    /// Source symbols.
    pub k: u16,
    /// Repair symbols.
    pub m: u16,
    /// The level it reached; `None`: it failed. [`Level::Early`] is sent as [`Level::Queued`].
    pub level: Option<Level>,
    /// The bytes it carried; at most [`MAX_RANGES`] are sent.
    pub ranges: Vec<Range>,
}

impl Block {
    pub(super) fn from_fields(fields: Fields) -> Result<Block, Malformed> {
        Ok(Block {
            peer: fields.peer_id.unwrap_or(0),
            lane: fields.need(fields.lane, kind::LANE)?,
            profile: fields.need(fields.profile, kind::PROFILE)?,
            sbn: fields.need(fields.sbn, kind::SBN)?,
            k: fields.need(fields.k, kind::K)?,
            m: fields.need(fields.m, kind::M)?,
            level: fields.level,
            ranges: fields.ranges,
        })
    }

    /// Appends the message: at most 1132 bytes.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        emit_generic(command::BLOCK, header, out, |out| {
            put_u32(out, kind::PEER_ID, self.peer);
            put_u8(out, kind::LANE, self.lane);
            put_u8(out, kind::PROFILE, self.profile);
            put_u64(out, kind::SBN, self.sbn);
            put_u16(out, kind::K, self.k);
            put_u16(out, kind::M, self.m);
            if let Some(level) = self.level {
                level.emit(out);
            }
            self.ranges.iter().take(MAX_RANGES).for_each(|range| range.emit(out));
        });
    }
}

/// Bytes that were called protected and are lost on the path: notification `VIOLATION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Counts violation messages from 1 within the epoch.
    pub number: u64,
    /// The peer that could not rebuild them.
    pub peer: u32,
    /// The exact ranges, at most [`MAX_RANGES`].
    pub ranges: Vec<Range>,
}

impl Violation {
    pub(super) fn from_fields(fields: Fields) -> Result<Violation, Malformed> {
        Ok(Violation {
            number: fields.need(fields.violations, kind::VIOLATIONS)?,
            peer: fields.peer_id.unwrap_or(0),
            ranges: fields.ranges,
        })
    }

    /// Appends the message: at most 1088 bytes.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        emit_generic(command::VIOLATION, header, out, |out| {
            put_u64(out, kind::VIOLATIONS, self.number);
            put_u32(out, kind::PEER_ID, self.peer);
            self.ranges.iter().take(MAX_RANGES).for_each(|range| range.emit(out));
        });
    }
}

/// Shows that the publisher is alive: notification `HEARTBEAT`. Its `nlmsg_seq` is the number of the last notification
/// before it: a heartbeat itself is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Everything that changed up to this version has been sent to this subscriber.
    pub version: u64,
    /// Violation messages so far in this epoch.
    pub violations: u64,
    /// Links, without names, at most [`HEARTBEAT_PEERS`]: all, or the next after those of the heartbeat before.
    pub peers: Vec<Peer>,
}

impl Heartbeat {
    pub(super) fn from_fields(fields: Fields) -> Result<Heartbeat, Malformed> {
        Ok(Heartbeat {
            version: fields.need(fields.version, kind::VERSION)?,
            violations: fields.need(fields.violations, kind::VIOLATIONS)?,
            peers: fields.peers,
        })
    }

    /// Appends the message: at most 940 bytes.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        emit_generic(command::HEARTBEAT, header, out, |out| {
            put_u64(out, kind::VERSION, self.version);
            put_u64(out, kind::VIOLATIONS, self.violations);
            self.peers.iter().take(HEARTBEAT_PEERS).for_each(|peer| peer.emit(false, out));
        });
    }
}

/// The answer to a barrier: everything the appliance had read from the TUN when the request arrived is at least at this
/// level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barrier {
    /// The level that was reached; `None`: something failed and will not become protected. [`Level::Early`] is sent as
    /// [`Level::Queued`]: an appliance waits for more before it answers.
    pub level: Option<Level>,
}

impl Barrier {
    pub(super) fn from_fields(fields: &Fields) -> Result<Barrier, Malformed> {
        Ok(Barrier { level: fields.level })
    }

    /// Appends the message.
    pub fn emit(&self, header: Header, out: &mut Vec<u8>) {
        emit_generic(command::BARRIER, header, out, |out| {
            if let Some(level) = self.level {
                level.emit(out);
            }
        });
    }
}
