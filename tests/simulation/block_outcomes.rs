//! What reports told each run of a sender about its blocks, held against what became of them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use onwire::tunnel::feedback::Feedback;

use crate::keys::Run;

/// The blocks of one profile that one run sent and another was to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// Who sent them.
    pub from: Run,
    /// Who reports on them.
    pub to: Run,
    /// The sender's profile.
    pub profile: u8,
}

/// What the sender was told of the blocks of one path.
#[derive(Debug, Default)]
pub struct Told {
    /// Blocks named lost, and how many symbols of each came.
    pub lost: BTreeMap<u64, u16>,
    /// Blocks that are done with, those named lost among them.
    pub done: Option<Range<u64>>,
}

impl Told {
    /// The sender was told that this block was handed on whole.
    pub fn is_decoded(&self, sbn: u64) -> bool {
        self.done.as_ref().is_some_and(|done| done.contains(&sbn)) && !self.lost.contains_key(&sbn)
    }
}

/// Everything that was told.
#[derive(Debug, Default)]
pub struct Fates {
    told: BTreeMap<Path, Told>,
    /// Reports that arrived: who wrote them, whom they reached, and their `sent_at`.
    arrived: BTreeSet<(Run, Run, u64)>,
}

impl Fates {
    /// A report of `from` was taken by `at`; `echo` is what it says of the reports of `at`.
    pub fn on_report(&mut self, from: Run, at: Run, sent_at: u64, echo: u64) {
        assert!(echo == 0 || self.arrived.contains(&(at, from, echo)), "{from:?} echoes what never came: {echo}");
        self.arrived.insert((from, at, sent_at));
    }

    /// Run `from` was told this by the reports of run `to`. Returns the blocks that it may now take for decoded.
    pub fn on_feedback(&mut self, from: Run, to: Run, heard: &Feedback) -> Vec<(u8, u64)> {
        for run in &heard.lost {
            assert!(run.count < 10_000, "{run:?} is longer than everything that was sent");
            let told = self.told.entry(Path { from, to, profile: run.profile }).or_default();
            told.lost.extend((run.first..run.first + u64::from(run.count)).map(|sbn| (sbn, run.symbols)));
        }
        let mut decoded = Vec::new();
        for progress in &heard.progress {
            let told = self.told.entry(Path { from, to, profile: progress.profile }).or_default();
            let known = told.done.clone().unwrap_or(progress.decoded_from..progress.decoded_from);
            assert_eq!(known.start, progress.decoded_from, "what a receiver counts from does not change");
            let done = progress.decoded_from..progress.decoded_below.max(known.end);
            let fresh = (known.end..done.end).filter(|sbn| !told.lost.contains_key(sbn));
            decoded.extend(fresh.map(|sbn| (progress.profile, sbn)));
            told.done = Some(done);
        }
        decoded
    }

    /// What was told of each path.
    pub fn told(&self) -> &BTreeMap<Path, Told> {
        &self.told
    }
}
