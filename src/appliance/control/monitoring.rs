//! The control thread's part of the metrics port: it opens it, hands it a status when it is asked, and lets it follow reloads.

use std::sync::Arc;

use mio::Waker;

use super::{Control, RunError};
use crate::appliance::metrics;
use crate::appliance::status::Status;
use crate::config::{Config, Metrics};
use crate::metrics::port::MetricsPort;

/// The metrics port, where there is one.
pub(super) struct Monitoring {
    port: Option<MetricsPort<Status>>,
    /// What `port` is opened for.
    config: Option<Metrics>,
    control: Arc<Waker>,
}

/// What becomes of the port when a configuration is followed: dropping it changes nothing.
pub(super) enum Prepared {
    /// It stays.
    Same,
    /// This one takes its place, or none.
    Other(Option<MetricsPort<Status>>, Option<Metrics>),
}

impl Monitoring {
    /// Opens the port of a configuration. It wakes the control thread with `control`.
    pub(super) fn start(config: &Config, control: &Arc<Waker>) -> Result<Self, RunError> {
        let mut monitoring = Self { port: None, config: None, control: Arc::clone(control) };
        let prepared = monitoring.prepare(config).map_err(RunError)?;
        monitoring.commit(prepared);
        Ok(monitoring)
    }

    /// Opens what another configuration needs, beside what is open.
    ///
    /// # Errors
    /// The address cannot be used; a sentence for the user.
    pub(super) fn prepare(&self, next: &Config) -> Result<Prepared, String> {
        if self.config == next.metrics {
            return Ok(Prepared::Same);
        }
        let open = |Metrics { listen }| {
            let control = Arc::clone(&self.control);
            metrics::open(listen, move || drop(control.wake())).map_err(|error| error.to_string())
        };
        Ok(Prepared::Other(next.metrics.map(open).transpose()?, next.metrics))
    }

    /// Uses what was prepared.
    pub(super) fn commit(&mut self, prepared: Prepared) {
        if let Prepared::Other(port, config) = prepared {
            (self.port, self.config) = (port, config);
            if let Some(port) = &self.port {
                tracing::info!("metrics at http://{}/metrics", port.address());
            }
        }
    }
}

impl Control {
    /// Hands over a status, if one is wanted.
    pub(super) fn answer_metrics(&mut self) {
        if self.monitoring.port.as_ref().is_some_and(MetricsPort::is_asked) {
            let status = self.status("running");
            if let Some(port) = &self.monitoring.port {
                port.answer(status);
            }
        }
    }

    /// Follows what is followed again after a candidate. The tunnel does not wait for this: where the port cannot be opened again,
    /// there is none.
    pub(super) fn metrics_go_back(&mut self) {
        match self.monitoring.prepare(&self.written) {
            Ok(prepared) => self.monitoring.commit(prepared),
            Err(error) => {
                tracing::error!("there are no metrics until the next reload: {error}");
                self.monitoring.commit(Prepared::Other(None, None));
            }
        }
    }
}
