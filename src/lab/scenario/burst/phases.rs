//! The bound in time: an interruption of the link at every phase of a lone commit and of a stream.
//!
//! Each trial is a new UDP flow, because nothing of UDP is sent again: what was called protected and is missing was lost. The
//! interruption is set first, the flow is sent around it, at a random phase.

use std::{
    thread,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use super::bench::Bench;
use crate::lab::{
    error::LabError, monotonic::Monotonic, network::Network, report::Report, scenario::Stage, times::Times,
    workload::numbered::NumberedFlow,
};

/// What is promised to survive, and the lengths of the interruptions.
const PROMISED: Duration = Duration::from_millis(2);
const LENGTHS: [Duration; 3] = [Duration::from_millis(1), PROMISED, Duration::from_millis(4)];
/// The interruption begins up to this long after the last late symbol may leave, and up to its own length before the commit.
const BEYOND: Duration = Duration::from_millis(1);
/// From the order to the earliest beginning of what is sent.
const LEAD: Duration = Duration::from_millis(12);
/// A commit: a few packets at once.
const COMMIT_PACKETS: std::ops::RangeInclusive<u32> = 1..=4;
const COMMIT_BYTES: std::ops::RangeInclusive<usize> = 150..=1300;
/// The stream: 200 Mbit/s for so long, with the interruption in its middle.
const STREAM_RATE: f64 = 200e6;
const STREAM: Duration = Duration::from_millis(60);
const STREAM_PACKET: usize = 1300;
const STREAM_STEP: Duration = Duration::from_micros(250);
/// A thread sleeps until this long before a moment, then watches the clock.
const WATCHED: Duration = Duration::from_micros(300);

/// What is interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    Commit,
    Stream,
}

impl Load {
    pub const ALL: [Self; 2] = [Self::Commit, Self::Stream];

    pub fn name(self) -> &'static str {
        match self {
            Self::Commit => "lone commits",
            Self::Stream => "a stream at 200 Mbit/s",
        }
    }
}

/// How blocks are repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    SurviveBurst,
    Fixed,
}

impl Repair {
    /// The second is the control.
    pub const ALL: [Self; 2] = [Self::SurviveBurst, Self::Fixed];

    pub fn name(self) -> &'static str {
        match self {
            Self::SurviveBurst => "survive_burst: 2ms",
            Self::Fixed => "fixed: 4",
        }
    }

    fn profile(self) -> (&'static str, u32) {
        match self {
            // A lone commit needs more than all of itself again.
            Self::SurviveBurst => ("{ survive_burst: 2ms, max_overhead: 400%, min: 2 }", 512),
            Self::Fixed => ("{ fixed: 4 }", 32),
        }
    }

    fn lengths(self) -> &'static [Duration] {
        match self {
            Self::SurviveBurst => &LENGTHS,
            Self::Fixed => &LENGTHS[..1],
        }
    }
}

/// All trials with one load, repair and length.
#[derive(Debug)]
pub struct Cell {
    pub load: Load,
    pub repair: Repair,
    pub length: Duration,
    /// Trials that were wanted, and those that count.
    wanted: u32,
    pub trials: u32,
    /// Trials that do not count, because the emulator did not see when datagrams came.
    pub unseen: u32,
    /// Trials in which the interruption took a datagram.
    pub hit: u32,
    pub swallowed: u64,
    /// Trials that were called protected; of these, those that lost packets, and those of them with a violation told.
    pub protected: u32,
    pub lossy: u32,
    pub told: u32,
    /// Packets that were called protected and are missing.
    pub missing: u64,
    pub waits: Times,
}

/// Where the emulator did not look for longer than this, on a busy machine, datagrams may seem to come closer together than
/// they came.
const UNSEEN_MAX: Duration = Duration::from_micros(200);
/// A control shows that something is lost, which does not take more trials than this.
const CONTROL_TRIALS: u32 = 100;
/// So many times more trials than wanted may be unseen.
const UNSEEN_TRIALS_MAX: u32 = 4;

/// Measures all loads with a repair.
pub fn measure(stage: &Stage<'_>, network: &Network<'_>, repair: Repair, trials: u32) -> Result<Vec<Cell>, LabError> {
    let (text, block_symbols) = repair.profile();
    let label = if repair == Repair::Fixed { "fixed" } else { "survive" };
    let mut bench = Bench::start(stage, network, label, (text, "", block_symbols))?;
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let mut cells = Vec::new();
    for (load, length) in Load::ALL.into_iter().flat_map(|load| repair.lengths().iter().map(move |it| (load, *it))) {
        let mut cell = Cell::new(load, repair, length);
        cell.wanted = if cell.is_promised() { trials } else { trials.min(CONTROL_TRIALS) };
        let wanted = cell.wanted;
        let mut said = Instant::now();
        while cell.trials < wanted && cell.unseen < UNSEEN_TRIALS_MAX * wanted {
            let number = cell.trials;
            stage.trace.check_stop()?;
            if said.elapsed() > Duration::from_secs(5) {
                stage.say(&format!("    {number} of {wanted}"));
                said = Instant::now();
            }
            if let Some(surprise) = trial(&mut bench, &mut cell, &mut rng)? {
                stage.say(&format!("    trial {number}: {surprise}"));
            }
        }
        stage.say(&format!(
            "  {}, {}, {length:?}: {} of {} protected lost something, {} hit",
            repair.name(),
            load.name(),
            cell.lossy,
            cell.protected,
            cell.hit
        ));
        cells.push(cell);
    }
    bench.end()?;
    Ok(cells)
}

/// One flow and one interruption; returns a description if something called protected was lost that should not be.
fn trial(bench: &mut Bench<'_>, cell: &mut Cell, rng: &mut SmallRng) -> Result<Option<String>, LabError> {
    let (mut flow, violations) = bench.begin()?;
    // The later the interruption begins, the more has left before it. All phases that can matter are as likely.
    let earliest = -cell.length.as_secs_f64();
    let phase = match cell.load {
        Load::Commit => rng.random_range(earliest..(PROMISED + BEYOND).as_secs_f64()),
        Load::Stream => rng.random_range(0.3..0.7) * STREAM.as_secs_f64(),
    };
    let room = Duration::from_secs_f64(phase.max(0.0));
    let interrupt = bench.wan()?.interrupt(cell.length, LEAD + room);
    let window = interrupt.map_err(LabError::doing("order an interruption"))?;
    let from = Monotonic::now().to_instant(window.from_ns);
    let begin = if phase < 0.0 { from + Duration::from_secs_f64(-phase) } else { from - room };
    wait_until(begin);
    let late = begin.elapsed();
    match cell.load {
        Load::Commit => {
            for _ in 0..rng.random_range(COMMIT_PACKETS) {
                flow.send(rng.random_range(COMMIT_BYTES))?;
            }
        }
        Load::Stream => stream(&mut flow)?,
    }
    let packets = flow.packets;
    let judged = bench.judge(flow, violations)?;
    let seen = bench.wan()?.look_at(&window).map_err(LabError::doing("ask for an interruption"))?;
    if Duration::from_nanos(seen.unseen_ns) > UNSEEN_MAX {
        cell.unseen += 1;
        return Ok(None);
    }
    let swallowed = seen.swallowed;
    cell.trials += 1;
    cell.hit += u32::from(swallowed > 0);
    cell.swallowed += swallowed;
    let Some(wait) = judged.protected_after else { return Ok(None) };
    cell.protected += 1;
    cell.waits.record(wait);
    if judged.missing == 0 {
        return Ok(None);
    }
    cell.missing += judged.missing;
    cell.lossy += 1;
    cell.told += u32::from(judged.violations > 0);
    let is_promised = cell.repair == Repair::SurviveBurst && cell.length <= PROMISED;
    Ok((is_promised || judged.violations == 0).then(|| {
        format!(
            "{} of {packets} packets lost, {swallowed} datagrams swallowed, phase {:.3} ms, sent {late:?} late, protected \
             after {wait:?}, {} violations told",
            judged.missing,
            phase * 1e3,
            judged.violations
        )
    }))
}

fn wait_until(moment: Instant) {
    thread::sleep(moment.saturating_duration_since(Instant::now()).saturating_sub(WATCHED));
    while Instant::now() < moment {
        std::hint::spin_loop();
    }
}

fn stream(flow: &mut NumberedFlow) -> Result<(), LabError> {
    let begin = Instant::now();
    while begin.elapsed() < STREAM {
        let due = begin.elapsed().as_secs_f64() * STREAM_RATE / 8.0;
        while (flow.bytes as f64) < due {
            flow.send(STREAM_PACKET)?;
        }
        thread::sleep(STREAM_STEP);
    }
    Ok(())
}

impl Cell {
    fn new(load: Load, repair: Repair, length: Duration) -> Self {
        Self {
            load,
            repair,
            length,
            wanted: 0,
            trials: 0,
            unseen: 0,
            hit: 0,
            swallowed: 0,
            protected: 0,
            lossy: 0,
            told: 0,
            missing: 0,
            waits: Times::default(),
        }
    }

    /// An interruption of this length is promised to take nothing.
    fn is_promised(&self) -> bool {
        self.repair == Repair::SurviveBurst && self.length <= PROMISED
    }

    /// Adds the claims of the cell.
    pub fn claim(&self, report: &mut Report) {
        let Self { wanted, trials, unseen, protected, hit, lossy, told, .. } = self;
        let found = format!(
            "{lossy} of {protected} protected, of {trials} ({unseen} more unseen); {hit} were hit; told in {told}"
        );
        let name = format!("{}, {}, {:?}", self.repair.name(), self.load.name(), self.length);
        if self.is_promised() {
            // An interruption that meets nothing proves nothing, and neither does a trial that was not seen.
            let is_valid = *protected > 0 && 4 * hit >= *trials && trials >= wanted;
            report.claim(format!("{name}: nothing called protected is lost"), found, is_valid && *lossy == 0);
        } else {
            let claim = format!("control: {name}: some is lost, and each loss is told as a violation");
            report.claim(claim, found, *lossy > 0 && told == lossy);
        }
    }

    /// A row of the table.
    pub fn row(&self) -> Vec<String> {
        vec![
            self.repair.name().to_owned(),
            self.load.name().to_owned(),
            format!("{:?}", self.length),
            self.trials.to_string(),
            self.hit.to_string(),
            self.protected.to_string(),
            self.lossy.to_string(),
            self.told.to_string(),
            format!("{:.2} ms", self.waits.quantile(0.5).as_secs_f64() * 1e3),
        ]
    }

    /// The result as JSON.
    pub fn to_json(&self) -> Value {
        json!({
            "load": self.load.name(),
            "repair": self.repair.name(),
            "interruption_us": self.length.as_micros() as u64,
            "trials": self.trials,
            "unseen_trials": self.unseen,
            "hit": self.hit,
            "swallowed_datagrams": self.swallowed,
            "protected": self.protected,
            "trials_with_loss": self.lossy,
            "trials_with_violation_told": self.told,
            "missing_packets": self.missing,
            "wait_p50_us": self.waits.micros(0.5),
            "wait_p99_us": self.waits.micros(0.99),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(repair: Repair, length: Duration, lossy: u32, told: u32) -> Cell {
        let counted = Cell::new(Load::Commit, repair, length);
        Cell { trials: 100, hit: 60, protected: 90, lossy, told, missing: u64::from(lossy), ..counted }
    }

    #[test]
    fn a_broken_promise_and_a_control_that_loses_nothing_fail() {
        let passes = |cell: &Cell| {
            let mut report = Report::default();
            cell.claim(&mut report);
            report.passes()
        };
        let [short, promised, long] = LENGTHS;
        assert!(passes(&cell(Repair::SurviveBurst, promised, 0, 0)));
        assert!(!passes(&cell(Repair::SurviveBurst, promised, 1, 1)));
        assert!(!passes(&cell(Repair::SurviveBurst, short, 1, 1)));
        assert!(!passes(&Cell { hit: 3, ..cell(Repair::SurviveBurst, promised, 0, 0) }), "they met nothing");
        assert!(!passes(&Cell { wanted: 101, ..cell(Repair::SurviveBurst, promised, 0, 0) }), "too few were seen");
        assert!(!passes(&Cell { protected: 0, ..cell(Repair::SurviveBurst, promised, 0, 0) }), "nothing was promised");
        assert!(passes(&cell(Repair::SurviveBurst, long, 5, 5)));
        assert!(!passes(&cell(Repair::SurviveBurst, long, 5, 4)), "an untold loss");
        assert!(!passes(&cell(Repair::SurviveBurst, long, 0, 0)));
        assert!(!passes(&cell(Repair::Fixed, short, 0, 0)));
    }
}
