//! mac1: a cheap check in front of the handshake.
//!
//! HMAC-SHA256, cut to 16 bytes. Its key follows from the receiver's public key, so every node that knows that key can
//! compute it. A datagram with a wrong mac1 costs one hash and gets no reply. mac1 does not authenticate the sender:
//! the handshake does that.

use ring::{digest, hmac};

use super::keys::PublicKey;
use crate::wire::handshake::MAC_LEN;

/// The mac1 key of one receiver.
#[derive(Debug)]
pub struct MacKey(hmac::Key);

impl MacKey {
    /// The key for the node with this public key: SHA-256 over a label and the public key.
    pub fn of(receiver: &PublicKey) -> Self {
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(b"onwire mac1");
        hash.update(receiver.as_bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, hash.finish().as_ref()))
    }

    /// The mac of these bytes.
    pub fn sign(&self, bytes: &[u8]) -> [u8; MAC_LEN] {
        short_mac(&self.0, bytes)
    }

    /// Whether the mac is right.
    pub fn verify(&self, bytes: &[u8], mac: &[u8; MAC_LEN]) -> bool {
        equals(&self.sign(bytes), mac)
    }
}

/// The first 16 bytes of an HMAC-SHA256.
pub(super) fn short_mac(key: &hmac::Key, bytes: &[u8]) -> [u8; MAC_LEN] {
    *hmac::sign(key, bytes).as_ref().first_chunk().expect("HMAC-SHA256 gives 32 bytes")
}

/// Whether two macs are equal. The time does not depend on which bytes differ.
pub(super) fn equals(wanted: &[u8; MAC_LEN], mac: &[u8; MAC_LEN]) -> bool {
    wanted.iter().zip(mac).fold(0, |wrong, (a, b)| wrong | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_receiver_and_bytes_verify() {
        let key = MacKey::of(&PublicKey::from_bytes([1; 32]));
        let mac = key.sign(b"initiation");
        assert!(key.verify(b"initiation", &mac));
        assert!(!key.verify(b"initiatioN", &mac));
        assert!(!MacKey::of(&PublicKey::from_bytes([2; 32])).verify(b"initiation", &mac));
        for bit in 0..MAC_LEN * 8 {
            let mut mac = mac;
            mac[bit / 8] ^= 1 << (bit % 8);
            assert!(!key.verify(b"initiation", &mac), "bit {bit}");
        }
    }
}
