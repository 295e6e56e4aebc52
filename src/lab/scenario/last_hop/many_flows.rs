//! Many TCP flows to a mirror that never acknowledges: the appliance keeps all packets for it, up to a bound.
//!
//! The flows are hand-made segments of connections that do not exist, because real connections would wait for the
//! mirror.

use std::{io, net::Ipv4Addr, thread, time::Duration};

use rustix::net::{AddressFamily, SendFlags, SocketAddrV4, SocketType, ipproto, sendto, socket};
use serde_json::json;

use super::{Lan, options};
use crate::{
    io::namespace::NetworkNamespace,
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        report::Report,
        scenario::Stage,
    },
    wire::{
        checksum::{add, pseudo_header_sum, sum},
        packet::TCP,
    },
};

const FLOWS: u16 = 10_000;
const FIRST_PORT: u16 = 20_000;
/// Segments of each flow: 112 MB in all.
const ROUNDS: u32 = 8;
const PAYLOAD: usize = 1400;
/// A TUN queues 500 packets and drops the rest, so this many flows send all their segments, then there is a pause.
const AT_ONCE: u16 = 20;
const REST: Duration = Duration::from_millis(8);
/// The bound of a lane's kept packets, and the allowed growth of the process with its tables.
const BOUND: u64 = 64 << 20;
const GROWTH_MAX: u64 = 160 << 20;

/// The result.
#[derive(Debug)]
pub struct ManyFlows {
    /// The number of flows.
    pub flows: u64,
    /// Packets that arrived at the mirror's appliance.
    pub sent: u64,
    /// Bytes that it keeps.
    pub memory: u64,
    /// Packets that it had to drop.
    pub dropped: u64,
    /// Growth of the process.
    pub grown: u64,
}

/// Sends the flows through a pair, and queries the mirror's appliance.
pub fn measure(stage: &Stage<'_>, network: &Network<'_>, lan: &Lan<'_>) -> Result<ManyFlows, LabError> {
    let pair = Pair::start(network, &PairOptions { label: "many_flows".to_owned(), ..options(true) })?;
    lan.cut()?;
    let memory = || pair.appliances[1].process.memory().unwrap_or_default();
    let before = memory();
    for first in (0..FLOWS).step_by(usize::from(AT_ONCE)) {
        stage.trace.check_stop()?;
        send(network, first).map_err(LabError::doing("send segments by hand"))?;
    }
    let [_, far] = pair.status()?;
    let kept = far.lanes.iter().filter_map(|lane| lane.last_hop);
    let (kept, dropped) = kept.fold((0, 0), |sum, lane| (sum.0 + lane.memory, sum.1 + lane.dropped));
    let many_flows = ManyFlows {
        flows: FLOWS.into(),
        sent: far.peers.iter().map(|peer| peer.received.adus).sum(),
        memory: kept,
        dropped,
        grown: memory().saturating_sub(before),
    };
    lan.mend()?;
    pair.stop()?;
    Ok(many_flows)
}

impl ManyFlows {
    /// Adds the claim.
    pub fn claim(&self, report: &mut Report) {
        let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        report.claim(
            format!("{} flows to a mirror that acknowledges nothing take no more than the bound", self.flows),
            format!(
                "{:.1} MB kept of {} packets that came, {} dropped; the process grew by {:.0} MB",
                mb(self.memory),
                self.sent,
                self.dropped,
                mb(self.grown)
            ),
            (BOUND / 2..=BOUND).contains(&self.memory) && self.dropped > 0 && self.grown <= GROWTH_MAX,
        );
        report.metric(
            "crowd",
            json!({
                "flows": self.flows,
                "packets": self.sent,
                "kept_bytes": self.memory,
                "dropped": self.dropped,
                "grown_bytes": self.grown,
            }),
        );
    }
}

/// Sends all segments of some flows.
fn send(network: &Network<'_>, first: u16) -> io::Result<()> {
    NetworkNamespace::named(&network.namespace("primary"))?.run(|| {
        let socket = socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::TCP))?;
        let to = SocketAddrV4::new(MIRROR, 0);
        for number in first..FLOWS.min(first + AT_ONCE) {
            for round in 0..ROUNDS {
                sendto(&socket, &segment(FIRST_PORT + number, round), SendFlags::empty(), &to)?;
            }
        }
        thread::sleep(REST);
        Ok(())
    })?
}

const PRIMARY: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const MIRROR: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);

/// Builds a segment with payload.
fn segment(port: u16, round: u32) -> Vec<u8> {
    let mut segment = vec![0; 20 + PAYLOAD];
    segment[..2].copy_from_slice(&port.to_be_bytes());
    segment[2..4].copy_from_slice(&5432u16.to_be_bytes());
    segment[4..8].copy_from_slice(&(1 + round * PAYLOAD as u32).to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = 0x10;
    let pseudo_header = pseudo_header_sum(PRIMARY.into(), MIRROR.into(), TCP, segment.len());
    let checksum = !add(pseudo_header, sum(&segment));
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}
