//! One appliance with several peers: like [`super::pair`], for a topology in which all other appliances name the same
//! one as their peer.

use super::error::LabError;
use super::network::Network;
use super::pair::{PairOptions, RemotePeer, RunningAppliance, make_key, start, wait_up};

/// An appliance and its peers, with sessions between them.
#[derive(Debug)]
pub struct Star {
    /// The appliance in the middle, then the others by name.
    pub appliances: Vec<RunningAppliance>,
}

impl Star {
    /// Generates keys and configurations, starts all appliances and waits until all sessions are up. `path` returns
    /// further keys of `path` in the configuration toward the peer of this name.
    pub fn start(
        network: &Network<'_>,
        options: &PairOptions,
        path: impl Fn(&str) -> &'static str,
    ) -> Result<Self, LabError> {
        let (mut plans, mut keys) = (Vec::new(), Vec::new());
        for (name, plan) in network.topology().appliances() {
            plans.push((name, plan));
            keys.push(make_key(network, name, options)?);
        }
        let middle = plans.iter().position(|(name, _)| plans.iter().filter(|(_, it)| it.peer == *name).count() > 1);
        let Some(middle) = middle else {
            return Err(LabError::Sentence("this scenario needs an appliance that is the peer of several".to_owned()));
        };
        let far =
            |at: usize| RemotePeer { name: plans[at].0, plan: plans[at].1, key: &keys[at].1, path: path(plans[at].0) };
        let others: Vec<usize> = (0..plans.len()).filter(|at| *at != middle).collect();
        let peers: Vec<RemotePeer<'_>> = others.iter().map(|at| far(*at)).collect();
        let begin = |at: usize, peers: &[RemotePeer<'_>]| {
            start(network, options, (plans[at].0, plans[at].1, &keys[at].0), peers)
        };
        let mut appliances = vec![begin(middle, &peers)?];
        for at in others {
            appliances.push(begin(at, &[RemotePeer { path: "", ..far(middle) }])?);
        }
        wait_up(network, &mut appliances)?;
        Ok(Self { appliances })
    }
}
