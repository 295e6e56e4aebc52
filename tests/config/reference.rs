//! The files in `config/` that people copy are valid, and the reference leaves no key out.

use std::fs;
use std::path::Path;
use std::time::Duration;

use onwire::config::{self, Config, Repair, key_file, schema};
use onwire::notify::message::Level;
use onwire::tunnel::keys::{PresharedKey, PrivateKey};
use rand::SeedableRng;
use rand::rngs::StdRng;

fn key(seed: u64) -> PrivateKey {
    PrivateKey::generate(&mut StdRng::seed_from_u64(seed))
}

fn source(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn load(text: &str, keys: &[(&str, &PrivateKey)]) -> Config {
    let directory = tempfile::tempdir().unwrap();
    for (name, key) in keys {
        key_file::write(&directory.path().join(name), &key.to_text()).unwrap();
    }
    let path = directory.path().join("onwire.yaml");
    fs::write(&path, text).unwrap();
    config::load(&path).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn the_reference_is_valid() {
    let key = key(1);
    let config = load(&source("reference.yaml"), &[("ithaca.key", &key), ("notify.key", &key)]);
    assert!(config.warnings.is_empty(), "{:?}", config.warnings);
    assert_eq!(config.node.private_key().to_text(), key.to_text());
    assert_eq!(config.peers[0].path.symbol_size(), 1408);
    let [notify_key] = &config.notify.as_ref().unwrap().keys[..] else { panic!("{:?}", config.notify) };
    assert_eq!((notify_key.id, notify_key.secret.to_text()), (1, key.to_text()));
}

#[test]
fn the_reference_shows_every_key() {
    let shown = keys_of(&source("reference.yaml"));
    for keys in schema::TABLES {
        let path = |key: &str| match keys.table {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        };
        for key in keys.in_force {
            assert!(shown.contains(&path(key)), "{} is not in the reference", path(key));
        }
    }
}

/// The dotted paths of all keys at the beginning of a line, found by their indentation.
fn keys_of(text: &str) -> Vec<String> {
    let mut shown = Vec::new();
    let mut tables: Vec<(usize, String)> = Vec::new();
    for line in text.lines() {
        let spaces = |text: &str| text.len() - text.trim_start().len();
        let bare = line.trim_start();
        let element = bare.strip_prefix("- ");
        let content = element.unwrap_or(bare);
        let Some((key, _)) = content.split_once(':').filter(|(key, _)| !key.contains([' ', '#'])) else {
            continue;
        };
        let indent = spaces(line) + if element.is_some() { 2 } else { 0 };
        let above = tables.iter().rev().find(|(outer, _)| *outer < indent);
        let path = match above.map(|(_, path)| path.as_str()) {
            None => key.to_owned(),
            Some("redundancy") => "redundancy.*".to_owned(),
            Some(list @ ("peers" | "policy" | "notify.keys" | "hooks")) => format!("{list}[].{key}"),
            Some(table) => format!("{table}.{key}"),
        };
        tables.retain(|(outer, _)| *outer < indent);
        tables.push((indent, path.clone()));
        shown.push(path);
    }
    shown
}

/// The smallest file, with every default, gives the same values as the reference.
#[test]
fn the_reference_states_the_defaults() {
    let key = key(1);
    let keys = [("ithaca.key", &key), ("notify.key", &key)];
    let reference = load(&source("reference.yaml"), &keys);
    let smallest = format!(
        "node: {{ name: ithaca, key_file: ithaca.key, local_prefixes: [10.1.0.0/24] }}\n\
         peers: [{{ name: syracuse, public_key: \"{}\", prefixes: [10.2.0.0/24] }}]\n",
        reference.peers[0].public_key()
    );
    let config = load(&smallest, &keys);
    assert_eq!(config.node.listen, reference.node.listen);
    assert_eq!(config.tun, reference.tun);
    assert_eq!(config.peers[0].path, reference.peers[0].path);
    assert_eq!(config.peers[0].redundancy, reference.peers[0].redundancy);
    assert!(config.peers[0].endpoint.is_none() && config.peers[0].preshared_key.is_none());
    assert_eq!(config.profiles, reference.profiles[..1]);
    // The hold of the reference covers its planned profile.
    let hold = Duration::from_millis(20);
    assert_eq!(config.delivery, config::Delivery { hold, ..reference.delivery });
    assert_eq!(config.bypass, reference.bypass);
    assert!(config.notify.is_none(), "no section, no notifications");
    let config = load(&format!("{smallest}notify: {{ keys: [{{ id: 7, file: notify.key }}] }}\n"), &keys);
    let (short, long) = (config.notify.unwrap(), reference.notify.unwrap());
    assert_eq!((short.listen, short.level, short.keys[0].id), (long.listen, long.level, 7));
    assert_eq!((short.trust_max, long.trust_max), (config::DEFAULT_TRUST_MAX, config::DEFAULT_TRUST_MAX));
    assert_eq!(config.status, reference.status);
    assert!(config.metrics.is_none(), "no section, no metrics port");
    let config = load(&format!("{smallest}metrics: {{}}\n"), &keys);
    assert_eq!(config.metrics, reference.metrics);
    assert_eq!(config.log, reference.log);
}

#[test]
fn the_pair_is_valid_once_its_keys_are_made() {
    let (ithaca, syracuse) = (key(1), key(2));
    let public = |key: &PrivateKey| key.public_key().to_string();
    let text = source("pair/ithaca.yaml").replace("PUBLIC-KEY-OF-SYRACUSE", &public(&syracuse));
    let here = load(&text, &[("ithaca.key", &ithaca)]);
    let text = source("pair/syracuse.yaml").replace("PUBLIC-KEY-OF-ITHACA", &public(&ithaca));
    let there = load(&text, &[("syracuse.key", &syracuse)]);
    assert_eq!(here.peers[0].prefixes, there.node.local_prefixes);
    assert_eq!(there.peers[0].prefixes, here.node.local_prefixes);
    assert_eq!(here.peers[0].public_key(), there.node.private_key().public_key());
    assert_eq!(there.peers[0].public_key(), here.node.private_key().public_key());
    assert!(here.warnings.is_empty() && there.warnings.is_empty());
}

#[test]
fn values_are_read_as_they_are_written() {
    let (key, peer) = (key(1), key(2).public_key());
    let text = format!(
        "node: {{ name: a, key_file: a.key, listen: \"[::]:9000\", local_prefixes: [10.1.0.1] }}\n\
         tun: {{ name: tun7, mtu: 9000, queues: 4, txqueuelen: 1000 }}\n\
         peers:\n\
         - name: b\n  public_key: {peer}\n  preshared_key_file: a.key\n  endpoint: \"[2001:db8::2]:9000\"\n\
         \x20 prefixes: [10.2.0.0/24]\n  path: {{ mtu: 9000, rate: 950mbit, udp_gso: off, ecn: off, dscp: af41, congestion: hide }}\n  redundancy: long\n\
         redundancy:\n  none: {{ repair: none }}\n\
         \x20 long: {{ block_symbols: 256, close_when_idle: 1ms, close_after: 20ms, repair: {{ fixed: 32, assume_loss: 2% }} }}\n\
         policy: [{{ to: 10.2.0.0/25, protocol: udp, port: 1-1024, dscp: ef, redundancy: none }}]\n\
         delivery: {{ ordering: none, last_hop: off }}\n\
         notify: {{ listen: \"[::1]:9100\", level: queued, trust_max: 1.5s, keys: [{{ id: 65535, file: a.key }}, {{ id: 2, file: a.key }}] }}\n\
         log: {{ level: debug, format: json }}\n"
    );
    let config = load(&text, &[("a.key", &key)]);
    assert_eq!(config.node.listen, "[::]:9000".parse().unwrap());
    assert_eq!((config.tun.mtu, config.tun.queues, config.tun.txqueuelen), (9000, 4, Some(1000)));
    let peer = &config.peers[0];
    assert_eq!(peer.preshared_key.as_ref().map(PresharedKey::to_text), Some(key.to_text()));
    assert_eq!(peer.path.rate.map(config::Rate::bits_per_second), Some(950_000_000));
    assert_eq!(peer.path.udp_gso, config::UdpGso::Off);
    assert_eq!((peer.path.ecn, peer.path.dscp), (config::OuterEcn::Off, config::OuterDscp::Fixed(34)));
    assert_eq!(peer.path.congestion, config::Congestion::Hide);
    let profile = config.profile(peer.redundancy).unwrap();
    assert_eq!((profile.name.as_str(), profile.block_symbols), ("long", 256));
    assert_eq!(profile.repair, Repair::Fixed { symbols: 32, assume_loss: 0.02 });
    assert_eq!(config.delivery.hold, Duration::from_millis(80), "four times close_after");
    assert!(!config.delivery.last_hop);
    let rule = config.policy[0];
    assert_eq!((rule.protocol, rule.dscp, rule.redundancy), (Some(17), Some(46), 0));
    assert!(rule.port.is_some_and(|port| port.contains(53) && !port.contains(5432)));
    assert_eq!(config.log.level, config::LogLevel::Debug);
    let notify = config.notify.unwrap();
    assert_eq!(notify.trust_max, Duration::from_millis(1500));
    assert_eq!((notify.listen, notify.level), ("[::1]:9100".parse().unwrap(), Level::Queued));
    assert_eq!(notify.keys.iter().map(|key| key.id).collect::<Vec<_>>(), [65535, 2]);
}
