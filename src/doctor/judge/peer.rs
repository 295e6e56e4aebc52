//! What the running appliance knows of its peers: whether each is reached, accepts the keys, agrees about prefixes and
//! speaks the same version.
//!
//! A peer that refuses a handshake does not answer, so one side alone sees which key is wrong; the finding says at
//! which host to act.

use crate::appliance::status::{PeerStatus, Status};
use crate::config::{Config, Peer};
use crate::doctor::facts::PathFacts;
use crate::doctor::finding::Finding;

const CHECK: &str = "peer";

/// An appliance that has just started is still calling.
const CALLS_FOR_S: f64 = 5.0;
/// A host sends a few packets from addresses of its own when a device comes up.
const STRAY_SOURCES: u64 = 20;

/// Counters of these may be of long ago: the status is to be read twice.
pub fn is_to_be_seen_twice(status: &Status) -> bool {
    count(status, "foreign_address") > 0 || count(status, "foreign_source") >= STRAY_SOURCES
}

/// What follows; `later` is the status a moment later, if it was read.
pub fn judge(config: &Config, status: &Status, later: Option<&Status>, paths: &[PathFacts]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let of = |peer: &Peer| status.peers.iter().find(|of| of.name == peer.name);
    let is_up = |peer: &&Peer| of(peer).is_some_and(|of| of.state == "up");
    for peer in config.peers.iter().filter(|peer| !peer.is_removed) {
        let Some(known) = of(peer) else {
            let words = format!("{} is none of the running appliance", peer.name);
            findings.push(Finding::fault(CHECK, words).remedy("`onwire reload`, so that it reads its file again"));
            continue;
        };
        match known.state.as_str() {
            "up" => findings.extend(up(known)),
            state => {
                let path = paths.iter().find(|path| path.peer == peer.name);
                findings.push(not_up(config, peer, state, status, path));
            }
        }
    }
    findings.extend(prefixes(config, status, later, config.peers.iter().any(|peer| is_up(&peer))));
    findings
}

fn count(status: &Status, reason: &str) -> u64 {
    status.drops.get(reason).copied().unwrap_or(0)
}

fn up(peer: &PeerStatus) -> Vec<Finding> {
    let name = &peer.name;
    let rtt = peer.rtt_ms.map_or(String::new(), |rtt| format!(", round trip {rtt:.1} ms"));
    let mut findings = vec![Finding::ok(
        CHECK,
        format!("{name} is up{rtt}: keys are accepted, and both speak the same protocol version"),
    )];
    if let (Some("next_public_key"), Some(key)) = (peer.key.as_deref(), &peer.public_key) {
        findings.push(
            Finding::warning(CHECK, format!("{name} uses its next_public_key, and the key before is still accepted"))
                .remedy(format!("`public_key: {key}` for {name} here, without next_public_key; then `onwire reload`")),
        );
    }
    if peer.link.as_ref().is_some_and(|link| link.congested) {
        findings.push(
            Finding::warning(
                "path",
                format!("the losses on the way to {name} are those of a full queue, which more repair makes worse"),
            )
            .remedy(format!("`path: {{ rate: RATE }}` for {name} here, a little below the slowest hop")),
        );
    }
    if let Some(protection) = peer.protection.as_ref().filter(|of| !matches!(of.state.as_str(), "up" | "draining")) {
        let words =
            format!("the link to {name} is {} ({}): nothing is called protected", protection.state, protection.reason);
        findings.push(Finding::warning("protection", words).remedy("docs/guarantee.md, \"The link\", has each reason"));
    }
    findings
}

/// What handshakes that were dropped say about a peer that is not up.
struct Evidence {
    /// The counter.
    reason: &'static str,
    words: &'static str,
}

const EVIDENCE: [Evidence; 7] = [
    Evidence {
        reason: "handshake_stranger",
        words: "handshakes came whose sender has another public key for this node than it has",
    },
    Evidence {
        reason: "handshake_unknown_peer",
        words: "handshakes came with a key that is in no public_key of this file",
    },
    Evidence {
        reason: "handshake_not_authentic",
        words: "handshakes could not be opened: the two preshared keys differ, or one side has none",
    },
    Evidence {
        reason: "handshake_incompatible",
        words: "handshakes came of another version of the protocol, or with another number of `tun.queues`",
    },
    Evidence { reason: "handshake_bad_hello", words: "handshakes came of a version that this one does not know" },
    Evidence {
        reason: "handshake_replayed",
        words: "handshakes came that are older than one before: its clock was set back",
    },
    Evidence {
        reason: "handshake_inside_tunnel",
        words: "handshakes came from an address inside `peers[].prefixes`, to which an answer would go into the tunnel",
    },
];

fn not_up(config: &Config, peer: &Peer, state: &str, status: &Status, path: Option<&PathFacts>) -> Finding {
    let (name, node) = (&peer.name, &config.node.name);
    if state == "silent" {
        let words = format!("{name} is silent: there is a session, and nothing comes");
        return reach(Finding::fault(CHECK, words), config, peer, path);
    }
    if status.uptime_s < CALLS_FOR_S {
        let words = format!("{name} is being called: the appliance has just started");
        return Finding::unseen(CHECK, words).remedy("run this again in a few seconds");
    }
    let told = EVIDENCE.iter().find(|evidence| count(status, evidence.reason) > 0);
    let Some(Evidence { reason, words }) = told else {
        let words = match &peer.endpoint {
            Some(endpoint) => format!("{name} does not answer at {endpoint}"),
            None => format!("{name} has not called, and no endpoint here says where to call it"),
        };
        return reach(Finding::fault(CHECK, words), config, peer, path);
    };
    let others = config.peers.len() > 1;
    let who = if others { format!("{name} is not up, and since the start ") } else { format!("{name} is not up: ") };
    let finding = Finding::fault(CHECK, format!("{who}{} {words}", count(status, reason)));
    match *reason {
        "handshake_stranger" => finding
            .remedy(format!("`public_key: {}` for {node} in its file, then `onwire reload`", status.public_key))
            .at(name),
        "handshake_unknown_peer" => finding.remedy(format!(
            "`public_key` of {name} here must be what `onwire pubkey KEY-FILE` prints at {name}; then `onwire reload`"
        )),
        "handshake_not_authentic" => finding.remedy(match &peer.preshared_key_file {
            Some(file) => format!(
                "copy {} to {name}, and name it there as `preshared_key_file` for \
                 {node}",
                file.display()
            ),
            None => format!(
                "copy the preshared key of {name} here, and name it as `preshared_key_file`, or take it \
                 away there"
            ),
        }),
        "handshake_replayed" => finding
            .remedy("correct the clock there")
            .remedy(format!(
                "or restart onwire at {node}, which forgets the \
                 newer handshake"
            ))
            .at(name),
        "handshake_inside_tunnel" => finding
            .remedy(
                "`node.listen` must be an address outside of its \
             `local_prefixes`",
            )
            .at(name),
        _ => finding.remedy(format!(
            "the same release and the same `tun.queues` at {name} and here; the log has the line \
                 \"cannot work with this peer\""
        )),
    }
}

/// What to look at where nothing comes.
fn reach(finding: Finding, config: &Config, peer: &Peer, path: Option<&PathFacts>) -> Finding {
    let (name, node) = (&peer.name, &config.node.name);
    let first = config.node.listen.port();
    let ports = match config.tun.queues {
        1 => first.to_string(),
        queues => format!("{first} to {}", first + (queues - 1)),
    };
    let alive = match path {
        Some(path) if path.is_alive() => {
            format!("its host answers echo requests, so look at onwire there: `onwire doctor` at {name}")
        }
        _ => format!("whether its host and onwire there run: `onwire doctor` at {name}"),
    };
    let finding = finding.remedy(alive).remedy(format!(
        "UDP port {ports} must pass both ways: `tcpdump -ni any udp port {first}` on both hosts shows where it ends"
    ));
    match &peer.endpoint {
        Some(_) => finding.remedy(format!(
            "`public_key` of {name} here must be what `onwire pubkey KEY-FILE` prints there: whoever is called by \
                 another key says nothing"
        )),
        None => finding.remedy(format!(
            "the file of {name} needs an `endpoint` for {node}, or one for {name} is \
             written here"
        )),
    }
}

/// Whether both sides have the same prefixes.
fn prefixes(config: &Config, status: &Status, later: Option<&Status>, some_up: bool) -> Vec<Finding> {
    const CHECK: &str = "prefixes";
    let rise = |reason: &str| later.map_or(0, |later| count(later, reason).saturating_sub(count(status, reason)));
    let mut findings = Vec::new();
    let foreign = count(status, "foreign_address");
    if foreign > 0 {
        let whom = match &config.peers[..] {
            [peer] => peer.name.clone(),
            _ => "a peer".to_owned(),
        };
        let words = format!(
            "{foreign} packets from {whom} were dropped since the start: their source is not in its `prefixes` here, \
                 or their \
             destination not in `node.local_prefixes`"
        );
        let finding = match rise("foreign_address") {
            0 => Finding::warning(CHECK, format!("{words}; none in the last second")),
            more => Finding::fault(CHECK, format!("{words}; {more} in the last second")),
        };
        findings.push(finding.remedy(
            "`peers[].prefixes` here and `node.local_prefixes` there must be the same, and the other way round; the \
                 log names a packet",
        ));
    }
    let strays = rise("foreign_source");
    if count(status, "foreign_source") >= STRAY_SOURCES && strays > 2 {
        let words = format!("{strays} packets a second come from hosts here that are not in `node.local_prefixes`");
        findings.push(Finding::warning(CHECK, words).remedy(
            "add them to `node.local_prefixes` here, and to `prefixes` of this node in the files of the peers",
        ));
    }
    if findings.is_empty() && some_up {
        findings.push(Finding::ok(CHECK, "no packet of a peer was dropped because of its addresses"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::key_file;
    use crate::doctor::finding::Level;
    use crate::doctor::judge::appliance::tests::status;
    use crate::tunnel::keys::PrivateKey;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn config() -> Config {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("ithaca.key");
        let mut random = StdRng::seed_from_u64(1);
        key_file::write(&key, &PrivateKey::generate(&mut random).to_text()).unwrap();
        let text = format!(
            "node: {{ name: ithaca, key_file: {}, local_prefixes: [10.1.0.0/24] }}\npeers:\n  - {{ name: syracuse, \
                 public_key: {}, \
             endpoint: \"192.0.2.2:7117\", prefixes: [10.2.0.0/24] }}\n",
            key.display(),
            PrivateKey::generate(&mut random).public_key()
        );
        crate::config::parse(&text, &directory.path().join("ithaca.yaml")).unwrap()
    }

    fn drop_of(reason: &str, count: u64) -> Status {
        let mut status = status();
        status.drops.insert(reason.to_owned(), count);
        status
    }

    #[test]
    fn a_peer_that_is_up_is_well() {
        let findings = judge(&config(), &status(), None, &[]);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
        assert!(!is_to_be_seen_twice(&status()));
        // What was dropped of other callers does not matter while the peer is up.
        let findings = judge(&config(), &drop_of("handshake_stranger", 3), None, &[]);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    }

    #[test]
    fn each_reason_why_a_peer_is_not_up_has_its_remedy_at_its_host() {
        for (reason, at, remedy) in [
            ("handshake_stranger", Some("syracuse"), "public_key: KEY-OF-ITHACA` for ithaca"),
            ("handshake_unknown_peer", None, "prints at syracuse"),
            ("handshake_not_authentic", None, "preshared"),
            ("handshake_incompatible", None, "tun.queues"),
            ("handshake_bad_hello", None, "same release"),
            ("handshake_replayed", Some("syracuse"), "clock"),
            ("handshake_inside_tunnel", Some("syracuse"), "node.listen"),
            ("other", None, "onwire doctor` at syracuse"),
        ] {
            let mut status = drop_of(reason, 2);
            status.peers[0].state = "connecting".to_owned();
            let findings = judge(&config(), &status, None, &[]);
            assert!(findings.len() == 1 && findings[0].level == Level::Fault, "{findings:?}");
            assert_eq!(findings[0].at.as_deref(), at, "{reason}");
            assert!(findings[0].remedies[0].contains(remedy), "{reason}: {findings:?}");
            status.uptime_s = 1.0;
            assert_eq!(judge(&config(), &status, None, &[])[0].level, Level::Unseen, "it is still called");
        }
    }

    #[test]
    fn a_silent_peer_is_a_fault_and_so_is_one_that_the_appliance_does_not_have() {
        let mut silent = status();
        silent.peers[0].state = "silent".to_owned();
        assert_eq!(judge(&config(), &silent, None, &[])[0].level, Level::Fault);
        let mut none = status();
        none.peers.clear();
        let found = judge(&config(), &none, None, &[]);
        assert!(found[0].level == Level::Fault && found[0].remedies[0].contains("reload"), "{found:?}");
    }

    #[test]
    fn prefixes_that_disagree_are_a_fault_while_packets_are_dropped() {
        let (before, later) = (drop_of("foreign_address", 5), drop_of("foreign_address", 9));
        assert!(is_to_be_seen_twice(&before));
        let level = |later: &Status| {
            let mut findings = judge(&config(), &before, Some(later), &[]);
            findings.retain(|finding| finding.check == "prefixes");
            assert!(findings.len() == 1 && findings[0].remedies[0].contains("local_prefixes"), "{findings:?}");
            findings[0].level
        };
        assert_eq!((level(&later), level(&before)), (Level::Fault, Level::Warning));
        let (few, many) = (drop_of("foreign_source", 30), drop_of("foreign_source", 40));
        let found = |later| judge(&config(), &few, Some(later), &[]).pop().unwrap().level;
        assert_eq!((found(&many), found(&few)), (Level::Warning, Level::Ok));
    }

    #[test]
    fn a_second_key_congestion_and_a_degraded_link_are_warnings() {
        let mut status = status();
        let peer = &mut status.peers[0];
        peer.key = Some("next_public_key".to_owned());
        peer.public_key = Some("NEXT".to_owned());
        peer.link = Some(crate::appliance::status::link::LinkStatus { congested: true, ..Default::default() });
        let findings = judge(&config(), &status, None, &[]);
        let warnings: Vec<_> = findings.iter().filter(|finding| finding.level == Level::Warning).collect();
        assert_eq!(warnings.len(), 2, "{findings:?}");
        assert!(warnings[0].remedies[0].contains("public_key: NEXT") && warnings[1].remedies[0].contains("rate"));
    }
}
