//! E9: each process between a PostgreSQL primary and its standby is killed or halted under load, and the notifications
//! are cut.
//!
//! Each fault is tried twice. First it is repaired after a while: commits must go on, and no acknowledged row may be
//! missing at the mirror. Then the disaster of `disaster` strikes during the fault; faults at the mirror's site are
//! left out there, because the guarantee requires that the peer appliance and the mirror stay up until everything is
//! drained.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::{
    Stage,
    disaster::{arm::Arm, site::Site},
    stage::{WAN_TCP, ends, plain_route},
};
use crate::lab::{
    error::LabError,
    network::Network,
    report::Report,
    servers::{
        gate::Gate,
        postgres::Postgres,
        postgres_pair::{Follows, PostgresPair},
    },
    times::Times,
    workload::rows::{self, ClientPlan, Clients, Committed, Rhythm},
};

const DELAY: &str = "set delay 25ms";
const ROUND_TRIP: Duration = Duration::from_millis(50);
const LOSS: f64 = 0.01;
const CLIENTS: ClientPlan<'_> =
    ClientPlan { clients: 4, from: 1, bytes: 400, before: "", rhythm: Rhythm::steady(Duration::from_millis(2)) };
/// How long the clients work before the fault.
const BEFORE: std::ops::Range<Duration> = Duration::from_millis(500)..Duration::from_millis(1000);
/// How long a fault lasts.
const FAULT: Duration = Duration::from_secs(3);
/// By this time after the start of the fault, every process has noticed it.
const NOTICED: Duration = Duration::from_secs(2);
/// Time from the fault to the disaster.
const TO_DISASTER: std::ops::Range<Duration> = Duration::from_millis(0)..Duration::from_millis(600);
/// After the fault is repaired, commits must go on within this time.
const RECOVERY: Duration = Duration::from_secs(10);
/// Number of rows that shows that commits go on.
const FLOWING: u64 = 100;
/// Drops the packets between the publisher and its subscribers, where they arrive.
const NOTIFY_RULES: [(&str, &str); 2] = [("ithaca", "dport"), ("primary", "sport")];

/// The kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    GateKilled,
    GateHalted,
    NearKilled,
    NearHalted,
    FarKilled,
    FarHalted,
    MirrorKilled,
    MirrorHalted,
    NotificationsCut,
}

impl Fault {
    const ALL: [Self; 9] = [
        Self::GateKilled,
        Self::GateHalted,
        Self::NearKilled,
        Self::NearHalted,
        Self::FarKilled,
        Self::FarHalted,
        Self::MirrorKilled,
        Self::MirrorHalted,
        Self::NotificationsCut,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::GateKilled => "gate-killed",
            Self::GateHalted => "gate-halted",
            Self::NearKilled => "appliance-killed",
            Self::NearHalted => "appliance-halted",
            Self::FarKilled => "peer-killed",
            Self::FarHalted => "peer-halted",
            Self::MirrorKilled => "mirror-killed",
            Self::MirrorHalted => "mirror-halted",
            Self::NotificationsCut => "notifications-cut",
        }
    }

    /// Whether the guarantee covers a disaster during the fault.
    fn allows_disaster(self) -> bool {
        matches!(
            self,
            Self::GateKilled | Self::GateHalted | Self::NearKilled | Self::NearHalted | Self::NotificationsCut
        )
    }

    fn chosen(names: &[String]) -> Result<Vec<Self>, LabError> {
        let find = |name: &String| {
            Self::ALL.into_iter().find(|fault| fault.name() == name).ok_or_else(|| {
                let all = Self::ALL.map(Self::name).join(", ");
                LabError::Sentence(format!("--arm: found \"{name}\"; allowed: {all}"))
            })
        };
        if names.is_empty() { Ok(Self::ALL.to_vec()) } else { names.iter().map(find).collect() }
    }
}

/// The result of one fault.
#[derive(Clone, Debug)]
struct Findings {
    fault: Fault,
    acknowledged: u64,
    lost: u64,
    /// Times of the commits during the fault, after every process has noticed it.
    during: Times,
    /// From the repair until every client had committed again; none: some never did.
    recovery: Option<Duration>,
    /// Acknowledged and lost rows in the disaster during the fault.
    disaster: Option<(u64, u64)>,
}

/// All running programs.
struct Testbed<'c, 'n> {
    servers: &'c PostgresPair<'n>,
    network: &'n Network<'n>,
    gate: Gate,
    primary: Postgres,
    mirror: Postgres,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let faults = Fault::chosen(&stage.options.arms)?;
    stage.say(&format!(
        "crash-matrix: 4 clients insert into PostgreSQL through the gate (policy auto, {ROUND_TRIP:?} round trip). Each process\n\
         in turn is killed or halted for {FAULT:?}, and the notifications are cut: do commits go on, and is anything that was\n\
         acknowledged lost? Then the same with a disaster in the middle of the fault.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(DELAY)?;
    plain_route(&network, "add")?;
    let servers = PostgresPair::prepare(&network, ends(&network)?)?;
    plain_route(&network, "del")?;
    stage.say(&format!("  {}", servers.describe()?));
    let mut site = Site::make(stage, &network, Arm::NetworkSync, LOSS)?;
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let mut all = Vec::new();
    for fault in faults {
        let mut findings = recover(stage, &mut site, &servers, fault, &mut rng)?;
        if fault.allows_disaster() {
            findings.disaster = Some(die(stage, &mut site, &servers, fault, &mut rng)?);
        }
        stage.say(&format!(
            "  {}: {} of {} lost, commits again after {}",
            fault.name(),
            findings.lost,
            findings.acknowledged,
            shown(findings.recovery)
        ));
        all.push(findings);
    }
    site.clear()?;
    Ok(report(&all, stage.options.slack))
}

impl<'c, 'n> Testbed<'c, 'n> {
    fn start(site: &mut Site<'n>, servers: &'c PostgresPair<'n>) -> Result<Self, LabError> {
        site.mend()?;
        servers.renew()?;
        let publisher = site.publisher()?.cloned();
        let silent = || LabError::Sentence("the appliances were started without notifications".to_owned());
        let gate = servers.start_gate(&publisher.ok_or_else(silent)?, "auto")?;
        let primary = servers.start_primary("remote_write", "mirror")?;
        let mirror = servers.launch_mirror(Follows::Gate)?;
        servers.wait_followed(&primary)?;
        Ok(Self { servers, network: site.network, gate, primary, mirror })
    }

    fn inflict(&mut self, fault: Fault, site: &mut Site<'_>) -> Result<(), LabError> {
        match fault {
            Fault::GateKilled => self.gate.crash(),
            Fault::GateHalted => self.gate.signal(Signal::STOP),
            Fault::NearKilled => site.appliance(0)?.process.kill(),
            Fault::NearHalted => site.appliance(0)?.process.signal(Signal::STOP),
            Fault::FarKilled => site.appliance(1)?.process.kill(),
            Fault::FarHalted => site.appliance(1)?.process.signal(Signal::STOP),
            Fault::MirrorKilled => self.mirror.server.crash(),
            Fault::MirrorHalted => self.mirror.server.signal_all(Signal::STOP),
            Fault::NotificationsCut => self.cut_notifications()?,
        }
        Ok(())
    }

    fn mend(&mut self, fault: Fault, site: &mut Site<'_>) -> Result<(), LabError> {
        let network = self.network;
        match fault {
            Fault::GateKilled => {
                let publisher = site.appliance(0)?.publisher()?.clone();
                self.gate = self.servers.start_gate(&publisher, "auto")?;
            }
            Fault::GateHalted => self.gate.signal(Signal::CONT),
            Fault::NearKilled => site.appliance(0)?.restart(network)?,
            Fault::NearHalted => site.appliance(0)?.process.signal(Signal::CONT),
            Fault::FarKilled => site.appliance(1)?.restart(network)?,
            Fault::FarHalted => site.appliance(1)?.process.signal(Signal::CONT),
            Fault::MirrorKilled => self.mirror = self.servers.launch_mirror(Follows::Gate)?,
            Fault::MirrorHalted => self.mirror.server.signal_all(Signal::CONT),
            Fault::NotificationsCut => {
                for (node, _) in NOTIFY_RULES {
                    network.run(node, &["nft", "delete", "table", "inet", "lab"])?;
                }
            }
        }
        Ok(())
    }

    fn cut_notifications(&self) -> Result<(), LabError> {
        for (node, port) in NOTIFY_RULES {
            let rule = format!(
                "table inet lab {{ chain cut {{ type filter hook input priority 0; udp {port} 7118 drop; }}; }}"
            );
            self.network.run(node, &["nft", &rule])?;
        }
        Ok(())
    }
}

/// A fault that is repaired.
fn recover<'n>(
    stage: &Stage<'_>,
    site: &mut Site<'n>,
    servers: &PostgresPair<'n>,
    fault: Fault,
    rng: &mut SmallRng,
) -> Result<Findings, LabError> {
    let mut testbed = Testbed::start(site, servers)?;
    let clients = Clients::start(&testbed.primary, CLIENTS)?;
    stage.pause(rng.random_range(BEFORE))?;
    testbed.inflict(fault, site)?;
    let begin = Instant::now();
    stage.pause(FAULT)?;
    let end = Instant::now();
    testbed.mend(fault, site)?;
    let before = clients.count();
    let limit = RECOVERY.mul_f64(stage.options.slack);
    while clients.count() < before + FLOWING && end.elapsed() < limit {
        stage.pause(Duration::from_millis(10))?;
    }
    if !clients.wait_idle(limit.saturating_sub(end.elapsed()).max(Duration::from_secs(1))) {
        // A commit that is stuck returns only when the server ends.
        testbed.primary.server.crash();
        let told = clients.finish();
        let acknowledged = told.len() as u64;
        let during = waits(&told, begin + NOTICED, end);
        return Ok(Findings { fault, acknowledged, lost: 0, during, recovery: None, disaster: None });
    }
    let told = clients.finish();
    servers.wait_even(&testbed.primary)?;
    servers.wait_replayed(&mut testbed.mirror)?;
    let survived = rows::ids(&testbed.mirror)?;
    let lost = told.iter().filter(|row| survived.binary_search(&row.id).is_err()).count() as u64;
    let during = waits(&told, begin + NOTICED, end);
    let recovery = recovery(&told, end);
    Ok(Findings { fault, acknowledged: told.len() as u64, lost, during, recovery, disaster: None })
}

/// A disaster during the fault: returns the numbers of acknowledged and of lost rows.
fn die<'n>(
    stage: &Stage<'_>,
    site: &mut Site<'n>,
    servers: &PostgresPair<'n>,
    fault: Fault,
    rng: &mut SmallRng,
) -> Result<(u64, u64), LabError> {
    let mut testbed = Testbed::start(site, servers)?;
    let clients = Clients::start(&testbed.primary, CLIENTS)?;
    stage.pause(rng.random_range(BEFORE))?;
    testbed.inflict(fault, site)?;
    stage.pause(rng.random_range(TO_DISASTER))?;
    let strike = site.strike(|| {
        testbed.primary.server.crash();
        testbed.gate.crash();
    })?;
    let told = clients.finish();
    site.drain()?;
    servers.wait_replayed(&mut testbed.mirror)?;
    let survived = rows::ids(&testbed.mirror)?;
    if fault == Fault::NotificationsCut {
        testbed.mend(fault, site)?;
    }
    let acknowledged: Vec<_> = told.iter().filter(|row| row.at < strike.cut).collect();
    let lost = acknowledged.iter().filter(|row| survived.binary_search(&row.id).is_err()).count();
    Ok((acknowledged.len() as u64, lost as u64))
}

/// The times of the commits that were acknowledged between two moments.
fn waits(told: &[Committed], from: Instant, to: Instant) -> Times {
    let mut times = Times::default();
    told.iter().filter(|row| (from..to).contains(&row.at)).for_each(|row| times.record(row.wait));
    times
}

/// From `end` until the last client had committed again.
fn recovery(told: &[Committed], end: Instant) -> Option<Duration> {
    let first = |client: u64| {
        let own = told.iter().filter(|row| row.client() == client && row.at >= end).map(|row| row.at);
        own.min().map(|at| at - end)
    };
    (0..CLIENTS.clients).map(first).collect::<Option<Vec<_>>>()?.into_iter().max()
}

fn shown(recovery: Option<Duration>) -> String {
    recovery.map_or("never".to_owned(), |it| format!("{:.2} s", it.as_secs_f64()))
}

fn report(all: &[Findings], slack: f64) -> Report {
    let mut report = Report::default();
    let limit = RECOVERY.mul_f64(slack);
    for it in all {
        let name = it.fault.name();
        let found = format!("{} of {}", it.lost, it.acknowledged);
        report.claim(format!("{name}: nothing acknowledged is lost"), found, it.lost == 0 && it.acknowledged > 0);
        let holds = it.recovery.is_some_and(|recovery| recovery < limit);
        report.claim(format!("{name}: commits go on within {limit:?}"), shown(it.recovery), holds);
        if let Some((acknowledged, lost)) = it.disaster {
            let found = format!("{lost} of {acknowledged}");
            report.claim(format!("{name}: nor in a disaster meanwhile"), found, lost == 0 && acknowledged > 0);
        }
        let (count, median) = (it.during.count(), it.during.quantile(0.5));
        match it.fault {
            Fault::GateKilled | Fault::GateHalted => {
                report.claim(format!("{name}: meanwhile commits wait"), format!("{count} commits"), count == 0);
            }
            Fault::NotificationsCut => {
                let claim = format!("{name}: meanwhile commits wait for the mirror");
                report.claim(claim, format!("{count} commits, p50 {median:?}"), count > 0 && median >= ROUND_TRIP);
            }
            _ => {}
        }
    }
    report.table(
        &[
            "fault",
            "acknowledged",
            "lost",
            "commits meanwhile",
            "their p50",
            "commits again after",
            "in a disaster meanwhile",
        ],
        all.iter().map(|it| {
            let disaster = it.disaster.map_or("-".to_owned(), |(all, lost)| format!("{lost} of {all} lost"));
            vec![
                it.fault.name().to_owned(),
                it.acknowledged.to_string(),
                it.lost.to_string(),
                it.during.count().to_string(),
                format!("{:.1} ms", it.during.quantile(0.5).as_secs_f64() * 1e3),
                shown(it.recovery),
                disaster,
            ]
        }),
    );
    report.metric("faults", all.iter().map(to_json).collect::<Vec<Value>>());
    report
}

fn to_json(it: &Findings) -> Value {
    json!({
        "fault": it.fault.name(),
        "acknowledged": it.acknowledged,
        "lost": it.lost,
        "commits_meanwhile": it.during.count(),
        "meanwhile_p50_us": it.during.micros(0.5),
        "recovery_ms": it.recovery.map(|it| it.as_millis() as u64),
        "disaster_acknowledged": it.disaster.map(|(all, _)| all),
        "disaster_lost": it.disaster.map(|(_, lost)| lost),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(fault: Fault) -> Findings {
        let mut during = Times::default();
        if fault == Fault::NotificationsCut {
            during.record(ROUND_TRIP * 2);
        }
        let recovery = Some(Duration::from_secs(1));
        Findings {
            fault,
            acknowledged: 9,
            lost: 0,
            during,
            recovery,
            disaster: fault.allows_disaster().then_some((9, 0)),
        }
    }

    #[test]
    fn each_crash_claim_can_fail() {
        let all = Fault::ALL.map(good);
        assert!(report(&all, 1.0).passes());
        let mut fast = Times::default();
        fast.record(Duration::from_millis(1));
        let worse = [
            Findings { lost: 1, ..good(Fault::MirrorKilled) },
            Findings { recovery: None, ..good(Fault::FarHalted) },
            Findings { recovery: Some(RECOVERY), ..good(Fault::NearKilled) },
            Findings { disaster: Some((9, 1)), ..good(Fault::GateHalted) },
            Findings { during: fast.clone(), ..good(Fault::GateKilled) },
            Findings { during: fast, ..good(Fault::NotificationsCut) },
        ];
        for one in worse {
            let claims = format!("{one:?}");
            assert!(!report(&[one], 1.0).passes(), "{claims}");
        }
    }

    #[test]
    fn recovery_needs_a_commit_of_every_client() {
        let end = Instant::now();
        let row = |client: u64, ms: u64| {
            let at = end + Duration::from_millis(ms);
            Committed { id: Committed::first_id(client) + ms, at, wait: Duration::ZERO }
        };
        let mut told: Vec<_> = (0..CLIENTS.clients).map(|client| row(client, 10 * client + 5)).collect();
        assert_eq!(recovery(&told, end), Some(Duration::from_millis(35)));
        told.pop();
        assert_eq!(recovery(&told, end), None);
    }
}
