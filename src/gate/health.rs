//! Whether a gate process is well at this moment, for `onwire status --check` and for `/healthz`: what a person would be
//! called for. Counters of the past never count. This asks nobody.

use super::status::Status;
use crate::io::problem::Problem;

/// What is not well with a gate process.
pub fn problems(status: &Status) -> Vec<Problem> {
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
