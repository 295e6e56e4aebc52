//! Hooks in status: what each is run for, and how its runs went.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::hooks::{Hook, HookEvent};

/// A hook.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HookStatus {
    /// The program.
    pub program: String,
    /// What it is run for: `link`, `violation`, `drain`.
    pub on: Vec<String>,
    /// The process that runs it; `None` when that has ended, and the hook is not run any more.
    pub pid: Option<u32>,
    /// Runs that have ended, and starts that failed.
    pub runs: u64,
    /// Those of them that did not end with exit code 0.
    pub failed: u64,
    /// Those of them that took longer than `time_limit`.
    pub overdue: u64,
    /// Events that became part of a later run, because the hook was still running.
    pub merged: u64,
    /// Events that were dropped because too many waited.
    pub dropped: u64,
    /// How the last run ended.
    pub last: Option<String>,
}

impl HookStatus {
    /// Of a hook that was not run yet.
    pub fn new(hook: &Hook, pid: u32) -> Self {
        Self {
            program: hook.program.display().to_string(),
            on: hook.on.iter().copied().map(HookEvent::name).map(str::to_owned).collect(),
            pid: Some(pid),
            ..Self::default()
        }
    }
}
