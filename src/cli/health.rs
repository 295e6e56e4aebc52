//! What `onwire status --check` and `onwire top` print of what is not well, and of what is. Each program decides about
//! itself what is well. This asks nobody.

use super::output_line::OutputLine;
use super::render::duration;
use crate::appliance::status::Status as ApplianceStatus;
use crate::gate::status::{GateStatus, Status as GatesStatus};
use crate::io::problem::Problem;

/// One line: what is not well, and since when.
pub(super) fn line(problem: &Problem) -> String {
    let (process, text) = (OutputLine(&problem.process), OutputLine(&problem.text));
    match problem.since {
        Some(since) => format!("{process}: {text}, for {}", duration(since.for_s)),
        None => format!("{process}: {text}"),
    }
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
    use crate::appliance::host::route_trouble::RouteTrouble;
    use crate::appliance::status::PeerStatus;
    use crate::appliance::status::bypass::{BypassStatus, WatchdogStatus};
    use crate::appliance::status::candidate::{CandidateState, CandidateStatus};
    use crate::appliance::status::health::problems as appliance_problems;
    use crate::appliance::status::hooks::HookStatus;
    use crate::appliance::status::lane::LaneStatus;
    use crate::appliance::status::protection::ProtectionStatus;
    use crate::config::reload::{Outcome, ReloadStatus};
    use crate::gate::health::problems as gate_problems;
    use crate::io::since::Since;

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
        let rows: [(Change<'_>, &str); 16] = [
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
            (
                &|it| {
                    it.peers[0].state = "connecting".to_owned();
                    it.peers[0].bypass = Some(BypassStatus { withdrawn: true, cause: None, withdrawals: 1 });
                },
                "ithaca: peer syracuse is connecting, and its packets take the plain route",
            ),
            (
                &|it| it.hooks = vec![HookStatus { program: "/bin/page".to_owned(), ..HookStatus::default() }],
                "ithaca: the process of the hook /bin/page has ended: restart onwire",
            ),
        ];
        for (change, expected) in rows {
            let mut status = appliance();
            change(&mut status);
            let found: Vec<String> = appliance_problems(&status).iter().map(line).collect();
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
            let found: Vec<String> = gate_problems(&status).iter().map(line).collect();
            assert_eq!(found.join("\n"), expected);
        }
        assert_eq!(summary_of_gates(&gates(true, "up", 0)), "gates: pg");
    }
}
