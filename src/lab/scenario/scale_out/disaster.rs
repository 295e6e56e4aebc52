//! The primary site dies while a pair is failing, has failed, or carries again: was anything acknowledged that is not at
//! the mirror?

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    CLIENTS, LASTS,
    report::{Disaster, Found},
    site::Sites,
};
use crate::lab::{
    error::LabError,
    fault::Fault,
    network::Network,
    pair::Pair,
    scenario::stage::Stage,
    servers::postgres_pair::PostgresPair,
    workload::rows::{self, Clients},
};

/// How long after the end of the fault the site may die.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// After this time everything that had left the site's devices is in the WAN, or lost.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// All of them, each with a fault of the appliance that protects the gate's flow.
pub fn run<'n>(
    stage: &Stage<'_>,
    network: &Network<'n>,
    (sites, pairs): (&mut Sites, &mut Vec<Pair<'n>>),
    servers: &PostgresPair<'_>,
    disasters: u32,
    found: &mut Found,
) -> Result<(), LabError> {
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    for number in 0..disasters {
        let fault = [Fault::Kill, Fault::Halt][number as usize % 2];
        let dies_after = rng.random_range(Duration::ZERO..LASTS + AFTERWARDS);
        network.tell_wan("open")?;
        pairs.iter_mut().try_for_each(Pair::restart)?;
        sites.wait_carried(stage, pairs)?;
        let disaster = disaster(stage, network, pairs, servers, (fault, dies_after))?;
        stage.say(&format!(
            "    disaster {} of {disasters}: {} acknowledged, {} lost",
            number + 1,
            disaster.acknowledged,
            disaster.lost
        ));
        found.disasters.push(disaster);
    }
    network.tell_wan("open")
}

fn disaster<'n>(
    stage: &Stage<'_>,
    network: &Network<'n>,
    pairs: &mut [Pair<'n>],
    servers: &PostgresPair<'_>,
    (fault, dies_after): (Fault, Duration),
) -> Result<Disaster, LabError> {
    let (mut gate, mut primary, mut mirror) = servers.start_behind_gate(pairs[0].appliances[0].publisher()?)?;
    let clients = Clients::start(&primary, CLIENTS)?;
    stage.pause(Duration::from_millis(500))?;
    let mut held = fault.begin(&mut pairs[0].appliances[0])?;
    stage.pause(dies_after.min(LASTS))?;
    if dies_after > LASTS {
        fault.end(&mut pairs[0].appliances[0], held.take(), network)?;
        stage.pause(dies_after - LASTS)?;
    }
    let died = Instant::now();
    // Without appliances nothing leaves the site any more, also not what the kernel still has of the gate.
    pairs.iter_mut().for_each(|pair| pair.appliances[0].process.kill());
    primary.server.crash();
    gate.crash();
    drop(held);
    stage.pause(ON_ITS_WAY)?;
    network.tell_wan("cut")?;
    let acknowledged: Vec<_> = clients.finish().into_iter().filter(|row| row.at < died).collect();
    stage.pause(Duration::from_secs(1))?;
    servers.wait_replayed(&mut mirror)?;
    let survived = rows::ids(&mirror)?;
    let lost = acknowledged.iter().filter(|row| survived.binary_search(&row.id).is_err()).count();
    mirror.server.crash();
    Ok(Disaster { fault, dies_after, acknowledged: acknowledged.len(), lost })
}
