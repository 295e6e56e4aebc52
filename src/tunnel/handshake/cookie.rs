//! Cookies: the proof that a sender receives at the address it sends from, as in WireGuard (whitepaper, section 5.4.7).
//!
//! A cookie is a mac over the sender's address and port with a secret that only this node knows, and so costs no memory.
//! It travels sealed with XChaCha20-Poly1305, bound to the mac1 of the initiation that it answers: a node that has not
//! seen that initiation can neither read nor forge it. mac2 is a mac over the initiation with the cookie as its key.
//!
//! When a cookie is demanded is in [`super::admission`].

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{KeyInit, Tag, XChaCha20Poly1305, XNonce};
use rand::RngCore;
use ring::{digest, hmac};
use zeroize::Zeroizing;

use crate::tunnel::keys::PublicKey;
use crate::tunnel::mac::{equals, short_mac};
use crate::wire::handshake::{COOKIE_NONCE_LEN, MAC_LEN, SEALED_COOKIE_LEN};

/// A secret makes cookies for this long. Then all of them are void, and their owners get new ones.
const SECRET_LASTS: Duration = Duration::from_secs(120);
const COOKIE_LEN: usize = 16;

/// What a sender at one address must know to be computed for.
pub(super) struct Cookie(Zeroizing<[u8; COOKIE_LEN]>);

impl Cookie {
    /// The mac2 of an initiation, over everything before it.
    pub fn mac2(&self, covered: &[u8]) -> [u8; MAC_LEN] {
        short_mac(&hmac::Key::new(hmac::HMAC_SHA256, self.0.as_slice()), covered)
    }
}

/// The secret from which this node makes cookies.
pub(super) struct CookieSecret {
    secret: Zeroizing<[u8; 32]>,
    made_at: Instant,
}

impl CookieSecret {
    /// A random secret.
    pub fn new(random: &mut dyn RngCore, now: Instant) -> Self {
        let mut secret = Zeroizing::new([0; 32]);
        random.fill_bytes(secret.as_mut_slice());
        Self { secret, made_at: now }
    }

    /// Replaces the secret when it is due.
    pub fn rotate(&mut self, random: &mut dyn RngCore, now: Instant) {
        if now.saturating_duration_since(self.made_at) >= SECRET_LASTS {
            *self = Self::new(random, now);
        }
    }

    /// The cookie of a sender.
    pub fn cookie(&self, from: SocketAddr) -> Cookie {
        let mut address = [0; 18];
        let ip = match from.ip() {
            std::net::IpAddr::V4(four) => four.to_ipv6_mapped(),
            std::net::IpAddr::V6(six) => six,
        };
        address[..16].copy_from_slice(&ip.octets());
        address[16..].copy_from_slice(&from.port().to_be_bytes());
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_slice());
        Cookie(Zeroizing::new(short_mac(&key, &address)))
    }

    /// Whether the mac2 of an initiation was made with the cookie of its sender.
    pub fn verify(&self, from: SocketAddr, covered: &[u8], mac2: &[u8; MAC_LEN]) -> bool {
        equals(&self.cookie(from).mac2(covered), mac2)
    }
}

/// Seals the cookies that a node sends, and opens them at the node that it sends them to.
pub(super) struct CookieSeal(XChaCha20Poly1305);

impl CookieSeal {
    /// The seal of the node with this public key: SHA-256 over a label and the public key.
    pub fn of(sender: &PublicKey) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"onwire cookie");
        hash.update(sender.as_bytes());
        Self(XChaCha20Poly1305::new(hash.finish().as_ref().into()))
    }

    /// Seals a cookie for the sender of the initiation with this mac1. Each nonce is random.
    pub fn seal(
        &self,
        cookie: &Cookie,
        nonce: &[u8; COOKIE_NONCE_LEN],
        mac1: &[u8; MAC_LEN],
    ) -> [u8; SEALED_COOKIE_LEN] {
        let mut sealed = [0; SEALED_COOKIE_LEN];
        let (body, tag) = sealed.split_at_mut(COOKIE_LEN);
        body.copy_from_slice(cookie.0.as_slice());
        let made = self.0.encrypt_in_place_detached(XNonce::from_slice(nonce), mac1, body);
        tag.copy_from_slice(&made.expect("a cookie is shorter than 256 GiB"));
        sealed
    }

    /// Opens the cookie that answers the initiation with this mac1; `None` if it is not authentic.
    pub fn open(
        &self,
        sealed: &[u8; SEALED_COOKIE_LEN],
        nonce: &[u8; COOKIE_NONCE_LEN],
        mac1: &[u8; MAC_LEN],
    ) -> Option<Cookie> {
        let (body, tag) = sealed.split_first_chunk::<COOKIE_LEN>()?;
        let mut cookie = Zeroizing::new(*body);
        let tag = Tag::from_slice(tag);
        self.0.decrypt_in_place_detached(XNonce::from_slice(nonce), mac1, cookie.as_mut_slice(), tag).ok()?;
        Some(Cookie(cookie))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    const SECOND: Duration = Duration::from_secs(1);

    fn from(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_cookie_is_of_one_address_and_port_until_the_secret_rotates() {
        let (start, mut random) = (Instant::now(), StdRng::seed_from_u64(1));
        let mut secret = CookieSecret::new(&mut random, start);
        let mac2 = secret.cookie(from("192.0.2.1:7117")).mac2(b"initiation");
        assert!(secret.verify(from("192.0.2.1:7117"), b"initiation", &mac2));
        assert!(secret.verify(from("[::ffff:192.0.2.1]:7117"), b"initiation", &mac2), "the same address");
        for other in ["192.0.2.1:7118", "192.0.2.2:7117", "[2001:db8::1]:7117"] {
            assert!(!secret.verify(from(other), b"initiation", &mac2), "{other}");
        }
        assert!(!secret.verify(from("192.0.2.1:7117"), b"initiatioN", &mac2));
        for bit in 0..MAC_LEN * 8 {
            let mut mac2 = mac2;
            mac2[bit / 8] ^= 1 << (bit % 8);
            assert!(!secret.verify(from("192.0.2.1:7117"), b"initiation", &mac2), "bit {bit}");
        }
        secret.rotate(&mut random, start + 119 * SECOND);
        assert!(secret.verify(from("192.0.2.1:7117"), b"initiation", &mac2));
        secret.rotate(&mut random, start + 120 * SECOND);
        assert!(!secret.verify(from("192.0.2.1:7117"), b"initiation", &mac2), "two minutes are over");
        let other = CookieSecret::new(&mut random, start);
        assert_ne!(other.cookie(from("192.0.2.1:7117")).0, secret.cookie(from("192.0.2.1:7117")).0);
    }

    #[test]
    fn a_sealed_cookie_opens_only_for_its_initiation() {
        let key = |byte| PublicKey::from_bytes([byte; 32]);
        let cookie = Cookie(Zeroizing::new([5; COOKIE_LEN]));
        let (nonce, mac1) = ([1; COOKIE_NONCE_LEN], [2; MAC_LEN]);
        let sealed = CookieSeal::of(&key(1)).seal(&cookie, &nonce, &mac1);
        let opened = CookieSeal::of(&key(1)).open(&sealed, &nonce, &mac1).unwrap();
        assert_eq!(opened.0, cookie.0);
        assert!(CookieSeal::of(&key(2)).open(&sealed, &nonce, &mac1).is_none(), "another node's");
        assert!(CookieSeal::of(&key(1)).open(&sealed, &nonce, &[3; MAC_LEN]).is_none(), "another initiation");
        assert!(CookieSeal::of(&key(1)).open(&sealed, &[2; COOKIE_NONCE_LEN], &mac1).is_none());
        for bit in 0..SEALED_COOKIE_LEN * 8 {
            let mut sealed = sealed;
            sealed[bit / 8] ^= 1 << (bit % 8);
            assert!(CookieSeal::of(&key(1)).open(&sealed, &nonce, &mac1).is_none(), "bit {bit}");
        }
    }
}
