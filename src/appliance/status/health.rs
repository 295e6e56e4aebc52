//! Whether an appliance is well at this moment, for `onwire status --check` and for `/healthz`: what a person would be
//! called for.
//!
//! Counters of the past never count: a check that stays red for ever is switched off. This asks nobody.

use super::candidate::CandidateState;
use super::{PeerStatus, Status};
use crate::appliance::host::route_trouble::RouteTrouble;
use crate::io::problem::Problem;
use crate::io::since::Since;

/// What is not well with an appliance.
pub fn problems(status: &Status) -> Vec<Problem> {
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
            add(format!("{prefix}: {}", trouble.words(&status.tun.name)), None);
        }
    }
    if status.watchdog.as_ref().is_some_and(|watchdog| watchdog.pid.is_none()) {
        add("its watchdog process has ended: restart onwire".to_owned(), None);
    }
    for hook in status.hooks.iter().filter(|hook| hook.pid.is_none()) {
        add(format!("the process of the hook {} has ended: restart onwire", hook.program), None);
    }
    if let Some(candidate) = &status.configuration.candidate
        && matches!(candidate.state, CandidateState::GoingBack | CandidateState::Confirmed)
    {
        add(format!("candidate: {}", candidate.words()), None);
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
    let bypass = peer.bypass.as_ref().filter(|bypass| bypass.withdrawn);
    let cause = bypass.map(|bypass| bypass.cause.as_deref().unwrap_or("no cause is known"));
    // The first of these is the cause of the others.
    match (peer.state.as_str(), cause) {
        ("up", None) => {}
        ("up", Some(cause)) => return add(format!("packets for {name} take the plain route: {cause}"), None),
        (state, None) => return add(format!("peer {name} is {state}"), peer.since),
        (state, Some(_)) => {
            return add(format!("peer {name} is {state}, and its packets take the plain route"), peer.since);
        }
    }
    if let Some(protection) = peer.protection.as_ref().filter(|protection| protection.state != "up") {
        let text = format!("link to {name} is {} ({})", protection.state, protection.reason);
        add(text, protection.reason_since);
    }
}
