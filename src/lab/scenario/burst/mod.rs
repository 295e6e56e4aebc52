//! E12: the burst bound. What an interruption of the link takes from a block, in datagrams and in time, against what was
//! promised; and what the promise costs a commit.
//!
//! Start with [`run`]. [`datagrams`] loses exactly so many symbols of a block, [`phases`] interrupts the link around commits and
//! streams, [`commits`] measures PostgreSQL; [`bench`] is what they share.

mod bench;
mod commits;
mod datagrams;
mod phases;

use serde_json::Value;

use self::phases::Repair;
use super::{Stage, stage::WAN_TCP};
use crate::lab::{
    error::LabError,
    load::Load,
    plot::{Plot, PlotLine, Scale},
    report::Report,
};

/// Phases of each kind of interruption; 1000 for the whole claim. Bursts in datagrams are exact and need few trials.
const TRIALS: u32 = 100;
const DATAGRAM_TRIALS: u32 = 10;
const SECONDS: u64 = 6;
/// A short path keeps the trials short; the time of departure does not depend on it.
const ONE_WAY_MS: u64 = 10;

const PARTS: [&str; 4] = ["datagrams", "survive", "fixed", "commits"];

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let chosen = &stage.options.arms;
    if let Some(unknown) = chosen.iter().find(|name| !PARTS.contains(&name.as_str())) {
        return Err(LabError::Sentence(format!("--arm: found \"{unknown}\"; allowed: {}", PARTS.join(", "))));
    }
    let runs = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    let trials = stage.options.trials.unwrap_or(TRIALS);
    stage.say(&format!(
        "burst: what does an interruption take of what was called protected? First in datagrams: as many of a block as it has\n\
         repair symbols, and one more. Then in time: {trials} interruptions each of 1, 2 and 4 ms at random phases of lone commits and\n\
         of a stream, with `survive_burst: 2ms` and with `fixed: 4`. At last the time of a PostgreSQL commit.\n"
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(&format!("set delay {ONE_WAY_MS}ms"))?;
    let mut report = Report::default();
    report.metric("load", load.to_json());
    if runs("datagrams") {
        let bursts = datagrams::measure(stage, &network, trials.min(DATAGRAM_TRIALS))?;
        datagrams::claim(&mut report, &bursts);
        report.metric("datagrams", datagrams::to_json(&bursts));
    }
    let mut cells = Vec::new();
    for (part, repair) in [("survive", Repair::SurviveBurst), ("fixed", Repair::Fixed)] {
        if runs(part) {
            cells.extend(phases::measure(stage, &network, repair, trials)?);
        }
    }
    if !cells.is_empty() {
        cells.iter().for_each(|cell| cell.claim(&mut report));
        let headers = [
            "repair",
            "what is interrupted",
            "for",
            "trials",
            "hit",
            "protected",
            "with loss",
            "told",
            "protected after, p50",
        ];
        report.table(&headers, cells.iter().map(phases::Cell::row));
        report.metric("interruptions", cells.iter().map(phases::Cell::to_json).collect::<Vec<Value>>());
        report.draw(plot(&cells));
    }
    if runs("commits") {
        let commits = commits::measure(stage, &network, stage.options.seconds.unwrap_or(SECONDS).max(1))?;
        commits::claim(&mut report, &commits, stage.options.slack);
        report.metric("commits", commits::to_json(&commits));
    }
    Ok(report)
}

fn plot(cells: &[phases::Cell]) -> Plot {
    let line = |repair: Repair, load: phases::Load| {
        let of_line = cells.iter().filter(|cell| cell.repair == repair && cell.load == load);
        let share = |cell: &phases::Cell| 100.0 * f64::from(cell.lossy) / f64::from(cell.protected.max(1));
        PlotLine {
            name: format!("{}, {}", repair.name(), load.name()),
            is_dashed: load == phases::Load::Stream,
            points: of_line.map(|cell| (cell.length.as_secs_f64() * 1e3, share(cell))).collect(),
        }
    };
    Plot {
        title: "What was called protected and lost something".to_owned(),
        across: "interruption, ms".to_owned(),
        upwards: "% of trials".to_owned(),
        scale: Scale::Linear,
        lines: Repair::ALL.into_iter().flat_map(|it| phases::Load::ALL.map(|load| line(it, load))).collect(),
    }
}
