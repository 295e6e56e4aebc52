//! The metrics of an appliance, from its status; and what of it is degraded.
//!
//! `host` has the tables of the process, its device and its lanes, `peer` those of peers. Sums over lanes are only exported while
//! every lane has answered: a sum without one of them would fall, and Prometheus would take that for a new start and count
//! everything a second time. What the numbers mean is said in docs/monitoring.md, which a test compares with these tables.

mod host;
mod peer;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use super::status::{Status, health};
use crate::io::problem::Problem;
use crate::metrics::family::{Described, Family};
use crate::metrics::port::{MetricsPort, Pages};
use crate::metrics::process::{self, Process};
use crate::tunnel::drop_reason::DropReason;
use crate::tunnel::handshake::HandshakeDrop;

/// Opens the metrics port of an appliance.
///
/// # Errors
/// As [`MetricsPort::open`].
pub fn open(address: SocketAddr, wake: impl Fn() + Send + 'static) -> io::Result<MetricsPort<Status>> {
    MetricsPort::open(address, Pages { metrics: families, degraded }, wake)
}

/// Every metric of a status.
pub fn families(status: &Status) -> Vec<Family> {
    let process = Process {
        role: "appliance",
        node: &status.node,
        version: &status.version,
        uptime_s: status.uptime_s,
        log_lines_lost: status.log_lines_lost,
        reload: &status.reload,
    };
    let mut families = process::families(process);
    families.extend(host::HOST.families([(vec![], status)]));
    let numbers: Vec<String> = status.lanes.iter().map(|lane| lane.lane.to_string()).collect();
    families.extend(host::LANES.families(numbers.iter().map(|number| vec![&**number]).zip(&status.lanes)));
    families.extend(host::NOTIFY.families(status.notify.iter().map(|notify| (vec![], notify))));
    families.extend(host::WATCHDOG.families(status.watchdog.iter().map(|watchdog| (vec![], watchdog))));
    if lanes_missing(status) == 0 {
        families.extend(host::DROPS.families(drops(&status.drops)));
        families.extend(peer::families(&status.peers));
    }
    families
}

/// What there is to say about each metric, in the order of the tables.
pub fn described() -> Vec<Described> {
    let host = host::HOST.described().chain(host::LANES.described()).chain(host::NOTIFY.described());
    let drops = host::WATCHDOG.described().chain(host::DROPS.described());
    process::described().chain(host).chain(drops).chain(peer::described()).collect()
}

fn lanes_missing(status: &Status) -> usize {
    status.tun.queues.saturating_sub(status.lanes.len())
}

/// The count of every reason that there is, also of those that never occurred: a counter that begins at its first event has no rate
/// then. Handshakes are counted by their own reasons, and not once more all together.
fn drops(counts: &BTreeMap<String, u64>) -> impl Iterator<Item = (Vec<&'static str>, u64)> {
    let single = DropReason::ALL.iter().filter(|reason| **reason != DropReason::Handshake).map(|reason| reason.name());
    let reasons = single.chain(HandshakeDrop::ALL.into_iter().map(HandshakeDrop::name));
    reasons.map(|reason| (vec![reason], counts.get(reason).copied().unwrap_or(0)))
}

/// What is degraded now, a line each: as `onwire status --check` says it.
pub fn degraded(status: &Status) -> Vec<String> {
    health::problems(status).iter().map(Problem::words).collect()
}

#[cfg(test)]
mod tests;
