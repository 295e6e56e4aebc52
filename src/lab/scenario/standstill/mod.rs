//! What stands still does not lose: appliances, the gate and the mirror are halted at random around a disaster, and while
//! `onwire drain` is asked.
//!
//! Time that passed is not time in which anybody listened. The WAN loses, and each block has repair for that; nothing that
//! was acknowledged before the cut may be missing at the mirror, and drain may not call that complete which it has not
//! listened to.
//!
//! Start with [`run`], then `trial` (one disaster) and `halts` (what stands still).

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
/// What the WAN loses, and what each block is given repair for: it loses more in one of a thousand million.
const LOSS: f64 = 0.05;
/// Of so many trials one is with PostgreSQL, which takes longer to make ready.
const ROWS_SHARE: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(10);

/// Who stands still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The mirror's appliance, around the cut.
    Peer,
    /// The mirror's appliance, from just before it is asked by drain.
    Asked,
    /// Both appliances.
    Both,
    /// Both appliances, the gate, and PostgreSQL at the mirror.
    Rows,
}

impl Who {
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
            Self::ALL.into_iter().find(|who| who.name() == name).ok_or_else(|| {
                let all = Self::ALL.map(Self::name).join(", ");
                LabError::Sentence(format!("--arm: found \"{name}\"; allowed: {all}"))
            })
        };
        if names.is_empty() { Ok(Self::ALL.to_vec()) } else { names.iter().map(find).collect() }
    }

    /// Its share of so many trials of all of `chosen`.
    fn trials(self, chosen: &[Self], trials: u32) -> u32 {
        let rows = if chosen.contains(&Self::Rows) { (trials / ROWS_SHARE).max(1) } else { 0 };
        let others = chosen.iter().filter(|who| **who != Self::Rows).count() as u32;
        match (self, others) {
            (Self::Rows, 0) => trials,
            (Self::Rows, _) => rows,
            _ => (trials.saturating_sub(rows) / others).max(1),
        }
    }
}

/// What became of one trial.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Acknowledged before the cut.
    pub acknowledged: u64,
    /// Of them, those that the mirror never had.
    pub lost: u64,
    /// What drain said.
    pub verdict: Verdict,
    /// Of those acknowledged, what it had not been handed on when drain spoke, by its own account, where that is told.
    pub unheard: u64,
    /// Datagrams on their way to the mirror when it spoke.
    pub in_flight: u64,
    /// How often something was halted, and for how long in all.
    pub halted: (u32, Duration),
}

/// All trials of an arm.
#[derive(Clone, Copy, Debug)]
struct Cell {
    who: Who,
    trials: u32,
    acknowledged: u64,
    lost: u64,
    lossy: u32,
    complete: u32,
    unfinished: u32,
    incomplete: u32,
    /// `complete` or `unfinished` although something acknowledged was not there, or was never to come.
    false_words: u32,
    /// Spoke while datagrams were on their way.
    too_early: u32,
    /// `incomplete` although nothing was missing.
    needless: u32,
    halts: u32,
    halted: Duration,
}

impl Cell {
    fn new(who: Who) -> Self {
        Self {
            who,
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
    let chosen = Who::chosen(&stage.options.arms)?;
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
    let servers = match chosen.contains(&Who::Rows) {
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
    for who in &chosen {
        let (mut cell, mut said) = (Cell::new(*who), Instant::now());
        let wanted = who.trials(&chosen, trials);
        while cell.trials < wanted {
            if said.elapsed() > PATIENCE {
                stage.say(&format!("    {}: {} of {wanted}", who.name(), cell.trials));
                said = Instant::now();
            }
            let outcome = match (who, &servers) {
                (Who::Rows, Some(servers)) => trial::rows(&mut site, servers, &mut rng)?,
                _ => trial::records(&mut site, &sink, *who, &mut rng)?,
            };
            cell.on_trial(&outcome);
            if outcome.lost > 0 || (outcome.unheard > 0 && outcome.verdict != Verdict::Incomplete) {
                stage.say(&format!("    {}, trial {}: {outcome:?}", who.name(), cell.trials));
            }
        }
        stage.say(&format!(
            "  {}: {} of {} lost; drain: {}; halted {} times, {:.1} s",
            who.name(),
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
        let (name, trials) = (cell.who.name(), cell.trials);
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
                cell.who.name().to_owned(),
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
        "halted": cell.who.name(),
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
    fn each_claim_can_fail() {
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
            let mut cell = Cell::new(Who::Peer);
            cell.on_trial(&outcome);
            assert_eq!(report(&[cell]).passes(), passes, "{outcome:?}");
        }
    }

    #[test]
    fn trials_are_shared_out() {
        let shares = |chosen: &[Who], trials| chosen.iter().map(|who| who.trials(chosen, trials)).collect::<Vec<_>>();
        assert_eq!(shares(&Who::ALL, 200), [58, 58, 58, 25]);
        assert_eq!(shares(&Who::ALL, 1), [1, 1, 1, 1]);
        assert_eq!(shares(&[Who::Asked], 40), [40]);
        assert_eq!(shares(&[Who::Rows], 40), [40]);
        assert!(
            Who::chosen(&["mirror".to_owned()]).unwrap_err().to_string().contains("allowed: peer, asked, both, rows")
        );
    }
}
