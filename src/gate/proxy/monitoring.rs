//! The loop's part of the metrics port: it opens it, and hands it a status when it is asked.

use std::io;
use std::time::Instant;

use super::{Proxy, Stop};
use crate::config::Metrics;
use crate::gate::metrics;
use crate::gate::status::Status;
use crate::metrics::port::MetricsPort;

/// Opens the port. It wakes the loop through `stop`.
pub(super) fn open(config: Metrics, stop: &Stop) -> io::Result<MetricsPort<Status>> {
    let stop = stop.clone();
    let port = metrics::open(config.listen, move || stop.wake())?;
    tracing::info!("metrics at http://{}/metrics", port.address());
    Ok(port)
}

impl Proxy {
    /// Hands over a status, if one is wanted.
    pub(super) fn answer_metrics(&self, now: Instant) {
        if let Some(port) = self.metrics.as_ref().filter(|port| port.is_asked()) {
            port.answer(self.status(now));
        }
    }
}
