//! The long-lived keys of a node: X25519 key pairs and preshared keys, as text and as bytes.
//!
//! The text form is WireGuard's: 44 characters of base64. Secrets are wiped when dropped and never printed, and no
//! error contains the text that it rejects. Files and their modes are in [`crate::config::key_file`], the short-lived
//! keys of a session in [`super::seal`].

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rand::CryptoRng;
use zeroize::{Zeroize, Zeroizing};

use super::curve;

/// Bytes in each of the keys here.
pub const KEY_LEN: usize = 32;

const TEXT_LEN: usize = 44;

/// Strict: each key has exactly one text, so comparing configurations compares keys.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Why a text is not a key. The messages never contain the text: it may be a secret in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is too short or too long.
    #[error("a key is {TEXT_LEN} characters of base64; this has {found}")]
    Length {
        /// Characters found, without surrounding white space.
        found: usize,
    },
    /// A character that base64 does not have, or not at this position.
    #[error(
        "a key is {TEXT_LEN} characters of base64, the last of them `=`; character {position} does not belong there"
    )]
    Character {
        /// Its position, counted from 1.
        position: usize,
    },
    /// All bytes are zero: a placeholder, with which any attacker could compute the shared secret.
    #[error("a key of zeros protects nothing")]
    Zero,
    /// A public key whose shared secret with any private key is zero.
    #[error("a point of low order is no public key: the shared secret with it is zero, so that it protects nothing")]
    LowOrder,
}

/// Reads 32 bytes from base64; white space around the text is allowed, as a key file ends in a newline.
fn parse_text(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let text = text.trim();
    let found = text.chars().count();
    if found != TEXT_LEN {
        return Err(KeyError::Length { found });
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
    if let Some(at) = text.chars().take(TEXT_LEN - 1).position(|c| !allowed(c)) {
        return Err(KeyError::Character { position: at + 1 });
    }
    let mut bytes = Zeroizing::new([0; KEY_LEN]);
    // Only two errors remain: a missing `=`, or stray bits in the character before it.
    let length = BASE64
        .decode_slice(text, bytes.as_mut_slice())
        .map_err(|_| KeyError::Character { position: if text.ends_with('=') { TEXT_LEN - 1 } else { TEXT_LEN } })?;
    if length != KEY_LEN {
        return Err(KeyError::Length { found });
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Err(KeyError::Zero);
    }
    Ok(bytes)
}

/// The secret half of a node's identity.
#[derive(Clone)]
pub struct PrivateKey([u8; KEY_LEN]);

impl PrivateKey {
    /// Makes a new key from a cryptographic random number generator.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut bytes = Zeroizing::new([0; KEY_LEN]);
        random.fill_bytes(bytes.as_mut_slice());
        Self::clamped(&bytes)
    }

    /// Takes any 32 bytes and clamps them as RFC 7748 section 5 demands, so that equal keys have equal texts.
    fn clamped(bytes: &[u8; KEY_LEN]) -> Self {
        let mut key = Self(*bytes);
        key.0[0] &= 0xf8;
        key.0[31] = key.0[31] & 0x7f | 0x40;
        key
    }

    /// Reads the base64 form.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        parse_text(text).map(|bytes| Self::clamped(&bytes))
    }

    /// The base64 form, for the key file. The text is wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0))
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(curve::public_of(&self.0))
    }

    /// The secret itself, for the handshake.
    pub(super) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(secret)")
    }
}

/// The public half of an identity: what peers list in their configuration. `Display` gives the base64 form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY_LEN]);

impl PublicKey {
    /// Takes the 32 bytes as they are.
    pub(super) const fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(bytes)
    }

    /// Reads the base64 form. A point of low order is refused: with it, anyone could pass for the peer.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = parse_text(text)?;
        if curve::is_low_order(&bytes) { Err(KeyError::LowOrder) } else { Ok(Self(*bytes)) }
    }

    /// The 32 bytes.
    pub(super) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A secret that both peers hold besides their key pairs, mixed into every handshake. The default, 32 zero bytes, is
/// the value that Noise prescribes for "none".
#[derive(Clone, Default)]
pub struct PresharedKey([u8; KEY_LEN]);

impl PresharedKey {
    /// Makes a new key from a cryptographic random number generator.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let mut key = Self::default();
        random.fill_bytes(&mut key.0);
        key
    }

    /// Reads the base64 form.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        parse_text(text).map(|bytes| Self(*bytes))
    }

    /// The base64 form, for the key file. The text is wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64.encode(self.0))
    }

    /// The secret itself, for the handshake.
    pub(super) fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl Drop for PresharedKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    /// RFC 7748, section 6.1.
    #[test]
    fn public_keys_match_rfc_7748() {
        let hex = |text: &str| -> [u8; 32] {
            std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
        };
        let rows = [
            (
                "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a",
                "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a",
            ),
            (
                "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb",
                "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f",
            ),
        ];
        for (private, public) in rows {
            assert_eq!(PrivateKey::clamped(&hex(private)).public_key(), PublicKey::from_bytes(hex(public)));
        }
    }

    #[test]
    fn text_and_bytes_agree() {
        let mut random = StdRng::seed_from_u64(1);
        let key = PrivateKey::generate(&mut random);
        let text = key.to_text();
        assert_eq!(text.len(), TEXT_LEN);
        assert_eq!(PrivateKey::parse(&format!(" {}\n", *text)).unwrap().0, key.0);
        let public = key.public_key();
        assert_eq!(PublicKey::parse(&public.to_string()).unwrap(), public);
        let preshared = PresharedKey::generate(&mut random);
        assert_eq!(PresharedKey::parse(&preshared.to_text()).unwrap().0, preshared.0);
    }

    #[test]
    fn a_malformed_key_is_refused_with_a_reason() {
        let good = PrivateKey::generate(&mut StdRng::seed_from_u64(2)).public_key().to_string();
        let with = |at: usize, c: char| -> String {
            good.chars().enumerate().map(|(i, old)| if i == at { c } else { old }).collect()
        };
        let rows = [
            (String::new(), KeyError::Length { found: 0 }),
            (good[..43].to_owned(), KeyError::Length { found: 43 }),
            (format!("{good}="), KeyError::Length { found: 45 }),
            (with(0, '-'), KeyError::Character { position: 1 }),
            (with(9, 'é'), KeyError::Character { position: 10 }),
            (with(42, '='), KeyError::Character { position: 43 }),
            (with(42, 'B'), KeyError::Character { position: 43 }),
            (with(43, 'A'), KeyError::Character { position: 44 }),
            ("A".repeat(43) + "=", KeyError::Zero),
        ];
        for (text, error) in rows {
            assert_eq!(PublicKey::parse(&text), Err(error), "{text}");
            assert!(!text.contains('/') || !error.to_string().contains(&text));
        }
    }

    #[test]
    fn a_point_of_low_order_is_no_public_key() {
        for point in curve::low_order_points() {
            let wanted = if point == [0; KEY_LEN] { KeyError::Zero } else { KeyError::LowOrder };
            assert_eq!(PublicKey::parse(&PublicKey(point).to_string()), Err(wanted), "{point:02x?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let key = PrivateKey::generate(&mut StdRng::seed_from_u64(3));
        assert_eq!(format!("{key:?}"), "PrivateKey(secret)");
        assert_eq!(format!("{:?}", PresharedKey::default()), "PresharedKey(secret)");
    }
}
