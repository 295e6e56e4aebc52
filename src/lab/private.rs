//! Directories in places where everybody may write, such as `/tmp`: made by us, or not used.
//!
//! A name that can be guessed may be there already, as a link to somewhere else: whoever then writes, or changes an owner,
//! does it there. The lab often is root. So what is made must not have existed, and what is used again must be a real
//! directory of ours that nobody else may write to.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

/// Tries with another name when somebody has taken one.
const TRIES: usize = 8;

/// Makes a directory of this name that did not exist, with a random ending where somebody has taken the name. Others may pass
/// through it to what they are given in it, but neither list nor write.
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

/// Makes a directory for this user alone, or finds the one made earlier.
///
/// # Errors
/// Something of this name is there that is not ours, or is open to others.
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

/// Removes the directories in `parent` whose names begin so, if they are ours.
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
    fn a_directory_that_somebody_had_made_with_a_link_in_it_was_written_to() {
        let everybodys = tempfile::tempdir().unwrap();
        let victim = everybodys.path().join("victim");
        fs::write(&victim, "data").unwrap();
        // Taken as a directory with a link in it, and as a link itself.
        let taken = everybodys.path().join("onwire-lab-ow-1-loss");
        fs::create_dir(&taken).unwrap();
        symlink(&victim, taken.join("commands.log")).unwrap();
        symlink(&taken, everybodys.path().join("onwire-lab-ow-2-loss")).unwrap();
        for name in ["onwire-lab-ow-1-loss", "onwire-lab-ow-2-loss", "onwire-lab-ow-3-loss"] {
            let made = make(everybodys.path(), name).unwrap();
            assert!(made.file_name().unwrap().to_str().unwrap().starts_with(name));
            assert!(fs::read_dir(&made).unwrap().next().is_none(), "{made:?}");
            assert_eq!(fs::symlink_metadata(&made).unwrap().mode() & 0o777, 0o711);
            fs::write(made.join("commands.log"), "").unwrap();
        }
        assert_eq!(fs::read_to_string(&victim).unwrap(), "data");
    }

    #[test]
    fn a_directory_is_used_again_only_if_it_is_ours() {
        let everybodys = tempfile::tempdir().unwrap();
        let path = everybodys.path().join("onwire-lab-0");
        own(&path).unwrap();
        own(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(own(&path).unwrap_err().to_string().contains("remove it"));
        let link = everybodys.path().join("link");
        symlink(everybodys.path(), &link).unwrap();
        assert!(own(&link).is_err());
    }

    #[test]
    fn only_directories_of_that_name_are_removed() {
        let everybodys = tempfile::tempdir().unwrap();
        for name in ["onwire-lab-ow-1-loss", "onwire-lab-ow-1-loss-77", "onwire-lab-ow-12-loss", "other"] {
            fs::create_dir(everybodys.path().join(name)).unwrap();
        }
        symlink("/", everybodys.path().join("onwire-lab-ow-1-loss-link")).unwrap();
        remove_all(everybodys.path(), "onwire-lab-ow-1-loss");
        let mut left: Vec<_> = fs::read_dir(everybodys.path()).unwrap().map(|it| it.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["onwire-lab-ow-1-loss-link", "onwire-lab-ow-12-loss", "other"]);
    }
}
