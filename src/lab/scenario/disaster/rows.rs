//! Rows: clients insert into PostgreSQL, and the rows of the mirror's standby are what survives.
//!
//! Both servers start each trial from the same prepared data.

use std::time::Duration;

use rand::{Rng, rngs::SmallRng};

use super::{Outcome, arm::Arm, site::Site};
use crate::lab::{
    error::LabError,
    servers::{
        postgres::Postgres,
        postgres_pair::{Follows, PostgresPair},
    },
    workload::rows::{self, ClientPlan, Clients, Committed, Rhythm},
};

/// Rows come in bursts of 64 KB, more than the uplink takes at once: a third of the time some committed data waits in
/// the host's queue. In total it is 3 MB of WAL per second, a quarter of the uplink, so that local-sync does not lose
/// data merely because the WAN is too slow.
pub const CLIENTS: ClientPlan<'_> = ClientPlan {
    clients: 4,
    from: 1,
    bytes: 4096,
    before: "",
    rhythm: Rhythm { burst: 16, pause: Duration::from_millis(90) },
};
/// How long the clients work before the disaster begins; by then TCP has found the rate.
const BEFORE: std::ops::Range<Duration> = Duration::from_millis(600)..Duration::from_millis(1300);
/// A row that is still missing after this pause is lost.
const SECOND_LOOK: Duration = Duration::from_secs(1);

/// One trial.
pub fn trial(site: &mut Site<'_>, servers: &PostgresPair<'_>, rng: &mut SmallRng) -> Result<Outcome, LabError> {
    site.mend()?;
    servers.renew()?;
    let policy = match site.arm {
        Arm::NetworkSyncNoRepair => Some("available=0ms"),
        Arm::LocalSync | Arm::LocalSyncFec => None,
        Arm::NetworkSync
        | Arm::TooLittleRepair
        | Arm::NetworkSyncBursts
        | Arm::NetworkSyncInterrupted
        | Arm::FixedInterrupted => Some("auto"),
    };
    let mut gate = match (site.publisher()?, policy) {
        (Some(publisher), Some(policy)) => Some(servers.start_gate(publisher, policy)?),
        _ => None,
    };
    let ((commit, standby), follows) = match gate {
        Some(_) => (("remote_write", "mirror"), Follows::Gate),
        None => (("local", ""), Follows::Primary),
    };
    let mut primary = servers.start_primary(commit, standby)?;
    let mut mirror = servers.launch_mirror(follows)?;
    servers.wait_followed(&primary)?;
    let clients = Clients::start(&primary, CLIENTS)?;
    site.stage.pause(rng.random_range(BEFORE))?;
    let strike = site.strike(|| {
        primary.server.crash();
        if let Some(gate) = &mut gate {
            gate.crash();
        }
    })?;
    let told = clients.finish();
    let drained = site.drain()?;
    let acknowledged: Vec<_> = told.iter().filter(|row| row.at < strike.cut).copied().collect();
    let missing = missing(site, servers, &mut mirror, &acknowledged)?;
    mirror.server.crash();
    let since = missing.iter().map(|row| strike.cut - row.at).max();
    let (acknowledged, lost) = (acknowledged.len() as u64, missing.len() as u64);
    let waits = told.iter().map(|row| row.wait).collect();
    Ok(Outcome { acknowledged, lost, since, waits, ..Outcome::new(site, &strike, drained) })
}

/// The acknowledged rows that the standby does not have after it has replayed all that it received.
pub fn missing(
    site: &Site<'_>,
    servers: &PostgresPair<'_>,
    mirror: &mut Postgres,
    acknowledged: &[Committed],
) -> Result<Vec<Committed>, LabError> {
    let mut look = || {
        servers.wait_replayed(mirror)?;
        let survived = rows::ids(mirror)?;
        let is_missing = |row: &&Committed| survived.binary_search(&row.id).is_err();
        Ok(acknowledged.iter().filter(is_missing).copied().collect::<Vec<_>>())
    };
    let missing = look()?;
    if missing.is_empty() || !site.arm.waits_for_protection() {
        return Ok(missing);
    }
    // Look twice before a violation is claimed: on a busy machine a standby can seem ready too early.
    site.stage.pause(SECOND_LOOK)?;
    look()
}
