//! What a plan is worth: the schedule of a block, the interruption that it survives, how likely it is lost, and when it is
//! protected. All of it follows from the plan and the link; nothing is measured here.

use std::time::Duration;

use super::{GilbertElliott, SendPlan, apart, late_symbols};
use crate::fec::burst::{longest_survived, provided_for};
use crate::fec::residual::residual;

/// The traffic that fills a block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Traffic {
    /// So many source symbols at once, and nothing behind them.
    Lone(usize),
    /// An even stream of so many source symbols a second.
    Stream(f64),
}

/// What leaves at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A source symbol.
    Source,
    /// A repair symbol that leaves when the block closes.
    Early,
    /// A repair symbol that leaves `survive_burst`, and what is provided beyond it, later.
    Late,
}

/// A block and its fate.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// What leaves when, in order, counted from the first symbol.
    pub schedule: Vec<(Duration, Kind)>,
    /// Source symbols.
    pub source: usize,
    /// Early repair symbols.
    pub early: usize,
    /// Late repair symbols.
    pub late: usize,
    /// From the first symbol until the block closes.
    pub closes: Duration,
    /// From then until the last repair symbol leaves.
    pub waits: Duration,
    /// The longest interruption that it survives with certainty.
    pub survives: Duration,
}

impl Prediction {
    /// The block that this traffic makes.
    pub fn new(plan: &SendPlan, traffic: Traffic) -> Self {
        let (source, between, closes) = match traffic {
            Traffic::Lone(symbols) if symbols >= plan.block_symbols => {
                (plan.block_symbols, Duration::ZERO, Duration::ZERO)
            }
            Traffic::Lone(symbols) => (symbols.max(1), Duration::ZERO, plan.close_when_idle.min(plan.close_after)),
            Traffic::Stream(rate) => {
                let (k, between) = (plan.symbols_at(rate), apart(rate));
                let last = between * (k as u32 - 1);
                (k, between, if k == plan.block_symbols { last } else { plan.close_after.max(last) })
            }
        };
        // An open block that nothing follows closes earlier.
        let closes = match traffic {
            Traffic::Stream(_) if source < plan.block_symbols && between > plan.close_when_idle => {
                closes.min(between * (source as u32 - 1) + plan.close_when_idle)
            }
            _ => closes,
        };
        let early = plan.repair.repair_symbols(source);
        let late = late_symbols(source, between, plan.survive_burst);
        let sources = (0..source as u32).map(|number| (between * number, Kind::Source));
        let waits = if late > 0 { provided_for(plan.survive_burst) } else { Duration::ZERO };
        let at = closes + waits;
        let schedule: Vec<_> = sources
            .chain(std::iter::repeat_n((closes, Kind::Early), early))
            .chain(std::iter::repeat_n((at, Kind::Late), late))
            .collect();
        let times: Vec<_> = schedule.iter().map(|(at, _)| *at).collect();
        Self { survives: longest_survived(&times, early + late), schedule, source, early, late, closes, waits }
    }

    /// All repair symbols.
    pub fn repair(&self) -> usize {
        self.early + self.late
    }

    /// Repair symbols per source symbol.
    pub fn overhead(&self) -> f64 {
        self.repair() as f64 / self.source as f64
    }

    /// The chance that the block is lost if each symbol is lost alone, with this chance.
    pub fn single_chance(&self, loss: f64) -> f64 {
        residual(self.source, self.repair(), loss)
    }

    /// The chance that the block is lost on a link with bursts.
    pub fn burst_chance(&self, link: &GilbertElliott) -> f64 {
        let times: Vec<_> = self.schedule.iter().map(|(at, _)| *at).collect();
        link.block_failure(&times, self.repair())
    }

    /// The schedule as one line: a letter for each symbol (`s` source, `e` early, `l` late), a dot for each pause of a
    /// column's time. Symbols that leave together are written behind each other, and many of them as a number.
    pub fn drawn(&self, columns: u32) -> String {
        let whole = self.schedule.last().map_or(Duration::ZERO, |(at, _)| *at);
        let column = (whole / columns.max(1)).max(Duration::from_nanos(1));
        let (mut line, mut end) = (String::new(), Duration::ZERO);
        let mut rest = &self.schedule[..];
        while let Some(&(begin, kind)) = rest.first() {
            let pause = (begin.saturating_sub(end).as_nanos() / column.as_nanos()) as usize;
            line.push_str(&".".repeat(pause.min(columns as usize)));
            let mut last = begin;
            let together = rest.iter().take_while(|(at, other)| {
                let near = *other == kind && at.saturating_sub(last) <= column;
                last = if near { *at } else { last };
                near
            });
            let count = together.count();
            end = rest[count - 1].0;
            let lasts = ((end - begin).as_nanos() / column.as_nanos()) as usize;
            let letter = match kind {
                Kind::Source => "s",
                Kind::Early => "e",
                Kind::Late => "l",
            };
            const SHOWN: usize = 8;
            line.push_str(&letter.repeat(count.min(SHOWN.max(lasts))));
            if count > SHOWN {
                line.push_str(&format!("({count})"));
            }
            rest = &rest[count..];
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::super::Plan;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn plan(survive_burst: Duration) -> SendPlan {
        SendPlan {
            block_symbols: 64,
            close_when_idle: MS / 20,
            close_after: MS * 10,
            repair: Plan::from_table(64, 0.01, vec![2; 64]),
            survive_burst,
            unreached: Vec::new(),
        }
    }

    #[test]
    fn a_lone_commit_survives_the_burst_and_waits_for_it() {
        let lone = Prediction::new(&plan(2 * MS), Traffic::Lone(4));
        assert_eq!((lone.source, lone.early, lone.late), (4, 2, 4));
        assert_eq!((lone.closes, lone.waits), (MS / 20, provided_for(2 * MS)));
        assert!(lone.survives >= 2 * MS);
        assert_eq!(lone.overhead(), 1.5);
        assert_eq!(lone.drawn(20), "ssssee...................llll");
        let early = Prediction::new(&plan(Duration::ZERO), Traffic::Lone(4));
        assert_eq!((early.late, early.waits, early.survives), (0, Duration::ZERO, Duration::ZERO));
        assert_eq!(Prediction::new(&plan(MS), Traffic::Lone(1000)).source, 64);
    }

    #[test]
    fn a_stream_survives_the_burst_at_its_rate() {
        let stream = Prediction::new(&plan(2 * MS), Traffic::Stream(10_000.0));
        assert_eq!((stream.source, stream.early, stream.late), (64, 2, 28));
        assert!(stream.survives >= 2 * MS, "{:?}", stream.survives);
        assert_eq!(stream.closes, MS / 10 * 63);
        assert!(stream.drawn(40).contains("(64)ee") && stream.drawn(40).ends_with("llllllll(28)"));
        let slow = Prediction::new(&plan(2 * MS), Traffic::Stream(100.0));
        assert_eq!((slow.source, slow.closes), (1, MS / 20), "nothing comes for longer than the block waits");
    }

    #[test]
    fn the_chances_are_those_of_the_code() {
        let lone = Prediction::new(&plan(MS), Traffic::Lone(4));
        assert_eq!(lone.single_chance(0.01), residual(4, 6, 0.01));
        let link = GilbertElliott::new(0.01, MS, 0.01, MS).unwrap();
        assert!((lone.burst_chance(&link) / residual(4, 6, 0.01) - 1.0).abs() < 1e-9);
    }
}
