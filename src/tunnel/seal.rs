//! Sealing and opening of datagrams in place, and the choice of cipher.
//!
//! The nonce is four zero bytes and the datagram's own counter, so a counter must never be used twice with one key:
//! [`Counter`] gives them out, one `Counter` for each lane. Replays are detected in [`super::replay`]; keys come from
//! [`super::handshake`].

use std::fmt;

use ring::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::wire::datagram::{self, TAG_LEN, count_of, lane_of};

/// Request a new session when a lane has sealed this many datagrams with one key. At 10 Gbit/s that is five minutes;
/// with 2^28 datagrams of 1.5 KB an attacker's advantage against AES-GCM stays under 2^-58 (RFC 8446, section 5.5, sets
/// its limit there).
pub const REKEY_AFTER_DATAGRAMS: u64 = 1 << 28;

/// Stop sealing with a key at this many datagrams of a lane: far below the end of the 56-bit counter.
pub const REFUSE_AFTER_DATAGRAMS: u64 = 1 << 36;

/// An authenticated cipher for datagrams. Both ciphers take a 32-byte key and add a 16-byte tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cipher {
    /// AES-256-GCM, if the processors of both ends have instructions for AES.
    Aes256Gcm,
    /// ChaCha20-Poly1305 (RFC 8439), fast in software everywhere.
    ChaCha20Poly1305,
}

impl Cipher {
    fn algorithm(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn key(self, bytes: &[u8; 32]) -> LessSafeKey {
        let key = UnboundKey::new(self.algorithm(), bytes).expect("both ciphers take a key of 32 bytes");
        LessSafeKey::new(key)
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Aes256Gcm => "AES-256-GCM",
            Self::ChaCha20Poly1305 => "ChaCha20-Poly1305",
        })
    }
}

/// The ciphers a node is willing to use, as one octet: bit 0 AES-256-GCM, bit 1 ChaCha20-Poly1305. Unknown bits are
/// kept and ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CipherSet(u8);

impl CipherSet {
    const AES_256_GCM: u8 = 1;
    const CHACHA20_POLY1305: u8 = 2;

    /// The ciphers for this processor: always ChaCha20-Poly1305, and AES-256-GCM if the hardware has AES and the
    /// carry-less multiplication that GCM needs. A node without them does not offer AES, so that its peer does not
    /// choose it.
    pub fn preferred() -> Self {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        let hardware = is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq");
        #[cfg(target_arch = "aarch64")]
        let hardware =
            std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull");
        #[cfg(not(any(target_arch = "x86", target_arch = "x86_64", target_arch = "aarch64")))]
        let hardware = false;
        Self(Self::CHACHA20_POLY1305 | if hardware { Self::AES_256_GCM } else { 0 })
    }

    /// The set of one cipher.
    pub const fn only(cipher: Cipher) -> Self {
        Self(match cipher {
            Cipher::Aes256Gcm => Self::AES_256_GCM,
            Cipher::ChaCha20Poly1305 => Self::CHACHA20_POLY1305,
        })
    }

    /// The cipher that two nodes use, the same answer at both ends; `None` if they share none.
    pub const fn choose(self, other: Self) -> Option<Cipher> {
        let both = self.0 & other.0;
        if both & Self::AES_256_GCM != 0 {
            Some(Cipher::Aes256Gcm)
        } else if both & Self::CHACHA20_POLY1305 != 0 {
            Some(Cipher::ChaCha20Poly1305)
        } else {
            None
        }
    }

    /// The octet on the wire.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Reads the octet on the wire.
    pub const fn from_bits(bits: u8) -> Self {
        Self(bits)
    }
}

impl fmt::Display for CipherSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut named = 0;
        for cipher in [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305] {
            if self.choose(Self::only(cipher)).is_some() {
                write!(f, "{}{cipher}", if named == 0 { "" } else { " or " })?;
                named += 1;
            }
        }
        if named == 0 { write!(f, "no cipher known here (bits {:#04x})", self.0) } else { Ok(()) }
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; aead::NONCE_LEN];
    // Written as the cipher reads it, eight bytes and then four: a load that overlaps two stores waits until all stores
    // before it are done, the copy of the last datagram among them.
    bytes[..8].copy_from_slice(&(counter >> 32).to_be_bytes());
    bytes[8..].copy_from_slice(&(counter as u32).to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// The key of one direction, at the end that sends. Lanes share it: sealing needs no exclusive access.
pub struct SealingKey {
    key: LessSafeKey,
    cipher: Cipher,
}

impl SealingKey {
    /// Expands 32 bytes of key.
    pub fn new(cipher: Cipher, bytes: &[u8; 32]) -> Self {
        Self { key: cipher.key(bytes), cipher }
    }

    /// Encrypts `body` in place, authenticates it together with the clear `header`, and returns the tag to append.
    /// `counter` must be new for this key; take it from a [`Counter`].
    pub fn seal(&self, counter: u64, header: &[u8], body: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce(counter), Aad::from(header), body)
            .expect("a datagram is shorter than the 64 GiB that a nonce covers");
        tag.as_ref().try_into().expect("both ciphers have a tag of 16 bytes")
    }

    /// The negotiated cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.cipher)
    }
}

/// The key of one direction, at the end that receives.
pub struct OpeningKey {
    key: LessSafeKey,
    cipher: Cipher,
}

impl OpeningKey {
    /// Expands 32 bytes of key.
    pub fn new(cipher: Cipher, bytes: &[u8; 32]) -> Self {
        Self { key: cipher.key(bytes), cipher }
    }

    /// Verifies header, body and tag, and decrypts in place. Returns the body without its tag, or `None` if any bit was
    /// changed. After `None` the bytes are useless.
    pub fn open<'a>(&self, counter: u64, header: &[u8], body_and_tag: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.key.open_in_place(nonce(counter), Aad::from(header), body_and_tag).ok()
    }

    /// The negotiated cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpeningKey({})", self.cipher)
    }
}

/// The counters of one lane under one sealing key: the lane's number in the top byte, then 56 bits from 0 upwards.
#[derive(Debug)]
pub struct Counter {
    lane: u8,
    sealed: u64,
}

impl Counter {
    /// Starts at 0. Each pair of lane and session has exactly one `Counter`.
    pub fn new(lane: u8) -> Self {
        Self { lane, sealed: 0 }
    }

    /// A datagram with this counter was sealed here.
    pub fn has_given(&self, counter: u64) -> bool {
        lane_of(counter) == self.lane && count_of(counter) < self.sealed
    }

    /// As if `sealed` datagrams were sealed already.
    #[cfg(test)]
    pub(super) fn after(lane: u8, sealed: u64) -> Self {
        Self { lane, sealed }
    }

    /// The next counter; `None` when the key must not seal any more.
    #[inline]
    pub fn take(&mut self) -> Option<u64> {
        if self.sealed == REFUSE_AFTER_DATAGRAMS {
            return None;
        }
        let counter = datagram::counter(self.lane, self.sealed);
        self.sealed += 1;
        Some(counter)
    }

    /// The last counter was taken.
    pub fn is_exhausted(&self) -> bool {
        self.sealed == REFUSE_AFTER_DATAGRAMS
    }

    /// Whether to request a new session ([`REKEY_AFTER_DATAGRAMS`]).
    pub fn wants_rekey(&self) -> bool {
        self.sealed >= REKEY_AFTER_DATAGRAMS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIPHERS: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    #[test]
    fn only_an_unchanged_sealed_datagram_opens() {
        for cipher in CIPHERS {
            let (sealing, opening) = (SealingKey::new(cipher, &[7; 32]), OpeningKey::new(cipher, &[7; 32]));
            let header = *b"\x04\0\0\x01\0\0\0\0\0\0\0\x2a";
            let mut sealed = b"sixteen bytes of id, then a symbol".to_vec();
            let plain = sealed.clone();
            let tag = sealing.seal(42, &header, &mut sealed);
            assert_ne!(sealed, plain);
            sealed.extend(tag);

            assert_eq!(opening.open(42, &header, &mut sealed.clone()).unwrap(), plain);
            assert!(opening.open(43, &header, &mut sealed.clone()).is_none());
            assert!(OpeningKey::new(cipher, &[8; 32]).open(42, &header, &mut sealed.clone()).is_none());
            for bit in 0..header.len() * 8 {
                let mut header = header;
                header[bit / 8] ^= 1 << (bit % 8);
                assert!(opening.open(42, &header, &mut sealed.clone()).is_none(), "header bit {bit}");
            }
            for bit in 0..sealed.len() * 8 {
                let mut sealed = sealed.clone();
                sealed[bit / 8] ^= 1 << (bit % 8);
                assert!(opening.open(42, &header, &mut sealed).is_none(), "bit {bit}");
            }
            for length in 0..sealed.len() {
                assert!(opening.open(42, &header, &mut sealed.clone()[..length]).is_none(), "{length} bytes");
            }
        }
    }

    #[test]
    fn both_ends_choose_the_same_cipher() {
        let (aes, chacha) = (CipherSet::only(CIPHERS[0]), CipherSet::only(CIPHERS[1]));
        let both = CipherSet::from_bits(aes.bits() | chacha.bits());
        let rows = [
            (both, both, Some(CIPHERS[0]), "AES-256-GCM or ChaCha20-Poly1305"),
            (both, chacha, Some(CIPHERS[1]), "AES-256-GCM or ChaCha20-Poly1305"),
            (aes, both, Some(CIPHERS[0]), "AES-256-GCM"),
            (chacha, aes, None, "ChaCha20-Poly1305"),
            (CipherSet::from_bits(0x80), both, None, "no cipher known here (bits 0x80)"),
        ];
        for (a, b, chosen, text) in rows {
            assert_eq!((a.choose(b), b.choose(a)), (chosen, chosen));
            assert_eq!(a.to_string(), text);
        }
        assert!(CipherSet::preferred().choose(chacha).is_some());
    }

    #[test]
    fn counters_carry_the_lane_and_end_before_they_wrap() {
        let mut counter = Counter::new(3);
        assert_eq!((counter.take(), counter.take()), (Some(3 << 56), Some(3 << 56 | 1)));
        assert!(!counter.wants_rekey());
        counter.sealed = REKEY_AFTER_DATAGRAMS;
        assert!(counter.wants_rekey());
        counter.sealed = REFUSE_AFTER_DATAGRAMS - 1;
        assert_eq!(counter.take(), Some(3 << 56 | (REFUSE_AFTER_DATAGRAMS - 1)));
        assert_eq!((counter.take(), counter.take()), (None, None));
    }
}
