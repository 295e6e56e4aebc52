//! E4: the goodput of one TCP flow over the loss, at 50 and 100 ms round trip, with cubic and with bbr, through the appliances
//! and on the plain route.
//!
//! The repair is chosen for each loss, as an operator would who knows it: the fewest symbols that leave a full block of 64 at
//! most 1e-7, and those for 1 % where the loss is less. The rate of the path is limited, so that the loss and not the processor
//! decides. The plain route with cubic is the control: if loss costs it nothing, the test cannot show that repair helps.

use std::{collections::BTreeMap, time::Duration};

use serde_json::{Value, json};

use super::{
    Stage,
    stage::{WAN_TCP, ends, plain_route},
};
use crate::{
    fec::residual::residual,
    lab::{
        error::LabError,
        load::Load,
        network::Network,
        pair::{Pair, PairOptions},
        plot::{Plot, PlotLine, Scale},
        report::Report,
        wan::loss_trace::LossTrace,
        workload::iperf::BulkPlan,
    },
};

const LOSSES: [f64; 5] = [0.0, 0.001, 0.01, 0.03, 0.05];
const ROUND_TRIPS: [u64; 2] = [50, 100];
const SECONDS: u64 = 10;
/// The path: slower than any machine that runs the lab, with a queue of its longest round trip.
const RATE_MBIT: u64 = 200;
const BLOCK_SYMBOLS: u32 = 64;
const RESIDUAL: f64 = 1e-7;
/// What cubic must keep at 1 % and 50 ms, of its goodput through the same appliances without loss.
const KEPT: f64 = 0.95;
const KEPT_AT: (u64, f64) = (50, 0.01);
/// What it may keep there on the plain route.
const PLAIN_KEPT: f64 = 0.5;
/// How the kernel's list of congestion controls is read.
const AVAILABLE: &str = "/proc/sys/net/ipv4/tcp_available_congestion_control";

struct Row {
    congestion: &'static str,
    through: bool,
    round_trip: u64,
    loss: f64,
    repair: u32,
    mbit: f64,
    retransmits: u64,
}

/// The fewest repair symbols that suffice at this loss, or at 1 %: repair takes a share of the path, which must be the same with
/// and without light losses.
fn repair_for(loss: f64) -> u32 {
    let suffices = |m: &u32| residual(BLOCK_SYMBOLS as usize, *m as usize, loss.max(KEPT_AT.1)) <= RESIDUAL;
    (1..=BLOCK_SYMBOLS).find(suffices).unwrap_or(BLOCK_SYMBOLS)
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(SECONDS).max(1);
    let chosen = &stage.options.losses;
    let mut losses = if chosen.is_empty() { LOSSES.to_vec() } else { chosen.clone() };
    losses.retain(|loss| *loss > 0.0);
    losses.insert(0, 0.0);
    // A trace comes last, with the repair for its mean.
    let trace = match &stage.options.loss_trace {
        Some(file) => {
            let read = LossTrace::read(file).map_err(|error| LabError::Sentence(error.to_string()))?;
            let (datagrams, lost) = read.counts();
            losses.push(lost as f64 / datagrams.max(1) as f64);
            Some(format!("trace {}", file.display()))
        }
        None => None,
    };
    let available = std::fs::read_to_string(AVAILABLE).map_err(LabError::doing(format!("read {AVAILABLE}")))?;
    let controls = ["cubic", "bbr"].into_iter().filter(|name| available.split_whitespace().any(|it| it == *name));
    let controls: Vec<&'static str> = controls.collect();
    stage.say(&format!(
        "goodput: one TCP flow of iperf3, {seconds} s each, over {ROUND_TRIPS:?} ms round trip and losses of {losses:?}, a path of\n\
         {RATE_MBIT} Mbit/s; through the appliances and on the plain route; congestion control {}.\n",
        controls.join(" and ")
    ));
    if !controls.contains(&"bbr") {
        stage.say("This kernel has no bbr (modprobe tcp_bbr): only cubic is measured.");
    }
    let load = Load::now()?;
    stage.say(&load.to_string());
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(&format!("set rate {RATE_MBIT}mbit, queue 2500kB"))?;
    let mut rows = Vec::new();
    for (at, loss) in losses.iter().enumerate() {
        let trace = trace.as_deref().filter(|_| at + 1 == losses.len());
        let words = trace.map_or_else(|| format!("{}%", loss * 100.0), str::to_owned);
        let repair = repair_for(*loss);
        let text = format!("{{ fixed: {repair}, assume_loss: {}% }}", loss.max(0.001) * 100.0);
        let label = format!("goodput-{}", loss * 100.0);
        let options = PairOptions { label, repair: text, block_symbols: BLOCK_SYMBOLS, ..PairOptions::default() };
        network.tell_wan("set loss 0%")?;
        let pair = Pair::start(&network, &options)?;
        for (round_trip, congestion) in ROUND_TRIPS.into_iter().flat_map(|it| controls.iter().map(move |c| (it, *c))) {
            let row = Row { congestion, through: true, round_trip, loss: *loss, repair, mbit: 0.0, retransmits: 0 };
            rows.push(measure(stage, &network, row, (&words, seconds))?);
        }
        pair.stop()?;
        plain_route(&network, "add")?;
        for (round_trip, congestion) in ROUND_TRIPS.into_iter().flat_map(|it| controls.iter().map(move |c| (it, *c))) {
            let row = Row { congestion, through: false, round_trip, loss: *loss, repair: 0, mbit: 0.0, retransmits: 0 };
            rows.push(measure(stage, &network, row, (&words, seconds))?);
        }
        plain_route(&network, "del")?;
    }
    let mut report = report(&rows);
    report.metric("load", load.to_json());
    Ok(report)
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    row: Row,
    (losses, seconds): (&str, u64),
) -> Result<Row, LabError> {
    let Row { congestion, round_trip, loss, through, .. } = row;
    // A route's congestion control overrides the one that a program asks for.
    let route = network.run("primary", &["ip", "-4", "route", "show", "default"])?;
    let words = route.split_whitespace().collect::<Vec<_>>();
    let gateway = words.iter().skip_while(|word| **word != "via").nth(1).copied().unwrap_or_default();
    network.run("primary", &["ip", "route", "replace", "default", "via", gateway, "congctl", congestion])?;
    network.tell_wan(&format!("set delay {}us, loss {losses}", round_trip * 500))?;
    stage.pause(Duration::from_millis(200))?;
    let way = if through { "through" } else { "plain" };
    let name = format!("{way}-{congestion}-{round_trip}-{}", loss * 100.0);
    let address = ends(network)?[1];
    let plan = BulkPlan { congestion, ..BulkPlan::to_mirror(&name, address, seconds) };
    let bulk = plan.run(network)?;
    let mbit = bulk.bits_per_second / 1e6;
    stage.say(&format!("  {way}, {congestion}, {round_trip} ms, {} %: {mbit:.1} Mbit/s", loss * 100.0));
    Ok(Row { mbit, retransmits: bulk.retransmits, ..row })
}

/// The goodput of each row relative to the same without loss.
fn kept(rows: &[Row]) -> Vec<f64> {
    let key = |row: &Row| (row.congestion, row.through, row.round_trip);
    let free: BTreeMap<_, _> = rows.iter().filter(|row| row.loss == 0.0).map(|row| (key(row), row.mbit)).collect();
    rows.iter().map(|row| free.get(&key(row)).map_or(0.0, |free| row.mbit / free.max(1e-9))).collect()
}

fn report(rows: &[Row]) -> Report {
    let mut report = Report::default();
    let kept = kept(rows);
    let find = |congestion: &str, through: bool| {
        let is_it = |row: &Row| {
            (row.congestion, row.through, row.round_trip, row.loss) == (congestion, through, KEPT_AT.0, KEPT_AT.1)
        };
        rows.iter().position(is_it)
    };
    let words = |at: Option<usize>| at.map_or("not measured".to_owned(), |at| format!("{:.3}", kept[at]));
    let share = |at: Option<usize>| at.map_or(0.0, |at| kept[at]);
    let through = find("cubic", true);
    report.claim(
        format!("cubic through the appliances keeps {KEPT} of its loss-free goodput at 1 % and 50 ms"),
        words(through),
        share(through) >= KEPT,
    );
    let plain = find("cubic", false);
    report.claim(
        format!("control: cubic on the plain route keeps at most {PLAIN_KEPT}"),
        words(plain),
        plain.is_some() && share(plain) <= PLAIN_KEPT,
    );
    report.table(
        &["congestion control", "way", "round trip", "loss", "k, m", "goodput", "of loss-free", "TCP sent again"],
        rows.iter().zip(&kept).map(|(row, kept)| {
            let shape = if row.through { format!("{BLOCK_SYMBOLS}, {}", row.repair) } else { "-".to_owned() };
            vec![
                row.congestion.to_owned(),
                if row.through { "appliances" } else { "plain route" }.to_owned(),
                format!("{} ms", row.round_trip),
                format!("{} %", row.loss * 100.0),
                shape,
                format!("{:.1} Mbit/s", row.mbit),
                format!("{:.0} %", kept * 100.0),
                row.retransmits.to_string(),
            ]
        }),
    );
    let goodput = rows.iter().zip(&kept).map(|(row, kept)| {
        json!({
            "congestion_control": row.congestion,
            "appliances": row.through,
            "round_trip_ms": row.round_trip,
            "loss": row.loss,
            "source_symbols": row.through.then_some(BLOCK_SYMBOLS),
            "repair_symbols": row.repair,
            "goodput_mbit": row.mbit,
            "of_loss_free": kept,
            "tcp_retransmits": row.retransmits,
        })
    });
    report.metric("goodput", goodput.collect::<Vec<Value>>());
    report.metric("path_mbit", RATE_MBIT);
    report.draw(plot(rows));
    report
}

fn plot(rows: &[Row]) -> Plot {
    let mut lines: Vec<PlotLine> = Vec::new();
    for row in rows {
        let way = if row.through { "onwire" } else { "plain" };
        let name = format!("{way}, {}, {} ms", row.congestion, row.round_trip);
        let point = (row.loss * 100.0, row.mbit);
        match lines.iter_mut().find(|line| line.name == name) {
            Some(line) => line.points.push(point),
            None => lines.push(PlotLine { name, is_dashed: !row.through, points: vec![point] }),
        }
    }
    Plot {
        title: format!("Goodput of one TCP flow, path of {RATE_MBIT} Mbit/s"),
        across: "loss, %".to_owned(),
        upwards: "Mbit/s".to_owned(),
        scale: Scale::Logarithmic,
        lines,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(through: f64, plain: f64) -> Vec<Row> {
        let row = |through, loss, mbit| Row {
            congestion: "cubic",
            through,
            round_trip: 50,
            loss,
            repair: 4,
            mbit,
            retransmits: 0,
        };
        vec![row(true, 0.0, 150.0), row(true, 0.01, through), row(false, 0.0, 190.0), row(false, 0.01, plain)]
    }

    #[test]
    fn a_lower_goodput_and_a_control_that_keeps_its_own_fail() {
        assert!(report(&rows(145.0, 10.0)).passes());
        assert!(!report(&rows(140.0, 10.0)).passes());
        assert!(!report(&rows(145.0, 150.0)).passes());
        assert!(!report(&rows(145.0, 10.0)[..2]).passes(), "a control that was not measured");
        assert!(!report(&[]).passes());
    }

    #[test]
    fn more_loss_needs_more_repair() {
        let repair = LOSSES.map(repair_for);
        assert!(repair.is_sorted() && repair[0] == repair[2] && repair[4] > repair[2], "{repair:?}");
        assert!(repair.iter().zip(LOSSES).all(|(m, loss)| residual(64, *m as usize, loss) <= RESIDUAL));
    }
}
