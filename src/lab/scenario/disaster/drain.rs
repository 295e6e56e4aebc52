//! The verdict of `onwire drain` at the mirror after a disaster, and whether it was right.
//!
//! The lab runs it as an operator does, and reads it as a program does: exit code and JSON.

use std::{fmt, path::Path};

use serde_json::{Value, json};

use crate::lab::{
    error::LabError,
    program::{onwire_program, path_text},
    report::Report,
    trace::Trace,
};

/// The smallest number of datagrams of a block: one source and one repair symbol. If fewer are lost, some datagram of
/// the block arrives.
const LEAST_BLOCK: u64 = 2;
/// Exit codes that come with a verdict; any other is an error.
const CODES: [i32; 2] = [0, 1];

/// The verdict of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is known to be missing.
    Complete,
    /// The data that was being sent when the sender ended has arrived only in part.
    Unfinished,
    /// Data that may have been called protected is missing.
    Incomplete,
}

impl Verdict {
    /// Its name, as in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Unfinished => "unfinished",
            Self::Incomplete => "incomplete",
        }
    }
}

/// One drain.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// Its verdict.
    pub verdict: Verdict,
    /// Datagrams in flight to the mirror at the time of the verdict, by the emulator's count.
    pub in_flight: u64,
    /// Datagrams that were lost after the last one that arrived, by the emulator's count: the mirror cannot know of
    /// them.
    pub lost_last: u64,
    /// Symbols that arrived at the mirror's appliance after their block was given up: later than its hold time.
    pub late: u64,
}

impl Drained {
    /// Whether a whole block may have been lost after the last datagram that arrived; drain cannot know of it.
    pub fn is_unheard(&self) -> bool {
        self.lost_last >= LEAST_BLOCK
    }
}

/// The drains of several disasters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Verdicts {
    complete: u32,
    unfinished: u32,
    incomplete: u32,
    /// `complete`, and below `unfinished`, although acknowledged data is missing.
    complete_but_missing: u32,
    unfinished_but_missing: u32,
    /// Those of `complete_but_missing` in which nothing arrived after the lost data.
    complete_but_unheard: u32,
    /// Verdicts that came while datagrams were in flight.
    too_early: u32,
}

/// Drains the appliance with this status socket.
pub fn ask(trace: &Trace, socket: &Path) -> Result<Verdict, LabError> {
    ask_in_full(trace, socket).map(|(verdict, _)| verdict)
}

/// Like [`ask`], and also returns the whole JSON document.
pub fn ask_in_full(trace: &Trace, socket: &Path) -> Result<(Verdict, Value), LabError> {
    let words = [&onwire_program()?, "drain", "--json", "--socket", &path_text(socket)?];
    let (said, code) = trace.run_with_codes(&words, &CODES)?;
    read(&said, code).ok_or_else(|| LabError::Sentence(format!("drain ended with exit code {code} and said {said:?}")))
}

/// The verdict, if exit code and JSON agree, and the JSON.
fn read(said: &str, code: i32) -> Option<(Verdict, Value)> {
    let document: Value = serde_json::from_str(said).ok()?;
    let verdict = match (document["verdict"].as_str()?, code) {
        ("complete", 0) => Verdict::Complete,
        ("unfinished", 0) => Verdict::Unfinished,
        ("incomplete", 1) => Verdict::Incomplete,
        _ => return None,
    };
    Some((verdict, document))
}

impl Verdicts {
    /// Adds a drain; `is_missing`: acknowledged data is missing, which only the lab knows.
    pub fn count(&mut self, drained: Drained, is_missing: bool) {
        let missing = u32::from(is_missing);
        match drained.verdict {
            Verdict::Complete => {
                self.complete += 1;
                self.complete_but_missing += missing;
                self.complete_but_unheard += u32::from(is_missing && drained.is_unheard());
            }
            Verdict::Unfinished => {
                self.unfinished += 1;
                self.unfinished_but_missing += missing;
            }
            Verdict::Incomplete => self.incomplete += 1,
        }
        self.too_early += u32::from(drained.in_flight > 0);
    }

    /// Adds the drains of other disasters.
    pub fn add(&mut self, other: &Self) {
        self.complete += other.complete;
        self.unfinished += other.unfinished;
        self.incomplete += other.incomplete;
        self.complete_but_missing += other.complete_but_missing;
        self.unfinished_but_missing += other.unfinished_but_missing;
        self.complete_but_unheard += other.complete_but_unheard;
        self.too_early += other.too_early;
    }

    /// Adds the claims that must hold in every arm in which a write waits for protection.
    pub fn claim(&self, report: &mut Report, of: &str) {
        let (missing, unheard) = (self.complete_but_missing, self.complete_but_unheard);
        let but = if unheard > 0 { format!(", {unheard} of them unheard of") } else { String::new() };
        let found = format!("{missing} of {} complete{but}; {self}", self.complete);
        let claim =
            format!("{of}: drain never says complete while something called protected is missing that it can know of");
        report.claim(claim, found, missing == unheard);
        let claim = format!("{of}: drain speaks when nothing is on its way");
        report.claim(claim, format!("{} too early", self.too_early), self.too_early == 0);
    }

    /// The result as JSON.
    pub fn to_json(self) -> Value {
        json!({
            "complete": self.complete,
            "unfinished": self.unfinished,
            "incomplete": self.incomplete,
            "complete_but_missing": self.complete_but_missing,
            "unfinished_but_missing": self.unfinished_but_missing,
            "complete_but_unheard": self.complete_but_unheard,
            "too_early": self.too_early,
        })
    }
}

impl fmt::Display for Verdicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}", self.complete, self.unfinished, self.incomplete)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_code_and_text_must_agree() {
        let read =
            |verdict: &str, code| read(&format!("{{ \"verdict\": \"{verdict}\" }}"), code).map(|(verdict, _)| verdict);
        assert_eq!(read("complete", 0), Some(Verdict::Complete));
        assert_eq!(read("unfinished", 0), Some(Verdict::Unfinished));
        assert_eq!(read("incomplete", 1), Some(Verdict::Incomplete));
        assert_eq!((read("complete", 1), read("incomplete", 0), read("fine", 0)), (None, None, None));
        assert!(super::read("", 1).is_none(), "an appliance that does not answer");
    }

    #[test]
    fn a_wrong_or_early_verdict_fails_the_report() {
        for (verdict, in_flight, lost_last, is_missing, passes) in [
            (Verdict::Complete, 0, 0, false, true),
            (Verdict::Incomplete, 0, 0, true, true),
            (Verdict::Complete, 0, 0, true, false),
            (Verdict::Complete, 0, 1, true, false),
            (Verdict::Complete, 0, 2, true, true),
            (Verdict::Complete, 1, 0, false, false),
        ] {
            let (mut verdicts, mut report) = (Verdicts::default(), Report::default());
            verdicts.count(Drained { verdict, in_flight, lost_last, late: 0 }, is_missing);
            verdicts.claim(&mut report, "rows");
            assert_eq!(report.passes(), passes, "{verdict:?} {in_flight} {is_missing}");
        }
    }
}
