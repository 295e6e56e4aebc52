//! Rows: clients insert into PostgreSQL, and the standby at the mirror is what survives.
//!
//! Both servers begin each trial from the same prepared data.

use std::time::Duration;

use rand::{Rng, rngs::SmallRng};

use super::{Outcome, arm::Arm, site::Site};
use crate::lab::{
    error::LabError,
    servers::postgres_pair::{Follows, PostgresPair},
    workload::rows::{self, ClientPlan, Clients, Rhythm},
};

/// Rows come in bursts of 64 KB, more than the uplink takes at once: a third of the time something that is committed waits
/// in its host for its turn. In all it is 3 MB of log a second, a quarter of the uplink, so that local-sync does not lose
/// only because the WAN cannot carry what it promises.
const CLIENTS: ClientPlan<'_> = ClientPlan {
    clients: 4,
    from: 1,
    bytes: 4096,
    before: "",
    rhythm: Rhythm { burst: 16, pause: Duration::from_millis(90) },
};
/// How long the clients work before the disaster begins; by then TCP has found the rate.
const BEFORE: std::ops::Range<Duration> = Duration::from_millis(600)..Duration::from_millis(1300);

/// One trial.
pub fn trial(site: &mut Site<'_>, servers: &PostgresPair<'_>, rng: &mut SmallRng) -> Result<Outcome, LabError> {
    site.mend()?;
    servers.renew()?;
    let policy = match site.arm {
        Arm::NetworkSync | Arm::TooLittleRepair => Some("auto"),
        Arm::NetworkSyncNoRepair => Some("available=0ms"),
        Arm::LocalSync | Arm::LocalSyncFec => None,
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
    servers.wait_replayed(&mut mirror)?;
    let survived = rows::ids(&mirror)?;
    mirror.server.crash();
    let acknowledged: Vec<_> = told.iter().filter(|row| row.at < strike.cut).collect();
    let lost = acknowledged.iter().filter(|row| survived.binary_search(&row.id).is_err()).count() as u64;
    let waits = told.iter().map(|row| row.wait).collect();
    let acknowledged = acknowledged.len() as u64;
    Ok(Outcome { acknowledged, lost, waits, ..Outcome::new(site, &strike, drained) })
}
