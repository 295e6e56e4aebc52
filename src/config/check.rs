//! Checks across keys: values that are right alone and wrong together. Reads no files and resolves no names.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::peer::NO_PREFIX;
use super::table::Reading;
use super::units::show_duration;
use super::{Config, Endpoint, Offload, Targets};
use crate::plan;
use crate::tunnel::keys::PublicKey;

/// Notes what is wrong between the values of `config`; some values may be stand-ins for wrong ones.
pub(super) fn check(config: &Config, reading: &mut Reading<'_>) {
    check_names(config, reading);
    check_keys(config, reading);
    check_prefixes(config, reading);
    check_endpoints(config, reading);
    check_lanes(config, reading);
    check_notify(config, reading);
    check_times(config, reading);
    if reading.is_clean() {
        check_plans(config, reading);
        warn_of_useless_rules(config, reading);
    }
}

/// More peers are for more appliances.
const PEERS_MAX: usize = 256;

fn check_names(config: &Config, reading: &mut Reading<'_>) {
    if config.peers.len() > PEERS_MAX {
        let found = format!("found {} peers", config.peers.len());
        reading.error("peers", &found, &format!("at most {PEERS_MAX}"), "divide them among appliances");
    }
    for (at, peer) in config.peers.iter().enumerate() {
        let key = format!("peers[{at}].name");
        if peer.name.is_empty() {
            continue;
        }
        let found = format!("found \"{}\"", peer.name);
        if peer.name == config.node.name {
            let hint = format!("that is this node's own name ({})", reading.line("node.name"));
            reading.error(&key, &found, "a name of its own for each appliance", &hint);
        }
        if let Some(first) = config.peers[..at].iter().position(|other| other.name == peer.name) {
            let hint = format!("peers[{first}] has it ({})", reading.line(&format!("peers[{first}].name")));
            reading.error(&key, &found, "a name of its own for each peer", &hint);
        }
    }
}

/// Two keys are the same only by mistake, also those of one peer: each must say by itself who has it.
fn check_keys(config: &Config, reading: &mut Reading<'_>) {
    let own = config.node.public_key();
    let mut seen: Vec<(String, PublicKey)> = Vec::new();
    for (at, peer) in config.peers.iter().enumerate() {
        for (name, public) in peer.public_keys() {
            let key = format!("peers[{at}].{name}");
            if Some(public) == own {
                let hint = "write the key that `onwire pubkey` prints on the peer, not here";
                reading.error(&key, "found this node's own public key", "the public key of the peer", hint);
            }
            match seen.iter().find(|(_, other)| *other == public) {
                Some((first, _)) if first.starts_with(&format!("peers[{at}].")) => {
                    let hint = "write the new key here and the present one in public_key, or take this line away";
                    reading.error(&key, "found the same key as in public_key", "another key of the same peer", hint);
                }
                Some((first, _)) => {
                    let owner = first.split('.').next().unwrap_or_default();
                    let found = format!("found the public key of {owner}");
                    let hint = "each appliance has its own key: run `onwire keygen` on each";
                    reading.error(&key, &found, "a key of its own for each peer", hint);
                }
                None => seen.push((key, public)),
            }
        }
    }
}

/// A prefix of the file, its owner (`None`: this node), and its key.
struct Declared {
    prefix: IpNetwork,
    owner: Option<usize>,
    key: String,
}

fn declared(config: &Config) -> Vec<Declared> {
    let local = config.node.local_prefixes.iter().enumerate();
    let local = local.map(|(at, prefix)| (*prefix, None, format!("node.local_prefixes[{at}]")));
    let peers = config.peers.iter().enumerate().flat_map(|(owner, peer)| {
        let prefixes = peer.prefixes.iter().enumerate();
        prefixes.map(move |(at, prefix)| (*prefix, Some(owner), format!("peers[{owner}].prefixes[{at}]")))
    });
    let all = local.chain(peers).filter(|(prefix, ..)| *prefix != NO_PREFIX);
    all.map(|(prefix, owner, key)| Declared { prefix, owner, key }).collect()
}

fn check_prefixes(config: &Config, reading: &mut Reading<'_>) {
    let declared = declared(config);
    for (at, later) in declared.iter().enumerate() {
        // One note per prefix: a thousand equal ones are not a million problems.
        let earlier = || declared[..at].iter().filter(|it| overlaps(it.prefix, later.prefix));
        let found = |earlier: &Declared, line: String| {
            format!("found {}, which overlaps {} at {} ({line})", later.prefix, earlier.prefix, earlier.key)
        };
        if let Some(other) = earlier().find(|earlier| earlier.owner != later.owner) {
            let hint = "an address must belong to one side only, or packets would go to the wrong one";
            let found = found(other, reading.line(&other.key));
            reading.error(&later.key, &found, "a prefix that overlaps no other side's", hint);
        } else if let Some(own) = earlier().next() {
            let found = found(own, reading.line(&own.key));
            reading.warning(&later.key, &found, "one of the two is enough");
        }
    }
    let six = declared.iter().find(|declared| declared.prefix.is_ipv6());
    if let Some(six) = six
        && config.tun.mtu < 1280
    {
        let found = format!("found {}, too small for the IPv6 prefix {} at {}", config.tun.mtu, six.prefix, six.key);
        let hint =
            "RFC 8200 wants 1280 at least; large packets are cut into symbols, so the path's MTU does not matter";
        reading.error("tun.mtu", &found, "1280 to 9216 with IPv6 prefixes", hint);
    }
}

fn overlaps(a: IpNetwork, b: IpNetwork) -> bool {
    a.contains(b.network()) || b.contains(a.network())
}

fn check_endpoints(config: &Config, reading: &mut Reading<'_>) {
    let declared = declared(config);
    let listen = config.node.listen;
    for (at, peer) in config.peers.iter().enumerate() {
        let key = format!("peers[{at}].endpoint");
        let Some(endpoint) = &peer.endpoint else {
            continue;
        };
        check_last_port(&key, endpoint.port, config.tun.queues, reading);
        let same = |other: &super::Peer| {
            other.endpoint.as_ref().is_some_and(|other| {
                other.host == endpoint.host && other.port.abs_diff(endpoint.port) < config.tun.queues
            })
        };
        if let Some(first) = config.peers[..at].iter().position(same) {
            let found = format!("found {endpoint}, which has a port of peers[{first}]'s endpoint");
            reading.error(&key, &found, "an endpoint of its own for each peer", "");
        }
        let Some(address) = endpoint.address() else {
            continue;
        };
        check_family(&key, endpoint, address.ip(), listen.ip(), reading);
        if address == listen {
            let found = format!("found {endpoint}, where this node listens itself");
            reading.error(&key, &found, "the address of the peer", "");
        }
        let routed = declared.iter().filter(|declared| declared.owner.is_some());
        let mut inside = routed.filter(|declared| declared.prefix.contains(address.ip()));
        if let Some(inside) = inside.next() {
            let found =
                format!("found {endpoint}, which is inside the routed prefix {} at {}", inside.prefix, inside.key);
            let hint = "the tunnel's own datagrams would be routed into the tunnel: use an address outside, or a \
                        narrower prefix";
            reading.error(&key, &found, "an address outside all prefixes of peers", hint);
        }
    }
}

fn check_family(key: &str, endpoint: &Endpoint, to: IpAddr, from: IpAddr, reading: &mut Reading<'_>) {
    // A socket on [::] reaches both.
    let reaches = to.is_ipv4() == from.is_ipv4() || (from.is_ipv6() && from.is_unspecified());
    if !reaches {
        let version = if from.is_ipv4() { 4 } else { 6 };
        let found = format!("found {endpoint}, but node.listen is the IPv{version} address {from}");
        let hint = "listen on [::] to reach both versions";
        reading.error(key, &found, &format!("an IPv{version} endpoint"), hint);
    }
}

fn check_lanes(config: &Config, reading: &mut Reading<'_>) {
    let queues = config.tun.queues;
    if config.tun.offload == Offload::Off && queues > 1 {
        let found = format!("found {queues} with offload: off");
        let hint = "the simple back-end has one queue: write queues: 1, or offload: auto";
        reading.error("tun.queues", &found, "1 with offload: off", hint);
    }
    check_last_port("node.listen", config.node.listen.port(), queues, reading);
}

fn check_last_port(key: &str, first: u16, queues: u16, reading: &mut Reading<'_>) {
    let most = u16::MAX - (queues - 1);
    if first > most {
        let found = format!("found the port {first} for {queues} lanes");
        let hint = format!("lane i uses the port plus i, up to {}", u32::from(first) + u32::from(queues) - 1);
        reading.error(key, &found, &format!("a port up to {most} with queues: {queues}"), &hint);
    }
}

fn check_notify(config: &Config, reading: &mut Reading<'_>) {
    let Some(notify) = &config.notify else { return };
    let (tunnel, address) = (config.node.listen, notify.listen);
    let same_host = tunnel.ip() == address.ip() || tunnel.ip().is_unspecified() || address.ip().is_unspecified();
    let lane = address.port().checked_sub(tunnel.port()).filter(|lane| *lane < config.tun.queues);
    if let Some(lane) = lane
        && same_host
    {
        let last = tunnel.port().saturating_add(config.tun.queues - 1);
        let found = format!("found {address}, where lane {lane} of the tunnel listens");
        let allowed = format!("a port other than those of node.listen and its lanes, {} to {last}", tunnel.port());
        reading.error("notify.listen", &found, &allowed, "choose another port here, or in node.listen");
    }
}

fn check_times(config: &Config, reading: &mut Reading<'_>) {
    let hold = config.delivery.hold;
    let found = |than: &str| format!("found {}, shorter than {than}", show_duration(hold));
    let slowest = config.profiles.iter().max_by_key(|profile| profile.close_after);
    let latest = config.profiles.iter().max_by_key(|profile| profile.survive_burst());
    let (Some(slowest), Some(latest)) = (slowest, latest) else { return };
    let least = slowest.close_after + latest.survive_burst();
    let allowed = format!("{} to 10s", show_duration(least));
    if hold < slowest.close_after {
        let than = format!("redundancy.{}.close_after: {}", slowest.name, show_duration(slowest.close_after));
        let hint = "a lost symbol's repair comes when its block closes: whoever waits less never sees it";
        reading.error("delivery.hold", &found(&than), &allowed, hint);
    } else if hold < least {
        let (close, burst) = (show_duration(slowest.close_after), show_duration(latest.survive_burst()));
        let than = format!(
            "redundancy.{}.close_after and redundancy.{}.repair.survive_burst together: {close} and {burst}",
            slowest.name, latest.name
        );
        let hint =
            "late repair comes survive_burst after its block closes: wait longer here, or shorten one of the two";
        reading.error("delivery.hold", &found(&than), &allowed, hint);
    }
}

/// The targets that a planned profile cannot reach at the rate of the path, each once.
fn check_plans(config: &Config, reading: &mut Reading<'_>) {
    let mut judged = Vec::new();
    for peer in &config.peers {
        let Some(rate) = peer.path.rate else { continue };
        for (number, profile) in config.profiles.iter().enumerate() {
            let is_used = usize::from(peer.redundancy) == number
                || config.policy.iter().any(|rule| usize::from(rule.redundancy) == number);
            let Some(targets) = profile.targets().filter(|_| is_used) else { continue };
            let case = (number, rate, peer.path.symbol_size());
            if judged.contains(&case) || peer.path.symbol_size() == 0 {
                continue;
            }
            judged.push(case);
            // The path carries repair too.
            let source = rate.bytes_per_second() as f64 / (1.0 + targets.max_overhead);
            let link = targets.assumed_link(source / f64::from(peer.path.symbol_size()));
            let plan = plan::choose(&targets.into(), &profile.limits(peer.path.symbol_size()), &link);
            for unreached in &plan.unreached {
                let key = format!("redundancy.{}.repair.{}", profile.name, unreached.target.key());
                let found = format!(
                    "found {}, which cannot be reached at the path.rate of {rate} to {}: {}",
                    shown(&targets, unreached.target),
                    peer.name,
                    unreached.cause
                );
                let remedies: Vec<_> = unreached.remedies.iter().map(ToString::to_string).collect();
                let hint = match &remedies[..] {
                    [] => "lower the targets".to_owned(),
                    some => format!("what would reach it: {}", some.join(", or ")),
                };
                reading.error(&key, &found, "", &hint);
            }
        }
    }
}

/// A target as it is written.
fn shown(targets: &Targets, target: plan::Target) -> String {
    match target {
        plan::Target::Residual => targets.residual.map_or("null".to_owned(), |chance| format!("{chance:e}")),
        plan::Target::SurviveBurst => show_duration(targets.survive_burst),
        plan::Target::MaxOverhead => format!("{}%", (targets.max_overhead * 100.0).round()),
    }
}

fn warn_of_useless_rules(config: &Config, reading: &mut Reading<'_>) {
    for (at, rule) in config.policy.iter().enumerate() {
        let key = format!("policy[{at}]");
        if let Some(first) = config.policy[..at].iter().position(|earlier| earlier.covers(rule)) {
            let line = reading.line(&format!("policy[{first}]"));
            let found = format!("never reached: policy[{first}] ({line}) matches all that this one does");
            reading.warning(&key, &found, "the first match wins: move the narrower rule up");
        }
        let routed = || config.peers.iter().flat_map(|peer| &peer.prefixes);
        if let Some(to) = rule.to
            && !routed().any(|prefix| overlaps(*prefix, to))
        {
            let found = format!("never matches: no peer has addresses in {to}");
            reading.warning(&format!("{key}.to"), &found, "`to` is the destination, on the peers' side");
        }
        if let Some(from) = rule.from
            && !config.node.local_prefixes.iter().any(|prefix| overlaps(*prefix, from))
        {
            let found = format!("never matches: no local prefix has addresses in {from}");
            reading.warning(&format!("{key}.from"), &found, "`from` is the source, on this side");
        }
    }
}
