//! The directory for the data of a lab's servers, and its owner.
//!
//! The data is in memory if there is room: hundreds of trials then cost seconds of copying and no disk access. A local
//! commit then has almost no `fsync` cost, which makes it the hardest baseline for a remote one. Reports state where
//! the data was. This module knows directories and users, not servers.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, lchown},
    path::{Path, PathBuf},
};

use crate::lab::{error::LabError, private, program::path_text, trace::Trace};

/// A file system in memory, on systems that have one.
const MEMORY: &str = "/dev/shm";
/// Bytes that must be free there.
const ROOM: u64 = 2 << 30;

/// A directory for the servers' data. Dropping it removes the data.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    is_memory: bool,
    owner: Owner,
}

/// The user that servers run as; servers refuse to run as root.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    /// A user of this system: user id and group id.
    User(u32, u32),
    /// The ordinary user who runs the lab: root in the lab's namespaces, and unprivileged again in the servers'.
    Ordinary,
}

impl DataDir {
    /// Creates the directory for the run of `trace`. The first of `users` that exists owns the directories in it.
    pub fn make(trace: &Trace, users: &[&str]) -> Result<Self, LabError> {
        let name = trace.directory().file_name().and_then(OsStr::to_str).unwrap_or("onwire-lab");
        let memory = Path::new(MEMORY);
        let has_room = rustix::fs::statvfs(memory).is_ok_and(|it| it.f_bavail * it.f_frsize >= ROOM)
            && fs::metadata(memory).is_ok_and(|it| it.is_dir());
        let owner = if private::setgroups_is_denied() {
            Owner::Ordinary
        } else {
            let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
            let missing = || {
                LabError::Sentence(format!(
                    "none of the users {} exists; servers do not run as root: adduser --system {}",
                    users.join(", "),
                    users.first().unwrap_or(&"nobody")
                ))
            };
            users.iter().find_map(|user| find_user(&known, user)).ok_or_else(missing)?
        };
        // The directory itself belongs to the lab's user, so the servers' user cannot replace an entry by a link.
        let (parent, name) = if has_room { (memory, name) } else { (trace.directory(), "servers") };
        let root = private::make(parent, name);
        let root = root.map_err(LabError::doing(format!("make a directory for servers in {}", parent.display())))?;
        Ok(Self { root, is_memory: has_room, owner })
    }

    /// Describes the cost of a commit here, for a report.
    pub fn describe(&self) -> String {
        let kind =
            if self.is_memory { "in memory: fsync costs nothing" } else { "on a disk: fsync costs what it does" };
        format!("data {kind} ({})", self.root.display())
    }

    /// Whether the data is in memory.
    pub fn is_memory(&self) -> bool {
        self.is_memory
    }

    /// The path of this name; creates nothing.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Creates an empty directory of this name that the servers' user owns; removes an existing one.
    pub fn directory(&self, name: &str) -> Result<PathBuf, LabError> {
        let path = self.path(name);
        self.remove(name)?;
        self.make_directory(&path)?;
        Ok(path)
    }

    /// Copies `from` to `to` and removes an existing `to`.
    pub fn copy(&self, trace: &Trace, from: &str, to: &str) -> Result<PathBuf, LabError> {
        self.remove(to)?;
        let [from, to] = [from, to].map(|name| self.path(name));
        trace.run(&["cp", "-a", "--reflink=auto", &path_text(&from)?, &path_text(&to)?])?;
        Ok(to)
    }

    /// The words before a program that run it as the servers' user.
    pub fn as_owner(&self) -> Vec<String> {
        match self.owner {
            Owner::User(user, own) => {
                let words = [format!("--reuid={user}"), format!("--regid={own}")];
                // The servers' user may have no access to this user's temporary directory.
                let own = ["--clear-groups", "env", "-u", "TMPDIR"].map(str::to_owned);
                ["setpriv".to_owned()].into_iter().chain(words).chain(own).collect()
            }
            Owner::Ordinary => ["unshare", "--user", "--map-user=1", "--map-group=1"].map(str::to_owned).to_vec(),
        }
    }

    fn remove(&self, name: &str) -> Result<(), LabError> {
        let path = self.path(name);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(LabError::doing(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    fn make_directory(&self, path: &Path) -> Result<(), LabError> {
        let make = || {
            // PostgreSQL refuses a directory that other users can read.
            DirBuilder::new().mode(0o700).create(path)?;
            match self.owner {
                Owner::User(user, own) => lchown(path, Some(user), Some(own)),
                Owner::Ordinary => Ok(()),
            }
        };
        make().map_err(LabError::doing(format!("make {} for a server", path.display())))
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Removes from memory the data of a run whose files were in `files`.
pub fn remove_stale(files: &OsStr) {
    if let Some(name) = files.to_str() {
        private::remove_all(Path::new(MEMORY), name);
    }
}

/// Finds the ids of a user and its group in the text of `/etc/passwd`.
fn find_user(passwd: &str, name: &str) -> Option<Owner> {
    let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
    let mut fields = line.split(':').skip(2).map(str::parse);
    let (user, own) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some(Owner::User(user, own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:102::/:/bin/sh\n";
        assert_eq!(find_user(passwd, "postgres"), Some(Owner::User(101, 102)));
        assert_eq!(find_user(passwd, "mysql"), None);
        assert_eq!(find_user("broken:x:one:two", "broken"), None);
    }

    #[test]
    fn dropping_a_data_dir_removes_its_data() {
        let directory = tempfile::tempdir().unwrap();
        let files = directory.path().join(format!("onwire-lab-ow-{}-place", std::process::id()));
        let trace = Trace::new("ow-test", &files, false, Default::default()).unwrap();
        let place = DataDir::make(&trace, &["no-such-user", "nobody"]).unwrap();
        let first = place.directory("a").unwrap();
        fs::write(first.join("file"), "x").unwrap();
        let copy = place.copy(&trace, "a", "b").unwrap();
        assert_eq!(fs::read_to_string(copy.join("file")).unwrap(), "x");
        assert!(!place.directory("a").unwrap().join("file").exists());
        drop(place);
        assert!(!copy.exists());
        let error = DataDir::make(&trace, &["no-such-user"]).unwrap_err().to_string();
        assert!(error.contains("no-such-user"), "{error}");
    }
}
