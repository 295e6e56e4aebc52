//! A PostgreSQL primary and its standby, prepared once and restarted from copies for each trial.
//!
//! The standby follows the primary directly or through a gate. The scenario decides what is written and what must
//! survive.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use super::{
    data_dir::DataDir,
    gate::{Gate, GatePlan},
    postgres::{self, Postgres, PostgresPlan, Programs, primary_settings, standby_settings},
};
use crate::lab::{error::LabError, network::Network, pair::Publisher, process::Process, workload::rows};

/// The port of the gate, at the primary's address.
pub const GATE_PORT: u16 = 5433;
/// How long the standby may take to follow.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(20);
/// A standby whose positions do not change for this long has replayed everything it can.
const QUIET: Duration = Duration::from_millis(250);
/// Counts the standbys that follow.
const FOLLOWERS: &str = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL";
/// Whether every standby has flushed everything that the primary has.
const ARE_EVEN: &str =
    "SELECT count(*) > 0 AND bool_and(flush_lsn >= pg_current_wal_flush_lsn()) FROM pg_stat_replication";
/// The received and the replayed position of the standby.
const POSITIONS: &str = "SELECT concat(pg_last_wal_receive_lsn(), ' ', pg_last_wal_replay_lsn())";

/// The server that the standby follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follows {
    /// The primary itself.
    Primary,
    /// The gate.
    Gate,
}

/// A setting of a server and its value.
pub type Setting = (&'static str, &'static str);

/// A prepared primary and its standby.
#[derive(Debug)]
pub struct PostgresPair<'n> {
    network: &'n Network<'n>,
    place: DataDir,
    programs: Programs,
    /// Addresses of primary and mirror.
    addresses: [IpAddr; 2],
}

impl<'n> PostgresPair<'n> {
    /// Creates both data directories with the table of rows. The standby's is a base backup through the WAN, which must
    /// work.
    pub fn prepare(network: &'n Network<'n>, addresses: [IpAddr; 2]) -> Result<Self, LabError> {
        let programs = Programs::locate()?;
        let place = DataDir::make(network.trace(), &["postgres", "nobody"])?;
        let pair = Self { network, place, programs, addresses };
        pair.programs.init(network, &pair.place, "primary", "prepared-primary")?;
        let plan = pair.plan("primary", primary_settings("local", ""), &[]);
        let plan = PostgresPlan { data: "prepared-primary", ..plan };
        let mut primary = pair.programs.start(network, &pair.place, &plan)?;
        primary.session()?.query(rows::TABLE).map_err(LabError::doing("make the table"))?;
        let at = SocketAddr::new(addresses[0], postgres::PORT);
        pair.programs.base_backup(network, &pair.place, ("mirror", "prepared-mirror"), at)?;
        primary.stop()?;
        Ok(pair)
    }

    /// The network that the servers are in.
    pub fn network(&self) -> &'n Network<'n> {
        self.network
    }

    /// The release, and the location of the data.
    pub fn describe(&self) -> Result<String, LabError> {
        Ok(format!("{}, {}", self.programs.version(self.network)?, self.place.describe()))
    }

    /// Whether the data is in memory, so that `fsync` costs nothing.
    pub fn is_in_memory(&self) -> bool {
        self.place.is_memory()
    }

    /// Restores the prepared data of both. Neither server may run.
    pub fn renew(&self) -> Result<(), LabError> {
        for node in ["primary", "mirror"] {
            self.place.copy(self.network.trace(), &format!("prepared-{node}"), node)?;
        }
        Ok(())
    }

    /// Starts the primary and waits until it answers; see [`primary_settings`].
    pub fn start_primary(&self, synchronous_commit: &str, standby: &str) -> Result<Postgres, LabError> {
        self.start_primary_with(synchronous_commit, standby, &[])
    }

    /// Like [`start_primary`](Self::start_primary), with more settings.
    pub fn start_primary_with(
        &self,
        synchronous_commit: &str,
        standby: &str,
        more: &[Setting],
    ) -> Result<Postgres, LabError> {
        let plan = self.plan("primary", primary_settings(synchronous_commit, standby), more);
        self.programs.start(self.network, &self.place, &plan)
    }

    /// Starts the standby without waiting for it: it becomes ready when it can follow.
    pub fn launch_mirror(&self, follows: Follows) -> Result<Postgres, LabError> {
        self.launch_mirror_with(follows, &[])
    }

    /// Like [`launch_mirror`](Self::launch_mirror), with more settings.
    pub fn launch_mirror_with(&self, follows: Follows, more: &[Setting]) -> Result<Postgres, LabError> {
        let port = if follows == Follows::Gate { GATE_PORT } else { postgres::PORT };
        let plan = self.plan("mirror", standby_settings(SocketAddr::new(self.addresses[0], port)), more);
        self.programs.launch(self.network, &self.place, &plan)
    }

    /// Starts the load generator `pgbench` in the primary's node, with these arguments.
    pub fn start_pgbench(&self, primary: &Postgres, words: &[&str]) -> Result<Process, LabError> {
        self.programs.pgbench(self.network, ("primary", primary), words)
    }

    /// From the prepared data: a primary that waits for the mirror behind a gate, and a mirror that follows it.
    pub fn start_behind_gate(&self, publisher: &Publisher) -> Result<(Gate, Postgres, Postgres), LabError> {
        self.start_behind(&self.gate_plan(publisher, "auto"), Gate::start)
    }

    /// Like [`start_behind_gate`](Self::start_behind_gate), with a gate that can move to another appliance.
    pub fn start_behind_movable_gate(&self, publisher: &Publisher) -> Result<(Gate, Postgres, Postgres), LabError> {
        self.start_behind(&self.gate_plan(publisher, "auto"), Gate::start_from_file)
    }

    fn start_behind(
        &self,
        plan: &GatePlan<'_>,
        start: impl FnOnce(&Network<'_>, &GatePlan<'_>) -> Result<Gate, LabError>,
    ) -> Result<(Gate, Postgres, Postgres), LabError> {
        self.renew()?;
        let gate = start(self.network, plan)?;
        let primary = self.start_primary("remote_write", "mirror")?;
        let mirror = self.launch_mirror(Follows::Gate)?;
        self.wait_followed(&primary)?;
        Ok((gate, primary, mirror))
    }

    /// Starts a gate between primary and standby.
    pub fn start_gate(&self, publisher: &Publisher, policy: &str) -> Result<Gate, LabError> {
        Gate::start(self.network, &self.gate_plan(publisher, policy))
    }

    /// Starts a gate that can read its settings again.
    pub fn start_gate_with_file(&self, publisher: &Publisher, policy: &str) -> Result<Gate, LabError> {
        Gate::start_from_file(self.network, &self.gate_plan(publisher, policy))
    }

    /// The settings of a gate between primary and standby.
    pub fn gate_plan<'p>(&self, publisher: &'p Publisher, policy: &'p str) -> GatePlan<'p> {
        GatePlan {
            kind: "postgres",
            node: "primary",
            name: "gate",
            listen: SocketAddr::new(self.addresses[0], GATE_PORT),
            upstream: SocketAddr::new(self.addresses[0], postgres::PORT),
            policy,
            publisher,
            more: Vec::new(),
        }
    }

    /// Waits until the standby follows the primary.
    pub fn wait_followed(&self, primary: &Postgres) -> Result<(), LabError> {
        primary.wait_for(self.network, FOLLOWERS, "1", FOLLOWS_WITHIN)
    }

    /// Waits until the standby has everything that the primary has.
    pub fn wait_even(&self, primary: &Postgres) -> Result<(), LabError> {
        primary.wait_for(self.network, ARE_EVEN, "t", FOLLOWS_WITHIN)
    }

    /// Waits until the standby has replayed everything it received. An incomplete record at the end is not replayed.
    pub fn wait_replayed(&self, mirror: &mut Postgres) -> Result<(), LabError> {
        mirror.wait_ready()?;
        let mut session = mirror.session()?;
        let deadline = Instant::now() + FOLLOWS_WITHIN;
        let (mut last, mut since) = (None, Instant::now());
        while since.elapsed() < QUIET {
            let now = session.value(POSITIONS).map_err(LabError::doing("ask the standby how far it is"))?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            if Instant::now() > deadline {
                return Err(LabError::Sentence(format!("the standby still replays {FOLLOWS_WITHIN:?} after the end")));
            }
            self.network.trace().check_stop()?;
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// The settings of the server of a node, on the data of the same name.
    fn plan<'p>(&self, node: &'p str, mut settings: Vec<(&'static str, String)>, more: &[Setting]) -> PostgresPlan<'p> {
        let address = self.addresses[usize::from(node == "mirror")];
        settings.extend(more.iter().map(|(key, value)| (*key, (*value).to_owned())));
        PostgresPlan { node, address, name: node, data: node, settings }
    }
}
