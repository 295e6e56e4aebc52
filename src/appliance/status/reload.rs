//! How reloads of the configuration ended, for people and programs.

use serde::{Deserialize, Serialize};

/// The last reload, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReloadStatus {
    /// Reloads that were asked for since the start.
    pub attempts: u64,
    /// How the last one ended; `None` before the first.
    pub last: Option<Outcome>,
}

/// How a reload ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The appliance follows what it has read; else it goes on as before.
    pub is_good: bool,
    /// When, in seconds since 1970.
    pub at_s: f64,
    /// What has changed, or why nothing has: lines for people.
    pub text: String,
}
