//! E2: the residual loss. Blocks through the encoder and the decoder of the product, with losses drawn by the emulator's
//! models, and the formulas from which the product plans its repair: does what is counted agree with what is computed?
//!
//! No network is built. Chances that no count can reach are found by importance sampling through the same code. The controls
//! are wrong formulas, which the same counts must refute.
//!
//! Start with [`run`]; [`blocks`] loses and rebuilds.

mod blocks;

use std::time::{Duration, Instant};

use rand::{SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};

use self::blocks::{Coder, Estimate, Link, Losses, Shape, importance_sampled};
use super::Stage;
use crate::{
    fec::residual::residual,
    lab::{
        binomial::clopper_pearson,
        error::LabError,
        plot::{Plot, PlotLine, Scale},
        report::Report,
        wan::interruptions::Timed,
    },
};

/// Blocks of each cell.
const BLOCKS: u32 = 1_000_000;
const CONFIDENCE: f64 = 0.99;
/// Blocks of the rarest chance that is sampled, and of each point of the plot.
const SAMPLED: u32 = 200_000;
const SAMPLED_POINT: u32 = 20_000;
/// The rarest: RS(32,8) at 0.1 %, from exact rational arithmetic.
const RAREST: (Shape, f64, f64) = (Shape { k: 32, m: 8 }, 0.001, 2.66e-19);
const RAREST_WITHIN: f64 = 0.05;
/// The plot: blocks of this many source symbols, over the repair symbols.
const PLOTTED_SOURCE: usize = 32;
const PLOTTED_REPAIR: std::ops::RangeInclusive<usize> = 0..=8;
const PLOTTED_LOSSES: [f64; 3] = [0.001, 0.01, 0.05];
/// A point of the plot may be off by this many standard errors.
const POINT_ERRORS: f64 = 5.0;

const US: Duration = Duration::from_micros(1);
const MS: Duration = Duration::from_millis(1);

/// A link, a block, and how many of the blocks were lost.
struct Cell {
    name: &'static str,
    shape: Shape,
    link: Link,
    blocks: u64,
    lost: u64,
}

impl Cell {
    fn new(name: &'static str, k: usize, m: usize, link: Link) -> Self {
        Self { name, shape: Shape { k, m }, link, blocks: 0, lost: 0 }
    }

    fn interval(&self) -> [f64; 2] {
        clopper_pearson(self.lost, self.blocks, CONFIDENCE)
    }

    fn agrees_with(&self, chance: f64) -> bool {
        let [low, high] = self.interval();
        (low..=high).contains(&chance)
    }
}

/// Symbols that leave one after the other.
fn evenly(symbols: u32, apart: Duration) -> Vec<Duration> {
    (0..symbols).map(|number| apart * number).collect()
}

/// The loss is so high, or the bursts are so frequent, that enough blocks of a million are lost to count them.
fn cells() -> Vec<Cell> {
    let single = |name, k, m, loss| Cell::new(name, k, m, Link::Independent(loss));
    let burst = |name, k, m, link: (Duration, Duration, f64, f64), schedule| {
        let (good, bad, bad_loss, good_loss) = link;
        Cell::new(name, k, m, Link::Bursts(Timed { good, bad, bad_loss, good_loss }, schedule))
    };
    let trains = (0..10).flat_map(|train| [500 * US * train; 8]).collect();
    let commit = [[Duration::ZERO; 4], [2 * MS; 4]].concat();
    vec![
        single("5 %", 32, 6, 0.05),
        single("8 %", 32, 8, 0.08),
        single("10 %", 64, 16, 0.10),
        single("15 %", 16, 10, 0.15),
        burst("interruptions of 3 ms, a stream", 32, 8, (997 * MS, 3 * MS, 1.0, 0.0), evenly(40, MS)),
        burst("half lost for 5 ms, 1 % else", 32, 8, (95 * MS, 5 * MS, 0.5, 0.01), evenly(40, 200 * US)),
        burst("interruptions of 1 ms, a lone commit sent twice, 2 ms apart", 4, 4, (199 * MS, MS, 1.0, 0.0), commit),
        burst("80 % lost for 2 ms, trains of 8", 64, 16, (398 * MS, 2 * MS, 0.8, 0.001), trains),
    ]
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let blocks = stage.options.trials.unwrap_or(BLOCKS);
    let part = f64::from(blocks.min(BLOCKS)) / f64::from(BLOCKS);
    let sampled = (f64::from(SAMPLED) * part).max(20_000.0) as u32;
    let sampled_point = (f64::from(SAMPLED_POINT) * part).max(2_000.0) as u32;
    stage.say(&format!(
        "residual: {blocks} blocks of random bytes through the product's encoder and decoder for each link. How many of them\n\
         cannot be rebuilt, and does the formula agree? Seed {}. No network is needed.\n",
        stage.options.seed
    ));
    let mut cells = cells();
    for (number, cell) in cells.iter_mut().enumerate() {
        let mut rng = SmallRng::seed_from_u64(stage.options.seed.wrapping_mul(1009).wrapping_add(number as u64));
        count(stage, cell, blocks, &mut rng)?;
        stage.say(&format!("  {}: {} of {} lost", cell.name, cell.lost, cell.blocks));
    }
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let rarest = importance_sampled(RAREST.0, RAREST.1, sampled, &mut rng)?;
    let mut points = Vec::new();
    for (loss, m) in PLOTTED_LOSSES.into_iter().flat_map(|loss| PLOTTED_REPAIR.map(move |m| (loss, m))) {
        stage.trace.check_stop()?;
        let shape = Shape { k: PLOTTED_SOURCE, m };
        points.push(Point { loss, m, found: importance_sampled(shape, loss, sampled_point, &mut rng)? });
    }
    Ok(report(&cells, rarest, &points))
}

fn count(stage: &Stage<'_>, cell: &mut Cell, blocks: u32, rng: &mut SmallRng) -> Result<(), LabError> {
    let Shape { k, m } = cell.shape;
    let (mut coder, mut losses) = (Coder::new(cell.shape), Losses::new(&cell.link, rng));
    let mut lost = vec![false; k + m];
    let mut said = Instant::now();
    for number in 0..blocks {
        if number % 4096 == 0 {
            stage.trace.check_stop()?;
            if said.elapsed() > Duration::from_secs(5) {
                stage.say(&format!("    {number} of {blocks}"));
                said = Instant::now();
            }
        }
        losses.next_block(&mut lost, rng);
        cell.lost += u64::from(!coder.survives(&lost, rng)?);
        cell.blocks += 1;
    }
    Ok(())
}

/// A sampled point of the plot.
struct Point {
    loss: f64,
    m: usize,
    found: Estimate,
}

impl Point {
    fn expected(&self) -> f64 {
        residual(PLOTTED_SOURCE, self.m, self.loss)
    }

    /// How far it is from the formula, in standard errors.
    fn off(&self) -> f64 {
        (self.found.chance - self.expected()).abs() / self.found.error.max(self.expected() * 1e-3)
    }
}

fn report(cells: &[Cell], rarest: Estimate, points: &[Point]) -> Report {
    let mut report = Report::default();
    for cell in cells {
        let (expected, wrong) = (cell.link.expected(cell.shape), cell.link.wrong(cell.shape));
        let [low, high] = cell.interval();
        let found = format!("{} of {}: {low:.3e} to {high:.3e}", cell.lost, cell.blocks);
        let (claim, name) = (format!("the formula's {expected:.3e} is inside the 99 % interval"), cell.name);
        report.claim(format!("{name}: {claim}"), found.clone(), cell.agrees_with(expected) && cell.lost > 0);
        let of = match cell.link {
            Link::Independent(_) => "one repair symbol more",
            Link::Bursts(..) => "single losses",
        };
        let claim = format!("control: {name}: the formula for {of}, {wrong:.3e}, is outside");
        report.claim(claim, found, !cell.agrees_with(wrong));
    }
    let off = (rarest.chance / RAREST.2 - 1.0).abs();
    let (Shape { k, m }, loss, expected) = RAREST;
    report.claim(
        format!("importance sampling of RS({k},{m}) at {} % gives {expected:.2e} within 5 %", loss * 100.0),
        format!("{:.3e} +- {:.0e}", rarest.chance, rarest.error),
        off <= RAREST_WITHIN,
    );
    let worst = points.iter().map(Point::off).fold(0.0, f64::max);
    let claim = format!("each point of the plot is within {POINT_ERRORS} standard errors of the formula");
    report.claim(claim, format!("{worst:.1} at most"), worst <= POINT_ERRORS && !points.is_empty());
    report.table(
        &["link", "k, m", "blocks", "lost", "99 % interval", "formula", "wrong formula"],
        cells.iter().map(|cell| {
            let ([low, high], Shape { k, m }) = (cell.interval(), cell.shape);
            vec![
                cell.name.to_owned(),
                format!("{k}, {m}"),
                cell.blocks.to_string(),
                cell.lost.to_string(),
                format!("{low:.3e} to {high:.3e}"),
                format!("{:.3e}", cell.link.expected(cell.shape)),
                format!("{:.3e}", cell.link.wrong(cell.shape)),
            ]
        }),
    );
    report.metric("cells", cells.iter().map(to_json).collect::<Vec<Value>>());
    report.metric(
        "rarest",
        json!({ "source_symbols": k, "repair_symbols": m, "loss": loss, "expected": expected, "sampled": rarest.chance,
                "standard_error": rarest.error }),
    );
    let sampled = points.iter().map(|point| {
        json!({ "loss": point.loss, "source_symbols": PLOTTED_SOURCE, "repair_symbols": point.m,
                "expected": point.expected(), "sampled": point.found.chance, "standard_error": point.found.error })
    });
    report.metric("sampled", sampled.collect::<Vec<Value>>());
    report.draw(plot(points));
    report
}

fn plot(points: &[Point]) -> Plot {
    let line = |loss: f64, is_dashed: bool| {
        let of_loss = points.iter().filter(|point| point.loss == loss);
        let y = |point: &Point| if is_dashed { point.expected() } else { point.found.chance };
        let kind = if is_dashed { "formula" } else { "sampled" };
        PlotLine {
            name: format!("{} %, {kind}", loss * 100.0),
            is_dashed,
            points: of_loss.map(|point| (point.m as f64, y(point))).collect(),
        }
    };
    Plot {
        title: format!("Chance to lose a block of {PLOTTED_SOURCE} source symbols"),
        across: "repair symbols".to_owned(),
        upwards: "chance".to_owned(),
        scale: Scale::Logarithmic,
        lines: PLOTTED_LOSSES.into_iter().flat_map(|loss| [line(loss, true), line(loss, false)]).collect(),
    }
}

fn to_json(cell: &Cell) -> Value {
    let [low, high] = cell.interval();
    json!({
        "link": cell.name,
        "source_symbols": cell.shape.k,
        "repair_symbols": cell.shape.m,
        "blocks": cell.blocks,
        "lost": cell.lost,
        "interval_low": low,
        "interval_high": high,
        "expected": cell.link.expected(cell.shape),
        "wrong_formula": cell.link.wrong(cell.shape),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn as_expected() -> (Vec<Cell>, Estimate, Vec<Point>) {
        let mut cells = cells();
        for cell in &mut cells {
            cell.blocks = 1_000_000;
            cell.lost = (cell.link.expected(cell.shape) * 1e6).round() as u64;
        }
        let points = vec![Point { loss: 0.01, m: 3, found: Estimate { chance: 0.0, error: 0.0 } }];
        let points: Vec<_> = points
            .into_iter()
            .map(|point| Point { found: Estimate { chance: point.expected(), error: 1e-9 }, ..point })
            .collect();
        (cells, Estimate { chance: 2.66e-19, error: 1e-21 }, points)
    }

    #[test]
    fn counts_as_expected_pass_and_refute_the_wrong_formulas() {
        let (cells, rarest, points) = as_expected();
        for cell in &cells {
            assert!((50..100_000).contains(&cell.lost), "{}: {} can be counted", cell.name, cell.lost);
        }
        let report = report(&cells, rarest, &points);
        assert!(report.passes(), "{}", report.to_text("residual"));
    }

    #[test]
    fn a_count_outside_a_wrong_sample_and_too_few_blocks_fail() {
        let (mut cells, rarest, points) = as_expected();
        cells[4].lost = cells[4].lost * 5 / 4 + 10;
        assert!(!report(&cells, rarest, &points).passes());
        let (mut cells, rarest, points) = as_expected();
        (cells[0].blocks, cells[0].lost) = (100, 0);
        assert!(!report(&cells, rarest, &points).passes(), "so few blocks refute nothing");
        let (cells, rarest, mut points) = as_expected();
        assert!(!report(&cells, Estimate { chance: 2.9e-19, ..rarest }, &points).passes());
        points[0].found.chance *= 1.1;
        assert!(!report(&cells, rarest, &points).passes());
    }
}
