//! What differs between two files, and the numbers that a reload keeps.

use std::fs;

use onwire::config::changes::{Takes, changes};
use onwire::config::{self, Config, Repair, key_file};
use onwire::tunnel::keys::PrivateKey;
use rand::SeedableRng;
use rand::rngs::StdRng;

fn key(seed: u64) -> PrivateKey {
    PrivateKey::generate(&mut StdRng::seed_from_u64(seed))
}

/// A peer of this number, with more keys.
fn peer(number: u64, more: &str) -> String {
    peer_with_key(number, number, more)
}

/// The same with the public key of another number.
fn peer_with_key(number: u64, of: u64, more: &str) -> String {
    let public = key(of).public_key();
    format!("  - {{ name: peer-{number}, public_key: \"{public}\", prefixes: [10.{number}.0.0/16]{more} }}\n")
}

/// A peer with a prefix of one address: there may be thousands.
fn narrow_peer(number: u64, more: &str) -> String {
    let (public, [.., a, b]) = (key(number).public_key(), number.to_be_bytes());
    format!("  - {{ name: peer-{number}, public_key: \"{public}\", prefixes: [10.2.{a}.{b}/32]{more} }}\n")
}

/// The public key to come, as more of a peer.
fn next(of: u64) -> String {
    format!(", next_public_key: \"{}\"", key(of).public_key())
}

/// A configuration of these peers and the rest of a file.
fn config(peers: &[String], rest: &str) -> Config {
    config_with_key(1, peers, rest)
}

/// The same with another own key.
fn config_with_key(own: u64, peers: &[String], rest: &str) -> Config {
    let directory = tempfile::tempdir().unwrap();
    key_file::write(&directory.path().join("own.key"), &key(own).to_text()).unwrap();
    let text = format!(
        "node: {{ name: own, key_file: own.key, local_prefixes: [10.1.0.0/16] }}\npeers:\n{}{rest}",
        peers.concat()
    );
    let path = directory.path().join("onwire.yaml");
    fs::write(&path, text).unwrap();
    config::load(&path).unwrap_or_else(|errors| panic!("{errors}"))
}

/// The keys that differ; those that need a restart with a `!`.
fn keys(old: &Config, new: &Config) -> Vec<String> {
    let shown = |change: &onwire::config::changes::Change| {
        let mark = if change.takes == Takes::Restart { "!" } else { "" };
        format!("{change}{mark}")
    };
    changes(old, new).iter().map(shown).collect()
}

#[test]
fn every_difference_is_named_with_what_it_takes() {
    let base = || config(&[peer(2, ""), peer(3, "")], "");
    assert_eq!(keys(&base(), &base()), Vec::<String>::new());
    for (peers, rest, expected) in [
        (vec![peer(2, "")], "", "peers[peer-3] removed"),
        (vec![peer(3, ""), peer(4, ""), peer(2, "")], "", "peers[peer-4] added"),
        (vec![peer(2, ", path: { rate: 10mbit }"), peer(3, "")], "", "peers[peer-2].path.rate changed"),
        (vec![peer(2, ", path: { mtu: 1400 }"), peer(3, "")], "", "peers[peer-2].path.mtu changed!"),
        (vec![peer(2, ", endpoint: \"192.0.2.9:7117\""), peer(3, "")], "", "peers[peer-2].endpoint changed"),
        (vec![peer(2, ""), peer(3, ""), peer(4, ", path: { udp_gso: off }")], "", "peers[peer-4] added!"),
        (vec![peer(2, ""), peer(3, "")], "tun: { queues: 2 }\n", "tun.queues changed!"),
        (vec![peer(2, ""), peer(3, "")], "hooks: [{ run: [/bin/true] }]\n", "hooks changed!"),
        (vec![peer(2, ""), peer(3, "")], "log: { level: debug }\n", "log.level changed"),
        (vec![peer(2, ""), peer(3, "")], "metrics: {}\n", "metrics added"),
        (vec![peer(2, ""), peer(3, "")], "redundancy: { steady: { repair: none } }\n", "redundancy.steady changed"),
        (vec![peer(2, ""), peer(3, "")], "policy: [{ protocol: udp, redundancy: steady }]\n", "policy changed"),
    ] {
        assert_eq!(keys(&base(), &config(&peers, rest)), [expected]);
    }
}

#[test]
fn a_metrics_port_moves_with_a_reload_unless_the_kernel_has_no_room_beside_the_old_one() {
    let at = |address: &str| config(&[peer(2, "")], &format!("metrics: {{ listen: \"{address}\" }}\n"));
    let default = config(&[peer(2, "")], "metrics: {}\n");
    assert_eq!(keys(&at("127.0.0.1:9718"), &default), Vec::<String>::new());
    assert_eq!(keys(&default, &config(&[peer(2, "")], "")), ["metrics removed"]);
    for (address, mark) in
        [("127.0.0.1:9999", ""), ("127.0.0.2:9718", ""), ("[::1]:9718", ""), ("0.0.0.0:9718", "!"), ("[::]:9718", "!")]
    {
        assert_eq!(keys(&default, &at(address)), [format!("metrics.listen changed{mark}")], "{address}");
    }
    let warned: Vec<String> = at("192.0.2.1:9718").warnings.iter().map(ToString::to_string).collect();
    assert!(
        warned.len() == 1 && warned[0].contains("metrics.listen: found 192.0.2.1:9718, which other hosts may reach")
    );
    assert!(at("[::1]:9718").warnings.is_empty());
}

#[test]
fn a_peer_that_keeps_one_of_its_keys_is_the_same_and_keeps_its_number() {
    let before = config(&[peer(2, ""), peer(3, "")], "");
    let both = config(&[peer(3, ""), peer(2, &next(12))], "");
    let after = config(&[peer(3, ""), peer_with_key(2, 12, "")], "");
    assert_eq!(keys(&before, &both), ["peers[peer-2].next_public_key added"]);
    assert_eq!(keys(&both, &after), ["peers[peer-2].public_key changed", "peers[peer-2].next_public_key removed"]);
    let other = config(&[peer(2, &next(13)), peer(3, "")], "");
    assert_eq!(keys(&both, &other), ["peers[peer-2].next_public_key changed"]);
    assert_eq!(keys(&before, &after), ["peers[peer-2] removed", "peers[peer-2] added"]);
    let [both, after] = [both.renumbered_after(&before).unwrap(), after.renumbered_after(&before).unwrap()];
    let shown = |config: &Config| -> Vec<(String, bool)> {
        config.peers.iter().map(|peer| (peer.name.clone(), peer.is_removed)).collect()
    };
    let named = |number: u64, is_removed: bool| (format!("peer-{number}"), is_removed);
    assert_eq!(shown(&both), [named(2, false), named(3, false)]);
    assert_eq!(shown(&after), [named(2, true), named(3, false), named(2, false)], "another peer of that name");
    // Its earlier key does not lead to the number that was left behind.
    let again = config(&[peer_with_key(2, 12, &next(2)), peer(3, "")], "").renumbered_after(&after).unwrap();
    assert_eq!(shown(&again), shown(&after));
    let after = config(&[peer(3, ""), peer_with_key(2, 12, "")], "").renumbered_after(&both).unwrap();
    assert_eq!(shown(&after), [named(2, false), named(3, false)]);
}

#[test]
fn another_own_key_takes_a_reload() {
    let of = |own| config_with_key(own, &[peer(2, "")], "");
    assert_eq!(keys(&of(1), &of(7)), ["node.key_file changed"]);
    assert_eq!(keys(&of(7), &of(7)), Vec::<String>::new());
}

#[test]
fn the_order_of_peers_and_profiles_is_no_difference() {
    let of =
        |profiles: &str| format!("redundancy: {{ {profiles} }}\npolicy: [{{ protocol: udp, redundancy: fast }}]\n");
    let one = config(&[peer(2, ", redundancy: fast"), peer(3, "")], &of("steady: {}, fast: { repair: none }"));
    let other = config(&[peer(3, ""), peer(2, ", redundancy: fast")], &of("fast: { repair: none }, steady: {}"));
    assert_eq!(keys(&one, &other), Vec::<String>::new());
    let after = other.renumbered_after(&one).unwrap();
    let names = |config: &Config| -> Vec<String> { config.peers.iter().map(|peer| peer.name.clone()).collect() };
    assert_eq!(names(&after), names(&one));
    assert_eq!((after.peers[0].redundancy, after.policy[0].redundancy), (1, 1));
    assert_eq!(after.profiles, one.profiles);
}

#[test]
fn more_peers_than_one_appliance_has_are_refused() {
    let read = |count: u64| {
        let peers: Vec<_> = (2..2 + count).map(|number| narrow_peer(number, "")).collect();
        let directory = tempfile::tempdir().unwrap();
        key_file::write(&directory.path().join("own.key"), &key(1).to_text()).unwrap();
        let node = "node: { name: own, key_file: own.key, local_prefixes: [10.1.0.0/16] }";
        let path = directory.path().join("onwire.yaml");
        fs::write(&path, format!("{node}\npeers:\n{}", peers.concat())).unwrap();
        config::load(&path).map(|config| config.peers.len()).map_err(|errors| errors.to_string())
    };
    assert_eq!(read(256), Ok(256));
    let refused = read(257).unwrap_err();
    assert!(refused.contains("peers: found 257 peers; allowed: at most 256"), "{refused}");
}

#[test]
fn numbers_stay_taken_and_come_back() {
    let profiles = |names: &str| format!("redundancy: {{ steady: {{}}{names} }}\n");
    let first = config(&[peer(2, ""), peer(3, "")], &profiles(", a: {}"));
    let second = config(&[peer(4, ", redundancy: b"), peer(3, "")], &profiles(", b: {}"));
    let second = second.renumbered_after(&first).unwrap();
    let shown = |config: &Config| -> Vec<(String, bool, usize)> {
        config.peers.iter().map(|peer| (peer.name.clone(), peer.is_removed, peer.prefixes.len())).collect()
    };
    let named = |name: &str, is_removed: bool| (name.to_owned(), is_removed, usize::from(!is_removed));
    assert_eq!(shown(&second), [named("peer-2", true), named("peer-3", false), named("peer-4", false)]);
    assert_eq!(second.profile(second.peers[2].redundancy).unwrap().name, "b");
    assert!(matches!(second.profiles[1].repair, Repair::None), "what is gone has no target");
    let third = config(&[peer(2, ", redundancy: a")], &profiles(", a: {}")).renumbered_after(&second).unwrap();
    assert_eq!(shown(&third), [named("peer-2", false), named("peer-3", true), named("peer-4", true)]);
    assert_eq!(third.profile(third.peers[0].redundancy).unwrap().name, "a");
    assert_eq!(third.profiles.len(), 3);
    let fourth = config(&[peer(3, ", path: { mtu: 1300 }"), peer(2, "")], "").renumbered_after(&third).unwrap();
    let numbers = fourth.peers.iter().filter(|peer| !peer.is_removed).map(|peer| peer.name.clone());
    assert_eq!(numbers.collect::<Vec<_>>(), ["peer-2", "peer-3"]);
    assert_eq!((fourth.peers.len(), fourth.peers[3].path.mtu), (4, 1300), "its symbols have another size");
}

#[test]
fn more_peers_or_profiles_than_there_are_numbers_for_are_refused() {
    let peers = |from: u64| -> Vec<String> { (from..from + 250).map(|number| narrow_peer(number, "")).collect() };
    let mut before = config(&peers(2), "");
    let mut reloads = 0;
    let refused = loop {
        match config(&peers(252 + 250 * reloads), "").renumbered_after(&before) {
            Ok(after) => before = after,
            Err(text) => break text,
        }
        reloads += 1;
    };
    assert_eq!((before.peers.len(), reloads), (1000, 3));
    assert!(refused.contains("1024 different peers") && refused.contains("restart"), "{refused}");
    let profiles = |from: usize| {
        let names: String = (from..from + 200).map(|number| format!(", p{number}: {{}}")).collect();
        config(&[peer(2, "")], &format!("redundancy: {{ steady: {{}}{names} }}\n"))
    };
    let refused = profiles(200).renumbered_after(&profiles(0)).unwrap_err();
    assert!(refused.contains("256 different profiles") && refused.contains("restart"), "{refused}");
}
