//! Redis and MariaDB behind a gate: how long a write waits, and which acknowledged writes a disaster loses.
//!
//! Three wait modes: for the local host alone (`local`), for the mirror through the gate (`network-sync`), for the
//! mirror itself (`direct`). The disaster is that of `disaster`, at 1 % loss; its control is `local`, over the plain
//! route.

use std::time::Duration;

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;

use super::{
    Stage,
    disaster::{arm::Arm, site::Site},
    stage::{WAN_TCP, ends},
};
use crate::lab::{
    error::LabError,
    load::Load,
    network::Network,
    pair::{Pair, PairOptions},
    report::Report,
    servers::{
        database::{Databases, Kind},
        gate::Gate,
    },
    times::Times,
    workload::rows::{Clients, Rhythm},
};

/// 50 ms round trip.
const DELAY: &str = "set delay 25ms, loss 0%, passage open";
const ROUND_TRIP: Duration = Duration::from_millis(50);
const SECONDS: u64 = 4;
const WARMING: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(2);
const TRIALS: u32 = 10;
const CONTROL_TRIALS: u32 = 3;
/// Upper bound of the control's trials, which go on until one loses something: whether 1 % loss hits the last moments
/// is chance.
const CONTROL_TRIALS_MOST: u32 = 20;
const CLIENTS: u64 = 4;
const LOSS: f64 = 0.01;
/// How long the clients work before the disaster begins.
const BEFORE: std::ops::Range<Duration> = Duration::from_millis(300)..Duration::from_millis(1000);
/// Upper bound of the time of a waiting write to Redis.
const REDIS_AIM: Duration = Duration::from_millis(2);
/// Upper bound of the additional time of a waiting commit in MariaDB, compared with one that does not wait.
const MARIADB_AIM: Duration = Duration::from_millis(3);

/// How a write waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitMode {
    Local,
    NetworkSync,
    Direct,
}

impl WaitMode {
    const ALL: [Self; 3] = [Self::Local, Self::NetworkSync, Self::Direct];

    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::NetworkSync => "network-sync",
            Self::Direct => "direct",
        }
    }
}

/// The disasters of one arm.
#[derive(Debug, Default)]
struct Disasters {
    trials: u32,
    acknowledged: u64,
    lost: u64,
    lossy: u32,
}

/// All findings.
struct Findings {
    kind: Kind,
    /// In the order of [`WaitMode::ALL`].
    times: [Times; 3],
    /// Commits that fell back to asynchronous replication.
    fell_back: u64,
    /// Writes that wait for the gate, and the control's writes that wait for nothing.
    disasters: [Disasters; 2],
}

/// Runs the scenario for Redis.
pub fn run_redis(stage: &Stage<'_>) -> Result<Report, LabError> {
    run(stage, Kind::Redis)
}

/// Runs the scenario for MariaDB.
pub fn run_mariadb(stage: &Stage<'_>) -> Result<Report, LabError> {
    run(stage, Kind::MariaDb)
}

fn run(stage: &Stage<'_>, kind: Kind) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(SECONDS).max(1);
    let trials = stage.options.trials.unwrap_or(TRIALS);
    stage.say(&format!(
        "{}: writes that wait for nothing, for the gate and for the mirror itself, {seconds} s each over {ROUND_TRIP:?} round trip;\n\
         then {trials} disasters (1 % loss, half a second later the cut and the death of the primary's site), and\n\
         {CONTROL_TRIALS} with writes that wait for nothing, and more until one loses something.\n",
        kind.name()
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(DELAY)?;
    let databases = Databases::prepare(kind, &network, ends(&network)?)?;
    stage.say(&format!("  {}", databases.describe()));
    let mut findings = Findings { kind, times: Default::default(), fell_back: 0, disasters: Default::default() };
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    for (way, times) in WaitMode::ALL.into_iter().zip(&mut findings.times) {
        let (measured, fell_back) = measure(stage, &pair, &databases, way, Duration::from_secs(seconds))?;
        stage.say(&format!("  {}: p50 {:?}, p99 {:?}", way.name(), measured.quantile(0.5), measured.quantile(0.99)));
        *times = measured;
        findings.fell_back += fell_back;
    }
    pair.stop()?;
    findings.disasters = disasters(stage, &network, &databases, trials)?;
    let mut report = report(&findings, stage.options.slack);
    report.metric("load", load.to_json());
    Ok(report)
}

fn measure(
    stage: &Stage<'_>,
    pair: &Pair<'_>,
    databases: &Databases<'_>,
    way: WaitMode,
    duration: Duration,
) -> Result<(Times, u64), LabError> {
    let primary = databases.start("primary")?;
    let waits = way != WaitMode::Local;
    let gate = match way {
        WaitMode::Direct => None,
        _ => Some(databases.start_gate(pair.appliances[0].publisher()?)?),
    };
    // A replica becomes semi-synchronous only if that is on when it connects.
    primary.set_waiting(true)?;
    let mirror = databases.start_mirror(gate.is_some())?;
    databases.wait_followed(&primary)?;
    primary.set_waiting(waits)?;
    let clients = Clients::start_with(vec![primary.writer(waits)?], 1, Rhythm::steady(PAUSE));
    stage.pause(WARMING)?;
    let begin = std::time::Instant::now();
    stage.pause(duration)?;
    let mut times = Times::default();
    clients.finish().iter().filter(|row| row.at > begin).for_each(|row| times.record(row.wait));
    let fell_back = if waits { primary.fell_back()? } else { 0 };
    drop((mirror, gate, primary));
    Ok((times, fell_back))
}

/// Runs disasters with writes that wait for the gate, and with writes that wait for nothing, over the plain route.
fn disasters(
    stage: &Stage<'_>,
    network: &Network<'_>,
    databases: &Databases<'_>,
    trials: u32,
) -> Result<[Disasters; 2], LabError> {
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let mut found = <[Disasters; 2]>::default();
    let arms = [(Arm::NetworkSync, trials, trials), (Arm::LocalSync, CONTROL_TRIALS, CONTROL_TRIALS_MOST)];
    for ((arm, least, most), found) in arms.into_iter().zip(&mut found) {
        let mut site = Site::make(stage, network, arm, LOSS)?;
        while found.trials < least || (found.trials < most && found.lost == 0) {
            trial(&mut site, databases, &mut rng, found)?;
        }
        site.clear()?;
        stage.say(&format!("  {}: {} of {} acknowledged lost", arm.name(), found.lost, found.acknowledged));
    }
    Ok(found)
}

fn trial(
    site: &mut Site<'_>,
    databases: &Databases<'_>,
    rng: &mut SmallRng,
    found: &mut Disasters,
) -> Result<(), LabError> {
    site.mend()?;
    let mut primary = databases.start("primary")?;
    let mut gate = site.publisher()?.map(|publisher| databases.start_gate(publisher)).transpose()?;
    let waits = gate.is_some();
    primary.set_waiting(true)?;
    let mut mirror = databases.start_mirror(waits)?;
    databases.wait_followed(&primary)?;
    primary.set_waiting(waits)?;
    let writers = (0..CLIENTS).map(|_| primary.writer(waits)).collect::<Result<_, _>>()?;
    let clients = Clients::start_with(writers, 1, Rhythm::steady(PAUSE));
    site.stage.pause(rng.random_range(BEFORE))?;
    let strike = site.strike(|| {
        primary.server.crash();
        gate.iter_mut().for_each(Gate::crash);
    })?;
    let told = clients.finish();
    site.drain()?;
    let survived = mirror.settled_ids()?;
    mirror.server.crash();
    let acknowledged: Vec<_> = told.iter().filter(|row| row.at < strike.cut).collect();
    let lost = acknowledged.iter().filter(|row| survived.binary_search(&row.id).is_err()).count() as u64;
    found.trials += 1;
    found.acknowledged += acknowledged.len() as u64;
    found.lost += lost;
    found.lossy += u32::from(lost > 0);
    Ok(())
}

fn report(findings: &Findings, slack: f64) -> Report {
    let mut report = Report::default();
    let [local, sync, direct] = findings.times.each_ref().map(|times| times.quantile(0.5));
    let (limit, words) = match findings.kind {
        Kind::Redis => (REDIS_AIM.mul_f64(slack), format!("{:?}", REDIS_AIM.mul_f64(slack))),
        Kind::MariaDb => (local + MARIADB_AIM.mul_f64(slack), format!("local + {:?}", MARIADB_AIM.mul_f64(slack))),
    };
    let claim = format!("a write that waits for the gate takes at most {words} (p50)");
    report.claim(claim, format!("{sync:?}, local {local:?}"), sync <= limit && sync > Duration::ZERO);
    let claim = "control: a write that waits for the mirror itself takes a round trip";
    report.claim(claim, format!("{direct:?} of {ROUND_TRIP:?}"), direct >= ROUND_TRIP);
    if findings.kind == Kind::MariaDb {
        let found = findings.fell_back;
        report.claim("no commit falls back to asynchronous replication", found.to_string(), found == 0);
    }
    let [waiting, control] = &findings.disasters;
    let found = |it: &Disasters| format!("{} of {}, in {} of {} trials", it.lost, it.acknowledged, it.lossy, it.trials);
    let holds = waiting.lost == 0 && waiting.acknowledged > 0;
    report.claim("in disasters, none that was acknowledged is lost", found(waiting), holds);
    let claim = "control: some that waited for nothing are lost";
    report.claim(claim, found(control), control.lost > 0);
    let ms = |times: &Times, share| format!("{:.2}", times.quantile(share).as_secs_f64() * 1e3);
    report.table(
        &["way", "writes", "p50 ms", "p99 ms"],
        WaitMode::ALL.into_iter().zip(&findings.times).map(|(way, times)| {
            vec![way.name().to_owned(), times.count().to_string(), ms(times, 0.5), ms(times, 0.99)]
        }),
    );
    for (way, times) in WaitMode::ALL.into_iter().zip(&findings.times) {
        let value = json!({ "writes": times.count(), "p50_us": times.micros(0.5), "p99_us": times.micros(0.99) });
        report.metric(&way.name().replace('-', "_"), value);
    }
    for (name, it) in [("disasters", waiting), ("control_disasters", control)] {
        let (lost, lossy) = (it.lost, it.lossy);
        let value =
            json!({ "trials": it.trials, "acknowledged": it.acknowledged, "lost": lost, "trials_with_loss": lossy });
        report.metric(name, value);
    }
    report.metric("fell_back", findings.fell_back);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(kind: Kind, micros: [u64; 3], lost: [u64; 2], fell_back: u64) -> Report {
        let times = micros.map(|micros| {
            let mut times = Times::default();
            times.record(Duration::from_micros(micros));
            times
        });
        let disasters = lost.map(|lost| Disasters { trials: 1, acknowledged: 9, lost, lossy: u32::from(lost > 0) });
        report(&Findings { kind, times, fell_back, disasters }, 1.0)
    }

    #[test]
    fn each_database_claim_can_fail() {
        let redis = |sync, direct, lost| findings(Kind::Redis, [100, sync, direct], lost, 0).passes();
        assert!(redis(1900, 50_500, [0, 3]));
        assert!(!redis(2100, 50_500, [0, 3]), "too slow");
        assert!(!redis(1900, 900, [0, 3]), "the control does not wait");
        assert!(!redis(1900, 50_500, [1, 3]), "one is lost");
        assert!(!redis(1900, 50_500, [0, 0]), "the disaster is too weak");
        let mariadb = |sync, fell_back| findings(Kind::MariaDb, [400, sync, 60_000], [0, 3], fell_back).passes();
        assert!(mariadb(3300, 0) && !mariadb(3500, 0) && !mariadb(3300, 1));
    }
}
