//! Whether an appliance or a gate process is well at this moment, for `onwire status --check`: what a person would be
//! called for.
//!
//! Counters of the past never count: a check that stays red for ever is switched off. It asks nobody and prints
//! nothing.

use serde::Serialize;

use super::output_line::OutputLine;
use super::render::{candidate_line, duration, route_trouble};
use crate::appliance::host::route_trouble::RouteTrouble;
use crate::appliance::status::candidate::CandidateState;
use crate::appliance::status::{PeerStatus, Status as ApplianceStatus};
use crate::gate::status::{GateStatus, Status as GatesStatus};
use crate::io::since::Since;

/// Something that is not well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Problem {
    /// Whose: `node.name` of an appliance, or `gates`.
    pub process: String,
    /// What it is.
    pub text: String,
    /// Since when, where that is known.
    pub since: Option<Since>,
}

impl Problem {
    /// One line.
    pub fn line(&self) -> String {
        let process = OutputLine(&self.process);
        match self.since {
            Some(since) => format!("{process}: {}, for {}", OutputLine(&self.text), duration(since.for_s)),
            None => format!("{process}: {}", OutputLine(&self.text)),
        }
    }
}

/// What is not well with an appliance.
pub(super) fn of_appliance(status: &ApplianceStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |text: String, since| found.push(Problem { process: status.node.clone(), text, since });
    if status.state != "running" {
        add(format!("it is {}", status.state), None);
    }
    let silent = status.tun.queues.saturating_sub(status.lanes.len());
    if silent > 0 {
        add(format!("{silent} of {} lanes do not answer", status.tun.queues), None);
    }
    for (prefix, trouble) in &status.tun.route_troubles {
        // The appliance of a host that is no router is as it was meant.
        if *trouble != RouteTrouble::OwnProgramsOnly {
            add(format!("{prefix}: {}", route_trouble(trouble, &status.tun.name)), None);
        }
    }
    if status.watchdog.as_ref().is_some_and(|watchdog| watchdog.pid.is_none()) {
        add("its watchdog process has ended: restart onwire".to_owned(), None);
    }
    if let Some(candidate) = &status.configuration.candidate
        && matches!(candidate.state, CandidateState::GoingBack | CandidateState::Confirmed)
    {
        add(format!("candidate: {}", candidate_line(candidate)), None);
    }
    if let Some(last) = status.reload.last.as_ref().filter(|last| !last.is_good) {
        add(format!("not reloaded: {}", last.text.lines().next().unwrap_or_default()), None);
    }
    for peer in &status.peers {
        of_peer(peer, &mut add);
    }
    found
}

fn of_peer(peer: &PeerStatus, add: &mut impl FnMut(String, Option<Since>)) {
    let name = &peer.name;
    if peer.state != "up" {
        return add(format!("peer {name} is {}", peer.state), peer.since);
    }
    if let Some(cause) = peer.bypass.as_ref().filter(|bypass| bypass.withdrawn).map(|bypass| &bypass.cause) {
        let cause = cause.as_deref().unwrap_or("no cause is known");
        return add(format!("packets for {name} take the plain route: {cause}"), None);
    }
    if let Some(protection) = peer.protection.as_ref().filter(|protection| protection.state != "up") {
        let text = format!("link to {name} is {} ({})", protection.state, protection.reason);
        add(text, protection.reason_since);
    }
}

/// What is not well with a gate process.
pub(super) fn of_gates(status: &GatesStatus) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut add = |text: String, since| found.push(Problem { process: "gates".to_owned(), text, since });
    if status.state != "running" {
        add(format!("they are {}", status.state), None);
    }
    if let Some(last) = status.reload.last.as_ref().filter(|last| !last.is_good) {
        add(format!("not reloaded: {}", last.text.lines().next().unwrap_or_default()), None);
    }
    let notify = &status.notify;
    if !notify.contact {
        add(format!("the appliance at {} does not answer", notify.address), notify.since);
    } else {
        // Without contact, what was said of links is old.
        for link in notify.links.iter().filter(|link| link.state != "up") {
            add(format!("link to {} is {} ({})", link.name, link.state, link.reason), link.since);
        }
    }
    for gate in &status.gates {
        let exposed: u64 = gate.connections.iter().map(|connection| connection.exposed).sum();
        if exposed > 0 {
            add(format!("gate {}: {exposed} bytes are acknowledged and nowhere but here", gate.name), None);
        }
    }
    found
}

/// What there is, when all is well: `ithaca: 2 peers up`.
pub(super) fn summary_of_appliance(status: &ApplianceStatus) -> String {
    let up = status.peers.iter().filter(|peer| peer.state == "up").count();
    let peers = if status.peers.len() == 1 { "peer" } else { "peers" };
    format!("{}: {up} of {} {peers} up", OutputLine(&status.node), status.peers.len())
}

/// What there is, when all is well: `gates: ledger, sessions`.
pub(super) fn summary_of_gates(status: &GatesStatus) -> String {
    let names: Vec<String> = status.gates.iter().map(|gate: &GateStatus| OutputLine(&gate.name).to_string()).collect();
    format!("gates: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::status::bypass::{BypassStatus, WatchdogStatus};
    use crate::appliance::status::candidate::CandidateStatus;
    use crate::appliance::status::lane::LaneStatus;
    use crate::appliance::status::protection::ProtectionStatus;
    use crate::config::reload::{Outcome, ReloadStatus};

    fn appliance() -> ApplianceStatus {
        let lane = |lane: u8| serde_json::from_value::<LaneStatus>(serde_json::json!({ "lane": lane })).unwrap();
        let protection = ProtectionStatus { state: "up".to_owned(), ..ProtectionStatus::default() };
        let peer = PeerStatus {
            name: "syracuse".to_owned(),
            state: "up".to_owned(),
            protection: Some(protection),
            ..PeerStatus::default()
        };
        let mut status = ApplianceStatus {
            node: "ithaca".to_owned(),
            state: "running".to_owned(),
            lanes: vec![lane(0), lane(1)],
            peers: vec![peer],
            ..ApplianceStatus::default()
        };
        status.tun.queues = 2;
        status
    }

    #[test]
    fn each_thing_that_is_not_well_is_found_and_nothing_else() {
        let since = Some(Since { at_s: 1.0, for_s: 61.0 });
        let outcome = |is_good| Outcome { is_good, at_s: 0.0, text: "peers[0]: wrong\nmore".to_owned() };
        type Change<'a> = &'a dyn Fn(&mut ApplianceStatus);
        let rows: [(Change<'_>, &str); 14] = [
            (&|_| {}, ""),
            (&|it| it.peers[0].protection = None, ""),
            (&|it| it.reload = ReloadStatus { attempts: 1, last: Some(outcome(true)) }, ""),
            (&|it| drop(it.tun.route_troubles.insert("10.0.0.0/8".into(), RouteTrouble::OwnProgramsOnly)), ""),
            (&|it| it.state = "stopped".to_owned(), "ithaca: it is stopped"),
            (&|it| drop(it.lanes.pop()), "ithaca: 1 of 2 lanes do not answer"),
            (
                &|it| drop(it.tun.route_troubles.insert("10.0.0.0/8".into(), RouteTrouble::NoPlainRoute)),
                "ithaca: 10.0.0.0/8: our route is withdrawn and there is no other: packets go nowhere",
            ),
            (
                &|it| it.watchdog = Some(WatchdogStatus { pid: None, stalls: 0 }),
                "ithaca: its watchdog process has ended: restart onwire",
            ),
            (
                &|it| it.reload = ReloadStatus { attempts: 1, last: Some(outcome(false)) },
                "ithaca: not reloaded: peers[0]: wrong",
            ),
            (
                &|it| {
                    let state = CandidateState::GoingBack;
                    it.configuration.candidate =
                        Some(CandidateStatus { state, text: "policy".to_owned(), ..CandidateStatus::default() });
                },
                "ithaca: candidate: GOING BACK, tries each second: policy",
            ),
            (
                &|it| (it.peers[0].state, it.peers[0].since) = ("silent".to_owned(), since),
                "ithaca: peer syracuse is silent, for 1 min 1 s",
            ),
            (
                &|it| {
                    it.peers[0].bypass =
                        Some(BypassStatus { withdrawn: true, cause: Some("asked\u{1b}".to_owned()), withdrawals: 1 });
                },
                "ithaca: packets for syracuse take the plain route: asked\\u{1b}",
            ),
            (
                &|it| {
                    it.peers[0].protection = Some(ProtectionStatus {
                        state: "degraded".to_owned(),
                        reason: "no reports".to_owned(),
                        reason_since: since,
                        ..ProtectionStatus::default()
                    });
                },
                "ithaca: link to syracuse is degraded (no reports), for 1 min 1 s",
            ),
            (&|it| it.peers[0].state = "connecting".to_owned(), "ithaca: peer syracuse is connecting"),
        ];
        for (change, expected) in rows {
            let mut status = appliance();
            change(&mut status);
            let found: Vec<String> = of_appliance(&status).iter().map(Problem::line).collect();
            assert_eq!(found.join("\n"), expected);
        }
        assert_eq!(summary_of_appliance(&appliance()), "ithaca: 1 of 1 peer up");
    }

    #[test]
    fn gates_are_well_while_they_hear_an_appliance_whose_links_are_up() {
        let gates = |contact: bool, link: &str, exposed: u64| -> GatesStatus {
            serde_json::from_value(serde_json::json!({
                "role": "gate", "state": "running",
                "notify": {
                    "address": "127.0.0.1:7118", "contact": contact, "since": { "at_s": 5.0, "for_s": 3.0 },
                    "links": [{ "name": "syracuse", "state": link, "reason": "no session" }],
                },
                "gates": [{ "name": "pg", "connections": [{ "exposed": exposed }] }],
            }))
            .unwrap()
        };
        let rows = [
            (gates(true, "up", 0), ""),
            (gates(true, "down", 0), "gates: link to syracuse is down (no session)"),
            (gates(false, "down", 0), "gates: the appliance at 127.0.0.1:7118 does not answer, for 3.0 s"),
            (gates(true, "up", 9), "gates: gate pg: 9 bytes are acknowledged and nowhere but here"),
        ];
        for (status, expected) in rows {
            let found: Vec<String> = of_gates(&status).iter().map(Problem::line).collect();
            assert_eq!(found.join("\n"), expected);
        }
        assert_eq!(summary_of_gates(&gates(true, "up", 0)), "gates: pg");
    }
}
