//! The configuration file: YAML in, checked values out.
//!
//! [`load`] reads the whole file and reports every [`Problem`] at once, each with line, column, key, value found and
//! values allowed. The result can be run without further checks. This module starts nothing, resolves no names, and
//! reads only the configuration and the key files that it names.
//!
//! Start with [`load`], then [`schema`], which lists all keys, and `table`, which reads them. Each table of the
//! configuration has its own file here; `check` compares keys with each other. [`gate_file`] reads the other kind of
//! file, that of `onwire gate`.

pub mod changes;
mod check;
mod delivery;
mod dscp;
pub mod gate;
pub mod gate_changes;
pub mod gate_file;
pub mod hooks;
pub mod json_schema;
pub mod key_file;
mod metrics;
pub mod name;
mod node;
mod notify;
mod peer;
mod policy;
mod problem;
mod redundancy;
pub mod reload;
mod renumber;
pub mod replacement;
mod reporting;
pub mod schema;
mod table;
mod tun;
pub mod units;
mod yaml;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

pub use delivery::{Bypass, Delivery, Ordering, WhenDown};
pub use metrics::{APPLIANCE_PORT as APPLIANCE_METRICS_PORT, GATE_PORT as GATE_METRICS_PORT, Metrics};
pub use node::Node;
pub use notify::{DEFAULT_PORT as DEFAULT_NOTIFY_PORT, DEFAULT_TRUST_MAX, Notify, NotifyKey};
pub use peer::{Congestion, Endpoint, Host, OuterDscp, OuterEcn, OuterPath, Peer, UdpGso};
pub use policy::PolicyRule;
pub use problem::{ConfigErrors, Place, Problem, Severity};
pub use redundancy::{Profile, Repair, Targets};
pub use reporting::{Log, LogFormat, LogLevel, Status};
pub use tun::{Offload, Tun};
pub use units::Rate;

use hooks::Hook;
use table::{Reading, Table};

/// One appliance's configuration, complete: every default is filled in and every cross-check has passed.
#[derive(Clone, Debug)]
pub struct Config {
    /// This appliance.
    pub node: Node,
    /// The TUN device.
    pub tun: Tun,
    /// The appliances at the other sites; at least one.
    pub peers: Vec<Peer>,
    /// Redundancy profiles in the order of the file; the index is the profile number in our datagrams.
    pub profiles: Vec<Profile>,
    /// The rules that assign a profile to packets; the first match wins, else the peer's own profile.
    pub policy: Vec<PolicyRule>,
    /// How the receiver delivers packets.
    pub delivery: Delivery,
    /// What happens to packets while a peer is down.
    pub bypass: Bypass,
    /// The notifications of what is protected; `None`: no notifications.
    pub notify: Option<Notify>,
    /// Programs that are run when something happens.
    pub hooks: Vec<Hook>,
    /// The status socket.
    pub status: Status,
    /// The metrics port; `None`: there is none.
    pub metrics: Option<Metrics>,
    /// The log.
    pub log: Log,
    /// Values that are legal but probably not meant.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// The profile with this number, as [`Peer::redundancy`] and [`PolicyRule::redundancy`] hold it.
    pub fn profile(&self, number: u8) -> Option<&Profile> {
        self.profiles.get(usize::from(number))
    }
}

/// More than any configuration needs; a larger file is some other file.
const MOST_BYTES: u64 = 256 * 1024;

/// The text of a configuration, and where it lies.
#[derive(Clone, Debug)]
pub struct Source {
    /// The text.
    pub text: String,
    /// Its file: key files are resolved from there, and messages name it.
    pub path: PathBuf,
}

impl Source {
    /// Reads `file`, or standard input if it is `-`. What is read counts as if it lay at `place`, if that is given.
    ///
    /// # Errors
    /// It cannot be read, is too long, or is no text.
    pub fn read(file: &Path, place: Option<&Path>) -> Result<Self, ConfigErrors> {
        let path = place.unwrap_or(file);
        let text = if file == Path::new("-") { read_all(io::stdin()) } else { read_text(file) };
        match text {
            Ok(text) => Ok(Self { text, path: path.to_owned() }),
            Err(fault) => Err(unreadable(path, fault)),
        }
    }

    /// The text of a file at `path` that was read elsewhere.
    ///
    /// # Errors
    /// It is longer than a file may be.
    pub fn of(text: String, path: &Path) -> Result<Self, ConfigErrors> {
        let text = read_all(text.as_bytes()).map_err(|fault| unreadable(path, fault))?;
        Ok(Self { text, path: path.to_owned() })
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// It cannot be read, is too long, or is no text.
    pub fn open(path: &Path) -> Result<Self, ConfigErrors> {
        let text = read_text(path).map_err(|fault| unreadable(path, fault))?;
        Ok(Self { text, path: path.to_owned() })
    }

    /// Reads and checks it as the configuration of an appliance.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn parse(&self) -> Result<Config, ConfigErrors> {
        parse(&self.text, &self.path)
    }

    /// It is a file of gates instead of an appliance's: it has `gates` at its top.
    pub fn is_of_gates(&self) -> bool {
        has_key(&self.text, "gates")
    }
}

/// Whether a file has this key at its top; of one that cannot be parsed, as far as its lines say.
fn has_key(text: &str, key: &str) -> bool {
    // Not all YAML has a key at the begin of a line: JSON is YAML too.
    if let (Some(yaml::Node { value: yaml::Value::Table(entries), .. }), _) = yaml::parse(text) {
        return entries.iter().any(|entry| entry.key == key);
    }
    text.lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':')))
}

/// What is wrong with the file as a whole.
fn whole_file(path: &Path, found: &str, hint: &str) -> ConfigErrors {
    let mut reading = Reading::new(path, "");
    reading.error_at(Place::default(), "", found, hint);
    ConfigErrors { problems: reading.into_problems() }
}

fn unreadable(path: &Path, (found, hint): (String, &str)) -> ConfigErrors {
    whole_file(path, &found, hint)
}

/// Reads and checks a configuration file and the key files it names.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    Source::open(path)?.parse()
}

/// SHA-256 of a text, in hexadecimal, as `sha256sum` prints it.
pub fn sha256(text: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Checks the text of a configuration file as if the file were at `path`; key files are resolved from there.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, path: &Path) -> Result<Config, ConfigErrors> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // Of a file of the other kind, all that could be said about its keys would mislead.
    if has_key(text, "gates") && !has_key(text, "node") && !has_key(text, "peers") {
        let hint = format!("`onwire gate --config {}` runs it; an appliance's file has node and peers", path.display());
        return Err(whole_file(path, "found a file of gates", &hint));
    }
    let mut reading = Reading::new(path, text);
    let (tree, faults) = yaml::parse(text);
    for fault in faults {
        reading.error_at(fault.place, "", &fault.found, &fault.hint);
    }
    let config = tree.map(|tree| {
        let root = Table::root(&tree, &schema::ROOT, &mut reading);
        read(&root, &mut reading)
    });
    let clean = reading.is_clean();
    let problems = reading.into_problems();
    match config {
        Some(config) if clean => Ok(Config { warnings: problems, ..config }),
        _ => Err(ConfigErrors { problems }),
    }
}

fn read(root: &Table<'_>, reading: &mut Reading<'_>) -> Config {
    let node = Node::read(root, reading);
    let profiles = Profile::read_all(root, reading);
    let config = Config {
        tun: Tun::read(root, reading),
        peers: Peer::read_all(root, &profiles, reading),
        policy: PolicyRule::read_all(root, &profiles, reading),
        delivery: Delivery::read(root, &profiles, reading),
        bypass: Bypass::read(root, reading),
        notify: Notify::read(root, reading),
        hooks: Hook::read_all(root, reading),
        status: Status::read(root, &node.name, reading),
        metrics: Metrics::read(root, APPLIANCE_METRICS_PORT, reading),
        log: Log::read(root, reading),
        warnings: Vec::new(),
        node,
        profiles,
    };
    check::check(&config, reading);
    config
}

fn read_text(path: &Path) -> Result<String, (String, &'static str)> {
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "`onwire init` writes one to begin with; `onwire reference` explains every key",
            _ => "",
        };
        (format!("cannot be read: {error}"), hint)
    };
    read_all(File::open(path).map_err(failed)?)
}

fn read_all(reader: impl Read) -> Result<String, (String, &'static str)> {
    let mut bytes = Vec::new();
    let read = reader.take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| (format!("cannot be read: {error}"), ""))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err((format!("is larger than {} KiB", MOST_BYTES / 1024), "is it a configuration?"));
    }
    let utf8 = |_| ("is not UTF-8 text".to_owned(), "is it a configuration?");
    String::from_utf8(bytes).map_err(utf8)
}
