//! Whether bytes are protected, and the reason if they are not.

use std::fmt;
use std::time::Duration;

use crate::message::{GoneReason, Level, LinkState, StateReason};

/// Why bytes cannot be called protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The deadline passed and nothing else is wrong.
    Deadline,
    /// The publisher does not answer, or its heartbeats do not arrive.
    NoContact,
    /// The appliance has not seen this flow.
    UnknownFlow,
    /// The appliance saw the flow only from its middle: its positions do not count from the first byte.
    MiddleOfFlow,
    /// The link protects nothing at the moment.
    Link(LinkState, StateReason),
    /// The best level of the appliance is lower than the level asked for.
    Level(Level),
    /// The profile of the flow promises to survive an interruption of this length; a longer one is asked for.
    SurvivesBurst(Duration),
    /// The flow ended before the bytes were protected.
    Gone(GoneReason),
    /// Another connection has taken the 5-tuple, or the appliance knows another one under it.
    OtherConnection,
    /// The bytes were called protected and were lost on the path; the mirror has not acknowledged them since.
    Violated,
    /// The appliance has read something that will not become protected, or has read nothing at all, or drops what it
    /// reads because a link is down.
    Failed,
    /// The appliance restarted: the answer of the earlier run is unknown.
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
            Reason::SurvivesBurst(Duration::ZERO) => {
                out.write_str("the profile of this flow promises to survive no interruption")
            }
            Reason::SurvivesBurst(burst) => {
                write!(
                    out,
                    "the profile of this flow promises to survive an interruption of {burst:?}, not a longer one"
                )
            }
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

/// The status of all bytes below an offset, now. There is no default: the caller must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All bytes below the offset are protected, at this level.
    Protected {
        /// At least the level asked for.
        level: Level,
    },
    /// Not protected now, and why. This may change.
    Pending(Reason),
    /// Not protected, and why. This will not change.
    Never(Reason),
}
