//! Packets per second: UDP datagrams whose IP packets have 64 bytes, from one flow and from many that are all busy.
//!
//! Each way is first offered as much as the sender can, then [`search`] finds the highest rate at which at most one packet in a
//! thousand is lost, as in section 26.1 of RFC 2544. That asks for no loss at all; here the sender, the receiver, both ends of
//! the tunnel and all else share a few processors, and a program that has none for a few milliseconds loses packets at any rate.
//! Losing none is not enough either: where packets are queued, they must have arrived soon after the last one was sent.
//!
//! Start with [`take`].

mod report;
mod search;

use std::{net::IpAddr, time::Duration};

pub use self::report::report;
use self::search::Search;
use super::{FIXED, Stage, variant::Variant};
use crate::lab::{
    carrier::{Carrier, Spent},
    error::LabError,
    network::Network,
    workload::{
        busy_flows::{BusyFlows, Offer, Trial},
        kernel::{dropped_by_backlog, dropped_by_socket},
    },
};

/// The flows, all of which are busy.
const FLOWS: [usize; 3] = [1, 1000, 10_000];
/// Every other round goes through the ways backwards.
const ROUNDS: u32 = 3;
/// The length of a trial, and that of a run which only shows that all works (`--seconds 0`).
const TRIAL: Duration = Duration::from_millis(500);
const SHORT_TRIAL: Duration = Duration::from_millis(50);
/// At most this share may be lost.
const TOLERANCE: f64 = 0.001;
/// The last packet must arrive within this time after it was sent: a queue that grows is no rate that is carried.
const LATE: Duration = Duration::from_millis(25);
/// Steps of the search; the result is exact to a 32nd of where it begins.
const STEPS: u32 = 5;
/// The search begins at this multiple of what arrived when as much as possible was offered: that load takes processor time
/// from the tunnel.
const ABOVE: f64 = 1.5;

/// The ways to carry the packets.
const WAYS: [Variant; 6] = [
    Variant::plain_route(),
    Variant::bare_tunnel(),
    Variant::pair("onwire, repair 4 for 32", "repair_4_32", FIXED),
    Variant::pair("the same, subscriber, level queued", "queued", FIXED).notifying("queued"),
    Variant::pair("onwire, two lanes", "two_lanes", FIXED).lanes(2),
    Variant::pair("onwire, simple back-end", "simple", FIXED).simple(),
];
const BARE: usize = 1;
const SIMPLE: usize = 5;

/// What was measured of one way with some number of flows in one round.
#[derive(Clone, Debug, Default)]
struct Cell {
    /// Packets per second of which at most [`TOLERANCE`] is lost.
    carried: f64,
    /// The trial in which as much as possible was offered.
    most: Trial,
    /// What both ends used and lost in it.
    spent: Spent,
    /// Packets that the kernel's backlogs and the receiver's socket dropped in it.
    lost_in_backlog: u64,
    lost_at_receiver: u64,
    /// Packets that arrived twice, or were never sent, in any trial.
    twice: u64,
    wrong: u64,
    /// Trials, and packets sent in them.
    trials: u64,
    sent: u64,
    /// Memory of both ends after the trials, in bytes.
    memory: [u64; 2],
    /// Flows that the near appliance follows, and messages that the subscriber received and dropped.
    flows_followed: u64,
    messages: u64,
}

/// All rounds: in each, the ways, each with all numbers of flows.
#[derive(Debug, Default)]
pub struct Packets {
    rounds: Vec<[[Cell; FLOWS.len()]; WAYS.len()]>,
}

/// Measures all ways in each round, in one order and in the other.
pub fn take(stage: &Stage<'_>, network: &Network<'_>, address: IpAddr) -> Result<Packets, LabError> {
    let most = FLOWS.into_iter().max().unwrap_or(1);
    let mut busy = BusyFlows::open(network, "primary", ("mirror", address), most)?;
    let mut packets = Packets::default();
    let rounds = stage.options.trials.unwrap_or(ROUNDS);
    for number in 1..=rounds {
        stage.say(&format!("round {number} of {rounds}"));
        let mut round: [[Cell; FLOWS.len()]; WAYS.len()] = Default::default();
        let mut ways: Vec<_> = WAYS.iter().zip(&mut round).collect();
        if number % 2 == 0 {
            ways.reverse();
        }
        for (way, cells) in ways {
            *cells = measure(stage, network, way, number, &mut busy)?;
        }
        packets.rounds.push(round);
    }
    Ok(packets)
}

/// Measures one way with all numbers of flows.
fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    way: &Variant,
    number: u32,
    busy: &mut BusyFlows,
) -> Result<[Cell; FLOWS.len()], LabError> {
    let carrier = way.start(network, &format!("packets-{}-{number}", way.label))?;
    let listener = way.listen(network, &carrier)?;
    let mut cells: [Cell; FLOWS.len()] = Default::default();
    for (cell, flows) in cells.iter_mut().zip(FLOWS) {
        let messages = listener.as_ref().map_or(0, |listener| listener.messages());
        *cell = measure_flows(stage, network, &carrier, busy, flows)?;
        cell.messages = listener.as_ref().map_or(0, |listener| listener.messages()) - messages;
        stage.say(&format!(
            "  {:<34} {flows:>6} flow(s)  {:>4.0} thousand packets/s; {:.0} of {:.0} at the most",
            way.name,
            cell.carried / 1e3,
            cell.most.delivered() / 1e3,
            cell.most.offered() / 1e3
        ));
    }
    if let Some(listener) = listener {
        let (messages, dropped) = (listener.messages(), listener.finish()?);
        stage.say(&format!("  (the subscriber took {messages} messages and dropped {dropped})"));
    }
    carrier.stop()?;
    Ok(cells)
}

fn measure_flows(
    stage: &Stage<'_>,
    network: &Network<'_>,
    carrier: &Carrier<'_>,
    busy: &mut BusyFlows,
    flows: usize,
) -> Result<Cell, LabError> {
    let length = match stage.options.seconds {
        None => TRIAL,
        Some(0) => SHORT_TRIAL,
        Some(seconds) => Duration::from_secs(seconds),
    };
    let mut cell = Cell::default();
    let port = busy.sink_port();
    let mut offer = |cell: &mut Cell, rate: Option<f64>, length: Duration| {
        let trial = busy.run(Offer { flows, rate, length });
        cell.trials += 1;
        cell.sent += trial.sent;
        cell.twice += trial.twice;
        cell.wrong += trial.wrong;
        trial
    };
    let lost = || Ok::<_, LabError>([dropped_by_backlog()?, dropped_by_socket(network, "mirror", port)?]);
    // The first packet of each flow costs more than the others.
    offer(&mut cell, None, SHORT_TRIAL);
    let (before, lost_before) = (carrier.spent()?, lost()?);
    cell.most = offer(&mut cell, None, length);
    cell.spent = carrier.spent()?.since(&before);
    let lost = lost()?;
    [cell.lost_in_backlog, cell.lost_at_receiver] = [0, 1].map(|at| lost[at].saturating_sub(lost_before[at]));
    let mut search = Search::below(cell.most.offered().min(ABOVE * cell.most.delivered()), STEPS);
    while let Some(rate) = search.rate() {
        stage.trace.check_stop()?;
        let trial = offer(&mut cell, Some(rate), length);
        search.record(trial.offered(), passes(&trial));
    }
    cell.carried = search.carried();
    let memory = carrier.processes().map(|ends| ends.map(|end| end.memory().unwrap_or_default()));
    cell.memory = memory.unwrap_or_default();
    if let Some(pair) = carrier.pair() {
        let protection = pair.appliances[0].status(network)?.peer().protection;
        cell.flows_followed = protection.map_or(0, |protection| protection.flows);
    }
    Ok(cell)
}

/// Whether the packets of a trial were carried.
fn passes(trial: &Trial) -> bool {
    trial.sent > 0 && trial.lost() as f64 <= TOLERANCE * trial.sent as f64 && trial.late <= LATE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_packet_in_a_thousand_may_be_lost_and_none_may_wait_long() {
        let trial = |lost: u64, late: u64| Trial {
            sent: 2000,
            received: 2000 - lost,
            seconds: 1.0,
            late: Duration::from_millis(late),
            ..Trial::default()
        };
        assert!(passes(&trial(0, 0)) && passes(&trial(2, 25)));
        assert!(!passes(&trial(3, 0)) && !passes(&trial(0, 26)) && !passes(&Trial::default()));
    }

    #[test]
    fn the_ways_to_compare_with_are_where_they_are_looked_for() {
        assert_eq!([WAYS[BARE].label, WAYS[SIMPLE].label], ["bare_tunnel", "simple"]);
    }
}
