//! What differs between two configurations, and what of it an appliance takes over while it runs.
//!
//! What the kernel or a peer was told at the start stays as it is: sockets, the device, the name, the size of symbols.

use std::fmt;

use super::node::overlap;
use super::{Config, Metrics, Notify, NotifyKey, Peer, PolicyRule, Profile};

/// When a change takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Takes {
    /// With a reload.
    Reload,
    /// With a restart.
    Restart,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, such as `peers[syracuse].path.rate`: peers and profiles by their names.
    pub key: String,
    /// What became of it.
    pub what: What,
    /// When it takes effect.
    pub takes: Takes,
}

/// What became of a value or an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It has another value.
    Changed,
}

impl What {
    /// `added`, `removed` or `changed`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.key, self.what.word())
    }
}

/// Everything that differs, in the order of the file.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let mut found = Found::default();
    found.node(old, new);
    found.tun(old, new);
    found.peers(old, new);
    found.profiles(old, new);
    found.compare("policy", rules(old).eq(rules(new)), Takes::Reload);
    let (delivery, then) = (&old.delivery, &new.delivery);
    found.compare("delivery.ordering", delivery.ordering == then.ordering, Takes::Restart);
    found.compare("delivery.hold", delivery.hold == then.hold, Takes::Reload);
    found.compare("delivery.hold_max", delivery.hold_max == then.hold_max, Takes::Reload);
    found.compare("delivery.last_hop", delivery.last_hop == then.last_hop, Takes::Restart);
    let (bypass, then) = (&old.bypass, &new.bypass);
    found.compare("bypass.when_down", bypass.when_down == then.when_down, Takes::Restart);
    found.compare("bypass.return_after", bypass.return_after == then.return_after, Takes::Reload);
    found.compare("bypass.stuck_after", bypass.stuck_after == then.stuck_after, Takes::Reload);
    found.notify(old.notify.as_ref(), new.notify.as_ref());
    // Their processes are started before the appliance gives up what that takes.
    found.compare("hooks", old.hooks == new.hooks, Takes::Restart);
    found.compare("status.socket", old.status.socket == new.status.socket, Takes::Restart);
    found.metrics(old.metrics, new.metrics);
    found.compare("log.level", old.log.level == new.log.level, Takes::Reload);
    found.compare("log.format", old.log.format == new.log.format, Takes::Restart);
    found.0
}

/// The same peer: one of its keys is in both. A peer with another key is another peer, whatever its name is.
pub fn is_same_peer(old: &Peer, new: &Peer) -> bool {
    let has = |key| new.public_keys().any(|(_, other)| other == key);
    old.name == new.name && old.public_keys().any(|(_, key)| has(key))
}

/// The rules with the names of their profiles: numbers differ between files.
fn rules(config: &Config) -> impl Iterator<Item = (PolicyRule, &str)> {
    let name = |rule: &PolicyRule| config.profile(rule.redundancy).map_or("", |profile| &profile.name);
    config.policy.iter().map(move |rule| (PolicyRule { redundancy: 0, ..*rule }, name(rule)))
}

/// The differences found so far.
#[derive(Default)]
pub(super) struct Found(pub(super) Vec<Change>);

impl Found {
    pub(super) fn add(&mut self, key: impl Into<String>, what: What, takes: Takes) {
        self.0.push(Change { key: key.into(), what, takes });
    }

    pub(super) fn compare(&mut self, key: impl Into<String>, is_same: bool, takes: Takes) {
        if !is_same {
            self.add(key, What::Changed, takes);
        }
    }

    fn node(&mut self, old: &Config, new: &Config) {
        let (old, new) = (&old.node, &new.node);
        let same_key = old.private_key().public_key() == new.private_key().public_key();
        self.compare("node.name", old.name == new.name, Takes::Restart);
        self.compare("node.key_file", same_key, Takes::Reload);
        self.compare("node.listen", old.listen == new.listen, Takes::Restart);
        self.compare("node.local_prefixes", old.local_prefixes == new.local_prefixes, Takes::Reload);
    }

    fn tun(&mut self, old: &Config, new: &Config) {
        let (old, new) = (&old.tun, &new.tun);
        self.compare("tun.name", old.name == new.name, Takes::Restart);
        self.compare("tun.mtu", old.mtu == new.mtu, Takes::Restart);
        self.compare("tun.offload", old.offload == new.offload, Takes::Restart);
        self.compare("tun.queues", old.queues == new.queues, Takes::Restart);
        self.compare("tun.txqueuelen", old.txqueuelen == new.txqueuelen, Takes::Restart);
    }

    fn peers(&mut self, old: &Config, new: &Config) {
        for before in &old.peers {
            let key = |key: &str| format!("peers[{}].{key}", before.name);
            let Some(after) = new.peers.iter().find(|after| is_same_peer(before, after)) else {
                self.add(format!("peers[{}]", before.name), What::Removed, Takes::Reload);
                continue;
            };
            self.compare(key("public_key"), before.public_key == after.public_key, Takes::Reload);
            match (before.next_public_key, after.next_public_key) {
                (None, Some(_)) => self.add(key("next_public_key"), What::Added, Takes::Reload),
                (Some(_), None) => self.add(key("next_public_key"), What::Removed, Takes::Reload),
                (old, new) => self.compare(key("next_public_key"), old == new, Takes::Reload),
            }
            let psk = |peer: &Peer| peer.preshared_key.as_ref().map(|key| key.to_text());
            self.compare(key("preshared_key_file"), psk(before) == psk(after), Takes::Reload);
            self.compare(key("endpoint"), before.endpoint == after.endpoint, Takes::Reload);
            self.compare(key("prefixes"), before.prefixes == after.prefixes, Takes::Reload);
            let (path, then) = (&before.path, &after.path);
            self.compare(key("path.mtu"), path.mtu == then.mtu, Takes::Restart);
            self.compare(key("path.rate"), path.rate == then.rate, Takes::Reload);
            self.compare(key("path.queue"), path.queue == then.queue, Takes::Reload);
            self.compare(key("path.udp_gso"), path.udp_gso == then.udp_gso, Takes::Restart);
            self.compare(key("path.ecn"), path.ecn == then.ecn, Takes::Restart);
            self.compare(key("path.dscp"), path.dscp == then.dscp, Takes::Restart);
            self.compare(key("path.congestion"), path.congestion == then.congestion, Takes::Reload);
            let profile = |config: &Config, peer: &Peer| config.profile(peer.redundancy).map(|it| it.name.clone());
            self.compare(key("redundancy"), profile(old, before) == profile(new, after), Takes::Reload);
        }
        for added in new.peers.iter().filter(|new| !old.peers.iter().any(|old| is_same_peer(old, new))) {
            // One socket serves all peers, and its options are those of the start.
            let fits =
                old.peers.iter().any(|old| (old.path.udp_gso, old.path.ecn) == (added.path.udp_gso, added.path.ecn));
            let takes = if fits { Takes::Reload } else { Takes::Restart };
            self.add(format!("peers[{}]", added.name), What::Added, takes);
        }
    }

    fn profiles(&mut self, old: &Config, new: &Config) {
        let find = |profiles: &[Profile], name: &str| profiles.iter().find(|it| it.name == name).cloned();
        for before in &old.profiles {
            let key = format!("redundancy.{}", before.name);
            match find(&new.profiles, &before.name) {
                Some(after) => self.compare(key, *before == after, Takes::Reload),
                None => self.add(key, What::Removed, Takes::Reload),
            }
        }
        for added in new.profiles.iter().filter(|new| find(&old.profiles, &new.name).is_none()) {
            self.add(format!("redundancy.{}", added.name), What::Added, Takes::Reload);
        }
    }

    pub(super) fn metrics(&mut self, old: Option<Metrics>, new: Option<Metrics>) {
        match (old, new) {
            (None, Some(_)) => self.add("metrics", What::Added, Takes::Reload),
            (Some(_), None) => self.add("metrics", What::Removed, Takes::Reload),
            (Some(old), Some(new)) => {
                // The new socket is opened before the old one is closed.
                let takes = if overlap(old.listen, new.listen) { Takes::Restart } else { Takes::Reload };
                self.compare("metrics.listen", old == new, takes);
            }
            (None, None) => {}
        }
    }

    fn notify(&mut self, old: Option<&Notify>, new: Option<&Notify>) {
        let (old, new) = match (old, new) {
            (None, None) => return,
            (None, Some(_)) => return self.add("notify", What::Added, Takes::Restart),
            (Some(_), None) => return self.add("notify", What::Removed, Takes::Restart),
            (Some(old), Some(new)) => (old, new),
        };
        let same_key = |old: &NotifyKey, new: &NotifyKey| old.id == new.id && old.secret == new.secret;
        let same_keys =
            old.keys.len() == new.keys.len() && old.keys.iter().zip(&new.keys).all(|(old, new)| same_key(old, new));
        self.compare("notify.listen", old.listen == new.listen, Takes::Restart);
        self.compare("notify.level", old.level == new.level, Takes::Restart);
        self.compare("notify.trust_max", old.trust_max == new.trust_max, Takes::Restart);
        self.compare("notify.keys", same_keys, Takes::Reload);
    }
}
