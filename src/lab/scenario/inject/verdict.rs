//! The results of the trials and of the starts, and what is claimed of them.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::{Value, json};

use super::{
    RECOVERY,
    faults::{FAULTS, Fault, Outcome},
    start::Start,
};
use crate::lab::{report::Report, times::Times};

/// A warning may come this often in a trial: for each way in which the calls fail.
const LINES_A_TRIAL: usize = 3;

/// The result of one trial.
#[derive(Clone, Debug)]
pub struct Trial {
    /// What failed.
    pub fault: Fault,
    /// With which error.
    pub error: &'static str,
    /// How many calls failed: once, every third time, always.
    pub injected: [u64; 3],
    /// The exit code, if the process ended; none if a signal ended it.
    pub ended: Option<Option<i32>>,
    /// What the process has logged.
    pub log: String,
    /// From the last error until something new was called protected because it had left; none if that did not happen.
    pub recovery: Option<Duration>,
    /// Both appliances answer for their status afterwards.
    pub answers: bool,
    /// UDP packets reported on the wire, and those of them that are not at the mirror.
    pub packets: u64,
    /// See [`packets`](Self::packets).
    pub packets_missing: u64,
    /// Bytes of TCP reported on the wire that are not at the mirror.
    pub bytes_missing: u64,
    /// Packets that the mirror's TUN has refused: this call failed after the tunnel, behind what "protected" is about.
    pub refused: u64,
    /// The kernel dropped packets that the appliance did not read in time: they have no number in its claims.
    pub is_unread: bool,
    /// Claims that arrived before any feedback from the peer.
    pub by_departure: u64,
    /// Violations that the appliance reported.
    pub violations: u64,
}

impl Trial {
    /// Before it begins.
    pub fn new() -> Self {
        Self {
            fault: FAULTS[0],
            error: "",
            injected: [0; 3],
            ended: None,
            log: String::new(),
            recovery: None,
            answers: false,
            packets: 0,
            packets_missing: 0,
            bytes_missing: 0,
            refused: 0,
            is_unread: false,
            by_departure: 0,
            violations: 0,
        }
    }

    /// Whether the process did what it may do: live on, or end with the words that say why.
    fn is_as_documented(&self) -> bool {
        let is_calm = !self.log.contains("panicked");
        is_calm
            && match self.fault.outcome {
                Outcome::GoesOn(_) => self.ended.is_none() && self.answers,
                Outcome::Ends(words) => self.ended == Some(Some(1)) && self.log.contains(words),
            }
    }

    /// Packets that were called protected and are missing, without those that were lost behind the tunnel.
    fn missing(&self) -> u64 {
        if self.is_unread { 0 } else { self.packets_missing.saturating_sub(self.refused) }
    }

    fn is_recovered(&self) -> bool {
        matches!(self.fault.outcome, Outcome::Ends(_)) || self.recovery.is_some()
    }

    /// What must not be, in words.
    pub fn surprise(&self) -> Option<String> {
        let mut words = Vec::new();
        if !self.is_as_documented() {
            let last = self.log.lines().last().unwrap_or_default();
            words.push(match self.ended {
                Some(code) => format!("ended with code {code:?}: {last}"),
                None if !self.answers => "does not answer".to_owned(),
                None => format!("did not end, or panicked: {last}"),
            });
        }
        if self.missing() > 0 || self.bytes_missing > 0 || self.violations > 0 {
            words.push(format!(
                "{} of {} packets and {} bytes that were told are missing, {} violations",
                self.missing(),
                self.packets,
                self.bytes_missing,
                self.violations
            ));
        }
        if !self.is_recovered() {
            words.push("nothing was called protected afterwards".to_owned());
        }
        if self.injected[0] == 0 {
            words.push(format!("no call was hit: {:?}", self.injected));
        }
        (!words.is_empty()).then(|| format!("{} {}: {}", self.fault.name, self.error, words.join("; ")))
    }

    fn to_json(&self) -> Value {
        json!({
            "fault": self.fault.name,
            "side": (["primary", "mirror"][self.fault.side]),
            "calls": self.fault.calls,
            "error": self.error,
            "injected": { "once": self.injected[0], "every_third": self.injected[1], "always": self.injected[2] },
            "exit_code": self.ended.flatten(),
            "recovery_ms": self.recovery.map(|took| took.as_millis() as u64),
            "packets": self.packets,
            "packets_missing": self.packets_missing,
            "refused_by_tun": self.refused,
            "is_unread": self.is_unread,
            "bytes_missing": self.bytes_missing,
            "by_departure": self.by_departure,
            "violations": self.violations,
        })
    }
}

/// All trials.
#[derive(Debug, Default)]
pub struct Totals {
    trials: Vec<Trial>,
    recoveries: Times,
    /// What each appliance logged in the trials after which it goes on.
    pub logs: [String; 2],
    /// What was logged as a problem and not as over.
    pub unended: Vec<String>,
    /// The starts.
    pub starts: Vec<Start>,
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |of: fn(&Trial) -> u64| self.trials.iter().map(of).sum::<u64>();
        write!(
            f,
            "{} trials, {} of {} packets missing, {} calls failed",
            self.trials.len(),
            sum(Trial::missing),
            sum(|trial| trial.packets),
            sum(|trial| trial.injected.iter().sum())
        )
    }
}

impl Totals {
    /// Adds a trial.
    pub fn on_trial(&mut self, trial: Trial) {
        trial.recovery.into_iter().for_each(|took| self.recoveries.record(took));
        self.trials.push(trial);
    }

    /// Makes the report.
    pub fn report(&self, slack: f64) -> Report {
        let mut report = Report::default();
        let trials = self.trials.len();
        if trials > 0 {
            self.claim_trials(&mut report, slack);
        }
        if !self.starts.is_empty() {
            self.claim_starts(&mut report);
        }
        let rows = self.trials.iter().map(|trial| {
            let recovery = trial.recovery.map_or("-".to_owned(), |took| format!("{} ms", took.as_millis()));
            let ended = trial.ended.map_or("lives".to_owned(), |code| format!("ends, {code:?}"));
            let injected = trial.injected.map(|count| count.to_string()).join(", ");
            let missing = format!("{} of {}", trial.packets_missing, trial.packets);
            vec![trial.fault.name.to_owned(), trial.error.to_owned(), injected, ended, missing, recovery]
        });
        report.table(
            &["call", "error", "failed once, a third, all", "the process", "told and missing", "protected again after"],
            rows,
        );
        report.metric("trials", self.trials.iter().map(Trial::to_json).collect::<Vec<_>>());
        report.metric("starts", self.starts.iter().map(Start::to_json).collect::<Vec<_>>());
        report
    }

    fn claim_trials(&self, report: &mut Report, slack: f64) {
        let trials = &self.trials;
        let count = |is_so: fn(&Trial) -> bool| trials.iter().filter(|trial| is_so(trial)).count();
        let sum = |of: fn(&Trial) -> u64| trials.iter().map(of).sum::<u64>();
        report.claim(
            "an appliance goes on, or ends with code 1 and the words that say why",
            format!("{} of {} trials", count(Trial::is_as_documented), trials.len()),
            trials.iter().all(Trial::is_as_documented),
        );
        report.claim(
            "no UDP packet that was told to be on the wire is missing at the mirror, except what its own TUN refused",
            format!(
                "{} of {}; {} refused there, or unnumbered because its TUN was full",
                sum(Trial::missing),
                sum(|trial| trial.packets),
                sum(|trial| trial.packets_missing) - sum(Trial::missing)
            ),
            sum(Trial::missing) == 0 && sum(|trial| trial.packets) > 0,
        );
        let bytes = sum(|trial| trial.bytes_missing);
        report.claim("every byte of TCP that was told arrives", format!("{bytes} missing"), bytes == 0);
        let violations = sum(|trial| trial.violations);
        report.claim("no violation is reported", violations.to_string(), violations == 0);
        let limit = RECOVERY.mul_f64(slack).as_secs_f64();
        let max = self.recoveries.quantile(1.0).as_millis();
        report.claim(
            format!("when the errors end, something new is called protected within {limit:.0} s"),
            format!(
                "{} of {}; p50 {} ms, at most {max} ms",
                count(Trial::is_recovered),
                trials.len(),
                self.recoveries.quantile(0.5).as_millis()
            ),
            trials.iter().all(Trial::is_recovered),
        );
        let unhit: Vec<_> =
            trials.iter().filter(|trial| trial.injected[0] == 0).map(|trial| trial.fault.name).collect();
        report.claim(
            "control: calls failed in each trial, and packets were told without an answer of the peer",
            format!(
                "{} calls; {} trials without: {}; {} reports",
                sum(|trial| trial.injected.iter().sum()),
                unhit.len(),
                unhit.join(" "),
                sum(|trial| trial.by_departure)
            ),
            unhit.is_empty() && trials.iter().all(|trial| trial.by_departure > 0),
        );
        let unsaid = unsaid(trials, &self.logs);
        let holds = unsaid.is_empty() && self.unended.is_empty();
        let found = if holds {
            "each".to_owned()
        } else {
            format!("not said: {}; end not said: {}", unsaid.join(", "), self.unended.join(", "))
        };
        report.claim("what fails is logged, and its end", found, holds);
        let (line, times) = most_repeated(&self.logs);
        report.claim(
            "no warning is repeated while it lasts",
            format!("{times} times: {line}"),
            times <= LINES_A_TRIAL * trials.len().max(1),
        );
    }

    fn claim_starts(&self, report: &mut Report) {
        let bad: Vec<_> = self.starts.iter().filter(|start| !start.is_sound()).collect();
        let refused = self.starts.iter().filter(|start| !start.went_on && start.code.is_some()).count();
        let mut found = format!("{} starts, {refused} refused, {} neither", self.starts.len(), bad.len());
        if let Some(first) = bad.first() {
            found += &format!(": {first}");
        }
        report.claim(
            "a start whose call fails ends with code 1 or 2 and says what it tried, or goes on without",
            found,
            bad.is_empty(),
        );
        report.claim("control: some starts are refused, some go on", format!("{refused} refused"), {
            refused > 0 && refused < self.starts.len()
        });
        let mut kinds = BTreeMap::<_, (u32, &str)>::new();
        for start in &self.starts {
            let words = kinds.entry((start.call, start.error, start.outcome())).or_insert((0, ""));
            *words = (words.0 + 1, start.words());
        }
        let rows = kinds.into_iter().map(|((call, error, outcome), (count, words))| {
            vec![call.to_owned(), error.to_owned(), format!("{count} {outcome}"), words.chars().take(110).collect()]
        });
        report.table(&["call of the start", "error", "outcome", "last words"], rows);
    }
}

/// Which words did not come although their fault was tried.
fn unsaid(trials: &[Trial], logs: &[String; 2]) -> Vec<String> {
    let mut missing: Vec<String> = Vec::new();
    for Trial { fault, .. } in trials {
        if let Outcome::GoesOn(Some([words, _])) = fault.outcome
            && !logs[fault.side].contains(words)
            && !missing.iter().any(|known| known == words)
        {
            missing.push(words.to_owned());
        }
    }
    missing
}

/// Which problems were logged more often than their end.
pub fn unended(faults: &[Fault], logs: &[String; 2]) -> Vec<String> {
    let mut open: Vec<String> = Vec::new();
    for fault in faults {
        if let Outcome::GoesOn(Some([words, end])) = fault.outcome {
            let [begun, ended] = [words, end].map(|text| logs[fault.side].matches(text).count());
            if begun > ended && !open.iter().any(|known| known == words) {
                open.push(words.to_owned());
            }
        }
    }
    open
}

/// The warning or error that comes most often in a log, without its numbers, and how often.
fn most_repeated(logs: &[String; 2]) -> (String, usize) {
    let mut counts = BTreeMap::<String, usize>::new();
    for log in logs {
        let lines = log.lines().filter_map(|line| line.split_once(" WARN ").or(line.split_once("ERROR ")));
        for (_, line) in lines {
            *counts.entry(line.chars().filter(|letter| !letter.is_ascii_digit()).collect()).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str) -> Fault {
        Fault::chosen(&[name.to_owned()]).unwrap()[0]
    }

    fn good() -> Trial {
        Trial {
            fault: fault("send-queue"),
            error: "ENOBUFS",
            injected: [1, 10, 30],
            recovery: Some(Duration::from_millis(20)),
            answers: true,
            packets: 100,
            by_departure: 5,
            ..Trial::new()
        }
    }

    fn passes(trial: Trial, log: &str) -> bool {
        let mut totals = Totals { logs: [log.to_owned(), String::new()], ..Totals::default() };
        totals.unended = unended(&[trial.fault], &totals.logs);
        totals.on_trial(trial);
        totals.report(1.0).passes()
    }

    const SAID: &str =
        "12:01  WARN a queue of this host is full\n12:02  INFO no datagram failed as queue_full for a minute\n";

    #[test]
    fn each_thing_that_must_not_be_fails_the_scenario() {
        assert!(passes(good(), SAID));
        for (what, change) in [
            ("it died", (|trial| trial.ended = Some(Some(1))) as fn(&mut Trial)),
            ("it panicked", |trial| trial.log = "thread panicked at".to_owned()),
            ("it does not answer", |trial| trial.answers = false),
            ("a packet is missing", |trial| trial.packets_missing = 1),
            ("a byte is missing", |trial| trial.bytes_missing = 1),
            ("nothing was told", |trial| trial.packets = 0),
            ("a violation", |trial| trial.violations = 1),
            ("no recovery", |trial| trial.recovery = None),
            ("no call failed", |trial| trial.injected = [0; 3]),
            ("nothing by departure", |trial| trial.by_departure = 0),
        ] {
            let mut trial = good();
            change(&mut trial);
            assert!(!passes(trial.clone(), SAID), "{what}");
            assert!(trial.surprise().is_some() || trial.packets == 0 || trial.by_departure == 0, "{what}");
        }
        assert!(!passes(good(), ""), "not said");
        assert!(!passes(good(), " WARN a queue of this host is full"), "the end is not said");
        assert!(!passes(good(), &SAID.repeat(4)), "said again and again");
        assert!(passes(Trial { packets_missing: 3, refused: 3, ..good() }, SAID), "lost behind the tunnel");
        assert!(!passes(Trial { packets_missing: 4, refused: 3, ..good() }, SAID));
    }

    #[test]
    fn a_device_that_is_gone_must_end_the_process_with_its_words() {
        let gone = Trial {
            fault: fault("tun-gone"),
            ended: Some(Some(1)),
            log: "lane 0 cannot go on: the TUN device ow0 is gone; ...".to_owned(),
            recovery: None,
            ..good()
        };
        assert!(passes(gone.clone(), ""));
        assert!(!passes(Trial { ended: Some(None), ..gone.clone() }, ""), "a signal");
        assert!(!passes(Trial { ended: None, ..gone.clone() }, ""));
        assert!(!passes(Trial { log: "something".to_owned(), ..gone }, ""));
    }
}
