//! The cap of `onwire gate tcp`: how much a disaster can cost a program whose protocol no gate knows.
//!
//! A program writes as fast as it can, through the gate and without it, over the same appliances and the same slow
//! uplink. Then the disaster of `disaster` strikes. The bytes that the kernel had accepted from the program before the
//! cut and that the mirror does not have must not exceed the cap plus the two socket buffers between program and gate,
//! which no gate can see into.

use std::{
    io::Write,
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::net::sockopt;
use serde_json::{Value, json};

use super::{
    Stage,
    disaster::{
        arm::Arm,
        drain::Verdicts,
        site::{ONE_WAY, Site},
    },
    stage::{WAN_TCP, ends},
};
use crate::lab::{
    error::LabError,
    network::Network,
    report::Report,
    servers::gate::{Gate, GatePlan},
    workload::stream::{Sink, Stream},
};

/// Bytes that may be unprotected.
const CAP: u64 = 256 * 1024;
/// Maximum receive buffer of every socket at the primary's host, including the gate's.
const RECEIVE_BUFFER: u64 = 256 * 1024;
/// The send buffer that the program requests; the kernel doubles it and reports the result.
const SEND_BUFFER: usize = 64 * 1024;
/// Without the gate, at least this many times as much must be missing in each trial; otherwise the cap limits nothing.
const FAR_ABOVE: u64 = 2;
/// The cap must have been filled at least this many times; otherwise nothing was tested.
const FILLED: u64 = 10;
const TRIALS: u32 = 10;
const CONTROL_TRIALS: u32 = 3;
const LOSS: f64 = 0.01;
const GATE_PORT: u16 = 9000;
const WRITE: [u8; 8192] = [7; 8192];
/// How long the program writes before the disaster begins.
const BEFORE: std::ops::Range<Duration> = Duration::from_millis(1000)..Duration::from_millis(2000);
/// After the drain, a silence of this length means that nothing more will arrive.
const QUIET: Duration = Duration::from_millis(300);
/// Data that is written faster than this waits: before the gate, or in the queues after it.
const UPLINK: [&str; 13] =
    ["tc", "qdisc", "add", "dev", "wan0", "root", "tbf", "rate", "100mbit", "burst", "16kb", "limit", "8mb"];

/// The trials with or without the gate.
#[derive(Debug, Default)]
struct Trials {
    /// Bytes accepted from the program before the cut and missing at the mirror, for each trial.
    missing: Vec<u64>,
    /// Bytes accepted from the program, for each trial.
    accepted: Vec<u64>,
    /// The maximum size of the buffers between program and gate.
    buffers: u64,
    verdicts: Verdicts,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let trials = stage.options.trials.unwrap_or(TRIALS);
    let control = CONTROL_TRIALS.min(trials);
    stage.say(&format!(
        "cap: a program writes as fast as it can over an uplink of 100 Mbit/s and {ONE_WAY:?} one way, through `onwire gate tcp\n\
         --max-unprotected {CAP}` in {trials} trials and without it in {control}. Half a second after the WAN begins to lose (1 %)\n\
         the site is lost. How much of what was taken from the program does the mirror not have?\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.sysctl("primary", &[("net.ipv4.tcp_rmem", &format!("4096 131072 {RECEIVE_BUFFER}"))])?;
    network.tell_wan(&format!("set delay {}ms", ONE_WAY.as_millis()))?;
    network.run("ithaca", &UPLINK)?;
    let addresses = ends(&network)?;
    let sink = Sink::listen(&network, "primary", "mirror", addresses[1])?;
    let mut site = Site::make(stage, &network, Arm::NetworkSync, LOSS)?;
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let mut found = <[Trials; 2]>::default();
    let ways = [(trials, Some(SocketAddr::new(addresses[0], GATE_PORT))), (control, None)];
    for ((trials, at), found) in ways.into_iter().zip(&mut found) {
        for _ in 0..trials {
            trial(&mut site, &sink, at, &mut rng, found)?;
        }
        let way = if at.is_some() { "through the gate" } else { "without it" };
        stage.say(&format!("  {way}: at most {} bytes missing", found.most()));
    }
    site.clear()?;
    let [gate, direct] = found;
    Ok(report(&gate, &direct))
}

/// Runs one disaster; `at` is the gate's listen address, if there is a gate.
fn trial(
    site: &mut Site<'_>,
    sink: &Sink,
    at: Option<SocketAddr>,
    rng: &mut SmallRng,
    found: &mut Trials,
) -> Result<(), LabError> {
    site.mend()?;
    let mut gate = at.map(|at| start_gate(site, sink, at)).transpose()?;
    let stream = match at {
        Some(at) => sink.open_through(at)?,
        None => sink.open(None)?,
    };
    if at.is_some() {
        found.buffers = buffers(&stream.near).map_err(LabError::doing("size the buffer of a socket"))?;
    }
    let writer = Writer::start(&stream)?;
    site.stage.pause(rng.random_range(BEFORE))?;
    let strike = site.strike(|| {
        writer.end();
        gate.iter_mut().for_each(Gate::crash);
    })?;
    let taken = writer.finish(&stream);
    let drained = site.drain()?;
    let accepted = taken.iter().rev().find(|(at, _)| *at < strike.cut).map_or(0, |(_, bytes)| *bytes);
    let missing = accepted.saturating_sub(stream.drain(accepted, QUIET));
    stream.abort();
    found.accepted.push(accepted);
    found.missing.push(missing);
    if let Some(drained) = drained {
        // Data accepted from a program does not count as called protected.
        found.verdicts.count(drained, false);
    }
    Ok(())
}

fn start_gate(site: &Site<'_>, sink: &Sink, listen: SocketAddr) -> Result<Gate, LabError> {
    let silent = || LabError::Sentence("the appliances were started without notifications".to_owned());
    let network: &Network<'_> = site.network;
    let plan = GatePlan {
        kind: "tcp",
        node: "primary",
        name: "gate",
        listen,
        upstream: sink.address(),
        policy: "auto",
        publisher: site.publisher()?.ok_or_else(silent)?,
        more: vec!["--max-unprotected".to_owned(), CAP.to_string()],
    };
    Gate::start(network, &plan)
}

/// Makes the program's send buffer small; returns the maximum size of that buffer and the gate's receive buffer
/// together.
fn buffers(near: &TcpStream) -> std::io::Result<u64> {
    sockopt::set_socket_send_buffer_size(near, SEND_BUFFER)?;
    Ok(sockopt::socket_send_buffer_size(near)? as u64 + RECEIVE_BUFFER)
}

/// The times of the writes, and the total of accepted bytes after each.
type AcceptedBytes = Vec<(Instant, u64)>;

/// A program that writes as fast as it can.
struct Writer {
    is_over: Arc<AtomicBool>,
    writing: JoinHandle<AcceptedBytes>,
}

impl Writer {
    fn start(stream: &Stream) -> Result<Self, LabError> {
        let mut near = stream.near.try_clone().map_err(LabError::doing("keep a hold of the connection"))?;
        let is_over = Arc::new(AtomicBool::new(false));
        let over = is_over.clone();
        let writing = thread::spawn(move || {
            let (mut taken, mut bytes) = (AcceptedBytes::new(), 0);
            // A write fails when the gate has ended.
            while !over.load(Ordering::Relaxed)
                && let Ok(length) = near.write(&WRITE)
            {
                bytes += length as u64;
                taken.push((Instant::now(), bytes));
            }
            taken
        });
        Ok(Self { is_over, writing })
    }

    fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    /// A write can block in a full socket; only the socket's shutdown wakes it.
    fn finish(self, stream: &Stream) -> AcceptedBytes {
        let _ = stream.near.shutdown(Shutdown::Write);
        self.writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Trials {
    fn most(&self) -> u64 {
        self.missing.iter().copied().max().unwrap_or(0)
    }

    fn least(&self) -> u64 {
        self.missing.iter().copied().min().unwrap_or(0)
    }

    fn least_accepted(&self) -> u64 {
        self.accepted.iter().copied().min().unwrap_or(0)
    }

    fn to_json(&self) -> Value {
        json!({
            "trials": self.missing.len(),
            "accepted": self.accepted.iter().sum::<u64>(),
            "missing_most": self.most(),
            "missing_least": self.least(),
            "drain": self.verdicts.to_json(),
        })
    }
}

fn report(gate: &Trials, direct: &Trials) -> Report {
    let mut report = Report::default();
    let limit = CAP + gate.buffers;
    let claim = format!("at most the cap of {CAP} bytes and {} bytes of socket buffers are missing", gate.buffers);
    let holds = !gate.missing.is_empty() && gate.most() <= limit;
    report.claim(claim, format!("{} of {limit} bytes", gate.most()), holds);
    let claim = format!("each trial has filled the cap {FILLED} times");
    let least = gate.least_accepted();
    report.claim(claim, format!("{least} bytes taken at the least"), least >= FILLED * CAP);
    let claim = format!("control: without the gate {FAR_ABOVE} times as much is missing in each trial");
    let found = format!("{} bytes at the least", direct.least());
    report.claim(claim, found, direct.least() >= FAR_ABOVE * limit);
    report.table(
        &["way", "trials", "bytes taken", "missing, most", "missing, least"],
        [("through the gate", gate), ("without it", direct)].map(|(way, it)| {
            let taken = it.accepted.iter().sum::<u64>();
            let numbers = [it.missing.len() as u64, taken, it.most(), it.least()];
            [way.to_owned()].into_iter().chain(numbers.map(|number| number.to_string())).collect()
        }),
    );
    report.metric("cap_bytes", CAP);
    report.metric("buffer_bytes", gate.buffers);
    report.metric("gate", gate.to_json());
    report.metric("no_gate", direct.to_json());
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exceeded_or_untested_cap_fails() {
        let passes = |missing, accepted, direct| {
            let gate =
                Trials { missing: vec![0, missing], accepted: vec![accepted; 2], buffers: 100, ..Trials::default() };
            let direct = Trials { missing: vec![direct], accepted: vec![accepted], ..Trials::default() };
            report(&gate, &direct).passes()
        };
        let (limit, much) = (CAP + 100, FILLED * CAP);
        assert!(passes(limit, much, FAR_ABOVE * limit));
        assert!(!passes(limit + 1, much, FAR_ABOVE * limit), "exceeded");
        assert!(!passes(limit, much - 1, FAR_ABOVE * limit), "not filled");
        assert!(!passes(limit, much, FAR_ABOVE * limit - 1), "the control has the same");
        assert!(!report(&Trials::default(), &Trials::default()).passes(), "no trial");
    }
}
