//! Two pairs of appliances side by side: does the load spread over both, and what happens when an appliance dies or stands
//! still?
//!
//! The router of each site spreads flows over the appliances that announce the far site (BIRD and the kernel's ECMP, with
//! the files of `config/bird`). Numbered UDP packets flow both ways, TCP requests are answered, and PostgreSQL commits through a gate
//! whose flow prefers the first pair. An appliance fails, and its flows must take the other pair; it comes back, and both
//! must carry without a loss. In some trials the primary site dies meanwhile.
//!
//! Start with [`run`]. [`site`] is the network, [`faults`] and [`disaster`] are the trials, [`report`] what is claimed.

mod disaster;
mod faults;
mod report;
mod site;
mod spread;

use std::time::Duration;

use self::{report::Found, site::Sites};
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
        rows::{ClientPlan, Rhythm},
    },
};

const TRIALS: u32 = 40;
/// For so many trials there is a disaster: the primary site dies.
const DISASTER_EVERY: u32 = 4;
const ONE_WAY: Duration = Duration::from_millis(10);
/// Flows in each direction, and the time between two packets of each.
const FLOWS: usize = 12;
const INTERVAL: Duration = Duration::from_millis(10);
/// How long a fault lasts after the routes have changed.
const LASTS: Duration = Duration::from_millis(1200);
const CONFIG: &str = "bypass: { when_down: withdraw_routes, return_after: 100ms }\n";
const CLIENTS: ClientPlan<'static> =
    ClientPlan { clients: 2, from: 1, bytes: 400, before: "", rhythm: Rhythm::steady(Duration::from_millis(4)) };

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let trials = stage.options.trials.unwrap_or(TRIALS).max(4);
    let disasters = (trials / DISASTER_EVERY).max(1);
    stage.say(&format!(
        "scale-out: {trials} times an appliance of two pairs is killed or stopped, at each of the four in turn, under {FLOWS} UDP flows\n\
         in each direction, TCP requests, and PostgreSQL commits through a gate. {disasters} more times the primary site dies meanwhile.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(&format!("set delay {}ms", ONE_WAY.as_millis()))?;
    let [from, to] = ends(&network)?;
    let mut sites = Sites::start(stage, &network)?;
    let options = PairOptions { notify: Some("on_wire"), further: CONFIG, ..PairOptions::default() };
    let mut pairs = Pair::start_all(&network, &options)?;
    sites.wait_carried(stage, &pairs)?;
    let sinks = [
        NumberedSink::listen(&network, ("primary", from), ("mirror", to))?,
        NumberedSink::listen(&network, ("mirror", to), ("primary", from))?,
    ];
    let load = BothWays { sinks, each: FLOWS, interval: INTERVAL };
    let mut found = Found { slack: stage.options.slack.max(1.0), ..Found::default() };
    found.spread = spread::measure(stage, &network, &pairs, &load)?;
    let servers = PostgresPair::prepare(&network, [from, to])?;
    faults::run(stage, &network, (&mut sites, &mut pairs), &servers, &load, trials, &mut found)?;
    disaster::run(stage, &network, (&mut sites, &mut pairs), &servers, disasters, &mut found)?;
    pairs.iter_mut().flat_map(|pair| &mut pair.appliances).for_each(|appliance| appliance.process.kill());
    found.control = control(stage, &network, &mut sites, &load)?;
    load.end();
    Ok(report::report(&found))
}

/// The same without `withdraw_routes`: an appliance whose peer is dead goes on announcing the far site. Returns the longest time
/// without a packet.
fn control(stage: &Stage<'_>, network: &Network<'_>, sites: &mut Sites, load: &BothWays) -> Result<Duration, LabError> {
    let mut pairs = Pair::start_all(network, &PairOptions { label: "dropping".to_owned(), ..PairOptions::default() })?;
    sites.wait_both(stage)?;
    let (longest, _) = load.run(|gaps| {
        stage.pause(Duration::from_millis(100))?;
        gaps.begin();
        Fault::Kill.begin(&mut pairs[0].appliances[1])?;
        stage.pause(LASTS)?;
        Ok(gaps.longest())
    })?;
    pairs.iter_mut().flat_map(|pair| &mut pair.appliances).for_each(|appliance| appliance.process.kill());
    Ok(longest)
}
