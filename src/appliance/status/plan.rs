//! The part of status about profiles that state targets: what is sent, and what is not reached.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A profile with targets toward one peer on one lane, for status.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct PlanStatus {
    /// The profile.
    pub profile: String,
    /// The lane.
    pub lane: usize,
    /// The most source symbols of a block.
    pub block_symbols: usize,
    /// How long a block may take, in microseconds.
    pub close_after_us: u64,
    /// Repair symbols that leave with the longest block.
    pub repair_symbols: usize,
    /// How much later the late repair symbols leave, in microseconds; 0: there are none.
    pub survive_burst_us: u64,
    /// Repair symbols per source symbol at the present rate.
    pub overhead: f64,
    /// Targets that are not reached, and what would reach them.
    pub unreached: Vec<String>,
    /// How often the plan has changed.
    pub changes: u64,
}
