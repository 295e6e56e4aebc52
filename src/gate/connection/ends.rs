//! How a connection ends. A side that sends nothing more ends the other's stream, and the connection is over when both
//! streams have ended in both directions. A side that is no more (reset, a failed write, a peer that answers nothing) leaves
//! the other a bounded time, whatever waits and in whatever order the ends came.

use std::time::{Duration, Instant};

use super::{Connection, Scratch};
use crate::gate::dialect::Side;
use crate::gate::leg::Leg;

/// How long a connection that has lost one end, or must end, may take to deliver what is already here.
pub(super) const LINGER: Duration = Duration::from_secs(10);

impl Connection {
    /// Ends it on both sides, after what waits was sent.
    pub fn close(&mut self, why: &str, now: Instant) {
        if self.closing {
            return;
        }
        tracing::warn!(gate = %self.gate.name, connection = self.number, client = %self.client, "ended: {why}");
        self.end_by(now + LINGER);
    }

    /// Ends it on both sides and drops it at `deadline` at the latest.
    pub fn end_by(&mut self, deadline: Instant) {
        self.closing = true;
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self.primary.finish();
        self.mirror.finish();
    }

    /// Nothing is left to do.
    pub fn is_over(&self, now: Instant) -> bool {
        let quiet = |leg: &Leg| leg.is_done() && (leg.has_ended() || leg.failure().is_some());
        let over = self.deadline.or_else(|| self.overdue_at()).is_some_and(|due| now >= due);
        over || (quiet(&self.primary) && quiet(&self.mirror))
    }

    /// A side that has ended ends the other's stream; one that is no more ends the connection.
    pub(super) fn on_ends(&mut self, scratch: &mut Scratch, now: Instant) {
        // Each time, for the worse end may follow a milder one, and one that nobody could read for want of room.
        if self.deadline.is_none() && (self.primary.is_broken() || self.mirror.is_broken()) {
            self.deadline = Some(now + LINGER);
        }
        let (caller, server) = match self.caller {
            Side::Primary => (&self.primary, &self.mirror),
            Side::Mirror => (&self.mirror, &self.primary),
        };
        self.mute |= caller.has_ended() && caller.received() == 0 && !server.has_ended() && !self.closing;
        for side in [Side::Primary, Side::Mirror] {
            let (leg, told) = match side {
                Side::Primary => (&self.primary, &mut self.ended.0),
                Side::Mirror => (&self.mirror, &mut self.ended.1),
            };
            if !leg.has_ended() || std::mem::replace(told, true) {
                continue;
            }
            if !self.closing {
                self.dialect.on_end(side, &mut scratch.turn);
                self.apply(scratch, now);
            }
            match side {
                Side::Primary => self.mirror.finish(),
                Side::Mirror => self.primary.finish(),
            }
        }
    }
}

#[cfg(test)]
mod tests;
