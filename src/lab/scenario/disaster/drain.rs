//! What `onwire drain` says at the mirror after a disaster, and whether it was right.
//!
//! It is run as an operator runs it, and read as a program reads it: exit code and JSON. Knows nothing of how it judges.

use std::{fmt, path::Path};

use serde_json::{Value, json};

use crate::lab::{
    error::LabError,
    program::{onwire_program, path_text},
    report::Report,
    trace::Trace,
};

/// The least that travels of a block: one source and one repair symbol. Fewer lost datagrams leave something to hear of.
const LEAST_BLOCK: u64 = 2;
/// Exit codes of a verdict; another one is no verdict.
const CODES: [i32; 2] = [0, 1];

/// What it comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is known to be missing.
    Complete,
    /// What was being sent when the sender ended is there in part.
    Unfinished,
    /// Something that may have been called protected is missing.
    Incomplete,
}

/// One drain.
#[derive(Clone, Copy, Debug)]
pub struct Drained {
    /// What it said.
    pub verdict: Verdict,
    /// Datagrams that were on their way to the mirror when it spoke, by the emulator's count.
    pub in_flight: u64,
    /// Datagrams that were lost behind the last one that arrived, by the emulator's count: the mirror never heard of them.
    pub lost_last: u64,
    /// Symbols that came to the mirror's appliance when their block was given up: later than its hold time.
    pub late: u64,
}

impl Drained {
    /// Nothing that came to the mirror tells of what was lost last, so it can say nothing of that.
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
    /// `complete` although something that was acknowledged is missing, and `unfinished` although.
    complete_but_missing: u32,
    unfinished_but_missing: u32,
    /// Of the former, where what was lost last had nothing behind it that arrived.
    complete_but_unheard: u32,
    /// Spoke while datagrams were on their way.
    too_early: u32,
}

/// Drains the appliance with this status socket.
pub fn ask(trace: &Trace, socket: &Path) -> Result<Verdict, LabError> {
    ask_in_full(trace, socket).map(|(verdict, _)| verdict)
}

/// The same, with all that was said.
pub fn ask_in_full(trace: &Trace, socket: &Path) -> Result<(Verdict, Value), LabError> {
    let words = [&onwire_program()?, "drain", "--json", "--socket", &path_text(socket)?];
    let (said, code) = trace.run_with_codes(&words, &CODES)?;
    read(&said, code).ok_or_else(|| LabError::Sentence(format!("drain ended with exit code {code} and said {said:?}")))
}

/// The verdict, where exit code and text agree on it, and the text.
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
    /// Takes one in; whether something that was acknowledged is missing is known only to the lab.
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

    /// Adds those of other disasters.
    pub fn add(&mut self, other: &Self) {
        self.complete += other.complete;
        self.unfinished += other.unfinished;
        self.incomplete += other.incomplete;
        self.complete_but_missing += other.complete_but_missing;
        self.unfinished_but_missing += other.unfinished_but_missing;
        self.complete_but_unheard += other.complete_but_unheard;
        self.too_early += other.too_early;
    }

    /// States what must hold wherever a write waited until it was called protected.
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

    /// For a result.
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
    fn what_is_wrong_with_a_drain_fails() {
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
