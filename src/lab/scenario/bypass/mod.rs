//! An appliance dies, stands still or hangs under load: how soon do packets take the plain route, and is anything lost or
//! delivered twice that should not be?
//!
//! Numbered UDP packets flow both ways each millisecond; the longest time without one is how long the bypass took.
//! PostgreSQL commits through a gate meanwhile. In some trials the primary site dies during the bypass: what was
//! acknowledged must be at the mirror.
//!
//! Start with [`run`]. [`report`] is what is claimed.

mod report;

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use self::report::{Disaster, Found, Trial};
use super::{
    Stage,
    stage::{WAN_TCP, ends},
};
use crate::lab::{
    error::LabError,
    fault::Fault,
    network::Network,
    pair::{Pair, PairOptions},
    report::Report,
    servers::postgres_pair::PostgresPair,
    workload::{
        both_ways::BothWays,
        numbered::NumberedSink,
        rows::{self, ClientPlan, Clients, Rhythm},
    },
};

const TRIALS: u32 = 100;
/// One of so many trials ends with the death of the primary site.
const DISASTER_EVERY: u32 = 5;
const ONE_WAY: Duration = Duration::from_millis(10);
const INTERVAL: Duration = Duration::from_millis(1);
/// How long a fault lasts, or the time until the disaster at most.
const LASTS: Duration = Duration::from_millis(1500);
/// How long the appliances may take to carry packets again.
const CARRIED_WITHIN: Duration = Duration::from_secs(20);
/// After the last packet, another one may come within this time.
const QUIET: Duration = Duration::from_secs(1);
const CONFIG: &str = "bypass: { when_down: withdraw_routes, return_after: 300ms }\n";
const CLIENTS: ClientPlan<'static> =
    ClientPlan { clients: 2, from: 1, bytes: 400, before: "", rhythm: Rhythm::steady(Duration::from_millis(4)) };

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let trials = stage.options.trials.unwrap_or(TRIALS).max(4);
    let disasters = (trials / DISASTER_EVERY).max(1);
    stage.say(&format!(
        "bypass: {trials} times an appliance is killed, aborts, is stopped, or its lane hangs, at either side in turn, with UDP packets\n\
         each {INTERVAL:?} in both directions and PostgreSQL commits through a gate. {disasters} more times the primary site dies meanwhile.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(&format!("set delay {}ms", ONE_WAY.as_millis()))?;
    for (node, prefix) in [("ithaca", "10.2.0.0/24"), ("syracuse", "10.1.0.0/24")] {
        network.run(node, &["ip", "route", "add", prefix, "dev", "wan0", "metric", "1000"])?;
    }
    let options = PairOptions { notify: Some("on_wire"), further: CONFIG, ..PairOptions::default() };
    let mut pair = Pair::start(&network, &options)?;
    let servers = PostgresPair::prepare(&network, ends(&network)?)?;
    let mut found = Found { slack: stage.options.slack, ..Found::default() };
    faults(stage, &network, &mut pair, &servers, trials, &mut found)?;
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    for number in 0..disasters {
        let fault = Fault::ALL[number as usize % Fault::ALL.len()];
        found.disasters.push(disaster(stage, &network, &mut pair, &servers, fault, &mut rng)?);
        stage.say(&format!("    disaster {} of {disasters}", number + 1));
    }
    pair.appliances.iter_mut().for_each(|appliance| appliance.process.kill());
    Ok(report::report(&found))
}

/// All faults, one after the other, under one load.
fn faults(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &mut Pair<'_>,
    servers: &PostgresPair<'_>,
    trials: u32,
    found: &mut Found,
) -> Result<(), LabError> {
    wait_carried(stage, pair)?;
    let (gate, primary, mirror) = servers.start_behind_gate(pair.appliances[0].publisher()?)?;
    let before = gate.connections(network)?;
    let clients = Clients::start(&primary, CLIENTS)?;
    let [from, to] = ends(network)?;
    let sinks = [
        NumberedSink::listen(network, ("primary", from), ("mirror", to))?,
        NumberedSink::listen(network, ("mirror", to), ("primary", from))?,
    ];
    let load = BothWays { sinks, each: 1, interval: INTERVAL };
    let mut said = Instant::now();
    for number in 0..trials as usize {
        stage.trace.check_stop()?;
        if said.elapsed() > Duration::from_secs(5) {
            stage.say(&format!("    {number} of {trials}"));
            said = Instant::now();
        }
        let (fault, side) = (Fault::ALL[number % 4], number / 4 % 2);
        let committed = clients.count();
        let mut held = None;
        let (longest, during) = load.run(|gaps| {
            stage.pause(Duration::from_millis(100))?;
            gaps.begin();
            held = fault.begin(&mut pair.appliances[side])?;
            stage.pause(LASTS)?;
            Ok(gaps.longest())
        })?;
        // The way back, with new flows: nothing of them may be lost.
        let ((), back) = load.run(|_| {
            fault.end(&mut pair.appliances[side], held.take(), network)?;
            wait_carried(stage, pair)?;
            stage.pause(Duration::from_millis(100))
        })?;
        found.trials.push(Trial {
            fault,
            longest: longest.saturating_sub(INTERVAL),
            twice: during.twice + back.twice,
            missing_at_return: back.missing,
            commits: clients.count() - committed,
        });
    }
    found.commits = clients.finish().len();
    let after = gate.connections(network)?;
    found.connections = [after[0] - before[0], before[1].saturating_sub(after[1])];
    load.end();
    drop((mirror, primary, gate));
    Ok(())
}

/// Waits until both appliances carry packets.
fn wait_carried(stage: &Stage<'_>, pair: &Pair<'_>) -> Result<(), LabError> {
    let deadline = Instant::now() + CARRIED_WITHIN.mul_f64(stage.options.slack);
    loop {
        if pair.is_carried() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LabError::Sentence(format!("the appliances do not carry again within {CARRIED_WITHIN:?}")));
        }
        stage.pause(Duration::from_millis(20))?;
    }
}

/// A fault of the primary's appliance, and the death of its site a moment later.
fn disaster(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &mut Pair<'_>,
    servers: &PostgresPair<'_>,
    fault: Fault,
    rng: &mut SmallRng,
) -> Result<Disaster, LabError> {
    network.tell_wan("set loss 0%, passage open")?;
    pair.restart()?;
    wait_carried(stage, pair)?;
    let (mut gate, mut primary, mut mirror) = servers.start_behind_gate(pair.appliances[0].publisher()?)?;
    let clients = Clients::start(&primary, CLIENTS)?;
    stage.pause(Duration::from_millis(500))?;
    let held = fault.begin(&mut pair.appliances[0])?;
    stage.pause(rng.random_range(Duration::ZERO..LASTS))?;
    let cut = Instant::now();
    network.tell_wan("cut")?;
    primary.server.crash();
    gate.crash();
    drop(held);
    pair.appliances[0].process.kill();
    let acknowledged: Vec<_> = clients.finish().into_iter().filter(|row| row.at < cut).collect();
    stage.pause(QUIET)?;
    servers.wait_replayed(&mut mirror)?;
    let survived = rows::ids(&mirror)?;
    let lost = acknowledged.iter().filter(|row| survived.binary_search(&row.id).is_err()).count();
    mirror.server.crash();
    Ok(Disaster { fault, acknowledged: acknowledged.len(), lost })
}
