//! Ack gates as values: which protocols are proxied on which addresses, and what they may acknowledge. Opens no
//! sockets.
//!
//! [`super::gate_file`] reads a file of gates; the command line of `onwire gate` makes the same values.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;

use super::Problem;
use super::metrics::Metrics;
use super::reporting::Log;
use super::units::{parse_duration, show_duration};
use crate::notify::client::Need;
use crate::notify::envelope::Key;
use crate::notify::message::Level;
use crate::notify::secret::Secret;

/// All gates of a process.
#[derive(Clone, Debug)]
pub struct Gates {
    /// The appliance that reports what is protected.
    pub notify: GateNotify,
    /// At least one gate.
    pub gates: Vec<Gate>,
    /// Path of the status socket, if there is one.
    pub status: Option<PathBuf>,
    /// The metrics port; `None`: there is none.
    pub metrics: Option<Metrics>,
    /// The log.
    pub log: Log,
    /// The files that all this was read from, or that are read when the gates open: configuration, keys, certificates.
    pub files: Vec<PathBuf>,
    /// The file that describes them; `None`: options do.
    pub file: Option<PathBuf>,
    /// Values that are legal but probably not meant.
    pub warnings: Vec<Problem>,
}

/// The appliance whose notifications the gates trust.
#[derive(Clone, Debug)]
pub struct GateNotify {
    /// Its notification port.
    pub address: SocketAddr,
    /// The secret shared with it.
    pub secret: Secret,
    /// The key's number at the appliance.
    pub key_id: u16,
}

impl GateNotify {
    /// The key as the protocol uses it.
    pub fn key(&self) -> Key {
        self.secret.to_key(self.key_id)
    }
}

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its name in logs and status.
    pub name: String,
    /// The protocol.
    pub kind: Kind,
    /// The address on which it listens: for the mirror, or for the application if the kind is tcp.
    pub listen: SocketAddr,
    /// The address it connects to: the primary, or the mirror if the kind is tcp.
    pub upstream: SocketAddr,
    /// When it acknowledges.
    pub policy: Policy,
    /// The lowest level that counts as protected.
    pub level: Level,
    /// The interruption of the link that bytes must survive before they count as protected; 0: early repair suffices.
    /// `None`: whatever the profile promises.
    pub survive_burst: Option<Duration>,
    /// Bytes that may be unprotected; kind tcp only.
    pub max_unprotected: Option<u64>,
    /// Most connections at once.
    pub connections: usize,
    /// How long a connection may take to begin: TLS, and authentication if the gate can see it.
    pub start_timeout: Duration,
    /// TLS toward callers.
    pub tls: Option<Certificate>,
    /// TLS toward the server that the gate connects to.
    pub upstream_tls: Option<UpstreamTls>,
}

/// What is wrong with a gate as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What was found.
    pub found: String,
    /// What would be right.
    pub allowed: &'static str,
    /// What to do next.
    pub hint: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}; allowed: {}; {}", self.found, self.allowed, self.hint)
    }
}

impl Gate {
    /// A gate for a test of one connection.
    #[cfg(test)]
    pub(crate) fn sample(kind: Kind, upstream: SocketAddr) -> Self {
        Self {
            name: "test".to_owned(),
            kind,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            upstream,
            policy: Policy::Auto,
            level: Level::OnWire,
            survive_burst: None,
            max_unprotected: None,
            connections: 1,
            start_timeout: DEFAULT_START_TIMEOUT,
            tls: None,
            upstream_tls: None,
        }
    }

    /// The files that are read when it opens.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let upstream =
            self.upstream_tls.iter().flat_map(|tls| [&tls.authority].into_iter().chain(pair(&tls.certificate)));
        pair(&self.tls).chain(upstream).map(PathBuf::as_path)
    }

    /// What must hold of bytes before they are acknowledged.
    pub fn need(&self) -> Need {
        self.survive_burst.map_or(self.level.into(), Need::surviving)
    }

    /// Whether a connection is served as under `other`. The certificates are compared by their contents, elsewhere.
    pub fn serves_like(&self, other: &Gate) -> bool {
        // Each field is named, so that nobody forgets a new one here.
        let Gate {
            name,
            kind,
            listen: _,
            upstream,
            policy,
            level,
            survive_burst,
            max_unprotected,
            connections: _,
            start_timeout,
            tls: _,
            upstream_tls: _,
        } = self;
        (name, kind, upstream, policy) == (&other.name, &other.kind, &other.upstream, &other.policy)
            && (level, survive_burst) == (&other.level, &other.survive_burst)
            && (max_unprotected, start_timeout) == (&other.max_unprotected, &other.start_timeout)
    }

    /// Checks that its values fit together.
    ///
    /// # Errors
    /// The first values that do not.
    pub fn check(&self) -> Result<(), Fault> {
        let kind = self.kind.name();
        let fault = |found: String, allowed, hint| Err(Fault { found, allowed, hint });
        if self.kind == Kind::Tcp && (self.tls.is_some() || self.upstream_tls.is_some()) {
            let hint =
                "remove them: TLS between application and mirror passes through, and is protected like other bytes";
            return fault("found certificates at a gate of kind tcp".to_owned(), "none", hint);
        }
        if self.kind == Kind::MariaDb && (self.tls.is_some() || self.upstream_tls.is_some()) {
            let hint = "remove them and set MASTER_SSL=0 at the mirror: between the sites the appliances encrypt";
            return fault("found certificates at a gate of kind mariadb".to_owned(), "none", hint);
        }
        if self.kind != Kind::Tcp && self.max_unprotected.is_some() {
            let hint = "remove it: here the primary itself waits for acknowledgements";
            return fault(format!("found max_unprotected at a gate of kind {kind}"), "kind tcp only", hint);
        }
        if self.level == Level::Queued && self.survive_burst.is_some() {
            let hint = "remove one of the two: bytes that are only queued may survive nothing";
            return fault("found survive_burst and level queued".to_owned(), "one of the two", hint);
        }
        if self.listen == self.upstream {
            let hint = "it would connect to itself; correct one of the two";
            return fault(format!("found {} for listen and upstream", self.listen), "two addresses", hint);
        }
        Ok(())
    }
}

/// A certificate chain and its key, in PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The chain, leaf first.
    pub chain: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

fn pair(certificate: &Option<Certificate>) -> impl Iterator<Item = &PathBuf> {
    certificate.iter().flat_map(|it| [&it.chain, &it.key])
}

/// TLS to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The certificates of authorities that may have signed the server's.
    pub authority: PathBuf,
    /// The name that the server's certificate must have.
    pub name: String,
    /// The certificate that the gate shows to the server.
    pub certificate: Option<Certificate>,
}

/// A protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub enum Kind {
    /// Streaming replication of PostgreSQL.
    Postgres,
    /// Redis and Valkey: `REPLCONF ACK`.
    Redis,
    /// MariaDB and MySQL: semi-synchronous replication.
    MariaDb,
    /// Any protocol: nothing is acknowledged, but no more than a cap is unprotected.
    Tcp,
}

impl Kind {
    /// All protocols.
    pub const ALL: [Kind; 4] = [Kind::Postgres, Kind::Redis, Kind::MariaDb, Kind::Tcp];

    /// The name in files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Postgres => "postgres",
            Kind::Redis => "redis",
            Kind::MariaDb => "mariadb",
            Kind::Tcp => "tcp",
        }
    }

    /// Reads the name of a protocol.
    ///
    /// # Errors
    /// What is allowed, or why there can be no gate for it.
    pub fn parse(text: &str) -> Result<Kind, String> {
        let kind = Kind::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| {
            refusal(text).unwrap_or_else(|| format!("there is no gate of this kind; allowed: {}", names()))
        })
    }
}

/// All names of protocols, for people.
pub fn names() -> String {
    Kind::ALL.map(Kind::name).join(", ")
}

/// Protocols whose acknowledgements are votes, by their common names.
const VOTERS: &[&str] = &[
    "aerospike",
    "ceph",
    "cockroach",
    "cockroachdb",
    "consensus",
    "consul",
    "etcd",
    "galera",
    "group-replication",
    "group_replication",
    "innodb-cluster",
    "kafka",
    "kubernetes",
    "mgr",
    "mongodb",
    "nats",
    "paxos",
    "patroni-raft",
    "pxc",
    "raft",
    "rqlite",
    "tidb",
    "tikv",
    "vault",
    "wsrep",
    "yugabyte",
    "yugabytedb",
    "zookeeper",
];

/// Why there is no gate for a protocol of votes; `None` if `kind` is not known as one.
pub fn refusal(kind: &str) -> Option<String> {
    let known = VOTERS.contains(&kind.to_ascii_lowercase().as_str());
    known.then(|| {
        format!(
            "there is no gate for {kind}, and there will be none: in a protocol of votes (Raft, Paxos, etcd, Galera, Group \
             Replication, Kafka) an acknowledgement says \"I have stored this and will remember my vote\". Nobody can say \
             that for a member that has not stored it: two majorities could then decide differently, and data that all \
             were told is safe would be undone, with no disaster at all. Send its traffic through the appliances, which \
             loses nothing of its meaning; allowed for gates: {}",
            names()
        )
    })
}

/// When a gate acknowledges. Under every policy: when the bytes are protected or the mirror has acknowledged them,
/// whichever comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// In addition, a connection that the appliance does not see ends, instead of waiting silently for the mirror.
    Strict,
    /// Nothing in addition: a degraded appliance means remote-sync.
    Auto,
    /// In addition after this time with neither, and with an alarm.
    Available(Duration),
}

impl Policy {
    /// Reads `strict`, `auto` or `available=1s`.
    ///
    /// # Errors
    /// A hint.
    pub fn parse(text: &str) -> Result<Policy, String> {
        match text.split_once('=') {
            None if text == "strict" => Ok(Policy::Strict),
            None if text == "auto" => Ok(Policy::Auto),
            None if text == "available" => {
                Err("add the time after which it acknowledges what is not protected: available=1s".to_owned())
            }
            Some(("available", time)) => match parse_duration(time)? {
                time if time <= MOST_PATIENCE => Ok(Policy::Available(time)),
                _ => Err("at most one hour".to_owned()),
            },
            _ => Err(format!("allowed: {POLICIES}")),
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Policy::Strict => out.write_str("strict"),
            Policy::Auto => out.write_str("auto"),
            Policy::Available(time) => write!(out, "available={}", show_duration(*time)),
        }
    }
}

/// The longest time of [`Policy::Available`].
const MOST_PATIENCE: Duration = Duration::from_secs(3600);
/// The default for the connections of a gate.
pub const DEFAULT_CONNECTIONS: usize = 1024;
/// Connections of a gate at most.
pub const MOST_CONNECTIONS: u32 = 16_384;
/// The default for how long a connection may take to begin.
pub const DEFAULT_START_TIMEOUT: Duration = Duration::from_secs(30);
/// The allowed range for it.
const START_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// That range, for people.
pub const START_TIMEOUT_RANGE: &str = "a time from 1s to 3600s, such as 30s";
/// The interruptions that a gate may demand to survive: those that a profile may promise.
const BURSTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_millis(400);
/// That range, for people.
pub const BURST_RANGE: &str = "a duration from 0us to 400ms";
/// The default status socket.
pub const DEFAULT_STATUS: &str = "/run/onwire/gate.sock";
/// The default for the appliance's notification port.
pub const DEFAULT_NOTIFY: &str = "127.0.0.1:7118";
/// The default key file.
pub const DEFAULT_KEY: &str = "/etc/onwire/notify.key";

/// The policies, for people.
pub const POLICIES: &str = "strict, auto, or available=TIME such as available=1s";
/// The levels that a gate may count as protected.
pub const LEVELS: [(&str, Level); 2] = [("on_wire", Level::OnWire), ("queued", Level::Queued)];

/// Reads the lowest level that a gate counts as protected.
///
/// # Errors
/// A hint.
pub fn parse_level(text: &str) -> Result<Level, String> {
    let level = LEVELS.iter().find(|(word, _)| *word == text).map(|(_, level)| *level);
    level.ok_or_else(|| match text {
        "early" => "to acknowledge before late repair has left, write survive_burst 0ms".to_owned(),
        _ => "allowed: on_wire, or queued where devices give no timestamps".to_owned(),
    })
}

/// Reads the interruption that bytes must survive: `2ms`.
///
/// # Errors
/// A hint.
pub fn parse_burst(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        burst if BURSTS.contains(&burst) => Ok(burst),
        _ => Err("no profile promises to survive a longer interruption".to_owned()),
    }
}

/// Reads how long a connection may take to begin: `30s`.
///
/// # Errors
/// A hint.
pub fn parse_start_timeout(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if START_TIMEOUTS.contains(&time) => Ok(time),
        _ => Err("one that is too short ends true callers, one without end lets strangers stay".to_owned()),
    }
}

/// Reads a number of bytes: `65536`, `64KiB`, `1MiB`.
///
/// # Errors
/// A hint.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().map_err(|_| "write a whole number and its unit".to_owned())?;
    let unit = match text[end..].trim() {
        "" | "B" => 1,
        "KiB" | "k" | "K" => 1 << 10,
        "MiB" | "m" | "M" => 1 << 20,
        "GiB" | "g" | "G" => 1 << 30,
        _ => return Err("the units are KiB, MiB and GiB".to_owned()),
    };
    number.checked_mul(unit).filter(|size| *size > 0).ok_or_else(|| "1 byte to 16 EiB".to_owned())
}
