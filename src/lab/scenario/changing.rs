//! A link that changes: clean, single losses, clean again. Does the repair follow, how much does it cost where there is
//! nothing to repair, and how often does the plan change? And interruptions, which no repair that leaves at once survives.
//!
//! The rate is far below that of the path, so nothing here is congestion. The control has the floor of the plan at all times: if
//! it loses nothing either, the losses prove nothing.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    Stage,
    stage::{WAN_TCP, ends},
};
use crate::lab::{
    error::LabError,
    network::Network,
    pair::{Pair, PairOptions},
    plot::{Plot, PlotLine, Scale},
    report::Report,
    status::{Received, Sent, Status, share},
    workload::iperf::BulkPlan,
};

/// Of each regime.
const SECONDS: u64 = 100;
/// How much of a regime is given to the plan before anything counts. Repair grows at once and shrinks after a minute.
const SETTLING_UP: f64 = 0.1;
const SETTLING_DOWN: f64 = 0.75;
const RATE: &str = "100M";
/// Ten segments, so that the stream is even within milliseconds: an interruption cannot take a block as a whole.
const WRITE: &str = "14480";
const BLOCK_SYMBOLS: u32 = 512;
const BLOCK_TIME: &str = "close_after: 100ms";
/// What repair may cost on a clean link, of the source symbols; or what the floor costs and this much more.
const CLEAN_OVERHEAD: f64 = 0.05;
const ABOVE_FLOOR: f64 = 0.01;
/// The flow has left the slow start when it has sent so many bytes.
const FLOWING: u64 = 10_000_000;
/// How long that may take.
const FLOWS_WITHIN: Duration = Duration::from_secs(20);
/// Blocks that may be lost in interruptions after the settling time, of those that the floor loses.
const BURST_SHARE: f64 = 0.1;
const CHANGES_A_MINUTE: f64 = 6.0;
const SAMPLE: Duration = Duration::from_millis(500);

/// A way to repair, and the regimes that it is measured in.
struct Arm {
    name: &'static str,
    repair: &'static str,
    regimes: std::ops::Range<usize>,
}

/// The plan; its floor alone; and a plan for interruptions, which no repair that leaves at once survives.
const ARMS: [Arm; 3] = [
    Arm { name: "planned", repair: "{ residual: 1e-6, max_overhead: 5%, min: 2 }", regimes: 0..4 },
    Arm { name: "floor", repair: "{ fixed: 2 }", regimes: 0..5 },
    Arm {
        name: "survive_burst",
        repair: "{ survive_burst: 4ms, max_overhead: 100%, min: 2 }",
        regimes: INTERRUPTED..INTERRUPTED + 1,
    },
];

struct Regime {
    name: &'static str,
    loss: &'static str,
    settling: f64,
}

const REGIMES: [Regime; 5] = [
    Regime { name: "clean", loss: "0%", settling: SETTLING_DOWN },
    Regime { name: "single losses, 0.1 %", loss: "0.1%", settling: SETTLING_UP },
    Regime { name: "single losses, 1 %", loss: "1%", settling: SETTLING_UP },
    Regime { name: "clean again", loss: "0%", settling: SETTLING_DOWN },
    Regime { name: "interruptions of 3 ms", loss: "0%", settling: SETTLING_UP },
];
/// From here on the floor is not enough, but on a clean link.
const LOSSY: usize = 2;
/// This regime has an interruption in each sample, beside its losses.
const INTERRUPTED: usize = 4;
const INTERRUPTION: &str = "interrupt forth 3ms";

/// One regime with one arm, after the settling time.
struct Row {
    arm: &'static str,
    regime: usize,
    received: Received,
    overhead: f64,
    /// Changes of the plan in the whole regime, where the appliance counts them.
    changes: u64,
    /// Repair symbols for each source symbol, over the time since the beginning.
    samples: Vec<(f64, f64)>,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(SECONDS).max(4);
    let names = REGIMES.iter().map(|regime| regime.name).collect::<Vec<_>>().join("; ");
    stage.say(&format!(
        "changing: a TCP flow of {RATE}bit/s while the link changes: {names}; {seconds} s each. First with a plan for the measured\n\
         link, then with its floor alone, at last, with interruptions, with late repair.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    let mut rows = Vec::new();
    for Arm { name: arm, repair, regimes } in ARMS {
        network.tell_wan("set loss 0%")?;
        let options = PairOptions {
            label: arm.replace('_', "-"),
            repair: repair.to_owned(),
            profile: BLOCK_TIME.to_owned(),
            block_symbols: BLOCK_SYMBOLS,
            ..PairOptions::default()
        };
        let pair = Pair::start(&network, &options)?;
        let plan = BulkPlan {
            rate: Some(RATE),
            write: Some(WRITE),
            // It must not end before the last regime does.
            ..BulkPlan::to_mirror(arm, ends(&network)?[1], seconds * regimes.len() as u64 + 30)
        };
        let bulk = plan.start(&network)?;
        wait_until_it_flows(stage, &network, &pair)?;
        let begin = Instant::now();
        for regime in regimes {
            let name = REGIMES[regime].name;
            let row = measure(stage, &network, &pair, (arm, regime), begin, Duration::from_secs(seconds))?;
            stage.say(&format!(
                "  {arm}, {name}: {} of {} blocks lost, {:.1} % repair",
                row.received.unrecoverable_blocks,
                row.received.blocks,
                row.overhead * 100.0
            ));
            rows.push(row);
        }
        drop(bulk);
        pair.stop()?;
    }
    Ok(report(&rows, seconds))
}

/// On a busy machine a transfer begins seconds after its program.
fn wait_until_it_flows(stage: &Stage<'_>, network: &Network<'_>, pair: &Pair<'_>) -> Result<(), LabError> {
    let deadline = Instant::now() + FLOWS_WITHIN.mul_f64(stage.options.slack);
    loop {
        stage.pause(SAMPLE)?;
        if pair.appliances[0].status(network)?.peer().sent.adu_bytes > FLOWING {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LabError::Sentence(format!("the flow has not sent {FLOWING} bytes within {FLOWS_WITHIN:?}")));
        }
    }
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    (arm, regime): (&'static str, usize),
    begin: Instant,
    length: Duration,
) -> Result<Row, LabError> {
    let Regime { loss, settling, .. } = REGIMES[regime];
    // A recorded trace takes the place of the interruptions.
    let is_interrupted = regime == INTERRUPTED && stage.options.loss_trace.is_none();
    let loss = match &stage.options.loss_trace {
        Some(file) if regime == INTERRUPTED => format!("trace {}", file.display()),
        _ => loss.to_owned(),
    };
    network.tell_wan(&format!("set loss {loss}"))?;
    let (start, settled_at) = (Instant::now(), length.mul_f64(settling));
    let mut last = pair.status()?;
    let changes_before = plan_changes(&last[0]);
    let (mut settled, mut samples) = (None, Vec::new());
    while start.elapsed() < length {
        if is_interrupted {
            network.tell_wan(INTERRUPTION)?;
        }
        stage.pause(SAMPLE.min(length.saturating_sub(start.elapsed())))?;
        let now = pair.status()?;
        samples.push((begin.elapsed().as_secs_f64(), overhead(&last[0], &now[0])));
        if settled.is_none() && start.elapsed() >= settled_at {
            settled = Some(now.clone());
        }
        last = now;
    }
    let settled = settled.unwrap_or_else(|| last.clone());
    let changes = plan_changes(&last[0]);
    Ok(Row {
        arm,
        regime,
        received: last[1].peer().received.since(&settled[1].peer().received),
        overhead: overhead(&settled[0], &last[0]),
        changes: changes.saturating_sub(changes_before),
        samples,
    })
}

/// Repair symbols for each source symbol between two statuses.
fn overhead(before: &Status, after: &Status) -> f64 {
    let (before, after): (Sent, Sent) = (before.peer().sent, after.peer().sent);
    let repair = after.repair_symbols.saturating_sub(before.repair_symbols);
    share(repair, after.source_symbols.saturating_sub(before.source_symbols))
}

/// How often plans have changed, on all lanes.
fn plan_changes(status: &Status) -> u64 {
    status.peer().plans.iter().map(|plan| plan.changes).sum()
}

fn report(rows: &[Row], seconds: u64) -> Report {
    let mut report = Report::default();
    let of = |arm: &str, regime: usize| rows.iter().find(|row| row.arm == arm && row.regime == regime);
    for (regime, Regime { name, .. }) in REGIMES.iter().enumerate() {
        let arm = if regime == INTERRUPTED { &ARMS[2] } else { &ARMS[0] };
        let (Some(planned), Some(floor)) = (of(arm.name, regime), of(ARMS[1].name, regime)) else {
            report.claim(format!("{name}: measured with both"), "no", false);
            continue;
        };
        let [lost, floor_lost] = [planned, floor].map(|row| row.received.unrecoverable_blocks);
        let found = format!("{lost} of {} blocks; with the floor {floor_lost}", planned.received.blocks);
        let has_blocks = planned.received.blocks > 0;
        if regime == INTERRUPTED {
            let claim = format!(
                "{name}, {}: after the settling time at most {BURST_SHARE} of the blocks that the floor loses",
                arm.name
            );
            report.claim(claim, found.clone(), has_blocks && lost as f64 <= BURST_SHARE * floor_lost as f64);
        } else {
            report.claim(
                format!("{name}: after the settling time no block is lost"),
                found.clone(),
                has_blocks && lost == 0,
            );
        }
        if regime >= LOSSY && !name.starts_with("clean") {
            report.claim(format!("control: {name}: the floor alone loses some"), found, floor_lost > 0);
        }
        if name.starts_with("clean") {
            let most = CLEAN_OVERHEAD.max(floor.overhead + ABOVE_FLOOR);
            report.claim(
                format!("{name}: after the settling time repair is at most {:.1} % of the source", most * 100.0),
                format!("{:.1} %", planned.overhead * 100.0),
                planned.overhead > 0.0 && planned.overhead <= most,
            );
        }
    }
    let changes: Vec<u64> = rows.iter().filter(|row| row.arm == ARMS[0].name).map(|row| row.changes).collect();
    if !changes.is_empty() {
        let sum = changes.iter().sum::<u64>();
        let most = (CHANGES_A_MINUTE * (seconds * ARMS[0].regimes.len() as u64) as f64 / 60.0).max(CHANGES_A_MINUTE);
        let claim = format!("the plan changes at most {CHANGES_A_MINUTE} times a minute, and does change");
        report.claim(claim, format!("{sum} times in {} regimes", changes.len()), sum > 0 && sum as f64 <= most);
    }
    report.table(
        &["arm", "regime", "blocks", "lost", "recovered", "repair of source", "plan changes"],
        rows.iter().map(|row| {
            vec![
                row.arm.to_owned(),
                REGIMES[row.regime].name.to_owned(),
                row.received.blocks.to_string(),
                row.received.unrecoverable_blocks.to_string(),
                row.received.recovered_blocks.to_string(),
                format!("{:.1} %", row.overhead * 100.0),
                row.changes.to_string(),
            ]
        }),
    );
    let regimes = rows.iter().map(|row| {
        json!({
            "arm": row.arm,
            "regime": REGIMES[row.regime].name,
            "loss": REGIMES[row.regime].loss,
            "blocks": row.received.blocks,
            "unrecoverable_blocks": row.received.unrecoverable_blocks,
            "recovered_blocks": row.received.recovered_blocks,
            "overhead": row.overhead,
            "plan_changes": row.changes,
            "samples": row.samples.iter().map(|(at, share)| json!({ "at_s": at, "overhead": share })).collect::<Vec<_>>(),
        })
    });
    report.metric("regimes", regimes.collect::<Vec<Value>>());
    report.metric("seconds_of_each", seconds);
    let line = |arm: &str, is_dashed| PlotLine {
        name: arm.to_owned(),
        is_dashed,
        points: rows
            .iter()
            .filter(|row| row.arm == arm)
            .flat_map(|row| row.samples.iter().map(|(at, share)| (at.round(), share * 100.0)))
            .collect(),
    };
    report.draw(Plot {
        title: "Repair on a changing link".to_owned(),
        across: "seconds".to_owned(),
        upwards: "% of source symbols".to_owned(),
        scale: Scale::Logarithmic,
        lines: vec![line(ARMS[0].name, false), line(ARMS[1].name, true), line(ARMS[2].name, false)],
    });
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Vec<Row> {
        let row = |arm, regime, lost, overhead| Row {
            arm,
            regime,
            received: Received { blocks: 1000, unrecoverable_blocks: lost, ..Received::default() },
            overhead,
            changes: 1,
            samples: vec![(1.0, overhead)],
        };
        let planned = [0.05, 0.05, 0.2, 0.055].into_iter().enumerate();
        let planned = planned.map(|(at, share)| row("planned", at, 0, share));
        let floor = [0, 0, 90, 0, 50].into_iter().enumerate().map(|(at, lost)| row("floor", at, lost, 0.05));
        planned.chain(floor).chain([row("survive_burst", INTERRUPTED, 0, 0.5)]).collect()
    }

    #[test]
    fn a_lost_block_a_dear_clean_link_and_a_weak_control_fail() {
        let passes = |change: fn(&mut Vec<Row>)| {
            let mut rows = rows();
            change(&mut rows);
            report(&rows, 60).passes()
        };
        assert!(passes(|_| ()));
        assert!(!passes(|rows| rows[1].received.unrecoverable_blocks = 1));
        assert!(!passes(|rows| rows[3].overhead = 0.1));
        assert!(!passes(|rows| rows[6].received.unrecoverable_blocks = 0), "the floor is enough");
        assert!(!passes(|rows| rows[8].received.unrecoverable_blocks = 0), "interruptions took nothing");
        assert!(!passes(|rows| rows[9].received.unrecoverable_blocks = 6));
        assert!(!passes(|rows| rows[0].changes = 30));
        assert!(!passes(|rows| rows[0].received.blocks = 0));
        assert!(!passes(|rows| rows.truncate(8)));
        assert!(!passes(|rows| rows.iter_mut().for_each(|row| row.changes = 0)), "a plan that does not follow");
    }
}
