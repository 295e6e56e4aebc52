//! What the process of a hook reports of a run.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Event;
use crate::io::hook::End;

/// How a run went.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `link`, `violation` or `drain`.
    pub event: String,
    /// The peer.
    pub peer: String,
    /// Events before that are part of this one.
    pub merged: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub took_ms: u64,
    /// The beginning of what it has written; what is no text is replaced.
    pub output: String,
    /// Bytes that it has written beyond.
    pub output_left_out: u64,
    /// Processes that it has left behind and that could not be ended.
    pub left: usize,
    /// Events that were dropped since the start because too many waited.
    pub dropped: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// By itself, with this exit code.
    Exited(i32),
    /// By this signal, which we have not sent.
    Signalled(i32),
    /// It took longer than `time_limit`, and was ended.
    Overdue,
    /// It could not be started, for this reason.
    NotStarted(String),
}

impl Report {
    /// Of a run that has ended.
    pub fn of_end(event: &Event, end: End, dropped: u64) -> Self {
        let outcome = match (end.is_overdue, end.code, end.signal) {
            (true, ..) => Outcome::Overdue,
            (false, Some(code), _) => Outcome::Exited(code),
            (false, None, signal) => Outcome::Signalled(signal.unwrap_or_default()),
        };
        let output = String::from_utf8_lossy(&end.output).trim_end().to_owned();
        Self {
            output,
            output_left_out: end.output_left_out,
            left: end.left,
            ..Self::of(event, outcome, end.took, dropped)
        }
    }

    /// Of a run that did not begin.
    pub fn of_failed_start(event: &Event, error: String, dropped: u64) -> Self {
        Self::of(event, Outcome::NotStarted(error), Duration::ZERO, dropped)
    }

    fn of(event: &Event, outcome: Outcome, took: Duration, dropped: u64) -> Self {
        Self {
            event: event.fact.kind().name().to_owned(),
            peer: event.peer.clone(),
            merged: event.merged,
            outcome,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            output: String::new(),
            output_left_out: 0,
            left: 0,
            dropped,
        }
    }
}

impl Outcome {
    /// It did what it was run for.
    pub fn is_good(&self) -> bool {
        *self == Self::Exited(0)
    }

    /// In words, for the log and status.
    pub fn words(&self, limit: Duration) -> String {
        match self {
            Self::Exited(code) => format!("ended with exit code {code}"),
            Self::Signalled(signal) => format!("was ended by signal {signal}"),
            Self::Overdue => format!("took longer than its time_limit of {limit:?}, and was ended"),
            Self::NotStarted(error) => format!("cannot be run: {error}"),
        }
    }
}
