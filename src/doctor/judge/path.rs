//! Whether our full-sized datagrams pass on the way to each peer.

use crate::doctor::facts::PathFacts;
use crate::doctor::finding::Finding;
use crate::io::echo::Answer;

const CHECK: &str = "mtu";

/// What follows for each peer.
pub fn judge(facts: &[PathFacts]) -> Vec<Finding> {
    facts.iter().flat_map(of_peer).collect()
}

fn of_peer(facts: &PathFacts) -> Option<Finding> {
    let PathFacts { peer, node, datagram, .. } = facts;
    let to = facts.to?;
    let remedy = |finding: Finding, mtu: u16| {
        finding.remedy(format!(
            "`path: {{ mtu: {mtu} }}` for {peer} here, and for {node} in the file of {peer}; then restart both"
        ))
    };
    let named = facts.told_mtu.and_then(|mtu| u16::try_from(mtu).ok()).filter(|mtu| mtu < datagram);
    let echoes = match &facts.echoes {
        Ok(echoes) => &echoes[..],
        Err(cause) => {
            return Some(measured(facts, named).unwrap_or_else(|| {
                Finding::unseen(CHECK, format!("what passes to {peer} was not tried: {cause}"))
                    .remedy(format!("`sudo onwire doctor`, or `ping -M do -s {} {to}`", datagram.saturating_sub(28)))
            }));
        }
    };
    let came = |wanted: &u16| echoes.iter().any(|(size, answer)| size == wanted && *answer == Answer::Came);
    let full = echoes.iter().find(|(size, _)| size == datagram).map(|(_, answer)| *answer);
    let best = echoes.iter().filter(|(_, answer)| *answer == Answer::Came).map(|(size, _)| *size).max();
    match (full, best) {
        _ if came(datagram) && !facts.long_ones_vanish => {
            Some(Finding::ok(CHECK, format!("{datagram} bytes, our largest datagram, pass to {peer} and back")))
        }
        // The device refuses it, which is said of the device.
        (Some(Answer::TooBig), _) => None,
        (_, Some(best)) if !came(datagram) => {
            let words = format!(
                "datagrams to {peer} have up to {datagram} bytes, and the path carries {best}: full ones are lost, and \
                     small ones pass"
            );
            Some(remedy(Finding::fault(CHECK, words), best.max(576)))
        }
        _ => Some(measured(facts, named).unwrap_or_else(|| {
            Finding::unseen(CHECK, format!("{peer} answers no echo requests at {to}: what passes to it is not known"))
                .remedy("let ICMP pass between the two hosts, at least while this is examined")
        })),
    }
}

/// What the running appliance has noticed by itself.
fn measured(facts: &PathFacts, named: Option<u16>) -> Option<Finding> {
    let PathFacts { peer, node, datagram, .. } = facts;
    let remedy = |mtu: &str| {
        format!("`path: {{ mtu: {mtu} }}` for {peer} here, and for {node} in the file of {peer}; then restart both")
    };
    match (named, facts.long_ones_vanish) {
        (Some(mtu), _) => Some(
            Finding::fault(
                CHECK,
                format!("routers say that the path carries {mtu} bytes, and datagrams have up to {datagram}"),
            )
            .remedy(remedy(&mtu.to_string())),
        ),
        (None, true) => Some(
            Finding::fault(CHECK, format!("the appliance sees that full-sized datagrams do not arrive at {peer}"))
                .remedy(remedy("1280"))
                .remedy("1280 passes nearly everywhere; `ping -M do -s SIZE` finds what more does"),
        ),
        (None, false) if facts.too_big > 0 => Some(
            Finding::warning(
                CHECK,
                format!("{} datagrams were too big for a device or a path since the start", facts.too_big),
            )
            .remedy("`onwire status` says whether that goes on; `path.mtu` must fit the narrowest link"),
        ),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    fn facts(echoes: &[(u16, Answer)]) -> PathFacts {
        PathFacts {
            peer: "syracuse".to_owned(),
            node: "ithaca".to_owned(),
            datagram: 1480,
            to: Some("192.0.2.2".parse().unwrap()),
            echoes: Ok(echoes.to_vec()),
            too_big: 0,
            told_mtu: None,
            long_ones_vanish: false,
        }
    }

    fn only(facts: PathFacts) -> Finding {
        let mut findings = judge(&[facts]);
        assert_eq!(findings.len(), 1, "{findings:?}");
        findings.remove(0)
    }

    #[test]
    fn a_path_that_carries_the_full_size_is_well() {
        let found = only(facts(&[(100, Answer::Came), (1480, Answer::Came)]));
        assert_eq!((found.level, found.remedies.len()), (Level::Ok, 0));
    }

    #[test]
    fn a_narrow_path_is_a_fault_that_names_what_passes_and_both_files() {
        let narrow = [(100, Answer::Came), (1380, Answer::Came), (1400, Answer::Silent), (1480, Answer::Silent)];
        let found = only(facts(&narrow));
        assert_eq!(found.level, Level::Fault);
        assert!(found.found.contains("up to 1480") && found.found.contains("carries 1380"), "{found:?}");
        let remedy = &found.remedies[0];
        assert!(remedy.contains("mtu: 1380") && remedy.contains("for ithaca in the file of syracuse"), "{remedy}");
    }

    #[test]
    fn without_answers_what_the_appliance_has_measured_counts() {
        let silent = || facts(&[(100, Answer::Silent), (1480, Answer::Silent)]);
        assert_eq!(only(silent()).level, Level::Unseen);
        let denied = PathFacts { echoes: Err("no right".to_owned()), ..silent() };
        assert!(only(denied.clone()).level == Level::Unseen && only(denied.clone()).remedies[0].contains("-s 1452"));
        for facts in [silent(), denied] {
            let named = only(PathFacts { told_mtu: Some(1400), ..facts.clone() });
            assert!(named.level == Level::Fault && named.remedies[0].contains("mtu: 1400"), "{named:?}");
            assert_eq!(only(PathFacts { long_ones_vanish: true, ..facts.clone() }).level, Level::Fault);
            assert_eq!(only(PathFacts { too_big: 3, ..facts }).level, Level::Warning);
        }
        let lies = PathFacts { long_ones_vanish: true, ..facts(&[(100, Answer::Came), (1480, Answer::Came)]) };
        assert_eq!(only(lies).level, Level::Fault, "echoes pass, and our datagrams do not");
    }

    #[test]
    fn what_the_device_refuses_is_said_of_the_device_alone() {
        assert!(judge(&[facts(&[(100, Answer::Came), (1480, Answer::TooBig)])]).is_empty());
        assert!(judge(&[PathFacts { to: None, ..facts(&[]) }]).is_empty(), "that it has no address is said elsewhere");
    }
}
