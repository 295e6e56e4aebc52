//! One peer as the handshakes see it: its keys, its addresses, the attempt under way and when to renew.
//!
//! It decides when an initiation is due and where it goes; it neither writes nor reads messages.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::cookie::CookieSeal;
use super::noise::PendingInitiation;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::hello::Incompatibility;
use crate::tunnel::keys::{PresharedKey, PublicKey};
use crate::tunnel::mac::MacKey;
use crate::wire::handshake::MAC_LEN;

/// The wait for the first response; it doubles with each initiation.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// Where both ends begin at once, one gives way to the other for this long: a round trip and more.
pub(super) const GIVES_WAY: Duration = Duration::from_millis(500);

/// Seconds and nanoseconds, big-endian, so that a later time is greater byte by byte.
pub(super) type Timestamp = [u8; 12];

/// The moment `since_unix` in the form of TAI64N, whose seconds count from 2^62 at 1970. Leap seconds do not matter.
pub(super) fn timestamp(since_unix: Duration) -> Timestamp {
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&((1 << 62) + since_unix.as_secs()).to_be_bytes());
    bytes[8..].copy_from_slice(&since_unix.subsec_nanos().to_be_bytes());
    bytes
}

/// The configuration of a peer.
#[derive(Clone, Debug)]
pub struct HandshakePeer {
    /// Its public key.
    pub public: PublicKey,
    /// Another public key of the same peer, which changes its key: it is accepted under either.
    pub next: Option<PublicKey>,
    /// The preshared key; the default is none.
    pub preshared: PresharedKey,
    /// Its address for lane 0; `None`: the peer has to begin.
    pub endpoint: Option<SocketAddr>,
    /// The largest symbol we send it, in bytes: what the path to it carries.
    pub symbol_size: u16,
}

/// A handshake that we began and that is not finished. It is repeated without end.
pub(super) struct Attempt {
    /// `None` without randomness, or after a response that was authentic but of no use.
    pub call: Option<PendingInitiation>,
    /// The public key of the peer that the last initiation is for.
    pub key: PublicKey,
    /// The index in the initiation last sent.
    pub local_index: u32,
    /// When it was requested.
    pub since: Instant,
    /// Initiations sent so far.
    pub sent: u32,
    /// The addresses of the last one.
    pub to: Endpoint,
    /// The Noise message of the last one, to send it again with a cookie; `None`: that was done.
    pub noise: Option<Vec<u8>>,
    /// The mac1 of the last one, which binds a cookie to it.
    pub mac1: [u8; MAC_LEN],
    /// When to send the next initiation.
    pub retry_at: Instant,
}

/// One public key of a peer.
pub(super) struct PeerKey {
    pub public: PublicKey,
    /// For datagrams to the peer.
    pub mac: MacKey,
    /// For cookies from the peer.
    pub cookies: CookieSeal,
    /// The newest timestamp under this key.
    pub newest: Option<Timestamp>,
}

impl PeerKey {
    fn new(public: PublicKey) -> Self {
        Self { mac: MacKey::of(&public), cookies: CookieSeal::of(&public), public, newest: None }
    }
}

pub(super) struct Peer {
    /// One, or two while the peer changes its key. Any of them is the peer.
    keys: Vec<PeerKey>,
    /// The key that the peer last proved to have.
    pub in_use: Option<PublicKey>,
    pub preshared: PresharedKey,
    pub configured: Option<SocketAddr>,
    pub symbol_size: u16,
    /// The last proven address of the peer.
    pub proven: Option<Endpoint>,
    pub attempt: Option<Attempt>,
    /// Our attempt gave way to one of the peer, which has not led to a session yet.
    pub gave_way: bool,
    /// When to begin again without a request.
    pub renew_at: Option<Instant>,
    /// It is no peer any more.
    pub is_removed: bool,
    /// The last incompatibility reported, and the peer's epoch then.
    pub told: Option<(u64, Incompatibility)>,
}

impl Peer {
    pub fn new(peer: HandshakePeer) -> Self {
        Self {
            keys: [Some(peer.public), peer.next].into_iter().flatten().map(PeerKey::new).collect(),
            in_use: None,
            preshared: peer.preshared,
            configured: peer.endpoint,
            symbol_size: peer.symbol_size,
            proven: None,
            attempt: None,
            gave_way: false,
            renew_at: None,
            is_removed: false,
            told: None,
        }
    }

    /// Its public keys.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> {
        self.keys.iter().map(|key| key.public)
    }

    /// What is known of one of its keys.
    pub fn key(&self, public: &PublicKey) -> Option<&PeerKey> {
        self.keys.iter().find(|key| key.public == *public)
    }

    /// The same, to change it.
    pub fn key_mut(&mut self, public: &PublicKey) -> Option<&mut PeerKey> {
        self.keys.iter_mut().find(|key| key.public == *public)
    }

    /// The key for initiation number `sent`: the one in use twice, to both addresses, then the other one twice.
    pub fn called_key(&self, sent: u32) -> &PeerKey {
        let in_use = self.in_use.and_then(|public| self.keys.iter().position(|key| key.public == public));
        let turn = in_use.unwrap_or_default() + usize::from(sent / 2 % 2 == 1);
        &self.keys[turn % self.keys.len()]
    }

    /// Its keys are these from now on. True if one that a session or an attempt relies on is gone.
    fn set_keys(&mut self, keys: impl Iterator<Item = PublicKey>) -> bool {
        let mut known = std::mem::take(&mut self.keys);
        self.keys = keys
            .map(|public| match known.iter().position(|key| key.public == public) {
                Some(at) => known.swap_remove(at),
                None => PeerKey::new(public),
            })
            .collect();
        let is_gone = |public: &PublicKey| self.key(public).is_none();
        let loses_use = self.in_use.as_ref().is_some_and(is_gone);
        let loses_attempt = self.attempt.as_ref().is_some_and(|attempt| is_gone(&attempt.key));
        self.in_use = self.in_use.filter(|_| !loses_use);
        loses_use || loses_attempt
    }

    /// Follows other settings. True if the next handshake would be another.
    pub fn reload(&mut self, settings: HandshakePeer) -> bool {
        let loses_key = self.set_keys([Some(settings.public), settings.next].into_iter().flatten());
        let was_removed = std::mem::take(&mut self.is_removed);
        let is_elsewhere = settings.endpoint.is_some() && settings.endpoint != self.configured;
        let is_other =
            loses_key || was_removed || is_elsewhere || self.preshared.to_text() != settings.preshared.to_text();
        if is_elsewhere {
            self.proven = None;
        }
        // An address that a name has is found again.
        self.configured = settings.endpoint.or(self.configured);
        self.preshared = settings.preshared;
        is_other
    }

    /// It is no peer any more. What shows a replayed initiation stays known.
    pub fn forget(&mut self) {
        (self.attempt, self.renew_at, self.proven, self.is_removed) = (None, None, None, true);
        self.gave_way = false;
    }

    /// The addresses for initiation number `sent`: the proven one, and every second time the configured one, because
    /// the peer may be back there. Then the kernel chooses our own address too: the proven one may have no route any
    /// more.
    pub fn endpoint(&self, sent: u32) -> Option<Endpoint> {
        let configured = self.configured.map(Endpoint::from);
        match sent.is_multiple_of(2) {
            true => self.proven.or(configured),
            false => configured.or(self.proven.map(Endpoint::without_local)),
        }
    }

    /// Whether handshakes with it go to this address.
    pub fn is_at(&self, address: IpAddr) -> bool {
        let remote = |address: SocketAddr| address.ip().to_canonical();
        let known = [self.configured.map(remote), self.proven.map(|proven| remote(proven.remote))];
        !self.is_removed && known.contains(&Some(address.to_canonical()))
    }

    /// When the next initiation is due, if any.
    pub fn due(&self) -> Option<Instant> {
        self.attempt.as_ref().map(|attempt| attempt.retry_at).or(self.renew_at)
    }
}

/// How long to wait after initiation number `sent`. `jitter` adds up to a fifth, so that two nodes that began together
/// do not stay in step.
pub(super) fn retry_delay(sent: u32, jitter: u32) -> Duration {
    let delay = RETRY_FIRST.saturating_mul(1 << sent.min(16)).min(RETRY_LONGEST);
    delay + delay / 5 * (jitter % 1024) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let waits: Vec<u128> = (0..7).map(|sent| retry_delay(sent, 0).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert!((0..2000).all(|jitter| retry_delay(u32::MAX, jitter) < Duration::from_secs(6)));
    }

    #[test]
    fn later_timestamps_are_greater() {
        let moments = [0, 1, 999_999_999, 1_000_000_000, 1_700_000_000_000_000_000].map(Duration::from_nanos);
        assert!(moments.map(timestamp).is_sorted());
        assert_eq!(timestamp(Duration::new(2, 3)), *b"\x40\0\0\0\0\0\0\x02\0\0\0\x03");
    }

    fn settings(public: [u8; 32], next: Option<[u8; 32]>) -> HandshakePeer {
        let [public, next] = [Some(public), next].map(|key| key.map(PublicKey::from_bytes));
        let preshared = PresharedKey::default();
        HandshakePeer { public: public.unwrap(), next, preshared, endpoint: None, symbol_size: 1408 }
    }

    #[test]
    fn the_key_in_use_is_called_first_and_then_the_other() {
        let called = |peer: &Peer| [0, 1, 2, 3, 4].map(|sent| peer.called_key(sent).public.as_bytes()[0]);
        assert_eq!(called(&Peer::new(settings([1; 32], None))), [1; 5]);
        let mut peer = Peer::new(settings([1; 32], Some([2; 32])));
        assert_eq!(called(&peer), [1, 1, 2, 2, 1]);
        peer.in_use = Some(PublicKey::from_bytes([2; 32]));
        assert_eq!(called(&peer), [2, 2, 1, 1, 2]);
    }

    #[test]
    fn a_key_that_stays_keeps_its_newest_timestamp_and_stays_in_use() {
        let mut peer = Peer::new(settings([1; 32], None));
        let key = |byte| PublicKey::from_bytes([byte; 32]);
        peer.in_use = Some(key(1));
        peer.key_mut(&key(1)).unwrap().newest = Some([9; 12]);
        assert!(!peer.reload(settings([1; 32], Some([2; 32]))), "nothing that is in use has changed");
        peer.in_use = Some(key(2));
        assert!(!peer.reload(settings([2; 32], Some([1; 32]))));
        assert_eq!((peer.in_use, peer.key(&key(1)).unwrap().newest), (Some(key(2)), Some([9; 12])));
        assert!(!peer.reload(settings([2; 32], None)));
        assert!(peer.key(&key(1)).is_none());
        assert!(peer.reload(settings([1; 32], None)), "the key in use is gone");
        assert_eq!((peer.in_use, peer.key(&key(1)).unwrap().newest), (None, None));
    }

    #[test]
    fn initiations_alternate_between_the_proven_and_the_configured_address() {
        let [configured, elsewhere] = [1, 2].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let mut peer = Peer::new(HandshakePeer { endpoint: Some(configured), ..settings([1; 32], None) });
        let tried = |peer: &Peer| [0, 1, 2].map(|sent| peer.endpoint(sent).unwrap());
        assert_eq!(tried(&peer), [configured.into(); 3]);
        // The peer used this address of ours, and receives what is sent from it; but the address may be gone.
        let called = Endpoint { remote: elsewhere, local: Some("198.51.100.7".parse().unwrap()) };
        peer.proven = Some(called);
        assert_eq!(tried(&peer), [called, configured.into(), called]);
        peer.configured = None;
        assert_eq!(tried(&peer), [called, elsewhere.into(), called]);
    }
}
