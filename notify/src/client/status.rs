//! What can be said about bytes, and why not more.

use std::fmt;

use crate::message::{GoneReason, Level, LinkState, StateReason};

/// Why bytes cannot be called protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The deadline passed and nothing else is wrong.
    Deadline,
    /// The publisher does not answer, or its heartbeats stay away.
    NoContact,
    /// The appliance has not seen this flow.
    UnknownFlow,
    /// The appliance saw the flow only from its middle: its positions do not count from the first byte.
    MiddleOfFlow,
    /// The link protects nothing at the moment.
    Link(LinkState, StateReason),
    /// The best that the appliance can say is less than what was asked for.
    Level(Level),
    /// The flow ended before the bytes were protected.
    Gone(GoneReason),
    /// Another connection has taken the 5-tuple, or the appliance knows another one under it.
    OtherConnection,
    /// The bytes were called protected and were lost on the path; the mirror has not acknowledged them since.
    Violated,
    /// Something that the appliance had read will not become protected, it had read nothing at all, or it drops what it
    /// reads because a link is down.
    Failed,
    /// The appliance restarted: what was asked of the earlier run is not known.
    Restarted,
    /// The publisher refused the request.
    Refused,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Deadline => out.write_str("the deadline passed"),
            Reason::NoContact => out.write_str("the appliance does not answer"),
            Reason::UnknownFlow => out.write_str("the appliance has not seen this flow"),
            Reason::MiddleOfFlow => out.write_str("the appliance saw this flow only from its middle"),
            Reason::Link(state, reason) => write!(out, "the link is {}: {}", state.name(), reason.name()),
            Reason::Level(level) => write!(out, "the appliance can say no more than {}", level.name()),
            Reason::Gone(reason) => write!(out, "the flow ended first ({})", reason.name()),
            Reason::OtherConnection => out.write_str("the appliance knows another connection by these addresses"),
            Reason::Violated => out.write_str("bytes that were called protected are lost on the path"),
            Reason::Failed => {
                out.write_str("nothing was sent through the appliance, or something that will not become protected")
            }
            Reason::Restarted => out.write_str("the appliance restarted"),
            Reason::Refused => out.write_str("the appliance refused the request"),
        }
    }
}

/// What can be said about an offset now. There is no default: who asks must look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Everything below the offset is protected, at this level.
    Protected {
        /// At least the one that was asked for.
        level: Level,
    },
    /// Not now, and why; it may come.
    Pending(Reason),
    /// Not, and it will not come.
    Never(Reason),
}
