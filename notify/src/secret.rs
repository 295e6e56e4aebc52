//! The secret of a notification key as text: one line of base64, as `onwire keygen --notify` writes it.
//!
//! Publisher and subscriber hold the same line. This file opens no files and checks no file modes. It seals nothing:
//! [`super::envelope::Key`] does.

use std::fmt;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

use super::envelope::{Key, MIN_SECRET};

/// Bytes of a new secret.
pub const LEN: usize = 32;
/// The most bytes of a secret: HMAC-SHA256 takes no more than one block of its hash.
pub const MAX: usize = 64;

/// Why a text is not a secret. The messages never contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// A character that base64 does not have, or a missing `=`.
    #[error("a notification key is one line of base64; character {position} does not belong there")]
    Character {
        /// Position of the character, counted from 1.
        position: usize,
    },
    /// Fewer bytes than [`MIN_SECRET`] or more than [`MAX`].
    #[error("a notification key is base64 of {MIN_SECRET} to {MAX} random bytes; this is base64 of {found}")]
    Length {
        /// Bytes found.
        found: usize,
    },
    /// All bytes are zero: a placeholder, with which any program could forge.
    #[error("a notification key of zeros protects nothing")]
    Zero,
}

/// Random bytes that a publisher and its subscriber share. Wiped when dropped, never printed.
///
/// ```
/// use onwire_notify::secret::{LEN, Secret, SecretError};
///
/// // In a program the bytes come from a cryptographic random generator.
/// let secret = Secret::from_random(&[7; LEN]);
/// let line = secret.to_text();
/// assert_eq!(Secret::parse(&line), Ok(secret));
///
/// let key = Secret::parse(&line)?.to_key(1);
/// assert_eq!(key.id(), 1);
/// # Ok::<(), SecretError>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes bytes from a cryptographic random generator.
    pub fn from_random(bytes: &[u8; LEN]) -> Secret {
        Secret(Zeroizing::new(bytes.to_vec()))
    }

    /// Reads the base64 form. White space around it is allowed, because a key file ends in a newline.
    pub fn parse(text: &str) -> Result<Secret, SecretError> {
        let text = text.trim();
        let bytes = BASE64_STANDARD.decode(text).map(Zeroizing::new).map_err(|_| {
            let allowed = |c: char| c.is_ascii_alphanumeric() || c == '+' || c == '/';
            let found = text.chars().position(|c| !allowed(c));
            // If every character is base64, characters are missing at the end.
            SecretError::Character { position: found.unwrap_or(text.len()) + 1 }
        })?;
        if !(MIN_SECRET..=MAX).contains(&bytes.len()) {
            return Err(SecretError::Length { found: bytes.len() });
        }
        if bytes.iter().all(|&byte| byte == 0) {
            return Err(SecretError::Zero);
        }
        Ok(Secret(bytes))
    }

    /// The base64 form, for the key file. It is wiped when dropped, too.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(BASE64_STANDARD.encode(self.0.as_slice()))
    }

    /// The key with this id.
    pub fn to_key(&self, id: u16) -> Key {
        Key::new(id, &self.0).expect("a secret is never shorter than a key must be")
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(secret)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_is_not_printed() {
        let secret = Secret::from_random(&[7; LEN]);
        let text = secret.to_text();
        assert_eq!(text.len(), 44);
        assert_eq!(Secret::parse(&format!(" {}\n", *text)), Ok(secret.clone()));
        assert!(!format!("{secret:?}").contains(&text[..8]));
        assert_eq!(secret.to_key(9).id(), 9);
    }

    #[test]
    fn texts_that_are_not_secrets_are_refused() {
        let length = |found| Err(SecretError::Length { found });
        let character = |position| Err(SecretError::Character { position });
        let of = |len: usize| BASE64_STANDARD.encode(vec![1; len]);
        for (text, expected) in [
            (String::new(), length(0)),
            (of(15), length(15)),
            (of(16), Ok(())),
            (of(64), Ok(())),
            (of(65), length(65)),
            ("no key at all".to_owned(), character(3)),
            (format!("{}\n{}", of(18), of(18)), character(25)),
            ("AQEBAQEBAQEBAQEBAQEBAQ".to_owned(), character(23)),
            (BASE64_STANDARD.encode([0; 32]), Err(SecretError::Zero)),
        ] {
            assert_eq!(Secret::parse(&text).map(|_| ()), expected, "{text:?}");
        }
    }
}
