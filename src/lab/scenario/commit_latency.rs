//! E3 and E5: how long a PostgreSQL commit takes, by its wait mode and the round trip to the mirror.
//!
//! One cluster with its standby behind the gate serves `local`, `network-sync` (`remote_write` through the gate), `on`
//! and `remote_apply`, which each session sets; `direct` is `remote_write` with the standby at the primary itself,
//! through the same appliances. The WAN loses nothing: `disaster` covers that. Each site has its own processors, and
//! each measurement has several rounds, so that a temporarily slow machine affects all modes alike.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Stage,
    stage::{WAN_TCP, ends},
};
use crate::lab::{
    error::LabError,
    load::Load,
    pair::{Pair, PairOptions},
    plot::{Plot, PlotLine, Scale},
    report::Report,
    servers::{
        postgres::Postgres,
        postgres_pair::{Follows, PostgresPair},
    },
    times::Times,
    workload::rows::{ClientPlan, Clients, Rhythm},
};

/// Round trips, in milliseconds.
const ROUND_TRIPS: [u64; 4] = [0, 10, 50, 100];
const CLIENTS: [u64; 2] = [1, 8];
/// Length of each measurement, unless the user sets another, and the number of rounds it is divided into.
const SECONDS: u64 = 4;
const ROUNDS: u32 = 4;
/// Nothing counts in this time at the beginning of each round.
const WARMING: Duration = Duration::from_millis(200);
/// Pause between two commits of a client: one outstanding commit is measured, not a flood.
const PAUSE: Duration = Duration::from_millis(2);
/// Bytes of a row.
const BYTES: usize = 400;
/// Ids reserved for one measurement in one round.
const IDS: u64 = 10_000_000;
/// Upper bound of the additional time of a commit that waits for protection, compared with a local one.
const ABOVE_LOCAL: Duration = Duration::from_millis(1);
/// Upper bound of its time as a share of the direct mode's, at 50 ms.
const OF_DIRECT: f64 = 0.1;
/// How much it may depend on the distance: this factor, or this time.
const FLAT: f64 = 1.1;
const FLAT_TIME: Duration = Duration::from_micros(100);

/// How a commit waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum WaitMode {
    Local,
    NetworkSync,
    Direct,
    On,
    RemoteApply,
}

impl WaitMode {
    const ALL: [Self; 5] = [Self::Local, Self::NetworkSync, Self::Direct, Self::On, Self::RemoteApply];

    fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::NetworkSync => "network-sync",
            Self::Direct => "remote_write direct",
            Self::On => "on",
            Self::RemoteApply => "remote_apply",
        }
    }

    fn setting(self) -> &'static str {
        match self {
            Self::Local => "SET synchronous_commit = local",
            Self::NetworkSync | Self::Direct => "SET synchronous_commit = remote_write",
            Self::On => "SET synchronous_commit = on",
            Self::RemoteApply => "SET synchronous_commit = remote_apply",
        }
    }
}

/// One measurement.
struct Row {
    way: WaitMode,
    round_trip: u64,
    clients: u64,
    times: Times,
}

impl Row {
    fn is(&self, way: WaitMode, round_trip: u64, clients: u64) -> bool {
        (self.way, self.round_trip, self.clients) == (way, round_trip, clients)
    }

    fn say(&self, stage: &Stage<'_>) {
        let Self { way, round_trip, clients, times } = self;
        let [p50, p99] = [0.5, 0.99].map(|share| times.quantile(share).as_secs_f64() * 1e3);
        stage
            .say(&format!("  {round_trip:>3} ms, {clients} clients, {}: p50 {p50:.2} ms, p99 {p99:.2} ms", way.name()));
    }
}

/// Waits until the link is up at the present round trip. After the path has become longer, that takes until the shorter
/// round trips are forgotten, ten seconds later.
fn wait_trusted(stage: &Stage<'_>, pair: &Pair<'_>) -> Result<(), LabError> {
    // By then the last proof of the old path has expired.
    stage.pause(Duration::from_millis(400))?;
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let [near, _] = pair.status()?;
        if near.peers.iter().all(|peer| peer.protection.as_ref().is_some_and(|it| it.state == "up")) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LabError::Sentence("the link is not trusted within 30 s".to_owned()));
        }
        stage.pause(Duration::from_millis(100))?;
    }
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(SECONDS).max(1);
    stage.say(&format!(
        "commit-latency: PostgreSQL inserts of one row, {seconds} s in {ROUNDS} rounds for each way to wait, each of the round\n\
         trips {ROUND_TRIPS:?} ms, 1 and 8 clients with one outstanding commit each and {PAUSE:?} between. Through the appliances, the gate and no loss.\n"
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let mut network = stage.build()?;
    stage.part_sites(&mut network)?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan("set delay 0")?;
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let servers = PostgresPair::prepare(&network, ends(&network)?)?;
    stage.say(&format!("  {}", servers.describe()?));
    let mut rows: Vec<Row> = Vec::new();
    let mut ids = IDS;
    for follows in [Follows::Gate, Follows::Primary] {
        network.tell_wan("set delay 0")?;
        servers.renew()?;
        let gate = match follows {
            Follows::Gate => Some(servers.start_gate(pair.appliances[0].publisher()?, "auto")?),
            Follows::Primary => None,
        };
        let primary = servers.start_primary("remote_write", "mirror")?;
        let mirror = servers.launch_mirror(follows)?;
        servers.wait_followed(&primary)?;
        let ways = WaitMode::ALL.into_iter().filter(|way| (*way == WaitMode::Direct) == (follows == Follows::Primary));
        let ways: Vec<_> = ways.collect();
        for (round, round_trip) in (1..=ROUNDS).flat_map(|round| ROUND_TRIPS.map(|round_trip| (round, round_trip))) {
            network.tell_wan(&format!("set delay {}us", round_trip * 500))?;
            stage.say(&format!("  round {round} of {ROUNDS}, {round_trip} ms"));
            wait_trusted(stage, &pair)?;
            for (way, clients) in ways.iter().flat_map(|way| CLIENTS.map(|clients| (*way, clients))) {
                servers.wait_even(&primary)?;
                let plan = ClientPlan {
                    clients,
                    from: ids,
                    bytes: BYTES,
                    before: way.setting(),
                    rhythm: Rhythm::steady(PAUSE),
                };
                ids += IDS;
                let told = measure(stage, &primary, plan, Duration::from_secs(seconds) / ROUNDS)?;
                let found = rows.iter().position(|row| row.is(way, round_trip, clients));
                let at = found.unwrap_or_else(|| {
                    rows.push(Row { way, round_trip, clients, times: Times::default() });
                    rows.len() - 1
                });
                told.into_iter().for_each(|wait| rows[at].times.record(wait));
                if round == ROUNDS {
                    rows[at].say(stage);
                }
            }
        }
        drop((mirror, primary, gate));
    }
    pair.stop()?;
    let mut report = report(&rows, stage.options.slack);
    report.metric("load", load.to_json());
    report.metric("data_in_memory", servers.is_in_memory());
    Ok(report)
}

/// Measures how long each commit takes.
fn measure(
    stage: &Stage<'_>,
    primary: &Postgres,
    plan: ClientPlan<'_>,
    duration: Duration,
) -> Result<Vec<Duration>, LabError> {
    let begin = Instant::now();
    let clients = Clients::start(primary, plan)?;
    stage.pause(WARMING + duration)?;
    let told = clients.finish();
    Ok(told.iter().filter(|row| row.at > begin + WARMING).map(|row| row.wait).collect())
}

/// The median of a measurement.
fn median(rows: &[Row], way: WaitMode, round_trip: u64, clients: u64) -> Duration {
    quantile(rows, way, (round_trip, clients), 0.5)
}

fn quantile(rows: &[Row], way: WaitMode, (round_trip, clients): (u64, u64), q: f64) -> Duration {
    let found = rows.iter().find(|row| row.is(way, round_trip, clients));
    found.map_or(Duration::ZERO, |row| row.times.quantile(q))
}

fn report(rows: &[Row], slack: f64) -> Report {
    let mut report = Report::default();
    let of = |way, round_trip| median(rows, way, round_trip, 1);
    let most_above = ROUND_TRIPS.map(|it| of(WaitMode::NetworkSync, it).saturating_sub(of(WaitMode::Local, it)));
    let most_above = most_above.into_iter().max().unwrap_or_default();
    let limit = ABOVE_LOCAL.mul_f64(slack);
    let claim = format!("network-sync p50 is at most local + {limit:?}, at every round trip");
    report.claim(claim, format!("{most_above:?} at most"), most_above <= limit);
    let (sync, direct) = (of(WaitMode::NetworkSync, 50), of(WaitMode::Direct, 50));
    let share = sync.as_secs_f64() / direct.as_secs_f64().max(1e-9);
    report.claim(
        format!("network-sync p50 is at most {OF_DIRECT} of remote_write direct at 50 ms"),
        format!("{share:.3} ({sync:?} of {direct:?})"),
        share <= OF_DIRECT * slack,
    );
    // At round trip 0 the mirror's own answer may come first; that is another wait mode.
    let far = ROUND_TRIPS.iter().filter(|round_trip| **round_trip > 0);
    let medians: Vec<_> = far.map(|round_trip| of(WaitMode::NetworkSync, *round_trip)).collect();
    let [least, most] = [medians.iter().min(), medians.iter().max()].map(|it| it.copied().unwrap_or_default());
    let limit = least.mul_f64(1.0 + (FLAT - 1.0) * slack).max(least + FLAT_TIME.mul_f64(slack));
    report.claim(
        "network-sync p50 does not depend on the round trip, 10 to 100 ms (by 10 %, or 100 us)",
        format!("{least:?} to {most:?}"),
        most <= limit && most > Duration::ZERO,
    );
    for (way, claim) in [
        (WaitMode::On, "`on` waits for the mirror also through the gate"),
        (WaitMode::RemoteApply, "`remote_apply` waits for the mirror also through the gate"),
        (WaitMode::Direct, "control: remote_write direct waits a round trip"),
    ] {
        let waits = [50, 100].map(|round_trip| (round_trip, of(way, round_trip)));
        let holds = waits.iter().all(|(round_trip, wait)| *wait >= Duration::from_millis(*round_trip));
        let found = waits.map(|(round_trip, wait)| format!("{wait:?} at {round_trip} ms")).join(", ");
        report.claim(claim, found, holds);
    }
    let ms = |times: &Times, share| format!("{:.2}", times.quantile(share).as_secs_f64() * 1e3);
    report.table(
        &["round trip", "clients", "way", "commits", "p50 ms", "p99 ms"],
        rows.iter().map(|row| {
            vec![
                format!("{} ms", row.round_trip),
                row.clients.to_string(),
                row.way.name().to_owned(),
                row.times.count().to_string(),
                ms(&row.times, 0.5),
                ms(&row.times, 0.99),
            ]
        }),
    );
    report.metric("commits", rows.iter().map(to_json).collect::<Vec<Value>>());
    report.draw(plot(rows));
    report
}

fn to_json(row: &Row) -> Value {
    json!({
        "way": row.way.name(),
        "round_trip_ms": row.round_trip,
        "clients": row.clients,
        "commits": row.times.count(),
        "p50_us": row.times.micros(0.5),
        "p99_us": row.times.micros(0.99),
    })
}

/// p50 of all, and p99 of the two between which somebody chooses.
fn plot(rows: &[Row]) -> Plot {
    let line = |way: WaitMode, name: String, q: f64| PlotLine {
        name,
        is_dashed: way != WaitMode::NetworkSync || q > 0.5,
        points: ROUND_TRIPS.map(|it| (it as f64, quantile(rows, way, (it, 1), q).as_secs_f64() * 1e3)).to_vec(),
    };
    let mut lines = WaitMode::ALL.map(|way| line(way, way.name().to_owned(), 0.5)).to_vec();
    lines.extend([WaitMode::Local, WaitMode::NetworkSync].map(|way| line(way, format!("{} p99", way.name()), 0.99)));
    Plot {
        title: "PostgreSQL commit, one client".to_owned(),
        across: "round trip to the mirror, ms".to_owned(),
        upwards: "commit, ms: p50, or p99 as named".to_owned(),
        scale: Scale::Logarithmic,
        lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows in which a mode takes this long at a round trip.
    fn rows(wait: impl Fn(WaitMode, u64) -> Duration) -> Vec<Row> {
        let all = WaitMode::ALL.into_iter().flat_map(|way| ROUND_TRIPS.map(|round_trip| (way, round_trip)));
        all.map(|(way, round_trip)| {
            let mut times = Times::default();
            times.record(wait(way, round_trip));
            Row { way, round_trip, clients: 1, times }
        })
        .collect()
    }

    fn good(way: WaitMode, round_trip: u64) -> Duration {
        match way {
            WaitMode::Local => Duration::from_micros(300),
            WaitMode::NetworkSync => Duration::from_micros(900),
            _ => Duration::from_millis(round_trip) + Duration::from_micros(500),
        }
    }

    #[test]
    fn each_latency_claim_can_fail() {
        assert!(report(&rows(good), 1.0).passes());
        assert!(report(&rows(good), 1.0).to_svg().is_some());
        let with = |way: WaitMode, round_trip: u64, wait: Duration| {
            report(&rows(|w, r| if (w, r) == (way, round_trip) { wait } else { good(w, r) }), 1.0).passes()
        };
        assert!(!with(WaitMode::NetworkSync, 0, Duration::from_micros(1400)), "too slow");
        assert!(!with(WaitMode::NetworkSync, 100, Duration::from_micros(1050)), "not flat");
        assert!(!with(WaitMode::Direct, 50, Duration::from_millis(8)), "the direct way is not what it should be");
        assert!(!with(WaitMode::On, 100, Duration::from_millis(1)), "`on` was acknowledged early");
        assert!(!with(WaitMode::RemoteApply, 50, Duration::from_millis(1)), "`remote_apply` was acknowledged early");
        assert!(!report(&[], 1.0).passes());
    }
}
