//! Whether the mirror may be promoted, as far as what came from a peer is concerned.
//!
//! A pure function of [`ArrivedStatus`]; [`crate::cli`] requests it, waits and prints the result. It knows what arrived
//! and what is missing in it. What never entered the link left no trace here, and is not known.

use serde::{Deserialize, Serialize};

use crate::appliance::status::arrivals::{ArrivalStatus, ArrivedStatus};

/// A sender that lived for this long after a block was lost has sent its TCP data again: Linux does so five times.
const SENT_AGAIN_MS: f64 = 10_000.0;
/// A gap shows with the next bytes that are handed on, in the turn of the loss or later.
const SLACK_MS: f64 = 1_000.0;

/// The result of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing is known to be missing.
    Complete,
    /// Every block that was sent to its end is here. A block that was being sent when the sender ended is here in part:
    /// it was not called protected, unless more of it was lost than it had repair symbols.
    Unfinished,
    /// Something that may have been called protected is missing.
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

/// A verdict with its reasons, in sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainAssessment {
    /// The verdict as of now.
    pub verdict: Verdict,
    /// Why.
    pub reasons: Vec<String>,
    /// What may still change the verdict: until then it is too early.
    pub waits_for: Vec<String>,
    /// The peer is alive: something came from it a short time ago.
    pub is_alive: bool,
}

/// Assesses what has arrived.
pub fn assess(arrived: &ArrivedStatus) -> DrainAssessment {
    let mut assessment =
        DrainAssessment { verdict: Verdict::Complete, reasons: Vec::new(), waits_for: Vec::new(), is_alive: false };
    let Some(heard) = arrived.heard_ms_ago else {
        assessment.add_reason(
            Verdict::Incomplete,
            "nothing has come from this peer since this appliance was started: what was in flight before is lost with \
             the run before"
                .to_owned(),
        );
        return assessment;
    };
    assessment.look_for_waiting(arrived, heard);
    assessment.look_for_losses(arrived, heard);
    assessment.look_for_gaps(arrived);
    assessment
}

impl DrainAssessment {
    fn add_reason(&mut self, verdict: Verdict, reason: String) {
        self.verdict = self.verdict.max(verdict);
        self.reasons.push(reason);
    }

    fn look_for_waiting(&mut self, arrived: &ArrivedStatus, heard: f64) {
        let (silent, quiet) = (arrived.silent_ms, arrived.quiet_after_ms);
        if arrived.unread_lanes > 0 {
            self.waits_for.push(format!("{} lanes that have not read their sockets to the end", arrived.unread_lanes));
        }
        if heard < quiet {
            self.is_alive = true;
            self.waits_for.push(format!("silence: something came {heard:.0} ms ago, {quiet:.0} ms are needed"));
        } else if silent < quiet {
            // A lane stood still or has not read: what came may not have reached the socket yet.
            self.waits_for
                .push(format!("silence: nothing came for {silent:.0} ms of listening, {quiet:.0} ms are needed"));
        }
        if arrived.waiting_blocks > 0 {
            self.waits_for.push(format!("{} blocks that are not done with", arrived.waiting_blocks));
        }
        for flow in &arrived.flows {
            if let Some(acknowledged) = flow.acknowledged.filter(|&acknowledged| acknowledged < flow.bytes) {
                let (name, bytes) = (name(flow), flow.bytes - acknowledged);
                let fate = match bytes.saturating_sub(flow.kept) {
                    0 => "they are handed on again".to_owned(),
                    lacking => format!("{lacking} of them are not kept here and cannot be handed on again"),
                };
                self.waits_for.push(format!("{name}: {bytes} bytes that were handed on are not acknowledged; {fate}"));
            }
        }
    }

    fn look_for_losses(&mut self, arrived: &ArrivedStatus, heard: f64) {
        for lost in arrived.lost.iter().filter(|lost| lost.ms_ago <= heard + SENT_AGAIN_MS) {
            let last = lost.first + lost.count.saturating_sub(1);
            let (lane, profile, before) = (lost.lane, lost.profile, (lost.ms_ago - heard) / 1e3);
            let when = match before > 0.0 {
                true => format!("{before:.1} s before the peer was last heard"),
                false => "after the peer was last heard".to_owned(),
            };
            let first = lost.first;
            self.add_reason(
                Verdict::Incomplete,
                format!("blocks {first} to {last} of lane {lane}, profile {profile}, were given up {when}"),
            );
        }
        if let Some(ago) = arrived.overflowed_ms_ago {
            let ago = ago / 1e3;
            self.add_reason(
                Verdict::Incomplete,
                format!("a socket of this host was full and dropped datagrams, found {ago:.1} s ago, with nothing of the peer behind them"),
            );
        }
        if arrived.refused_ms_ago.is_some_and(|refused| refused <= heard + SENT_AGAIN_MS) {
            self.add_reason(Verdict::Incomplete, "the TUN device refused packets".to_owned());
        }
        for block in &arrived.unfinished {
            let (lane, profile, number) = (block.lane, block.profile, block.block);
            self.add_reason(
                Verdict::Unfinished,
                format!("the end of block {number} of lane {lane}, profile {profile}, never came: it was being sent"),
            );
        }
    }

    fn look_for_gaps(&mut self, arrived: &ArrivedStatus) {
        for flow in arrived.flows.iter().filter(|flow| !flow.missing.is_empty()) {
            let since = flow.missing_for_ms.unwrap_or(0.0);
            let by_loss =
                arrived.lost.iter().any(|lost| lost.ms_ago >= since - SLACK_MS && lost.ms_ago <= since + SENT_AGAIN_MS);
            let ranges: Vec<String> = flow
                .missing
                .iter()
                .map(|range| format!("[{}, {}) from sequence {}", range.from, range.to, range.sequence))
                .collect();
            let verdict = if by_loss { Verdict::Incomplete } else { Verdict::Unfinished };
            self.add_reason(verdict, format!("{}: missing bytes {}", name(flow), ranges.join(", ")));
        }
    }

    /// The verdict when there is no more time to wait.
    pub fn at_deadline(mut self) -> Self {
        for what in std::mem::take(&mut self.waits_for) {
            self.add_reason(Verdict::Incomplete, format!("still waiting for {what}"));
        }
        self
    }
}

fn name(flow: &ArrivalStatus) -> String {
    format!("{} > {}", flow.source, flow.destination)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::status::arrivals::{LostStatus, MissingBytes, UnfinishedBlock};

    fn drained() -> ArrivedStatus {
        ArrivedStatus {
            heard_ms_ago: Some(600.0),
            silent_ms: 560.0,
            quiet_after_ms: 520.0,
            flows: vec![ArrivalStatus {
                source: "10.1.0.1:40000".parse().unwrap(),
                destination: "10.2.0.1:5432".parse().unwrap(),
                from_syn: true,
                bytes: 5000,
                sequence: 77,
                highest: 5000,
                missing: vec![],
                missing_for_ms: None,
                acknowledged: Some(5000),
                kept: 0,
            }],
            ..ArrivedStatus::default()
        }
    }

    fn lost(ms_ago: f64) -> LostStatus {
        LostStatus { lane: 1, profile: 2, first: 91, count: 2, ms_ago }
    }

    fn gap(arrived: &mut ArrivedStatus, ms: f64) {
        arrived.flows[0].missing = vec![MissingBytes { from: 5000, to: 6448, sequence: 77 }];
        arrived.flows[0].missing_for_ms = Some(ms);
        arrived.flows[0].highest = 7000;
    }

    #[test]
    fn each_thing_that_is_missing_has_its_verdict_and_its_reason() {
        type Row = (fn(&mut ArrivedStatus), Verdict, &'static str);
        let rows: [Row; 10] = [
            (|_| (), Verdict::Complete, ""),
            (|it| it.heard_ms_ago = None, Verdict::Incomplete, "nothing has come from this peer"),
            (
                |it| it.lost.push(lost(650.0)),
                Verdict::Incomplete,
                "blocks 91 to 92 of lane 1, profile 2, were given up 0.1 s before",
            ),
            (|it| it.lost.push(lost(100.0)), Verdict::Incomplete, "after the peer was last heard"),
            // Long ago: the data was sent again since, or there would be a gap.
            (|it| it.lost.push(lost(60_000.0)), Verdict::Complete, ""),
            (
                |it| {
                    it.lost.push(lost(60_000.0));
                    gap(it, 59_000.0);
                },
                Verdict::Incomplete,
                "10.1.0.1:40000 > 10.2.0.1:5432: missing bytes [5000, 6448) from sequence 77",
            ),
            (|it| gap(it, 590.0), Verdict::Unfinished, "[5000, 6448)"),
            (
                |it| it.unfinished.push(UnfinishedBlock { lane: 0, profile: 0, block: 7 }),
                Verdict::Unfinished,
                "the end of block 7",
            ),
            (|it| it.refused_ms_ago = Some(700.0), Verdict::Incomplete, "refused"),
            (|it| it.overflowed_ms_ago = Some(100.0), Verdict::Incomplete, "dropped datagrams"),
        ];
        for (change, verdict, words) in rows {
            let mut arrived = drained();
            change(&mut arrived);
            let assessment = assess(&arrived).at_deadline();
            assert_eq!(assessment.verdict, verdict, "{assessment:?}");
            assert!(assessment.reasons.iter().any(|it| it.contains(words)) || words.is_empty(), "{assessment:?}");
            assert_eq!(assessment.reasons.is_empty(), words.is_empty(), "{assessment:?}");
        }
    }

    #[test]
    fn what_may_still_come_is_waited_for_and_counts_as_incomplete_at_the_end() {
        type Row = (fn(&mut ArrivedStatus), &'static str);
        let rows: [Row; 7] = [
            (|it| it.heard_ms_ago = Some(3.0), "silence: something came 3 ms ago"),
            // An appliance that stood still, and has not read since.
            (|it| it.silent_ms = 519.0, "silence: nothing came for 519 ms of listening"),
            (|it| it.unread_lanes = 2, "2 lanes that have not read"),
            (|it| it.waiting_blocks = 4, "4 blocks"),
            (
                |it| it.flows[0].acknowledged = Some(4990),
                "10 bytes that were handed on are not acknowledged; 10 of them",
            ),
            (
                |it| (it.flows[0].acknowledged, it.flows[0].kept) = (Some(4990), 7),
                "3 of them are not kept here and cannot be handed on again",
            ),
            (
                |it| (it.flows[0].acknowledged, it.flows[0].kept) = (Some(4990), 11),
                "10 bytes that were handed on are not acknowledged; they are handed on again",
            ),
        ];
        for (change, words) in rows {
            let mut arrived = drained();
            change(&mut arrived);
            let assessment = assess(&arrived);
            assert!(assessment.waits_for.iter().any(|it| it.contains(words)), "{assessment:?}");
            let end = assessment.at_deadline();
            assert!(end.verdict == Verdict::Incomplete && end.reasons[0].contains(words), "{end:?}");
        }
        let mut unseen = drained();
        unseen.flows[0].acknowledged = None;
        assert_eq!(assess(&unseen).waits_for, [""; 0], "acknowledgements may take another path");
    }
}
