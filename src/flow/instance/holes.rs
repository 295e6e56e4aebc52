//! Whether bytes of a flow were in a failed block and are not covered otherwise yet. Barriers wait for such holes.

use super::Flow;
use crate::flow::coverage::Span;
use crate::notify::message::Level;

impl Flow {
    /// `span` was in a failed block. Returns true if the table must add the flow to its list of flows with holes.
    pub fn on_hole(&mut self, span: Span) -> bool {
        self.rest.failed_below = self.rest.failed_below.max(span.end.offset);
        !std::mem::replace(&mut self.rest.is_holed, true)
    }

    /// Whether the flow stays in that list: its failed bytes are not known to be with the peer.
    pub fn keeps_hole(&mut self) -> bool {
        self.rest.is_holed = self.arrived().offset < self.rest.failed_below;
        self.rest.is_holed
    }

    /// Bytes of a failed block were neither sent again and protected nor acknowledged. A reset of the connection is no
    /// exception: the reset may be an error, for example an old SYN of the other end.
    pub fn has_hole(&self) -> bool {
        let rest = &*self.rest;
        // A reported position never falls, even when it is void.
        let reached = if rest.lost_below > 0 { self.arrived() } else { rest.told[Level::OnWire.index()] };
        reached.offset < rest.failed_below
    }
}
