//! From what must hold on a link to numbers: how long blocks are, how many repair symbols leave at once, how many leave late.
//!
//! [`choose`](choose::choose) is the plan for targets and a link as it is; [`planner`] follows a link as it changes and keeps
//! still while it only trembles. [`unreached`] says which target cannot be reached and what would reach it. [`prediction`]
//! computes what a plan is worth: the interruption that a block survives with certainty, and the chance that it is lost.
//!
//! Nothing here measures or sends. Late repair symbols are not in a plan: the sender counts them from the moments at which
//! the block's symbols left; [`late_symbols`] is what it will find.

pub mod choose;
pub mod early;
pub mod held;
pub mod planner;
pub mod prediction;
#[cfg(test)]
mod tests;
pub mod unreached;

use std::time::Duration;

use crate::fec::burst;

pub use crate::fec::gilbert_elliott::GilbertElliott;
pub use crate::fec::plan::Plan;
pub use choose::choose;
pub use planner::Planner;
pub use unreached::{Cause, Remedy, Target, Unreached};

/// The time after which a lone packet's block closes, and the time that a block may take without a reason to be longer.
pub const CLOSE_WHEN_IDLE: Duration = Duration::from_micros(50);
/// See [`CLOSE_WHEN_IDLE`].
pub const CLOSE_AFTER: Duration = Duration::from_micros(500);
/// Repair of up to so many bytes a second, 2.5 Mbit/s, is always allowed.
pub const FREE_REPAIR: f64 = 312_500.0;
/// A loss beyond this is a broken link; nothing is planned for it.
pub const MOST_LOSS: f64 = 0.5;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Targets {
    /// The chance that a block is lost is at most this; none: no such promise.
    pub residual: Option<f64>,
    /// An interruption of this length, at any moment, loses nothing that is called protected.
    pub survive_burst: Duration,
    /// Repair bytes are at most this share of the source bytes, over a second.
    pub max_overhead: f64,
    /// Each block gets at least this many repair symbols.
    pub min: usize,
}

/// Within what a plan must stay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The most source symbols of a block.
    pub block_symbols: usize,
    /// The longest time that a block may take.
    pub close_after: Duration,
    /// Close times of short blocks; the latter is at most `close_after`.
    pub base_close_when_idle: Duration,
    /// See `base_close_when_idle`.
    pub base_close_after: Duration,
    /// Bytes of a symbol, as it is on the average.
    pub symbol_bytes: usize,
}

/// A link, as measured or assumed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// The share of datagrams that is lost at most: the upper confidence bound, or what is assumed until then.
    pub loss: f64,
    /// How the link loses in bursts, where that is known.
    pub bursts: Option<GilbertElliott>,
    /// Source symbols that we send a second, on the average over a second.
    pub symbols_per_second: f64,
    /// Losses come from a full queue: more repair would make them worse.
    pub congested: bool,
    /// The peer accepts repair symbols that come late.
    pub peer_knows_late: bool,
}

impl Link {
    /// A link of which nothing is known but what the configuration assumes.
    pub fn assumed(loss: f64) -> Self {
        Self { loss, bursts: None, symbols_per_second: 0.0, congested: false, peer_knows_late: true }
    }
}

/// How blocks are cut and protected.
#[derive(Clone, Debug, PartialEq)]
pub struct SendPlan {
    /// A block closes when it has this many source symbols ...
    pub block_symbols: usize,
    /// ... or when nothing more has come for this long ...
    pub close_when_idle: Duration,
    /// ... or this long after its first byte.
    pub close_after: Duration,
    /// The repair symbols that leave when a block closes, for each number of source symbols.
    pub repair: Plan,
    /// Late repair leaves so long after the early one; zero: there is none.
    pub survive_burst: Duration,
    /// The targets that are not reached; none are when this is empty.
    pub unreached: Vec<Unreached>,
}

impl SendPlan {
    /// Whether the target is reached, or was not asked for.
    pub fn reaches(&self, target: Target) -> bool {
        self.unreached.iter().all(|unreached| unreached.target != target)
    }

    /// What is called protected is what was asked for. The overhead is another matter.
    pub fn keeps_promise(&self) -> bool {
        self.reaches(Target::Residual) && self.reaches(Target::SurviveBurst)
    }

    /// Source symbols of the blocks that an even stream of this many symbols a second is cut into.
    pub fn symbols_at(&self, symbols_per_second: f64) -> usize {
        symbols_within(self.close_after, symbols_per_second, self.block_symbols)
    }

    /// Early and late repair symbols per source symbol of an even stream.
    pub fn overhead_at(&self, symbols_per_second: f64) -> f64 {
        let k = self.symbols_at(symbols_per_second);
        let late = late_symbols(k, apart(symbols_per_second), self.survive_burst);
        (self.repair.repair_symbols(k) + late) as f64 / k as f64
    }
}

/// The late repair symbols of a block of `k` source symbols that leave `apart` from each other. The early ones leave with the
/// last source symbol, and an interruption at that moment takes them all, with the source symbols of its length before. One
/// more, because symbols leave a little earlier or later than they are counted.
pub fn late_symbols(k: usize, apart: Duration, survive_burst: Duration) -> usize {
    if survive_burst.is_zero() {
        return 0;
    }
    if apart.is_zero() {
        return k;
    }
    let window = burst::provided_for(survive_burst) + burst::LAG_MIN;
    let within = window.as_nanos().div_ceil(apart.as_nanos());
    usize::try_from(within).map_or(k, |within| within.saturating_add(1).min(k))
}

/// The time between two symbols of an even stream; a day where nothing is sent.
pub fn apart(symbols_per_second: f64) -> Duration {
    const DAY: f64 = 86_400.0;
    // A rate that is no number counts as none.
    let seconds = if symbols_per_second > DAY.recip() { symbols_per_second.recip() } else { DAY };
    Duration::from_secs_f64(seconds)
}

/// The symbols of an even stream that leave within `time`: at least 1, at most `most`.
fn symbols_within(time: Duration, symbols_per_second: f64, most: usize) -> usize {
    // A cast of a float keeps to the range of the integer, and makes 0 of what is no number.
    ((time.as_secs_f64() * symbols_per_second) as usize).clamp(1, most.max(1))
}
