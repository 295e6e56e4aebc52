//! A recorded sequence of losses, replayed from its beginning again and again.
//!
//! One line is one datagram, `1` or `ok` for one that arrives and `0` or `lost` for one that does not, or a run of them:
//! `120 ok`, `3 lost`. Empty lines count nothing, and `#` begins a comment. Each direction has its own place in the sequence.

use std::{
    fmt, io,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The longest file, and the most runs that are kept of it.
const BYTES_MAX: u64 = 64 << 20;
const RUNS_MAX: usize = 1 << 22;

/// The runs of a trace; copies share them.
#[derive(Clone, PartialEq, Eq)]
pub struct LossTrace {
    /// Lengths of the runs, none of them zero: what arrives and what is lost take turns.
    runs: Arc<[u64]>,
    /// Whether the first run is lost.
    begins_lost: bool,
}

/// Why a text is no trace.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: found \"{found}\"; allowed: 1, 0, ok, lost, or a run such as `120 ok` or `3 lost`")]
pub struct TraceError {
    /// The line, from 1.
    pub line: usize,
    /// What it has.
    pub found: String,
}

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceFileError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It has a wrong line.
    #[error("{path}, {source}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line.
        source: TraceError,
    },
    /// It has no datagram at all, or too many.
    #[error("{path}: found {found}; allowed: at least one datagram, at most {RUNS_MAX} runs and {BYTES_MAX} bytes")]
    Size {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: String,
    },
}

/// Reads a line: whether its datagrams are lost, and how many they are; none: nothing is on it.
fn read_line(line: &str) -> Option<Option<(bool, u64)>> {
    let line = line.split('#').next().unwrap_or_default();
    let mut words = line.split_whitespace();
    let (first, second, more) = (words.next(), words.next(), words.next());
    let is_lost = |word: &str| match word {
        "ok" => Some(false),
        "lost" => Some(true),
        _ => None,
    };
    match (first, second, more) {
        (None, _, _) => Some(None),
        (Some("1"), None, _) => Some(Some((false, 1))),
        (Some("0"), None, _) => Some(Some((true, 1))),
        (Some(word), None, _) => Some(Some((is_lost(word)?, 1))),
        (Some(count), Some(word), None) => {
            let count = count.parse().ok().filter(|count| (1..=u64::MAX / 4).contains(count))?;
            Some(Some((is_lost(word)?, count)))
        }
        _ => None,
    }
}

impl LossTrace {
    /// Reads a trace from its text. `None` inside: it has no datagram, or too many runs.
    pub fn parse(text: &str) -> Result<Option<Self>, TraceError> {
        let mut runs: Vec<u64> = Vec::new();
        let (mut begins_lost, mut last) = (false, None);
        for (at, line) in text.lines().enumerate() {
            let wrong = || TraceError { line: at + 1, found: line.trim().chars().take(40).collect() };
            let Some((is_lost, count)) = read_line(line).ok_or_else(wrong)? else { continue };
            let is_full = runs.len() == RUNS_MAX;
            match runs.last_mut().filter(|_| last == Some(is_lost)) {
                Some(run) => *run = run.saturating_add(count),
                None if is_full => return Ok(None),
                None => runs.push(count),
            }
            begins_lost |= last.is_none() && is_lost;
            last = Some(is_lost);
        }
        Ok((!runs.is_empty()).then(|| Self { runs: runs.into(), begins_lost }))
    }

    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, TraceFileError> {
        let unusable = |source| TraceFileError::File { path: path.to_owned(), source };
        let size = |found: String| TraceFileError::Size { path: path.to_owned(), found };
        let file = std::fs::File::open(path).map_err(unusable)?;
        let mut text = String::new();
        file.take(BYTES_MAX + 1).read_to_string(&mut text).map_err(unusable)?;
        if text.len() as u64 > BYTES_MAX {
            return Err(size("a longer file".to_owned()));
        }
        let parsed = Self::parse(&text).map_err(|source| TraceFileError::Line { path: path.to_owned(), source })?;
        parsed.ok_or_else(|| size(if text.len() < RUNS_MAX { "no datagram" } else { "too many runs" }.to_owned()))
    }

    /// How many datagrams it has, and how many of them are lost.
    pub fn counts(&self) -> (u64, u64) {
        let lost_first = usize::from(!self.begins_lost);
        let sum = |runs: &mut dyn Iterator<Item = &u64>| runs.fold(0_u64, |sum, run| sum.saturating_add(*run));
        (sum(&mut self.runs.iter()), sum(&mut self.runs.iter().skip(lost_first).step_by(2)))
    }

    /// A place at its beginning.
    pub(super) fn begin(&self) -> TracePlace {
        TracePlace { trace: self.clone(), run: 0, left: self.runs[0] }
    }
}

// Millions of runs would hide everything else of a debug output.
impl fmt::Debug for LossTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (datagrams, lost) = self.counts();
        write!(f, "LossTrace({lost} of {datagrams} lost)")
    }
}

/// How far a direction is in a trace.
#[derive(Clone, Debug)]
pub(super) struct TracePlace {
    trace: LossTrace,
    run: usize,
    /// Datagrams left in the run, at least one.
    left: u64,
}

impl TracePlace {
    /// Passes `count` datagrams and calls `hit` with the position of each lost one, in rising order.
    pub(super) fn pass(&mut self, count: u64, mut hit: impl FnMut(u64)) {
        let mut at = 0;
        while at < count {
            let part = self.left.min(count - at);
            if (self.run.is_multiple_of(2)) == self.trace.begins_lost {
                (at..at + part).for_each(&mut hit);
            }
            at += part;
            self.left -= part;
            if self.left == 0 {
                self.run = (self.run + 1) % self.trace.runs.len();
                self.left = self.trace.runs[self.run];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lost(trace: &LossTrace, trains: &[u64]) -> Vec<u64> {
        let (mut place, mut base, mut hits) = (trace.begin(), 0, Vec::new());
        for &train in trains {
            place.pass(train, |at| hits.push(base + at));
            base += train;
        }
        hits
    }

    #[test]
    fn both_forms_mean_the_same_and_comments_mean_nothing() {
        let single = LossTrace::parse("1\n1\n0\n\n0\nok # the last\nlost\n").unwrap().unwrap();
        let runs = LossTrace::parse("# recorded\n2 ok\n2 lost\n1 ok\n1 lost").unwrap().unwrap();
        assert_eq!(single, runs);
        assert_eq!(single.counts(), (6, 3));
        assert_eq!(lost(&single, &[4, 4, 6]), [2, 3, 5, 8, 9, 11]);
        // A sequence that begins and ends with the same kind goes on without a gap.
        let round = LossTrace::parse("1 lost\n2 ok\n1 lost").unwrap().unwrap();
        assert_eq!(lost(&round, &[9]), [0, 3, 4, 7, 8]);
    }

    #[test]
    fn an_error_names_file_and_line() {
        let wrong = [("1\n2\n", 2), ("ok\n\nsome\n", 3), ("0 ok", 1), ("-3 lost", 1), ("3 lost now", 1), ("9e9 ok", 1)];
        for (text, line) in wrong {
            assert_eq!(LossTrace::parse(text).unwrap_err().line, line, "{text:?}");
        }
        assert_eq!(LossTrace::parse("# nothing\n"), Ok(None));
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.trace");
        std::fs::write(&path, "1\nyes\n").unwrap();
        let said = LossTrace::read(&path).unwrap_err().to_string();
        assert!(said.starts_with(&format!("{}, line 2: found \"yes\"; allowed: 1, 0,", path.display())), "{said}");
        std::fs::write(&path, "# empty").unwrap();
        assert!(LossTrace::read(&path).unwrap_err().to_string().contains("found no datagram"));
        assert!(LossTrace::read(&directory.path().join("none")).is_err());
    }

    proptest! {
        #[test]
        fn a_replay_repeats_the_recorded_losses_whatever_the_trains(
            datagrams in prop::collection::vec(any::<bool>(), 1..60),
            trains in prop::collection::vec(0u64..50, 1..20),
        ) {
            let text: String = datagrams.iter().map(|lost| if *lost { "0\n" } else { "1\n" }).collect();
            let trace = LossTrace::parse(&text).unwrap().unwrap();
            let expected: Vec<u64> = (0..trains.iter().sum())
                .filter(|at| datagrams[*at as usize % datagrams.len()])
                .collect();
            prop_assert_eq!(lost(&trace, &trains), expected);
            let count = datagrams.iter().filter(|lost| **lost).count() as u64;
            prop_assert_eq!(trace.counts(), (datagrams.len() as u64, count));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-z#\\- \n]{0,80}|\\PC{0,80}") {
            match LossTrace::parse(&text) {
                Ok(Some(trace)) => prop_assert!(trace.counts().0 > 0),
                Ok(None) => {}
                Err(error) => prop_assert!((1..=text.lines().count()).contains(&error.line)),
            }
        }
    }
}
