//! A Unix socket that listens at a path: who may connect, and what becomes of a file that is there already.
//!
//! It reads and writes nothing; the file is removed when the listener is dropped.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};

use mio::net::{UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

/// Whose socket it is: who may connect, and the advice in errors.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Permissions of the file.
    pub mode: u32,
    /// What to do when the path may not be written.
    pub on_denied: &'static str,
    /// What to do when another process answers at the path.
    pub on_in_use: &'static str,
    /// The option or key that names the path.
    pub option: &'static str,
}

/// The socket.
#[derive(Debug)]
pub struct LocalListener {
    listener: UnixListener,
    path: PathBuf,
}

impl LocalListener {
    /// Binds the socket, which messages call `name`. One that a crash has left behind is replaced, one that answers is not.
    ///
    /// # Errors
    /// The path cannot be used; the text says what to do.
    pub fn open(name: &str, path: &Path, owner: &Owner, registry: &Registry, token: Token) -> io::Result<Self> {
        let explain = |error: io::Error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => owner.on_denied,
                io::ErrorKind::NotFound => ": its directory does not exist",
                io::ErrorKind::AddrInUse => owner.on_in_use,
                _ => "",
            };
            io::Error::new(error.kind(), format!("cannot open the {name} {}{advice} ({error})", path.display()))
        };
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            std::fs::create_dir_all(directory).map_err(explain)?;
        }
        if let Ok(found) = std::fs::symlink_metadata(path) {
            if !found.file_type().is_socket() {
                let text = format!(
                    "cannot open the {name} {}: there is something else of this name, which is left alone; choose another \
                     path {}",
                    path.display(),
                    owner.option
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            if StdStream::connect(path).is_ok() {
                return Err(explain(io::ErrorKind::AddrInUse.into()));
            }
            std::fs::remove_file(path).map_err(explain)?;
        }
        let mut listener = UnixListener::bind(path).map_err(explain)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(owner.mode)).map_err(explain)?;
        registry.register(&mut listener, token, Interest::READABLE).map_err(explain)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next caller; `None` if none waits.
    pub fn accept(&self) -> Option<UnixStream> {
        self.listener.accept().ok().map(|(stream, _)| stream)
    }
}

impl Drop for LocalListener {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.path) {
            Ok(()) => {}
            // That is what was wanted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // Nothing answers there any more, and the next start replaces it.
            Err(error) => tracing::info!(
                "the socket {} stays behind ({error}): its directory must be writable by the user of this process; nothing depends on it",
                self.path.display()
            ),
        }
    }
}
