//! What the service manager is told about an appliance. The protocol is in [`crate::io::sd_notify`].

use std::time::Instant;

use super::Control;
use crate::io::sd_notify::SdNotify;

/// The connection to the service manager, if one has started this process.
pub(super) fn open(now: Instant) -> SdNotify {
    SdNotify::open(now).unwrap_or_else(|error| {
        tracing::warn!("cannot tell the service manager how this goes: {error}; look at NOTIFY_SOCKET");
        SdNotify::nobody()
    })
}

impl Control {
    /// Once a turn: a sign of life, and the state where it has changed.
    pub(super) fn tell_service(&mut self, now: Instant) {
        // Where a lane stands still, the service manager ends this process in time and starts it anew.
        if !self.pulse.is_stuck() {
            self.service.alive(now);
        }
        if self.service.wants_status(now) {
            let line = self.service_line();
            self.service.show(&line);
        }
    }

    /// What an operator wants to see at once: which peers are up, and how the last reload ended.
    pub(super) fn service_line(&self) -> String {
        let peers = self.config.peers.iter().filter(|peer| !peer.is_removed).count();
        let last = self.reloading.last().map_or_else(String::new, |last| {
            let outcome = if last.is_good { "reloaded" } else { "not reloaded" };
            let first: String = last.text.lines().next().unwrap_or_default().chars().take(200).collect();
            format!("; {outcome}: {first}")
        });
        format!("{} of {peers} peers up{last}", self.peering.up())
    }
}
