//! E1: the rolling disaster. The WAN begins to lose datagrams; half a second later it is cut, and the primary's site
//! dies. The scenario compares the acknowledged writes with the data at the mirror, for each arm: when a write counts
//! as acknowledged and how it travels.
//!
//! The arms with weaker guarantees are the controls: each must lose something, or the disaster is too weak to prove
//! anything.
//!
//! Start with [`run`], then [`arm`] (what is compared) and [`site`] (what is destroyed); [`messages`] and [`rows`] are
//! the two loads.

pub mod arm;
pub mod drain;
pub mod messages;
pub mod rows;
pub mod site;

use std::time::{Duration, Instant};

use rand::{SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use self::{
    arm::{Arm, BLOCK_SYMBOLS, residual},
    drain::{Drained, Verdict, Verdicts},
    site::{ONE_WAY, Site, Strike},
};
use super::{
    Stage,
    stage::{WAN_TCP, ends, plain_route},
};
use crate::lab::{
    error::LabError, report::Report, servers::postgres_pair::PostgresPair, times::Times, workload::stream::Sink,
};

/// Trials of the arm that must not lose, for each loss and each workload.
const TRIALS: u32 = 20;
/// Any other arm needs to lose only once, so it gets this fraction of the trials.
const CONTROL_SHARE: u32 = 5;
const CONTROL_TRIALS: u32 = 3;
const LOSSES: [f64; 4] = [0.001, 0.005, 0.01, 0.05];
/// The uplink of the primary's site: a burst waits in the host's queue, as on most real uplinks.
const UPLINK: [&str; 13] =
    ["tc", "qdisc", "add", "dev", "wan0", "root", "tbf", "rate", "100mbit", "burst", "16kb", "limit", "8mb"];
const PATIENCE: Duration = Duration::from_secs(5);

/// The kind of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Workload {
    Messages,
    Rows,
}

impl Workload {
    fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Rows => "rows",
        }
    }
}

/// The result of one trial.
#[derive(Debug)]
pub struct Outcome {
    acknowledged: u64,
    lost: u64,
    /// How long before the cut the first lost write was acknowledged.
    since: Option<Duration>,
    /// How long each write waited for its acknowledgement.
    waits: Vec<Duration>,
    /// Whether a violation was reported in time.
    is_told: bool,
    /// The drain of the mirror, if it has an appliance.
    drained: Option<Drained>,
}

impl Outcome {
    /// The outcome of a disaster without any acknowledged write.
    fn new(site: &Site<'_>, strike: &Strike, drained: Option<Drained>) -> Self {
        let is_told = strike.is_violation_told(site.stage.options.slack);
        Self { acknowledged: 0, lost: 0, since: None, waits: Vec::new(), is_told, drained }
    }

    /// Describes a trial in which data was lost and no violation was reported, or drain did not find the loss.
    fn surprise(&self) -> Option<String> {
        let drained = self.drained.filter(|_| self.lost > 0)?;
        let is_found = drained.verdict == Verdict::Incomplete;
        (!self.is_told || !is_found).then(|| {
            format!(
                "{} lost of {}, the first acknowledged {:?} before the cut; violation told: {}; drain: {:?}; {} \
                 datagrams lost behind the last that arrived; {} symbols later than the hold time",
                self.lost,
                self.acknowledged,
                self.since.unwrap_or_default(),
                self.is_told,
                drained.verdict,
                drained.lost_last,
                drained.late
            )
        })
    }
}

/// All trials of an arm at a loss.
#[derive(Debug)]
struct Cell {
    workload: Workload,
    arm: Arm,
    loss: f64,
    trials: u32,
    acknowledged: u64,
    lost: u64,
    /// Trials in which something was lost, and those of them in which a violation was reported in time.
    lossy: u32,
    told: u32,
    /// Trials that lost something without a reported violation, where nothing that arrived at the mirror could reveal
    /// the loss.
    unheard: u32,
    waits: Times,
    verdicts: Verdicts,
}

impl Cell {
    fn new(workload: Workload, arm: Arm, loss: f64) -> Self {
        let (waits, verdicts) = (Times::default(), Verdicts::default());
        Self {
            workload,
            arm,
            loss,
            trials: 0,
            acknowledged: 0,
            lost: 0,
            lossy: 0,
            told: 0,
            unheard: 0,
            waits,
            verdicts,
        }
    }

    fn on_trial(&mut self, outcome: &Outcome) {
        self.trials += 1;
        self.acknowledged += outcome.acknowledged;
        self.lost += outcome.lost;
        self.lossy += u32::from(outcome.lost > 0);
        self.told += u32::from(outcome.lost > 0 && outcome.is_told);
        let is_unheard = outcome.drained.is_some_and(|drained| drained.is_unheard());
        self.unheard += u32::from(outcome.lost > 0 && !outcome.is_told && is_unheard);
        outcome.waits.iter().for_each(|wait| self.waits.record(*wait));
        if let Some(drained) = outcome.drained {
            self.verdicts.count(drained, outcome.lost > 0);
        }
    }
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let arms = Arm::chosen(&stage.options.arms)?;
    let losses = if stage.options.losses.is_empty() { LOSSES.to_vec() } else { stage.options.losses.clone() };
    let trials = stage.options.trials.unwrap_or(TRIALS);
    let control = (trials / CONTROL_SHARE).max(CONTROL_TRIALS);
    stage.say(&format!(
        "disaster: {ONE_WAY:?} one way, uplink 100 Mbit/s. At a random moment the WAN begins to lose; half a second later it is cut at its\n\
         entrance, and the programs of the primary site are killed. Which of the records and rows that were acknowledged\n\
         before the cut does the mirror not have? {trials} trials of network-sync at each loss and of too-little-repair, {control} of each other arm.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(&format!("set delay {}ms", ONE_WAY.as_millis()))?;
    network.run("ithaca", &UPLINK)?;
    let addresses = ends(&network)?;
    let sink = Sink::listen(&network, "primary", "mirror", addresses[1])?;
    plain_route(&network, "add")?;
    let servers = PostgresPair::prepare(&network, addresses)?;
    plain_route(&network, "del")?;
    stage.say(&format!("  {}", servers.describe()?));
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let mut cells = Vec::new();
    for (arm, loss) in arms.iter().flat_map(|arm| arm.losses(&losses).into_iter().map(|loss| (*arm, loss))) {
        let mut site = Site::make(stage, &network, arm, loss)?;
        let least = if arm.waits_for_protection() { trials } else { control };
        let is_last = arm.losses(&losses).last() == Some(&loss);
        for workload in [Workload::Messages, Workload::Rows] {
            let mut cell = Cell::new(workload, arm, loss);
            let mut said = Instant::now();
            // An arm that has lost nothing yet gets as many trials as the main arm before it counts as too weak.
            let has_lost = |cell: &Cell| cell.workload == workload && cell.arm == arm && cell.lost > 0;
            let most = if is_last && !cells.iter().any(has_lost) { trials.max(least) } else { least };
            while cell.trials < least || (cell.trials < most && cell.lost == 0) {
                if said.elapsed() > PATIENCE {
                    stage.say(&format!("    {} of {least}", cell.trials));
                    said = Instant::now();
                }
                let outcome = match workload {
                    Workload::Messages => messages::trial(&mut site, &sink, &mut rng)?,
                    Workload::Rows => rows::trial(&mut site, &servers, &mut rng)?,
                };
                cell.on_trial(&outcome);
                if let Some(surprise) = outcome.surprise().filter(|_| arm.waits_for_protection()) {
                    stage.say(&format!("    trial {}: {surprise}", cell.trials));
                }
            }
            stage.say(&format!(
                "  {}, {} at {} % loss: {} of {} lost",
                workload.name(),
                arm.name(),
                loss * 100.0,
                cell.lost,
                cell.acknowledged
            ));
            cells.push(cell);
        }
        site.clear()?;
    }
    Ok(report(&cells))
}

fn report(cells: &[Cell]) -> Report {
    let mut report = Report::default();
    for workload in [Workload::Messages, Workload::Rows] {
        for arm in Arm::ALL {
            let of_arm: Vec<&Cell> = cells.iter().filter(|cell| cell.workload == workload && cell.arm == arm).collect();
            if !of_arm.is_empty() {
                claim(&mut report, workload, arm, &of_arm);
            }
        }
    }
    report.table(
        &[
            "workload",
            "arm",
            "loss",
            "k, m",
            "left of a block",
            "trials",
            "acknowledged",
            "lost",
            "in trials",
            "wait p50",
            "drain: complete, unfinished, incomplete",
        ],
        cells.iter().map(|cell| {
            let repair = cell.arm.repair(cell.loss);
            let (shape, left) = match cell.arm.has_appliances() {
                true if cell.arm.has_targets() => ("targets".to_owned(), "-".to_owned()),
                true => (
                    format!("{BLOCK_SYMBOLS}, {repair}"),
                    format!("{:.0e}", residual(BLOCK_SYMBOLS, repair, cell.loss)),
                ),
                false => ("none".to_owned(), "-".to_owned()),
            };
            vec![
                cell.workload.name().to_owned(),
                cell.arm.name().to_owned(),
                format!("{} %", cell.loss * 100.0),
                shape,
                left,
                cell.trials.to_string(),
                cell.acknowledged.to_string(),
                cell.lost.to_string(),
                cell.lossy.to_string(),
                format!("{:.2} ms", cell.waits.quantile(0.5).as_secs_f64() * 1e3),
                if cell.arm.has_appliances() { cell.verdicts.to_string() } else { "-".to_owned() },
            ]
        }),
    );
    report.metric("one_way_ms", ONE_WAY.as_millis() as u64);
    report.metric("cells", cells.iter().map(to_json).collect::<Vec<Value>>());
    report
}

fn claim(report: &mut Report, workload: Workload, arm: Arm, cells: &[&Cell]) {
    let sum = |count: fn(&Cell) -> u64| cells.iter().map(|cell| count(cell)).sum::<u64>();
    let (acknowledged, lost) = (sum(|cell| cell.acknowledged), sum(|cell| cell.lost));
    let (trials, lossy) = (sum(|cell| cell.trials.into()), sum(|cell| cell.lossy.into()));
    let found = format!("{lost} of {acknowledged}, in {lossy} of {trials} trials");
    let (arm_name, name) = (arm.name(), workload.name());
    if arm.waits_for_protection() {
        let mut verdicts = Verdicts::default();
        cells.iter().for_each(|cell| verdicts.add(&cell.verdicts));
        verdicts.claim(report, &format!("{name}, {arm_name}"));
    }
    if arm.must_not_lose() {
        report.claim(format!("{name}, {arm_name}: none is lost"), found, lost == 0 && acknowledged > 0);
        // If the mirror itself had acknowledged the data, the trial would prove nothing.
        let slowest = cells.iter().map(|cell| cell.waits.quantile(0.5)).max().unwrap_or_default();
        let claim = format!("{name}, {arm_name}: most are acknowledged before the mirror can have them");
        report.claim(claim, format!("p50 {slowest:?}, one way {ONE_WAY:?}"), slowest < ONE_WAY);
        return;
    }
    report.claim(format!("control: {name}, {arm_name}: some are lost"), found, lost > 0);
    if arm == Arm::TooLittleRepair {
        let [told, unheard] = [sum(|cell| cell.told.into()), sum(|cell| cell.unheard.into())];
        let but = if unheard > 0 { format!("; in {unheard} the mirror never heard of it") } else { String::new() };
        let claim = format!("{name}, {arm_name}: whatever is lost that the mirror can hear of, a violation is told");
        report.claim(claim, format!("in {told} of {lossy} trials{but}"), told + unheard == lossy);
    }
}

fn to_json(cell: &Cell) -> Value {
    let repair = cell.arm.repair(cell.loss);
    let is_counted = cell.arm.has_appliances() && !cell.arm.has_targets();
    let residual = is_counted.then(|| residual(BLOCK_SYMBOLS, repair, cell.loss));
    json!({
        "workload": cell.workload.name(),
        "arm": cell.arm.name(),
        "loss": cell.loss,
        "source_symbols": BLOCK_SYMBOLS,
        "repair_symbols": repair,
        "residual": residual,
        "trials": cell.trials,
        "acknowledged": cell.acknowledged,
        "lost": cell.lost,
        "trials_with_loss": cell.lossy,
        "trials_with_violation_told": cell.told,
        "trials_unheard": cell.unheard,
        "wait_p50_us": cell.waits.micros(0.5),
        "wait_p99_us": cell.waits.micros(0.99),
        "drain": cell.arm.has_appliances().then(|| cell.verdicts.to_json()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(arm: Arm, lost: u64, is_told: bool) -> Cell {
        let mut cell = Cell::new(Workload::Rows, arm, 0.01);
        let verdict = if lost > 0 { Verdict::Incomplete } else { Verdict::Complete };
        let drained = arm.has_appliances().then_some(Drained { verdict, in_flight: 0, lost_last: 0, late: 0 });
        cell.on_trial(&Outcome {
            acknowledged: 100,
            lost,
            since: None,
            waits: vec![Duration::from_millis(3)],
            is_told,
            drained,
        });
        cell
    }

    #[test]
    fn a_drain_that_overlooks_missing_data_fails() {
        for (verdict, lost, passes) in [
            (Verdict::Complete, 0, true),
            (Verdict::Unfinished, 0, true),
            (Verdict::Incomplete, 3, true),
            (Verdict::Complete, 3, false),
        ] {
            let drained = Some(Drained { verdict, in_flight: 0, lost_last: 0, late: 0 });
            let mut cell = Cell::new(Workload::Rows, Arm::TooLittleRepair, 0.05);
            cell.on_trial(&Outcome {
                acknowledged: 9,
                lost: 1,
                since: None,
                waits: Vec::new(),
                is_told: true,
                drained: None,
            });
            cell.on_trial(&Outcome { acknowledged: 9, lost, since: None, waits: Vec::new(), is_told: true, drained });
            assert_eq!(report(&[cell]).passes(), passes, "{verdict:?}, {lost} lost");
        }
    }

    #[test]
    fn an_unreported_loss_and_one_that_drain_did_not_find_are_surprises() {
        for (lost, is_told, verdict, is_surprise) in [
            (0, false, Verdict::Complete, false),
            (2, true, Verdict::Incomplete, false),
            (2, false, Verdict::Incomplete, true),
            (2, true, Verdict::Complete, true),
            (2, true, Verdict::Unfinished, true),
        ] {
            let drained = Some(Drained { verdict, in_flight: 0, lost_last: 7, late: 0 });
            let since = Some(Duration::from_millis(4));
            let outcome = Outcome { acknowledged: 9, lost, since, waits: Vec::new(), is_told, drained };
            let said = outcome.surprise();
            assert_eq!(said.is_some(), is_surprise, "{verdict:?}, {lost} lost, told: {is_told}");
            assert!(
                said.is_none_or(|said| said.contains("2 lost of 9") && said.contains("4ms") && said.contains("7 "))
            );
        }
    }

    #[test]
    fn one_lost_acknowledged_row_fails() {
        for arm in Arm::ALL.into_iter().filter(|arm| arm.must_not_lose()) {
            assert!(report(&[cell(arm, 0, false)]).passes());
            assert!(!report(&[cell(arm, 1, true)]).passes());
        }
        let mut slow = cell(Arm::NetworkSync, 0, false);
        (0..3).for_each(|_| slow.waits.record(2 * ONE_WAY));
        assert!(!report(&[slow]).passes(), "the mirror's own word is no test");
        assert!(!report(&[Cell::new(Workload::Rows, Arm::NetworkSync, 0.01)]).passes(), "nobody was told anything");
    }

    #[test]
    fn a_control_that_loses_nothing_fails_the_run() {
        for arm in Arm::ALL.into_iter().filter(|arm| !arm.must_not_lose()) {
            assert!(report(&[cell(arm, 3, true)]).passes(), "{arm:?}");
            assert!(!report(&[cell(arm, 0, false)]).passes(), "{arm:?}");
        }
        // It may lose nothing at one of the losses.
        assert!(report(&[cell(Arm::LocalSync, 0, false), cell(Arm::LocalSync, 1, false)]).passes());
    }

    #[test]
    fn an_unreported_loss_fails_unless_nothing_arrived_after_it() {
        assert!(!report(&[cell(Arm::TooLittleRepair, 3, true), cell(Arm::TooLittleRepair, 1, false)]).passes());
        for (lost_last, passes) in [(0, false), (1, false), (2, true)] {
            let mut cell = cell(Arm::TooLittleRepair, 3, true);
            let drained = Some(Drained { verdict: Verdict::Complete, in_flight: 0, lost_last, late: 0 });
            cell.on_trial(&Outcome {
                acknowledged: 9,
                lost: 1,
                since: None,
                waits: Vec::new(),
                is_told: false,
                drained,
            });
            assert_eq!(report(&[cell]).passes(), passes, "{lost_last}");
        }
    }
}
