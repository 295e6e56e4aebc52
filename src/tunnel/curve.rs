//! X25519 (RFC 7748) as the handshake uses it: secrets are wiped when dropped, and a point of low order is refused.
//!
//! With such a point the shared secret is zero whatever the private key is: everybody knows it. Noise leaves the check to
//! the application (revision 34, section 12.1), and `snow` does not make it. The arithmetic is that of `curve25519-dalek`,
//! which `snow` uses too.

use curve25519_dalek::montgomery::MontgomeryPoint;
use snow::Error;
use snow::types::{Dh, Random};
use zeroize::{Zeroize, Zeroizing};

const LEN: usize = 32;

/// The public half of a private key.
pub(super) fn public_of(private: &[u8; LEN]) -> [u8; LEN] {
    MontgomeryPoint::mul_base_clamped(*private).to_bytes()
}

/// The shared secret with this point would be zero. A clamped scalar is a multiple of 8, the greatest low order, so that
/// one scalar stands for all.
pub(super) fn is_low_order(point: &[u8; LEN]) -> bool {
    shared(point, &[0; LEN]).is_none()
}

/// The shared secret; `None` if the point has a low order. The time does not depend on the secret.
fn shared(point: &[u8; LEN], private: &[u8; LEN]) -> Option<Zeroizing<[u8; LEN]>> {
    let mut product = MontgomeryPoint(*point).mul_clamped(*private);
    let secret = Zeroizing::new(product.to_bytes());
    product.zeroize();
    (secret.iter().fold(0, |all, byte| all | byte) != 0).then_some(secret)
}

/// A key pair, for `snow`.
#[derive(Default)]
pub(super) struct X25519 {
    private: Zeroizing<[u8; LEN]>,
    public: [u8; LEN],
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        LEN
    }

    fn priv_len(&self) -> usize {
        LEN
    }

    fn set(&mut self, privkey: &[u8]) {
        self.private.copy_from_slice(privkey);
        self.public = public_of(&self.private);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), Error> {
        rng.try_fill_bytes(self.private.as_mut_slice())?;
        self.public = public_of(&self.private);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.private.as_slice()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), Error> {
        let point = pubkey.first_chunk().ok_or(Error::Dh)?;
        let secret = shared(point, &self.private).ok_or(Error::Dh)?;
        out.get_mut(..LEN).ok_or(Error::Dh)?.copy_from_slice(secret.as_slice());
        Ok(())
    }
}

/// Every encoding of a point of low order, as cr.yp.to/ecdh.html and RFC 7748 list them: five below 2^255 - 19, the two
/// that are not reduced, and each of them with the top bit, which X25519 ignores.
#[cfg(test)]
pub(super) fn low_order_points() -> Vec<[u8; LEN]> {
    let hex = |text: &str| std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap());
    let below_2_255: [[u8; LEN]; 7] = [
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    ]
    .map(hex);
    below_2_255
        .iter()
        .flat_map(|&point| {
            let mut with_top_bit = point;
            with_top_bit[LEN - 1] |= 0x80;
            [point, with_top_bit]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_of_low_order_is_refused_and_no_other() {
        let mut pair = X25519::default();
        pair.set(&[7; LEN]);
        let mut out = [0; LEN];
        for point in low_order_points() {
            assert!(is_low_order(&point), "{point:02x?}");
            assert!(matches!(pair.dh(&point, &mut out), Err(Error::Dh)), "{point:02x?}");
            let mut other = point;
            other[0] ^= 0x10;
            assert!(!is_low_order(&other) && pair.dh(&other, &mut out).is_ok(), "{other:02x?}");
        }
        assert!(pair.dh(&[9; LEN - 1], &mut out).is_err());
    }

    /// RFC 7748, section 6.1.
    #[test]
    fn the_shared_secret_is_that_of_rfc_7748() {
        let hex = |text: &str| -> [u8; LEN] {
            std::array::from_fn(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
        };
        let (mut alice, mut bob) = (X25519::default(), X25519::default());
        alice.set(&hex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
        bob.set(&hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
        let secret = hex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
        for (own, other) in [(&alice, &bob), (&bob, &alice)] {
            let mut out = [0; LEN];
            own.dh(other.pubkey(), &mut out).unwrap();
            assert_eq!(out, secret);
        }
    }
}
