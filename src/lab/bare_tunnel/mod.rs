//! A bare tunnel of super-packets between the hosts of the appliances, in their place: what remains of a tunnel without code,
//! cipher and handling of loss. Speeds of onwire are judged by it.
//!
//! Each end is a process of its own ([`program`]), so that its processor time is measured as an appliance's is. Start with
//! [`BareTunnel`].

pub mod program;

use std::time::Duration;

use super::{
    error::LabError,
    network::Network,
    process::Process,
    program::lab_program,
    topology::AppliancePlan,
    workload::kernel::{dropped_by_device, dropped_by_socket},
};

const DEVICE: &str = "bare0";

/// A bare tunnel that carries the packets between the sites until it is dropped.
#[derive(Debug)]
pub struct BareTunnel<'n> {
    network: &'n Network<'n>,
    ends: [End; 2],
}

/// One end.
#[derive(Debug)]
struct End {
    node: String,
    port: u16,
    process: Process,
}

impl<'n> BareTunnel<'n> {
    /// Starts both ends in the nodes of the topology's two appliances, with their addresses, and routes through it.
    pub fn start(network: &'n Network<'n>, label: &str) -> Result<Self, LabError> {
        let plans: Vec<_> = network.topology().appliances().collect();
        let [near, far] = plans[..] else {
            let found = plans.len();
            return Err(LabError::Sentence(format!("a bare tunnel needs two appliances; the topology has {found}")));
        };
        let ends = [start_end(network, label, near, far.1)?, start_end(network, label, far, near.1)?];
        Ok(Self { network, ends })
    }

    /// The processes of both ends, the near one first.
    pub fn processes(&self) -> [&Process; 2] {
        self.ends.each_ref().map(|end| &end.process)
    }

    /// What was lost since the start: packets that the near TUN dropped, datagrams that the far socket dropped.
    pub fn lost(&self) -> Result<[u64; 2], LabError> {
        let [near, far] = &self.ends;
        Ok([
            dropped_by_device(self.network, &near.node, DEVICE)?,
            dropped_by_socket(self.network, &far.node, far.port)?,
        ])
    }
}

fn start_end(
    network: &Network<'_>,
    label: &str,
    (node, own): (&str, &AppliancePlan),
    other: &AppliancePlan,
) -> Result<End, LabError> {
    let program = lab_program()?;
    let [local, peer, mtu] = [own.listen.to_string(), other.listen.to_string(), own.tun_mtu.to_string()];
    let words = [&program, "bare-tunnel", DEVICE, "--mtu", &mtu, "--local", &local, "--peer", &peer];
    let mut process = network.start(node, &format!("{label}-{node}"), &words)?;
    process.wait_for_output("ready", Duration::from_secs(5))?;
    network.run(node, &["ip", "link", "set", DEVICE, "up"])?;
    for prefix in &other.local_prefixes {
        network.run(node, &["ip", "route", "add", &prefix.to_string(), "dev", DEVICE])?;
    }
    Ok(End { node: node.to_owned(), port: own.listen.port(), process })
}
