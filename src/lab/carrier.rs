//! What carries the packets between the sites in a comparison: the plain route, a bare tunnel or a pair of appliances.
//!
//! Starts it, counts what it used and lost, and takes it away, so that the next one can carry them.

use std::{collections::BTreeMap, time::Duration};

use super::{
    bare_tunnel::BareTunnel,
    error::LabError,
    network::Network,
    pair::{Pair, PairOptions},
    process::Process,
};

/// The routes of the plain way over the link `wan0`: node, prefix, next hop.
const ROUTES: [[&str; 3]; 2] = [["ithaca", "10.2.0.0/24", "192.0.2.2"], ["syracuse", "10.1.0.0/24", "192.0.2.1"]];

/// Carries packets from its start to [`stop`](Self::stop).
#[derive(Debug)]
pub enum Carrier<'n> {
    /// The kernel of both hosts.
    PlainRoute(&'n Network<'n>),
    /// Super-packets through UDP, and nothing else.
    BareTunnel(Box<BareTunnel<'n>>),
    /// A pair of appliances.
    Appliances(Box<Pair<'n>>),
}

/// What a carrier has used and lost so far.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    /// Processor time at the near and at the far end, in user mode and in the kernel; zero for the plain route.
    pub cpu: [[Duration; 2]; 2],
    /// Packets that the near TUN dropped.
    pub lost_in_tun: u64,
    /// Datagrams that the far socket dropped.
    pub lost_in_socket: u64,
    /// What both appliances dropped, by reason.
    pub drops: BTreeMap<String, u64>,
}

impl<'n> Carrier<'n> {
    /// Adds the plain routes.
    pub fn plain_route(network: &'n Network<'n>) -> Result<Self, LabError> {
        for [node, prefix, via] in ROUTES {
            network.run(node, &["ip", "route", "add", prefix, "via", via])?;
        }
        Ok(Self::PlainRoute(network))
    }

    /// Starts a bare tunnel; the names of its logs begin with the label.
    pub fn bare_tunnel(network: &'n Network<'n>, label: &str) -> Result<Self, LabError> {
        Ok(Self::BareTunnel(Box::new(BareTunnel::start(network, label)?)))
    }

    /// Starts a pair of appliances.
    pub fn appliances(network: &'n Network<'n>, options: &PairOptions) -> Result<Self, LabError> {
        Ok(Self::Appliances(Box::new(Pair::start(network, options)?)))
    }

    /// The appliances, if these carry.
    pub fn pair(&self) -> Option<&Pair<'n>> {
        match self {
            Self::Appliances(pair) => Some(pair),
            Self::PlainRoute(_) | Self::BareTunnel(_) => None,
        }
    }

    /// The processes of both ends, the near one first; none for the plain route.
    pub fn processes(&self) -> Option<[&Process; 2]> {
        match self {
            Self::PlainRoute(_) => None,
            Self::BareTunnel(tunnel) => Some(tunnel.processes()),
            Self::Appliances(pair) => Some(pair.appliances.each_ref().map(|appliance| &appliance.process)),
        }
    }

    /// What it has used and lost so far.
    pub fn spent(&self) -> Result<Spent, LabError> {
        let (lost, drops) = match self {
            Self::PlainRoute(_) => return Ok(Spent::default()),
            Self::BareTunnel(tunnel) => (tunnel.lost()?, BTreeMap::new()),
            Self::Appliances(pair) => {
                let [near, far] = pair.status()?;
                let lost = [near.tun.tx_dropped, far.receive_overflows()];
                let mut drops = near.drops;
                far.drops.into_iter().for_each(|(reason, count)| *drops.entry(reason).or_default() += count);
                (lost, drops)
            }
        };
        let cpu = self.processes().map(|ends| ends.map(|end| end.cpu_times().unwrap_or_default()));
        let [lost_in_tun, lost_in_socket] = lost;
        Ok(Spent { cpu: cpu.unwrap_or_default(), lost_in_tun, lost_in_socket, drops })
    }

    /// Takes it away.
    pub fn stop(self) -> Result<(), LabError> {
        match self {
            Self::PlainRoute(network) => {
                for [node, prefix, _] in ROUTES {
                    network.run(node, &["ip", "route", "del", prefix])?;
                }
            }
            Self::BareTunnel(tunnel) => drop(tunnel),
            Self::Appliances(pair) => drop(pair.stop()?),
        }
        Ok(())
    }
}

impl Spent {
    /// What was used and lost after `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        let cpu = |end: usize, place: usize| self.cpu[end][place].saturating_sub(earlier.cpu[end][place]);
        let before = |reason: &String| earlier.drops.get(reason).copied().unwrap_or_default();
        let drops = self.drops.iter().map(|(reason, count)| (reason.clone(), count.saturating_sub(before(reason))));
        Self {
            cpu: [0, 1].map(|end| [0, 1].map(|place| cpu(end, place))),
            lost_in_tun: self.lost_in_tun.saturating_sub(earlier.lost_in_tun),
            lost_in_socket: self.lost_in_socket.saturating_sub(earlier.lost_in_socket),
            drops: drops.filter(|(_, count)| *count > 0).collect(),
        }
    }

    /// Processor seconds for each of `count` units, by end and place.
    pub fn cpu_for_each(&self, count: f64) -> [[f64; 2]; 2] {
        self.cpu.map(|end| end.map(|time| time.as_secs_f64() / count.max(1e-9)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_and_lost_is_the_difference() {
        let spent = |times: u32| Spent {
            cpu: [[Duration::from_millis(20) * times; 2]; 2],
            lost_in_tun: 3 * u64::from(times),
            lost_in_socket: 7,
            drops: [("a".to_owned(), u64::from(times)), ("b".to_owned(), 5)].into(),
        };
        let found = spent(3).since(&spent(1));
        assert_eq!((found.lost_in_tun, found.lost_in_socket), (6, 0));
        assert_eq!(found.drops, [("a".to_owned(), 2)].into());
        assert_eq!(found.cpu_for_each(2.0), [[0.02; 2]; 2]);
        assert_eq!(spent(1).since(&spent(2)).lost_in_tun, 0);
    }
}
