//! What the appliance follows, and what became of the last candidate (`onwire apply`), for people and programs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The file of the configuration, and the last candidate.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ConfigurationStatus {
    /// Where the appliance reads its configuration.
    pub file: String,
    /// SHA-256 of the text that it follows: that of the file, unless one of them has changed.
    pub sha256: String,
    /// The last candidate; `None` before the first.
    pub candidate: Option<CandidateStatus>,
}

/// A candidate, since it was followed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CandidateStatus {
    /// Where it stands.
    pub state: CandidateState,
    /// How long until it goes back by itself; `None` if it does not.
    pub goes_back_in_s: Option<f64>,
    /// SHA-256 of its text.
    pub sha256: String,
    /// SHA-256 of the text that was followed before.
    pub before_sha256: String,
    /// What it changes, or why it went back: for people.
    pub text: String,
}

impl CandidateStatus {
    /// For people: where it stands, and what it changes.
    pub fn words(&self) -> String {
        let Self { state, goes_back_in_s, text, .. } = self;
        match state {
            CandidateState::Unconfirmed => {
                let left = goes_back_in_s.unwrap_or_default().ceil();
                format!("unconfirmed, goes back in {left} s unless `onwire confirm` keeps it: {text}")
            }
            CandidateState::GoingBack => format!("GOING BACK, tries each second: {text}"),
            CandidateState::WentBack => format!("went back: {text}"),
            CandidateState::Confirmed => {
                format!("confirmed, but NOT IN THE FILE, a restart runs the one before: run `onwire confirm`: {text}")
            }
            CandidateState::Saved => format!("confirmed: {text}"),
        }
    }
}

/// Where a candidate stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CandidateState {
    #[default]
    /// It is followed, and goes back unless it is confirmed.
    Unconfirmed,
    /// It is followed no more, or by some lanes alone; the way back is tried each second.
    GoingBack,
    /// What was before is followed again.
    WentBack,
    /// It is followed and stays, but the file is not replaced yet: a restart runs the one before.
    Confirmed,
    /// It is followed and is in the file.
    Saved,
}
