//! How a connection ends. When one side sends nothing more, the gate ends the stream to the other side; the connection
//! is over when both directions have ended. When one side is lost (reset, a failed write, a peer that does not answer),
//! the other has a bounded time, whatever still waits and in whatever order the ends came.

use std::time::{Duration, Instant};

use super::{Connection, Scratch};
use crate::gate::dialect::Side;
use crate::gate::leg::Leg;

/// How long a connection that has lost one end, or must end, may take to deliver what the gate already holds.
pub(super) const LINGER: Duration = Duration::from_secs(10);

impl Connection {
    /// Ends it on both sides, after what waits has been sent.
    pub fn close(&mut self, why: &str, now: Instant) {
        if self.closing {
            return;
        }
        tracing::warn!(gate = %self.gate.name, connection = self.number, client = %self.client, "ended: {why}");
        self.end_by(now + LINGER);
    }

    /// Ends it on both sides, and drops it at `deadline` at the latest.
    pub fn end_by(&mut self, deadline: Instant) {
        self.closing = true;
        self.deadline = Some(self.deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self.primary.finish();
        self.mirror.finish();
    }

    /// Whether nothing is left to do.
    pub fn is_over(&self, now: Instant) -> bool {
        let quiet = |leg: &Leg| leg.is_done() && (leg.has_ended() || leg.failure().is_some());
        let over = self.deadline.or_else(|| self.overdue_at()).is_some_and(|due| now >= due);
        over || (quiet(&self.primary) && quiet(&self.mirror))
    }

    /// A side that has ended ends the stream to the other side; a side that is lost ends the connection.
    pub(super) fn on_ends(&mut self, scratch: &mut Scratch, now: Instant) {
        // On every call: a reset may follow a normal end, or an end that could not be read because there was no room.
        if self.deadline.is_none() && (self.primary.is_broken() || self.mirror.is_broken()) {
            self.deadline = Some(now + LINGER);
        }
        let (caller, server) = match self.caller {
            Side::Primary => (&self.primary, &self.mirror),
            Side::Mirror => (&self.mirror, &self.primary),
        };
        self.left_silently |= caller.has_ended() && caller.received() == 0 && !server.has_ended() && !self.closing;
        for side in [Side::Primary, Side::Mirror] {
            let (leg, notified) = match side {
                Side::Primary => (&self.primary, &mut self.ended.0),
                Side::Mirror => (&self.mirror, &mut self.ended.1),
            };
            if !leg.has_ended() || std::mem::replace(notified, true) {
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
