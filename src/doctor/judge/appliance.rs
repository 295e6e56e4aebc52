//! The running appliance itself: whether it answers, follows the file that is examined, and keeps up with its host.

use crate::appliance::status::Status;
use crate::appliance::status::lane::LaneStatus;
use crate::doctor::facts::Appliance;
use crate::doctor::finding::Finding;

const CHECK: &str = "appliance";

/// What is known of it.
pub fn judge(appliance: &Appliance) -> Vec<Finding> {
    let status = match &appliance.status {
        Ok(status) => status,
        Err(cause) => {
            let words = format!("it is not asked: {cause}; routes and peers are seen from outside alone");
            return vec![Finding::unseen(CHECK, words).remedy(match &appliance.socket {
                Some(_) => {
                    "start it: `systemctl start onwire@NAME`, or `onwire run --config FILE`; its log says why it ends"
                }
                None => "`onwire doctor --config FILE` finds it",
            })];
        }
    };
    let service = appliance.service.as_deref();
    let restart = service.map_or("restart it".to_owned(), |service| format!("`systemctl restart {service}`"));
    let (version, ours) = (&status.version, env!("CARGO_PKG_VERSION"));
    let mut findings = vec![match version == ours {
        true => Finding::ok(CHECK, format!("{} runs, onwire {version}", status.node)),
        false => Finding::warning(CHECK, format!("{} runs onwire {version}, and this program is {ours}", status.node))
            .remedy(restart),
    }];
    if let Some((followed, examined)) = &appliance.other_file {
        let words = format!("it follows {followed}, and {} is examined", examined.display());
        findings.push(Finding::warning(CHECK, words).remedy(format!("`onwire doctor --config {followed}`")));
    } else if appliance.is_file_newer {
        let file = &status.configuration.file;
        let remedy = service.map_or("`onwire reload`".to_owned(), |service| format!("`systemctl reload {service}`"));
        findings.push(
            Finding::warning(CHECK, format!("{file} has changed since it was read: what is examined is not what runs"))
                .remedy(remedy),
        );
    }
    findings.extend(performance(status));
    findings
}

/// What makes it slow, or lose packets that the path has not lost.
fn performance(status: &Status) -> Vec<Finding> {
    const CHECK: &str = "offload";
    let mut findings = Vec::new();
    let tun = &status.tun;
    match &tun.fallback {
        Some(cause) => findings.push(
            Finding::warning(CHECK, format!("{} passes one packet a read, which costs much: {cause}", tun.name))
                .remedy(
                    "a kernel with IFF_VNET_HDR and TUN_F_TSO4 gives super-packets; `tun.offload: off` says that \
                     they are not wanted",
                ),
        ),
        None if !tun.tcp_offload && tun.backend == "fast" => findings.push(
            Finding::warning(CHECK, format!("{} passes no TCP super-packets, so each packet costs a call", tun.name))
                .remedy("a newer kernel"),
        ),
        None => findings.push(Finding::ok(CHECK, format!("{} has the {} back-end", tun.name, tun.backend))),
    }
    for lane in status.lanes.iter().filter(|lane| lane.udp_gso != "active" && !lane.udp_gso.contains("configured")) {
        let words =
            format!("lane {} sends each datagram alone, which costs much: UDP GSO is {}", lane.lane, lane.udp_gso);
        findings.push(
            Finding::warning(CHECK, words).remedy("a newer kernel or driver; `path.udp_gso: off` spares the tries"),
        );
    }
    let is_blind = |lane: &&LaneStatus| lane.timestamps.starts_with("off") && !lane.timestamps.contains("configured");
    if let (Some(_), Some(lane)) = (&status.notify, status.lanes.iter().find(is_blind)) {
        let words = format!("lane {} has no timestamps ({}): nothing is called protected", lane.lane, lane.timestamps);
        findings.push(Finding::fault("timestamps", words).remedy(
            "it tries again by itself; where that does not help, `notify: { level: queued }` says what is known then",
        ));
    }
    let overflows: u64 = status.lanes.iter().map(|lane| lane.receive_overflows).sum();
    if overflows > 0 {
        let words = format!("{overflows} datagrams were dropped since the start because a receive buffer was full");
        findings.push(Finding::warning("buffers", words).remedy(
            "this machine was too slow for a moment: give the appliance a processor of its own, or more `tun.queues`",
        ));
    }
    if let Some(dropped) = tun.tx_dropped.filter(|dropped| *dropped > 0) {
        let words =
            format!("{dropped} packets were dropped since the start because {} was not read fast enough", tun.name);
        findings.push(Finding::warning("buffers", words).remedy("raise `tun.txqueuelen`, or use more `tun.queues`"));
    }
    findings
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::appliance::status::{PeerStatus, TunStatus};
    use crate::doctor::finding::Level;

    /// The status of an appliance that is well, with one peer.
    pub fn status() -> Status {
        let peer = PeerStatus {
            endpoint: Some("192.0.2.2:7117".parse().unwrap()),
            state: "up".to_owned(),
            session_age_s: Some(3.0),
            rtt_ms: Some(10.0),
            sessions: 1,
            name: "syracuse".to_owned(),
            ..PeerStatus::default()
        };
        let lane: LaneStatus = serde_json::from_value(serde_json::json!({
            "lane": 0, "listen": "192.0.2.1:7117", "udp_gso": "active", "receive_overflows": 0, "send_errors": 0,
            "queue_full": 0, "too_big": 0, "path_mtu": null, "timestamps": "by number", "cut_in_software": 0,
            "notices_lost": 0, "memory": 0, "drops": {}
        }))
        .unwrap();
        Status {
            node: "ithaca".to_owned(),
            public_key: "KEY-OF-ITHACA".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_s: 60.0,
            state: "running".to_owned(),
            tun: TunStatus {
                name: "ow0".to_owned(),
                backend: "fast".to_owned(),
                tcp_offload: true,
                ..TunStatus::default()
            },
            lanes: vec![lane],
            peers: vec![peer],
            ..Status::default()
        }
    }

    fn appliance(status: Result<Status, String>) -> Appliance {
        Appliance {
            socket: Some("/run/onwire/ithaca.sock".into()),
            status,
            user: Some(0),
            other_file: None,
            is_file_newer: false,
            service: Some("onwire@ithaca".to_owned()),
        }
    }

    #[test]
    fn an_appliance_that_is_well_has_no_finding_but_good_ones() {
        assert!(judge(&appliance(Ok(status()))).iter().all(|finding| finding.level == Level::Ok));
    }

    #[test]
    fn a_lane_without_timestamps_is_a_fault_where_somebody_is_notified() {
        let mut status = status();
        status.lanes[0].timestamps = "off (refused when sending: EINVAL)".to_owned();
        assert!(judge(&appliance(Ok(status.clone()))).iter().all(|finding| finding.level == Level::Ok));
        let notify = serde_json::json!({ "listen": "127.0.0.1:7118", "subscribers": 0, "requests": 0, "refused": 0,
            "sent": 0, "send_errors": 0, "forged": 0, "not_ours": 0, "replayed": 0, "not_subscribed": 0, "skipped": 0,
            "leases_ended": 0, "excess": 0, "flows_refused": 0 });
        status.notify = Some(serde_json::from_value(notify).unwrap());
        let findings = judge(&appliance(Ok(status.clone())));
        let fault = findings.iter().find(|finding| finding.level == Level::Fault).unwrap();
        assert!(fault.check == "timestamps" && fault.found.contains("EINVAL"), "{fault:?}");
        status.lanes[0].timestamps = "off (configured)".to_owned();
        assert!(judge(&appliance(Ok(status))).iter().all(|finding| finding.level == Level::Ok));
    }

    #[test]
    fn what_is_not_well_is_named_with_its_remedy() {
        let found = judge(&appliance(Err("nothing is running".to_owned())));
        assert!(found.len() == 1 && found[0].level == Level::Unseen, "{found:?}");
        type Change = fn(&mut Appliance, &mut Status);
        let rows: [(Change, &str, &str); 7] = [
            (|_, status| status.version = "0.0.9".into(), "onwire 0.0.9", "systemctl restart onwire@ithaca"),
            (|of, _| of.is_file_newer = true, "has changed", "systemctl reload onwire@ithaca"),
            (|of, _| of.other_file = Some(("/a.yaml".into(), "/b.yaml".into())), "follows /a.yaml", "--config /a.yaml"),
            (|_, status| status.tun.fallback = Some("no header".into()), "no header", "kernel"),
            (|_, status| status.lanes[0].udp_gso = "off (refused)".into(), "off (refused)", "udp_gso"),
            (|_, status| status.lanes[0].receive_overflows = 3, "3 datagrams", "tun.queues"),
            (|_, status| status.tun.tx_dropped = Some(4), "4 packets", "txqueuelen"),
        ];
        for (change, words, remedy) in rows {
            let (mut of, mut status) = (appliance(Err(String::new())), status());
            change(&mut of, &mut status);
            of.status = Ok(status);
            let mut findings = judge(&of);
            findings.retain(|finding| finding.level != Level::Ok);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].level, Level::Warning);
            assert!(findings[0].found.contains(words) && findings[0].remedies[0].contains(remedy), "{findings:?}");
        }
    }
}
