//! What is known of the link to a peer: feeds the estimator of [`crate::tunnel::estimate`].

use std::time::{Duration, Instant};

use super::Peer;
use crate::tunnel::estimate::link_estimate::LinkEstimate;
use crate::tunnel::outbox::Trains;
use crate::wire::datagram::Header;
use crate::wire::report::Report;

impl Peer {
    /// What is known of the link to this peer, on this lane.
    pub fn estimate(&self, now: Instant) -> LinkEstimate {
        self.estimator.estimate(now)
    }

    /// So many losses of a full queue were repaired.
    #[cfg(test)]
    pub(in crate::tunnel) fn owe_repaired_losses(&mut self, due: u64, now: Instant) {
        self.estimator.owe_repaired_losses(due, now);
    }

    /// The socket takes `bytes` of the front train, which is still there.
    pub(super) fn note_sent(&mut self, bytes: usize, now: Instant) {
        let Some(endpoint) = self.endpoint().filter(|_| bytes > 0) else { return };
        let Some(train) = self.outbox.front(endpoint, Trains::All, now) else { return };
        // The counts in a train follow each other, because each datagram is sealed where it is appended.
        if let Some(header) = Header::parse(train.bytes) {
            let datagrams = bytes.div_ceil(train.datagram_len.max(1)) as u64;
            self.estimator.on_sent(header.counter, datagrams, bytes as u64, now);
        }
    }

    /// Takes what a report says about the link; the report is the newest datagram.
    pub(super) fn learn_link(&mut self, report: &mut Report, now: Instant) {
        // Counts of another session mean other datagrams of ours.
        let is_current = self.heard_under.is_some_and(|index| self.sessions.is_current(index));
        if let Some(extension) = report.extension.as_mut().filter(|_| !is_current) {
            extension.runs.clear();
        }
        // What waits here for the rate of the path is no queue of the path.
        let own_queue = self.settings.bytes_per_second.map_or(Duration::ZERO, |_| self.settings.queue_max);
        // A mean would show a queue that has just filled only when its losses are over.
        let rtt = self.reporting.latest_rtt().map(|rtt| rtt.saturating_sub(own_queue));
        self.estimator.on_report(report, rtt, self.reporting.least_rtt(), now);
    }
}
