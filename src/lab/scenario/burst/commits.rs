//! The price in time: how long a PostgreSQL commit takes through the gate when it waits for the late repair, and when it does
//! not.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lab::{
    error::LabError,
    network::Network,
    pair::{Pair, PairOptions},
    report::Report,
    scenario::{Stage, stage::ends},
    servers::postgres_pair::{Follows, PostgresPair},
    times::Times,
    workload::rows::{ClientPlan, Clients, Rhythm},
};

/// Each measurement is divided into rounds, so that a temporarily slow machine affects all alike.
const ROUNDS: u32 = 3;
const WARMING: Duration = Duration::from_millis(200);
/// The pause of `commit-latency`, with which "local + 0.5 ms" was measured: an idle machine wakes up more slowly.
const PAUSE: Duration = Duration::from_millis(2);
const BYTES: usize = 400;
const IDS: u64 = 10_000_000;
/// What a commit may take beyond a local one, besides the promised interruption.
const ABOVE: Duration = Duration::from_micros(500);
/// Without a promise, as `commit-latency` has it.
const ABOVE_WITHOUT: Duration = Duration::from_millis(1);

/// The promises that are compared.
const PROMISES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(2)];

/// Commits with one promise.
#[derive(Debug, Default)]
pub struct Commits {
    pub survive_burst: Duration,
    pub local: Times,
    pub network_sync: Times,
}

/// Measures local commits and commits through the gate, for each promise.
pub fn measure(stage: &Stage<'_>, network: &Network<'_>, seconds: u64) -> Result<Vec<Commits>, LabError> {
    let mut all = Vec::new();
    for survive_burst in PROMISES {
        let millis = survive_burst.as_millis();
        let repair = format!("{{ survive_burst: {millis}ms, max_overhead: 400%, min: 2 }}");
        let label = format!("commits-{millis}");
        let options =
            PairOptions { label, repair, block_symbols: 512, notify: Some("on_wire"), ..PairOptions::default() };
        let pair = Pair::start(network, &options)?;
        let servers = PostgresPair::prepare(network, ends(network)?)?;
        servers.renew()?;
        let gate = servers.start_gate(pair.appliances[0].publisher()?, "auto")?;
        let primary = servers.start_primary("remote_write", "mirror")?;
        let mirror = servers.launch_mirror(Follows::Gate)?;
        servers.wait_followed(&primary)?;
        let mut commits = Commits { survive_burst, ..Commits::default() };
        let mut from = IDS;
        for _ in 0..ROUNDS {
            let ways = [
                ("SET synchronous_commit = local", &mut commits.local),
                ("SET synchronous_commit = remote_write", &mut commits.network_sync),
            ];
            for (before, times) in ways {
                servers.wait_even(&primary)?;
                let plan = ClientPlan { clients: 1, from, bytes: BYTES, before, rhythm: Rhythm::steady(PAUSE) };
                from += IDS;
                let begin = Instant::now();
                let clients = Clients::start(&primary, plan)?;
                stage.pause(WARMING + Duration::from_secs(seconds) / ROUNDS)?;
                let told = clients.finish();
                told.iter().filter(|row| row.at > begin + WARMING).for_each(|row| times.record(row.wait));
            }
        }
        let [local, sync] = [&commits.local, &commits.network_sync].map(|times| times.quantile(0.5));
        stage.say(&format!("  survive_burst {survive_burst:?}: p50 local {local:?}, network-sync {sync:?}"));
        all.push(commits);
        drop((mirror, primary, gate));
        pair.stop()?;
    }
    Ok(all)
}

/// Adds the claims.
pub fn claim(report: &mut Report, all: &[Commits], slack: f64) {
    for commits in all {
        let [local, sync] = [&commits.local, &commits.network_sync].map(|times| times.quantile(0.5));
        let counts = [commits.local.count(), commits.network_sync.count()];
        let promised = commits.survive_burst;
        let above = if promised.is_zero() { ABOVE_WITHOUT } else { ABOVE }.mul_f64(slack);
        let found = format!("{sync:?}, local {local:?}; {counts:?} commits");
        let holds = sync <= local + promised + above && !counts.contains(&0);
        report.claim(
            format!(
                "PostgreSQL, survive_burst {promised:?}: p50 of a commit is at most local + {:?}",
                promised + above
            ),
            found.clone(),
            holds,
        );
        if !promised.is_zero() {
            let claim = format!("control: PostgreSQL, survive_burst {promised:?}: a commit waits for the late repair");
            report.claim(claim, found, sync >= promised);
        }
    }
}

/// The result as JSON.
pub fn to_json(all: &[Commits]) -> Value {
    let one = |commits: &Commits| {
        json!({
            "survive_burst_us": commits.survive_burst.as_micros() as u64,
            "commits": commits.network_sync.count(),
            "local_p50_us": commits.local.micros(0.5),
            "p50_us": commits.network_sync.micros(0.5),
            "p99_us": commits.network_sync.micros(0.99),
        })
    };
    all.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commits(survive_ms: u64, local_us: u64, sync_us: u64) -> Commits {
        let mut commits = Commits { survive_burst: Duration::from_millis(survive_ms), ..Commits::default() };
        commits.local.record(Duration::from_micros(local_us));
        commits.network_sync.record(Duration::from_micros(sync_us));
        commits
    }

    #[test]
    fn a_slow_commit_and_one_that_does_not_wait_fail() {
        let passes = |commits: Commits| {
            let mut report = Report::default();
            claim(&mut report, &[commits], 1.0);
            report.passes()
        };
        assert!(passes(commits(2, 300, 2600)) && passes(commits(0, 300, 700)));
        assert!(!passes(commits(2, 300, 2900)) && !passes(commits(0, 300, 1400)));
        assert!(!passes(commits(2, 300, 700)), "it did not wait");
        assert!(!passes(Commits::default()), "nothing was measured");
    }
}
