//! What the gates of a process report about themselves. Nothing here changes what they do.

use std::sync::Arc;
use std::time::Instant;

use super::{Proxy, Slot};
use crate::gate::listener::GateListener;
use crate::gate::status::{ConnectionStatus, GateStatus, ROLE, Status};
use crate::io::log;
use crate::io::status_socket::SCHEMA_VERSION;

impl Slot {
    /// Whether it came before a reload that changed what its gate does for later callers.
    pub(super) fn has_earlier_settings(&self, listener: &GateListener) -> bool {
        !Arc::ptr_eq(&self.settings, &listener.settings) && !self.settings.serves_like(&listener.settings)
    }
}

impl Proxy {
    /// Sends the status to callers of the status socket.
    pub(super) fn on_callers(&mut self, now: Instant) {
        while self.status_socket.as_mut().is_some_and(|socket| socket.handle_ready(self.poll.registry(), now)) {
            let mut document = serde_json::to_vec(&self.status(now)).expect("a status is plain values");
            document.push(b'\n');
            self.status_socket.iter_mut().for_each(|socket| socket.answer(&document));
        }
    }

    /// The callers of a gate.
    pub(super) fn callers(&self, listener: &GateListener) -> impl Iterator<Item = &Slot> {
        let number = listener.number;
        self.slots.iter().flatten().filter(move |slot| slot.listener == number)
    }

    pub(super) fn status(&self, now: Instant) -> Status {
        Status {
            role: ROLE.to_owned(),
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: if self.stopping.is_some() { "stopping" } else { "running" }.to_owned(),
            uptime_s: now.saturating_duration_since(self.started).as_secs_f64(),
            log_lines_lost: log::lines_lost(),
            notify: self.subscription.status(now),
            gates: self.listeners.iter().map(|listener| self.gate_status(listener, now)).collect(),
            restrictions: self.service.restrictions.clone(),
            reload: self.reloads.status(),
        }
    }

    fn gate_status(&self, listener: &GateListener, now: Instant) -> GateStatus {
        let mut totals = listener.totals.clone();
        self.callers(listener).for_each(|slot| totals.add(&slot.occupant.counts()));
        let connection = |slot: &Slot| ConnectionStatus {
            earlier_settings: slot.has_earlier_settings(listener),
            ..slot.occupant.status(&self.subscription, now)
        };
        let connections: Vec<_> = self.callers(listener).map(connection).collect();
        let gate = &listener.settings.gate;
        GateStatus {
            name: gate.name.clone(),
            kind: gate.kind.name().to_owned(),
            state: if listener.socket.is_some() { "listening" } else { "draining" }.to_owned(),
            listen: listener.address(),
            upstream: gate.upstream,
            policy: gate.policy.to_string(),
            level: gate.level.name().to_owned(),
            survive_burst_s: gate.survive_burst.map(|burst| burst.as_secs_f64()),
            totals,
            earlier_settings: connections.iter().filter(|connection| connection.earlier_settings).count() as u64,
            connections,
        }
    }
}
