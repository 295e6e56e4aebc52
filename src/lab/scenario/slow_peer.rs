//! One peer of three has a slow path and receives far more traffic than the path carries: what does that cost the other
//! two?
//!
//! Rounds with and without the flood alternate in changing order; the ratio of each neighbouring pair counts.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::json;

use super::Stage;
use crate::{
    io::namespace::NetworkNamespace,
    lab::{
        error::LabError,
        median::median,
        network::Network,
        pair::PairOptions,
        report::Report,
        star::Star,
        status::PeerStatus,
        workload::{iperf::BulkPlan, ping::Ping},
    },
};

const ROUNDS: u32 = 5;
const SECONDS: u64 = 3;
/// The rate of the path to the slow peer, and the traffic toward it.
const RATE: f64 = 1e6;
const PATH: &str = ", rate: 1mbit";
const OFFERED: f64 = 10e6;
const DATAGRAM: usize = 1250;
/// The discard port: no program listens there.
const PORT: u16 = 9;
/// The other peers must keep this share of their speed ...
const SPEED_LEAST: f64 = 0.9;
/// ... and a ping to one of them may take at most this many times as long.
const PING_MOST: f64 = 2.0;
/// The share of the slow path that must be used, counted in datagrams, so that the repair symbols of short blocks do
/// not matter.
const SHARE_LEAST: f64 = 0.8;

/// The results of one round.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    bits_per_second: f64,
    ping_ms: f64,
    /// Bits per second that were sent to the slow peer, in datagrams.
    slow: f64,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let rounds = stage.options.trials.unwrap_or(ROUNDS).max(1);
    let seconds = stage.options.seconds.unwrap_or(SECONDS);
    stage.say(&format!(
        "slow-peer: an appliance with three peers. The path to one has 1 Mbit/s (`path.rate`), and 10 Mbit/s of UDP are offered\n\
         to it, or nothing; meanwhile TCP goes to the second as fast as it can, and pings to the third. {rounds} rounds of\n\
         {seconds} s each way.\n"
    ));
    let network = stage.build()?;
    let options = PairOptions { notify: Some("on_wire"), ..PairOptions::default() };
    let slow = |name: &str| if name == "syracuse" { PATH } else { "" };
    let star = Star::start(&network, &options, slow)?;
    let mut found: [Vec<Round>; 2] = Default::default();
    for number in 0..rounds {
        let mut order = [false, true];
        if number % 2 == 1 {
            order.reverse();
        }
        for is_flooded in order {
            let round = measure(&network, &star, (number, is_flooded), seconds)?;
            let what = if is_flooded { "10 Mbit/s to the slow one" } else { "nothing to the slow one " };
            let (gbit, slow) = (round.bits_per_second / 1e9, round.slow / 1e6);
            stage.say(&format!("  {what}  {gbit:.2} Gbit/s, ping {:.3} ms, slow one {slow:.2} Mbit/s", round.ping_ms));
            found[usize::from(is_flooded)].push(round);
            stage.pause(Duration::from_millis(200))?;
        }
    }
    let status = star.appliances[0].status(&network)?;
    Ok(report(&found, &status.peers, stage.options.slack))
}

fn measure(network: &Network<'_>, star: &Star, what: (u32, bool), seconds: u64) -> Result<Round, LabError> {
    let (number, is_flooded) = what;
    let name = format!("{}-{number}", if is_flooded { "flooded" } else { "calm" });
    let address = |node: &str| {
        let no_address = || LabError::Sentence(format!("the topology gives {node} no IPv4 address"));
        network.topology().address(node, false).ok_or_else(no_address)
    };
    let sent = || -> Result<u64, LabError> {
        let status = star.appliances[0].status(network)?;
        Ok(status.peers.iter().find(|peer| peer.name == "syracuse").map_or(0, |peer| peer.sent.bytes))
    };
    let flood = is_flooded.then(|| Flood::start(network, address("mirror")?)).transpose()?;
    let (before, since) = (sent()?, Instant::now());
    let bulk = BulkPlan { to: "mirror-b", ..BulkPlan::to_mirror(&name, address("mirror-b")?, seconds) };
    let bulk = bulk.start(network)?;
    let to = address("mirror-c")?.to_string();
    let ping = Ping::start(network, &format!("{name}-ping"), "primary", &to, seconds)?;
    let bulk = bulk.finish()?;
    let pings = ping.finish()?;
    let slow = (sent()? - before) as f64 * 8.0 / since.elapsed().as_secs_f64();
    drop(flood);
    Ok(Round { bits_per_second: bulk.bits_per_second, ping_ms: pings.quantile(0.5).as_secs_f64() * 1e3, slow })
}

/// Datagrams at a steady rate to a port without a listener. Dropping it ends it.
struct Flood {
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    fn start(network: &Network<'_>, to: IpAddr) -> Result<Self, LabError> {
        let doing = || LabError::doing("send datagrams from primary");
        let home = NetworkNamespace::named(&network.namespace("primary")).map_err(doing())?;
        let socket = home.run(|| UdpSocket::bind(("0.0.0.0", 0))).and_then(|socket| socket).map_err(doing())?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let pace = Duration::from_secs_f64(DATAGRAM as f64 * 8.0 / OFFERED);
        let body = move || {
            let mut next = Instant::now();
            while !ended.load(Ordering::Relaxed) {
                // A send that fails because no program listens counts as sent.
                let _ = socket.send_to(&[7; DATAGRAM], SocketAddr::new(to, PORT));
                next += pace;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        };
        let thread = thread::Builder::new().name("flood".to_owned()).spawn(body).map_err(doing())?;
        Ok(Self { end, thread: Some(thread) })
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread returns nothing.
            let _ = thread.join();
        }
    }
}

fn report([calm, flooded]: &[Vec<Round>; 2], peers: &[PeerStatus], slack: f64) -> Report {
    let mut report = Report::default();
    let ratios = |of: fn(&Round) -> f64| {
        let each = calm.iter().zip(flooded).map(|(calm, flooded)| of(flooded) / of(calm).max(1e-9));
        each.collect::<Vec<_>>()
    };
    let words = |ratios: &[f64]| ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", ");
    let (speeds, pings) = (ratios(|round| round.bits_per_second), ratios(|round| round.ping_ms));
    let (speed, ping) = (median(speeds.clone()), median(pings.clone()));
    report.claim(
        format!("TCP to another peer keeps {SPEED_LEAST} of its speed"),
        format!("{speed:.2} ({})", words(&speeds)),
        speed * slack >= SPEED_LEAST,
    );
    let answered = calm.iter().chain(flooded).all(|round| round.ping_ms > 0.0);
    report.claim(
        format!("a ping to the third takes at most {PING_MOST} times as long"),
        format!("{ping:.2} times ({})", words(&pings)),
        answered && ping <= PING_MOST * slack,
    );
    let slow = median(flooded.iter().map(|round| round.slow).collect());
    report.claim(
        format!("the slow peer has {SHARE_LEAST} of its path at the least, and no more than the path"),
        format!("{:.2} Mbit/s", slow / 1e6),
        slow * slack >= SHARE_LEAST * RATE && slow <= RATE * 1.1,
    );
    let dropped = |is_slow: bool| {
        let of = peers.iter().filter(|peer| (peer.name == "syracuse") == is_slow);
        of.map(|peer| peer.sent.queue_dropped).sum::<u64>()
    };
    report.claim(
        "what was too much is counted for the slow peer, and for no other",
        format!("{} and {} packets", dropped(true), dropped(false)),
        dropped(true) > 0 && dropped(false) == 0,
    );
    report.metric("speed_ratio", speed);
    report.metric("ping_ratio", ping);
    let rows = |rounds: &[Round]| {
        let row =
            |it: &Round| json!({ "gbit": it.bits_per_second / 1e9, "ping_ms": it.ping_ms, "slow_mbit": it.slow / 1e6 });
        rounds.iter().map(row).collect::<Vec<_>>()
    };
    report.metric("calm", rows(calm));
    report.metric("flooded", rows(flooded));
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::status::Sent;

    #[test]
    fn a_slow_peer_that_costs_the_others_too_much_fails() {
        let round = |gbit: f64, ping_ms, slow| Round { bits_per_second: gbit * 1e9, ping_ms, slow };
        let peer = |name: &str, queue_dropped| PeerStatus {
            name: name.to_owned(),
            sent: Sent { queue_dropped, ..Sent::default() },
            ..PeerStatus::default()
        };
        let passes = |flooded: Round, dropped: [u64; 2]| {
            let found = [vec![round(5.0, 0.2, 0.0); 3], vec![flooded; 3]];
            report(&found, &[peer("syracuse", dropped[0]), peer("utica", dropped[1])], 1.0).passes()
        };
        assert!(passes(round(4.6, 0.3, 0.9e6), [9, 0]));
        for (flooded, dropped) in [
            (round(4.4, 0.3, 0.9e6), [9, 0]),
            (round(5.0, 0.5, 0.9e6), [9, 0]),
            (round(5.0, 0.0, 0.9e6), [9, 0]),
            (round(5.0, 0.2, 0.7e6), [9, 0]),
            (round(5.0, 0.2, 2e6), [9, 0]),
            (round(5.0, 0.2, 0.9e6), [0, 0]),
            (round(5.0, 0.2, 0.9e6), [9, 1]),
        ] {
            assert!(!passes(flooded, dropped), "{flooded:?} {dropped:?}");
        }
    }
}
