//! Where the data of a lab's servers live, and who owns them.
//!
//! In memory where there is room: hundreds of trials then cost seconds of copying and no disk, and a local commit costs
//! no `fsync` worth the name, which makes it the hardest thing to compare a distant one with. Reports say which it was.
//! Knows directories and users, not servers.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder},
    os::unix::fs::{DirBuilderExt, lchown},
    path::{Path, PathBuf},
};

use crate::lab::{error::LabError, private, program::path_text, trace::Trace};

/// A file system in memory, where there is one.
const MEMORY: &str = "/dev/shm";
/// Bytes that must be free there.
const ROOM: u64 = 2 << 30;

/// A directory for servers' data. Dropping it removes them.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    is_memory: bool,
    owner: Owner,
}

/// As whom servers run. None of them wants to be root.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    /// A user of this system, with its number and that of its group.
    User(u32, u32),
    /// The ordinary user who runs the lab, who is root in its namespaces and gives that up again.
    Ordinary,
}

impl DataDir {
    /// Makes the directory for the run that `trace` belongs to. Of `users` the first that exists owns what is in it.
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
        // It stays ours: what the servers' user may write to is in it, and cannot be exchanged for a link.
        let (parent, name) = if has_room { (memory, name) } else { (trace.directory(), "servers") };
        let root = private::make(parent, name);
        let root = root.map_err(LabError::doing(format!("make a directory for servers in {}", parent.display())))?;
        Ok(Self { root, is_memory: has_room, owner })
    }

    /// What commits cost here, for a report.
    pub fn describe(&self) -> String {
        let kind =
            if self.is_memory { "in memory: fsync costs nothing" } else { "on a disk: fsync costs what it does" };
        format!("data {kind} ({})", self.root.display())
    }

    /// Whether the data are in memory.
    pub fn is_memory(&self) -> bool {
        self.is_memory
    }

    /// The path of this name; nothing is made there.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// An empty directory of this name that the servers' user owns; what was there is removed.
    pub fn directory(&self, name: &str) -> Result<PathBuf, LabError> {
        let path = self.path(name);
        self.remove(name)?;
        self.make_directory(&path)?;
        Ok(path)
    }

    /// Makes `to` a copy of `from`, removing what was there.
    pub fn copy(&self, trace: &Trace, from: &str, to: &str) -> Result<PathBuf, LabError> {
        self.remove(to)?;
        let [from, to] = [from, to].map(|name| self.path(name));
        trace.run(&["cp", "-a", "--reflink=auto", &path_text(&from)?, &path_text(&to)?])?;
        Ok(to)
    }

    /// The words before a program that make it run as the servers' user.
    pub fn as_owner(&self) -> Vec<String> {
        match self.owner {
            Owner::User(user, own) => {
                let words = [format!("--reuid={user}"), format!("--regid={own}")];
                // Our directory for temporary files may be closed to the owner.
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
            // PostgreSQL takes no directory that others can read.
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

/// Removes the data of a run whose files were in `files`, in memory.
pub fn remove_leftovers(files: &OsStr) {
    if let Some(name) = files.to_str() {
        private::remove_all(Path::new(MEMORY), name);
    }
}

/// The numbers of a user and its group in `/etc/passwd`.
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
    fn a_place_is_gone_with_its_value() {
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
