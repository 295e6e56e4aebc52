//! The faults under load, one after the other: when the routers follow, what flows lose, and what the gate does meanwhile.

use std::{
    thread,
    time::{Duration, Instant},
};

use super::{
    CLIENTS, INTERVAL, LASTS,
    report::{Away, Found, Moved, Trial, bound},
    site::{SITES, Sites},
};
use crate::lab::{
    error::LabError,
    fault::Fault,
    median::median,
    network::Network,
    pair::Pair,
    route_watch::RouteWatch,
    scenario::stage::{Stage, ends},
    servers::{gate::Gate, postgres_pair::PostgresPair},
    workload::{
        both_ways::BothWays,
        request_response::{RequestResponse, Talk},
        rows::{Clients, Committed},
    },
};

/// TCP connections with requests and answers.
const CONNECTIONS: usize = 6;
/// New flows have begun after this time.
const STARTED: Duration = Duration::from_millis(100);
/// How long commits and flows are watched before a fault.
const CALM: Duration = Duration::from_millis(300);
/// What was on its way when the routes changed is over after this time.
const SETTLED: Duration = Duration::from_millis(300);
/// How long the gate may take to say why nothing is protected: a lease is a second.
const REASON_WITHIN: Duration = Duration::from_secs(2);
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
    servers: &'b PostgresPair<'n>,
    gate: &'b Gate,
    clients: &'b Clients,
    load: &'b BothWays,
}

/// Runs all of them.
pub fn run<'n>(
    stage: &Stage<'_>,
    network: &Network<'n>,
    (sites, pairs): (&mut Sites, &mut Vec<Pair<'n>>),
    servers: &PostgresPair<'n>,
    load: &BothWays,
    trials: u32,
    found: &mut Found,
) -> Result<(), LabError> {
    let (gate, primary, mirror) = servers.start_behind_movable_gate(pairs[0].appliances[0].publisher()?)?;
    let before = gate.connections(network)?;
    let clients = Clients::start(&primary, CLIENTS)?;
    let [_, to] = ends(network)?;
    let start = |_| RequestResponse::start(network, "primary", "mirror", to, Talk::INTERACTIVE);
    let requests = (0..CONNECTIONS).map(start).collect::<Result<Vec<_>, _>>()?;
    let mut bench = Bench { stage, network, sites, pairs, servers, gate: &gate, clients: &clients, load };
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
    found.moved = bench.moved()?;
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
        let committed = self.clients.count();
        let (load, routes) = (self.load, &mut self.sites.routes);
        let (stage, gate, network, clients) = (self.stage, self.gate, self.network, self.clients);
        let appliance = &mut self.pairs[pair].appliances[side];
        let mut held = None;
        let ((withdrawn, longest, calm, away), during) = load.run(|gaps| {
            stage.pause(STARTED)?;
            gaps.begin();
            let calm = (Instant::now(), Instant::now() + CALM);
            stage.pause(CALM)?;
            let longest_before = gaps.longest();
            let begun = Instant::now();
            let limit = bound(fault).mul_f64(stage.options.slack).max(Duration::from_secs(3));
            // A process that is killed takes a while to be gone; the routers are watched meanwhile.
            let withdrawn = thread::scope(|scope| {
                let watching = scope.spawn(|| wait_withdrawn(routes, pair, begun, limit));
                held = fault.begin(appliance)?;
                watching.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            let away = if pair == 0 { Some(look_at_fault(stage, network, gate, clients)?) } else { None };
            stage.pause(LASTS.saturating_sub(begun.elapsed()))?;
            Ok((withdrawn, [longest_before, gaps.longest()], calm, away))
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
            longest_before: longest[0].saturating_sub(INTERVAL),
            longest: longest[1].saturating_sub(INTERVAL),
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

    /// The first pair stays away, and the gate is moved to the second one: to where its flow is. Then both go back.
    fn moved(&mut self) -> Result<Moved, LabError> {
        self.wait_early(Instant::now())?;
        let (begun, limit) = (Instant::now(), bound(Fault::Kill).mul_f64(self.stage.options.slack));
        let held = Fault::Kill.begin(&mut self.pairs[0].appliances[0])?;
        wait_withdrawn(&mut self.sites.routes, 0, begun, limit.max(Duration::from_secs(3)))?;
        let (away, _) = look_at_fault(self.stage, self.network, self.gate, self.clients)?;
        let ask = |pair: &Pair<'_>| {
            let plan = self.servers.gate_plan(pair.appliances[0].publisher()?, "auto");
            self.gate.move_to(self.network, &plan).map(|()| Instant::now())
        };
        let asked = ask(&self.pairs[1])?;
        let early_there = self.wait_early(asked)?;
        let (committed, released) = (self.clients.count(), self.gate.released(self.network)?);
        self.stage.pause(LASTS / 2)?;
        let (commits, released) = (self.clients.count() - committed, self.gate.released(self.network)? - released);
        Fault::Kill.end(&mut self.pairs[0].appliances[0], held, self.network)?;
        self.sites.wait_carried(self.stage, self.pairs)?;
        let (left_behind, _) = look_away(self.stage, self.network, self.gate, self.clients)?;
        let asked = ask(&self.pairs[0])?;
        let early_back = self.wait_early(asked)?;
        Ok(Moved { away, left_behind, early_there, commits, released, early_back })
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

/// How long after the fault each router no longer had the pair; none: it still had it when the time was up.
fn wait_withdrawn(
    routes: &mut [RouteWatch; 2],
    pair: usize,
    begun: Instant,
    limit: Duration,
) -> Result<[Option<Duration>; 2], LabError> {
    let mut withdrawn = [None; 2];
    while withdrawn.contains(&None) && begun.elapsed() < limit {
        for ((site, routes), withdrawn) in SITES.iter().zip(&mut *routes).zip(&mut withdrawn) {
            let has_it = routes.gateways()?.contains(site.gateways[pair]);
            *withdrawn = withdrawn.or((!has_it).then(|| begun.elapsed()));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(withdrawn)
}

/// What the gate does while its flow is on the pair that it does not ask.
fn look_away(
    stage: &Stage<'_>,
    network: &Network<'_>,
    gate: &Gate,
    clients: &Clients,
) -> Result<(Away, Window), LabError> {
    stage.pause(SETTLED)?;
    let (from, early, commits) = (Instant::now(), gate.released(network)?, clients.count());
    stage.pause(LASTS / 2)?;
    let away = Away {
        commits: clients.count() - commits,
        released: gate.released(network)? - early,
        reason: gate.reason(network)?,
    };
    Ok((away, (from, Instant::now())))
}

/// Like [`look_away`], where an appliance has failed: the gate knows why nothing is protected, at the latest after a lease.
fn look_at_fault(
    stage: &Stage<'_>,
    network: &Network<'_>,
    gate: &Gate,
    clients: &Clients,
) -> Result<(Away, Window), LabError> {
    let (mut away, window) = look_away(stage, network, gate, clients)?;
    let deadline = Instant::now() + REASON_WITHIN.mul_f64(stage.options.slack);
    while away.reason.is_none() && Instant::now() < deadline {
        stage.pause(Duration::from_millis(20))?;
        away.reason = gate.reason(network)?;
    }
    Ok((away, window))
}
