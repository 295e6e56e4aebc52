//! Replaces a configuration file at one moment: whoever reads it, and a start after a power failure, finds all of the old text or all
//! of the new one.
//!
//! [`Replacement::prepare`] does all that may fail, so that little is left for [`Replacement::commit`]. A symbolic link stays, and
//! so do the owner and the mode of its file; an access list and other hard links of the file do not.
//!
//! Root replaces what a process of another user names. So only the configuration file of that very appliance is replaced, and its
//! directory is opened once: names that change meanwhile lead nowhere else.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags, fsync, open, openat, renameat, unlinkat};

use super::{Source, read_all, sha256};

/// Names to try for the new file: one that a killed command has left behind is in the way.
const NAMES: u32 = 100;

/// A new text, written beside its file. It is removed when this is dropped before [`commit`](Self::commit).
#[derive(Debug)]
pub struct Replacement {
    place: FilePlace,
    before: String,
    after: String,
    /// The name of the new file; `None` if there is none, or none any more.
    written: Option<OsString>,
}

/// A file by its directory, which stays the same whatever becomes of its path.
#[derive(Debug)]
struct FilePlace {
    directory: OwnedFd,
    name: OsString,
    /// For messages.
    path: PathBuf,
}

impl FilePlace {
    /// The file behind symbolic links.
    fn find(path: &Path) -> io::Result<Self> {
        let file = fs::canonicalize(path)?;
        let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open(parent, flags, Mode::empty())?;
        Ok(Self { directory, name: name.to_owned(), path: path.to_owned() })
    }

    /// Opens it and reads it.
    fn read(&self) -> Result<(File, String), String> {
        let explain = |error: io::Error| self.explain(&error);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = openat(&self.directory, &self.name, flags, Mode::empty()).map_err(|error| explain(error.into()))?;
        let file = File::from(file);
        if !file.metadata().map_err(explain)?.is_file() {
            return Err(format!("cannot replace {}: it is no regular file", self.path.display()));
        }
        let text =
            read_all(&file).map_err(|(found, _)| format!("cannot replace {}: it {found}", self.path.display()))?;
        Ok((file, text))
    }

    /// Makes a file beside it that only this user may read, with a name that is free.
    fn create_beside(&self) -> io::Result<(OsString, File)> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut outcome = Err(io::ErrorKind::AlreadyExists.into());
        for number in 0..NAMES {
            let mut name = OsString::from(".");
            name.push(&self.name);
            name.push(format!(".{}-{number}.new", std::process::id()));
            match openat(&self.directory, &name, flags, Mode::RUSR | Mode::WUSR) {
                Ok(file) => return Ok((name, file.into())),
                Err(error) => outcome = Err(error.into()),
            }
            if outcome.as_ref().is_err_and(|error: &io::Error| error.kind() != io::ErrorKind::AlreadyExists) {
                break;
            }
        }
        outcome
    }

    fn explain(&self, error: &io::Error) -> String {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => "; run this as root, or as the user who owns the file and its directory",
            _ => "",
        };
        format!("cannot replace {}: {error}{advice}", self.path.display())
    }
}

impl Replacement {
    /// Writes `text` to the disk, beside the file at `path`. The file must be the configuration of the appliance with this status
    /// socket, and have the text with the digest `before` or the new one.
    ///
    /// # Errors
    /// The file cannot be replaced as it should be; the text says what to do.
    pub fn prepare(path: &Path, socket: &Path, text: &str, before: &str) -> Result<Self, String> {
        let place = FilePlace::find(path).map_err(|error| format!("cannot replace {}: {error}", path.display()))?;
        let (old, found) = place.read()?;
        let is_new = found == text;
        if !is_new && sha256(&found) != before {
            return Err(changed(path));
        }
        belongs_to(&found, path, socket)?;
        let mut replacement = Self { place, before: sha256(&found), after: sha256(text), written: None };
        if !is_new {
            replacement.write(text, &old)?;
        }
        Ok(replacement)
    }

    fn write(&mut self, text: &str, old: &File) -> Result<(), String> {
        let path = self.place.path.clone();
        let explain = |error: io::Error| format!("cannot replace {}: {error}", path.display());
        let (name, mut file) = self.place.create_beside().map_err(|error| self.place.explain(&error))?;
        self.written = Some(name);
        let (new, old) = (file.metadata().map_err(explain)?, old.metadata().map_err(explain)?);
        if (new.uid(), new.gid()) != (old.uid(), old.gid()) {
            fchown(&file, Some(old.uid()), Some(old.gid())).map_err(|error| {
                let (path, owner) = (path.display(), old.uid());
                format!("cannot replace {path} and leave it to user {owner}, who owns it: {error}; run this as root")
            })?;
        }
        file.write_all(text.as_bytes()).map_err(explain)?;
        file.set_permissions(Permissions::from_mode(old.mode() & 0o7777)).map_err(explain)?;
        file.sync_all().map_err(explain)
    }

    /// Puts the new text in the place of the old one.
    ///
    /// # Errors
    /// The file was changed since, or cannot be renamed; then it is as before, and the text says what to do.
    pub fn commit(mut self) -> Result<(), String> {
        let Some(name) = &self.written else { return Ok(()) };
        let place = &self.place;
        match sha256(&place.read()?.1) {
            found if found == self.before => {}
            // Another command has done the same.
            found if found == self.after => return Ok(()),
            _ => return Err(changed(&place.path)),
        }
        renameat(&place.directory, name, &place.directory, &place.name)
            .map_err(|error| place.explain(&error.into()))?;
        self.written = None;
        fsync(&self.place.directory).map_err(|error| {
            let file = self.place.path.display();
            format!("{file} is replaced, but may not survive a power failure: {error}; run `sync`")
        })
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(name) = &self.written {
            // What stays behind is in nobody's way.
            let _ = unlinkat(&self.place.directory, name, AtFlags::empty());
        }
    }
}

/// Whether the text at `path` is the configuration of the appliance with this status socket.
fn belongs_to(text: &str, path: &Path, socket: &Path) -> Result<(), String> {
    let source = Source::of(text.to_owned(), path).and_then(|source| source.parse());
    let config = source.map_err(|errors| {
        let path = path.display();
        format!(
            "{path} is not replaced: it is no good configuration now, so a restart would fail\n{}",
            errors.to_string().trim_end()
        )
    })?;
    let real = |path: &Path| fs::canonicalize(path).unwrap_or(path.to_owned());
    if real(&config.status.socket) != real(socket) {
        return Err(format!(
            "{} is not replaced: its status socket is {}, and not {}, so it belongs to another appliance",
            path.display(),
            config.status.socket.display(),
            socket.display()
        ));
    }
    Ok(())
}

fn changed(path: &Path) -> String {
    let path = path.display();
    format!(
        "{path} is not what the appliance follows, or was before the candidate: somebody has changed it, and it is left alone"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::config::key_file;
    use crate::tunnel::keys::PrivateKey;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    struct Bench {
        directory: tempfile::TempDir,
        file: PathBuf,
        socket: PathBuf,
        old: String,
        new: String,
    }

    impl Bench {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = |name: &str| directory.path().join(name);
            let [own, peer] = [1, 2].map(|seed| PrivateKey::generate(&mut StdRng::seed_from_u64(seed)));
            key_file::write(&path("own.key"), &own.to_text()).unwrap();
            let old = format!(
                "node: {{ name: own, key_file: own.key, local_prefixes: [10.1.0.0/16] }}\n\
                 peers: [{{ name: peer, public_key: \"{}\", prefixes: [10.2.0.0/16] }}]\nstatus: {{ socket: a.sock }}\n",
                peer.public_key()
            );
            fs::write(path("a.yaml"), &old).unwrap();
            fs::set_permissions(path("a.yaml"), Permissions::from_mode(0o640)).unwrap();
            let new = format!("{old}# new\n");
            Self { file: path("a.yaml"), socket: path("a.sock"), old, new, directory }
        }

        fn prepare(&self, path: &Path) -> Result<Replacement, String> {
            Replacement::prepare(path, &self.socket, &self.new, &sha256(&self.old))
        }

        /// What is in the directory besides the key.
        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(self.directory.path()).unwrap();
            let names = entries.map(|it| it.unwrap().file_name().into_string().unwrap());
            let mut names: Vec<_> = names.filter(|name| name != "own.key").collect();
            names.sort();
            names
        }

        fn text(&self) -> String {
            fs::read_to_string(&self.file).unwrap()
        }
    }

    #[test]
    fn the_file_is_replaced_at_once_with_its_mode_and_owner_behind_its_link() {
        let bench = Bench::new();
        let link = bench.directory.path().join("link.yaml");
        std::os::unix::fs::symlink("a.yaml", &link).unwrap();
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        if is_root {
            std::os::unix::fs::chown(&bench.file, Some(65_534), Some(65_533)).unwrap();
        }
        let old = fs::metadata(&bench.file).unwrap();
        let replacement = bench.prepare(&link).unwrap();
        assert_eq!((bench.text(), bench.names().len()), (bench.old.clone(), 3));
        replacement.commit().unwrap();
        assert_eq!(fs::read_to_string(&link).unwrap(), bench.new);
        assert!(fs::symlink_metadata(&link).unwrap().file_type().is_symlink());
        let new = fs::metadata(&bench.file).unwrap();
        assert_eq!((new.uid(), new.gid(), new.mode()), (old.uid(), old.gid(), old.mode()));
        assert_ne!(new.ino(), old.ino(), "it was renamed, not written over");
        assert_eq!(bench.names(), ["a.yaml", "link.yaml"]);
    }

    #[test]
    fn what_is_not_committed_leaves_nothing_behind() {
        let bench = Bench::new();
        let (one, two) = (bench.prepare(&bench.file).unwrap(), bench.prepare(&bench.file).unwrap());
        assert_eq!(bench.names().len(), 3, "two at once");
        drop((one, two));
        assert_eq!((bench.names(), bench.text()), (vec!["a.yaml".into()], bench.old.clone()));
    }

    #[test]
    fn a_file_that_somebody_else_has_changed_is_left_alone() {
        let bench = Bench::new();
        let edited = format!("{}# edited\n", bench.old);
        let replacement = bench.prepare(&bench.file).unwrap();
        fs::write(&bench.file, &edited).unwrap();
        assert!(replacement.commit().unwrap_err().contains("left alone"));
        assert!(bench.prepare(&bench.file).unwrap_err().contains("left alone"));
        assert_eq!((bench.text(), bench.names()), (edited, vec!["a.yaml".into()]));
        // Another has written the same text, before this was prepared or after.
        fs::write(&bench.file, &bench.old).unwrap();
        let replacement = bench.prepare(&bench.file).unwrap();
        fs::write(&bench.file, &bench.new).unwrap();
        replacement.commit().unwrap();
        bench.prepare(&bench.file).unwrap().commit().unwrap();
        assert_eq!((bench.text(), bench.names()), (bench.new.clone(), vec!["a.yaml".into()]));
    }

    #[test]
    fn nothing_but_the_configuration_of_this_appliance_is_replaced() {
        let bench = Bench::new();
        let refused = |path: &Path, before: &str| {
            let refused = Replacement::prepare(path, &bench.socket, &bench.new, &sha256(before)).unwrap_err();
            assert_eq!(bench.names().iter().filter(|name| name.ends_with(".new")).count(), 0);
            refused
        };
        // A process that is not trusted names a file whose text it knows.
        let precious = bench.directory.path().join("passwd");
        fs::write(&precious, "root:x:0:0\n").unwrap();
        assert!(refused(&precious, "root:x:0:0\n").contains("no good configuration"));
        let other = bench.directory.path().join("other.yaml");
        let text = bench.old.replace("a.sock", "other.sock");
        fs::write(&other, &text).unwrap();
        assert!(refused(&other, &text).contains("belongs to another appliance"));
        assert!(refused(bench.directory.path(), "").contains("no regular file"));
        assert!(refused(&bench.directory.path().join("absent.yaml"), "").contains("absent.yaml"));
        // The directory is another one after the check.
        let moved = bench.directory.path().join("moved");
        fs::create_dir(&moved).unwrap();
        let file = moved.join("a.yaml");
        let text = bench.old.replace("own.key", "../own.key").replace("a.sock", "../a.sock");
        fs::write(&file, &text).unwrap();
        fs::write(&bench.socket, "").unwrap();
        let replacement = Replacement::prepare(&file, &bench.socket, &bench.new, &sha256(&text)).unwrap();
        fs::rename(&moved, bench.directory.path().join("away")).unwrap();
        fs::create_dir(&moved).unwrap();
        fs::write(&file, &text).unwrap();
        replacement.commit().unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), text, "it has taken this place later");
        assert_eq!(fs::read_to_string(bench.directory.path().join("away/a.yaml")).unwrap(), bench.new);
    }

    #[test]
    fn a_digest_is_that_of_sha256sum() {
        assert_eq!(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }
}
