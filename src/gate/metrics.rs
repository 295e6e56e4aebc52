//! The metrics of a gate process, from its status; and what of it is degraded.
//!
//! Connections have no series of their own: a gate has sums and the oldest of what waits. What the numbers mean is said in
//! docs/monitoring.md, which a test compares with these tables.

use std::io;
use std::net::SocketAddr;

use super::health;
use super::status::{ConnectionStatus, GateStatus, NotifyStatus, Status, Totals};
use crate::io::problem::Problem;
use crate::metrics::family::{Described, Family, Table, Unit, Value, counter, gauge};
use crate::metrics::port::{MetricsPort, Pages};
use crate::metrics::process::{self, Process};
use crate::notify::message::{LinkState, StateReason};

const LINK_STATES: [LinkState; 4] = [LinkState::Up, LinkState::Degraded, LinkState::Down, LinkState::Draining];

/// Opens the metrics port of a gate process.
///
/// # Errors
/// As [`MetricsPort::open`].
pub(super) fn open(address: SocketAddr, wake: impl Fn() + Send + 'static) -> io::Result<MetricsPort<Status>> {
    MetricsPort::open(address, Pages { metrics: families, degraded }, wake)
}

/// Every metric of a status.
pub fn families(status: &Status) -> Vec<Family> {
    let process = Process {
        role: "gate",
        node: "",
        version: &status.version,
        uptime_s: status.uptime_s,
        log_lines_lost: status.log_lines_lost,
        reload: &status.reload,
    };
    let mut families = process::families(process);
    families.extend(APPLIANCE.families([(vec![], &status.notify)]));
    let links = &status.notify.links;
    families.extend(LINK_STATE.families(links.iter().flat_map(|link| {
        LINK_STATES.map(LinkState::name).map(|state| (vec![&*link.name, state], link.state == state))
    })));
    let degraded = links.iter().filter(|link| link.reason != StateReason::None.name());
    families.extend(LINK_REASON.families(degraded.map(|link| (vec![&*link.name, &*link.reason], ()))));
    families.extend(
        INFO.families(
            status.gates.iter().map(|gate| (vec![&*gate.name, &*gate.kind, &*gate.policy, &*gate.level], ())),
        ),
    );
    families.extend(GATES.families(status.gates.iter().map(|gate| (vec![&*gate.name], gate))));
    families.extend(ACKNOWLEDGEMENTS.families(status.gates.iter().flat_map(|gate| {
        let Totals { real_acks, injected_acks, .. } = gate.totals;
        [("mirror", real_acks), ("gate", injected_acks)].map(|(origin, count)| (vec![&*gate.name, origin], count))
    })));
    families.extend(BUFFERED.families(status.gates.iter().flat_map(|gate| {
        let sum = |part: fn(&ConnectionStatus) -> u64| gate.connections.iter().map(part).sum::<u64>();
        let (mirror, primary) = (sum(|it| it.buffered.0), sum(|it| it.buffered.1));
        [("mirror", mirror), ("primary", primary)].map(|(toward, bytes)| (vec![&*gate.name, toward], bytes))
    })));
    families
}

/// What there is to say about each metric, in the order of the tables.
pub fn described() -> Vec<Described> {
    let appliance = APPLIANCE.described().chain(LINK_STATE.described()).chain(LINK_REASON.described());
    let gates = INFO.described().chain(GATES.described()).chain(ACKNOWLEDGEMENTS.described());
    process::described().chain(appliance).chain(gates).chain(BUFFERED.described()).collect()
}

/// What is degraded now, a line each: as `onwire status --check` says it.
pub fn degraded(status: &Status) -> Vec<String> {
    health::problems(status).iter().map(Problem::words).collect()
}

/// The subscription at the appliance.
const APPLIANCE: Table<NotifyStatus> = Table {
    labels: &[],
    metrics: &[
        gauge(
            "gate_appliance_contact",
            Unit::Number,
            "1 if the appliance answers, else 0: without contact nothing is acknowledged early.",
            |it: &NotifyStatus| it.contact.into(),
        ),
        gauge(
            "gate_appliance_stale",
            Unit::Number,
            "1 if a change may have been missed and was requested again.",
            |it: &NotifyStatus| it.stale.into(),
        ),
        gauge(
            "gate_appliance_heard",
            Unit::Seconds,
            "Time since the last datagram of the appliance.",
            |it: &NotifyStatus| it.heard_s.into(),
        ),
        counter(
            "gate_appliance_runs",
            Unit::Number,
            "Runs of the appliance that granted the subscription.",
            |it: &NotifyStatus| it.runs.into(),
        ),
        counter(
            "gate_appliance_lost_contacts",
            Unit::Number,
            "How often the appliance stopped answering.",
            |it: &NotifyStatus| it.contacts_lost.into(),
        ),
        counter("gate_appliance_datagrams", Unit::Number, "Notifications received.", |it: &NotifyStatus| {
            it.datagrams.into()
        }),
        gauge("gate_flows", Unit::Number, "Flows watched.", |it: &NotifyStatus| it.flows.into()),
    ],
};

const LINK_STATE: Table<bool> = Table {
    labels: &["peer", "state"],
    metrics: &[gauge(
        "gate_link_state",
        Unit::Number,
        "1 for the state of the appliance's link, as the gate heard it last, 0 for the others: up, degraded, down, draining.",
        |is_so: &bool| Value::from(*is_so),
    )],
};

const LINK_REASON: Table<()> = Table {
    labels: &["peer", "reason"],
    metrics: &[gauge(
        "gate_link_reason",
        Unit::Number,
        "1 for the reason why the link is not up; no series while it is.",
        |()| Value::Whole(1),
    )],
};

const INFO: Table<()> = Table {
    labels: &["gate", "kind", "policy", "level"],
    metrics: &[gauge("gate_info", Unit::Number, "1; its labels say how the gate is configured.", |()| Value::Whole(1))],
};

/// Each gate.
const GATES: Table<GateStatus> = Table {
    labels: &["gate"],
    metrics: &[
        gauge(
            "gate_listening",
            Unit::Number,
            "1 if the gate listens, 0 if a reload has removed it.",
            |it: &GateStatus| (it.state == "listening").into(),
        ),
        gauge("gate_open_connections", Unit::Number, "Connections that are open.", |it: &GateStatus| {
            it.connections.len().into()
        }),
        gauge(
            "gate_replicating_connections",
            Unit::Number,
            "Of the open connections, those that have noted marks: mirrors.",
            |it: &GateStatus| it.connections.iter().filter(|connection| connection.replicates).count().into(),
        ),
        gauge("gate_waiting_marks", Unit::Number, "Points at which the primary waits now.", |it: &GateStatus| {
            sum(it, |connection| connection.waiting)
        }),
        gauge(
            "gate_oldest_waiting",
            Unit::Seconds,
            "For how long the oldest of them waits; 0 if none does.",
            |it: &GateStatus| {
                let ages = it.connections.iter().filter_map(|connection| connection.oldest_waiting_s);
                ages.fold(0.0, f64::max).into()
            },
        ),
        gauge("gate_unprotected", Unit::Bytes, "Bytes sent toward mirrors and not protected.", |it: &GateStatus| {
            sum(it, |connection| connection.unprotected)
        }),
        gauge(
            "gate_exposed_now",
            Unit::Bytes,
            "Bytes acknowledged by the policy available, and since then neither protected nor acknowledged by the mirror.",
            |it: &GateStatus| sum(it, |connection| connection.exposed),
        ),
        counter("gate_connections", Unit::Number, "Connections accepted.", |it: &GateStatus| {
            it.totals.connections.into()
        }),
        counter(
            "gate_probes",
            Unit::Number,
            "Callers that left without sending anything, as health checks do.",
            |it| it.totals.probes.into(),
        ),
        counter("gate_refused_connections", Unit::Number, "Callers refused because there were too many.", |it| {
            it.totals.refused.into()
        }),
        counter("gate_connect_failures", Unit::Number, "Failed connections to the server.", |it: &GateStatus| {
            it.totals.connect_failures.into()
        }),
        counter("gate_ended_by_strict", Unit::Number, "Connections ended by the policy strict.", |it: &GateStatus| {
            it.totals.ended_by_strict.into()
        }),
        counter(
            "gate_overdue_connections",
            Unit::Number,
            "Callers dropped because they had not begun within start_timeout.",
            |it: &GateStatus| it.totals.overdue.into(),
        ),
        counter("gate_marks", Unit::Number, "Points at which the primary waited.", |it: &GateStatus| {
            it.totals.marks.into()
        }),
        counter(
            "gate_releases",
            Unit::Number,
            "How often marks were released because they were protected.",
            |it: &GateStatus| it.totals.released.into(),
        ),
        counter(
            "gate_exposures",
            Unit::Number,
            "How often marks were released by the policy available, without protection.",
            |it: &GateStatus| it.totals.exposures.into(),
        ),
        counter("gate_exposed", Unit::Bytes, "Bytes that were acknowledged in that way.", |it: &GateStatus| {
            it.totals.exposed_bytes.into()
        }),
        counter(
            "gate_violations",
            Unit::Number,
            "Ranges of the streams toward mirrors that were lost after they had been called protected.",
            |it: &GateStatus| it.totals.violations.into(),
        ),
        counter(
            "gate_broken",
            Unit::Bytes,
            "Bytes of these ranges that were acknowledged early and that the mirror had not acknowledged by then.",
            |it: &GateStatus| it.totals.broken_bytes.into(),
        ),
        counter(
            "gate_broken_acknowledgements",
            Unit::Number,
            "Early acknowledgements that depended on such ranges.",
            |it: &GateStatus| it.totals.broken_acks.into(),
        ),
        counter(
            "gate_shortfalls",
            Unit::Number,
            "How often a mirror came back with less than had been acknowledged early for it.",
            |it: &GateStatus| it.totals.shortfalls.into(),
        ),
        counter(
            "gate_shortfall",
            Unit::Bytes,
            "Bytes that the mirrors lacked then, where the two positions can be subtracted.",
            |it: &GateStatus| it.totals.shortfall_bytes.into(),
        ),
        counter("gate_sent", Unit::Bytes, "Bytes sent on the streams toward mirrors.", |it: &GateStatus| {
            it.totals.sent_bytes.into()
        }),
        counter("gate_received", Unit::Bytes, "Bytes received from mirrors.", |it: &GateStatus| {
            it.totals.received_bytes.into()
        }),
    ],
};

const ACKNOWLEDGEMENTS: Table<u64> = Table {
    labels: &["gate", "origin"],
    metrics: &[counter(
        "gate_acknowledgements",
        Unit::Number,
        "Acknowledgements that the primary got: from the mirror (mirror), or before it from the gate (gate).",
        |count: &u64| Value::Whole(*count),
    )],
};

const BUFFERED: Table<u64> = Table {
    labels: &["gate", "toward"],
    metrics: &[gauge(
        "gate_buffered",
        Unit::Bytes,
        "Bytes that wait in the memory of the gate, toward mirror and primary.",
        |bytes: &u64| Value::Whole(*bytes),
    )],
};

fn sum(gate: &GateStatus, part: fn(&ConnectionStatus) -> u64) -> Value {
    Value::Whole(gate.connections.iter().map(part).sum())
}

#[cfg(test)]
mod tests;
