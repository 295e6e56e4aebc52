//! Finds out by echo requests which packets pass to the peers, and what the running appliance has measured.

use std::net::IpAddr;
use std::time::Duration;

use crate::appliance::status::Status;
use crate::config::Config;
use crate::doctor::facts::{PathFacts, UplinkFacts};
use crate::io::echo::{self, Answer};

/// Round trips of a satellite fit.
const PATIENCE: Duration = Duration::from_millis(1200);
/// A size that every path carries.
const SMALL: u16 = 100;
/// Requests of each size: a path that loses a tenth loses all of them once in a hundred thousand times.
const EACH: u16 = 5;
/// MTUs that paths have, and steps between them: tried where the full size does not pass.
const STEPS: [u16; 26] = [
    8972, 4352, 2002, 1500, 1492, 1480, 1472, 1460, 1450, 1440, 1430, 1420, 1410, 1400, 1380, 1360, 1340, 1320, 1300,
    1280, 1240, 1200, 1100, 1000, 800, 576,
];

/// Asks all peers at the same time.
pub fn read(config: &Config, uplinks: &[UplinkFacts], status: Option<&Status>) -> Vec<PathFacts> {
    std::thread::scope(|scope| {
        let asked: Vec<_> = uplinks.iter().map(|uplink| scope.spawn(move || echoes(uplink))).collect();
        let echoes =
            asked.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err("it was not asked".to_owned())));
        config
            .peers
            .iter()
            .zip(uplinks)
            .zip(echoes)
            .map(|((peer, uplink), echoes)| {
                let known = status.and_then(|status| status.peers.iter().find(|of| of.name == peer.name));
                let lanes = status.map(|status| &status.lanes[..]).unwrap_or_default();
                PathFacts {
                    peer: peer.name.clone(),
                    node: config.node.name.clone(),
                    datagram: uplink.datagram,
                    to: uplink.to.as_ref().ok().map(|to| to.ip()),
                    echoes,
                    too_big: lanes.iter().map(|lane| lane.too_big).sum(),
                    told_mtu: lanes.iter().filter_map(|lane| lane.path_mtu).min(),
                    long_ones_vanish: known.is_some_and(|peer| peer.trains.contains("long datagrams do not arrive")),
                }
            })
            .collect()
    })
}

fn echoes(uplink: &UplinkFacts) -> Result<Vec<(u16, Answer)>, String> {
    let to: IpAddr = uplink.to.as_ref().map_err(Clone::clone)?.ip();
    let probe = |sizes: &[u16], each: u16| {
        echo::probe(to, uplink.from, sizes, each, PATIENCE).map_err(|error| error.to_string())
    };
    let mut found = probe(&[SMALL, uplink.datagram], EACH)?;
    let is = |size: u16, wanted: Answer| found.get(&size).is_some_and(|answer| *answer == wanted);
    if is(SMALL, Answer::Came) && is(uplink.datagram, Answer::Silent) {
        let steps: Vec<u16> = STEPS.into_iter().filter(|step| *step < uplink.datagram).collect();
        found.extend(probe(&steps, 3)?);
    }
    Ok(found.into_iter().collect())
}
