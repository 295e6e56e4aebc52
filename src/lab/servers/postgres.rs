//! PostgreSQL in a lab: a primary, its standby, and queries about replication.
//!
//! Settings are given on the command line, so that one prepared data directory serves every arm of an experiment. The
//! clients are in the workloads.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{data_dir::DataDir, postgres_session::Session, server::Server};
use crate::lab::{error::LabError, network::Network, process::Process, program::path_text};

/// The port of a server of this lab, at the address of its node.
pub const PORT: u16 = 5432;
/// The superuser of every cluster of the lab.
const USER: &str = "onwire";
/// The directory in which Debian keeps the programs of each release.
const RELEASES: &str = "/usr/lib/postgresql";
/// How long a server may take to be ready, including crash recovery on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(30);

/// Settings that keep a server small and a trial free of background work; the others are the distribution's.
const SETTINGS: [(&str, &str); 18] = [
    ("shared_buffers", "16MB"),
    ("max_connections", "60"),
    ("wal_level", "replica"),
    ("max_wal_senders", "8"),
    ("wal_keep_size", "256MB"),
    ("max_wal_size", "1GB"),
    ("checkpoint_timeout", "1h"),
    ("autovacuum", "off"),
    ("jit", "off"),
    ("huge_pages", "off"),
    // Shared memory of the kernel would outlive a crash.
    ("dynamic_shared_memory_type", "mmap"),
    ("hot_standby", "on"),
    ("wal_receiver_status_interval", "1s"),
    // The standby reconnects soon after its connection was lost; the default is five seconds.
    ("wal_retrieve_retry_interval", "100ms"),
    ("wal_receiver_timeout", "10s"),
    ("wal_sender_timeout", "10s"),
    ("restart_after_crash", "off"),
    ("log_min_messages", "warning"),
];

/// The programs of an installed release.
#[derive(Clone, Debug)]
pub struct Programs {
    directory: PathBuf,
}

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct PostgresPlan<'p> {
    /// Its node.
    pub node: &'p str,
    /// Its address there.
    pub address: IpAddr,
    /// The name of its log and its socket directory.
    pub name: &'p str,
    /// The name of its data directory in the [`DataDir`].
    pub data: &'p str,
    /// Settings besides the lab's own; a later one wins.
    pub settings: Vec<(&'p str, String)>,
}

/// A running PostgreSQL server.
#[derive(Debug)]
pub struct Postgres {
    /// Its processes.
    pub server: Server,
    socket: PathBuf,
}

impl Programs {
    /// Finds the newest release; the error names the package to install.
    pub fn locate() -> Result<Self, LabError> {
        let missing = || LabError::MissingProgram { program: "postgres".to_owned(), package: "postgresql" };
        let entries = std::fs::read_dir(RELEASES).map_err(|_| missing())?;
        let releases = entries.flatten().filter_map(|entry| {
            let directory = entry.path().join("bin");
            let number: u32 = entry.file_name().to_str()?.parse().ok()?;
            directory.join("postgres").is_file().then_some((number, directory))
        });
        let (_, directory) = releases.max().ok_or_else(missing)?;
        Ok(Self { directory })
    }

    /// The output of `postgres --version`.
    pub fn version(&self, network: &Network<'_>) -> Result<String, LabError> {
        Ok(network.trace().run(&[&self.path("postgres")?, "--version"])?.trim().to_owned())
    }

    /// Creates an empty cluster in the data directory `data`; it accepts every user of the lab without a password.
    pub fn init(&self, network: &Network<'_>, place: &DataDir, node: &str, data: &str) -> Result<(), LabError> {
        let directory = place.directory(data)?;
        let (program, path) = (self.path("initdb")?, path_text(&directory)?);
        let words =
            ["-D", &path, "-U", USER, "-A", "trust", "--locale=C", "-E", "UTF8", "--wal-segsize=1", "--no-sync"];
        run_as_owner(network, place, node, &[&[program.as_str()], &words[..]].concat())?;
        let rules = "local all all trust\nhost all all all trust\nlocal replication all trust\nhost replication all all trust\n";
        let file = directory.join("pg_hba.conf");
        std::fs::write(&file, rules).map_err(LabError::doing(format!("write {}", file.display())))
    }

    /// Copies a running primary from `node` through the network into the data directory `data`, as a standby.
    pub fn base_backup(
        &self,
        network: &Network<'_>,
        place: &DataDir,
        (node, data): (&str, &str),
        from: SocketAddr,
    ) -> Result<(), LabError> {
        let directory = path_text(&place.directory(data)?)?;
        let (program, host, port) = (self.path("pg_basebackup")?, from.ip().to_string(), from.port().to_string());
        let words = ["-h", &host, "-p", &port, "-U", USER, "-D", &directory, "-R", "-X", "stream", "--checkpoint=fast"];
        run_as_owner(network, place, node, &[&[program.as_str()], &words[..], &["--no-sync"]].concat())?;
        // The connection to the primary is set on the server's command line; the one of this backup must not apply.
        let file = Path::new(&directory).join("postgresql.auto.conf");
        std::fs::write(&file, "").map_err(LabError::doing(format!("write {}", file.display())))
    }

    /// Starts a server and waits until it answers.
    pub fn start(&self, network: &Network<'_>, place: &DataDir, plan: &PostgresPlan<'_>) -> Result<Postgres, LabError> {
        let mut postgres = self.launch(network, place, plan)?;
        postgres.wait_ready()?;
        Ok(postgres)
    }

    /// Starts a server without waiting for it.
    pub fn launch(
        &self,
        network: &Network<'_>,
        place: &DataDir,
        plan: &PostgresPlan<'_>,
    ) -> Result<Postgres, LabError> {
        let sockets = place.directory(&format!("{}.socket", plan.name))?;
        let own = [
            ("listen_addresses", plan.address.to_string()),
            ("port", PORT.to_string()),
            ("unix_socket_directories", path_text(&sockets)?),
        ];
        let fixed = SETTINGS.map(|(key, value)| (key, value.to_owned()));
        let settings = fixed.into_iter().chain(own).chain(plan.settings.iter().cloned());
        let settings: Vec<_> = settings.flat_map(|(key, value)| ["-c".to_owned(), format!("{key}={value}")]).collect();
        let (program, data) = (self.path("postgres")?, path_text(&place.path(plan.data))?);
        let mut words = vec![program.as_str(), "-D", &data];
        words.extend(settings.iter().map(String::as_str));
        let server = Server::start(network, place, plan.node, plan.name, &words)?;
        Ok(Postgres { server, socket: sockets.join(format!(".s.PGSQL.{PORT}")) })
    }

    /// Starts the load generator `pgbench` in a node with these arguments, for a server in the same node.
    pub fn pgbench(
        &self,
        network: &Network<'_>,
        (node, server): (&str, &Postgres),
        words: &[&str],
    ) -> Result<Process, LabError> {
        let (program, port) = (self.path("pgbench")?, PORT.to_string());
        let sockets = path_text(server.socket.parent().unwrap_or(&server.socket))?;
        let server = [program.as_str(), "-h", &sockets, "-p", &port, "-U", USER];
        network.start(node, "pgbench", &[&server[..], words, &["postgres"]].concat())
    }

    fn path(&self, program: &str) -> Result<String, LabError> {
        path_text(&self.directory.join(program))
    }
}

impl Postgres {
    /// Waits until it answers queries.
    pub fn wait_ready(&mut self) -> Result<(), LabError> {
        let socket = self.socket.clone();
        let is_ready = || Session::connect(&socket, USER, "postgres").is_ok();
        self.server.wait_ready(READY_WITHIN, "PostgreSQL answers", is_ready)
    }

    /// A new session.
    pub fn session(&self) -> Result<Session, LabError> {
        self.attempt().map_err(LabError::doing(format!("connect to {}", self.socket.display())))
    }

    /// Like [`session`](Self::session), but returns the plain error for callers that retry.
    pub fn attempt(&self) -> io::Result<Session> {
        Session::connect(&self.socket, USER, "postgres")
    }

    /// The command that opens a session by hand.
    pub fn psql(&self) -> Result<String, LabError> {
        let sockets = path_text(self.socket.parent().unwrap_or(&self.socket))?;
        Ok(format!("psql -h {sockets} -p {PORT} -U {USER} postgres"))
    }

    /// Shuts it down in the normal way.
    pub fn stop(&mut self) -> Result<(), LabError> {
        self.server.stop(Signal::INT)
    }

    /// Waits until `sql` returns `wanted` as its first value.
    pub fn wait_for(&self, network: &Network<'_>, sql: &str, wanted: &str, limit: Duration) -> Result<(), LabError> {
        let mut session = self.session()?;
        let deadline = Instant::now() + limit;
        loop {
            let found = session.value(sql).map_err(LabError::doing(format!("ask PostgreSQL `{sql}`")))?;
            if found.as_deref() == Some(wanted) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let found = found.unwrap_or_else(|| "nothing".to_owned());
                return Err(LabError::Sentence(format!("`{sql}` gives {found} and not {wanted} within {limit:?}")));
            }
            network.trace().check_stop()?;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The settings of a primary: how a commit waits, and for which standby; for none if `standby` is empty.
pub fn primary_settings(synchronous_commit: &str, standby: &str) -> Vec<(&'static str, String)> {
    let names = if standby.is_empty() { String::new() } else { format!("FIRST 1 ({standby})") };
    vec![("synchronous_commit", synchronous_commit.to_owned()), ("synchronous_standby_names", names)]
}

/// The settings of a standby named `mirror` that follows the server or the gate at `primary`.
pub fn standby_settings(primary: SocketAddr) -> Vec<(&'static str, String)> {
    let (host, port) = (primary.ip(), primary.port());
    let words = format!("host={host} port={port} user={USER} application_name=mirror connect_timeout=5");
    vec![("primary_conninfo", words)]
}

fn run_as_owner(network: &Network<'_>, place: &DataDir, node: &str, words: &[&str]) -> Result<String, LabError> {
    let owner = place.as_owner();
    let owner: Vec<&str> = owner.iter().map(String::as_str).collect();
    network.run(node, &[&owner[..], words].concat())
}
