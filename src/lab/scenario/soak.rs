//! Minutes of pgbench through the gate over a lossy WAN: no transaction fails, the mirror has all of them, and no
//! memory grows.
//!
//! Memory is the resident size of a process. It is compared with its own earlier size, taken once all bounded buffers
//! are in use. No process dies here: `crash-matrix` covers that; `commit-latency` measures the speed.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

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
    workload::pgbench::{Benchmark, speed_now},
};

/// Length of the run, unless the user sets another.
const SECONDS: u64 = 300;
const CLIENTS: &str = "32";
/// 400,000 accounts in four branches, for which the clients contend.
const SCALE: &str = "4";
/// Upper bound for creating the accounts, and for ending after the length of the run.
const PATIENCE: Duration = Duration::from_secs(60);
/// Time between two reads of the memory; a short run has at least this number of reads.
const EVERY: Duration = Duration::from_secs(1);
const LOOKS: u32 = 60;
/// Time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);
/// All bounded buffers are in use after this share of the run, but not before this time; in a short run after half of
/// it.
const WARM_SHARE: u32 = 5;
const WARM_TIME: Duration = Duration::from_secs(10);
/// The memory at a time is the median over this share of the run.
const SPAN_SHARE: u32 = 10;
/// Allowed growth of a process from its warm size to its size at the end: this share, or this number of bytes.
const GROWTH_SHARE: f64 = 0.05;
const GROWTH: u64 = 1 << 20;
/// Data in memory must not fill it: checkpoints recycle the WAL of a long run.
const SMALL: [Setting; 2] = [("max_wal_size", "256MB"), ("wal_keep_size", "128MB")];
/// The processes whose memory is read.
const NAMES: [&str; 3] = ["gate", "near", "far"];
/// Checksums over every row with all its columns, in every table of pgbench; both servers must agree on them.
const SUMS: &str = "SELECT concat_ws(' ', \
     (SELECT sum(hashtextextended(t::text, 0)) FROM pgbench_accounts AS t), \
     (SELECT sum(hashtextextended(t::text, 0)) FROM pgbench_branches AS t), \
     (SELECT sum(hashtextextended(t::text, 0)) FROM pgbench_tellers AS t), \
     (SELECT sum(hashtextextended(t::text, 0)) FROM pgbench_history AS t))";
const HISTORY: &str = "SELECT count(*) FROM pgbench_history";

/// Resident memory in bytes, in the order of [`NAMES`].
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at: Duration,
    bytes: [u64; NAMES.len()],
}

/// The memory of a process: at first, when warm, at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Growth {
    first: u64,
    warm: u64,
    last: u64,
}

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
    looks: Vec<Look>,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let duration = Duration::from_secs(stage.options.seconds.unwrap_or(SECONDS).max(1));
    stage.say(&format!(
        "soak: pgbench with {CLIENTS} clients for {duration:?}, `synchronous_commit = remote_write` through the gate, {ONE_WAY:?} one way\n\
         and 0.1 % loss: does a transaction fail, does the mirror lack one, and does the memory of gate or appliances grow?\n"
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let servers = PostgresPair::prepare(&network, ends(&network)?)?;
    network.tell_wan(&format!("set delay {}ms, loss 0.1%", ONE_WAY.as_millis()))?;
    stage.say(&format!("  {}", servers.describe()?));
    servers.renew()?;
    let gate = servers.start_gate(pair.appliances[0].publisher()?, "auto")?;
    let primary = servers.start_primary_with("remote_write", "mirror", &SMALL)?;
    let mut mirror = servers.launch_mirror_with(Follows::Gate, &SMALL)?;
    servers.wait_followed(&primary)?;
    let mut filling = servers.start_pgbench(&primary, &["--initialize", "--quiet", "--scale", SCALE])?;
    filling.wait(PATIENCE.mul_f64(stage.options.slack))?;
    servers.wait_even(&primary)?;
    let mut findings = soak(stage, &servers, &primary, (&gate, &pair), duration)?;
    servers.wait_even(&primary)?;
    servers.wait_replayed(&mut mirror)?;
    compare(&primary, &mirror, &mut findings)?;
    findings.early = early(&network, &gate)?;
    let truth =
        network.wan().map(|wan| wan.truth()).transpose().map_err(LabError::doing("read the emulator's counters"))?;
    findings.lost = truth.map_or(0, |truth| truth.forth.lost.chance + truth.back.lost.chance);
    drop((mirror, primary, gate));
    pair.stop()?;
    let mut report = report(&findings);
    report.metric("load", load.to_json());
    Ok(report)
}

/// Runs pgbench and records the memory.
fn soak(
    stage: &Stage<'_>,
    servers: &PostgresPair<'_>,
    primary: &Postgres,
    (gate, pair): (&Gate, &Pair<'_>),
    duration: Duration,
) -> Result<Findings, LabError> {
    let seconds = duration.as_secs().to_string();
    let words = ["--client", CLIENTS, "--jobs", "2", "--time", &seconds, "--progress", "1", "--no-vacuum"];
    let mut pgbench = servers.start_pgbench(primary, &words)?;
    let [near, far] = &pair.appliances;
    let processes = [&gate.process, &near.process, &far.process];
    let every = EVERY.min(duration / LOOKS);
    let limit = duration + PATIENCE.mul_f64(stage.options.slack);
    let mut progress = Progress::new(duration);
    let (begin, mut looks) = (Instant::now(), Vec::new());
    while pgbench.is_running() {
        let look = Look { at: begin.elapsed(), bytes: look(processes)? };
        if look.at <= duration {
            looks.push(look);
        }
        progress.tell(stage, &look, &pgbench);
        if look.at > limit {
            return Err(LabError::Sentence(format!("pgbench still runs {limit:?} after its start")));
        }
        stage.pause(every)?;
    }
    progress.bar.finish_and_clear();
    let mut benchmark = Benchmark::parse(&pgbench.output());
    if let Err(error) = pgbench.wait(Duration::ZERO) {
        benchmark.errors.push(error.to_string());
    }
    Ok(Findings { benchmark, duration, looks, ..Findings::default() })
}

fn look(processes: [&Process; NAMES.len()]) -> Result<[u64; NAMES.len()], LabError> {
    let mut bytes = [0; NAMES.len()];
    for (bytes, process) in bytes.iter_mut().zip(processes) {
        let ended = || LabError::Sentence(format!("{} has ended; see {}", process.name(), process.log().display()));
        *bytes = process.memory().ok_or_else(ended)?;
    }
    Ok(bytes)
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

    fn tell(&mut self, stage: &Stage<'_>, look: &Look, pgbench: &Process) {
        if self.said.is_some_and(|said| said.elapsed() < PROGRESS_EVERY) {
            return;
        }
        self.said = Some(Instant::now());
        let [gate, near, far] = look.bytes.map(megabytes);
        let speed = speed_now(&pgbench.output()).unwrap_or_default();
        let words = format!("{speed:.0} transactions/s, gate {gate} MB, appliances {near} and {far} MB");
        if self.is_terminal {
            self.bar.set_message(words);
            self.bar.set_position(look.at.as_secs());
        } else {
            stage.say(&format!("  {} s: {words}", look.at.as_secs()));
        }
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / 1e6)
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
    /// When all bounded buffers are in use.
    fn warm(&self) -> Duration {
        (self.duration / WARM_SHARE).max(WARM_TIME).min(self.duration / 2)
    }

    /// The memory of one process over time; none if there are too few reads.
    fn growth(&self, process: usize) -> Option<Growth> {
        let span = self.duration / SPAN_SHARE;
        let between = |from: Duration, to: Duration| {
            let looks = self.looks.iter().filter(|look| look.at >= from && look.at <= to);
            median(looks.map(|look| look.bytes[process]).collect())
        };
        let (warm, end) = (self.warm(), self.looks.last()?.at);
        let first = self.looks.first()?.bytes[process];
        Some(Growth { first, warm: between(warm, warm + span)?, last: between(end.saturating_sub(span), end)? })
    }
}

impl Growth {
    fn is_level(&self) -> bool {
        self.last <= self.warm + GROWTH.max((self.warm as f64 * GROWTH_SHARE) as u64)
    }

    fn to_json(self) -> Value {
        json!({ "first": self.first, "warm": self.warm, "last": self.last })
    }
}

fn median(mut values: Vec<u64>) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

fn report(found: &Findings) -> Report {
    let mut report = Report::default();
    let Benchmark { transactions, failed, latency_ms, speed, errors } = &found.benchmark;
    let mut said = format!("{transactions} transactions, {failed} failed, {} complaints", errors.len());
    if let Some(first) = errors.first() {
        said += &format!(": {first}");
    }
    let holds = *transactions > 0 && *failed == 0 && errors.is_empty();
    report.claim("pgbench ends without a failed transaction and without an error", said, holds);
    let [primary, mirror] = found.history;
    let said = format!("{mirror} of {transactions}, {primary} at the primary");
    report.claim("the mirror has every transaction", said, mirror >= *transactions && mirror == primary && mirror > 0);
    let said = if found.is_equal { "they are" } else { "they are not" };
    report.claim("the checksums of its four tables are those of the primary", said, found.is_equal);
    let growths: [Option<Growth>; NAMES.len()] = std::array::from_fn(|process| found.growth(process));
    for (name, growth) in NAMES.iter().zip(&growths) {
        let claim = format!("the memory of {} does not grow", described(name));
        let said = growth.map_or("nothing was seen".to_owned(), |it| {
            format!("{} MB when warm, {} MB at the end", megabytes(it.warm), megabytes(it.last))
        });
        report.claim(claim, said, growth.is_some_and(|it| it.is_level()));
    }
    let claim = "control: the gate acknowledged before the mirror did";
    report.claim(claim, format!("{} times", found.early), found.early > 0);
    report.claim("control: the WAN lost something", format!("{} datagrams", found.lost), found.lost > 0);
    report.table(
        &["memory of", "at first, MB", "when warm", "at the end", "bytes a transaction"],
        NAMES.iter().zip(&growths).filter_map(|(name, growth)| {
            let Growth { first, warm, last } = (*growth)?;
            let share = 1.0 - (found.warm() + found.duration / SPAN_SHARE).as_secs_f64() / found.duration.as_secs_f64();
            let each = (last as f64 - warm as f64) / (*transactions as f64 * share).max(1.0);
            let sizes = [first, warm, last].map(megabytes);
            Some([described(name).to_owned()].into_iter().chain(sizes).chain([format!("{each:+.1}")]).collect())
        }),
    );
    report.metric("seconds", found.duration.as_secs());
    report.metric("transactions", *transactions);
    report.metric("failed", *failed);
    report.metric("complaints", errors.clone());
    report.metric("transactions_per_second", *speed);
    report.metric("latency_ms", *latency_ms);
    report.metric("acknowledged_early", found.early);
    report.metric("datagrams_lost", found.lost);
    report.metric("rows", json!({ "primary": primary, "mirror": mirror }));
    let memory =
        NAMES.iter().zip(&growths).map(|(name, growth)| ((*name).to_owned(), json!(growth.map(Growth::to_json))));
    report.metric("memory", memory.collect::<serde_json::Map<_, _>>());
    report.metric("memory_series", found.looks.iter().map(to_json).collect::<Vec<Value>>());
    report
}

fn described(name: &str) -> &str {
    match name {
        "near" => "the primary's appliance",
        "far" => "the mirror's appliance",
        _ => "the gate",
    }
}

fn to_json(look: &Look) -> Value {
    let [gate, near, far] = look.bytes;
    json!({ "at_s": (look.at.as_secs_f64() * 10.0).round() / 10.0, "gate": gate, "near": near, "far": far })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    /// A run of 100 s in which each process uses `bytes(second)`.
    fn findings(bytes: impl Fn(u64) -> u64) -> Findings {
        let look = |second| Look { at: Duration::from_secs(second), bytes: [bytes(second); NAMES.len()] };
        Findings {
            benchmark: Benchmark { transactions: 1000, ..Benchmark::default() },
            early: 900,
            lost: 3,
            history: [1000; 2],
            is_equal: true,
            duration: Duration::from_secs(100),
            looks: (0..100).map(look).collect(),
        }
    }

    #[test]
    fn memory_may_grow_only_until_it_is_warm() {
        for (words, bytes, passes) in [
            ("level", (|_| 8 * MB) as fn(u64) -> u64, true),
            ("warms up", |second| 8 * MB + second.min(15) * MB, true),
            ("one late buffer", |second| 8 * MB + (second / 60) * MB, true),
            ("a leak", |second| 8 * MB + second * MB / 50, false),
            ("a leak of a large process", |second| 100 * MB + second * MB / 10, false),
            ("a large process", |second| 100 * MB + second * MB / 20, true),
            ("one outlier", |second| if second == 99 { 90 * MB } else { 8 * MB }, true),
        ] {
            assert_eq!(report(&findings(bytes)).passes(), passes, "{words}");
        }
        let growth = findings(|second| second).growth(0);
        assert_eq!(growth, Some(Growth { first: 0, warm: 25, last: 94 }));
    }

    #[test]
    fn a_short_run_is_warm_after_its_first_half() {
        let warm = |seconds| Findings { duration: Duration::from_secs(seconds), ..Findings::default() }.warm();
        assert_eq!([300, 40, 8].map(|it| warm(it).as_secs()), [60, 10, 4]);
        assert!(Findings::default().growth(0).is_none());
    }

    #[test]
    fn each_soak_claim_can_fail() {
        let with = |change: &dyn Fn(&mut Findings)| {
            let mut findings = findings(|_| MB);
            change(&mut findings);
            report(&findings).passes()
        };
        assert!(with(&|_| {}));
        assert!(!with(&|it| it.benchmark.failed = 1));
        assert!(!with(&|it| it.benchmark.errors.push("error".to_owned())));
        assert!(!with(&|it| it.benchmark.transactions = 0), "nothing was done");
        assert!(!with(&|it| it.history = [1000, 999]) && !with(&|it| it.history = [999; 2]), "one is missing");
        assert!(!with(&|it| it.is_equal = false));
        assert!(!with(&|it| it.early = 0), "it was remote-sync");
        assert!(!with(&|it| it.lost = 0), "the WAN was perfect");
        assert!(!with(&|it| it.looks.clear()), "nobody looked");
        assert!(!with(&|it| it.looks.iter_mut().skip(50).for_each(|look| look.bytes[2] = 9 * MB)), "one process alone");
    }
}
