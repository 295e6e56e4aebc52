//! When the loop wakes, and what the service manager is told: that the gates run, how they are, and that they are alive.

use std::time::{Duration, Instant};

use super::Proxy;
use crate::io::restriction::Restrictions;
use crate::io::sd_notify::SdNotify;
use crate::io::status_socket::StatusSocket;

/// The process as the service manager and the status see it.
#[derive(Debug)]
pub(super) struct Service {
    notify: SdNotify,
    pub(super) restrictions: Restrictions,
}

impl Default for Service {
    /// A loop in a thread of some other program.
    fn default() -> Self {
        Self { notify: SdNotify::nobody(), restrictions: Restrictions::default() }
    }
}

impl Service {
    pub(super) fn stopping(&mut self, within: Duration) {
        self.notify.stopping(within);
    }
}

impl Proxy {
    /// It is a process of its own: `notify` leads to the service manager, and `restrictions` are in force.
    pub fn as_process(self, notify: SdNotify, restrictions: Restrictions) -> Proxy {
        Proxy { service: Service { notify, restrictions }, ..self }
    }

    /// The gates follow another configuration now.
    pub(super) fn tell_reloading(&mut self) {
        // A stop that was told stays told.
        if self.stopping.is_none() {
            self.service.notify.reloading();
        }
    }

    /// All gates listen.
    pub(super) fn tell_ready(&mut self) {
        if self.stopping.is_none() {
            let status = self.line(Instant::now());
            self.service.notify.ready(&status);
        }
    }

    /// Once a turn: a sign of life, and the state where it has changed.
    pub(super) fn tell_service(&mut self, now: Instant) {
        self.service.notify.alive(now);
        if self.stopping.is_none() && self.service.notify.wants_status(now) {
            let line = self.line(now);
            self.service.notify.show(&line);
        }
    }

    /// The state in a line.
    fn line(&self, now: Instant) -> String {
        let notify = self.subscription.status(now);
        let contact = if notify.contact { "hears" } else { "does not hear" };
        let connections = self.slots.len() - self.free.len();
        let last = self.reloads.last().filter(|last| !last.is_good);
        let failed = last.map_or("", |_| "; the last reload failed, see the log");
        format!("{contact} the appliance at {}, {connections} connections{failed}", notify.address)
    }

    /// How long the loop may sleep.
    pub(super) fn timeout(&self) -> Duration {
        let now = Instant::now();
        let connections = self.run_queue.poll_timeout();
        let tick = self.replicates.then_some(self.tick);
        let listeners =
            self.listeners.iter().flat_map(|listener| [listener.again, listener.probes.poll_timeout()]).flatten().min();
        let callers = self.status_socket.as_ref().and_then(StatusSocket::poll_timeout);
        let service = self.service.notify.poll_timeout(now);
        let due = [connections, tick, listeners, callers, self.violation_log.poll_timeout(), service];
        let due = due.into_iter().flatten().fold(self.subscription.poll_timeout(), Instant::min);
        due.saturating_duration_since(now)
    }
}
