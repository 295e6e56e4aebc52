//! What differs between two files of gates, and what of it a gate process takes over while it runs.
//!
//! A gate is known by its name. What connections are made with changes for later ones. Certificates are compared by the names of
//! their files: what is in them is the business of [`crate::gate`].

use super::changes::{Change, Found, Takes, What};
use super::gate::{Gate, Gates};
use super::node::overlap;

/// Everything that differs, in the order of the file.
pub fn gate_changes(old: &Gates, new: &Gates) -> Vec<Change> {
    let mut found = Found::default();
    let (before, after) = (&old.notify, &new.notify);
    found.compare("notify.address", before.address == after.address, Takes::Reload);
    found.compare("notify.key_file", before.secret == after.secret, Takes::Reload);
    found.compare("notify.key_id", before.key_id == after.key_id, Takes::Reload);
    for before in &old.gates {
        match new.gates.iter().find(|after| after.name == before.name) {
            Some(after) => compare(&mut found, &old.gates, before, after),
            None => found.add(format!("gates[{}]", before.name), What::Removed, Takes::Reload),
        }
    }
    for added in new.gates.iter().filter(|new| !old.gates.iter().any(|old| old.name == new.name)) {
        let takes = [listening(&old.gates, added), uncapping(&old.gates, added)].into_iter().max();
        found.add(format!("gates[{}]", added.name), What::Added, takes.unwrap_or(Takes::Reload));
    }
    found.compare("status.socket", old.status == new.status, Takes::Restart);
    found.metrics(old.metrics, new.metrics);
    found.compare("log.level", old.log.level == new.log.level, Takes::Reload);
    found.compare("log.format", old.log.format == new.log.format, Takes::Restart);
    found.0
}

fn compare(found: &mut Found, all: &[Gate], before: &Gate, after: &Gate) {
    let key = |key: &str| format!("gates[{}].{key}", before.name);
    found.compare(key("kind"), before.kind == after.kind, Takes::Reload);
    found.compare(key("listen"), before.listen == after.listen, listening(all, after));
    found.compare(key("upstream"), before.upstream == after.upstream, Takes::Reload);
    found.compare(key("policy"), before.policy == after.policy, Takes::Reload);
    found.compare(key("level"), before.level == after.level, Takes::Reload);
    found.compare(key("protect.survive_burst"), before.survive_burst == after.survive_burst, Takes::Reload);
    // Also of a gate that takes over the address of another.
    let (caps, takes) = ((before.max_unprotected, after.max_unprotected), uncapping(all, after));
    found.compare(key("max_unprotected"), caps.0 == caps.1 && takes == Takes::Reload, takes);
    found.compare(key("connections"), before.connections == after.connections, Takes::Reload);
    found.compare(key("start_timeout"), before.start_timeout == after.start_timeout, Takes::Reload);
    found.compare(key("tls"), before.tls == after.tls, Takes::Reload);
    found.compare(key("upstream_tls"), before.upstream_tls == after.upstream_tls, Takes::Reload);
}

/// What it takes that a gate listens on its address. New sockets are opened before old ones are closed, and the kernel gives no
/// port of one address to a socket while another listens on that port of all addresses.
fn listening(before: &[Gate], gate: &Gate) -> Takes {
    let is_open = before.iter().any(|old| old.listen == gate.listen);
    match !is_open && before.iter().any(|old| overlap(old.listen, gate.listen)) {
        true => Takes::Restart,
        false => Takes::Reload,
    }
}

/// What it takes that a gate has its cap. A socket that listens for a gate with a cap has small buffers, which cannot grow again.
fn uncapping(before: &[Gate], gate: &Gate) -> Takes {
    let had_cap = before.iter().any(|old| old.listen == gate.listen && old.max_unprotected.is_some());
    match had_cap && gate.max_unprotected.is_none() {
        true => Takes::Restart,
        false => Takes::Reload,
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    use super::*;
    use crate::config::{gate_file, key_file};

    /// Gates from the lines of a file, and from what may follow.
    fn parse(gates: &[&str], rest: &str) -> Gates {
        let directory = tempfile::tempdir().unwrap();
        for (name, byte) in [("one.key", 5), ("other.key", 6)] {
            key_file::write(&directory.path().join(name), &STANDARD.encode([byte; 32])).unwrap();
        }
        let lines: String = gates.iter().map(|gate| format!("  - {{ {gate} }}\n")).collect();
        let notify = match rest.contains("notify:") {
            true => "",
            false => "notify: { address: 127.0.0.1:7118, key_file: one.key }\n",
        };
        let text = format!("{notify}gates:\n{lines}{rest}");
        let place = directory.path().join("gate.yaml");
        // Every directory has another name.
        let gates = gate_file::parse(&text, &place).unwrap_or_else(|errors| panic!("{errors}"));
        Gates { status: Some(gates.status.unwrap().file_name().unwrap().into()), ..gates }
    }

    const PG: &str = "name: pg, kind: postgres, listen: 127.0.0.1:6432, upstream: 127.0.0.1:5432";
    const CAPPED: &str =
        "name: app, kind: tcp, listen: 127.0.0.1:9000, upstream: 127.0.0.1:9001, max_unprotected: 1MiB";

    /// What differs; what needs a restart with a `!`.
    fn shown(old: &Gates, new: &Gates) -> Vec<String> {
        let mark = |change: &Change| if change.takes == Takes::Restart { "!" } else { "" };
        gate_changes(old, new).iter().map(|change| format!("{change}{}", mark(change))).collect()
    }

    #[test]
    fn every_difference_is_named_with_what_it_takes() {
        let base = || parse(&[PG, CAPPED], "");
        assert_eq!(shown(&base(), &base()), Vec::<String>::new());
        assert_eq!(shown(&base(), &parse(&[CAPPED, PG], "")), Vec::<String>::new(), "the order means nothing");
        let pg = |from: &str, to: &str| PG.replace(from, to);
        for (gate, expected) in [
            (pg("postgres", "redis"), "kind"),
            (pg("6432", "6433"), "listen"),
            (pg("5432", "5433"), "upstream"),
            (format!("{PG}, policy: strict"), "policy"),
            (format!("{PG}, level: queued"), "level"),
            (format!("{PG}, protect: {{ survive_burst: 2ms }}"), "protect.survive_burst"),
            (format!("{PG}, connections: 7"), "connections"),
            (format!("{PG}, start_timeout: 7s"), "start_timeout"),
            (format!("{PG}, tls: {{ certificate: a.pem, key: a.key }}"), "tls"),
            (format!("{PG}, upstream_tls: {{ authority: a.pem, name: a }}"), "upstream_tls"),
        ] {
            let new = parse(&[&gate, CAPPED], "");
            assert_eq!(shown(&base(), &new), [format!("gates[pg].{expected} changed")]);
            let is_of_connections = !["listen", "connections", "tls", "upstream_tls"].contains(&expected);
            assert_eq!(base().gates[0].serves_like(&new.gates[0]), !is_of_connections, "{expected}");
        }
        for (gates, rest, expected) in [
            (&[PG][..], "", "gates[app] removed"),
            (&[CAPPED, PG, "kind: redis, listen: 127.0.0.1:1, upstream: 127.0.0.1:2"], "", "gates[redis] added"),
            (&[PG, CAPPED], "metrics: {}\n", "metrics added"),
            (&[PG, CAPPED], "log: { level: debug }\n", "log.level changed"),
            (&[PG, CAPPED], "log: { format: json }\n", "log.format changed!"),
            (&[PG, CAPPED], "notify: { address: 127.0.0.1:7119, key_file: one.key }\n", "notify.address changed"),
            (&[PG, CAPPED], "notify: { address: 127.0.0.1:7118, key_file: other.key }\n", "notify.key_file changed"),
            (
                &[PG, CAPPED],
                "notify: { address: 127.0.0.1:7118, key_file: one.key, key_id: 2 }\n",
                "notify.key_id changed",
            ),
        ] {
            // The default path of the status socket is the same in both.
            assert_eq!(shown(&base(), &parse(gates, rest)), [expected]);
        }
        assert_eq!(shown(&base(), &parse(&[PG, CAPPED], "status: { socket: x.sock }\n")), ["status.socket changed!"]);
    }

    #[test]
    fn what_the_sockets_that_listen_cannot_follow_needs_a_restart() {
        let base = || parse(&[PG, CAPPED], "");
        let uncapped = CAPPED.replace(", max_unprotected: 1MiB", "");
        assert_eq!(shown(&base(), &parse(&[PG, &uncapped], "")), ["gates[app].max_unprotected changed!"]);
        let other = CAPPED.replace("1MiB", "2MiB");
        assert_eq!(shown(&base(), &parse(&[PG, &other], "")), ["gates[app].max_unprotected changed"]);
        let elsewhere = uncapped.replace("9000", "9005");
        let changed = shown(&base(), &parse(&[PG, &elsewhere], ""));
        assert_eq!(changed, ["gates[app].listen changed", "gates[app].max_unprotected changed"]);
        let taken_over = "name: pg, kind: postgres, listen: 127.0.0.1:9000, upstream: 127.0.0.1:5432";
        let changed = shown(&base(), &parse(&[taken_over], ""));
        assert_eq!(changed, ["gates[pg].listen changed", "gates[pg].max_unprotected changed!", "gates[app] removed"]);
        for (address, mark) in [
            ("0.0.0.0:9000", "!"),
            ("\"[::]:9000\"", "!"),
            ("0.0.0.0:9001", ""),
            ("127.0.0.2:9000", ""),
            ("\"[::1]:9000\"", ""),
        ] {
            let moved = CAPPED.replace("127.0.0.1:9000", address);
            assert_eq!(shown(&base(), &parse(&[PG, &moved], "")), [format!("gates[app].listen changed{mark}")]);
            let added = format!("name: new, kind: redis, listen: {address}, upstream: 127.0.0.1:2");
            assert_eq!(shown(&base(), &parse(&[PG, CAPPED, &added], "")), [format!("gates[new] added{mark}")]);
        }
    }
}
