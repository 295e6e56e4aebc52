//! Congestion is not loss: flows that are repaired share a full bottleneck with a flow that is not. What is its share, and how
//! long do its packets wait? And what does the appliance itself add to a ping beside a bulk transfer?
//!
//! The carried flows go through the appliances; the plain flow has other addresses, for which no tunnel is configured, and goes
//! through the same emulator. [`added_delay`] is the second part.

mod added_delay;

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    Stage,
    stage::{WAN_TCP, ends, plain_route},
};
use crate::lab::{
    error::LabError,
    load::Load,
    median::median,
    network::Network,
    pair::{Pair, PairOptions},
    plot::{Plot, PlotLine, Scale},
    report::Report,
    times::Times,
    wan::counters::Counters,
    workload::{
        iperf::{Bulk, BulkPlan},
        ping::Ping,
    },
};

const SECONDS: u64 = 15;
/// Three flows share a queue by chance; the median of so many rounds counts.
const ROUNDS: usize = 3;
/// The bottleneck, with a queue of 20 ms.
const RATE_MBIT: u64 = 200;
const QUEUE_BYTES: u64 = 500_000;
const ONE_WAY_MS: u64 = 10;
const CARRIED_FLOWS: u32 = 2;
/// The plain flow's share with repair, at the least of its share when the tunnel repairs nothing.
const SHARE_KEPT: f64 = 0.9;
/// How much longer its packets may wait, at the median, than when the tunnel repairs nothing.
const MORE_DELAY: Duration = Duration::from_millis(5);
/// The bottleneck must be full in every arm, or nothing was shared.
const USED: f64 = 0.8;

/// The plain flow's own networks: the node, its device, the address there, the far network and the way to it.
const PLAIN: [(&str, &[&str]); 8] = [
    ("primary", &["addr", "add", "10.11.0.1/24", "dev", "site0"]),
    ("ithaca", &["addr", "add", "10.11.0.254/24", "dev", "site0"]),
    ("mirror", &["addr", "add", "10.12.0.1/24", "dev", "site0"]),
    ("syracuse", &["addr", "add", "10.12.0.254/24", "dev", "site0"]),
    ("primary", &["route", "add", "10.12.0.0/24", "via", "10.11.0.254", "src", "10.11.0.1", "congctl", "cubic"]),
    ("mirror", &["route", "add", "10.11.0.0/24", "via", "10.12.0.254", "src", "10.12.0.1", "congctl", "cubic"]),
    ("ithaca", &["route", "add", "10.12.0.0/24", "dev", "wan0"]),
    ("syracuse", &["route", "add", "10.11.0.0/24", "dev", "wan0"]),
];
const PLAIN_MIRROR: &str = "10.12.0.1";

/// How the carried flows travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    NoTunnel,
    NoRepair,
    Repair,
}

impl Arm {
    const ALL: [Self; 3] = [Self::NoTunnel, Self::NoRepair, Self::Repair];

    fn name(self) -> &'static str {
        match self {
            Self::NoTunnel => "without tunnel",
            Self::NoRepair => "repair: none",
            Self::Repair => "repaired",
        }
    }

    fn repair(self) -> Option<&'static str> {
        match self {
            Self::NoTunnel => None,
            Self::NoRepair => Some("none"),
            Self::Repair => Some("{ residual: 1e-6, max_overhead: 50%, min: 4 }"),
        }
    }
}

struct Row {
    arm: Arm,
    carried: Bulk,
    plain: Bulk,
    pings: Times,
    truth: Counters,
}

impl Row {
    fn share(&self) -> f64 {
        self.plain.bits_per_second / (self.plain.bits_per_second + self.carried.bits_per_second).max(1.0)
    }

    /// The share of the bottleneck that was used, repair included.
    fn used(&self, seconds: u64) -> f64 {
        self.truth.delivered_bytes as f64 * 8.0 / (seconds as f64 * RATE_MBIT as f64 * 1e6)
    }
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(SECONDS).max(2);
    stage.say(&format!(
        "congestion: {CARRIED_FLOWS} TCP flows through the appliances and one beside them share {RATE_MBIT} Mbit/s with a queue of\n\
         20 ms, {seconds} s each, {ROUNDS} rounds: without a tunnel, through one that repairs nothing, and repaired. All cubic. Then a ping beside a\n\
         bulk transfer at `path.rate`.\n"
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    for (node, words) in PLAIN {
        network.run(node, &[&["ip"], words].concat())?;
    }
    network.tell_wan(&format!("set delay {ONE_WAY_MS}ms, rate {RATE_MBIT}mbit, queue {QUEUE_BYTES}B"))?;
    let mut rows = Vec::new();
    for (number, arm) in std::iter::repeat_n(Arm::ALL, ROUNDS).flatten().enumerate() {
        let pair = match arm.repair() {
            Some(repair) => {
                let label = format!("congestion-{number}");
                Some(Pair::start(
                    &network,
                    &PairOptions { label, repair: repair.to_owned(), ..PairOptions::default() },
                )?)
            }
            None => {
                plain_route(&network, "add")?;
                None
            }
        };
        let row = measure(stage, &network, (number, arm), seconds)?;
        stage.say(&format!(
            "  {}: carried {:.0} Mbit/s, plain {:.0} Mbit/s, its ping {:?}",
            arm.name(),
            row.carried.bits_per_second / 1e6,
            row.plain.bits_per_second / 1e6,
            row.pings.quantile(0.5)
        ));
        rows.push(row);
        match pair {
            Some(pair) => drop(pair.stop()?),
            None => plain_route(&network, "del")?,
        }
    }
    network.tell_wan("set rate unlimited, queue 1MB")?;
    let added = added_delay::measure(stage, &network, seconds)?;
    let mut report = report(&rows, seconds, stage.options.slack);
    added_delay::claim(&mut report, &added, stage.options.slack);
    report.metric("load", load.to_json());
    Ok(report)
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    (number, arm): (usize, Arm),
    seconds: u64,
) -> Result<Row, LabError> {
    let wan = network.wan().ok_or_else(|| LabError::Sentence("this scenario needs an emulator".to_owned()))?;
    let truth = || wan.truth().map_err(LabError::doing("read the emulator's counters"));
    let label = format!("{}-{number}", arm.name().replace([' ', ':'], "-"));
    let plan = |name, address, flows| BulkPlan { flows, ..BulkPlan::to_mirror(name, address, seconds) };
    let [carried, plain] = [format!("{label}-carried"), format!("{label}-plain")];
    let plain_address = PLAIN_MIRROR.parse().map_err(|_| LabError::Sentence("no address".to_owned()))?;
    let before = truth()?;
    let bulk = plan(&carried, ends(network)?[1], CARRIED_FLOWS).start(network)?;
    let beside = plan(&plain, plain_address, 1).start(network)?;
    let ping = Ping::start(network, &format!("{label}-ping"), "primary", PLAIN_MIRROR, seconds)?;
    let (carried, plain) = (bulk.finish()?, beside.finish()?);
    let pings = ping.finish()?;
    let truth = truth()?.since(&before).forth;
    // The queue of one arm must not be the beginning of the next.
    stage.pause(Duration::from_millis(500))?;
    Ok(Row { arm, carried, plain, pings, truth })
}

fn report(rows: &[Row], seconds: u64, slack: f64) -> Report {
    let mut report = Report::default();
    let of = |arm| rows.iter().filter(move |row| row.arm == arm);
    if of(Arm::NoRepair).next().is_some() && of(Arm::Repair).next().is_some() {
        let [none, repaired] = [Arm::NoRepair, Arm::Repair].map(|arm| median(of(arm).map(Row::share).collect()));
        let kept = repaired / none.max(1e-9);
        report.claim(
            format!("beside repaired flows the plain flow has {SHARE_KEPT} of the share it has beside `repair: none`"),
            format!("{kept:.2}: {repaired:.3} of {none:.3}, medians"),
            kept * slack >= SHARE_KEPT,
        );
        let wait = |row: &Row| row.pings.quantile(0.5).as_secs_f64();
        let [before, after] =
            [Arm::NoRepair, Arm::Repair].map(|arm| Duration::from_secs_f64(median(of(arm).map(wait).collect())));
        report.claim(
            format!("and its packets wait at most {:?} longer, at the median", MORE_DELAY.mul_f64(slack)),
            format!("{after:?}, {before:?} without repair"),
            after <= before + MORE_DELAY.mul_f64(slack) && of(Arm::Repair).all(|row| row.pings.count() > 0),
        );
    }
    let used = rows.iter().map(|row| row.used(seconds)).fold(f64::INFINITY, f64::min);
    let full = rows.iter().all(|row| row.truth.lost.queue > 0);
    report.claim(
        format!("control: the bottleneck is full in every arm: its queue drops, {USED} of it is used"),
        format!("{used:.2}, {} packets dropped", rows.iter().map(|row| row.truth.lost.queue).sum::<u64>()),
        rows.len() >= Arm::ALL.len() && full && used * slack >= USED,
    );
    report.table(
        &["carried flows", "carried", "plain flow", "its share", "its ping p50, p99", "dropped by the queue"],
        rows.iter().map(|row| {
            let ms = |share| row.pings.quantile(share).as_secs_f64() * 1e3;
            vec![
                row.arm.name().to_owned(),
                format!("{:.1} Mbit/s", row.carried.bits_per_second / 1e6),
                format!("{:.1} Mbit/s", row.plain.bits_per_second / 1e6),
                format!("{:.3}", row.share()),
                format!("{:.1}, {:.1} ms", ms(0.5), ms(0.99)),
                format!("{:.2} %", row.truth.lost.queue as f64 / row.truth.entered.max(1) as f64 * 100.0),
            ]
        }),
    );
    let arms = rows.iter().map(|row| {
        json!({
            "arm": row.arm.name(),
            "carried_mbit": row.carried.bits_per_second / 1e6,
            "plain_mbit": row.plain.bits_per_second / 1e6,
            "plain_share": row.share(),
            "ping_p50_us": row.pings.micros(0.5),
            "ping_p99_us": row.pings.micros(0.99),
            "queue_drops": row.truth.lost.queue,
            "datagrams": row.truth.entered,
        })
    });
    report.metric("arms", arms.collect::<Vec<Value>>());
    let line = |name: &str, y: &dyn Fn(&Row) -> f64| PlotLine {
        name: name.to_owned(),
        is_dashed: false,
        points: rows.iter().enumerate().map(|(at, row)| (at as f64, y(row))).collect(),
    };
    report.draw(Plot {
        title: "Three flows through one bottleneck".to_owned(),
        across: "0: without tunnel, 1: repair none, 2: repaired, and again".to_owned(),
        upwards: "Mbit/s, ms".to_owned(),
        scale: Scale::Logarithmic,
        lines: vec![
            line("carried, Mbit/s", &|row| row.carried.bits_per_second / 1e6),
            line("plain, Mbit/s", &|row| row.plain.bits_per_second / 1e6),
            line("ping, ms", &|row| row.pings.quantile(0.5).as_secs_f64() * 1e3),
        ],
    });
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::wan::counters::Lost;

    fn row(arm: Arm, plain: f64, ping_ms: u64) -> Row {
        let bulk = |mbit: f64| Bulk { bits_per_second: mbit * 1e6, ..Bulk::default() };
        let mut pings = Times::default();
        pings.record(Duration::from_millis(ping_ms));
        let lost = Lost { queue: 9, ..Lost::default() };
        let truth = Counters { delivered_bytes: 230_000_000, entered: 200_000, lost, ..Counters::default() };
        Row { arm, carried: bulk(190.0 - plain), plain: bulk(plain), pings, truth }
    }

    #[test]
    fn a_starved_flow_a_longer_queue_and_an_empty_bottleneck_fail() {
        let passes = |plain: f64, ping: u64, change: fn(&mut Row)| {
            let mut rows = [row(Arm::NoTunnel, 63.0, 35), row(Arm::NoRepair, 60.0, 35), row(Arm::Repair, plain, ping)];
            change(&mut rows[1]);
            report(&rows, 10, 1.0).passes()
        };
        assert!(passes(64.0, 37, |_| ()));
        assert!(!passes(30.0, 37, |_| ()));
        assert!(!passes(64.0, 42, |_| ()));
        assert!(!passes(64.0, 37, |row| row.truth.lost.queue = 0));
        assert!(!passes(64.0, 37, |row| row.truth.delivered_bytes /= 2));
        assert!(!report(&[], 10, 1.0).passes());
    }
}
