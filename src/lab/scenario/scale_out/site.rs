//! Both sites' routers: BIRD everywhere, the rule that keeps the gate's flow on the first pair, and the routes that the
//! routers have.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::Stage;
use crate::lab::{
    bird, error::LabError, network::Network, pair::Pair, process::Process, route_watch::RouteWatch,
    servers::postgres_pair::GATE_PORT,
};

/// How long the appliances may take to carry packets again.
const CARRIED_WITHIN: Duration = Duration::from_secs(20);
/// The table of the routers that prefers the first pair (`config/bird/router.conf`).
const FIRST_PAIR: &str = "101";

/// A site as its router sees it, the primary's first.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// Its router.
    pub router: &'static str,
    /// The network of the hosts at the other site.
    pub far: &'static str,
    /// The addresses of the appliances of the first and the second pair.
    pub gateways: [&'static str; 2],
}

/// The sites of the topology.
pub const SITES: [Site; 2] = [
    Site { router: "ithaca-router", far: "10.2.0.0/24", gateways: ["10.1.1.2", "10.1.1.6"] },
    Site { router: "syracuse-router", far: "10.1.0.0/24", gateways: ["10.2.1.2", "10.2.1.6"] },
];

/// The running routers.
#[derive(Debug)]
pub struct Sites {
    _daemons: Vec<Process>,
    /// What each router has.
    pub routes: [RouteWatch; 2],
}

impl Sites {
    /// Starts BIRD in all nodes and sets the rules of the gate's flow.
    pub fn start(stage: &Stage<'_>, network: &Network<'_>) -> Result<Self, LabError> {
        let [near, far] = SITES;
        let watch = |site: Site| RouteWatch::start(network, site.router, site.far);
        let routes = [watch(near)?, watch(far)?];
        let port = GATE_PORT.to_string();
        let rule = ["ip", "rule", "add", "priority", "100", "ipproto", "tcp"];
        let out = ["from", far.far, "to", near.far, "sport", &port, "lookup", FIRST_PAIR];
        network.run(near.router, &[&rule[..], &out].concat())?;
        let back = ["from", near.far, "to", far.far, "dport", &port, "lookup", FIRST_PAIR];
        network.run(far.router, &[&rule[..], &back].concat())?;
        let daemons = bird::start_all(network)?;
        stage.say(&format!("BIRD runs in {} nodes", daemons.len()));
        Ok(Self { _daemons: daemons, routes })
    }

    /// Waits until both routers have both pairs.
    pub fn wait_both(&mut self, stage: &Stage<'_>) -> Result<(), LabError> {
        let (since, limit) = (Instant::now(), CARRIED_WITHIN.mul_f64(stage.options.slack));
        for (site, routes) in SITES.iter().zip(&mut self.routes) {
            let both: BTreeSet<String> = site.gateways.map(str::to_owned).into();
            if routes.wait(since, limit, |now| *now == both)?.is_none() {
                let found = routes.gateways()?;
                return Err(LabError::Sentence(format!(
                    "{} does not have both pairs within {limit:?}, but {found:?}; see bird-*.log and routes-*.log",
                    site.router
                )));
            }
        }
        Ok(())
    }

    /// Waits until all appliances carry packets and both routers have both pairs.
    pub fn wait_carried(&mut self, stage: &Stage<'_>, pairs: &[Pair<'_>]) -> Result<(), LabError> {
        let deadline = Instant::now() + CARRIED_WITHIN.mul_f64(stage.options.slack);
        while !pairs.iter().all(Pair::is_carried) {
            if Instant::now() > deadline {
                return Err(LabError::Sentence(format!("the appliances do not carry again within {CARRIED_WITHIN:?}")));
            }
            stage.pause(Duration::from_millis(20))?;
        }
        self.wait_both(stage)
    }
}
