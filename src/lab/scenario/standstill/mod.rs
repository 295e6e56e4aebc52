//! A standstill must not lose data: appliances, the gate and the mirror are halted at random around a disaster and
//! while `onwire drain` runs.
//!
//! A halted process receives nothing, although time passes. The WAN loses datagrams, and each block has enough repair
//! for that loss. No write that was acknowledged before the cut may be missing at the mirror, and drain must not report
//! `complete` for data that the appliance has not received yet.
//!
//! Start with [`run`], then `trial` (one disaster) and `halts` (the standstills).

mod halts;
mod trial;

use std::time::{Duration, Instant};

use rand::{SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use super::{
    Stage,
    disaster::{
        arm::Arm,
        drain::Verdict,
        site::{ONE_WAY, Site},
    },
    stage::{WAN_TCP, ends, plain_route},
};
use crate::lab::{error::LabError, report::Report, servers::postgres_pair::PostgresPair, workload::stream::Sink};

const TRIALS: u32 = 200;
/// The WAN's loss; each block has so much repair that more is lost only once in 10^9 blocks.
const LOSS: f64 = 0.05;
/// One of this many trials is with PostgreSQL, which takes longer to prepare.
const ROWS_SHARE: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// What is halted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The mirror's appliance, around the cut.
    Peer,
    /// The mirror's appliance, from just before drain.
    Asked,
    /// Both appliances.
    Both,
    /// Both appliances, the gate, and PostgreSQL at the mirror.
    Rows,
}

impl Target {
    const ALL: [Self; 4] = [Self::Peer, Self::Asked, Self::Both, Self::Rows];

    fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Asked => "asked",
            Self::Both => "both",
            Self::Rows => "rows",
        }
    }

    fn chosen(names: &[String]) -> Result<Vec<Self>, LabError> {
        let find = |name: &String| {
            Self::ALL.into_iter().find(|target| target.name() == name).ok_or_else(|| {
                let all = Self::ALL.map(Self::name).join(", ");
                LabError::Sentence(format!("--arm: found \"{name}\"; allowed: {all}"))
            })
        };
        if names.is_empty() { Ok(Self::ALL.to_vec()) } else { names.iter().map(find).collect() }
    }

    /// Its share of `trials`, which all of `chosen` divide among them.
    fn trials(self, chosen: &[Self], trials: u32) -> u32 {
        let rows = if chosen.contains(&Self::Rows) { (trials / ROWS_SHARE).max(1) } else { 0 };
        let others = chosen.iter().filter(|target| **target != Self::Rows).count() as u32;
        match (self, others) {
            (Self::Rows, 0) => trials,
            (Self::Rows, _) => rows,
            _ => (trials.saturating_sub(rows) / others).max(1),
        }
    }
}

/// The result of one trial.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Writes acknowledged before the cut.
    pub acknowledged: u64,
    /// Of these, those that never reached the mirror.
    pub lost: u64,
    /// The verdict of drain.
    pub verdict: Verdict,
    /// Acknowledged writes that the mirror had not been given when drain answered, by drain's own report, where it has
    /// one.
    pub unheard: u64,
    /// Datagrams in flight to the mirror when drain answered.
    pub in_flight: u64,
    /// How often processes were halted, and for how long in all.
    pub halted: (u32, Duration),
}

/// All trials of an arm.
#[derive(Clone, Copy, Debug)]
struct Cell {
    target: Target,
    trials: u32,
    acknowledged: u64,
    lost: u64,
    lossy: u32,
    complete: u32,
    unfinished: u32,
    incomplete: u32,
    /// `complete` or `unfinished` although an acknowledged write had not arrived yet, or never did.
    false_words: u32,
    /// Verdicts other than `incomplete` that came while datagrams were in flight.
    too_early: u32,
    /// `incomplete` although nothing was missing.
    needless: u32,
    halts: u32,
    halted: Duration,
}

impl Cell {
    fn new(target: Target) -> Self {
        Self {
            target,
            trials: 0,
            acknowledged: 0,
            lost: 0,
            lossy: 0,
            complete: 0,
            unfinished: 0,
            incomplete: 0,
            false_words: 0,
            too_early: 0,
            needless: 0,
            halts: 0,
            halted: Duration::ZERO,
        }
    }

    fn on_trial(&mut self, outcome: &Outcome) {
        let is_missing = outcome.lost > 0 || outcome.unheard > 0;
        self.trials += 1;
        self.acknowledged += outcome.acknowledged;
        self.lost += outcome.lost;
        self.lossy += u32::from(outcome.lost > 0);
        match outcome.verdict {
            Verdict::Complete => self.complete += 1,
            Verdict::Unfinished => self.unfinished += 1,
            Verdict::Incomplete => self.incomplete += 1,
        }
        let is_word = outcome.verdict != Verdict::Incomplete;
        self.false_words += u32::from(is_word && is_missing);
        self.too_early += u32::from(is_word && outcome.in_flight > 0);
        self.needless += u32::from(!is_word && !is_missing);
        self.halts += outcome.halted.0;
        self.halted += outcome.halted.1;
    }

    fn verdicts(&self) -> String {
        format!("{}, {}, {}", self.complete, self.unfinished, self.incomplete)
    }
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let chosen = Target::chosen(&stage.options.arms)?;
    let trials = stage.options.trials.unwrap_or(TRIALS);
    stage.say(&format!(
        "standstill: {ONE_WAY:?} one way. The WAN loses {} %, is cut half a second later, and the primary's site dies. Around that,\n\
         and while `onwire drain` is asked, processes stand still for 10 ms to 3 s, once and several times. Is anything missing\n\
         that was acknowledged, and does drain call complete what it has not listened to?\n",
        LOSS * 100.0
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(&format!("set delay {}ms", ONE_WAY.as_millis()))?;
    let addresses = ends(&network)?;
    let sink = Sink::listen(&network, "primary", "mirror", addresses[1])?;
    let servers = match chosen.contains(&Target::Rows) {
        true => {
            plain_route(&network, "add")?;
            let servers = PostgresPair::prepare(&network, addresses)?;
            plain_route(&network, "del")?;
            Some(servers)
        }
        false => None,
    };
    let mut site = Site::make(stage, &network, Arm::NetworkSync, LOSS)?;
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let mut cells = Vec::new();
    for target in &chosen {
        let (mut cell, mut said) = (Cell::new(*target), Instant::now());
        let wanted = target.trials(&chosen, trials);
        while cell.trials < wanted {
            if said.elapsed() > PATIENCE {
                stage.say(&format!("    {}: {} of {wanted}", target.name(), cell.trials));
                said = Instant::now();
            }
            let outcome = match (target, &servers) {
                (Target::Rows, Some(servers)) => trial::rows(&mut site, servers, &mut rng)?,
                _ => trial::records(&mut site, &sink, *target, &mut rng)?,
            };
            cell.on_trial(&outcome);
            if outcome.lost > 0 || (outcome.unheard > 0 && outcome.verdict != Verdict::Incomplete) {
                stage.say(&format!("    {}, trial {}: {outcome:?}", target.name(), cell.trials));
            }
        }
        stage.say(&format!(
            "  {}: {} of {} lost; drain: {}; halted {} times, {:.1} s",
            target.name(),
            cell.lost,
            cell.acknowledged,
            cell.verdicts(),
            cell.halts,
            cell.halted.as_secs_f64()
        ));
        cells.push(cell);
    }
    site.clear()?;
    Ok(report(&cells))
}

fn report(cells: &[Cell]) -> Report {
    let mut report = Report::default();
    for cell in cells {
        let (name, trials) = (cell.target.name(), cell.trials);
        let found = format!("{} of {}, in {} of {trials} trials", cell.lost, cell.acknowledged, cell.lossy);
        report.claim(
            format!("{name}: nothing acknowledged is missing"),
            found,
            cell.lost == 0 && cell.acknowledged > 0,
        );
        let found = format!("{} of {trials}; {}", cell.false_words, cell.verdicts());
        let claim = format!("{name}: drain never says complete before it has what was acknowledged");
        report.claim(claim, found, cell.false_words == 0);
        let claim = format!("{name}: nor while datagrams are on their way");
        report.claim(claim, format!("{} of {trials}", cell.too_early), cell.too_early == 0);
        let claim = format!("{name}: something was halted in each trial");
        report.claim(claim, format!("{} halts in {trials}", cell.halts), cell.halts >= trials);
    }
    report.table(
        &[
            "halted",
            "trials",
            "halts",
            "seconds",
            "acknowledged",
            "lost",
            "in trials",
            "drain: complete, unfinished, incomplete",
            "incomplete with nothing missing",
        ],
        cells.iter().map(|cell| {
            vec![
                cell.target.name().to_owned(),
                cell.trials.to_string(),
                cell.halts.to_string(),
                format!("{:.1}", cell.halted.as_secs_f64()),
                cell.acknowledged.to_string(),
                cell.lost.to_string(),
                cell.lossy.to_string(),
                cell.verdicts(),
                cell.needless.to_string(),
            ]
        }),
    );
    report.metric("one_way_ms", ONE_WAY.as_millis() as u64);
    report.metric("loss", LOSS);
    report.metric("cells", cells.iter().map(to_json).collect::<Vec<Value>>());
    report
}

fn to_json(cell: &Cell) -> Value {
    json!({
        "halted": cell.target.name(),
        "trials": cell.trials,
        "halts": cell.halts,
        "halted_ms": cell.halted.as_millis() as u64,
        "acknowledged": cell.acknowledged,
        "lost": cell.lost,
        "trials_with_loss": cell.lossy,
        "complete": cell.complete,
        "unfinished": cell.unfinished,
        "incomplete": cell.incomplete,
        "false_words": cell.false_words,
        "too_early": cell.too_early,
        "incomplete_with_nothing_missing": cell.needless,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_standstill_claim_can_fail() {
        let good = Outcome {
            acknowledged: 9,
            lost: 0,
            verdict: Verdict::Complete,
            unheard: 0,
            in_flight: 0,
            halted: (2, Duration::from_millis(700)),
        };
        let rows = [
            (good, true),
            (Outcome { verdict: Verdict::Unfinished, ..good }, true),
            (Outcome { verdict: Verdict::Incomplete, ..good }, true),
            (Outcome { verdict: Verdict::Incomplete, unheard: 3, in_flight: 3, ..good }, true),
            (Outcome { unheard: 3, ..good }, false),
            (Outcome { verdict: Verdict::Unfinished, unheard: 3, ..good }, false),
            (Outcome { lost: 1, ..good }, false),
            (Outcome { verdict: Verdict::Incomplete, lost: 1, ..good }, false),
            (Outcome { in_flight: 1, ..good }, false),
            (Outcome { halted: (0, Duration::ZERO), ..good }, false),
            (Outcome { acknowledged: 0, ..good }, false),
        ];
        for (outcome, passes) in rows {
            let mut cell = Cell::new(Target::Peer);
            cell.on_trial(&outcome);
            assert_eq!(report(&[cell]).passes(), passes, "{outcome:?}");
        }
    }

    #[test]
    fn trials_are_divided_among_the_targets() {
        let shares =
            |chosen: &[Target], trials| chosen.iter().map(|target| target.trials(chosen, trials)).collect::<Vec<_>>();
        assert_eq!(shares(&Target::ALL, 200), [58, 58, 58, 25]);
        assert_eq!(shares(&Target::ALL, 1), [1, 1, 1, 1]);
        assert_eq!(shares(&[Target::Asked], 40), [40]);
        assert_eq!(shares(&[Target::Rows], 40), [40]);
        assert!(
            Target::chosen(&["mirror".to_owned()])
                .unwrap_err()
                .to_string()
                .contains("allowed: peer, asked, both, rows")
        );
    }
}
