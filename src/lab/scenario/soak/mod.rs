//! Minutes to hours of pgbench through the gate over a WAN whose loss changes, while configurations are read again and the
//! mirror's appliance dies: no transaction fails, the mirror has all of them, and nothing grows.
//!
//! The gate and the primary's appliance live through the whole run: their memory, descriptors and threads are compared
//! with their own, once all bounded buffers are in use. The lives of the mirror's appliance are compared at the same age.
//! `crash-matrix` asks what a crash takes, `commit-latency` how fast it is.
//!
//! Start with [`run`], then `memory` (what grows) and `disturbance` (what happens meanwhile); `verdict` makes the claims.

mod disturbance;
mod memory;
mod verdict;

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use self::{
    disturbance::{Counts, Disturbance, POLICIES},
    memory::{Life, Look},
};
use super::{
    Stage,
    disaster::site::ONE_WAY,
    stage::{WAN_TCP, ends},
};
use crate::lab::{
    error::LabError,
    load::Load,
    network::Network,
    pair::{Pair, PairOptions},
    process::Process,
    report::Report,
    servers::{
        gate::Gate,
        postgres::Postgres,
        postgres_pair::{Follows, PostgresPair, Setting},
    },
    timeline::Timeline,
    workload::pgbench::{Benchmark, speed_now},
};

/// Length of the run, unless the user sets another.
const SECONDS: u64 = 300;
const CLIENTS: &str = "32";
/// 400,000 accounts in four branches, for which the clients contend.
const SCALE: &str = "4";
/// Points of a line in the plots of what the appliances say, and the least time between two.
const LOOKS_DRAWN: u32 = 600;
const LOOK_LEAST: Duration = Duration::from_millis(250);
/// Upper bound for creating the accounts, and for ending after the length of the run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two reads of the memory; a short run has at least this number of reads.
const EVERY: Duration = Duration::from_secs(1);
const LOOKS: u32 = 60;
/// Time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// Data in memory must not fill it: checkpoints recycle the WAL of a long run.
const SMALL: [Setting; 2] = [("max_wal_size", "256MB"), ("wal_keep_size", "128MB")];
/// Checksums over every row with all its columns, in every table of pgbench; both servers must agree on them.
const SUMS: &str = "SELECT concat_ws(' ', \
     (SELECT sum(hashtextextended(t::text, 0)) FROM pgbench_accounts AS t), \
     (SELECT sum(hashtextextended(t::text, 0)) FROM pgbench_branches AS t), \
     (SELECT sum(hashtextextended(t::text, 0)) FROM pgbench_tellers AS t), \
     (SELECT sum(hashtextextended(t::text, 0)) FROM pgbench_history AS t))";
const HISTORY: &str = "SELECT count(*) FROM pgbench_history";

/// All findings.
#[derive(Clone, Debug, Default)]
struct Findings {
    benchmark: Benchmark,
    /// Acknowledgements that the gate sent before the mirror did.
    early: u64,
    /// Datagrams that the WAN lost.
    lost: u64,
    /// Rows of `pgbench_history` at primary and mirror.
    history: [u64; 2],
    is_equal: bool,
    duration: Duration,
    /// Sessions of the primary's appliance.
    sessions: u64,
    counts: Counts,
    gate: Life,
    near: Life,
    /// The lives of the mirror's appliance, one after the other.
    far: Vec<Life>,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let duration = Duration::from_secs(stage.options.seconds.unwrap_or(SECONDS).max(1));
    stage.say(&format!(
        "soak: pgbench with {CLIENTS} clients for {duration:?}, `synchronous_commit = remote_write` through the gate, {ONE_WAY:?} one way.\n\
         The loss changes, the files of both appliances and the gate are read again, the mirror's appliance is killed and stopped in turn:\n\
         does a transaction fail, does the mirror lack one, do memory, descriptors or threads of gate or appliances grow?\n"
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    let mut pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let servers = PostgresPair::prepare(&network, ends(&network)?)?;
    network.tell_wan(&format!("set delay {}ms, loss 0.1%", ONE_WAY.as_millis()))?;
    stage.say(&format!("  {}", servers.describe()?));
    servers.renew()?;
    let gate = servers.start_gate_with_file(pair.appliances[0].publisher()?, POLICIES[0])?;
    let primary = servers.start_primary_with("remote_write", "mirror", &SMALL)?;
    let mut mirror = servers.launch_mirror_with(Follows::Gate, &SMALL)?;
    servers.wait_followed(&primary)?;
    let mut filling = servers.start_pgbench(&primary, &["--initialize", "--quiet", "--scale", SCALE])?;
    filling.wait(PATIENCE.mul_f64(stage.options.slack))?;
    servers.wait_even(&primary)?;
    let timeline = Timeline::start(&pair, (duration / LOOKS_DRAWN).max(LOOK_LEAST));
    let mut findings = soak(stage, &servers, &primary, (&gate, &mut pair), duration)?;
    let seen = timeline.finish();
    pair.wait_up()?;
    servers.wait_even(&primary)?;
    servers.wait_replayed(&mut mirror)?;
    compare(&primary, &mirror, &mut findings)?;
    findings.early = early(&network, &gate)?;
    findings.sessions = pair.appliances[0].status(&network)?.peer().sessions;
    let truth =
        network.wan().map(|wan| wan.truth()).transpose().map_err(LabError::doing("read the emulator's counters"))?;
    findings.lost = truth.map_or(0, |truth| truth.forth.lost.chance + truth.back.lost.chance);
    drop((mirror, primary, gate));
    pair.stop()?;
    let mut report = verdict::report(&findings);
    report.metric("load", load.to_json());
    seen.into_iter().for_each(|plot| report.draw(plot));
    Ok(report)
}

/// Runs pgbench, lets things happen, and records what the processes use.
fn soak(
    stage: &Stage<'_>,
    servers: &PostgresPair<'_>,
    primary: &Postgres,
    (gate, pair): (&Gate, &mut Pair<'_>),
    duration: Duration,
) -> Result<Findings, LabError> {
    let seconds = duration.as_secs().to_string();
    let words = ["--client", CLIENTS, "--jobs", "2", "--time", &seconds, "--progress", "1", "--no-vacuum"];
    let mut pgbench = servers.start_pgbench(primary, &words)?;
    let every = EVERY.min(duration / LOOKS);
    let limit = duration + PATIENCE.mul_f64(stage.options.slack);
    let mut progress = Progress::new(duration);
    let mut disturbance = Disturbance::new(pair, duration)?;
    let mut findings = Findings { duration, far: vec![Life::default()], ..Findings::default() };
    let begin = Instant::now();
    while pgbench.is_running() {
        let at = begin.elapsed();
        if disturbance.turn(servers.network(), pair, gate)? {
            findings.far.push(Life { begin: begin.elapsed(), looks: Vec::new() });
        }
        if at <= duration {
            findings.look(gate, pair, at)?;
        }
        progress.tell(stage, &findings, &disturbance.counts, &pgbench);
        if at > limit {
            return Err(LabError::Sentence(format!("pgbench still runs {limit:?} after its start")));
        }
        stage.pause(every.saturating_sub(begin.elapsed() - at))?;
    }
    progress.bar.finish_and_clear();
    findings.benchmark = Benchmark::parse(&pgbench.output());
    if let Err(error) = pgbench.wait(Duration::ZERO) {
        findings.benchmark.errors.push(error.to_string());
    }
    findings.counts = disturbance.counts;
    Ok(findings)
}

/// Shows the progress: a bar on a terminal, otherwise a line now and then.
struct Progress {
    bar: ProgressBar,
    is_terminal: bool,
    said: Option<Instant>,
}

impl Progress {
    fn new(duration: Duration) -> Self {
        let bar = ProgressBar::new(duration.as_secs());
        if let Ok(style) = ProgressStyle::with_template("  {bar:40} {pos} of {len} s: {msg}") {
            bar.set_style(style);
        }
        Self { bar, is_terminal: std::io::stderr().is_terminal(), said: None }
    }

    fn tell(&mut self, stage: &Stage<'_>, findings: &Findings, counts: &Counts, pgbench: &Process) {
        if self.said.is_some_and(|said| said.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.said = Some(Instant::now());
        let megabytes = |life: Option<&Life>| {
            verdict::megabytes(life.and_then(|life| life.looks.last()).map_or(0, |look| look.bytes))
        };
        let [gate, near, far] = [Some(&findings.gate), Some(&findings.near), findings.far.last()].map(megabytes);
        let speed = speed_now(&pgbench.output()).unwrap_or_default();
        let words = format!(
            "{speed:.0} transactions/s, gate {gate} MB, appliances {near} and {far} MB; {} reloads, {} restarts",
            counts.reloads,
            counts.kills + counts.stops
        );
        let at = findings.near.length().as_secs();
        if self.is_terminal {
            self.bar.set_message(words);
            self.bar.set_position(at);
        } else {
            stage.say(&format!("  {at} s: {words}"));
        }
    }
}

/// Compares the data of the two servers.
fn compare(primary: &Postgres, mirror: &Postgres, findings: &mut Findings) -> Result<(), LabError> {
    let mut sums = Vec::new();
    for (server, history) in [primary, mirror].into_iter().zip(&mut findings.history) {
        let mut session = server.session()?;
        let mut value = |sql: &str| session.value(sql).map_err(LabError::doing("sum up the tables of pgbench"));
        *history = value(HISTORY)?.and_then(|count| count.parse().ok()).unwrap_or_default();
        sums.push(value(SUMS)?);
    }
    findings.is_equal = sums[0].is_some() && sums[0] == sums[1];
    Ok(())
}

/// Reads how many acknowledgements the gate sent before the mirror did.
fn early(network: &Network<'_>, gate: &Gate) -> Result<u64, LabError> {
    let status = gate.status(network)?;
    Ok(status["gates"][0]["totals"]["injected_acks"].as_u64().unwrap_or_default())
}

impl Findings {
    /// Looks at the processes.
    fn look(&mut self, gate: &Gate, pair: &Pair<'_>, at: Duration) -> Result<(), LabError> {
        let [near, far] = &pair.appliances;
        self.gate.looks.push(Look::at_living(&gate.process, at)?);
        self.near.looks.push(Look::at_living(&near.process, at)?);
        if let Some(life) = self.far.last_mut() {
            life.looks.extend(Look::at(&far.process, at.saturating_sub(life.begin)));
        }
        Ok(())
    }
}
