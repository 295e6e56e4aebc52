//! E7: is "protected" true? The uplink is slow and its queue long, so that datagrams wait in the appliance's host. The
//! link is cut the moment a program receives the notification that its bytes are protected; the datagrams in the queue
//! are lost.
//!
//! The control is the same at level `queued`, which only needs the kernel to accept the datagrams. The cut is at the
//! entrance of the WAN: datagrams that had left the host arrive. The appliance is stopped together with its site, so
//! later notifications do not count.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustix::process::Signal;
use serde_json::json;

use super::{
    Stage,
    stage::{WAN_TCP, wait_up},
};
use crate::{
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        process::Process,
        report::Report,
        subscriber,
        times::Times,
        workload::stream::Sink,
    },
    notify::{
        client::{Client, Waited, Wish},
        message::Level,
    },
};

/// 64 KB take 65 ms, and their repair symbols some more: less time than a link stays trusted without a report from the
/// peer.
const QUEUE: [&str; 10] = ["tc", "qdisc", "add", "dev", "wan0", "root", "tbf", "rate", "8mbit", "burst"];
const QUEUE_SIZE: [&str; 3] = ["4kb", "limit", "8mb"];
const TRIALS: u32 = 200;
const BYTES: std::ops::RangeInclusive<u64> = 1..=64 * 1024;
/// How long a program waits for the notification.
const PATIENCE: Duration = Duration::from_secs(5);
/// After the cut, a silence of this length means that nothing more will arrive: it is several times the one-way delay
/// and the peer's hold time.
const QUIET: Duration = Duration::from_millis(400);
/// How long the site is dead: longer than its link stays trusted without a report from the peer (three round trips), so
/// that the appliance does not continue where it stopped, and longer than its queue takes to empty.
const DEATH: Duration = Duration::from_millis(170);

/// The trials at one level.
#[derive(Debug)]
struct Arm {
    level: Level,
    trials: u32,
    /// Trials in which the program was notified that its bytes are protected, by the level of the notification.
    told: [u32; Level::COUNT],
    /// Bytes called protected.
    bytes: u64,
    /// Of these, bytes that did not arrive.
    lost: u64,
    /// Trials in which some bytes did not arrive.
    lossy: u32,
    /// From the write to the notification.
    waits: Times,
}

impl Arm {
    fn new(level: Level, trials: u32) -> Self {
        Self { level, trials, told: [0; Level::COUNT], bytes: 0, lost: 0, lossy: 0, waits: Times::default() }
    }

    fn on_trial(&mut self, level: Level, claimed: u64, arrived: u64, waited: Duration) {
        self.told[level.index()] += 1;
        self.bytes += claimed;
        self.lost += claimed.saturating_sub(arrived);
        self.lossy += u32::from(arrived < claimed);
        self.waits.record(waited);
    }

    fn told(&self) -> u32 {
        self.told.iter().sum()
    }
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let trials = stage.options.trials.unwrap_or(TRIALS);
    // The control has to lose only once, so it gets fewer trials.
    let control = (trials / 4).max(3);
    stage.say(&format!(
        "honest: the uplink of the primary's appliance carries 8 Mbit/s and queues the rest. A program writes up to 64 KB, is\n\
         told \"protected\", and that moment the link is cut; then the program is killed. What does the mirror have?\n\
         {trials} trials at level on_wire, {control} at level queued.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.run("ithaca", &[&QUEUE[..], &QUEUE_SIZE].concat())?;
    // The whole write leaves the primary at once, as on a connection that has been in use, and waits in the queue.
    let route = network.run("primary", &["ip", "-4", "route", "show", "default"])?;
    let words = ["ip", "route", "change"].into_iter().chain(route.split_whitespace()).chain(["initcwnd", "64"]);
    network.run("primary", &words.collect::<Vec<_>>())?;
    let arms = [(Level::OnWire, trials), (Level::Queued, control)];
    let arms = arms.map(|(level, trials)| measure(stage, &network, level, trials));
    let [honest, control] = arms;
    Ok(report(&[honest?, control?]))
}

fn measure(stage: &Stage<'_>, network: &Network<'_>, level: Level, trials: u32) -> Result<Arm, LabError> {
    let options = PairOptions { label: level.name().to_owned(), notify: Some(level.name()), ..PairOptions::default() };
    let mut pair = Pair::start(network, &options)?;
    let publisher = pair.appliances[0].publisher()?.clone();
    let publisher = &publisher;
    let mut client = subscriber::connect(network, "primary", publisher.address, publisher, Wish::default())?;
    client.set_least_level(level);
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let sink = Sink::listen(network, "primary", "mirror", address)?;
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let mut arm = Arm::new(level, trials);
    let mut said = Instant::now();
    for number in 0..trials {
        if said.elapsed() > PATIENCE {
            stage.say(&format!("  {}: {number} of {trials}", level.name()));
            said = Instant::now();
        }
        wait_up(stage, &mut client)?;
        let size = rng.random_range(BYTES);
        // In every other trial the program waits for only a part of what it wrote.
        let claimed = if number % 2 == 0 { size } else { rng.random_range(1..=size) };
        trial(network, &sink, &mut client, (size, claimed), &mut arm, &mut pair.appliances[0].process)?;
        stage.pause(DEATH)?;
        network.tell_wan("open")?;
        pair.appliances[0].process.signal(Signal::CONT);
    }
    pair.stop()?;
    Ok(arm)
}

fn trial(
    network: &Network<'_>,
    sink: &Sink,
    client: &mut Client,
    (size, claimed): (u64, u64),
    arm: &mut Arm,
    appliance: &mut Process,
) -> Result<(), LabError> {
    let mut stream = sink.open(None)?;
    let key = stream.key();
    client.watch(key);
    let begin = Instant::now();
    stream.near.write_all(&vec![7; size as usize]).map_err(LabError::doing("write to the mirror"))?;
    let waited = client.wait(&key, claimed, begin + PATIENCE).map_err(LabError::doing("wait for the notification"))?;
    network.tell_wan("cut")?;
    appliance.signal(Signal::STOP);
    let elapsed = begin.elapsed();
    client.unwatch(&key);
    if let Waited::Protected { level } = waited {
        let arrived = stream.drain(claimed, QUIET);
        arm.on_trial(level, claimed, arrived, elapsed);
    }
    stream.abort();
    Ok(())
}

fn report(arms: &[Arm; 2]) -> Report {
    let mut report = Report::default();
    let [honest, control] = arms;
    let told = |arm: &Arm| format!("{} of {} trials", arm.told(), arm.trials);
    report.claim(
        "at on_wire, no byte that was called protected is lost",
        format!("{} of {} bytes, in {} of {} trials", honest.lost, honest.bytes, honest.lossy, honest.trials),
        honest.lost == 0 && honest.bytes > 0,
    );
    // A notification after an acknowledgement would prove nothing about the queue.
    let by_departure = honest.told[Level::OnWire.index()];
    report.claim(
        "at on_wire, programs are told, and mostly before anything came back",
        format!("{}, {by_departure} of them before", told(honest)),
        honest.told() == honest.trials && 2 * by_departure >= honest.trials,
    );
    report.claim(
        "control: at queued, bytes that were called protected are lost",
        format!("{} of {} bytes, in {} of {} trials", control.lost, control.bytes, control.lossy, control.trials),
        control.lost > 0,
    );
    report.table(
        &[
            "level",
            "trials",
            "told",
            "first at queued, on_wire, decoded, acked",
            "bytes called protected",
            "lost",
            "wait p50, p99",
        ],
        arms.iter().map(|arm| {
            let ms = |share| arm.waits.quantile(share).as_secs_f64() * 1e3;
            vec![
                arm.level.name().to_owned(),
                arm.trials.to_string(),
                arm.told().to_string(),
                arm.told.map(|count| count.to_string()).join(", "),
                arm.bytes.to_string(),
                arm.lost.to_string(),
                format!("{:.0}, {:.0} ms", ms(0.5), ms(0.99)),
            ]
        }),
    );
    for arm in arms {
        report.metric(
            arm.level.name(),
            json!({
                "trials": arm.trials,
                "told": arm.told(),
                "told_at": Level::ALL.map(|level| (level.name(), arm.told[level.index()]))
                    .into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                "bytes_protected": arm.bytes,
                "bytes_lost": arm.lost,
                "trials_with_loss": arm.lossy,
                "wait_p50_us": arm.waits.micros(0.5),
                "wait_p99_us": arm.waits.micros(0.99),
            }),
        );
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(level: Level, arrived: u64) -> Arm {
        let mut arm = Arm::new(level, 1);
        arm.on_trial(level, 1000, arrived, Duration::from_millis(3));
        arm
    }

    #[test]
    fn one_lost_byte_and_a_control_without_loss_fail() {
        let [honest, queued] = [Level::OnWire, Level::Queued];
        assert!(report(&[arm(honest, 5000), arm(queued, 0)]).passes());
        assert!(!report(&[arm(honest, 999), arm(queued, 0)]).passes());
        assert!(!report(&[arm(honest, 1000), arm(queued, 1000)]).passes());
        assert!(!report(&[Arm::new(honest, 1), arm(queued, 0)]).passes(), "nobody was told anything");
        let acknowledged = Arm { level: honest, ..arm(Level::Acked, 5000) };
        assert!(!report(&[acknowledged, arm(queued, 0)]).passes(), "the mirror's own word is no test");
    }
}
