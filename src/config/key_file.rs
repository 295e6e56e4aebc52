//! Key files: 32 bytes as base64 on one line, as WireGuard writes them. Does not do any handshake.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::TryRngCore;
use rand::rngs::OsRng;
use snow::params::DHChoice;
use snow::resolvers::{CryptoResolver, DefaultResolver};
use zeroize::{Zeroize, Zeroizing};

/// 32 secret bytes: a private or a preshared key. Wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey([u8; 32]);

/// Why a key or a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The operating system refused.
    #[error("the key file {path} cannot be {action}: {error}")]
    Io {
        /// The file.
        path: String,
        /// `read` or `written`.
        action: &'static str,
        /// What it said.
        error: io::Error,
    },
    /// A directory, a device.
    #[error("the key file {path} is not a regular file")]
    NotAFile {
        /// The file.
        path: String,
    },
    /// Somebody else can read it.
    #[error("the key file {path} has mode {mode:04o}: others than its owner can use it")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not a key.
    #[error("the key file {path} holds no key: {error}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: Box<KeyError>,
    },
    /// Not 44 characters of base64.
    #[error("a key is 44 characters of base64; this has {length}")]
    Length {
        /// Characters found.
        length: usize,
    },
    /// Other characters than base64's.
    #[error("a key is 44 characters of base64; these are others")]
    Alphabet,
    /// All bytes are zero.
    #[error("a key of zeros protects nothing")]
    Zero,
}

impl KeyError {
    /// What to do about it; may be empty.
    pub fn hint(&self, path: &Path) -> String {
        let path = path.display();
        match self {
            Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                format!("make one: onwire keygen {path}")
            }
            Self::Io { action: "written", .. } => String::new(),
            Self::Io { .. } => "run as the user who owns it".to_owned(),
            Self::Exposed { .. } => {
                format!("chmod 600 {path}; if others may have read it, make a new key")
            }
            _ => "the file holds one line, as `onwire keygen` writes it".to_owned(),
        }
    }
}

impl SecretKey {
    /// A new random key.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        OsRng.try_fill_bytes(&mut bytes).expect("the kernel's random numbers do not fail once it has booted");
        Self(bytes)
    }

    /// Takes the bytes of a key.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The X25519 public key of this private key.
    pub fn public_key(&self) -> [u8; 32] {
        let mut dh = DefaultResolver
            .resolve_dh(&DHChoice::Curve25519)
            .expect("Curve25519 is compiled in by the features of Cargo.toml");
        dh.set(&self.0);
        let mut public = [0; 32];
        public.copy_from_slice(dh.pubkey());
        public
    }

    /// The base64 text of the key; wiped when dropped.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(STANDARD.encode(self.0))
    }

    /// Reads the base64 text of a key; white space around it does not matter.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// Reads the base64 text of a public key.
pub fn parse_public(text: &str) -> Result<[u8; 32], KeyError> {
    decode(text)
}

/// The base64 text of a public key.
pub fn show_public(key: &[u8; 32]) -> String {
    STANDARD.encode(key)
}

/// Reads a private or preshared key from a regular file that only its owner can use.
pub fn read_secret(path: &Path) -> Result<SecretKey, KeyError> {
    let shown = path.display().to_string();
    let failed = |error| KeyError::Io { path: shown.clone(), action: "read", error };
    // Without O_NONBLOCK the open of a fifo would wait for a writer.
    let mut options = OpenOptions::new();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeyError::NotAFile { path: shown });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: shown, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(MOST_TEXT));
    if let Err(error) = file.take(MOST_TEXT as u64).read_to_string(&mut text) {
        return Err(match error.kind() {
            io::ErrorKind::InvalidData => KeyError::Content { path: shown, error: Box::new(KeyError::Alphabet) },
            _ => failed(error),
        });
    }
    SecretKey::parse(&text).map_err(|error| KeyError::Content { path: shown, error: Box::new(error) })
}

/// More than any key file holds; reading stops there.
const MOST_TEXT: usize = 256;

/// Writes a key to a new file of mode 0600; a file that exists is left as it is.
pub fn write_secret(path: &Path, key: &SecretKey) -> Result<(), KeyError> {
    let failed = |error| KeyError::Io { path: path.display().to_string(), action: "written", error };
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let text = Zeroizing::new(format!("{}\n", *key.to_text()));
    write_durably(&mut file, text.as_bytes()).map_err(failed)
}

fn write_durably(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

fn decode(text: &str) -> Result<[u8; 32], KeyError> {
    let text = text.trim();
    let length = text.chars().count();
    if length != 44 {
        return Err(KeyError::Length { length });
    }
    let decoded = STANDARD.decode(text).map_err(|_| KeyError::Alphabet)?;
    let decoded = Zeroizing::new(decoded);
    let key: [u8; 32] = decoded.as_slice().try_into().map_err(|_| KeyError::Alphabet)?;
    if key == [0; 32] { Err(KeyError::Zero) } else { Ok(key) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_written_key_reads_back_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        let key = SecretKey::generate();
        write_secret(&path, &key).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read_secret(&path).unwrap(), key);
        assert!(write_secret(&path, &SecretKey::generate()).is_err());
        assert_eq!(read_secret(&path).unwrap(), key);
    }

    /// RFC 7748, section 6.1: Bob's keys.
    #[test]
    fn the_public_key_is_x25519() {
        let hex = |text: &str| {
            let mut bytes = [0; 32];
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
            }
            bytes
        };
        let private = hex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb");
        let public = hex("de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f");
        assert_eq!(SecretKey::from_bytes(private).public_key(), public);
    }

    #[test]
    fn what_is_not_a_key_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        assert!(matches!(read_secret(&path), Err(KeyError::Io { .. })));
        assert!(matches!(read_secret(directory.path()), Err(KeyError::Exposed { .. } | KeyError::NotAFile { .. })));
        write_secret(&path, &SecretKey::generate()).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_secret(&path), Err(KeyError::Exposed { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for content in [&b""[..], b"short", b"\xff\xfe", &[b'A'; 44], &[b'!'; 44], &[b'x'; 4096]] {
            fs::write(&path, content).unwrap();
            assert!(matches!(read_secret(&path), Err(KeyError::Content { .. })), "{content:?}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", SecretKey::from_bytes([7; 32])), "SecretKey(..)");
    }
}
