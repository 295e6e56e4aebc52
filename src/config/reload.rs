//! How reloads of a configuration end: what the log says, what status shows, and what `onwire reload` waits for. An appliance and a
//! gate process share it; each follows its own file.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::changes::{Change, Takes};

/// The last reload, and how many there were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ReloadStatus {
    /// Reloads that were asked for since the start.
    pub attempts: u64,
    /// How the last one ended; `None` before the first.
    pub last: Option<Outcome>,
}

/// How a reload ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Outcome {
    /// The process follows what it has read; else it goes on as before.
    pub is_good: bool,
    /// When, in seconds since 1970.
    pub at_s: f64,
    /// What has changed, or why nothing has: lines for people.
    pub text: String,
}

/// Why a reload failed, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is not the time for it.
    Refused(String),
    /// All is as before.
    Unchanged(String),
    /// Neither the new configuration nor the one before could be followed by all lanes.
    HalfDone(String),
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Unchanged(text)
    }
}

/// How the reloads of a process have ended so far.
#[derive(Debug)]
pub struct Reloads {
    file: Option<PathBuf>,
    status: ReloadStatus,
}

impl Reloads {
    /// None yet. `None` for a process that was started with options instead of a file.
    pub fn new(file: Option<PathBuf>) -> Self {
        Self { file, status: ReloadStatus::default() }
    }

    /// How the last one ended.
    pub fn last(&self) -> Option<&Outcome> {
        self.status.last.as_ref()
    }

    /// For status.
    pub fn status(&self) -> ReloadStatus {
        self.status.clone()
    }

    /// A reload has ended, well with what has changed. Logs and remembers it.
    pub fn on_end(&mut self, ended: Result<String, Failure>) {
        let file = self.file.as_ref().map_or("the configuration".to_owned(), |file| file.display().to_string());
        let check = match &self.file {
            Some(_) => format!("; `onwire check {file}` checks the file"),
            None => String::new(),
        };
        let (is_good, text) = match ended {
            Ok(text) => (true, text),
            Err(Failure::Refused(text)) => (false, format!("{text}\nnothing has changed")),
            Err(Failure::Unchanged(text)) => (false, format!("{}\nnothing has changed{check}", text.trim_end())),
            Err(Failure::HalfDone(text)) => (
                false,
                format!("{text}\nsome lanes follow the new file and some the old one: reload again, or restart"),
            ),
        };
        match is_good {
            true => tracing::info!("{file} reloaded: {text}"),
            false => {
                tracing::error!("{file} was not reloaded");
                text.lines().for_each(|line| tracing::error!("{line}"));
            }
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.status.attempts += 1;
        self.status.last = Some(Outcome { is_good, at_s: at.as_secs_f64(), text });
    }
}

/// What has changed, in words.
pub fn words(changes: &[Change]) -> String {
    match changes {
        [] => "nothing has changed".to_owned(),
        changes => changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// Refuses changes that need a restart.
///
/// # Errors
/// All of them, by their keys.
pub fn refuse_fixed(changes: &[Change]) -> Result<(), String> {
    let fixed: Vec<_> =
        changes.iter().filter(|change| change.takes == Takes::Restart).map(|change| &change.key[..]).collect();
    match &fixed[..] {
        [] => Ok(()),
        fixed => Err(format!(
            "cannot change while onwire runs: {}; restart onwire, or take the change back",
            fixed.join(", ")
        )),
    }
}
