//! What a lane logs about its packets: send errors, reads and writes that failed, and strays. It also reacts to an uplink
//! with several queues.

use std::io;
use std::time::Instant;

use super::{Failure, Lane};
use crate::appliance::host::uplinks::Uplink;
use crate::appliance::lane::send_error_log::SendErrorLog;
use crate::io::cpu;
use crate::io::udp::ErrorCounts;

impl Lane {
    /// Keeps the lane on one processor where the uplink has several queues. A later departure proves that the end of a
    /// train has left, so all datagrams must take one queue.
    pub(super) fn on_uplink(&mut self, uplink: Uplink) {
        if !uplink.several_queues {
            return;
        }
        match cpu::stay(self.number.into()) {
            Ok(cpu) => {
                tracing::info!(lane = self.number, cpu, "the uplink has several queues; staying on one processor")
            }
            Err(error) => tracing::warn!(
                lane = self.number,
                "cannot stay on one processor ({error}): a block may be called protected while a datagram of it waits in \
                 another queue of this host; allow sched_setaffinity or give the device one queue"
            ),
        }
    }

    /// Empties the error queue.
    pub(super) fn note_errors(&mut self, now: Instant) {
        let driver = &mut self.driver;
        let forwarder = &self.forwarder;
        let is_own = |quoted: &[u8]| forwarder.is_own(quoted);
        let found = self.udp.drain_own_errors(&is_own, &mut |number| {
            if let Some(driver) = driver {
                driver.on_stamp(number);
            }
        });
        while let Some(to) = self.udp.poll_late_error() {
            if let Some(driver) = &mut self.driver {
                driver.on_late_error(to, &self.forwarder, now);
            }
        }
        while let Some(address) = self.udp.poll_refused() {
            self.reach_news.on_refused(address, self.forwarder.peers(), now);
        }
        log_send_errors(&mut self.send_error_log, self.number, found, now);
    }

    /// The TUN could not be read: it is tried again, unless the device is gone.
    pub(super) fn on_unread_tun(&mut self, error: &io::Error, now: Instant) -> io::Result<()> {
        if let Some(end) = self.tun_writer.tun().gone(error) {
            return Err(end);
        }
        self.ready.on_failed_read(now);
        self.log_failure(Failure::ReadTun, error, now);
        Ok(())
    }

    fn log_failure(&mut self, what: Failure, error: &io::Error, now: Instant) {
        if let Some(words) = self.failure_log.note(what, error, now) {
            tracing::warn!(lane = self.number, "{words}");
        }
    }

    /// Logs a new kind of stray packet or of failed reads and writes, and each kind of these or of send errors that has
    /// ended.
    pub(super) fn log_problems(&mut self, now: Instant) {
        if let Some(error) = self.udp.poll_receive_error() {
            self.log_failure(Failure::ReadSocket, &error, now);
        }
        if let Some(error) = self.tun_writer.poll_error() {
            self.log_failure(Failure::WriteTun, &error, now);
        }
        if let Some(words) = self.failure_log.poll_ended(now) {
            tracing::info!(lane = self.number, "{words}");
        }
        if let Some(words) = self.forwarder.poll_stray().and_then(|stray| self.strays.note(stray, now)) {
            tracing::warn!(lane = self.number, "{words}");
        }
        if let Some(reason) = self.strays.poll_ended(now) {
            tracing::info!(lane = self.number, "no packet was dropped as {} for a minute", reason.name());
        }
        if let Some(words) = self.send_error_log.poll_ended(now) {
            tracing::info!(lane = self.number, "{words}");
        }
    }
}

/// Counts errors of sending, and logs the kinds that are new.
pub(super) fn log_send_errors(send_error_log: &mut SendErrorLog, lane: u8, found: ErrorCounts, now: Instant) {
    for words in send_error_log.note(found, now) {
        tracing::warn!(lane, "{words}");
    }
}
