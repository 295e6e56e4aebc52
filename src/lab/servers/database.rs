//! The operations common to Redis and MariaDB: start a primary and its mirror, write rows, and read which rows
//! survived.
//!
//! The differences are in [`super::redis`] and [`super::mariadb`]. PostgreSQL has more wait modes and modules of its
//! own.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    data_dir::DataDir,
    gate::{Gate, GatePlan},
    mariadb, redis,
    server::Server,
};
use crate::lab::{error::LabError, network::Network, pair::Publisher, trace::need_programs, workload::rows::Write};

/// How long a server may take to be ready, or its mirror to follow.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// A mirror that receives nothing new for this long has received everything.
const QUIET: Duration = Duration::from_millis(400);
/// Bytes of a row, without its id.
const WORDS: usize = 400;

/// The kind of database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Redis; a write waits with `WAIT`.
    Redis,
    /// MariaDB; a commit waits by semi-synchronous replication.
    MariaDb,
}

/// A primary and its mirror that can be started repeatedly.
#[derive(Debug)]
pub struct Databases<'n> {
    kind: Kind,
    network: &'n Network<'n>,
    place: DataDir,
    /// Addresses of primary and mirror.
    addresses: [IpAddr; 2],
}

/// A running server.
#[derive(Debug)]
pub struct Database {
    kind: Kind,
    /// Its processes.
    pub server: Server,
    socket: PathBuf,
}

impl Kind {
    /// Its name as a gate's protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::MariaDb => "mariadb",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Redis => redis::PORT,
            Self::MariaDb => mariadb::PORT,
        }
    }
}

impl<'n> Databases<'n> {
    /// Prepares the data with which both start.
    pub fn prepare(kind: Kind, network: &'n Network<'n>, addresses: [IpAddr; 2]) -> Result<Self, LabError> {
        let (programs, users): (&[&str], _) = match kind {
            Kind::Redis => (&["redis-server"], ["redis", "nobody"]),
            Kind::MariaDb => (&["mariadbd", "mariadb-install-db"], ["mysql", "nobody"]),
        };
        need_programs(programs)?;
        let place = DataDir::make(network.trace(), &users)?;
        let databases = Self { kind, network, place, addresses };
        if kind == Kind::MariaDb {
            mariadb::init(network, &databases.place, "primary", "prepared")?;
            let mut first = databases.start("primary")?;
            let prepare = || mariadb::prepare(&mut mariadb::Session::connect(&first.socket)?);
            prepare().map_err(LabError::doing("prepare MariaDB"))?;
            first.server.stop(Signal::TERM)?;
            databases.place.copy(network.trace(), "primary", "prepared")?;
        }
        Ok(databases)
    }

    /// The kind, and the location of the data.
    pub fn describe(&self) -> String {
        format!("{}, {}", self.kind.name(), self.place.describe())
    }

    /// Starts the server of a node on fresh data and waits until it answers.
    pub fn start(&self, node: &str) -> Result<Database, LabError> {
        self.launch(node, None)
    }

    /// Starts the mirror; it follows the primary, through the gate if there is one.
    pub fn start_mirror(&self, has_gate: bool) -> Result<Database, LabError> {
        let port = self.kind.port() + u16::from(has_gate);
        self.launch("mirror", Some(SocketAddr::new(self.addresses[0], port)))
    }

    /// Starts a gate in front of the primary.
    pub fn start_gate(&self, publisher: &Publisher) -> Result<Gate, LabError> {
        let upstream = SocketAddr::new(self.addresses[0], self.kind.port());
        let plan = GatePlan {
            kind: self.kind.name(),
            node: "primary",
            name: "gate",
            listen: SocketAddr::new(self.addresses[0], self.kind.port() + 1),
            upstream,
            policy: "auto",
            publisher,
            more: Vec::new(),
        };
        Gate::start(self.network, &plan)
    }

    fn launch(&self, node: &str, primary: Option<SocketAddr>) -> Result<Database, LabError> {
        let address = self.addresses[usize::from(node == "mirror")];
        let socket = self.place.directory(&format!("{node}.socket"))?.join("socket");
        let server = match self.kind {
            Kind::Redis => redis::launch(self.network, &self.place, (node, address), primary, &socket)?,
            Kind::MariaDb => {
                self.place.copy(self.network.trace(), "prepared", node)?;
                mariadb::launch(self.network, &self.place, (node, address), &socket)?
            }
        };
        let mut database = Database { kind: self.kind, server, socket: socket.clone() };
        let is_ready = || is_ready(self.kind, &socket);
        database.server.wait_ready(READY_WITHIN, &format!("{} answers", self.kind.name()), is_ready)?;
        if let (Kind::MariaDb, Some(primary)) = (self.kind, primary) {
            let follow = || mariadb::follow(&mut mariadb::Session::connect(&socket)?, primary);
            follow().map_err(LabError::doing("make MariaDB follow"))?;
        }
        Ok(database)
    }

    /// Waits until a mirror follows this primary and counts for acknowledgements.
    pub fn wait_followed(&self, primary: &Database) -> Result<(), LabError> {
        let is_followed = || -> io::Result<bool> {
            match self.kind {
                Kind::Redis => redis::Session::connect(&primary.socket)?.is_followed(),
                Kind::MariaDb => {
                    let mut session = mariadb::Session::connect(&primary.socket)?;
                    Ok(session.status("Rpl_semi_sync_master_clients")? == "1")
                }
            }
        };
        let deadline = Instant::now() + READY_WITHIN;
        while !is_followed().map_err(LabError::doing("ask whether the mirror follows"))? {
            if Instant::now() > deadline {
                return Err(LabError::Sentence(format!("no mirror follows within {READY_WITHIN:?}")));
            }
            self.network.trace().check_stop()?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Database {
    /// Sets whether commits of MariaDB wait for the mirror; in Redis each write sets that.
    pub fn set_waiting(&self, waits: bool) -> Result<(), LabError> {
        let set = || -> io::Result<()> {
            let mut session = mariadb::Session::connect(&self.socket)?;
            session.query(&format!("SET GLOBAL rpl_semi_sync_master_enabled = {}", i32::from(waits))).map(drop)
        };
        if self.kind == Kind::Redis { Ok(()) } else { set().map_err(LabError::doing("choose how commits wait")) }
    }

    /// A client with a session of its own that writes rows; with `waits`, each write returns after the mirror or the
    /// gate has acknowledged it.
    pub fn writer(&self, waits: bool) -> Result<Write, LabError> {
        let words = "w".repeat(WORDS);
        let writer = || -> io::Result<Write> {
            match self.kind {
                Kind::Redis => {
                    let mut session = redis::Session::connect(&self.socket)?;
                    Ok(Box::new(move |id| session.set(id, &words, waits)))
                }
                Kind::MariaDb => {
                    let mut session = mariadb::Session::connect(&self.socket)?;
                    let sql = move |id| format!("INSERT INTO lab.items VALUES ({id}, '{words}')");
                    Ok(Box::new(move |id| session.query(&sql(id)).map(drop)))
                }
            }
        };
        writer().map_err(LabError::doing(format!("connect to {}", self.socket.display())))
    }

    /// The number of commits that no mirror acknowledged although they should have waited: MariaDB fell back to
    /// asynchronous replication. Always zero for Redis, which reports it to the client.
    pub fn fell_back(&self) -> Result<u64, LabError> {
        let ask = || -> io::Result<u64> {
            let mut session = mariadb::Session::connect(&self.socket)?;
            let is_on = session.status("Rpl_semi_sync_master_status")? == "ON";
            let count: u64 = session.status("Rpl_semi_sync_master_no_tx")?.parse().unwrap_or(1);
            Ok(count + u64::from(!is_on))
        };
        if self.kind == Kind::Redis { Ok(0) } else { ask().map_err(LabError::doing("ask for semi-sync")) }
    }

    /// The ids of all rows, sorted, after no new ones have come for a while.
    pub fn settled_ids(&self) -> Result<Vec<u64>, LabError> {
        let read = || -> io::Result<Vec<u64>> {
            match self.kind {
                Kind::Redis => redis::Session::connect(&self.socket)?.ids(),
                Kind::MariaDb => mariadb::Session::connect(&self.socket)?.ids(),
            }
        };
        let read = || read().map_err(LabError::doing("read the rows of the mirror"));
        let deadline = Instant::now() + READY_WITHIN;
        let (mut ids, mut since) = (read()?, Instant::now());
        while since.elapsed() < QUIET && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            let now = read()?;
            if now.len() != ids.len() {
                (ids, since) = (now, Instant::now());
            }
        }
        ids.sort_unstable();
        Ok(ids)
    }
}

fn is_ready(kind: Kind, socket: &Path) -> bool {
    match kind {
        Kind::Redis => redis::Session::connect(socket).is_ok(),
        Kind::MariaDb => mariadb::Session::connect(socket).is_ok(),
    }
}
