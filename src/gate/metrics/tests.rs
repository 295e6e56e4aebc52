//! Every row of the tables has its value in a status that has everything, and what is degraded is said.

use std::collections::BTreeSet;

use super::*;
use crate::gate::status::{LinkStatus, ROLE};
use crate::io::status_socket::SCHEMA_VERSION;
use crate::metrics::family::Format;

fn full() -> Status {
    let connection = |number, waiting, oldest: Option<f64>| ConnectionStatus {
        number,
        replicates: true,
        unprotected: 100,
        exposed: 7,
        waiting,
        oldest_waiting_s: oldest,
        buffered: (3, 4),
        ..ConnectionStatus::nothing("192.0.2.7:5000".parse().unwrap())
    };
    let gate = GateStatus {
        name: "pg".to_owned(),
        kind: "postgres".to_owned(),
        state: "listening".to_owned(),
        listen: "127.0.0.1:1".parse().unwrap(),
        upstream: "127.0.0.1:2".parse().unwrap(),
        policy: "auto".to_owned(),
        level: "on_wire".to_owned(),
        survive_burst_s: None,
        totals: Totals { real_acks: 5, injected_acks: 6, exposed_bytes: 9, ..Totals::default() },
        earlier_settings: 0,
        connections: vec![
            connection(1, 2, Some(0.25)),
            connection(2, 1, Some(1.5)),
            ConnectionStatus::nothing("192.0.2.7:5001".parse().unwrap()),
        ],
    };
    Status {
        role: ROLE.to_owned(),
        schema_version: SCHEMA_VERSION,
        version: "1.2.3".to_owned(),
        state: "running".to_owned(),
        uptime_s: 1.0,
        log_lines_lost: 0,
        notify: NotifyStatus {
            address: "127.0.0.1:7118".parse().unwrap(),
            contact: true,
            since: None,
            stale: false,
            heard_s: Some(0.1),
            runs: 1,
            contacts_lost: 2,
            datagrams: 3,
            flows: 4,
            links: vec![link("up", "none"), LinkStatus { name: "utica".to_owned(), ..link("degraded", "violation") }],
        },
        gates: vec![gate],
        restrictions: Default::default(),
        reload: Default::default(),
    }
}

fn link(state: &str, reason: &str) -> LinkStatus {
    LinkStatus { name: "syracuse".to_owned(), state: state.to_owned(), since: None, reason: reason.to_owned() }
}

#[test]
fn a_status_that_has_everything_exports_every_metric_once() {
    let text = Format::Prometheus.text(families(&full()));
    let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let names: BTreeSet<&str> = series.iter().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let described = described();
    assert_eq!(names, described.iter().map(|metric| &*metric.name).collect());
    assert_eq!(described.len(), names.len(), "two rows have one name");
    let single: BTreeSet<&str> = series.iter().filter_map(|line| line.rsplit(' ').nth(1)).collect();
    assert_eq!(series.len(), single.len(), "two series are the same:\n{text}");
    for line in [
        "onwire_build_info{role=\"gate\",node=\"\",version=\"1.2.3\"} 1",
        "onwire_gate_open_connections{gate=\"pg\"} 3",
        "onwire_gate_replicating_connections{gate=\"pg\"} 2",
        "onwire_gate_waiting_marks{gate=\"pg\"} 3",
        "onwire_gate_oldest_waiting_seconds{gate=\"pg\"} 1.5",
        "onwire_gate_unprotected_bytes{gate=\"pg\"} 200",
        "onwire_gate_exposed_now_bytes{gate=\"pg\"} 14",
        "onwire_gate_exposed_bytes_total{gate=\"pg\"} 9",
        "onwire_gate_acknowledgements_total{gate=\"pg\",origin=\"mirror\"} 5",
        "onwire_gate_acknowledgements_total{gate=\"pg\",origin=\"gate\"} 6",
        "onwire_gate_buffered_bytes{gate=\"pg\",toward=\"primary\"} 8",
        "onwire_gate_link_state{peer=\"utica\",state=\"degraded\"} 1",
        "onwire_gate_link_reason{peer=\"utica\",reason=\"violation\"} 1",
    ] {
        assert!(series.contains(&line), "{line}:\n{text}");
    }
}

#[test]
fn what_is_degraded_is_said_and_links_count_only_while_the_appliance_is_heard() {
    let mut status = full();
    let exposed = "gates: gate pg: 14 bytes are acknowledged and nowhere but here";
    assert_eq!(degraded(&status), ["gates: link to utica is degraded (violation)", exposed]);
    status.notify.contact = false;
    assert_eq!(degraded(&status), ["gates: the appliance at 127.0.0.1:7118 does not answer", exposed]);
    status.gates.clear();
    (status.notify.contact, status.notify.links) = (true, vec![link("up", "none")]);
    assert_eq!(degraded(&status), Vec::<String>::new());
    status.state = "stopping".to_owned();
    assert_eq!(degraded(&status), ["gates: they are stopping"]);
}
