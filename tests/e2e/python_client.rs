//! The Python client of the notification protocol against real appliances, behind the relay that loses, doubles,
//! delays, replays and forges datagrams, beside a client of the crate on the direct path.
//!
//! What the Python client calls protected when the link is cut must arrive, the other client must have heard of it
//! too, and it must hear of everything. It keeps its claims over a restart of the appliance, and claims nothing while
//! the appliance stands still.

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

use onwire::{
    lab::{
        monotonic::Monotonic,
        process::Process,
        relay::{
            Relay,
            faults::{FaultCounters, FaultPlan},
        },
        trace::need_programs,
        workload::stream::{Sink, Stream},
    },
    notify::{
        client::{Client, Waited},
        message::{FlowKey, LinkState},
    },
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::{
    protected_site::{PORT, client, connection, key_file, notifying_pair, protected, soon, wait_link},
    testbed::{MIRROR, Testbed, address},
};

const CLIENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/python");
/// The faults of the lab's scenario `notify-faults`.
const PLAN: FaultPlan =
    FaultPlan { loss: 0.3, duplicate: 0.05, reorder: 0.1, hold: Duration::from_millis(5), replay: 0.1, forge: 0.3 };
/// Connections in each run of the appliance.
const ROUNDS: u32 = 4;
const WRITES: u64 = 30;
const WRITE: [u8; 200] = [7; 200];
const STEP: u64 = WRITE.len() as u64;
/// From an immediate next write to one so late that only repetitions report it.
const GAP: std::ops::Range<Duration> = Duration::from_millis(1)..Duration::from_millis(40);
/// The source port of every round: every recording is about a flow that exists.
const SOURCE_PORT: u16 = 40_000;
/// Time after the cut in which a false notification may still come.
const AFTER: Duration = Duration::from_millis(300);
const QUIET: Duration = Duration::from_millis(400);
/// A median beyond this is no delay of repetitions, even on a busy machine.
const LATE: Duration = Duration::from_millis(250);

/// When each offset was reported protected.
type ProtectedAt = BTreeMap<u64, Instant>;

/// The Python program.
struct Python {
    process: Process,
    clock: Monotonic,
    /// Lines of its output that were read, also at the beginning of the present watch.
    read: usize,
    watched_from: usize,
}

impl Python {
    /// Starts it at the primary.
    fn start(testbed: &Testbed, notify: &str) -> Self {
        need_programs(&["python3"]).unwrap_or_else(|error| panic!("{error}"));
        let (path, key) = (format!("PYTHONPATH={CLIENT}"), key_file(testbed));
        let program = format!("{CLIENT}/tests/drive.py");
        let words = ["env", &path, "PYTHONDONTWRITEBYTECODE=1", "python3", &program, "--notify", notify, "--key", &key];
        let process = testbed.start("primary", "python", &words);
        let mut python = Self { process, clock: Monotonic::now(), read: 0, watched_from: 0 };
        python.answer("ready");
        python
    }

    fn tell(&mut self, line: &str) {
        self.process.tell(line).unwrap_or_else(|error| panic!("{error}\n{}", self.process.output()));
    }

    /// The rest of the next line that begins with `word`; what comes before it is passed over.
    fn answer(&mut self, word: &str) -> String {
        self.answer_since(self.read, word)
    }

    fn answer_since(&mut self, line: usize, word: &str) -> String {
        let deadline = soon();
        loop {
            let output = self.process.output();
            let complete = output.rfind('\n').map_or("", |end| &output[..end]);
            for (at, line) in complete.lines().enumerate().skip(line) {
                if let Some(rest) = line.strip_prefix(word) {
                    self.read = self.read.max(at + 1);
                    return rest.trim().to_owned();
                }
            }
            assert!(Instant::now() < deadline && self.process.is_running(), "no `{word}` from Python:\n{output}");
            thread::sleep(Duration::from_millis(2));
        }
    }

    fn ask(&mut self, line: &str, word: &str) -> String {
        self.tell(line);
        self.answer(word)
    }

    /// Waits for contact; returns which run of the appliance it is with.
    fn contact(&mut self) -> String {
        self.ask("contact", "contact").split(' ').next().unwrap().to_owned()
    }

    fn watch(&mut self, key: &FlowKey) {
        self.watched_from = self.read;
        self.tell(&format!("watch {} {} {STEP}", key.source, key.destination));
    }

    /// Whether this many bytes are protected, it says, and why not.
    fn status(&mut self, offset: u64) -> (bool, String) {
        let answer = self.ask(&format!("status {offset}"), "status");
        (answer.starts_with("yes"), answer)
    }

    /// Waits until it has reported this offset of the connection that it watches.
    fn wait_for(&mut self, offset: u64) {
        self.answer_since(self.watched_from, &format!("protected {offset} "));
    }

    /// Ends the watch; returns what was reported in it, and when.
    fn unwatch(&mut self) -> ProtectedAt {
        self.ask("unwatch", "unwatched");
        let output = self.process.output();
        let reports =
            output.lines().take(self.read).skip(self.watched_from).filter_map(|line| line.strip_prefix("protected "));
        let parsed = reports.map(|line| {
            let (offset, at) = line.split_once(' ').unwrap();
            (offset.parse().unwrap(), self.clock.to_instant(at.parse().unwrap()))
        });
        parsed.collect()
    }
}

/// A client of the crate that waits for one write after the other.
struct Waiter {
    is_over: Arc<AtomicBool>,
    waiting: JoinHandle<(Client, ProtectedAt)>,
}

impl Waiter {
    fn start(mut client: Client, key: FlowKey) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let over = Arc::clone(&is_over);
        let waiting = thread::spawn(move || {
            client.watch(key);
            let (mut reports, mut offset) = (ProtectedAt::new(), STEP);
            while !over.load(Ordering::Relaxed) {
                match client.wait(&key, offset, Instant::now() + Duration::from_millis(20)).unwrap() {
                    Waited::Protected { .. } => {
                        reports.insert(offset, Instant::now());
                        offset += STEP;
                    }
                    Waited::NotProtected { .. } => thread::sleep(Duration::from_micros(200)),
                }
            }
            client.unwatch(&key);
            (client, reports)
        });
        Self { is_over, waiting }
    }

    fn finish(self) -> (Client, ProtectedAt) {
        self.is_over.store(true, Ordering::Relaxed);
        self.waiting.join().unwrap()
    }
}

/// What the rounds found.
#[derive(Default)]
struct Findings {
    believed_at_cuts: u64,
    delays: Vec<Duration>,
}

/// The two clients, and the path of one of them.
struct Clients<'t> {
    testbed: &'t Testbed,
    relay: &'t Relay,
    python: Python,
    rng: SmallRng,
    findings: Findings,
}

impl Clients<'_> {
    fn write(&mut self, stream: &mut Stream) {
        for _ in 0..WRITES {
            stream.near.write_all(&WRITE).unwrap();
            thread::sleep(self.rng.random_range(GAP));
        }
    }

    /// One connection: the Python client hears of everything, then the link is cut under further writes.
    fn round(&mut self, sink: &Sink, mut direct: Client) -> Client {
        wait_link(&mut direct, LinkState::Up);
        let mut stream = sink.open(Some(SOURCE_PORT)).unwrap();
        let key = stream.key();
        self.relay.aim(key);
        self.python.watch(&key);
        let waiter = Waiter::start(direct, key);
        self.write(&mut stream);
        self.python.wait_for(WRITES * STEP);
        self.write(&mut stream);
        let cut = Instant::now();
        self.testbed.wan().tell("cut").unwrap();
        thread::sleep(AFTER);
        let reports = self.python.unwatch();
        let (direct, confirmed) = waiter.finish();

        let believed = reports.iter().filter(|(_, at)| **at < cut).map(|(offset, _)| *offset).max().unwrap_or(0);
        let arrived = stream.drain(believed, QUIET);
        assert!(believed <= arrived, "{believed} bytes were called protected at the cut, {arrived} arrived");
        assert!(believed >= WRITES * STEP, "it heard of {believed} bytes");
        for offset in reports.keys() {
            assert!(confirmed.contains_key(offset), "{offset} was reported to nobody else: {confirmed:?}");
        }
        self.findings.believed_at_cuts += believed;
        let behind = |(offset, at): (&u64, &Instant)| Some(at.saturating_duration_since(*confirmed.get(offset)?));
        self.findings.delays.extend(reports.iter().filter_map(behind));
        stream.abort();
        self.testbed.wan().tell("open").unwrap();
        direct
    }
}

#[test]
fn the_python_client_hears_everything_and_believes_nothing_false_behind_a_relay_of_faults() {
    let testbed = Testbed::emulated("delay 5ms");
    let (mut pair, secret) = notifying_pair(&testbed, &[]);
    let relay = Relay::start(testbed.network(), "ithaca", PORT.parse().unwrap(), PLAN, 1).unwrap();
    let python = Python::start(&testbed, &relay.address().to_string());
    let sink = Sink::listen(testbed.network(), "primary", "mirror", address(MIRROR[0])).unwrap();
    let (rng, findings) = (SmallRng::seed_from_u64(1), Findings::default());
    let mut clients = Clients { testbed: &testbed, relay: &relay, python, rng, findings };
    let mut direct = client(&testbed, &secret);
    let first_run = clients.python.contact();
    for _ in 0..ROUNDS {
        direct = clients.round(&sink, direct);
    }

    // A connection that lives through a restart of the appliance, and through a standstill.
    wait_link(&mut direct, LinkState::Up);
    let mut stream = sink.open(Some(SOURCE_PORT)).unwrap();
    relay.aim(stream.key());
    clients.python.watch(&stream.key());
    clients.write(&mut stream);
    let written = WRITES * STEP;
    clients.python.wait_for(written);
    pair.ithaca.terminate();
    relay.on_restart();
    clients.write(&mut stream);
    pair.ithaca.start();
    // Until it hears of the new run it has its contact with the old one.
    let deadline = soon();
    let second_run = loop {
        let run = clients.python.contact();
        if run != first_run {
            break run;
        }
        assert!(Instant::now() < deadline, "it does not notice the restart");
        thread::sleep(Duration::from_millis(10));
    };
    let (is_protected, said) = clients.python.status(written);
    assert!(is_protected, "what was protected stays so: {said}");
    clients.python.wait_for(2 * written);
    pair.ithaca.wait_up();
    clients.write(&mut stream);
    clients.python.wait_for(3 * written);
    pair.ithaca.set_halted(true);
    thread::sleep(Duration::from_millis(1500));
    let (is_protected, said) = clients.python.status(3 * written);
    assert!(!is_protected && said.contains("no contact"), "an appliance that stands still: {said}");
    pair.ithaca.set_halted(false);
    assert_eq!(clients.python.contact(), second_run);
    let deadline = soon();
    while !clients.python.status(3 * written).0 {
        assert!(Instant::now() < deadline, "{}", clients.python.status(3 * written).1);
    }
    clients.python.ask("unwatch", "unwatched");
    stream.abort();

    for _ in 0..ROUNDS {
        direct = clients.round(&sink, direct);
    }
    let Clients { mut python, mut findings, .. } = clients;
    let dropped: u64 = python.ask("dropped", "dropped").split(' ').next().unwrap().parse().unwrap();
    assert!(dropped > 0, "the control: forged and replayed datagrams reached it");
    let exit = python.process.terminate().unwrap_or_else(|error| panic!("{error}\n{}", python.process.output()));
    println!("{exit}; {} bytes believed at the cuts; {:?}", findings.believed_at_cuts, relay.counters()[1]);
    findings.delays.sort();
    let (median, p99) = (findings.delays[findings.delays.len() / 2], findings.delays[findings.delays.len() * 99 / 100]);
    println!("{} reports, behind the direct client: median {median:?}, p99 {p99:?}", findings.delays.len());
    assert!(median <= LATE, "half of the reports come more than {median:?} late");
    let FaultCounters { lost, duplicated, held, replayed, replayed_of_earlier_run, .. } = relay.counters()[1];
    let FaultCounters { flipped, truncated, garbage, wrong_key, spliced, .. } = relay.counters()[1];
    let faults = [lost, duplicated, held, replayed, replayed_of_earlier_run];
    let forged = [flipped, truncated, garbage, wrong_key, spliced];
    assert!(
        faults.iter().chain(&forged).all(|count| *count > 0),
        "the control: every fault happened: {faults:?} {forged:?}"
    );
}

#[test]
fn the_python_command_waits_as_the_program_does() {
    need_programs(&["python3"]).unwrap_or_else(|error| panic!("{error}"));
    let testbed = Testbed::emulated("delay 20ms");
    let (pair, secret) = notifying_pair(&testbed, &[]);
    let mut direct = client(&testbed, &secret);
    wait_link(&mut direct, LinkState::Up);
    let mut stream = connection(&testbed);
    stream.write_all(&[7; 5000]).unwrap();
    protected(&mut direct, &stream);
    let run = |words: &str| {
        let (path, key) = (format!("PYTHONPATH={CLIENT} PYTHONDONTWRITEBYTECODE=1"), key_file(&testbed));
        let line = format!("{path} python3 -m onwire_notify {words} --notify {PORT} --key {key} 2>&1; echo code $?");
        testbed.run("primary", &["sh", "-c", &line]).unwrap()
    };
    let ends = format!("--source {} --destination {}", stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    let said = run("wait");
    assert!(said.starts_with("protected: ") && said.ends_with("code 0\n"), "{said}");
    let said = run(&format!("wait {ends} --bytes 5000"));
    assert!(said.starts_with("protected: ") && said.ends_with("code 0\n"), "{said}");
    let said = run(&format!("wait {ends} --bytes 5001 --timeout 0.5"));
    assert_eq!(said.trim(), "not protected: 5000 of 5001 bytes\ncode 1");
    let said = run("watch --json --for 1");
    for expected in ["\"type\": \"contact\"", "\"name\": \"syracuse\"", "\"acked\": 5000", "code 0"] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    drop(pair);
    let said = run("wait --timeout 0.5");
    assert!(said.starts_with("not protected: ") && said.ends_with("code 3\n"), "{said}");
}
