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
    scenario::{
        disaster::drain::{self, Verdict},
        stage::Stage,
    },
    servers::postgres_pair::PostgresPair,
    workload::rows::{self, Clients},
};

/// How long after the end of the fault the site may die.
const AFTERWARDS: Duration = Duration::from_secs(2);
/// After this time everything that had left the site's devices is in the WAN, or lost.
const ON_ITS_WAY: Duration = Duration::from_millis(100);

/// How the site comes to its end.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// The gate's own appliance fails, and the site dies meanwhile or a little after the end of the fault.
    Meanwhile(Fault),
    /// Its peer fails, and the site dies once all carry again. (With the peer, what it has not handed on is gone.)
    AfterReturn(Fault),
    /// The gate's own appliance is dead, and the gate has moved to the other pair.
    Moved,
}

const ENDINGS: [Ending; 5] = [
    Ending::Meanwhile(Fault::Kill),
    Ending::Moved,
    Ending::Meanwhile(Fault::Halt),
    Ending::AfterReturn(Fault::Kill),
    Ending::AfterReturn(Fault::Halt),
];

impl Ending {
    fn fault(self) -> Fault {
        match self {
            Self::Meanwhile(fault) | Self::AfterReturn(fault) => fault,
            Self::Moved => Fault::Kill,
        }
    }

    fn moment(self) -> &'static str {
        match self {
            Self::Meanwhile(_) => "meanwhile",
            Self::AfterReturn(_) => "after the return",
            Self::Moved => "after the gate has moved",
        }
    }
}

/// All of them, with a fault of the pair that has the gate's flow.
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
        let ending = ENDINGS[number as usize % ENDINGS.len()];
        let dies_after = rng.random_range(Duration::ZERO..LASTS + AFTERWARDS);
        network.tell_wan("open")?;
        pairs.iter_mut().try_for_each(Pair::restart)?;
        sites.wait_carried(stage, pairs)?;
        let disaster = disaster(stage, network, (sites, pairs), servers, (ending, dies_after))?;
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
    (sites, pairs): (&mut Sites, &mut [Pair<'n>]),
    servers: &PostgresPair<'_>,
    (ending, dies_after): (Ending, Duration),
) -> Result<Disaster, LabError> {
    let (mut gate, mut primary, mut mirror) = servers.start_behind_movable_gate(pairs[0].appliances[0].publisher()?)?;
    let clients = Clients::start(&primary, CLIENTS)?;
    stage.pause(Duration::from_millis(500))?;
    let (fault, side) = (ending.fault(), usize::from(matches!(ending, Ending::AfterReturn(_))));
    let mut held = fault.begin(&mut pairs[0].appliances[side])?;
    match ending {
        Ending::Meanwhile(_) => {
            stage.pause(dies_after.min(LASTS))?;
            if dies_after > LASTS {
                fault.end(&mut pairs[0].appliances[0], held.take(), network)?;
                stage.pause(dies_after - LASTS)?;
            }
        }
        Ending::AfterReturn(_) => {
            stage.pause(LASTS)?;
            fault.end(&mut pairs[0].appliances[1], held.take(), network)?;
            sites.wait_carried(stage, pairs)?;
            stage.pause(dies_after)?;
        }
        Ending::Moved => {
            stage.pause(LASTS / 4)?;
            gate.move_to(network, &servers.gate_plan(pairs[1].appliances[0].publisher()?, "auto"))?;
            stage.pause(dies_after)?;
        }
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
    let drain = |pair: &Pair<'_>| drain::ask(network.trace(), pair.appliances[1].socket()).map(Verdict::name);
    let drains = [drain(&pairs[0])?, drain(&pairs[1])?];
    servers.wait_replayed(&mut mirror)?;
    let survived = rows::ids(&mirror)?;
    let lost = acknowledged.iter().filter(|row| survived.binary_search(&row.id).is_err()).count();
    mirror.server.crash();
    let node = pairs[0].appliances[side].node().to_owned();
    Ok(Disaster { fault, node, moment: ending.moment(), dies_after, acknowledged: acknowledged.len(), lost, drains })
}
