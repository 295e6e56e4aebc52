//! What a connection reports about itself: status, counters, alarms. Nothing here changes what the connection does.

use std::net::SocketAddr;
use std::ops::Range as Bytes;
use std::time::Instant;

use super::Connection;
use crate::gate::dialect::Turn;
use crate::gate::exposure::Range;
use crate::gate::returns::{EarlyPositions, Key};
use crate::gate::status::{ConnectionStatus, Totals};
use crate::gate::subscription::Subscription;
use crate::gate::violation_log::ViolationLog;
use crate::notify::client::Reason;
use crate::notify::message::FlowKey;

impl Connection {
    /// Its counters.
    pub fn counts(&self) -> Totals {
        let replicating = u64::from(self.policy.replicates());
        let (sent_bytes, received_bytes) = (self.mirror.offset(), self.mirror.received());
        Totals { replicating, sent_bytes, received_bytes, ..self.counts.clone() }
    }

    /// The caller's address, if it left without sending anything after the gate had connected to the server.
    pub fn silent_caller(&self) -> Option<SocketAddr> {
        self.left_silently.then_some(self.client)
    }

    /// For the status.
    pub fn status(&self, subscription: &Subscription, now: Instant) -> ConnectionStatus {
        let age = |at: Instant| now.saturating_duration_since(at).as_secs_f64();
        let sent = self.mirror.offset();
        let protected = self.key.map_or(0, |key| subscription.covered(&key, self.gate.need(), now)).min(sent);
        let healthy = self.condition == Reason::Deadline;
        ConnectionStatus {
            number: self.number,
            client: self.client,
            source: self.key.map(|key| key.source),
            destination: self.key.map(|key| key.destination),
            phase: if self.opened { self.dialect.phase().to_owned() } else { "connecting".to_owned() },
            replicates: self.policy.replicates(),
            tls: (self.mirror.has_tls(), self.primary.has_tls()),
            age_s: age(self.accepted),
            // Its gate knows.
            earlier_settings: false,
            survives_burst_s: self.key.and_then(|key| subscription.survives_burst(&key)).map(|it| it.as_secs_f64()),
            sent,
            written: self.mirror.written().unwrap_or(sent),
            protected,
            released: self.released_to,
            unprotected: sent - protected,
            exposed: self.exposure.bytes(self.released_to.max(protected)),
            waiting: self.marks.len() as u64,
            oldest_waiting_s: self.marks.oldest().map(|oldest| age(oldest.since)),
            real_acks: self.counts.real_acks,
            injected_acks: self.counts.injected_acks,
            buffered: (self.mirror.backlog() as u64, self.primary.backlog() as u64),
            reason: (!healthy && self.policy.replicates()).then(|| self.condition.to_string()),
        }
    }

    /// Its number, which is also the cookie of its flow.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bytes of its stream were lost although they had been called protected. Counts and logs what the loss hits.
    pub fn on_violation(&mut self, range: &Bytes<u64>, broken: &mut ViolationLog) {
        let Some(key) = self.key else { return };
        let mut hit = self.early.on_lost(range, self.mirror.offset());
        if !self.gives_early {
            (hit.acknowledged, hit.acknowledgements) = (0, 0);
        }
        self.counts.violations += 1;
        self.counts.broken_bytes += hit.acknowledged;
        self.counts.broken_acks += hit.acknowledgements;
        broken.note(&self.gate.name, self.number, (&key, range), hit);
    }

    /// A loss that the flow's state reports without a range, once it is clear that no range will come.
    pub fn poll_unreported_loss(&mut self, subscription: &Subscription) -> Option<Bytes<u64>> {
        let lost =
            self.key.filter(|_| self.condition == Reason::Violated).and_then(|key| subscription.lowest_loss(&key));
        let untold = lost.filter(|start| !self.early.knows(*start));
        let before = std::mem::replace(&mut self.unreported_loss, untold);
        // A range may be on its way: one tick later it is not.
        untold.filter(|_| before == untold).map(|start| start..self.mirror.offset())
    }

    /// Remembers, beyond this connection, what was acknowledged early for the mirror, and logs when a mirror came back
    /// with less.
    pub(super) fn remember(&mut self, turn: &Turn, returns: &mut EarlyPositions, now: Instant) {
        if let Some(mirror) = turn.mirror() {
            let key = Key::new(&self.gate.name, mirror, self.client.ip(), self.gate.upstream);
            self.dialect.on_recalled(returns.recall(&key));
            (self.mirror_key, self.early_position) = (Some(key), None);
        }
        let Some(key) = &self.mirror_key else { return };
        if let Some(early_position) = turn.early_position() {
            returns.on_early_position(key, early_position);
            self.early_position = Some(early_position.clone());
        }
        if let Some(has) = turn.shortfall()
            && let Some(shortfall) = returns.on_shortfall(key, has, self.early_position.as_ref(), now)
        {
            self.counts.shortfalls += 1;
            self.counts.shortfall_bytes += shortfall.bytes;
            if let Some(message) = shortfall.message {
                tracing::warn!(gate = %self.gate.name, connection = self.number, "{message}");
            }
        }
    }

    /// Logs once that the appliance cannot give what the gate demands for the flow, and once that it can again.
    pub(super) fn log_blind(&mut self, appliance: SocketAddr, now: Instant) {
        let (gate, number, blind) = (&self.gate.name, self.number, self.policy.blind(now));
        let Some(key) = self.key.filter(|_| blind != self.logged_blind) else {
            return;
        };
        match blind {
            Some(reason) => tracing::warn!(
                %gate, connection = number,
                "nothing of {} -> {} is called protected ({reason}): it waits for the mirror's own acknowledgements. {}",
                key.source, key.destination, remedy(reason, &key, appliance)
            ),
            None => match self.logged_blind {
                Some(Reason::SurvivesBurst(_)) => {
                    tracing::info!(%gate, connection = number, "the profile of the flow promises what this gate demands now");
                }
                _ => tracing::info!(%gate, connection = number, "the appliance sees the connection now"),
            },
        }
        self.logged_blind = blind;
    }

    /// Logs what was acknowledged without protection.
    pub(super) fn alarm(&self, exposed: Option<Range>) {
        if let Some(Range { offsets: (start, end), marks: (first, last) }) = exposed {
            tracing::error!(
                gate = %self.gate.name, connection = self.number,
                "ALARM: acknowledged {} bytes that are neither protected nor at the mirror: bytes {start} to {end}, marks \
                 {first} to {last} (policy {})",
                end - start, self.gate.policy
            );
        }
    }
}

/// What to do when the appliance cannot give what the gate demands.
pub(super) fn remedy(reason: Reason, key: &FlowKey, appliance: SocketAddr) -> String {
    match reason {
        Reason::SurvivesBurst(_) => {
            "Raise `survive_burst` of the flow's profile under `redundancy` of the appliance, or \
                                     demand less in `protect` of the gate"
                .to_owned()
        }
        _ => format!(
            "Does the route from {} to {} lead into the appliance's TUN, and is {appliance} that appliance?",
            key.source.ip(),
            key.destination.ip()
        ),
    }
}
