//! Whether bytes of a flow were in a block that failed and are nowhere else yet: what a barrier has to wait for.

use super::Flow;
use crate::flow::coverage::Span;
use crate::notify::message::Level;

impl Flow {
    /// `span` was in a block that failed. Tells whether the flow is to be remembered for its hole from now on.
    pub fn on_hole(&mut self, span: Span) -> bool {
        self.rest.failed_below = self.rest.failed_below.max(span.end.offset);
        !std::mem::replace(&mut self.rest.is_holed, true)
    }

    /// It is to be remembered still: the bytes are not known to be with the peer.
    pub fn keeps_hole(&mut self) -> bool {
        self.rest.is_holed = self.arrived().offset < self.rest.failed_below;
        self.rest.is_holed
    }

    /// Bytes of a failed block were neither sent again and protected nor acknowledged. That the connection was broken off
    /// may be a mistake: an old SYN of the other end looks like that.
    pub fn has_hole(&self) -> bool {
        let rest = &*self.rest;
        // A position that was told and is void does not fall.
        let reached = if rest.lost_below > 0 { self.arrived() } else { rest.told[Level::OnWire.index()] };
        reached.offset < rest.failed_below
    }
}
