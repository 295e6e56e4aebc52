//! Every row of the tables has its value in a status that has everything, and what is degraded is said.

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::json;

use super::*;
use crate::appliance::status::PeerStatus;
use crate::appliance::status::bypass::{BypassStatus, WatchdogStatus};
use crate::metrics::family::Format;

/// A status in which nothing is absent and all is well.
fn full() -> Status {
    let lane = json!({
        "lane": 0, "listen": "192.0.2.1:7117", "udp_gso": "active", "receive_overflows": 1,
        "receive_wait_ms": 1.5, "paused_ms": 2500.0, "send_errors": 2, "queue_full": 3,
        "too_big": 4, "path_mtu": 1400, "timestamps": "by number", "cut_in_software": 5, "notices_lost": 6, "memory": 7,
        "last_hop": { "packets": 8, "flows": 9, "memory": 10, "dropped": 11, "repeated": 12 }, "drops": {},
    });
    let protection = json!({
        "state": "up", "reason": "none", "level": "on_wire", "flows": 1, "flows_evicted": 2, "protected_blocks": 3,
        "untrusted_blocks": 4, "unsendable_blocks": 5, "stamps_missing": 6, "lost_blocks": 7, "violations": 8,
        "forgotten_blocks": 9,
    });
    let notify = json!({
        "listen": "127.0.0.1:7118", "subscribers": 1, "sent": 2, "send_errors": 3, "requests": 4, "refused": 5,
        "leases_ended": 6, "not_ours": 7, "forged": 8, "replayed": 9, "not_subscribed": 10, "skipped": 11, "flows_refused": 12,
    });
    let status = json!({
        "node": "ithaca", "version": "1.2.3", "uptime_s": 90.5, "epoch": "00", "state": "running",
        "tun": {
            "name": "ow0", "mtu": 1400, "backend": "fast", "fallback": null, "tcp_offload": true, "udp_offload": true, "queues": 1,
            "tx_dropped": 13,
        },
        "lanes": [lane], "peers": [], "notify": notify, "drops": { "no_peer": 14, "handshake": 15, "handshake_stranger": 15 },
    });
    let mut status: Status = serde_json::from_value(status).unwrap();
    let now = Instant::now();
    let mut peer = PeerStatus::gather("syracuse", [].iter(), now, now);
    peer.state = "up".to_owned();
    (peer.session_age_s, peer.rtt_ms) = (Some(60.0), Some(25.0));
    peer.sent.bytes = 1 << 53;
    peer.received.hold_ms = Some(20.0);
    (peer.received.path_marked, peer.received.rebuilt_marked) = (Some(1), Some(2));
    peer.peer_report = Some(serde_json::from_value(report(&peer)).unwrap());
    peer.link = Some(serde_json::from_value(json!({ "last_hour": { "count": 1, "longest_ms": 2.5 } })).unwrap());
    peer.plans = vec![serde_json::from_value(json!({ "profile": "steady", "unreached": ["residual"] })).unwrap()];
    peer.bypass = Some(BypassStatus::default());
    peer.protection = Some(serde_json::from_value(protection).unwrap());
    peer.arrived = Some(serde_json::from_value(arrived()).unwrap());
    status.peers = vec![peer];
    status.watchdog = Some(WatchdogStatus { pid: Some(1), stalls: 2 });
    status
}

fn report(peer: &PeerStatus) -> serde_json::Value {
    let mut report = serde_json::to_value(peer.received).unwrap();
    report["age_ms"] = json!(12.0);
    report
}

fn arrived() -> serde_json::Value {
    json!({
        "heard_ms_ago": 3.0, "quiet_after_ms": 500.0, "waiting_blocks": 1, "unfinished": [], "lost_blocks": 0, "lost": [],
        "refused_ms_ago": null, "flows_known": 4, "flows_evicted": 0, "flows": [],
    })
}

fn text(status: &Status) -> String {
    Format::Prometheus.text(families(status))
}

/// The names of the series in a text.
fn names(text: &str) -> BTreeSet<&str> {
    text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split(['{', ' ']).next()).collect()
}

#[test]
fn a_status_that_has_everything_exports_every_metric_once() {
    let mut status = full();
    // The one metric of a fault.
    status.peers[0].protection.as_mut().unwrap().reason = "send errors".to_owned();
    let (text, described) = (text(&status), described());
    let expected: BTreeSet<&str> = described.iter().map(|metric| &*metric.name).collect();
    assert_eq!(names(&text), expected);
    assert_eq!(described.len(), expected.len(), "two rows have one name");
    let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    let single: BTreeSet<&str> = series.iter().filter_map(|line| line.rsplit(' ').nth(1)).collect();
    assert_eq!(series.len(), single.len(), "two series are the same:\n{text}");
}

#[test]
fn values_are_those_of_the_status_in_base_units() {
    let text = text(&full());
    for line in [
        "onwire_build_info{role=\"appliance\",node=\"ithaca\",version=\"1.2.3\"} 1",
        "onwire_uptime_seconds 90.5",
        "onwire_config_last_reload_successful 1",
        "onwire_lane_memory_bytes{lane=\"0\"} 7",
        "onwire_tun_dropped_packets_total 13",
        "onwire_drops_total{reason=\"no_peer\"} 14",
        "onwire_drops_total{reason=\"handshake_stranger\"} 15",
        "onwire_drops_total{reason=\"bad_tag\"} 0",
        "onwire_peer_state{peer=\"syracuse\",state=\"up\"} 1",
        "onwire_peer_state{peer=\"syracuse\",state=\"silent\"} 0",
        "onwire_peer_round_trip_seconds{peer=\"syracuse\"} 0.025",
        "onwire_sent_datagram_bytes_total{peer=\"syracuse\"} 9007199254740992",
        "onwire_received_hold_seconds{peer=\"syracuse\"} 0.02",
        "onwire_link_longest_interruption_seconds{peer=\"syracuse\",window=\"1h\"} 0.0025",
        "onwire_protection_state{peer=\"syracuse\",state=\"degraded\"} 0",
        "onwire_protection_violations_total{peer=\"syracuse\"} 8",
        "onwire_plan_unreached_targets{peer=\"syracuse\",profile=\"steady\",lane=\"0\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}:\n{text}");
    }
    assert!(!text.contains("reason=\"handshake\"") && !text.contains("protection_reason"), "{text}");
}

/// A counter that falls is a new start for Prometheus, which then counts all of it again: a false alarm of violations.
#[test]
fn without_the_answer_of_a_lane_no_sum_over_lanes_is_exported() {
    let mut status = full();
    status.tun.queues = 2;
    let text = text(&status);
    let names = names(&text);
    assert!(names.contains("onwire_lanes_answering") && names.contains("onwire_lane_memory_bytes"), "{text}");
    for name in names {
        let is_sum =
            ["peer", "sent", "received", "link", "protection", "plan", "drops", "bypass", "path", "congestion"];
        assert!(!is_sum.iter().any(|part| name.starts_with(&format!("onwire_{part}"))), "{name}");
    }
    assert_eq!(degraded(&status), ["ithaca: 1 of 2 lanes do not answer"]);
}

#[test]
fn what_is_degraded_is_said_with_its_cause_once_for_each_peer() {
    assert_eq!(degraded(&full()), Vec::<String>::new());
    let with = |change: fn(&mut Status)| {
        let mut status = full();
        change(&mut status);
        degraded(&status)
    };
    let degrade = |status: &mut Status| {
        let protection = status.peers[0].protection.as_mut().unwrap();
        (protection.state, protection.reason) = ("degraded".to_owned(), "no timestamps".to_owned());
    };
    assert_eq!(with(degrade), ["ithaca: link to syracuse is degraded (no timestamps)"]);
    assert_eq!(
        with(|status| {
            status.peers[0].state = "silent".to_owned();
            status.peers[0].protection.as_mut().unwrap().state = "down".to_owned();
        }),
        ["ithaca: peer syracuse is silent"]
    );
    let withdrawn = |status: &mut Status| {
        status.peers[0].state = "connecting".to_owned();
        let bypass = BypassStatus { withdrawn: true, cause: Some("no session".to_owned()), withdrawals: 1 };
        status.peers[0].bypass = Some(bypass);
    };
    assert_eq!(with(withdrawn), ["ithaca: peer syracuse is connecting, and its packets take the plain route"]);
    let stopped = |status: &mut Status| {
        status.state = "stopped".to_owned();
        let trouble = serde_json::from_value(json!({ "trouble": "device_down" })).unwrap();
        status.tun.route_troubles.insert("10.2.0.0/24".to_owned(), trouble);
    };
    assert_eq!(
        with(stopped),
        ["ithaca: it is stopped", "ithaca: 10.2.0.0/24: route missing, ow0 is down: `ip link set ow0 up`"]
    );
}
