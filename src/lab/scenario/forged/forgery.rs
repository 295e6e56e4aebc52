//! The forged datagrams: what anyone can make who knows the public keys, and has seen what the two sent each other.
//!
//! Makes bytes and chooses addresses; sends nothing. The same seed and the same recorded datagrams give the same
//! forgeries.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    time::{Duration, Instant},
};

use crate::{
    lab::error::LabError,
    tunnel::{
        PeerId,
        handshake::{HandshakePeer, Handshakes, Identity},
        hello::{Hello, PROTOCOL_VERSION},
        keys::{PresharedKey, PrivateKey, PublicKey},
        mac::MacKey,
        seal::CipherSet,
    },
    wire::{
        datagram::{DatagramType, HEADER_LEN, Header},
        handshake::{Initiation, MAC_LEN},
    },
};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng, rngs::StdRng};

/// The longest datagram.
pub const LONGEST: usize = 1472;
/// Well-formed initiations for each target, each with a key pair of its own.
const INITIATIONS: usize = 64;
/// Source ports of strangers: replies to the first range are answers to something else than an initiation.
pub const OTHER_PORTS: std::ops::Range<u16> = 40_000..50_000;
pub const INITIATION_PORTS: std::ops::Range<u16> = 50_000..60_000;

/// One of the two appliances, as an attacker knows it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Where it listens.
    pub address: SocketAddrV4,
    /// The text of its public key.
    pub public_key: String,
}

/// What was seen on the way to each of the two.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// Source symbols, repair symbols, reports and responses.
    pub datagrams: [Vec<Vec<u8>>; 2],
    /// Initiations.
    pub initiations: [Vec<Vec<u8>>; 2],
}

/// A forged datagram: the bytes are in the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forged {
    /// 0 or 1.
    pub target: usize,
    /// The source address that it carries.
    pub source: SocketAddrV4,
    /// It has a right mac1, so that it may be answered with a cookie.
    pub is_initiation: bool,
}

/// Makes forgeries.
#[derive(Debug)]
pub struct Forger {
    targets: [Target; 2],
    mac: [MacKey; 2],
    initiations: [Vec<Vec<u8>>; 2],
    recorded: Recorded,
    rng: SmallRng,
}

impl Forger {
    /// For these two appliances.
    pub fn new(targets: [Target; 2], recorded: Recorded, seed: u64) -> Result<Self, LabError> {
        let mut random = StdRng::seed_from_u64(seed);
        let of = |target: &Target, random: &mut StdRng| {
            (0..INITIATIONS).map(|_| initiation_to(target, random)).collect::<Result<Vec<_>, _>>()
        };
        let initiations = [of(&targets[0], &mut random)?, of(&targets[1], &mut random)?];
        let mac = [MacKey::of(&public_key(&targets[0])?), MacKey::of(&public_key(&targets[1])?)];
        Ok(Self { targets, mac, initiations, recorded, rng: SmallRng::seed_from_u64(seed) })
    }

    /// Uses what was recorded later, for datagrams of the session in use.
    pub fn learn(&mut self, recorded: Recorded) {
        let initiations = std::mem::take(&mut self.recorded.initiations);
        self.recorded = recorded;
        for (kept, new) in self.recorded.initiations.iter_mut().zip(initiations) {
            kept.extend(new);
            kept.truncate(INITIATIONS);
        }
    }

    /// Writes an initiation with a right mac1 into `out`.
    pub fn initiation(&mut self, out: &mut Vec<u8>) -> Forged {
        let target = self.rng.random_range(0..2);
        out.clear();
        let replayed = &self.recorded.initiations[target];
        match self.rng.random_range(0..8) {
            // One of the true peer, of an earlier session.
            0 if !replayed.is_empty() => out.extend(&replayed[self.rng.random_range(0..replayed.len())]),
            // Its Noise message is nonsense.
            1 => {
                out.extend(self.any_initiation(target));
                let end = out.len() - MAC_LEN;
                self.rng.fill_bytes(&mut out[4..end]);
                self.sign(target, out);
            }
            // It carries a cookie that nobody gave.
            2 => {
                let initiation = self.any_initiation(target).to_vec();
                if let Some(parsed) = Initiation::parse(&initiation) {
                    out.extend(parsed.emit_with_cookie());
                    out.extend([0; MAC_LEN]);
                    self.sign(target, out);
                    let mut mac2 = [0; MAC_LEN];
                    self.rng.fill_bytes(&mut mac2);
                    out.extend(mac2);
                }
            }
            // Everything is right, only nobody knows the key of its sender.
            _ => out.extend(self.any_initiation(target)),
        }
        let is_of_peer = self.rng.random_bool(0.1);
        let source = self.source(target, is_of_peer, INITIATION_PORTS);
        Forged { target, source, is_initiation: true }
    }

    /// Writes any other datagram into `out`: nothing of it may have an effect, or an answer.
    pub fn other(&mut self, out: &mut Vec<u8>) -> Forged {
        let target = self.rng.random_range(0..2);
        out.clear();
        let kind = self.rng.random_range(0..12);
        let genuine = match self.recorded.datagrams[target].len() {
            0 => None,
            count => Some(self.rng.random_range(0..count)),
        };
        let mut is_of_peer = self.rng.random();
        match (kind, genuine) {
            (0, _) | (_, None) => self.nonsense(out),
            (1, Some(_)) => {
                // What the target itself sent comes back to it.
                let sent = &self.recorded.datagrams[1 - target];
                match sent.len() {
                    0 => self.nonsense(out),
                    count => out.extend(&sent[self.rng.random_range(0..count)]),
                }
            }
            (kind, Some(at)) => {
                out.extend(&self.recorded.datagrams[target][at]);
                match kind {
                    2 => is_of_peer = true,
                    3 => out.truncate(self.rng.random_range(0..out.len())),
                    4 => self.extend(out),
                    5 => out[0] = self.rng.random_range(0..9),
                    6 => self.rewrite(out, |header, rng| {
                        header.counter = header.counter.wrapping_add(rng.random_range(1..1 << 40))
                    }),
                    7 => self.rewrite(out, |header, rng| header.counter ^= rng.random_range(1..16) << 56),
                    8 => self.rewrite(out, |header, rng| header.receiver_index = rng.random_range(0..1 << 24)),
                    9 => {
                        let end = out.len();
                        self.rng.fill_bytes(&mut out[HEADER_LEN.min(end)..]);
                    }
                    10 => {
                        let other = &self.recorded.datagrams[target];
                        let other = &other[self.rng.random_range(0..other.len())];
                        let cut = self.rng.random_range(0..=out.len().min(other.len()));
                        out.truncate(cut);
                        out.extend(&other[cut..]);
                    }
                    _ => {
                        for _ in 0..self.rng.random_range(1..4) {
                            let at = self.rng.random_range(0..out.len());
                            out[at] ^= 1 << self.rng.random_range(0..8);
                        }
                    }
                }
            }
        }
        out.truncate(LONGEST);
        Forged { target, source: self.source(target, is_of_peer, OTHER_PORTS), is_initiation: false }
    }

    /// Random bytes of each type, also of those that do not exist, of any length.
    fn nonsense(&mut self, out: &mut Vec<u8>) {
        let length = if self.rng.random() { self.rng.random_range(0..200) } else { self.rng.random_range(0..LONGEST) };
        out.resize(length, 0);
        self.rng.fill_bytes(out);
        if let Some(first) = out.first_mut() {
            *first = self.rng.random_range(0..9);
        }
    }

    fn extend(&mut self, out: &mut Vec<u8>) {
        let length = out.len();
        out.resize(length + self.rng.random_range(1..64), 0);
        self.rng.fill_bytes(&mut out[length..]);
    }

    /// Changes the header of a sealed datagram.
    fn rewrite(&mut self, out: &mut [u8], change: impl FnOnce(&mut Header, &mut SmallRng)) {
        if let Some(mut header) = Header::parse(out) {
            change(&mut header, &mut self.rng);
            out[..HEADER_LEN].copy_from_slice(&header.emit());
        }
    }

    fn any_initiation(&mut self, target: usize) -> &[u8] {
        let at = self.rng.random_range(0..INITIATIONS);
        &self.initiations[target][at]
    }

    /// Makes mac1, the last bytes, right.
    fn sign(&self, target: usize, out: &mut [u8]) {
        let (covered, mac1) = out.split_at_mut(out.len() - MAC_LEN);
        mac1.copy_from_slice(&self.mac[target].sign(covered));
    }

    fn source(&mut self, target: usize, is_of_peer: bool, ports: std::ops::Range<u16>) -> SocketAddrV4 {
        if is_of_peer {
            return self.targets[1 - target].address;
        }
        // Public addresses that no node of the lab has.
        let address = Ipv4Addr::from_bits(0x0b00_0000 + self.rng.random_range(0..0x6000_0000));
        SocketAddrV4::new(address, self.rng.random_range(ports))
    }
}

/// The first message of a handshake by a node with a key pair that nobody knows.
fn initiation_to(target: &Target, random: &mut StdRng) -> Result<Vec<u8>, LabError> {
    let public = public_key(target)?;
    let now = Instant::now();
    let ciphers = CipherSet::preferred();
    let hello = Hello { version: PROTOCOL_VERSION, lanes: 1, ciphers, symbol_size: 1408, epoch: random.random() };
    let identity = Identity { private: PrivateKey::generate(random), hello };
    let endpoint = Some(SocketAddr::V4(target.address));
    let peer = HandshakePeer { public, next: None, preshared: PresharedKey::default(), endpoint, symbol_size: 1408 };
    let unix_time = Duration::from_secs(1_700_000_000);
    let mut node = Handshakes::new(identity, vec![peer], Box::new(StdRng::from_rng(random)), unix_time, now);
    node.request(PeerId(0), now);
    let none = || LabError::Sentence("no initiation could be made: the system gave no random numbers".to_owned());
    let (_, initiation) = node.poll_transmit().ok_or_else(none)?;
    debug_assert_eq!(DatagramType::of(&initiation), Some(DatagramType::Initiation));
    Ok(initiation)
}

fn public_key(target: &Target) -> Result<PublicKey, LabError> {
    PublicKey::parse(&target.public_key)
        .map_err(|error| LabError::Sentence(format!("the public key {}: {error}", target.public_key)))
}

/// The address of an appliance, of IPv4.
pub fn address_of(address: SocketAddr) -> Result<SocketAddrV4, LabError> {
    match (address.ip(), address.port()) {
        (IpAddr::V4(ip), port) => Ok(SocketAddrV4::new(ip, port)),
        _ => Err(LabError::Sentence(format!("{address}: the attacker writes headers of IPv4 only"))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::handshake::{split_mac, split_mac2};

    fn node(seed: u64, address: [u8; 4]) -> (PrivateKey, Target) {
        let private = PrivateKey::generate(&mut StdRng::seed_from_u64(seed));
        let target =
            Target { address: SocketAddrV4::new(address.into(), 7117), public_key: private.public_key().to_string() };
        (private, target)
    }

    fn forger() -> Forger {
        let targets = [node(1, [192, 0, 2, 1]).1, node(2, [198, 51, 100, 2]).1];
        let genuine = |first: u8| (0..20).map(|at| [&[4 + at % 3, first, 0, at][..], &[at; 90]].concat()).collect();
        let recorded = Recorded { datagrams: [genuine(1), genuine(2)], initiations: Default::default() };
        Forger::new(targets, recorded, 7).unwrap()
    }

    /// The node under attack finds a right mac1 in each of them: it would compute them or answer them.
    #[test]
    fn initiations_reach_the_computation_and_none_is_accepted() {
        let mut forger = forger();
        let (private, _) = node(1, [192, 0, 2, 1]);
        let now = Instant::now();
        let hello =
            Hello { version: PROTOCOL_VERSION, lanes: 1, ciphers: CipherSet::preferred(), symbol_size: 1408, epoch: 1 };
        let random = Box::new(StdRng::seed_from_u64(3));
        let mut node = Handshakes::new(Identity { private, hello }, vec![], random, Duration::from_secs(1), now);
        let (mut out, mut reasons, mut types) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for step in 0..400 {
            let forged = forger.initiation(&mut out);
            assert!(forged.is_initiation);
            types.insert(out[0]);
            let (covered, mac1) = split_mac(split_mac2(&out).unwrap().0).unwrap();
            assert!(forger.mac[forged.target].verify(covered, mac1));
            if forged.target == 0 {
                let at = now + Duration::from_millis(100 * step);
                reasons.insert(format!(
                    "{:?}",
                    node.handle_datagram(&out, SocketAddr::V4(forged.source), at).unwrap_err()
                ));
            }
        }
        assert_eq!(types, [1, 7].into());
        assert_eq!(reasons, ["NotAuthentic", "UnknownPeer"].map(str::to_owned).into());
    }

    #[test]
    fn every_kind_is_made_and_strangers_are_told_apart_by_their_ports() {
        let mut forger = forger();
        let (mut out, mut types, mut lengths, mut replays, mut spoofed) =
            (Vec::new(), BTreeSet::new(), BTreeSet::new(), 0, 0);
        for _ in 0..20_000 {
            let forged = forger.other(&mut out);
            assert!(!forged.is_initiation && out.len() <= LONGEST);
            types.extend(out.first());
            lengths.insert(out.len());
            replays += u32::from(forger.recorded.datagrams[forged.target].contains(&out));
            match forged.source.port() {
                7117 => {
                    assert_eq!(forged.source, forger.targets[1 - forged.target].address);
                    spoofed += 1;
                }
                port => assert!(OTHER_PORTS.contains(&port)),
            }
        }
        assert!(types.is_superset(&(0..9).collect()), "{types:?}");
        assert!(lengths.contains(&0) && lengths.len() > 500 && replays > 1000 && (9000..12_000).contains(&spoofed));
    }
}
