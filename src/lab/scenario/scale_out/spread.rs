//! Which pair carries which flow: by the decision of each router's kernel, and by what the appliances hand on.

use std::{path::Path, time::Duration};

use super::{
    Stage,
    site::{SITES, Site},
};
use crate::{
    lab::{error::LabError, network::Network, pair::Pair, program::path_text, workload::both_ways::BothWays},
    notify::message::FlowKey,
};

/// The seed of the hash by which a kernel chooses the next hop, since Linux 6.11.
const SEED: &str = "net.ipv4.fib_multipath_hash_seed";
/// How long the appliances are watched.
const WATCHED: Duration = Duration::from_secs(1);

/// How flows spread.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    /// Flows whose packets each router sends to the first and the second pair.
    pub flows: [[usize; 2]; 2],
    /// Packets that the far and the near appliance of each pair handed on.
    pub packets: [[u64; 2]; 2],
    /// With equal seeds, and with different ones: flows whose directions take different pairs; none where the kernel has no
    /// seed.
    pub parted: Option<[usize; 2]>,
}

/// Lets flows go both ways and looks.
pub fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pairs: &[Pair<'_>],
    load: &BothWays,
) -> Result<Spread, LabError> {
    let has_seed = Path::new("/proc/sys").join(SEED.replace('.', "/")).exists();
    if has_seed {
        set_seeds(network, ["1", "1"])?;
    }
    let handed_on = || -> Result<Vec<[u64; 2]>, LabError> {
        let of = |pair: &Pair<'_>| pair.status().map(|both| both.map(|status| status.peer().received.adus));
        pairs.iter().map(of).collect()
    };
    let (spread, _) = load.run(|gaps| {
        let before = handed_on()?;
        stage.pause(WATCHED)?;
        let after = handed_on()?;
        let mut spread = Spread::default();
        for (at, (before, after)) in before.iter().zip(&after).enumerate().take(2) {
            spread.packets[at] = [after[1].saturating_sub(before[1]), after[0].saturating_sub(before[0])];
        }
        for (side, flows) in gaps.flows.iter().enumerate() {
            let chosen = choices(network, SITES[side], flows)?;
            spread.flows[side] = [0, 1].map(|pair| chosen.iter().filter(|it| **it == pair).count());
        }
        if has_seed {
            let equal = parted(network, &gaps.flows)?;
            set_seeds(network, ["1", "2"])?;
            let different = parted(network, &gaps.flows)?;
            set_seeds(network, ["1", "1"])?;
            spread.parted = Some([equal, different]);
        }
        Ok(spread)
    })?;
    Ok(spread)
}

fn set_seeds(network: &Network<'_>, seeds: [&str; 2]) -> Result<(), LabError> {
    SITES.iter().zip(seeds).try_for_each(|(site, seed)| network.sysctl(site.router, &[(SEED, seed)]))
}

/// How many of these flows take one pair on the way out and the other one back.
fn parted(network: &Network<'_>, flows: &[Vec<FlowKey>; 2]) -> Result<usize, LabError> {
    let mut parted = 0;
    for (side, flows) in flows.iter().enumerate() {
        let answers: Vec<_> =
            flows.iter().map(|flow| FlowKey { source: flow.destination, destination: flow.source, ..*flow }).collect();
        let (out, back) = (choices(network, SITES[side], flows)?, choices(network, SITES[1 - side], &answers)?);
        parted += out.iter().zip(&back).filter(|(out, back)| out != back).count();
    }
    Ok(parted)
}

/// The pair that a router's kernel chooses for each UDP flow that comes from its site.
fn choices(network: &Network<'_>, site: Site, flows: &[FlowKey]) -> Result<Vec<usize>, LabError> {
    let line = |flow: &FlowKey| {
        let [from, to] = [flow.source, flow.destination];
        format!(
            "route get {} from {} iif site0 ipproto udp sport {} dport {}\n",
            to.ip(),
            from.ip(),
            from.port(),
            to.port()
        )
    };
    let file = network.trace().write_file("flows.batch", &flows.iter().map(line).collect::<String>())?;
    let answer = network.run(site.router, &["ip", "-batch", &path_text(&file)?])?;
    let chosen: Vec<_> = answer.lines().filter_map(|line| chosen_in(line, site.gateways)).collect();
    match chosen.len() == flows.len() {
        true => Ok(chosen),
        false => Err(LabError::Sentence(format!("{} has no route for some of the flows: {answer}", site.router))),
    }
}

/// The pair in a line of `ip route get`.
fn chosen_in(line: &str, gateways: [&str; 2]) -> Option<usize> {
    let mut words = line.split_whitespace().skip_while(|word| *word != "via");
    let gateway = words.nth(1)?;
    gateways.iter().position(|it| *it == gateway)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_pair_is_read_from_ip_route_get() {
        let line = "10.2.0.1 from 10.1.0.1 via 10.1.1.6 dev b0 ";
        assert_eq!(chosen_in(line, SITES[0].gateways), Some(1));
        assert_eq!(chosen_in("    cache iif site0 ", SITES[0].gateways), None);
        assert_eq!(chosen_in("10.2.0.1 dev b0", SITES[0].gateways), None);
    }
}
