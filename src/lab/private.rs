//! Directories in places where every user may write, such as `/tmp`.
//!
//! Another user can create a predictable name first, as a link to somewhere else; a program that then writes there, or
//! changes an owner, changes the link's target. The lab often runs as root. So a new directory must not have existed,
//! and a directory that is used again must be a real directory of this user that no other user can write to.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

/// How many names are tried when names are already taken.
const TRIES: usize = 8;

/// Creates a new directory of this name, with a random suffix if the name is taken. Other users may pass through it to
/// files they are given in it, but neither list it nor write to it.
pub fn make(parent: &Path, name: &str) -> io::Result<PathBuf> {
    let mut path = parent.join(name);
    for _ in 0..TRIES {
        match DirBuilder::new().mode(0o711).create(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                path = parent.join(format!("{name}-{}", random_ending()?));
            }
            made => return made.map(|()| path),
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("somebody takes every name in {}", parent.display())))
}

/// Creates a directory for this user alone, or accepts the one made earlier.
///
/// # Errors The path exists and belongs to another user, is not a directory, or can be written to by others.
pub fn own(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => return made,
    }
    let found = fs::symlink_metadata(path)?;
    if is_ours(&found) && found.mode() & 0o022 == 0 {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("{} is not a directory of this user that others cannot write to; remove it", path.display()),
    ))
}

/// Removes this user's directories in `parent` whose names have this prefix.
pub fn remove_all(parent: &Path, beginning: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_named = entry.file_name().to_str().is_some_and(|name| name.starts_with(beginning));
        if is_named && fs::symlink_metadata(entry.path()).is_ok_and(|found| is_ours(&found)) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn is_ours(found: &Metadata) -> bool {
    found.is_dir() && found.uid() == rustix::process::geteuid().as_raw()
}

fn random_ending() -> io::Result<String> {
    let mut bytes = [0; 8];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("the system has no random numbers"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether this process is in a user namespace that has given up `setgroups`, as an ordinary user's must.
pub fn setgroups_is_denied() -> bool {
    std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|text| text.trim() == "deny")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_directory_made_by_another_user_is_never_written_to() {
        let shared = tempfile::tempdir().unwrap();
        let victim = shared.path().join("victim");
        fs::write(&victim, "data").unwrap();
        // The first name is taken by a directory with a link in it, the second by a link.
        let taken = shared.path().join("onwire-lab-ow-1-loss");
        fs::create_dir(&taken).unwrap();
        symlink(&victim, taken.join("commands.log")).unwrap();
        symlink(&taken, shared.path().join("onwire-lab-ow-2-loss")).unwrap();
        for name in ["onwire-lab-ow-1-loss", "onwire-lab-ow-2-loss", "onwire-lab-ow-3-loss"] {
            let made = make(shared.path(), name).unwrap();
            assert!(made.file_name().unwrap().to_str().unwrap().starts_with(name));
            assert!(fs::read_dir(&made).unwrap().next().is_none(), "{made:?}");
            assert_eq!(fs::symlink_metadata(&made).unwrap().mode() & 0o777, 0o711);
            fs::write(made.join("commands.log"), "").unwrap();
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "data");
    }

    #[test]
    fn a_directory_is_used_again_only_if_it_is_private_to_this_user() {
        let shared = tempfile::tempdir().unwrap();
        let path = shared.path().join("onwire-lab-0");
        own(&path).unwrap();
        own(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(own(&path).unwrap_err().to_string().contains("remove it"));
        let link = shared.path().join("link");
        symlink(shared.path(), &link).unwrap();
        assert!(own(&link).is_err());
    }

    #[test]
    fn only_directories_with_the_prefix_are_removed() {
        let shared = tempfile::tempdir().unwrap();
        for name in ["onwire-lab-ow-1-loss", "onwire-lab-ow-1-loss-77", "onwire-lab-ow-12-loss", "other"] {
            fs::create_dir(shared.path().join(name)).unwrap();
        }
        symlink("/", shared.path().join("onwire-lab-ow-1-loss-link")).unwrap();
        remove_all(shared.path(), "onwire-lab-ow-1-loss");
        let mut left: Vec<_> = fs::read_dir(shared.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["onwire-lab-ow-1-loss-link", "onwire-lab-ow-12-loss", "other"]);
    }
}
