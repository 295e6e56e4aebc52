//! A peer that has its key and lies: it seals the worst symbols and reports that the wire allows, to a real appliance
//! with a second, honest peer. What does it cost, and is any promise false?
//!
//! `peer` makes sessions and seals, `behaviour` chooses what, `honest` watches the flows to the honest peer, whose link
//! loses one datagram of a hundred.

mod behaviour;
mod honest;
mod peer;
mod verdict;

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{SeedableRng, rngs::SmallRng};

use self::{
    behaviour::{Behaviour, ERASURES, Writer},
    honest::{Flows, HonestFlows},
    peer::Peer,
    verdict::{Found, Row},
};
use super::Stage;
use crate::{
    io::namespace::NetworkNamespace,
    lab::{
        error::LabError,
        network::Network,
        pair::{PairOptions, RemotePeer, RunningAppliance, make_key, start, wait_up},
        report::Report,
        status::Status,
    },
};

/// The appliance under attack, the node of the malicious peer, and the honest peer.
const VICTIM: &str = "ithaca";
const MALICIOUS: &str = "syracuse";
const HONEST: &str = "albany";
/// The discard port.
pub const PORT: u16 = 9;
/// Blocks of which one symbol comes, and reports; of everything else a part.
const DATAGRAMS: u32 = 1_000_000;
/// Datagrams a second where time is measured.
const PER_SECOND: f64 = 20_000.0;
/// Reports that are to be believed come as often as those of an honest peer under load.
const REPORTS_PER_SECOND: f64 = 100.0;
/// How long all is said to be lost, and how long all is said to arrive: repair grows at once, and shrinks after a minute.
const LOST_FOR: Duration = Duration::from_secs(10);
const SECONDS: u64 = 75;
const HANDSHAKES_FOR: Duration = Duration::from_secs(10);
/// The least repair of each block: `min` of the profile.
const FLOOR: u16 = 6;
/// One datagram of so many to the honest peer is lost.
const HONEST_LOSS: u32 = 100;
/// How often the size of the process is read.
const LOOK: Duration = Duration::from_millis(50);
/// No arm takes longer: what costs too much shows in the number of datagrams too.
const ARM_MOST: Duration = Duration::from_secs(150);
/// A lane that is busy for longer has stopped to serve anybody.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

const ARMS: [&str; 7] =
    ["lone-symbols", "erasures", "extremes", "far-numbers", "many-profiles", "reports", "handshakes"];

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let arms = &stage.options.arms;
    if let Some(unknown) = arms.iter().find(|arm| !ARMS.contains(&arm.as_str())) {
        return Err(LabError::Sentence(format!("--arm {unknown}: allowed: {}", ARMS.join(", "))));
    }
    let datagrams = u64::from(stage.options.trials.unwrap_or(DATAGRAMS)).max(1000);
    let believed = Duration::from_secs(stage.options.seconds.unwrap_or(SECONDS));
    stage.say(&format!(
        "malicious: {VICTIM} has two peers. One has its key and seals the worst that the wire allows: one symbol of each of\n\
         {datagrams} blocks, blocks that must all be decoded, absurd numbers, reports that lie, handshakes without end. The link\n\
         to the other, honest one loses 1 of {HONEST_LOSS}; each packet to it that is called protected must arrive.\n"
    ));
    let network = stage.build()?;
    let mut bench = Bench::start(stage, &network)?;
    let mut found = Found { floor: FLOOR, ..Found::default() };
    bench.attack("nothing", None, 0, Duration::from_secs(3), &mut found)?;
    bench.attack("honest", Some(Behaviour::Honest), datagrams / 10, ARM_MOST, &mut found)?;
    let runs = |arm: &str| arms.is_empty() || arms.iter().any(|name| name == arm);
    if runs("lone-symbols") {
        bench.attack("one symbol of each block", Some(Behaviour::LoneSymbols), datagrams, ARM_MOST, &mut found)?;
    }
    if runs("erasures") {
        for (entry, (k, m)) in ERASURES.into_iter().enumerate() {
            let name = format!("{k} + {m}, {} lost", k.min(m));
            let most = (datagrams / 20).max(u64::from(k) * 2);
            bench.attack(&name, Some(Behaviour::Erasures(entry)), most, Duration::from_secs(5), &mut found)?;
        }
    }
    for (arm, behaviour, part) in [
        ("extremes", Behaviour::Extremes, 5),
        ("far-numbers", Behaviour::FarNumbers, 5),
        ("many-profiles", Behaviour::ManyProfiles, 20),
    ] {
        if runs(arm) {
            bench.attack(arm, Some(behaviour), datagrams / part, ARM_MOST, &mut found)?;
        }
    }
    if runs("reports") {
        bench.lie(Behaviour::NothingArrives, LOST_FOR.min(believed), &mut found)?;
        found.repair_when_lost = bench.peer.seen.repair;
        bench.lie(Behaviour::AllArrives, believed, &mut found)?;
        found.repair_when_all = bench.peer.seen.repair;
        found.believed = bench.flows()?.believed();
        bench.attack("reports of any kind", Some(Behaviour::AnyReport), datagrams, ARM_MOST, &mut found)?;
    }
    if runs("handshakes") {
        bench.handshakes(&mut found)?;
    }
    bench.finish(&mut found)?;
    Ok(verdict::report(&found, stage.options.slack))
}

/// The appliances, the two peers and the traffic.
struct Bench<'n> {
    stage: &'n Stage<'n>,
    network: &'n Network<'n>,
    victim: RunningAppliance,
    honest: RunningAppliance,
    peer: Peer,
    writer: Writer,
    flows: Option<HonestFlows>,
    toward: Toward,
    /// Processor time of a second without the malicious peer.
    idle: f64,
    _unread: UdpSocket,
}

impl<'n> Bench<'n> {
    fn start(stage: &'n Stage<'n>, network: &'n Network<'n>) -> Result<Self, LabError> {
        let options = PairOptions {
            notify: Some("on_wire"),
            repair: format!("{{ residual: 1e-9, min: {FLOOR}, max_overhead: 1000%, assume_loss: 1% }}"),
            ..PairOptions::default()
        };
        let plan = |node: &str| {
            let missing = || LabError::Sentence(format!("this scenario needs an appliance in {node}"));
            network.topology().appliances().find(|(name, _)| *name == node).map(|(_, plan)| plan).ok_or_else(missing)
        };
        let address = |node: &str| {
            let missing = || LabError::Sentence(format!("the topology gives {node} no IPv4 address"));
            network.topology().address(node, false).ok_or_else(missing)
        };
        let [victim_plan, malicious_plan, honest_plan] = [plan(VICTIM)?, plan(MALICIOUS)?, plan(HONEST)?];
        let keys = [VICTIM, MALICIOUS, HONEST].map(|node| make_key(network, node, &options));
        let [victim_key, malicious_key, honest_key] = keys;
        let (victim_key, malicious_key, honest_key) = (victim_key?, malicious_key?, honest_key?);
        lose(network)?;
        let remote = |name, plan, key| RemotePeer { name, plan, key, path: "" };
        let peers = [
            remote(MALICIOUS, malicious_plan, malicious_key.1.as_str()),
            remote(HONEST, honest_plan, honest_key.1.as_str()),
        ];
        let victim = start(network, &options, (VICTIM, victim_plan, &victim_key.0), &peers)?;
        let peers = [remote(VICTIM, victim_plan, victim_key.1.as_str())];
        let mut honest = [start(network, &options, (HONEST, honest_plan, &honest_key.0), &peers)?];
        wait_up(network, &mut honest)?;
        let [honest] = honest;
        let private = std::fs::read_to_string(&malicious_key.0)
            .map_err(LabError::doing(format!("read {}", malicious_key.0.display())))?;
        let ends = [malicious_plan.listen, victim_plan.listen];
        let seed = stage.options.seed;
        let mut peer = Peer::new(network, MALICIOUS, ends, [private.trim(), &victim_key.1], seed)?;
        peer.connect()?;
        let (primary, mirror, other) = (address("primary")?, address("mirror-b")?, address("mirror")?);
        let from = ("primary", primary);
        let by = (VICTIM, victim.publisher()?);
        let flows = Some(HonestFlows::start(network, from, ("mirror-b", mirror), other, by)?);
        let toward = Toward::start(network, SocketAddr::new(other, PORT))?;
        let writer = Writer::new([other, primary], SmallRng::seed_from_u64(seed));
        let unread = NetworkNamespace::named(&network.namespace("primary"))
            .and_then(|inside| inside.run(|| UdpSocket::bind((primary, PORT))))
            .and_then(|socket| socket)
            .map_err(LabError::doing(format!("open port {PORT} in primary")))?;
        Ok(Self { stage, network, victim, honest, peer, writer, flows, toward, idle: 0.0, _unread: unread })
    }

    fn flows(&self) -> Result<&HonestFlows, LabError> {
        self.flows.as_ref().ok_or_else(|| LabError::Sentence("the flows have ended".to_owned()))
    }

    /// Datagrams that the victim has received from the malicious peer.
    fn received(&self) -> Result<u64, LabError> {
        let deadline = Instant::now() + ANSWERS_WITHIN;
        loop {
            let status = self.victim.status(self.network)?;
            // A status lacks a lane that has been busy for half a second.
            if !status.lanes.is_empty() {
                let peer = status.peers.iter().find(|peer| peer.name == MALICIOUS);
                return Ok(peer.map_or(0, |peer| peer.received.datagrams));
            }
            if Instant::now() > deadline {
                return Err(LabError::Sentence(format!(
                    "the lane of {VICTIM} has not answered within {ANSWERS_WITHIN:?}"
                )));
            }
            self.stage.trace.check_stop()?;
        }
    }

    fn cpu(&self) -> Duration {
        self.victim.process.cpu_time().unwrap_or_default()
    }

    /// Sends `datagrams` of a behaviour, for at most so long, and measures; without a behaviour only time passes.
    fn attack(
        &mut self,
        name: &str,
        behaviour: Option<Behaviour>,
        datagrams: u64,
        most: Duration,
        found: &mut Found,
    ) -> Result<(), LabError> {
        self.peer.ensure()?;
        // Each symbol of a new block costs a block; all of them are to arrive.
        let per_second = if behaviour == Some(Behaviour::LoneSymbols) { PER_SECOND / 2.0 } else { PER_SECOND };
        let before = (self.received()?, self.cpu(), self.flows()?.so_far());
        let begun = Instant::now();
        let (mut sent, mut payload, mut size, mut looked) = (0, Vec::new(), 0, begun - LOOK);
        loop {
            let now = Instant::now();
            let is_over = behaviour.is_some() && sent >= datagrams;
            if is_over || now - begun >= most {
                break;
            }
            if now - looked >= LOOK {
                looked = now;
                size = size.max(self.victim.process.memory().unwrap_or_default());
                self.stage.trace.check_stop()?;
            }
            self.peer.serve()?;
            let due = ((now - begun).as_secs_f64() * per_second) as u64;
            if behaviour.is_none() || sent >= due {
                thread::sleep(Duration::from_micros(500));
                continue;
            }
            for _ in 0..(due.min(datagrams) - sent).min(64) {
                let Some(behaviour) = behaviour else { break };
                let kind = self.writer.write(behaviour, sent, &self.peer.seen, &mut payload);
                if !self.peer.send(kind, &payload)? {
                    break;
                }
                sent += 1;
            }
        }
        // What waits in the victim's socket is part of it.
        let mut received = self.received()?;
        loop {
            self.stage.pause(Duration::from_millis(100))?;
            self.peer.serve()?;
            let now = self.received()?;
            if now <= received + 200 {
                break;
            }
            received = now;
        }
        size = size.max(self.victim.process.memory().unwrap_or_default());
        let (time, received) = (begun.elapsed(), self.received()?.saturating_sub(before.0));
        let cpu = (self.cpu() - before.1).as_secs_f64();
        if behaviour.is_none() {
            self.idle = cpu / time.as_secs_f64();
        }
        let cpu = (cpu - self.idle * time.as_secs_f64()).max(0.0);
        let row = Row {
            name: name.to_owned(),
            sent,
            received,
            micros: cpu * 1e6 / received.max(1) as f64,
            size,
            time,
            flows: self.flows()?.so_far().since(&before.2),
        };
        self.stage.say(&row.to_text());
        found.rows.push(row);
        Ok(())
    }

    /// Sends reports as often as a peer does that is to be believed.
    fn lie(&mut self, behaviour: Behaviour, time: Duration, found: &mut Found) -> Result<(), LabError> {
        self.peer.ensure()?;
        let begun = Instant::now();
        let mut payload = Vec::new();
        let mut number = 0;
        while begun.elapsed() < time {
            self.peer.serve()?;
            // What was sent before the lie counts for the one before it.
            if begun.elapsed() < time / 2 {
                self.peer.forget_repair();
            }
            let kind = self.writer.write(behaviour, number, &self.peer.seen, &mut payload);
            self.peer.send(kind, &payload)?;
            number += 1;
            self.stage.pause(Duration::from_secs_f64(1.0 / REPORTS_PER_SECOND))?;
        }
        let what = if behaviour == Behaviour::AllArrives { "all arrives" } else { "nothing arrives" };
        let repair = self.peer.seen.repair.map_or("no block".to_owned(), |(least, most)| format!("{least} to {most}"));
        self.stage.say(&format!("  reports: {what}, {} s: repair symbols {repair}", time.as_secs()));
        found.size_most = found.size_most.max(self.victim.process.memory().unwrap_or_default());
        Ok(())
    }

    /// Handshakes without end: renewals, and restarts with blocks left open.
    fn handshakes(&mut self, found: &mut Found) -> Result<(), LabError> {
        let before = (self.cpu(), self.peer.seen.sessions, self.flows()?.so_far());
        let begun = Instant::now();
        let (mut number, mut size, mut payload) = (0, 0, Vec::new());
        while begun.elapsed() < HANDSHAKES_FOR {
            self.stage.trace.check_stop()?;
            if number % 4 == 3 {
                self.peer.restart()?;
                self.writer.restart();
            }
            // One that the limit drops is tried again.
            if self.peer.connect().is_err() {
                self.peer.restart()?;
                continue;
            }
            for step in 0..20 {
                let kind = self.writer.write(Behaviour::LoneSymbols, step * 7, &self.peer.seen, &mut payload);
                self.peer.send(kind, &payload)?;
            }
            number += 1;
            size = size.max(self.victim.process.memory().unwrap_or_default());
        }
        let time = begun.elapsed();
        let cpu = (self.cpu() - before.0).as_secs_f64() - self.idle * time.as_secs_f64();
        let sessions = self.peer.seen.sessions - before.1;
        let row = Row {
            name: "handshakes".to_owned(),
            sent: sessions,
            received: sessions,
            micros: cpu.max(0.0) * 1e6 / sessions.max(1) as f64,
            size,
            time,
            flows: self.flows()?.so_far().since(&before.2),
        };
        self.stage.say(&row.to_text());
        found.handshakes = Some(row);
        Ok(())
    }

    fn finish(mut self, found: &mut Found) -> Result<(), LabError> {
        self.stage.pause(Duration::from_secs(1))?;
        let flows = self.flows.take().map(HonestFlows::finish).transpose()?;
        found.flows = flows.unwrap_or_else(Flows::default);
        self.toward.end();
        let status = self.victim.status(self.network)?;
        found.violations = honest_violations(&status);
        found.lost = self.honest.status(self.network)?.peer().received.lost;
        found.size_before = found.rows.first().map_or(0, |row| row.size);
        let rows = found.rows.iter().chain(&found.handshakes).map(|row| row.size);
        found.size_most = rows.max().unwrap_or(0).max(found.size_most);
        found.is_alive = self.victim.process.is_running();
        self.victim.process.terminate()?;
        self.honest.process.terminate()?;
        Ok(())
    }
}

fn honest_violations(status: &Status) -> u64 {
    let honest = status.peers.iter().find(|peer| peer.name == HONEST);
    honest.and_then(|peer| peer.protection.as_ref()).map_or(0, |protection| protection.violations)
}

/// The link to the honest peer loses single datagrams.
fn lose(network: &Network<'_>) -> Result<(), LabError> {
    network.run(VICTIM, &["ip", "link", "set", "dev", "wan1", "gso_max_segs", "1"])?;
    let rules = format!(
        "table inet lab {{\n  chain prerouting {{\n    type filter hook prerouting priority raw;\n    iifname wan0 meta l4proto udp \
         numgen random mod {HONEST_LOSS} < 1 drop\n  }}\n}}\n"
    );
    let file = network.trace().write_file("loss.nft", &rules)?;
    network.run(HONEST, &["nft", "-f", &crate::lab::program::path_text(&file)?]).map(drop)
}

/// Packets toward the malicious peer, so that there are blocks to lie about.
struct Toward {
    is_over: Arc<AtomicBool>,
    sending: JoinHandle<()>,
}

impl Toward {
    fn start(network: &Network<'_>, to: SocketAddr) -> Result<Self, LabError> {
        let open = || -> io::Result<UdpSocket> {
            let inside = NetworkNamespace::named(&network.namespace("primary"))?;
            inside.run(|| UdpSocket::bind(("0.0.0.0", 0)))?
        };
        let socket = open().map_err(LabError::doing("send from primary"))?;
        let is_over = Arc::<AtomicBool>::default();
        let over = is_over.clone();
        let sending = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                // A packet that the appliance drops is none of its concern.
                let _ = socket.send_to(&[7; 1000], to);
                thread::sleep(Duration::from_millis(5));
            }
        });
        Ok(Self { is_over, sending })
    }

    fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        // The thread returns nothing.
        let _ = self.sending.join();
    }
}
