//! Slot safety: the standby is halted while commits go on; the primary must not record that the standby has flushed
//! them.
//!
//! The gate may raise only the position that `remote_write` waits for. The flush position moves the replication slot,
//! and a slot ahead of its standby lets the primary recycle WAL that no other host has. The WAN loses nothing here and
//! no process dies: `disaster` and `crash-matrix` cover that.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::{
    Stage,
    disaster::site::ONE_WAY,
    stage::{WAN_TCP, ends},
};
use crate::lab::{
    error::LabError,
    pair::{Pair, PairOptions},
    report::Report,
    servers::{
        postgres::Postgres,
        postgres_pair::{Follows, PostgresPair, Setting},
        postgres_session::Session,
    },
    workload::rows::{self, ClientPlan, Clients, Rhythm},
};

/// How long the standby is halted, unless the user sets another time.
const SECONDS: u64 = 5;
/// How long the clients work before that.
const BEFORE: Duration = Duration::from_secs(1);
/// Time between two reads of the positions.
const EVERY: Duration = Duration::from_millis(50);
/// Upper bound for halting the standby.
const HALTS_WITHIN: Duration = Duration::from_secs(10);
/// Once the standby goes on, every waiting client must commit again within this time.
const RECOVERY: Duration = Duration::from_secs(10);
/// The clients that wait for protection, and those that wait for the standby itself.
const EARLY: ClientPlan<'_> = ClientPlan {
    clients: 4,
    from: 1,
    bytes: 400,
    before: "SET synchronous_commit = remote_write",
    rhythm: Rhythm::steady(Duration::from_millis(2)),
};
const PATIENT: [(&str, ClientPlan<'_>); 2] = [
    ("on", ClientPlan { clients: 1, from: IDS, before: "SET synchronous_commit = on", ..EARLY }),
    (
        "remote_apply",
        ClientPlan { clients: 1, from: 2 * IDS, before: "SET synchronous_commit = remote_apply", ..EARLY },
    ),
];
/// More ids than a client of one plan ever uses.
const IDS: u64 = 100_000_000;
/// Receive buffers at the mirror's host: the commits must not stop because a halted standby's window is full.
const MIRROR_BUFFERS: [(&str, &str); 1] = [("net.ipv4.tcp_rmem", "4096 33554432 33554432")];
/// Timeouts are off because the halt is longer than their defaults.
const PRIMARY: [Setting; 1] = [("wal_sender_timeout", "0")];
const MIRROR: [Setting; 2] = [("primary_slot_name", "mirror"), ("wal_receiver_timeout", "0")];

const MAKE_SLOT: &str =
    "SET synchronous_commit = off; SELECT slot_name FROM pg_create_physical_replication_slot('mirror', true)";
const FLUSHED: &str = "SELECT pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint";
/// The positions in the order of [`NAMES`], while the standby uses its slot.
const POSITIONS: &str = "SELECT pg_wal_lsn_diff(slot.restart_lsn, '0/0')::bigint, \
     pg_wal_lsn_diff(standby.flush_lsn, '0/0')::bigint, pg_wal_lsn_diff(standby.replay_lsn, '0/0')::bigint, \
     pg_wal_lsn_diff(standby.write_lsn, '0/0')::bigint \
     FROM pg_replication_slots AS slot JOIN pg_stat_replication AS standby ON standby.pid = slot.active_pid \
     WHERE slot.slot_name = 'mirror'";
const NAMES: [&str; 4] = ["restart_lsn", "flush_lsn", "replay_lsn", "write_lsn"];
/// Index of `write_lsn`, the only position that the gate may raise.
const WRITE: usize = 3;

/// Byte positions in the WAL, in the order of [`NAMES`].
type Positions = [i64; NAMES.len()];

/// What the primary reported while the standby was halted.
#[derive(Clone, Copy, Debug, Default)]
struct Halted {
    looks: u64,
    /// Reads at which the standby did not use its slot.
    missed: u64,
    /// The maximum of each position.
    most: Positions,
}

/// All findings.
#[derive(Clone, Copy, Debug, Default)]
struct Findings {
    /// The primary's flushed position once the standby was halted: the standby cannot have more.
    bound: i64,
    halted: Halted,
    /// The primary's flushed position at the end.
    flushed: i64,
    /// Commits with `remote_write` that began and were acknowledged during the halt.
    early: u64,
    /// Commits of each of [`PATIENT`] during the halt, and until all clients had committed again.
    meanwhile: [u64; 2],
    afterwards: [u64; 2],
    /// The positions once the standby had received everything.
    after: Positions,
    acknowledged: u64,
    lost: u64,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(SECONDS).max(1);
    stage.say(&format!(
        "slot: PostgreSQL, a standby with a replication slot behind the gate, {ONE_WAY:?} one way. The standby is halted for\n\
         {seconds} s while clients commit: does the gate move anything that only the standby's disk may move?\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.sysctl("mirror", &MIRROR_BUFFERS)?;
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let servers = PostgresPair::prepare(&network, ends(&network)?)?;
    network.tell_wan(&format!("set delay {}ms", ONE_WAY.as_millis()))?;
    stage.say(&format!("  {}", servers.describe()?));
    servers.renew()?;
    let gate = servers.start_gate(pair.appliances[0].publisher()?, "auto")?;
    let primary = servers.start_primary_with("remote_write", "mirror", &PRIMARY)?;
    primary.session()?.query(MAKE_SLOT).map_err(LabError::doing("make the slot"))?;
    let mirror = servers.launch_mirror_with(Follows::Gate, &MIRROR)?;
    servers.wait_followed(&primary)?;
    let findings = halt(stage, &servers, &primary, mirror, Duration::from_secs(seconds))?;
    drop((primary, gate));
    pair.stop()?;
    Ok(report(&findings))
}

/// Halts the standby under load, reads the positions, and lets it go on.
fn halt(
    stage: &Stage<'_>,
    servers: &PostgresPair<'_>,
    primary: &Postgres,
    mut mirror: Postgres,
    duration: Duration,
) -> Result<Findings, LabError> {
    let mut session = primary.session()?;
    let early = Clients::start(primary, EARLY)?;
    stage.pause(BEFORE)?;
    mirror.server.halt(HALTS_WITHIN.mul_f64(stage.options.slack))?;
    // The primary flushes data before it sends it, so the standby cannot have flushed more than this.
    let bound = flushed(&mut session)?;
    let begin = Instant::now();
    let [(_, on), (_, apply)] = PATIENT;
    let patient = [Clients::start(primary, on)?, Clients::start(primary, apply)?];
    let mut halted = Halted::default();
    while begin.elapsed() < duration {
        halted.take(look(&mut session)?);
        stage.pause(EVERY)?;
    }
    let meanwhile = patient.each_ref().map(Clients::count);
    let end = Instant::now();
    mirror.server.signal_all(Signal::CONT);
    let limit = RECOVERY.mul_f64(stage.options.slack);
    while patient.iter().zip(meanwhile).any(|(clients, before)| clients.count() <= before) && end.elapsed() < limit {
        stage.pause(Duration::from_millis(10))?;
    }
    let afterwards = patient.each_ref().map(Clients::count);
    let [on, apply] = patient;
    let mut told = Vec::new();
    let mut early_told = 0;
    for (number, clients) in [early, on, apply].into_iter().enumerate() {
        if !clients.wait_idle(limit) {
            return Err(LabError::Sentence(format!("a commit still waits {limit:?} after the standby goes on")));
        }
        let rows = clients.finish();
        if number == 0 {
            early_told = rows.iter().filter(|row| row.at - row.wait > begin && row.at < end).count() as u64;
        }
        told.extend(rows);
    }
    servers.wait_even(primary)?;
    servers.wait_replayed(&mut mirror)?;
    let survived = rows::ids(&mirror)?;
    let lost = told.iter().filter(|row| survived.binary_search(&row.id).is_err()).count() as u64;
    let gone = || LabError::Sentence("the standby does not hold its slot any more".to_owned());
    Ok(Findings {
        bound,
        halted,
        flushed: flushed(&mut session)?,
        early: early_told,
        meanwhile,
        afterwards,
        after: look(&mut session)?.ok_or_else(gone)?,
        acknowledged: told.len() as u64,
        lost,
    })
}

impl Halted {
    fn take(&mut self, positions: Option<Positions>) {
        self.looks += 1;
        match positions {
            Some(positions) => self.most.iter_mut().zip(positions).for_each(|(most, it)| *most = it.max(*most)),
            None => self.missed += 1,
        }
    }
}

fn flushed(session: &mut Session) -> Result<i64, LabError> {
    let value = session.value(FLUSHED).map_err(LabError::doing("ask the primary what it has flushed"))?;
    let strange = || LabError::Sentence(format!("the primary says {value:?} of what it has flushed"));
    value.as_ref().and_then(|value| value.parse().ok()).ok_or_else(strange)
}

/// The positions; none if the standby does not use its slot or has not reported one of them.
fn look(session: &mut Session) -> Result<Option<Positions>, LabError> {
    let rows = session.query(POSITIONS).map_err(LabError::doing("look at the slot"))?;
    let values = rows.into_iter().next().unwrap_or_default();
    let positions: Option<Vec<i64>> = values.iter().map(|value| value.as_ref()?.parse().ok()).collect();
    Ok(positions.and_then(|positions| positions.try_into().ok()))
}

fn report(found: &Findings) -> Report {
    let mut report = Report::default();
    let Halted { looks, missed, most } = found.halted;
    let beyond = most.map(|position| position - found.bound);
    let seen = missed == 0 && looks > 0;
    for (name, beyond) in NAMES.iter().zip(beyond).take(WRITE) {
        let claim = format!("while the standby is halted, {name} stays within what it can have flushed");
        report.claim(
            claim,
            format!("{beyond} bytes beyond at the most, {looks} looks, {missed} without it"),
            seen && beyond <= 0,
        );
    }
    let claim = "control: write_lsn does not, because the gate speaks for it";
    report.claim(claim, format!("{} bytes beyond", beyond[WRITE]), seen && beyond[WRITE] > 0);
    let claim = "control: commits with remote_write are acknowledged meanwhile";
    report.claim(claim, found.early.to_string(), found.early > 0);
    for (((name, _), meanwhile), afterwards) in PATIENT.iter().zip(found.meanwhile).zip(found.afterwards) {
        let claim = format!("commits with `{name}` wait until the standby goes on, and no longer");
        let said = format!("{meanwhile} meanwhile, {} then", afterwards.saturating_sub(meanwhile));
        report.claim(claim, said, meanwhile == 0 && afterwards > meanwhile);
    }
    let all = found.acknowledged;
    report.claim(
        "the standby then gets every row",
        format!("{} of {all} missing", found.lost),
        found.lost == 0 && all > 0,
    );
    let after = found.after[0] - found.bound;
    report.claim("control: restart_lsn then moves on", format!("{after} bytes beyond"), after > 0);
    report.table(
        &["position", "most while halted", "afterwards"],
        NAMES.iter().zip(beyond).zip(found.after).map(|((name, beyond), after)| {
            vec![(*name).to_owned(), format!("{beyond:+}"), format!("{:+}", after - found.bound)]
        }),
    );
    for ((name, beyond), after) in NAMES.iter().zip(beyond).zip(found.after) {
        report.metric(name, json!({ "beyond_while_halted": beyond, "beyond_afterwards": after - found.bound }));
    }
    report.metric("looks", looks);
    report.metric("flushed_beyond", found.flushed - found.bound);
    report.metric("acknowledged_while_halted", found.early);
    let by_name = |counts: [u64; 2]| json!({ "on": counts[0], "remote_apply": counts[1] });
    report.metric("waited_while_halted", by_name(found.meanwhile));
    report.metric("waited_until_all_went_on", by_name(found.afterwards));
    report.metric("acknowledged", found.acknowledged);
    report.metric("lost", found.lost);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Findings {
        let mut halted = Halted::default();
        halted.take(Some([900, 900, 880, 3000]));
        halted.take(Some([1000, 1000, 1000, 5000]));
        Findings {
            bound: 1000,
            halted,
            flushed: 5000,
            early: 20,
            meanwhile: [0, 0],
            afterwards: [3, 2],
            after: [5000; 4],
            acknowledged: 25,
            lost: 0,
        }
    }

    #[test]
    fn each_slot_claim_can_fail() {
        let with = |change: &dyn Fn(&mut Findings)| {
            let mut findings = good();
            change(&mut findings);
            report(&findings).passes()
        };
        assert!(with(&|_| {}));
        for (position, name) in NAMES.iter().enumerate().filter(|(position, _)| *position != WRITE) {
            assert!(!with(&|it| it.halted.most[position] = 1001), "{name} was raised");
        }
        assert!(!with(&|it| it.halted.most[WRITE] = 1000), "the gate did not speak");
        assert!(!with(&|it| it.halted.take(None)), "the standby had lost its slot");
        assert!(!with(&|it| it.halted = Halted::default()), "nobody looked");
        assert!(!with(&|it| it.early = 0), "nothing was acknowledged");
        assert!(!with(&|it| it.meanwhile = [1, 0]), "`on` did not wait");
        assert!(!with(&|it| it.afterwards = [3, 0]), "`remote_apply` never went on");
        assert!(!with(&|it| it.lost = 1) && !with(&|it| it.acknowledged = 0));
        assert!(!with(&|it| it.after[0] = 1000), "the slot does not move at all");
    }
}
