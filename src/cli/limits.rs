//! How many file descriptors a service may open: as many as the system allows, with a warning if these are too few.

use crate::config::Metrics;
use crate::io::descriptors;
use crate::metrics::port::DESCRIPTORS;

/// Descriptors that a service has open besides its connections or lanes: log, polls, the sockets of status and
/// notifications, and their callers.
const BESIDE: u64 = 64;
/// Descriptors that a lane has open at most: TUN queue, sockets, timers, poll, wakers.
const OF_LANE: u64 = 16;

/// Descriptors that gates need for `connections`, the sum of all gates.
pub fn for_connections(connections: usize) -> u64 {
    BESIDE + 2 * connections as u64
}

/// Descriptors that an appliance with `lanes` lanes needs.
pub fn for_lanes(lanes: u16) -> u64 {
    BESIDE + OF_LANE * u64::from(lanes)
}

/// Descriptors that a metrics port needs, if there is one.
pub fn for_metrics(metrics: Option<Metrics>) -> u64 {
    metrics.map_or(0, |_| DESCRIPTORS)
}

/// Raises the soft limit to the hard one. Warns if the limit is still lower than `needed` for `purpose`.
pub fn raise(needed: u64, purpose: &str) {
    if let Some(words) = descriptors::raise_limit().and_then(|limit| warning(limit, needed, purpose)) {
        tracing::warn!("{words}");
    }
}

fn warning(limit: u64, needed: u64, purpose: &str) -> Option<String> {
    (limit < needed).then(|| {
        format!(
            "this process may have {limit} descriptors open, and {purpose} need {needed}: raise the hard limit (`LimitNOFILE=` of \
             the unit, `ulimit -Hn` of a shell), or configure fewer. Until then whoever comes when all are used has to wait"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_are_reported_with_the_remedy() {
        assert_eq!(warning(2112, for_connections(1024), "1024 connections"), None);
        let words = warning(2111, for_connections(1024), "1024 connections").unwrap();
        assert!(
            words.contains("2111 descriptors open, and 1024 connections need 2112") && words.contains("LimitNOFILE")
        );
        assert_eq!(warning(4096, for_lanes(64), "64 lanes"), None);
    }
}
