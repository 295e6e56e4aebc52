//! One peer as the handshakes see it: its keys, its addresses, the attempt under way and when to renew.
//!
//! It decides when an initiation is due and where it goes; it neither writes nor reads messages.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::noise::PendingInitiation;
use crate::tunnel::endpoint::Endpoint;
use crate::tunnel::hello::Incompatibility;
use crate::tunnel::keys::{PresharedKey, PublicKey};
use crate::tunnel::mac::MacKey;

/// The wait for the first response; it doubles with each initiation.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
pub(super) const RETRY_LONGEST: Duration = Duration::from_secs(5);

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
    /// The index in the initiation last sent.
    pub local_index: u32,
    /// When it was requested.
    pub since: Instant,
    /// Initiations sent so far.
    pub sent: u32,
    /// Our own address in the last one; `None`: the kernel chose.
    pub local: Option<IpAddr>,
    /// When to send the next initiation.
    pub retry_at: Instant,
}

pub(super) struct Peer {
    pub public: PublicKey,
    pub preshared: PresharedKey,
    /// For datagrams to the peer.
    pub mac: MacKey,
    pub configured: Option<SocketAddr>,
    pub symbol_size: u16,
    /// The last proven address of the peer.
    pub proven: Option<Endpoint>,
    /// The newest timestamp from the peer.
    pub newest: Option<Timestamp>,
    pub attempt: Option<Attempt>,
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
            mac: MacKey::of(&peer.public),
            public: peer.public,
            preshared: peer.preshared,
            configured: peer.endpoint,
            symbol_size: peer.symbol_size,
            proven: None,
            newest: None,
            attempt: None,
            renew_at: None,
            is_removed: false,
            told: None,
        }
    }

    /// Follows other settings; the key is the same. True if the next handshake would be another.
    pub fn reload(&mut self, settings: HandshakePeer) -> bool {
        let was_removed = std::mem::take(&mut self.is_removed);
        let is_elsewhere = settings.endpoint.is_some() && settings.endpoint != self.configured;
        let is_other = was_removed || is_elsewhere || self.preshared.to_text() != settings.preshared.to_text();
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

    #[test]
    fn initiations_alternate_between_the_proven_and_the_configured_address() {
        let [configured, elsewhere] = [1, 2].map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        let public = PublicKey::from_bytes([1; 32]);
        let mut peer = Peer::new(HandshakePeer {
            public,
            preshared: PresharedKey::default(),
            endpoint: Some(configured),
            symbol_size: 1408,
        });
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
