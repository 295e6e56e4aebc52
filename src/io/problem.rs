//! Something that is not well with a process at this moment, as `onwire status --check` and the path `/healthz` of its
//! metrics port say it. What that is, each program decides about itself.

use serde::Serialize;

use super::since::Since;

/// Something that is not well.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Problem {
    /// Whose: `node.name` of an appliance, or `gates`.
    pub process: String,
    /// What it is.
    pub text: String,
    /// Since when, where that is known.
    pub since: Option<Since>,
}

impl Problem {
    /// On one line: `ithaca: peer syracuse is silent`.
    pub fn words(&self) -> String {
        format!("{}: {}", self.process, self.text).replace(char::is_control, " ")
    }
}
