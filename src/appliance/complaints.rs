//! Errors of sending: counted, and now and then said aloud, if the user can do something about them.

use std::time::{Duration, Instant};

use crate::io::udp::ErrorCounts;

/// How often a warning may be repeated.
const INTERVAL: Duration = Duration::from_secs(10);

/// The errors of one lane.
#[derive(Debug, Default)]
pub struct Complaints {
    total: ErrorCounts,
    said_at: Option<Instant>,
}

impl Complaints {
    /// Counts what was found since the last time.
    pub fn note(&mut self, found: ErrorCounts, now: Instant) {
        self.total += found;
        let said_lately = self.said_at.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL);
        if found.total() == 0 || said_lately {
            return;
        }
        self.said_at = Some(now);
        let total = self.total;
        if found.too_big > 0 {
            let mtu = found.path_mtu.map_or("unknown".to_owned(), |mtu| mtu.to_string());
            tracing::warn!(
                "datagrams are too big for the path, whose MTU is {mtu}; lower `path.mtu` ({})",
                total.too_big
            );
        } else {
            tracing::warn!(
                queue_full = total.queue_full,
                unreachable = total.unreachable,
                forbidden = total.forbidden,
                other = total.other,
                "datagrams could not be sent; counts since the start"
            );
        }
    }

    /// Counts since the start.
    pub fn total(&self) -> ErrorCounts {
        self.total
    }
}
