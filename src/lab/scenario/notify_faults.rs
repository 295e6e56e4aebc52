//! E8: a subscriber behind a path that loses, duplicates, delays, replays and forges datagrams, beside a second one
//! with a direct path.
//!
//! Two checks. Data that the first subscriber was notified of as protected when the WAN was cut must arrive at the
//! mirror. And every notification it accepted must also have reached the second subscriber, and not much later. Each
//! round is a new connection with the same addresses, and halfway the appliances are restarted, so that every recording
//! is about a flow that exists.

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;

use super::{Stage, stage::wait_up};
use crate::{
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        relay::{
            Relay,
            faults::{FaultCounters, FaultPlan},
        },
        report::Report,
        subscriber,
        times::Times,
        workload::stream::Sink,
    },
    notify::{
        client::{Client, Waited, Wish},
        message::FlowKey,
    },
};

const PLAN: FaultPlan =
    FaultPlan { loss: 0.3, duplicate: 0.05, reorder: 0.1, hold: Duration::from_millis(5), replay: 0.1, forge: 0.3 };
const DELAY: &str = "set delay 5ms";
const ROUNDS: u32 = 20;
const WRITES: u64 = 60;
const WRITE: [u8; 200] = [7; 200];
/// From an immediate next write to one so late that only repetitions report it.
const GAP: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(60);
/// The source port of every round.
const PORT: u16 = 40_000;
/// Time after the cut in which a false notification may still come.
const AFTER: Duration = Duration::from_millis(300);
const QUIET: Duration = Duration::from_millis(400);
/// How much later the direct subscriber may be notified, and the limit for the other: both wait for a processor.
const EARLY: Duration = Duration::from_millis(50);
const LATE: Duration = Duration::from_millis(30);

/// When each offset was reported protected.
type ProtectedAt = BTreeMap<u64, Instant>;

#[derive(Debug, Default)]
struct Findings {
    rounds: u32,
    /// Bytes reported protected at a cut, and those of them that did not arrive.
    believed: u64,
    lost: u64,
    /// All reports, and those that the direct subscriber does not confirm.
    beliefs: u64,
    unconfirmed: u64,
    /// Offsets that only the direct subscriber was notified of when the round ended.
    missed: u64,
    /// The delay behind the direct subscriber; for missed offsets, the time until the round's end.
    delays: Times,
    /// The same for the first report of each connection: by then the subscriber has identified which of the connections
    /// with these addresses it is.
    first: Vec<Duration>,
}

impl Findings {
    /// Adds a round: the reports to both, the times of the cut and of the end, and the number of bytes that arrived.
    fn on_round(&mut self, [faulty, direct]: [&ProtectedAt; 2], [cut, end]: [Instant; 2], arrived: u64, slack: f64) {
        self.rounds += 1;
        let believed = protected_before(faulty, cut);
        self.believed += believed;
        self.lost += believed.saturating_sub(arrived);
        self.beliefs += faulty.len() as u64;
        for (offset, at) in faulty {
            match direct.get(offset) {
                Some(told) if *told <= *at + EARLY.mul_f64(slack) => {
                    self.delays.record(at.saturating_duration_since(*told));
                }
                _ => self.unconfirmed += 1,
            }
        }
        let first =
            faulty.first_key_value().and_then(|(offset, at)| Some(at.saturating_duration_since(*direct.get(offset)?)));
        self.first.extend(first);
        for (_, told) in direct.iter().filter(|(offset, _)| !faulty.contains_key(offset)) {
            self.missed += 1;
            self.delays.record(end.saturating_duration_since(*told));
        }
    }
}

/// The highest offset reported protected before `cut`.
fn protected_before(beliefs: &ProtectedAt, cut: Instant) -> u64 {
    beliefs.iter().filter(|(_, at)| **at < cut).map(|(offset, _)| *offset).max().unwrap_or(0)
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let rounds = stage.options.trials.unwrap_or(ROUNDS).max(2);
    stage.say(&format!(
        "notify-faults: {rounds} connections of {WRITES} writes, each ended by a cut of the WAN. One subscriber hears the\n\
         appliance itself; the other through a relay that loses 30 %, doubles 5 %, holds back 10 %, and adds recordings (of\n\
         any age, also from before a restart of the appliance) and forgeries. Is it ever told what is not so? How late is it?\n"
    ));
    let network = stage.build()?;
    network.tell_wan(DELAY)?;
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let sink = Sink::listen(&network, "primary", "mirror", address)?;
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let mut findings = Findings::default();
    let mut relay = None;
    for (run, rounds) in [rounds / 2, rounds - rounds / 2].into_iter().enumerate() {
        stage.say(&format!("  run {} of the appliances, {rounds} connections ...", run + 1));
        let options =
            PairOptions { label: format!("run-{}", run + 1), notify: Some("on_wire"), ..PairOptions::default() };
        let pair = Pair::start(&network, &options)?;
        let near = &pair.appliances[0];
        let publisher = near.publisher()?;
        let relay = match &mut relay {
            Some(relay) => {
                Relay::on_restart(relay);
                relay
            }
            none => none.insert(Relay::start(&network, near.node(), publisher.address, PLAN, stage.options.seed)?),
        };
        let subscribe = |at| subscriber::connect(&network, near.node(), at, publisher, Wish::default());
        let mut clients = [subscribe(relay.address())?, subscribe(publisher.address)?];
        for _ in 0..rounds {
            for client in &mut clients {
                wait_up(stage, client)?;
            }
            clients = round(stage, &network, &sink, relay, clients, &mut rng, &mut findings)?;
            network.tell_wan("open")?;
        }
        drop(clients);
        pair.stop()?;
    }
    let counters = relay.map(|relay| relay.counters()).unwrap_or_default();
    Ok(report(&findings, &counters, stage.options.slack))
}

/// One connection, from its first write to some time after the cut. Returns the clients.
fn round(
    stage: &Stage<'_>,
    network: &Network<'_>,
    sink: &Sink,
    relay: &Relay,
    clients: [Client; 2],
    rng: &mut SmallRng,
    findings: &mut Findings,
) -> Result<[Client; 2], LabError> {
    let mut stream = sink.open(Some(PORT))?;
    let key = stream.key();
    relay.aim(key);
    let is_over = Arc::new(AtomicBool::new(false));
    let waiters = clients.map(|client| Waiter::start(client, key, is_over.clone()));
    for _ in 0..WRITES {
        stream.near.write_all(&WRITE).map_err(LabError::doing("write to the mirror"))?;
        stage.pause(rng.random_range(GAP))?;
    }
    let cut = Instant::now();
    network.tell_wan("cut")?;
    stage.pause(AFTER)?;
    is_over.store(true, Ordering::Relaxed);
    let end = Instant::now();
    let [faulty, direct] = waiters.map(Waiter::finish);
    let ((faulty, faulty_times), (direct, direct_times)) = (faulty?, direct?);
    let arrived = stream.drain(protected_before(&faulty_times, cut), QUIET);
    findings.on_round([&faulty_times, &direct_times], [cut, end], arrived, stage.options.slack);
    stream.abort();
    Ok([faulty, direct])
}

/// A program that waits for one write after the other.
struct Waiter(JoinHandle<std::io::Result<(Client, ProtectedAt)>>);

impl Waiter {
    fn start(mut client: Client, key: FlowKey, is_over: Arc<AtomicBool>) -> Self {
        Self(thread::spawn(move || {
            client.watch(key);
            let mut beliefs = ProtectedAt::new();
            let mut offset = WRITE.len() as u64;
            while !is_over.load(Ordering::Relaxed) {
                match client.wait(&key, offset, Instant::now() + Duration::from_millis(20))? {
                    Waited::Protected { .. } => {
                        beliefs.insert(offset, Instant::now());
                        // Nothing beyond the written data can be protected: a further report would be false and is
                        // counted.
                        offset += WRITE.len() as u64;
                    }
                    // An immediate reason must not turn this into a busy loop.
                    Waited::NotProtected { .. } => thread::sleep(Duration::from_micros(200)),
                }
            }
            client.unwatch(&key);
            Ok((client, beliefs))
        }))
    }

    fn finish(self) -> Result<(Client, ProtectedAt), LabError> {
        let waited = self.0.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        waited.map_err(LabError::doing("wait for notifications"))
    }
}

fn report(findings: &Findings, [requests, notifications]: &[FaultCounters; 2], slack: f64) -> Report {
    let mut report = Report::default();
    report.claim(
        "what was believed to be protected at a cut is at the mirror",
        format!("{} of {} bytes are not, after {} cuts", findings.lost, findings.believed, findings.rounds),
        findings.lost == 0 && findings.believed > 0,
    );
    report.claim(
        "nothing is believed that the direct subscriber was not told",
        format!("{} of {}", findings.unconfirmed, findings.beliefs),
        findings.unconfirmed == 0 && findings.beliefs > 0,
    );
    let p99 = findings.delays.quantile(0.99);
    let limit = LATE.mul_f64(slack);
    report.claim(format!("of 100 beliefs 99 come at most {limit:?} late"), format!("{p99:?}"), p99 <= limit);
    let kinds = |it: &FaultCounters| {
        [
            ("taken", it.taken),
            ("lost", it.lost),
            ("doubled", it.duplicated),
            ("held back", it.held),
            ("replayed", it.replayed),
            ("replayed from before the restart", it.replayed_of_earlier_run),
            ("bits flipped", it.flipped),
            ("cut short", it.truncated),
            ("garbage", it.garbage),
            ("forged with another key", it.wrong_key),
            ("spliced", it.spliced),
        ]
    };
    let rarest = kinds(notifications).into_iter().min_by_key(|(_, count)| *count);
    let (kind, count) = rarest.unwrap_or(("nothing", 0));
    report.claim("control: every kind of fault happened to notifications", format!("{kind}: {count}"), count > 0);
    report.table(
        &["datagrams", "requests", "notifications"],
        kinds(requests).into_iter().zip(kinds(notifications)).map(|((kind, requests), (_, notifications))| {
            vec![kind.to_owned(), requests.to_string(), notifications.to_string()]
        }),
    );
    let us = |share| findings.delays.micros(share);
    report.table(
        &["beliefs", "not confirmed", "missed until the end", "late: p50", "p99", "p99.9", "most"],
        [vec![
            findings.beliefs.to_string(),
            findings.unconfirmed.to_string(),
            findings.missed.to_string(),
            format!("{} us", us(0.5)),
            format!("{} us", us(0.99)),
            format!("{} us", us(0.999)),
            format!("{} us", us(1.0)),
        ]],
    );
    report.metric(
        "beliefs",
        json!({
            "rounds": findings.rounds,
            "count": findings.beliefs,
            "unconfirmed": findings.unconfirmed,
            "missed": findings.missed,
            "bytes_at_cuts": findings.believed,
            "bytes_lost": findings.lost,
            "late_p50_us": us(0.5),
            "late_p99_us": us(0.99),
            "late_p999_us": us(0.999),
            "late_max_us": us(1.0),
            "first_late_us": findings.first.iter().map(|late| late.as_micros() as u64).collect::<Vec<_>>(),
        }),
    );
    report.metric("requests", json!(requests));
    report.metric("notifications", json!(notifications));
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTERS: FaultCounters = FaultCounters {
        taken: 9,
        lost: 1,
        duplicated: 1,
        held: 1,
        replayed: 1,
        replayed_of_earlier_run: 1,
        flipped: 1,
        truncated: 1,
        garbage: 1,
        wrong_key: 1,
        spliced: 1,
    };

    fn findings(faulty: &[(u64, u64)], arrived: u64) -> Findings {
        let start = Instant::now();
        let beliefs = |list: &[(u64, u64)]| -> ProtectedAt {
            list.iter().map(|(offset, ms)| (*offset, start + Duration::from_millis(*ms))).collect()
        };
        let mut findings = Findings::default();
        let direct = beliefs(&[(200, 10), (400, 20), (600, 30)]);
        let times = [1000, 1300].map(|ms| start + Duration::from_millis(ms));
        findings.on_round([&beliefs(faulty), &direct], times, arrived, 1.0);
        findings
    }

    #[test]
    fn a_false_or_late_report_fails_in_either_check() {
        let passes = |findings: &Findings| report(findings, &[COUNTERS; 2], 1.0).passes();
        let good = findings(&[(200, 12), (400, 25), (600, 55)], 600);
        assert!(passes(&good));
        assert_eq!((good.believed, good.missed, good.delays.count()), (600, 0, 3));
        assert!(!passes(&findings(&[(200, 12), (400, 25), (600, 55)], 599)), "it did not arrive");
        assert!(!passes(&findings(&[(200, 12), (800, 40)], 800)), "nobody was told");
        assert!(!passes(&findings(&[(200, 12), (600, 61)], 600)), "too late");
        assert!(!passes(&findings(&[(200, 12), (400, 25)], 600)), "never");
        assert!(!passes(&findings(&[], 0)), "nothing was believed");
        assert_eq!(findings(&[(200, 12), (600, 2000)], 200).lost, 0, "what is told after the cut need not arrive");
        let untouched = FaultCounters { wrong_key: 0, ..COUNTERS };
        assert!(!report(&good, &[COUNTERS, untouched], 1.0).passes());
    }
}
