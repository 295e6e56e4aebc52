//! The peers and their addresses: handshakes, names of endpoints, and the log lines about both.
//!
//! An address inside a network that is routed into the tunnel is no endpoint: datagrams to it would come back in
//! through the TUN, again and again. This is checked wherever an address is learned: here for handshakes and names, and
//! in [`Forwarder`](crate::tunnel::forwarder) where a peer roams.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use crate::appliance::host::names::{Answer, Names};
use crate::appliance::peer_log::{LogLine, PeerLog};
use crate::appliance::setup;
use crate::config::{Config, Host, Peer};
use crate::io::netlink::Netlink;
use crate::tunnel::PeerId;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::handshake::{Established, HandshakeDrop, HandshakeEvent, Handshakes};
use crate::tunnel::keys::PublicKey;
use crate::tunnel::prefixes::PrefixTable;

/// The state of a peer here.
struct Known {
    name: String,
    /// As configured; empty if it is not configured.
    endpoint: String,
    address: Option<Endpoint>,
    /// The address that its name has here, and all that it had.
    resolved: Option<(SocketAddr, Vec<SocketAddr>)>,
    /// Its keys, each with its name in the file.
    keys: Vec<(&'static str, PublicKey)>,
    /// The name of the key that it proved last.
    key_in_use: Option<&'static str>,
    path_mtu: u16,
    /// It was logged that its path is narrower than that.
    is_mtu_reported: bool,
}

impl Known {
    fn new((peer, address): (&Peer, &Option<SocketAddr>)) -> Self {
        Self {
            name: peer.name.clone(),
            endpoint: peer.endpoint.as_ref().map_or_else(String::new, ToString::to_string),
            address: address.map(Endpoint::from),
            resolved: None,
            keys: peer.public_keys().collect(),
            key_in_use: None,
            path_mtu: peer.path.mtu,
            is_mtu_reported: false,
        }
    }
}

/// The endpoints that are names.
fn names(config: &Config) -> impl Iterator<Item = (PeerId, String)> {
    (0..).zip(&config.peers).filter_map(|(number, peer)| {
        let endpoint = peer.endpoint.as_ref()?;
        matches!(endpoint.host, Host::Name(_)).then(|| (PeerId(number), endpoint.to_string()))
    })
}

/// The address to try of those that a name has, which are sorted here: the one after the address tried last, which did
/// not answer, or the first as the resolver has put them.
fn choose(usable: &mut Vec<SocketAddr>, tried: Option<&(SocketAddr, Vec<SocketAddr>)>) -> Option<SocketAddr> {
    let first = usable.first().copied()?;
    usable.sort_unstable();
    usable.dedup();
    let tried = tried.and_then(|(tried, _)| usable.iter().position(|address| address == tried));
    Some(tried.map_or(first, |at| usable[(at + 1) % usable.len()]))
}

/// The prefixes that are routed into the tunnel.
fn routed(config: &Config) -> PrefixTable<()> {
    config.peers.iter().flat_map(|peer| &peer.prefixes).map(|&prefix| (prefix, ())).collect()
}

/// All peers, as the control thread knows them.
pub struct Peering {
    handshakes: Handshakes,
    drops: [u64; HandshakeDrop::ALL.len()],
    names: Names,
    log: PeerLog,
    /// The prefixes that are routed into the tunnel.
    routed: PrefixTable<()>,
    listens_on_ipv6: bool,
    /// The address that the sockets are bound to, if they are bound to one.
    bound: Option<IpAddr>,
    peers: Vec<Known>,
    established: VecDeque<Established>,
    /// Peers that are up now, or no longer, for whoever asks.
    contacts: VecDeque<(PeerId, bool)>,
}

impl Peering {
    /// Requests a handshake with each peer, and resolves the names of endpoints. `wake` is called when a name has an
    /// answer.
    pub fn new(config: &Config, mut handshakes: Handshakes, wake: Arc<dyn Fn() + Send + Sync>, now: Instant) -> Self {
        let endpoints = setup::endpoints(config);
        for number in 0..config.peers.len() {
            handshakes.request(PeerId(number as u16), now);
        }
        Self {
            handshakes,
            drops: [0; HandshakeDrop::ALL.len()],
            names: Names::new(names(config), Arc::new(crate::appliance::host::names::ask_system), wake, now),
            log: PeerLog::new(endpoints.iter().copied(), now),
            routed: routed(config),
            listens_on_ipv6: config.node.listen.is_ipv6(),
            bound: setup::bound_address(config),
            peers: config.peers.iter().zip(&endpoints).map(Known::new).collect(),
            established: VecDeque::new(),
            contacts: VecDeque::new(),
        }
    }

    /// Follows another configuration with the same numbers. Sessions go on; a handshake begins with each peer that is new or has
    /// another address or preshared key.
    pub fn reload(&mut self, before: &Config, config: &Config, now: Instant) {
        let endpoints = setup::endpoints(config);
        self.routed = routed(config);
        for (number, (peer, &endpoint)) in config.peers.iter().zip(&endpoints).enumerate() {
            let id = PeerId(number as u16);
            let was_peer = before.peers.get(number).is_some_and(|before| !before.is_removed);
            match (was_peer, peer.is_removed) {
                (true, true) => self.log.on_removed(id),
                (false, false) => self.log.on_called(id, endpoint, now),
                _ => {}
            }
            let fresh = Known::new((peer, &endpoint));
            match self.peers.get_mut(number) {
                Some(known) if known.endpoint == fresh.endpoint => {
                    let (address, is_mtu_reported) = (known.address, known.is_mtu_reported);
                    *known = Known { address, is_mtu_reported, resolved: known.resolved.take(), ..fresh };
                }
                Some(known) => {
                    *known = fresh;
                    self.log.on_endpoint(id, endpoint, now);
                }
                None => self.peers.push(fresh),
            }
        }
        for (number, _) in (0..).zip(&config.peers).filter(|(_, peer)| peer.endpoint.is_none()) {
            self.handshakes.clear_endpoint(PeerId(number));
        }
        self.names.reload(names(config), now);
        self.handshakes.reload(setup::handshake_peers(config, &endpoints), now);
        self.handshakes.set_private_key(config.node.private_key(), now);
        self.name_keys(false);
    }

    /// Finds the names of the keys in use; logs one that is another than before, where a peer has two.
    fn name_keys(&mut self, is_news: bool) {
        for (number, known) in (0..).zip(&mut self.peers) {
            let Some(in_use) = self.handshakes.key_in_use(PeerId(number)) else { continue };
            let name = known.keys.iter().find(|(_, key)| *key == in_use).map(|(name, _)| *name);
            if std::mem::replace(&mut known.key_in_use, name) == name {
                continue;
            }
            if let (Some(name), true, true) = (name, is_news, known.keys.len() > 1) {
                self.log.on_key(PeerId(number), name, name != known.keys[0].0);
            }
        }
    }

    /// The name in the file of the key that the peer proved last, and the key, for status.
    pub fn key_in_use(&self, peer: PeerId) -> Option<(String, String)> {
        let known = self.peers.get(usize::from(peer.0))?;
        let (name, key) = known.keys.iter().find(|(name, _)| Some(*name) == known.key_in_use)?;
        Some(((*name).to_owned(), key.to_string()))
    }

    /// Calls the peers that `next` had removed and `config` has again: their sessions have ended meanwhile.
    pub fn call_again(&mut self, next: &Config, config: &Config, now: Instant) {
        for (number, (gone, back)) in (0..).zip(next.peers.iter().zip(&config.peers)) {
            if gone.is_removed && !back.is_removed {
                self.handshakes.request(PeerId(number), now);
            }
        }
    }

    /// Takes a handshake datagram.
    pub fn handle_datagram(&mut self, datagram: &[u8], from: Endpoint, now: Instant) {
        let address = from.remote.ip();
        let taken = match self.is_routed(address) {
            true => Err(HandshakeDrop::InsideTunnel),
            false => self.handshakes.handle_datagram(datagram, from, now),
        };
        if let Err(reason) = taken {
            self.drops[reason as usize] += 1;
            self.log.on_dropped(reason, address.to_canonical());
            tracing::debug!(%from, %reason, "handshake datagram dropped");
        }
    }

    /// Something came under the keys of this session for the first time.
    pub fn on_confirmed(&mut self, local_index: u32, now: Instant) {
        let Some(peer) = self.handshakes.on_confirmed(local_index, now) else { return };
        // A name that a reload has brought for a peer that was up all the time is right too.
        self.names.set_reachable(peer, true, now);
        if self.log.on_confirmed(peer, now) {
            self.contacts.push_back((peer, true));
            self.check_mtu(peer);
        }
    }

    /// A new session with this peer is wanted.
    pub fn on_wanted(&mut self, peer: PeerId, now: Instant) {
        if self.log.on_wanted(peer, now) {
            self.contacts.push_back((peer, false));
        }
        self.names.set_reachable(peer, false, now);
        self.handshakes.request(peer, now);
    }

    /// Does what is due, and writes the log lines.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handshakes.handle_timeout(now);
        self.names.handle_timeout(now);
        while let Some(answer) = self.names.poll_answer(now) {
            self.on_answer(answer, now);
        }
        self.log.handle_timeout(now);
        while let Some(event) = self.handshakes.poll_event() {
            match event {
                HandshakeEvent::Established(established) => {
                    self.log.on_answered(established.peer, established.endpoint.remote);
                    self.peers[usize::from(established.peer.0)].address = Some(established.endpoint);
                    tracing::debug!(
                        peer = self.name(established.peer),
                        endpoint = %established.endpoint,
                        cipher = %established.sealing.cipher(),
                        "handshake finished"
                    );
                    self.established.push_back(established);
                }
                HandshakeEvent::Incompatible { peer, what } => {
                    tracing::error!(peer = self.name(peer), "cannot work with this peer: {what}");
                }
                HandshakeEvent::Load(is_loaded) => self.log.on_load(is_loaded),
            }
        }
        self.name_keys(true);
        while let Some(line) = self.log.poll_line() {
            self.write_line(&line);
        }
    }

    /// How many peers are up.
    pub fn up(&self) -> usize {
        self.log.up()
    }

    /// A peer that is up now, or no longer.
    pub fn poll_contact(&mut self) -> Option<(PeerId, bool)> {
        self.contacts.pop_front()
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = [self.handshakes.poll_timeout(), self.names.poll_timeout(), self.log.poll_timeout()];
        due.into_iter().flatten().min()
    }

    /// A session for the lanes.
    pub fn poll_established(&mut self) -> Option<Established> {
        self.established.pop_front()
    }

    /// A handshake datagram for lane 0 to send, with its destination and source address.
    pub fn poll_transmit(&mut self) -> Option<(Endpoint, Vec<u8>)> {
        self.handshakes.poll_transmit()
    }

    /// Handshake datagrams dropped, by reason.
    pub fn drops(&self) -> impl Iterator<Item = (HandshakeDrop, u64)> {
        HandshakeDrop::ALL.into_iter().zip(self.drops).filter(|(_, count)| *count > 0)
    }

    fn on_answer(&mut self, Answer { peer, found, .. }: Answer, now: Instant) {
        let Some(known) = self.peers.get(usize::from(peer.0)) else { return };
        let fits = |address: &SocketAddr| self.listens_on_ipv6 || address.is_ipv4();
        let cause = match found {
            Err(cause) => format!("{cause}; check the name with `getent hosts`, or write its address"),
            Ok(addresses) => {
                let usable = |address: &&SocketAddr| fits(address) && !self.is_routed(address.ip());
                let mut usable: Vec<SocketAddr> = addresses.iter().filter(usable).copied().collect();
                match choose(&mut usable, known.resolved.as_ref()) {
                    Some(address) => return self.on_resolved(peer, address, usable, now),
                    None if addresses.iter().any(fits) => {
                        "its address is inside peers[].prefixes, and so would be reached through the tunnel itself"
                            .to_owned()
                    }
                    None => "it has no IPv4 address and node.listen is IPv4".to_owned(),
                }
            }
        };
        let cause = format!("cannot resolve the endpoint {}: {cause}", known.endpoint);
        self.log.on_unresolved(peer, cause);
    }

    fn on_resolved(&mut self, peer: PeerId, address: SocketAddr, all: Vec<SocketAddr>, now: Instant) {
        let known = &mut self.peers[usize::from(peer.0)];
        let before = known.resolved.replace((address, all));
        let is_other = before.as_ref().is_none_or(|(before, _)| *before != address);
        // One address after the other of the same name is no news.
        let is_new = before.is_none_or(|(_, before)| known.resolved.as_ref().is_some_and(|(_, all)| *all != before));
        self.log.on_resolved(peer, address, is_new);
        if is_other {
            known.address = Some(address.into());
            self.handshakes.set_endpoint(peer, address, now);
            self.handshakes.request(peer, now);
        }
    }

    /// Logs a device whose MTU is smaller than `path.mtu`: it drops every full datagram.
    fn check_mtu(&mut self, peer: PeerId) {
        let Known { name, address, path_mtu, is_mtu_reported, .. } = &mut self.peers[usize::from(peer.0)];
        let Some(Endpoint { remote, local }) = *address else { return };
        let (to, from) = (remote.ip().to_canonical(), local.or(self.bound));
        // A missing route shows in send errors.
        let Ok((device, mtu)) = Netlink::open().and_then(|mut netlink| netlink.mtu_toward(to, from)) else { return };
        let is_narrow = mtu < u32::from(*path_mtu);
        if is_narrow && !*is_mtu_reported {
            tracing::warn!(
                peer = name,
                "path.mtu is {path_mtu}, and {device}, by which the peer is reached, has {mtu}: full datagrams cannot leave; set \
                 path.mtu to {mtu} or less on both sides"
            );
        }
        *is_mtu_reported = is_narrow;
    }

    fn is_routed(&self, address: IpAddr) -> bool {
        self.routed.lookup(address.to_canonical()).is_some()
    }

    fn write_line(&self, line: &LogLine) {
        let words = &line.words;
        match (line.level, line.peer.map(|peer| self.name(peer))) {
            (tracing::Level::WARN, Some(peer)) => tracing::warn!(peer, "{words}"),
            (tracing::Level::WARN, None) => tracing::warn!("{words}"),
            (_, Some(peer)) => tracing::info!(peer, "{words}"),
            (_, None) => tracing::info!("{words}"),
        }
    }

    fn name(&self, peer: PeerId) -> &str {
        self.peers.get(usize::from(peer.0)).map_or("?", |known| &known.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_of_a_name_are_tried_one_after_the_other() {
        let address = |last: u8| SocketAddr::from(([192, 0, 2, last], 7117));
        let mut tried = None;
        let mut next = |answer: &[u8]| {
            let mut usable: Vec<_> = answer.iter().map(|last| address(*last)).collect();
            let chosen = choose(&mut usable, tried.as_ref())?;
            tried = Some((chosen, usable));
            Some(chosen)
        };
        // Resolvers turn the order.
        assert_eq!(next(&[2, 1, 3]), Some(address(2)));
        assert_eq!(next(&[1, 3, 2, 2]), Some(address(3)));
        assert_eq!(next(&[3, 2, 1]), Some(address(1)));
        assert_eq!(next(&[1]), Some(address(1)));
        assert_eq!(next(&[7]), Some(address(7)), "another address");
        assert_eq!(next(&[]), None);
    }
}
