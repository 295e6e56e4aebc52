//! The primitives that `snow` works with: its own, except for those that hold a key for longer than a call. `snow` does not
//! wipe keys; these do.

use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, Nonce, Tag};
use snow::Error;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use zeroize::Zeroizing;

use crate::tunnel::curve::X25519;
use crate::wire::datagram::TAG_LEN;

/// Resolves to primitives that wipe their keys.
pub(super) struct WipingResolver;

impl CryptoResolver for WipingResolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        DefaultResolver.resolve_rng()
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        matches!(choice, DHChoice::Curve25519).then(|| Box::new(X25519::default()) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        matches!(choice, CipherChoice::ChaChaPoly).then(|| Box::new(ChaChaPoly::default()) as Box<dyn Cipher>)
    }
}

/// ChaCha20-Poly1305 with the nonces of Noise: four zero bytes and a little-endian counter.
#[derive(Default)]
struct ChaChaPoly {
    key: Zeroizing<[u8; 32]>,
}

impl ChaChaPoly {
    fn nonce(counter: u64) -> Nonce {
        let mut bytes = [0; 12];
        bytes[4..].copy_from_slice(&counter.to_le_bytes());
        bytes.into()
    }

    /// The cipher itself wipes its copy of the key.
    fn aead(&self) -> ChaCha20Poly1305 {
        ChaCha20Poly1305::new(self.key.as_slice().into())
    }
}

impl Cipher for ChaChaPoly {
    fn name(&self) -> &'static str {
        "ChaChaPoly"
    }

    fn set(&mut self, key: &[u8; 32]) {
        self.key.copy_from_slice(key);
    }

    fn encrypt(&self, nonce: u64, authtext: &[u8], plaintext: &[u8], out: &mut [u8]) -> usize {
        let (body, rest) = out.split_at_mut(plaintext.len());
        body.copy_from_slice(plaintext);
        let tag = self.aead().encrypt_in_place_detached(&Self::nonce(nonce), authtext, body);
        rest[..TAG_LEN].copy_from_slice(&tag.expect("a handshake message is shorter than 256 GiB"));
        plaintext.len() + TAG_LEN
    }

    fn decrypt(&self, nonce: u64, authtext: &[u8], ciphertext: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        let (sealed, tag) = ciphertext.split_last_chunk::<TAG_LEN>().ok_or(Error::Decrypt)?;
        let body = out.get_mut(..sealed.len()).ok_or(Error::Decrypt)?;
        body.copy_from_slice(sealed);
        let opened = self.aead().decrypt_in_place_detached(&Self::nonce(nonce), authtext, body, Tag::from_slice(tag));
        opened.map(|()| sealed.len()).map_err(|_| Error::Decrypt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Other nodes run snow's own primitives.
    #[test]
    fn the_primitives_are_those_of_snow() {
        let (key, text) = ([7; 32], b"sixteen bytes of text and more");
        let mut theirs = DefaultResolver.resolve_cipher(&CipherChoice::ChaChaPoly).unwrap();
        let mut ours = WipingResolver.resolve_cipher(&CipherChoice::ChaChaPoly).unwrap();
        theirs.set(&key);
        ours.set(&key);
        for nonce in [0, 1, u64::MAX - 1] {
            let (mut a, mut b) = ([0; 64], [0; 64]);
            let length = theirs.encrypt(nonce, b"header", text, &mut a);
            assert_eq!(ours.encrypt(nonce, b"header", text, &mut b), length);
            assert_eq!(a, b);
            let mut opened = [0; 64];
            assert_eq!(ours.decrypt(nonce, b"header", &a[..length], &mut opened), Ok(text.len()));
            assert_eq!(&opened[..text.len()], text);
            assert!(ours.decrypt(nonce, b"Header", &a[..length], &mut opened).is_err());
        }
        assert!(ours.decrypt(0, b"", b"short", &mut [0; 64]).is_err());
        assert!(WipingResolver.resolve_cipher(&CipherChoice::AESGCM).is_none());
        assert!(WipingResolver.resolve_dh(&DHChoice::Curve448).is_none());
    }
}
