//! E6: the time from a write until a subscriber receives the notification that it is protected.
//!
//! One clock: the lab's own threads write at the primary and subscribe at the appliance. The time from `write()`
//! includes the packet's way to the appliance. A third series measures
//! that way alone: the same writes to a program that blocks in `read` on the appliance's host. Its median is subtracted
//! to get the median from the appliance's own `read`. Each site has its own processors.

use std::{
    collections::VecDeque,
    io::{self, Write},
    net::{IpAddr, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use super::Stage;
use crate::{
    lab::{
        error::LabError,
        load::Load,
        network::Network,
        pair::{Pair, PairOptions},
        plot::{Plot, PlotLine, Scale},
        report::Report,
        subscriber::Subscriber,
        times::Times,
        workload::{
            iperf::{Bulk, BulkPlan},
            stream::Sink,
        },
    },
    notify::message::Message,
};

const WRITE: [u8; 200] = [7; 200];
/// Minimum and maximum time between writes: by then the previous block is closed.
const GAP: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_millis(8);
const WRITES: u32 = 3000;
/// The default settings of this scenario's appliances: a block waits this long for more where writes do not come alone ...
const CLOSE_WHEN_IDLE: Duration = Duration::from_micros(50);
/// ... and a block stays open no longer than this.
const CLOSE_AFTER: Duration = Duration::from_micros(500);
/// Allowance for everything else, for the median and for the 99th percentile.
const MEDIAN_ALLOWANCE: Duration = Duration::from_micros(100);
const TAIL: Duration = Duration::from_millis(1);
/// The bulk flow that loads the appliance: a third to a half of the whole lab's capacity on two processors.
const LOAD: &str = "500M";
/// Upper bounds of the histogram's bars, in microseconds.
const BARS: [u64; 11] = [100, 150, 200, 300, 500, 700, 1000, 1500, 2000, 5000, 20_000];

/// Writes that are not protected yet, and the times of those that are.
#[derive(Debug, Default)]
struct Watch {
    pending: VecDeque<(u64, Instant)>,
    times: Times,
    /// Writes that the mirror had already acknowledged when their protection was reported.
    late: u64,
}

impl Watch {
    fn on_position(&mut self, on_wire: u64, acked: u64, now: Instant) {
        while let Some((offset, written)) = self.pending.front().copied().filter(|(offset, _)| *offset <= on_wire) {
            self.pending.pop_front();
            self.times.record(now.saturating_duration_since(written));
            self.late += u64::from(acked >= offset);
        }
    }
}

struct Arm {
    name: &'static str,
    watch: Watch,
    bulk: Option<Bulk>,
}

impl Arm {
    fn is_complete(&self) -> bool {
        self.watch.pending.is_empty() && self.watch.times.count() > 0
    }

    fn to_json(&self) -> Value {
        let bars = self
            .watch
            .times
            .spans(&BARS)
            .into_iter()
            .map(|(up_to, count)| json!({ "up_to_us": up_to, "writes": count }));
        json!({
            "writes": self.watch.times.count(),
            "untold": self.watch.pending.len(),
            "told_after_acked": self.watch.late,
            "p50_us": self.watch.times.micros(0.5),
            "p99_us": self.watch.times.micros(0.99),
            "p999_us": self.watch.times.micros(0.999),
            "max_us": self.watch.times.micros(1.0),
            "bulk_gbit": self.bulk.map(|bulk| bulk.bits_per_second / 1e9),
            "histogram": bars.collect::<Vec<_>>(),
        })
    }
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let writes = stage.options.trials.unwrap_or(WRITES);
    stage.say(&format!(
        "latency: {writes} lone writes of 200 bytes over TCP, 5 to 8 ms apart, from primary to mirror; a subscriber in the\n\
         appliance's namespace blocks in recv until it is told. First alone, then beside a bulk flow of {LOAD}bit/s.\n\
         From just before write() to just after the subscriber has the message, in one clock. Before that the same writes\n\
         to a program that waits at the appliance: the way to it.\n"
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let mut network = stage.build()?;
    stage.part_sites(&mut network)?;
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let way = measure_way(stage, &network, &pair, writes)?;
    let idle = measure(stage, &network, &pair, address, (writes, None))?;
    let loaded = measure(stage, &network, &pair, address, (writes, Some(LOAD)))?;
    pair.stop()?;
    let arms = [Arm { name: "idle", ..idle }, Arm { name: "loaded", ..loaded }];
    for arm in &arms {
        stage.say(&draw(arm));
    }
    let mut report = report(&arms, &way, stage.options.slack);
    report.metric("load", load.to_json());
    Ok(report)
}

/// Measures how long the same writes take to a program on the appliance's host.
fn measure_way(stage: &Stage<'_>, network: &Network<'_>, pair: &Pair<'_>, writes: u32) -> Result<Times, LabError> {
    let near = &pair.appliances[0];
    let sink = Sink::listen(network, "primary", near.node(), near.publisher()?.address.ip())?;
    let watch = Arc::new(Mutex::new(Watch::default()));
    let looking = watch.clone();
    let stream = sink.open_watched(None, move |bytes, now| lock(&looking).on_position(bytes, 0, now))?;
    let socket = stream.near.try_clone().map_err(LabError::doing("share a socket"))?;
    let (writing, seed) = (watch.clone(), stage.options.seed);
    let writer = thread::spawn(move || write(socket, &writing, writes, seed));
    while !writer.is_finished() {
        stage.pause(Duration::from_millis(50))?;
    }
    let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    written.map_err(LabError::doing("write to the appliance's host"))?;
    stream.drain(u64::from(writes) * WRITE.len() as u64, Duration::from_secs(1));
    stream.abort();
    let watch = std::mem::take(&mut *lock(&watch));
    Ok(watch.times)
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    address: IpAddr,
    (writes, rate): (u32, Option<&'static str>),
) -> Result<Arm, LabError> {
    let near = &pair.appliances[0];
    let stream = Sink::listen(network, "primary", "mirror", address)?.open(None)?;
    let key = stream.key();
    let watch = Arc::new(Mutex::new(Watch::default()));
    let looking = watch.clone();
    let subscriber = Subscriber::start(network, near.node(), near.publisher()?, move |message, now| {
        if let Message::Flow(flow) = message
            && flow.key == key
        {
            let positions = flow.positions;
            lock(&looking).on_position(positions.on_wire.unwrap_or(0), positions.acked.unwrap_or(0), now);
        }
    })?;
    let socket = stream.near.try_clone().map_err(LabError::doing("share a socket"))?;
    let (writing, seed) = (watch.clone(), stage.options.seed);
    let begin = Instant::now();
    let writer = thread::spawn(move || write(socket, &writing, writes, seed));
    let seconds = (GAP.end * writes).as_secs() + 1;
    let plan = rate.map(|rate| BulkPlan { rate: Some(rate), ..BulkPlan::to_mirror("load", address, seconds) });
    let bulk = plan.map(|plan| plan.run(network)).transpose()?;
    while !writer.is_finished() {
        if begin.elapsed() > Duration::from_secs(2 * seconds + 30) {
            return Err(LabError::Sentence("the writes take too long: nothing goes through".to_owned()));
        }
        stage.pause(Duration::from_millis(50))?;
    }
    let written = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    written.map_err(LabError::doing("write to the mirror"))?;
    stage.pause(Duration::from_millis(300))?;
    subscriber.finish()?;
    stream.abort();
    let watch = std::mem::take(&mut *lock(&watch));
    Ok(Arm { name: "", watch, bulk })
}

fn write(mut socket: TcpStream, watch: &Mutex<Watch>, writes: u32, seed: u64) -> io::Result<()> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut offset = 0;
    for _ in 0..writes {
        thread::sleep(rng.random_range(GAP));
        offset += WRITE.len() as u64;
        lock(watch).pending.push_back((offset, Instant::now()));
        socket.write_all(&WRITE)?;
    }
    Ok(())
}

fn lock(watch: &Mutex<Watch>) -> MutexGuard<'_, Watch> {
    watch.lock().unwrap_or_else(PoisonError::into_inner)
}

fn draw(arm: &Arm) -> String {
    let mut text = format!("  {}, write to \"protected\":\n", arm.name);
    let spans = arm.watch.times.spans(&BARS);
    let most = spans.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    for (end, count) in spans {
        let end = end.map_or("    longer".to_owned(), |end| format!("< {end:>5} us"));
        let bar = "#".repeat((count * 50).div_ceil(most) as usize);
        text += &format!("  {end} {count:>6} {bar}\n");
    }
    text
}

/// The share of writes that were protected within a time.
fn plot(arms: &[Arm; 2]) -> Plot {
    let line = |arm: &Arm| PlotLine {
        name: arm.name.to_owned(),
        is_dashed: false,
        points: (0..=200)
            .map(|step| f64::from(step) / 200.0)
            .map(|share| (arm.watch.times.micros(share * 0.995) as f64, 100.0 * share * 0.995))
            .collect(),
    };
    Plot {
        title: "From write to \"protected\" (without the slowest 0.5 %)".to_owned(),
        across: "microseconds".to_owned(),
        upwards: "% of writes within that time".to_owned(),
        scale: Scale::Linear,
        lines: arms.iter().map(line).collect(),
    }
}

fn report(arms: &[Arm; 2], way: &Times, slack: f64) -> Report {
    let mut report = Report::default();
    let [idle, loaded] = arms;
    for arm in arms {
        let (told, untold) = (arm.watch.times.count(), arm.watch.pending.len());
        let found = format!("{told}, and {untold} are not");
        report.claim(format!("{}: every write is told to be protected", arm.name), found, arm.is_complete());
    }
    let (whole, before) = (idle.watch.times.quantile(0.5), way.quantile(0.5));
    // Writes that come alone do not wait for more (`tunnel::lone_packets`).
    let (found, limit) = (whole.saturating_sub(before), MEDIAN_ALLOWANCE.mul_f64(slack));
    report.claim(
        format!("idle: p50 from the appliance's read is at most {limit:?}"),
        format!("{found:?} ({whole:?} less {before:?})"),
        found <= limit && idle.is_complete() && way.count() > 0,
    );
    let limits = [(idle, "p99", 0.99, TAIL), (loaded, "p99", 0.99, CLOSE_AFTER + TAIL)];
    for (arm, name, quantile, limit) in limits {
        let (found, limit) = (arm.watch.times.quantile(quantile), limit.mul_f64(slack));
        let claim = format!("{}: {name} is at most {limit:?}", arm.name);
        report.claim(claim, format!("{found:?}"), found <= limit && arm.is_complete());
    }
    report.table(
        &["write to \"protected\"", "writes", "p50", "p99", "p99.9", "longest", "p50 from its read", "bulk flow"],
        arms.iter().map(|arm| {
            let us = |share| format!("{} us", arm.watch.times.quantile(share).as_micros());
            let own = arm.watch.times.quantile(0.5).saturating_sub(way.quantile(0.5)).as_micros();
            let bulk = arm.bulk.map_or("none".to_owned(), |bulk| format!("{:.2} Gbit/s", bulk.bits_per_second / 1e9));
            let writes = arm.watch.times.count().to_string();
            vec![arm.name.to_owned(), writes, us(0.5), us(0.99), us(0.999), us(1.0), format!("{own} us"), bulk]
        }),
    );
    for arm in arms {
        report.metric(arm.name, arm.to_json());
    }
    report.draw(plot(arms));
    report.metric("way_p50_us", way.micros(0.5));
    report.metric("close_when_idle_us", CLOSE_WHEN_IDLE.as_micros() as u64);
    report.metric("close_after_us", CLOSE_AFTER.as_micros() as u64);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arm(name: &'static str, micros: &[u64]) -> Arm {
        let mut watch = Watch::default();
        let start = Instant::now();
        for (number, _) in (1..).zip(micros) {
            watch.pending.push_back((200 * number, start));
        }
        for (number, micros) in (1..).zip(micros) {
            watch.on_position(200 * number, 0, start + Duration::from_micros(*micros));
        }
        Arm { name, watch, bulk: None }
    }

    #[test]
    fn a_latency_above_the_limit_and_an_unreported_write_fail() {
        let way = arm("", &[20]).watch.times;
        let passes = |idle, loaded| report(&[arm("idle", idle), arm("loaded", loaded)], &way, 1.0).passes();
        assert!(passes(&[100, 115, 900], &[100, 1400]));
        assert!(!passes(&[125, 125, 125], &[100]));
        assert!(!passes(&[100, 100, 1100], &[100]));
        assert!(!passes(&[100], &[1600]));
        let mut untold = arm("loaded", &[100]);
        untold.watch.pending.push_back((1000, Instant::now()));
        assert!(!report(&[arm("idle", &[100]), untold], &way, 1.0).passes());
        let unmeasured = report(&[arm("idle", &[100]), arm("loaded", &[100])], &Times::default(), 1.0);
        assert!(!unmeasured.passes());
    }

    #[test]
    fn one_position_covers_all_earlier_writes() {
        let mut watch = Watch::default();
        let start = Instant::now();
        watch.pending.extend([(200, start), (400, start), (600, start)]);
        watch.on_position(199, 0, start);
        assert_eq!(watch.times.count(), 0);
        watch.on_position(400, 200, start + Duration::from_micros(99));
        assert_eq!((watch.times.count(), watch.pending.len(), watch.late), (2, 1, 1));
        watch.on_position(600, 0, start + Duration::from_millis(30));
        let arm = Arm { name: "idle", watch, bulk: None };
        assert!(draw(&arm).contains("<   100 us      2 ####"));
    }
}
