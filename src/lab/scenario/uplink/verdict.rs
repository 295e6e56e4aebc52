//! The results of the trials: of each, and in total.

use std::{fmt, time::Duration};

use serde_json::{Value, json};

use super::{faults::Kind, one_stamp::ControlResult};
use crate::lab::{report::Report, scenario::disaster::drain::Verdict, times::Times};

/// In nearly all trials a link must be trusted again this soon after the last fault is over.
const SOON: Duration = Duration::from_secs(5);
/// At most one in this many packets may prove nothing because the path itself lost more than a block survives.
const EXCUSED_SHARE: u64 = 4;
/// Minimum average number of claims per trial that rely on timestamps, before any feedback from the peer.
const LEAST_CLAIMS: u64 = 5;

/// The result of one trial.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The faults of the uplink.
    pub faults: Vec<Kind>,
    /// Whether the site was lost at the end.
    pub is_disaster: bool,
    /// UDP packets reported as on the wire, and those of them that are not at the mirror.
    pub packets: u64,
    /// See [`packets`](Self::packets).
    pub packets_missing: u64,
    /// UDP packets reported as on the wire while the path lost more than a block survives.
    pub packets_excused: u64,
    /// The same for bytes in TCP. Without a disaster TCP retransmits them.
    pub bytes: u64,
    /// See [`bytes`](Self::bytes).
    pub bytes_missing: u64,
    /// Claims that arrived before any feedback from the peer.
    pub by_departure: u64,
    /// Violations that the appliance reported.
    pub violations: u64,
    /// Datagrams that had left and were lost on the path.
    pub lost: u64,
    /// Datagrams that never left the host.
    pub never_left: u64,
    /// The appliance was too slow to read all packets: its count differs from what was sent.
    pub is_unread: bool,
    /// The smallest number of repair symbols of a block.
    pub least_repair: Option<u16>,
    /// From the end of the last fault until something new was called protected; none after a disaster, or if that never
    /// happened.
    pub recovery: Option<Duration>,
    /// The verdict of drain after a disaster.
    pub verdict: Option<Verdict>,
    /// The result of the control.
    pub control: ControlResult,
}

impl Outcome {
    /// Whether `lost` datagrams are more than a block survives: then protection is not guaranteed.
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

    /// Describes what is wrong with the trial.
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
    /// Trials in which something was missing or a violation was reported.
    broken: u32,
    /// Trials whose bytes and violations prove nothing.
    excused: u32,
    least_repair: Option<u16>,
    never_left: u64,
    /// Trials without a disaster after which nothing was called protected any more.
    stuck: u32,
    recoveries: Times,
    verdicts: [u32; 3],
    control: ControlResult,
    control_trials: u32,
}

impl Totals {
    /// Adds a trial.
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
        // Datagrams that the path lost are not the control's error; its datagrams have no repair.
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

    /// Makes the report.
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
            control: ControlResult { left: 50, missing: 3 },
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
    fn one_missing_packet_or_byte_and_one_violation_fail() {
        assert!(passes(&[good(), disaster()]));
        assert!(!passes(&[good(), Outcome { packets_missing: 1, ..good() }]));
        assert!(!passes(&[good(), Outcome { packets_missing: 1, ..disaster() }]));
        assert!(!passes(&[good(), Outcome { bytes_missing: 1, ..disaster() }]));
        assert!(!passes(&[good(), Outcome { violations: 1, ..good() }]));
        assert!(!passes(&[]), "nothing was tried");
    }

    #[test]
    fn a_loss_that_a_block_survives_excuses_nothing() {
        for missing in [Outcome { bytes_missing: 1, ..disaster() }, Outcome { violations: 1, ..good() }] {
            let with = |lost| [good(), disaster(), Outcome { lost, ..missing.clone() }];
            assert!(!passes(&with(4)) && passes(&with(5)), "{missing:?}");
        }
        assert!(!passes(&[Outcome { lost: 5, ..good() }]), "nothing was tried");
        // Packets are excused for one flow at a time.
        assert!(!passes(&[good(), Outcome { packets_missing: 1, lost: 5, ..good() }]));
        assert!(passes(&[Outcome { packets_excused: 33, ..good() }]));
        assert!(!passes(&[Outcome { packets_excused: 34, ..good() }]), "too much proves nothing");
    }

    #[test]
    fn a_late_or_missing_recovery_fails() {
        assert!(!passes(&[good(), Outcome { recovery: None, ..good() }]));
        assert!(!passes(&[good(), Outcome { recovery: Some(2 * SOON), ..good() }]));
        assert!(Outcome { recovery: None, ..good() }.surprise().is_some());
        assert!(good().surprise().is_none() && disaster().surprise().is_none());
    }

    #[test]
    fn a_control_must_lose_more_than_the_path_did() {
        let control = |missing, lost| Outcome { control: ControlResult { left: 50, missing }, lost, ..good() };
        assert!(passes(&[control(3, 2)]), "of one more nobody but the host can be the cause");
        assert!(!passes(&[control(2, 2)]));
        assert!(!passes(&[control(0, 0)]));
        assert!(!passes(&[Outcome { by_departure: 3, ..good() }]), "the mirror's own word is no test");
    }
}
