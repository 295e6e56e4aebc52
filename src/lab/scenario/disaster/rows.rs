//! Rows: clients insert into PostgreSQL, and the standby at the mirror is what survives.
//!
//! Both servers begin each trial from a copy of one prepared pair of data directories.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use rand::{Rng, rngs::SmallRng};

use super::{
    Outcome,
    arm::Arm,
    site::{Site, plain_route},
};
use crate::lab::{
    error::LabError,
    network::Network,
    scenario::Stage,
    servers::{
        gate::{Gate, GatePlan},
        place::Place,
        postgres::{self, Postgres, PostgresPlan, Programs, primary_settings, standby_settings},
    },
    workload::rows::{self, Clients},
};

/// Where the gate listens, at the primary.
const GATE_PORT: u16 = 5433;
const CLIENTS: u64 = 4;
/// How long the clients work before the disaster begins.
const BEFORE: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_millis(1000);
/// How long the standby may take to follow.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(20);
/// A standby whose positions do not change for this long has replayed what it can.
const QUIET: Duration = Duration::from_millis(250);
/// Whether a standby follows, and counts for commits when it shall.
const FOLLOWERS: &str = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND flush_lsn IS NOT NULL";
/// How far the standby is.
const POSITIONS: &str = "SELECT concat(pg_last_wal_receive_lsn(), ' ', pg_last_wal_replay_lsn())";

/// A prepared primary and its standby.
#[derive(Debug)]
pub struct Servers<'n> {
    network: &'n Network<'n>,
    place: Place,
    programs: Programs,
    /// Addresses of primary and mirror.
    addresses: [IpAddr; 2],
}

impl<'n> Servers<'n> {
    /// Makes both data directories: the standby's is a base backup through the WAN.
    pub fn prepare(stage: &Stage<'_>, network: &'n Network<'n>, addresses: [IpAddr; 2]) -> Result<Self, LabError> {
        let programs = Programs::locate()?;
        let place = Place::make(stage.trace, &["postgres", "nobody"])?;
        stage.say(&format!("  {}, {}", programs.version(network)?, place.describe()));
        let servers = Self { network, place, programs, addresses };
        servers.programs.init(network, &servers.place, "primary", "prepared-primary")?;
        let mut primary = servers.start("prepared-primary", primary_settings("local", ""))?;
        let mut session = primary.session()?;
        session.query(rows::TABLE).map_err(LabError::doing("make the table"))?;
        plain_route(network, "add")?;
        let at = SocketAddr::new(addresses[0], postgres::PORT);
        servers.programs.base_backup(network, &servers.place, ("mirror", "prepared-mirror"), at)?;
        plain_route(network, "del")?;
        primary.stop()?;
        Ok(servers)
    }

    fn start(&self, data: &str, settings: Vec<(&'static str, String)>) -> Result<Postgres, LabError> {
        self.programs.start(self.network, &self.place, &self.plan("primary", data, settings))
    }

    fn plan<'p>(&self, node: &'p str, data: &'p str, settings: Vec<(&'static str, String)>) -> PostgresPlan<'p> {
        let address = self.addresses[usize::from(node == "mirror")];
        PostgresPlan { node, address, name: node, data, settings }
    }

    /// One trial.
    pub fn trial(&self, site: &mut Site<'_>, rng: &mut SmallRng) -> Result<Outcome, LabError> {
        site.mend()?;
        for data in ["primary", "mirror"] {
            self.place.copy(self.network.trace(), &format!("prepared-{data}"), data)?;
        }
        let mut gate = self.gate(site)?;
        let (commit, standby) = if gate.is_some() { ("remote_write", "mirror") } else { ("local", "") };
        let mut primary = self.start("primary", primary_settings(commit, standby))?;
        let port = if gate.is_some() { GATE_PORT } else { postgres::PORT };
        let follow = standby_settings(SocketAddr::new(self.addresses[0], port));
        let plan = self.plan("mirror", "mirror", follow);
        let mut mirror = self.programs.launch(self.network, &self.place, &plan)?;
        primary.wait_for(self.network, FOLLOWERS, "1", FOLLOWS_WITHIN)?;
        let clients = Clients::start(&primary, CLIENTS, 1, "")?;
        site.stage.pause(rng.random_range(BEFORE))?;
        let strike = site.strike(|| {
            primary.server.crash();
            if let Some(gate) = &mut gate {
                gate.crash();
            }
        })?;
        let told = clients.finish();
        site.drain()?;
        mirror.wait_ready()?;
        self.wait_replayed(&mirror)?;
        let survived = rows::ids(&mirror)?;
        mirror.server.crash();
        let acknowledged: Vec<_> = told.iter().filter(|row| row.at < strike.cut).collect();
        let lost = acknowledged.iter().filter(|row| survived.binary_search(&row.id).is_err()).count();
        let waits = told.iter().map(|row| row.wait).collect();
        Ok(Outcome::new(site, &strike, acknowledged.len() as u64, lost as u64, waits))
    }

    fn gate(&self, site: &Site<'_>) -> Result<Option<Gate>, LabError> {
        let policy = match site.arm {
            Arm::NetworkSync | Arm::TooLittleRepair => "auto",
            Arm::NetworkSyncNoRepair => "available=0ms",
            Arm::LocalSync | Arm::LocalSyncFec => return Ok(None),
        };
        let Some(publisher) = site.publisher()? else { return Ok(None) };
        let plan = GatePlan {
            kind: "postgres",
            node: "primary",
            name: "gate",
            listen: SocketAddr::new(self.addresses[0], GATE_PORT),
            upstream: SocketAddr::new(self.addresses[0], postgres::PORT),
            policy,
            publisher,
            more: Vec::new(),
        };
        Gate::start(self.network, &plan).map(Some)
    }

    /// Waits until the standby has replayed all that it received. Half a record at the end stays.
    fn wait_replayed(&self, mirror: &Postgres) -> Result<(), LabError> {
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
}
