//! The faults under load, one after the other: when the routers follow, what flows lose, and what the gate does meanwhile.

use std::time::{Duration, Instant};

use super::{
    CLIENTS, INTERVAL, LASTS,
    report::{Away, Found, Trial, bound},
    site::{SITES, Sites},
};
use crate::lab::{
    error::LabError,
    fault::Fault,
    median::median,
    network::Network,
    pair::Pair,
    scenario::stage::{Stage, ends},
    servers::{gate::Gate, postgres_pair::PostgresPair},
    workload::{
        both_ways::BothWays,
        request_response::RequestResponse,
        rows::{Clients, Committed},
    },
};

/// TCP connections with requests and answers.
const CONNECTIONS: usize = 6;
/// How long commits are timed before a fault.
const CALM: Duration = Duration::from_millis(300);
/// What was on its way when the routes changed is over after this time.
const SETTLED: Duration = Duration::from_millis(300);
/// How long the gate may take to acknowledge early again.
const EARLY_WITHIN: Duration = Duration::from_secs(20);

/// A time in which commits are timed.
type Window = (Instant, Instant);

/// What the trials share.
struct Bench<'b, 'n> {
    stage: &'b Stage<'b>,
    network: &'b Network<'n>,
    sites: &'b mut Sites,
    pairs: &'b mut [Pair<'n>],
    gate: &'b Gate,
    clients: &'b Clients,
    load: &'b BothWays,
}

/// Runs all of them.
pub fn run<'n>(
    stage: &Stage<'_>,
    network: &Network<'n>,
    (sites, pairs): (&mut Sites, &mut Vec<Pair<'n>>),
    servers: &PostgresPair<'_>,
    load: &BothWays,
    trials: u32,
    found: &mut Found,
) -> Result<(), LabError> {
    let (gate, primary, mirror) = servers.start_behind_gate(pairs[0].appliances[0].publisher()?)?;
    let before = gate.connections(network)?;
    let clients = Clients::start(&primary, CLIENTS)?;
    let [_, to] = ends(network)?;
    let start = |_| RequestResponse::start(network, "primary", "mirror", to);
    let requests = (0..CONNECTIONS).map(start).collect::<Result<Vec<_>, _>>()?;
    let mut bench = Bench { stage, network, sites, pairs, gate: &gate, clients: &clients, load };
    let (mut calm, mut away) = (Vec::new(), Vec::new());
    for number in 0..trials as usize {
        stage.trace.check_stop()?;
        let (trial, windows) = bench.trial(number)?;
        stage.say(&format!(
            "    {} of {trials}: {} of {}, longest gap {:.0?}",
            number + 1,
            trial.fault.name(),
            trial.node,
            trial.longest
        ));
        found.trials.push(trial);
        calm.push(windows.0);
        away.extend(windows.1);
    }
    let answers = requests.into_iter().map(RequestResponse::finish).collect::<Result<Vec<_>, _>>()?;
    found.answers = answers.iter().map(|it| it.count()).collect();
    let rows = clients.finish();
    found.commits = rows.len();
    (found.calm_ms, found.away_ms) = (median_wait(&rows, &calm), median_wait(&rows, &away));
    let after = gate.connections(network)?;
    found.connections = [after[0] - before[0], before[1].saturating_sub(after[1])];
    drop((mirror, primary, gate));
    Ok(())
}

/// The median time of the commits within these windows, in milliseconds.
fn median_wait(rows: &[Committed], windows: &[Window]) -> f64 {
    let is_within = |row: &&Committed| windows.iter().any(|(from, to)| row.at - row.wait > *from && row.at < *to);
    median(rows.iter().filter(is_within).map(|row| row.wait.as_secs_f64() * 1e3).collect())
}

impl Bench<'_, '_> {
    /// One fault, from a moment when both pairs carry until both carry again.
    fn trial(&mut self, number: usize) -> Result<(Trial, (Window, Option<Window>)), LabError> {
        // Each of the four appliances in turn, and each of the two faults at each of them.
        let fault = [Fault::Kill, Fault::Halt][(number + number / 4) % 2];
        let (pair, side) = (number / 2 % 2, number % 2);
        self.wait_early(Instant::now())?;
        let calm = (Instant::now(), Instant::now() + CALM);
        self.stage.pause(CALM)?;
        let committed = self.clients.count();
        let mut held = None;
        let load = self.load;
        let ((withdrawn, longest, away), during) = load.run(|gaps| {
            self.stage.pause(Duration::from_millis(100))?;
            gaps.begin();
            let begun = Instant::now();
            held = fault.begin(&mut self.pairs[pair].appliances[side])?;
            let withdrawn = self.wait_withdrawn(fault, pair, begun)?;
            let away = if pair == 0 { Some(self.look_away()?) } else { None };
            self.stage.pause(LASTS.saturating_sub(begun.elapsed()))?;
            Ok((withdrawn, gaps.longest(), away))
        })?;
        // The way back, with new flows: nothing of them may be lost.
        let (returned, back) = load.run(|_| {
            let begun = Instant::now();
            fault.end(&mut self.pairs[pair].appliances[side], held.take(), self.network)?;
            self.sites.wait_carried(self.stage, self.pairs)?;
            let returned = begun.elapsed();
            self.stage.pause(Duration::from_millis(200))?;
            Ok(returned)
        })?;
        let early_again = self.wait_early(Instant::now())?;
        let (away, window) = away.unzip();
        let trial = Trial {
            fault,
            node: self.pairs[pair].appliances[side].node().to_owned(),
            withdrawn: withdrawn[side],
            withdrawn_far: withdrawn[1 - side],
            longest: longest.saturating_sub(INTERVAL),
            twice: during.twice + back.twice,
            missing: during.missing,
            missing_at_return: back.missing,
            returned,
            early_again,
            commits: self.clients.count() - committed,
            away,
        };
        Ok((trial, (calm, window)))
    }

    /// How long after the fault each router no longer had the pair.
    fn wait_withdrawn(&mut self, fault: Fault, pair: usize, begun: Instant) -> Result<[Option<Duration>; 2], LabError> {
        let limit = bound(fault).mul_f64(self.stage.options.slack).max(Duration::from_secs(3));
        let mut withdrawn = [None; 2];
        for ((site, routes), withdrawn) in SITES.iter().zip(&mut self.sites.routes).zip(&mut withdrawn) {
            *withdrawn = routes.wait(begun, limit, |now| !now.contains(site.gateways[pair]))?;
        }
        Ok(withdrawn)
    }

    /// What the gate does while its flow is on the other pair.
    fn look_away(&mut self) -> Result<(Away, Window), LabError> {
        self.stage.pause(SETTLED)?;
        let (from, early, commits) = (Instant::now(), self.gate.released(self.network)?, self.clients.count());
        self.stage.pause(LASTS / 2)?;
        let away = Away {
            commits: self.clients.count() - commits,
            released: self.gate.released(self.network)? - early,
            reason: self.gate.reason(self.network)?,
        };
        Ok((away, (from, Instant::now())))
    }

    /// Waits until the gate acknowledges early; returns how long that took, none if it does not.
    fn wait_early(&self, since: Instant) -> Result<Option<Duration>, LabError> {
        let before = self.gate.released(self.network)?;
        while self.gate.released(self.network)? == before {
            if since.elapsed() > EARLY_WITHIN.mul_f64(self.stage.options.slack) {
                return Ok(None);
            }
            self.stage.pause(Duration::from_millis(10))?;
        }
        Ok(Some(since.elapsed()))
    }
}
