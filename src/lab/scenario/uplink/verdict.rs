//! What became of the trials: one by one, and in all.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use super::{faults::Kind, one_stamp::Called};
use crate::lab::{report::Report, scenario::disaster::drain::Verdict, times::Times};

/// A link must be trusted again this soon after the last fault is over, in nearly all trials.
const SOON: Duration = Duration::from_secs(5);
/// So many of the packets may prove nothing because the path itself lost more than a block survives: one of so many.
const EXCUSED_SHARE: u64 = 4;
/// Claims of a trial that must come before anything came back, on average.
const LEAST_CLAIMS: u64 = 5;

/// What became of a trial.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What happened to the uplink.
    pub faults: Vec<Kind>,
    /// Whether the site was lost at the end.
    pub is_disaster: bool,
    /// UDP packets that were told to be on the wire, and those of them that are not at the mirror.
    pub packets: u64,
    /// See [`packets`](Self::packets).
    pub packets_missing: u64,
    /// UDP packets that were told to be on the wire in a time in which the path lost more than a block survives.
    pub packets_excused: u64,
    /// The same of bytes in TCP. Without a disaster they are sent again.
    pub bytes: u64,
    /// See [`bytes`](Self::bytes).
    pub bytes_missing: u64,
    /// Claims that were told before anything came back.
    pub by_departure: u64,
    /// Violations that the appliance told.
    pub violations: u64,
    /// Datagrams that had left and were lost on the path.
    pub lost: u64,
    /// Datagrams that never left the host.
    pub never_left: u64,
    /// The appliance was too slow to read packets that were sent: what it counts is not what was sent.
    pub is_unread: bool,
    /// The fewest repair symbols that a block had.
    pub least_repair: Option<u16>,
    /// From the end of the last fault until something new was called protected; none after a disaster, or never.
    pub recovery: Option<Duration>,
    /// What drain said after a disaster.
    pub verdict: Option<Verdict>,
    /// What the control found.
    pub control: Called,
}

impl Outcome {
    /// Whether so many lost datagrams are more than a block survives: then nothing was promised.
    pub fn is_too_much(&self, lost: u64) -> bool {
        lost > u64::from(self.least_repair.unwrap_or(0))
    }

    /// Whether its bytes and violations prove nothing.
    fn is_excused(&self) -> bool {
        self.is_unread || self.is_too_much(self.lost)
    }

    fn is_broken(&self) -> bool {
        let is_excused = self.is_excused();
        self.packets_missing > 0 || (!is_excused && (self.bytes_missing > 0 || self.violations > 0))
    }

    /// What is wrong with it, in words.
    pub fn surprise(&self) -> Option<String> {
        let is_stuck = !self.is_disaster && self.recovery.is_none();
        let names = self.faults.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
        (self.is_broken() || is_stuck).then(|| {
            format!(
                "{names}{}: {} of {} packets and {} of {} bytes missing, {} violations told, {} datagrams never left, {} lost on \
                 the path{}",
                if self.is_disaster { ", disaster" } else { "" },
                self.packets_missing,
                self.packets,
                self.bytes_missing,
                self.bytes,
                self.violations,
                self.never_left,
                self.lost,
                if is_stuck { "; nothing was called protected afterwards" } else { "" },
            )
        })
    }
}

/// All trials.
#[derive(Debug, Default)]
pub struct Totals {
    trials: u32,
    disasters: u32,
    faults: [u32; Kind::ALL.len()],
    packets: u64,
    packets_missing: u64,
    packets_excused: u64,
    bytes: u64,
    bytes_missing: u64,
    by_departure: u64,
    violations: u64,
    /// Trials in which something was missing or a violation was told.
    broken: u32,
    /// Trials whose bytes and violations prove nothing.
    excused: u32,
    least_repair: Option<u16>,
    never_left: u64,
    /// Trials without a disaster after which nothing was called protected any more.
    stuck: u32,
    recoveries: Times,
    verdicts: [u32; 3],
    control: Called,
    control_trials: u32,
}

impl Totals {
    /// Takes a trial in.
    pub fn on_trial(&mut self, outcome: &Outcome) {
        self.trials += 1;
        self.disasters += u32::from(outcome.is_disaster);
        outcome.faults.iter().for_each(|kind| self.faults[*kind as usize] += 1);
        self.by_departure += outcome.by_departure;
        match outcome.recovery {
            Some(took) => self.recoveries.record(took),
            None => self.stuck += u32::from(!outcome.is_disaster),
        }
        if let Some(verdict) = outcome.verdict {
            self.verdicts[verdict as usize] += 1;
        }
        // What the path lost is nobody's false word; of the control's datagrams each is for itself.
        self.control.left += outcome.control.left;
        let missing = outcome.control.missing.saturating_sub(outcome.lost);
        self.control.missing += missing;
        self.control_trials += u32::from(missing > 0);
        self.packets += outcome.packets;
        self.packets_missing += outcome.packets_missing;
        self.packets_excused += outcome.packets_excused;
        self.broken += u32::from(outcome.is_broken());
        self.least_repair = [self.least_repair, outcome.least_repair].into_iter().flatten().min();
        self.never_left += outcome.never_left;
        if outcome.is_excused() {
            self.excused += 1;
            return;
        }
        self.violations += outcome.violations;
        if outcome.is_disaster {
            self.bytes += outcome.bytes;
            self.bytes_missing += outcome.bytes_missing;
        }
    }

    /// What it comes to.
    pub fn report(&self, slack: f64) -> Report {
        let mut report = Report::default();
        let claim = "no UDP packet that was told to be on the wire is missing at the mirror";
        let found = format!("{} of {}, in {} trials", self.packets_missing, self.packets, self.trials);
        report.claim(claim, found, self.packets_missing == 0 && self.packets > 0);
        let claim = "no byte of TCP that was told to be on the wire before a disaster is missing at the mirror";
        let found = format!("{} of {}, in {} disasters", self.bytes_missing, self.bytes, self.disasters);
        let is_tried = self.bytes > 0 || self.disasters == 0;
        report.claim(claim, found, self.bytes_missing == 0 && is_tried);
        let claim = "the appliance itself finds nothing lost that it had called protected";
        report.claim(claim, format!("{} violations told", self.violations), self.violations == 0);
        let claim = "the path itself seldom loses more than a block survives (what was told meanwhile proves nothing)";
        let (excused, all) = (self.packets_excused, self.packets_excused + self.packets);
        let found = format!("{excused} of {all} packets; bytes and violations of {} trials", self.excused);
        report.claim(claim, found, excused * EXCUSED_SHARE <= all && self.excused < self.trials);
        let claim = "claims are told before anything comes back, by what has left";
        report.claim(claim, self.by_departure.to_string(), self.by_departure >= LEAST_CLAIMS * u64::from(self.trials));
        let claim = "when the faults are over, something new is called protected again";
        let [half, most] = [0.5, 1.0].map(|share| self.recoveries.quantile(share));
        let (recovered, limit) = (self.trials - self.disasters - self.stuck, SOON.mul_f64(slack));
        let found =
            format!("in {recovered} of {} trials, after {half:?}, {most:?} at most", self.trials - self.disasters);
        report.claim(claim, found, self.stuck == 0 && most <= limit);
        let claim = "control: of what one timestamp calls left, some never left";
        let found = format!("{} of {}, in {} trials", self.control.missing, self.control.left, self.control_trials);
        report.claim(claim, found, self.control.missing > 0);
        report.table(
            &["fault", "times"],
            Kind::ALL.map(|kind| vec![kind.name().to_owned(), self.faults[kind as usize].to_string()]),
        );
        report.metric("trials", self.to_json());
        report.metric("faults", self.faults_to_json());
        report.metric(
            "control",
            json!({
                "called_left": self.control.left,
                "never_left": self.control.missing,
                "trials_with_some": self.control_trials,
            }),
        );
        report
    }

    fn to_json(&self) -> Value {
        json!({
            "count": self.trials,
            "disasters": self.disasters,
            "excused": self.excused,
            "packets_excused": self.packets_excused,
            "with_missing": self.broken,
            "packets_on_wire": self.packets,
            "packets_missing": self.packets_missing,
            "bytes_on_wire": self.bytes,
            "bytes_missing": self.bytes_missing,
            "violations": self.violations,
            "datagrams_never_left": self.never_left,
            "least_repair_symbols": self.least_repair,
            "claims_by_departure": self.by_departure,
            "not_protected_again": self.stuck,
            "protected_again_p50_ms": self.recoveries.quantile(0.5).as_secs_f64() * 1e3,
            "protected_again_max_ms": self.recoveries.quantile(1.0).as_secs_f64() * 1e3,
            "drain": {
                "complete": self.verdicts[Verdict::Complete as usize],
                "unfinished": self.verdicts[Verdict::Unfinished as usize],
                "incomplete": self.verdicts[Verdict::Incomplete as usize],
            },
        })
    }

    fn faults_to_json(&self) -> Value {
        Kind::ALL.map(|kind| (kind.name().to_owned(), json!(self.faults[kind as usize]))).into_iter().collect()
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} of {} packets and {} of {} bytes missing, in {} trials; control {} of {}",
            self.packets_missing,
            self.packets,
            self.bytes_missing,
            self.bytes,
            self.broken,
            self.control.missing,
            self.control.left
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Outcome {
        Outcome {
            faults: vec![Kind::Carrier, Kind::Queue],
            packets: 100,
            bytes: 1000,
            by_departure: 50,
            least_repair: Some(4),
            recovery: Some(Duration::from_millis(200)),
            control: Called { left: 50, missing: 3 },
            ..Outcome::default()
        }
    }

    fn passes(outcomes: &[Outcome]) -> bool {
        let mut totals = Totals::default();
        outcomes.iter().for_each(|outcome| totals.on_trial(outcome));
        totals.report(1.0).passes()
    }

    fn disaster() -> Outcome {
        Outcome { is_disaster: true, recovery: None, verdict: Some(Verdict::Complete), ..good() }
    }

    #[test]
    fn one_packet_or_byte_that_is_missing_and_one_violation_fail() {
        assert!(passes(&[good(), disaster()]));
        assert!(!passes(&[good(), Outcome { packets_missing: 1, ..good() }]));
        assert!(!passes(&[good(), Outcome { packets_missing: 1, ..disaster() }]));
        assert!(!passes(&[good(), Outcome { bytes_missing: 1, ..disaster() }]));
        assert!(!passes(&[good(), Outcome { violations: 1, ..good() }]));
        assert!(!passes(&[]), "nothing was tried");
    }

    #[test]
    fn a_path_that_lost_as_much_as_a_block_survives_excuses_nothing() {
        for missing in [Outcome { bytes_missing: 1, ..disaster() }, Outcome { violations: 1, ..good() }] {
            let with = |lost| [good(), disaster(), Outcome { lost, ..missing.clone() }];
            assert!(!passes(&with(4)) && passes(&with(5)), "{missing:?}");
        }
        assert!(!passes(&[Outcome { lost: 5, ..good() }]), "nothing was tried");
        // Packets are excused one flow at a time.
        assert!(!passes(&[good(), Outcome { packets_missing: 1, lost: 5, ..good() }]));
        assert!(passes(&[Outcome { packets_excused: 33, ..good() }]));
        assert!(!passes(&[Outcome { packets_excused: 34, ..good() }]), "too much proves nothing");
    }

    #[test]
    fn a_link_that_is_not_trusted_again_or_only_late_fails() {
        assert!(!passes(&[good(), Outcome { recovery: None, ..good() }]));
        assert!(!passes(&[good(), Outcome { recovery: Some(2 * SOON), ..good() }]));
        assert!(Outcome { recovery: None, ..good() }.surprise().is_some());
        assert!(good().surprise().is_none() && disaster().surprise().is_none());
    }

    #[test]
    fn a_control_that_does_not_fail_by_more_than_the_path_lost_fails_the_run() {
        let control = |missing, lost| Outcome { control: Called { left: 50, missing }, lost, ..good() };
        assert!(passes(&[control(3, 2)]), "of one more nobody but the host can be the cause");
        assert!(!passes(&[control(2, 2)]));
        assert!(!passes(&[control(0, 0)]));
        assert!(!passes(&[Outcome { by_departure: 3, ..good() }]), "the mirror's own word is no test");
    }
}
