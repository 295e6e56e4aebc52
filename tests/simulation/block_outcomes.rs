//! The block outcomes that reports brought to each run of a sender, compared with the model.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use onwire::tunnel::feedback::Feedback;

use crate::keys::Run;

/// The blocks of one profile that one run sent and another was to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path {
    /// The sending run.
    pub from: Run,
    /// The run that reports on them.
    pub to: Run,
    /// The sender's profile.
    pub profile: u8,
}

/// The outcomes reported to the sender for one path.
#[derive(Debug, Default)]
pub struct ReportedBlocks {
    /// Blocks reported lost, and how many symbols of each arrived.
    pub lost: BTreeMap<u64, u16>,
    /// Blocks that are decided, the lost ones included.
    pub done: Option<Range<u64>>,
}

impl ReportedBlocks {
    /// Whether the block was reported as decoded.
    pub fn is_decoded(&self, sbn: u64) -> bool {
        self.done.as_ref().is_some_and(|done| done.contains(&sbn)) && !self.lost.contains_key(&sbn)
    }
}

/// All reported outcomes.
#[derive(Debug, Default)]
pub struct ReportedOutcomes {
    paths: BTreeMap<Path, ReportedBlocks>,
    /// Reports that arrived: the run that wrote it, the run it reached, and its `sent_at`.
    arrived: BTreeSet<(Run, Run, u64)>,
}

impl ReportedOutcomes {
    /// Run `at` accepted a report of `from`; `echo` is the report of `at` that it echoes.
    pub fn on_report(&mut self, from: Run, at: Run, sent_at: u64, echo: u64) {
        assert!(
            echo == 0 || self.arrived.contains(&(at, from, echo)),
            "{from:?} echoes a report that never arrived: {echo}"
        );
        self.arrived.insert((from, at, sent_at));
    }

    /// Run `from` received this from reports of run `to`. Returns the blocks that it may now treat as decoded.
    pub fn on_feedback(&mut self, from: Run, to: Run, feedback: &Feedback) -> Vec<(u8, u64)> {
        for run in &feedback.lost {
            assert!(run.count < 10_000, "{run:?} is longer than everything that was sent");
            let reported = self.paths.entry(Path { from, to, profile: run.profile }).or_default();
            reported.lost.extend((run.first..run.first + u64::from(run.count)).map(|sbn| (sbn, run.symbols)));
        }
        let mut decoded = Vec::new();
        for progress in &feedback.progress {
            let reported = self.paths.entry(Path { from, to, profile: progress.profile }).or_default();
            let known = reported.done.clone().unwrap_or(progress.decoded_from..progress.decoded_from);
            assert_eq!(known.start, progress.decoded_from, "the first block that a receiver counts must not change");
            let done = progress.decoded_from..progress.decoded_below.max(known.end);
            let fresh = (known.end..done.end).filter(|sbn| !reported.lost.contains_key(sbn));
            decoded.extend(fresh.map(|sbn| (progress.profile, sbn)));
            reported.done = Some(done);
        }
        decoded
    }

    /// The outcomes of each path.
    pub fn paths(&self) -> &BTreeMap<Path, ReportedBlocks> {
        &self.paths
    }
}
