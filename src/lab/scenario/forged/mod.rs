//! Ten million forged datagrams beside a transfer, from the WAN that also carries it: what do they change?
//!
//! `recorder` sees what the appliances send each other, `forgery` makes datagrams from it, `flood` sends them with any
//! source address, `replies` counts what comes back. Goodput is compared with that beside the same datagrams to another
//! port of the same hosts, so that what they cost to send is in both.

mod flood;
mod forgery;
mod recorder;
mod replies;
mod verdict;

use std::{
    io,
    net::{SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rustix::net::sockopt;

use self::{
    flood::{Attacker, Flood, FloodPlan},
    forgery::{Forger, Target},
    recorder::Taps,
    verdict::{Found, Memory},
};
use super::{Stage, stage};
use crate::{
    io::namespace::NetworkNamespace,
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        report::Report,
        status::Status,
        workload::{
            checked_stream::CheckedStream,
            numbered::{NumberedFlow, NumberedSink},
        },
    },
};

/// The node of the attacker, and those of the appliances.
const WAN: &str = "wan";
const NODES: [&str; 2] = ["ithaca", "syracuse"];
/// Forged datagrams; one of a hundred is an initiation.
const DATAGRAMS: u32 = 10_000_000;
const INITIATION_EVERY: u64 = 100;
/// The part of them that is sent at a steady rate, beside which goodput is measured.
const STEADY_PART: f64 = 0.05;
const PER_SECOND: f64 = 10_000.0;
/// The rate of the path: what a transfer keeps must not depend on how many processors the machine has.
const RATE: &str = "200mbit";
/// Slices with and without the flood.
const ROUNDS: u32 = 5;
/// Most of this flood are initiations: an appliance is restarted in it.
const RESTART_PER_SECOND: f64 = 10_000.0;
const RESTART_INITIATION_EVERY: u64 = 4;
const RESTARTS: u32 = 3;
/// Where the control's datagrams go: a socket that nobody reads.
const CONTROL_PORT: u16 = 7999;
const RECORDED: usize = 4000;
/// How often the attacker records anew: the keys change, and old counters are outside every window.
const RECORD_EVERY: u64 = 1_000_000;
/// The UDP flows beside the transfer.
const FLOWS: usize = 4;
const PACE: Duration = Duration::from_millis(2);
const UP_WITHIN: Duration = Duration::from_secs(30);

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let datagrams = u64::from(stage.options.trials.unwrap_or(DATAGRAMS)).max(1000);
    stage.say(&format!(
        "forged: TCP at the rate of the path, {RATE}, and {FLOWS} UDP flows from primary to mirror, all bytes checked. An attacker\n\
         in the WAN sends both appliances {datagrams} datagrams: random ones of each type, genuine ones mutated, truncated,\n\
         extended, spliced, replayed and sent back, and one of {INITIATION_EVERY} an initiation with a right mac1; with the peer's\n\
         source address or any other. A twentieth of them at {PER_SECOND}/s, in turns with the same to a port that nobody reads;\n\
         then as fast as they go; then an appliance is restarted {RESTARTS} times among initiations.\n"
    ));
    let network = stage.build()?;
    for node in NODES {
        // The kernel cuts the trains before they leave, so that the attacker sees single datagrams.
        network.run(node, &["ip", "link", "set", "dev", "wan0", "gso_max_segs", "1"])?;
    }
    let addresses = network.topology().appliances().map(|(_, plan)| forgery::address_of(plan.listen));
    let addresses: [_; 2] = addresses.collect::<Result<Vec<_>, _>>()?.try_into().map_err(|found| {
        LabError::Sentence(format!("this scenario needs two appliances; the topology has {found:?}"))
    })?;
    replies::count(&network, WAN, addresses)?;
    let taps = Taps::open(&network, NODES, addresses)?;
    let options = PairOptions { path: format!(", rate: {RATE}"), ..PairOptions::default() };
    let mut pair = Pair::start(&network, &options)?;
    // A host whose appliance has not started says that the port is closed.
    let errors_before = replies::counted(&network, WAN)?.errors;
    let _unread = NODES.map(|node| unread_socket(&network, node)).into_iter().collect::<Result<Vec<_>, _>>()?;
    let traffic = Traffic::start(&network)?;
    stage.pause(Duration::from_millis(500))?;
    let recorded = taps.collect(Duration::from_secs(2), RECORDED);
    let targets = [target(&network, &pair, 0, addresses[0])?, target(&network, &pair, 1, addresses[1])?];
    let attacker = Attacker::new(&network, WAN, targets.clone())?;
    let forger = Forger::new(targets, recorded, stage.options.seed)?;
    let mut attack = Attack { stage, network: &network, attacker, forger: Some(forger), addresses };

    let mut found = Found { planned: datagrams, per_second: PER_SECOND, ..Found::default() };
    // Every buffer and table has its size after the first slices.
    let steady = (datagrams as f64 * STEADY_PART / f64::from(ROUNDS)).max(1.0) as u64;
    for port in [None, Some(CONTROL_PORT)] {
        attack.slice(&traffic, steady.min(PER_SECOND as u64 * 5), port, &mut found)?;
    }
    found.memory = Memory::of(&pair);
    for round in 0..ROUNDS {
        let mut order = [None, Some(CONTROL_PORT)];
        if round % 2 == 1 {
            order.reverse();
        }
        for port in order {
            let goodput = attack.slice(&traffic, steady, port, &mut found)?;
            let (what, kept) = match port {
                None => ("forged datagrams", &mut found.flooded),
                Some(_) => ("to another port ", &mut found.calm),
            };
            stage.say(&format!("  {what}  {:.0} Mbit/s", goodput / 1e6));
            kept.push(goodput);
        }
    }
    found.unpaced = attack.unpaced(&traffic, datagrams.saturating_sub(found.datagrams), &mut found)?;
    attack.slice(&traffic, steady.min(PER_SECOND as u64 * 5), Some(CONTROL_PORT), &mut found)?;
    found.memory.grow(&pair);
    let statuses = pair.status()?;
    found.counted = statuses.iter().map(refused).sum();
    found.overflows = statuses.iter().map(Status::receive_overflows).sum();
    found.strangers = replies::strangers(&network, "primary")? + replies::strangers(&network, "mirror")?;
    traffic.finish(&mut found);
    let before_restarts = replies::counted(&network, WAN)?;
    let errors = before_restarts.errors - errors_before;
    found.early_responses = before_restarts.responses;
    for number in 0..RESTARTS {
        let took = attack.restart(&mut pair, &mut found)?;
        stage.say(&format!("  restart {} of {RESTARTS}: the session is up after {} ms", number + 1, took.as_millis()));
        found.restarts.push(took);
    }
    // While an appliance is restarted, its host says that the port is closed.
    found.replies = replies::Replies { errors, ..replies::counted(&network, WAN)? };
    pair.stop()?;
    Ok(verdict::report(&found, stage.options.slack))
}

/// What an appliance says that it has refused.
fn refused(status: &Status) -> u64 {
    status.drops.values().sum()
}

fn target(network: &Network<'_>, pair: &Pair<'_>, at: usize, address: SocketAddrV4) -> Result<Target, LabError> {
    let text = pair.appliances[at].status_text(network)?;
    let status: serde_json::Value = serde_json::from_str(&text)
        .map_err(|error| LabError::Sentence(format!("the status of {} cannot be read: {error}", NODES[at])))?;
    let public_key = status["public_key"].as_str().unwrap_or_default().to_owned();
    Ok(Target { address, public_key })
}

/// A socket that takes datagrams until it is full, and then drops them.
fn unread_socket(network: &Network<'_>, node: &str) -> Result<UdpSocket, LabError> {
    let open = || -> io::Result<UdpSocket> {
        let inside = NetworkNamespace::named(&network.namespace(node))?;
        let socket = inside.run(|| UdpSocket::bind(("0.0.0.0", CONTROL_PORT)))??;
        sockopt::set_socket_recv_buffer_size(&socket, 4096)?;
        Ok(socket)
    };
    open().map_err(LabError::doing(format!("open port {CONTROL_PORT} in {node}")))
}

/// The checked transfers.
struct Traffic {
    stream: CheckedStream,
    sink: Arc<NumberedSink>,
    is_over: Arc<AtomicBool>,
    sending: JoinHandle<Result<Vec<NumberedFlow>, LabError>>,
}

impl Traffic {
    fn start(network: &Network<'_>) -> Result<Self, LabError> {
        let [primary, mirror] = stage::ends(network)?;
        let (from, to) = (("primary", primary), ("mirror", mirror));
        let sink = Arc::new(NumberedSink::listen(network, from, to)?);
        let mut flows = (0..FLOWS).map(|_| sink.open()).collect::<Result<Vec<_>, _>>()?;
        let stream = CheckedStream::start(network, from, to)?;
        let ports = [stream.port(), flows[0].key.destination.port()];
        replies::count_strangers(network, "primary", mirror, ports)?;
        replies::count_strangers(network, "mirror", primary, ports)?;
        let is_over = Arc::<AtomicBool>::default();
        let over = is_over.clone();
        let sending = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                for flow in &mut flows {
                    let length = 64 + flow.packets as usize * 37 % 1300;
                    flow.send(length)?;
                }
                thread::sleep(PACE);
            }
            Ok(flows)
        });
        Ok(Self { stream, sink, is_over, sending })
    }

    fn finish(self, found: &mut Found) {
        self.is_over.store(true, Ordering::Relaxed);
        found.stream = self.stream.finish();
        match self.sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
            Ok(flows) => {
                for flow in &flows {
                    found.packets.missing += self.sink.drain(flow, Duration::from_secs(1));
                    found.packets.sent += u64::from(flow.packets);
                    found.packets.twice += self.sink.twice(flow);
                    found.packets.wrong += self.sink.wrong(flow);
                }
            }
            // Nothing was sent then, which the report says.
            Err(error) => crate::lab::trace::say(format_args!("{error}")),
        }
        if let Some(sink) = Arc::into_inner(self.sink) {
            sink.end();
        }
    }
}

/// The attack, slice by slice.
struct Attack<'a> {
    stage: &'a Stage<'a>,
    network: &'a Network<'a>,
    attacker: Attacker,
    forger: Option<Forger>,
    addresses: [SocketAddrV4; 2],
}

impl Attack<'_> {
    fn start(&mut self, plan: FloodPlan) -> Result<Flood, LabError> {
        let lost = || LabError::Sentence("the attacker has ended with an error before".to_owned());
        Ok(self.attacker.start(self.forger.take().ok_or_else(lost)?, plan))
    }

    /// Ends a flood; what went to the appliances counts.
    fn end(&mut self, flood: Flood, is_control: bool, found: &mut Found) -> Result<flood::Sent, LabError> {
        let (forger, sent) = flood.finish()?;
        self.forger = Some(forger);
        if !is_control {
            found.datagrams += sent.datagrams;
            found.initiations += sent.initiations;
        }
        Ok(sent)
    }

    /// Sends at the steady rate, to the appliances or to another port; returns the goodput meanwhile, in bits per second.
    fn slice(
        &mut self,
        traffic: &Traffic,
        datagrams: u64,
        port: Option<u16>,
        found: &mut Found,
    ) -> Result<f64, LabError> {
        self.record()?;
        let plan = FloodPlan { datagrams, initiation_every: INITIATION_EVERY, per_second: Some(PER_SECOND), port };
        let flood = self.start(plan)?;
        let (before, since) = (traffic.stream.received(), Instant::now());
        while !flood.is_over() {
            self.stage.pause(Duration::from_millis(5))?;
        }
        let goodput = (traffic.stream.received() - before) as f64 * 8.0 / since.elapsed().as_secs_f64();
        let sent = self.end(flood, port.is_some(), found)?;
        // A control that was sent at another rate would be none.
        let rate = sent.datagrams as f64 / sent.time.as_secs_f64();
        match port {
            None => found.flooded_rates.push(rate),
            Some(_) => found.calm_rates.push(rate),
        }
        Ok(goodput)
    }

    /// Sends as fast as it goes; returns the rate.
    fn unpaced(&mut self, traffic: &Traffic, datagrams: u64, found: &mut Found) -> Result<f64, LabError> {
        let (mut left, mut time) = (datagrams, Duration::ZERO);
        let before = traffic.stream.received();
        while left > 0 {
            self.record()?;
            let part = left.min(RECORD_EVERY);
            let flood = self.start(FloodPlan {
                datagrams: part,
                initiation_every: INITIATION_EVERY,
                per_second: None,
                port: None,
            })?;
            while !flood.is_over() {
                self.stage.pause(Duration::from_millis(20))?;
            }
            let sent = self.end(flood, false, found)?;
            time += sent.time;
            left -= part.min(sent.datagrams.max(1));
            let rate = sent.datagrams as f64 / sent.time.as_secs_f64();
            self.stage.say(&format!("  {} of {} forged datagrams, {rate:.0}/s", found.datagrams, found.planned));
        }
        found.unpaced_goodput = (traffic.stream.received() - before) as f64 * 8.0 / time.as_secs_f64().max(1e-9);
        Ok(datagrams as f64 / time.as_secs_f64().max(1e-9))
    }

    /// Records genuine datagrams of now.
    fn record(&mut self) -> Result<(), LabError> {
        let recorded = Taps::open(self.network, NODES, self.addresses)?.collect(Duration::from_millis(300), RECORDED);
        if let Some(forger) = &mut self.forger {
            forger.learn(recorded);
        }
        Ok(())
    }

    /// Restarts the first appliance in a flood of initiations; returns how long it takes until both have a session.
    fn restart(&mut self, pair: &mut Pair<'_>, found: &mut Found) -> Result<Duration, LabError> {
        let [near, far] = &mut pair.appliances;
        let before = far.status(self.network)?.peer().sessions;
        let flood = self.start(FloodPlan {
            datagrams: u64::MAX,
            initiation_every: RESTART_INITIATION_EVERY,
            per_second: Some(RESTART_PER_SECOND),
            port: None,
        })?;
        // The other one is under load before.
        self.stage.pause(Duration::from_secs(1))?;
        near.process.kill();
        let begun = Instant::now();
        near.restart(self.network)?;
        let took = loop {
            let is_up = near.socket().exists()
                && near.status(self.network).is_ok_and(|status| status.is_up())
                && far.status(self.network).is_ok_and(|status| status.peer().sessions > before && status.is_up());
            if is_up {
                break begun.elapsed();
            }
            if begun.elapsed() > UP_WITHIN {
                return Err(LabError::Sentence(format!("no session within {UP_WITHIN:?} of the restart in the flood")));
            }
            self.stage.pause(Duration::from_millis(5))?;
        };
        self.end(flood, false, found)?;
        Ok(took)
    }
}
