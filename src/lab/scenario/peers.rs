//! One appliance with 64 peers: how soon all sessions are up, what memory and processor time a peer takes, and whether a
//! transfer to one peer takes more processor time because of the others.
//!
//! Processor time is compared, not speed: the appliances of all the peers run on this machine too.
//!
//! All peers run all the time. The appliance in the middle has all of them in its file in one round, and two in the next;
//! the others stand still meanwhile, because they would call it. Each appliance of a peer is also the mirror behind it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::Stage;
use crate::lab::{
    error::LabError,
    median::median,
    network::Network,
    pair::{PairOptions, RunningAppliance},
    report::Report,
    star::Star,
    topology::Topology,
    workload::iperf::BulkPlan,
};

const PEERS: u32 = 64;
/// The other rounds have as many; the topology is a star only with two.
const FEW: usize = 2;
const ROUNDS: usize = 3;
/// Length of a transfer, and of the time without traffic.
const SECONDS: u64 = 5;
/// All sessions must be up within this time ...
const UP_WITHIN: Duration = Duration::from_secs(5);
/// ... and the scenario waits so much longer to see when they are.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most memory for a peer without traffic, in bytes.
const MEMORY_MOST: f64 = 4e6;
/// The most processor time for a peer without traffic, as a share of one processor: 50 reports a second each way.
const IDLE_MOST: f64 = 0.006;
/// A gigabyte to one peer takes at most so many times the processor time that it takes with few peers.
const WORK_MOST: f64 = 1.25;

/// What one round has shown.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    /// From the start of the process until all sessions were up.
    up: Duration,
    memory: u64,
    /// Share of one processor without traffic.
    idle: f64,
    /// Seconds of processor time for a gigabyte, beyond what the time without traffic takes.
    work: f64,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let peers = stage.options.trials.unwrap_or(PEERS).clamp(FEW as u32 + 1, 250) as usize;
    let seconds = stage.options.seconds.unwrap_or(SECONDS).max(1);
    if stage.options.topology.is_some() {
        return Err(LabError::Sentence("this scenario makes its topology itself: take --topology away".to_owned()));
    }
    stage.say(&format!(
        "peers: an appliance with {peers} peers, and with {FEW}, in turns. `--trials` sets their number.\n\
         Building {} namespaces ...",
        peers + 2
    ));
    let topology = Topology::parse(&star(peers), "a star")?;
    let network = Network::build(topology, stage.run, stage.options.seed, stage.trace)?;
    let options = PairOptions { notify: Some("on_wire"), ..PairOptions::default() };
    let mut star = Star::start(&network, &options, |_| "")?;
    // The names have leading zeros, so that this is the order of the file.
    let (middle, others) = star.appliances.split_at_mut(1);
    let middle = &mut middle[0];
    let unanswered = (0..peers).filter(|number| !answers(&network, *number)).count();
    let all = text(middle)?;
    let few = with_peers(&all, FEW);
    let mut found: [Vec<Round>; 2] = Default::default();
    for number in 0..ROUNDS {
        let mut order = [(0, &few, FEW), (1, &all, peers)];
        if number % 2 == 1 {
            order.reverse();
        }
        for (at, config, count) in order {
            middle.process.kill();
            for other in &mut others[count..] {
                other.process.signal(Signal::STOP);
            }
            std::fs::write(middle.config(), config).map_err(LabError::doing("write a configuration"))?;
            let round = measure(stage, &network, middle, count, seconds)?;
            for other in &mut others[count..] {
                other.process.signal(Signal::CONT);
            }
            stage.say(&format!(
                "  {count:3} peers: up after {:.0?}, {:.1} MB, {:.2} % of a processor without traffic, {:.2} s for a GB",
                round.up,
                round.memory as f64 / 1e6,
                round.idle * 100.0,
                round.work
            ));
            found[at].push(round);
        }
    }
    Ok(report(&found, peers, unanswered, stage.options.slack))
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    middle: &mut RunningAppliance,
    peers: usize,
    seconds: u64,
) -> Result<Round, LabError> {
    let start = Instant::now();
    middle.restart(network)?;
    let up = loop {
        stage.pause(Duration::from_millis(20))?;
        // Before its socket is there, it has no status.
        if middle.socket().exists()
            && let Ok(status) = middle.status(network)
            && status.peers.len() == peers
            && status.is_up()
        {
            break start.elapsed();
        }
        if start.elapsed() > PATIENCE.mul_f64(stage.options.slack) {
            return Err(LabError::Sentence(format!("{peers} sessions are not up after {PATIENCE:?}")));
        }
    };
    stage.pause(Duration::from_secs(1))?;
    let (busy, since) = (middle.process.cpu_time().unwrap_or_default(), Instant::now());
    stage.pause(Duration::from_secs(seconds))?;
    let busy = middle.process.cpu_time().unwrap_or_default() - busy;
    let idle = busy.as_secs_f64() / since.elapsed().as_secs_f64();
    let memory = middle.process.memory().unwrap_or_default();
    let (to, name) = (node(0), format!("bulk-{peers}"));
    let bulk = BulkPlan { to: &to, ..BulkPlan::to_mirror(&name, mirror(0).parse().expect("an address"), seconds) };
    let (busy, since) = (middle.process.cpu_time().unwrap_or_default(), Instant::now());
    let bulk = bulk.run(network)?;
    let busy = (middle.process.cpu_time().unwrap_or_default() - busy).as_secs_f64();
    let gigabytes = bulk.bits_per_second * seconds as f64 / 8e9;
    let work = (busy - idle * since.elapsed().as_secs_f64()) / gigabytes;
    Ok(Round { up, memory, idle, work })
}

fn report(found: &[Vec<Round>; 2], peers: usize, unanswered: usize, slack: f64) -> Report {
    let mut report = Report::default();
    let [few, many] = found;
    report.claim(
        format!("a packet reaches the mirror behind each of {peers} peers"),
        format!("{unanswered} without an answer"),
        unanswered == 0,
    );
    let up = many.iter().map(|round| round.up).max().unwrap_or_default();
    let within = UP_WITHIN.mul_f64(slack);
    report.claim(
        format!("all sessions are up within {within:?} after the start"),
        format!("{up:.1?} at most"),
        up <= within,
    );
    let middle = |rounds: &[Round], of: fn(&Round) -> f64| median(rounds.iter().map(of).collect());
    let memory = |rounds: &[Round]| middle(rounds, |round| round.memory as f64);
    let of_each = (memory(many) - memory(few)) / (peers - FEW) as f64;
    report.claim(
        format!("a peer without traffic takes at most {:.0} MB", MEMORY_MOST / 1e6),
        format!("{:.2} MB; all of the process {:.1} MB", of_each / 1e6, memory(many) / 1e6),
        of_each <= MEMORY_MOST,
    );
    let [idle_few, idle] = [few, many].map(|rounds| middle(rounds, |round| round.idle));
    let idle_of_each = (idle - idle_few) / (peers - FEW) as f64;
    report.claim(
        format!("a peer without traffic takes at most {:.1} % of a processor", IDLE_MOST * 100.0),
        format!("{:.2} %; all {:.1} %, with {FEW} peers {:.1} %", idle_of_each * 100.0, idle * 100.0, idle_few * 100.0),
        idle_of_each <= IDLE_MOST * slack,
    );
    let ratio = median(few.iter().zip(many).map(|(few, many)| many.work / few.work).collect());
    report.claim(
        format!("a GB to one peer takes at most {WORK_MOST} times the processor time as with {FEW} peers"),
        format!("{ratio:.3}; {:.2} s", middle(many, |round| round.work)),
        ratio <= WORK_MOST * slack,
    );
    let rounds = |rounds: &[Round]| {
        let row = |round: &Round| {
            json!({ "up_ms": round.up.as_secs_f64() * 1e3, "memory": round.memory, "idle": round.idle,
                    "seconds_for_a_gigabyte": round.work })
        };
        rounds.iter().map(row).collect::<Vec<_>>()
    };
    report.metric("peers", peers);
    report.metric("memory_of_a_peer", of_each);
    report.metric("few", rounds(few));
    report.metric("many", rounds(many));
    report
}

/// The configuration of an appliance.
fn text(appliance: &RunningAppliance) -> Result<String, LabError> {
    std::fs::read_to_string(appliance.config()).map_err(LabError::doing("read a configuration"))
}

/// The configuration with the first peers only.
fn with_peers(text: &str, count: usize) -> String {
    let mut seen = 0;
    let mut is_peer = false;
    let kept = text.lines().filter(|line| {
        if line.starts_with("  - name: ") {
            (seen, is_peer) = (seen + 1, true);
        } else if !line.starts_with(' ') {
            is_peer = false;
        }
        !is_peer || seen <= count
    });
    kept.map(|line| format!("{line}\n")).collect()
}

/// Whether the mirror answers one of a few pings.
fn answers(network: &Network<'_>, number: usize) -> bool {
    let words = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", &mirror(number)];
    network.run("primary", &words).is_ok_and(|output| !output.contains(" 100% packet loss"))
}

fn node(number: usize) -> String {
    format!("site-{number:03}")
}

fn mirror(number: usize) -> String {
    format!("10.2.{number}.1")
}

/// The topology: each peer has a link of its own to the appliance in the middle, and its mirror's address on another one.
fn star(peers: usize) -> String {
    let mut nodes = "nodes:
  primary: { routes: [default via 10.1.0.254 congctl cubic] }
  middle:
    forwarding: true
    appliance: { peer: site-000, listen: \"198.19.255.1:7117\", local_prefixes: [10.1.0.0/24] }
  lan: {}
"
    .to_owned();
    let mut links = "links:
  - kind: veth
    ends:
      - { node: primary, device: site0, addresses: [10.1.0.1/24] }
      - { node: middle, device: site0, addresses: [10.1.0.254/24] }
  - kind: veth
    ends:
      - { node: middle, device: id0, addresses: [198.19.255.1/32] }
      - { node: lan, device: middle, addresses: [] }
"
    .to_owned();
    for number in 0..peers {
        let (name, network) = (node(number), format!("198.18.{number}"));
        nodes += &format!(
            "  {name}:
    forwarding: true
    routes: [198.19.255.1/32 via {network}.1]
    appliance: {{ peer: middle, listen: \"{network}.2:7117\", local_prefixes: [10.2.{number}.0/24] }}
"
        );
        links += &format!(
            "  - kind: veth
    ends:
      - {{ node: middle, device: wan{number}, addresses: [{network}.1/30] }}
      - {{ node: {name}, device: wan0, addresses: [{network}.2/30] }}
  - kind: veth
    ends:
      - {{ node: {name}, device: site0, addresses: [{}/24] }}
      - {{ node: lan, device: site{number}, addresses: [] }}
",
            mirror(number)
        );
    }
    nodes + &links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_star_has_an_appliance_in_the_middle_of_all_others() {
        let topology = Topology::parse(&star(250), "a star").unwrap();
        let plans: Vec<_> = topology.appliances().collect();
        assert_eq!(plans.len(), 251);
        assert_eq!(plans.iter().filter(|(_, plan)| plan.peer == "middle").count(), 250);
        assert_eq!(plans[1].0, "site-000");
    }

    #[test]
    fn the_first_peers_of_a_configuration_are_left() {
        let text = |peers: &str| format!("node:\n  name: a\npeers:\n{peers}redundancy:\n  lab:\n    repair: none\n");
        let [one, two, three] = ["b", "c", "d"].map(|name| format!("  - name: {name}\n    prefixes: []\n"));
        let all = text(&format!("{one}{two}{three}"));
        assert_eq!(with_peers(&all, 2), text(&format!("{one}{two}")));
        assert_eq!(with_peers(&all, 3), all);
    }

    #[test]
    fn each_broken_claim_fails() {
        let round = Round { up: Duration::from_secs(1), memory: 20_000_000, idle: 0.01, work: 1.0 };
        let many = Round { memory: 50_000_000, ..round };
        let verdict = |many: Round, unanswered| report(&[vec![round], vec![many]], 64, unanswered, 1.0).passes();
        assert!(verdict(many, 0));
        assert!(!verdict(many, 1));
        assert!(!verdict(Round { up: Duration::from_secs(6), ..many }, 0));
        assert!(!verdict(Round { memory: 500_000_000, ..many }, 0));
        assert!(!verdict(Round { idle: 0.5, ..many }, 0));
        assert!(!verdict(Round { work: 1.3, ..many }, 0));
    }
}
