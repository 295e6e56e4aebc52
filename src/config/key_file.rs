//! Key files: one key on one line, readable only by its owner. [`crate::tunnel::keys`] and [`crate::notify::secret`]
//! define a key's text and bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::table::{Field, Reading};

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The operating system refused.
    #[error("the key file {path} cannot be {action}: {error}")]
    Io {
        /// The file.
        path: String,
        /// `read` or `written`.
        action: &'static str,
        /// The error that the operating system returned.
        error: io::Error,
    },
    /// A directory or a device.
    #[error("the key file {path} is not a regular file")]
    NotAFile {
        /// The file.
        path: String,
    },
    /// Other users can read it.
    #[error("the key file {path} has mode {mode:04o}: others than its owner can use it")]
    Exposed {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The content is not UTF-8.
    #[error("the key file {path} holds no key: it is not text")]
    NotText {
        /// The file.
        path: String,
    },
    /// The text is not a key.
    #[error("the key file {path} holds no key: {error}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl KeyFileError {
    /// A file is there already. It was left as it is.
    pub fn is_already_there(&self) -> bool {
        matches!(self, Self::Io { action: "written", error, .. } if error.kind() == io::ErrorKind::AlreadyExists)
    }

    /// What to do about it; may be empty. `command` makes such keys.
    pub fn hint(&self, path: &Path, command: &str) -> String {
        let directory = path.parent().map(Path::display).map_or_else(String::new, |directory| directory.to_string());
        let path = path.display();
        match self {
            Self::Io { action: "written", error, .. } if error.kind() == io::ErrorKind::NotFound => {
                format!("make its directory first: mkdir -p {directory}")
            }
            Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                format!("make one: {command} {path}")
            }
            Self::Io { action: "written", .. } => String::new(),
            Self::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                "run as the user who owns it".to_owned()
            }
            Self::Io { .. } => String::new(),
            Self::Exposed { .. } => {
                format!("chmod 600 {path}; if others may have read it, make a new key")
            }
            Self::NotAFile { .. } | Self::NotText { .. } | Self::Content { .. } => one_line(command),
        }
    }
}

/// The command that makes private and preshared keys.
pub const KEYGEN: &str = "onwire keygen";
/// The command that makes notification keys.
pub const KEYGEN_NOTIFY: &str = "onwire keygen --notify";

/// The hint when the file holds something other than a key.
pub fn one_line(command: &str) -> String {
    format!("the file holds one line, as `{command}` writes it")
}

/// Reads the path in `field` and the key in that file. A key that is absent or wrong is `None`; a wrong one is also
/// noted. `command` makes such keys.
pub(super) fn read_field<Key, Wrong: std::error::Error + Send + Sync + 'static>(
    field: &Field<'_>,
    allowed: &str,
    command: &str,
    parse: impl FnOnce(&str) -> Result<Key, Wrong>,
    reading: &mut Reading<'_>,
) -> (Option<PathBuf>, Option<Key>) {
    let name = |text: &str| if text.is_empty() { Err(String::new()) } else { Ok(text.to_owned()) };
    let Some(path) = field.read(allowed, name, reading) else { return (None, None) };
    let path = reading.resolve(&path);
    let key = read(&path, parse).map_err(|error| {
        reading.error(&field.key, &error.to_string(), "", &error.hint(&path, command));
        if matches!(&error, KeyFileError::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied) {
            reading.mark_denied(&path);
        }
    });
    (Some(path), key.ok())
}

/// More bytes than any key file holds; reading stops there.
pub const MOST_TEXT: usize = 256;

/// Reads a key with `parse`, from a regular file that only its owner can use.
///
/// # Errors
/// The file cannot be read, is exposed, or `parse` refuses its content.
pub fn read<Key, Wrong: std::error::Error + Send + Sync + 'static>(
    path: &Path,
    parse: impl FnOnce(&str) -> Result<Key, Wrong>,
) -> Result<Key, KeyFileError> {
    let shown = path.display().to_string();
    let failed = |error| KeyFileError::Io { path: shown.clone(), action: "read", error };
    // Without O_NONBLOCK the open of a fifo would wait for a writer.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(KeyFileError::NotAFile { path: shown });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Exposed { path: shown, mode });
    }
    let mut text = Zeroizing::new(String::with_capacity(MOST_TEXT));
    if let Err(error) = file.take(MOST_TEXT as u64).read_to_string(&mut text) {
        return Err(match error.kind() {
            io::ErrorKind::InvalidData => KeyFileError::NotText { path: shown },
            _ => failed(error),
        });
    }
    parse(&text).map_err(|error| KeyFileError::Content { path: shown, error: error.into() })
}

/// Writes the text of a key to a new file of mode 0600.
///
/// # Errors
/// The file exists already, and is left unchanged, or it cannot be written.
pub fn write(path: &Path, key: &str) -> Result<(), KeyFileError> {
    write_for(path, key, None)
}

/// To whom a file is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// As [`write()`], and gives the file to its owner before the key is in it.
///
/// # Errors
/// As [`write()`]; or the file cannot be given away, which takes privileges.
pub fn write_for(path: &Path, key: &str, owner: Option<Owner>) -> Result<(), KeyFileError> {
    let failed = |error| KeyFileError::Io { path: path.display().to_string(), action: "written", error };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    if let Some(Owner { uid, gid }) = owner {
        // By its descriptor: the name may mean another file by now, where others can write to the directory.
        fchown(&file, Some(uid), Some(gid)).map_err(failed)?;
    }
    let line = Zeroizing::new(format!("{key}\n"));
    write_durably(&mut file, line.as_bytes()).map_err(failed)
}

fn write_durably(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use crate::tunnel::keys::{PresharedKey, PrivateKey};

    fn key(seed: u64) -> PrivateKey {
        PrivateKey::generate(&mut StdRng::seed_from_u64(seed))
    }

    fn read_private(path: &Path) -> Result<PrivateKey, KeyFileError> {
        read(path, PrivateKey::parse)
    }

    #[test]
    fn a_written_key_reads_back_and_is_never_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        let text = key(1).to_text();
        write(&path, &text).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read_private(&path).unwrap().to_text(), text);
        assert!(write(&path, &key(2).to_text()).is_err());
        assert_eq!(read_private(&path).unwrap().to_text(), text);
        assert_eq!(read(&path, PresharedKey::parse).unwrap().to_text(), text);
    }

    #[test]
    fn a_file_that_is_no_key_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.key");
        assert!(matches!(read_private(&path), Err(KeyFileError::Io { .. })));
        assert!(matches!(
            read_private(directory.path()),
            Err(KeyFileError::Exposed { .. } | KeyFileError::NotAFile { .. })
        ));
        write(&path, &key(1).to_text()).unwrap();
        for mode in [0o640, 0o604, 0o660, 0o644] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read_private(&path), Err(KeyFileError::Exposed { .. })), "{mode:o}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for content in [&b""[..], b"short", b"\xff\xfe", &[b'A'; 44], &[b'!'; 44], &[b'x'; 4096]] {
            fs::write(&path, content).unwrap();
            let error = read_private(&path).unwrap_err();
            assert!(
                matches!(error, KeyFileError::Content { .. } | KeyFileError::NotText { .. }),
                "{content:?}: {error}"
            );
        }
    }
}
