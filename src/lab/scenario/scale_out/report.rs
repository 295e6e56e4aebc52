//! What was found, and what is claimed of it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{FLOWS, LASTS, ONE_WAY, spread::Spread};
use crate::lab::{fault::Fault, median::median, report::Report};

/// How soon the router of a dead or a standing appliance follows, and how long a flow may be without a packet.
pub fn bound(fault: Fault) -> Duration {
    if fault.is_crash() { Duration::from_millis(100) } else { Duration::from_secs(1) }
}

/// The gate while its flow is on the other pair.
#[derive(Clone, Debug, Default)]
pub struct Away {
    /// Commits.
    pub commits: u64,
    /// Acknowledgements given because something was protected.
    pub released: u64,
    /// Why nothing is, as its status says.
    pub reason: Option<String>,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Trial {
    pub fault: Fault,
    /// The node of the appliance.
    pub node: String,
    /// When the router of its site no longer had it, and when that of the other site no longer had its peer; none: never.
    pub withdrawn: Option<Duration>,
    pub withdrawn_far: Option<Duration>,
    /// The longest time without a packet, of all flows: before the fault, and from then on.
    pub longest_before: Duration,
    pub longest: Duration,
    /// Packets that arrived twice, that were lost by the fault, and that were lost by the return.
    pub twice: u64,
    pub missing: u64,
    pub missing_at_return: u64,
    /// From the end of the fault until both routers had both pairs.
    pub returned: Duration,
    /// From then until the gate acknowledged early; none: never.
    pub early_again: Option<Duration>,
    /// Commits from the fault until the gate acknowledged early again.
    pub commits: u64,
    /// The gate, where its flow was away.
    pub away: Option<Away>,
}

/// The gate was moved to the second pair while the first one was away, and back when that one carried again.
#[derive(Clone, Debug, Default)]
pub struct Moved {
    /// Before the first move; before the second one, with both pairs well and its flow on the one that it does not ask.
    pub away: Away,
    pub left_behind: Away,
    /// From each move until it acknowledged early; none: never.
    pub early_there: Option<Duration>,
    pub early_back: Option<Duration>,
    /// Commits and early acknowledgements in between.
    pub commits: u64,
    pub released: u64,
}

/// A fault and the death of the site.
#[derive(Clone, Debug)]
pub struct Disaster {
    pub fault: Fault,
    /// The node of the appliance.
    pub node: String,
    /// When it died: after the fault began, or after all had carried again.
    pub moment: &'static str,
    pub dies_after: Duration,
    pub acknowledged: usize,
    pub lost: usize,
    /// What drain says at the mirror's appliance of each pair.
    pub drains: [&'static str; 2],
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Found {
    pub spread: Spread,
    pub trials: Vec<Trial>,
    pub disasters: Vec<Disaster>,
    pub moved: Moved,
    pub commits: usize,
    /// The median commit while the gate's flow is protected, and while it is on the other pair.
    pub calm_ms: f64,
    pub away_ms: f64,
    /// Connections that the gate accepted, and those that ended.
    pub connections: [u64; 2],
    /// Answers on each TCP connection.
    pub answers: Vec<usize>,
    /// Without `withdraw_routes`: the longest time without a packet.
    pub control: Duration,
    pub slack: f64,
}

/// The claims.
pub fn report(found: &Found) -> Report {
    let mut report = Report::default();
    claim_spread(found, &mut report);
    claim_faults(found, &mut report);
    claim_commits(found, &mut report);
    let sum = |of: fn(&Disaster) -> usize| found.disasters.iter().map(of).sum::<usize>();
    let (acknowledged, lost) = (sum(|it| it.acknowledged), sum(|it| it.lost));
    report.claim(
        format!("{} times the primary site dies meanwhile: nothing acknowledged is lost", found.disasters.len()),
        format!("{lost} of {acknowledged}"),
        lost == 0 && found.disasters.iter().all(|disaster| disaster.acknowledged > 0) && acknowledged > 0,
    );
    report.claim(
        "control: where routes are not withdrawn, flows stay on a pair whose other end is dead",
        format!("{:.1?} without a packet", found.control),
        found.control > LASTS / 2,
    );
    add_metrics(found, &mut report);
    report
}

fn claim_spread(found: &Found, report: &mut Report) {
    let Spread { flows, packets, parted } = &found.spread;
    let handed_on: Vec<_> = packets.iter().map(|[far, near]| format!("{far} and {near}")).collect();
    report.claim(
        "both pairs carry, in both directions",
        format!("flows {flows:?}, packets {}", handed_on.join(", ")),
        flows.iter().flatten().all(|count| *count > 0) && packets.iter().flatten().all(|count| *count > 0),
    );
    if let Some([equal, different]) = parted {
        let all = 2 * FLOWS;
        report.claim(
            "with equal hash seeds at both routers each flow takes one pair in both directions",
            format!("{equal} of {all} do not"),
            *equal == 0,
        );
        report.claim("control: with different seeds some do not", format!("{different} of {all}"), *different > 0);
    }
}

fn claim_faults(found: &Found, report: &mut Report) {
    for fault in [Fault::Kill, Fault::Halt] {
        let trials: Vec<_> = found.trials.iter().filter(|trial| trial.fault == fault).collect();
        let bound = bound(fault).mul_f64(found.slack.max(1.0));
        let millis = |times: Vec<Duration>| {
            let longest = times.iter().max().copied().unwrap_or_default();
            let typical = median(times.iter().map(|time| time.as_secs_f64() * 1e3).collect());
            format!("{longest:.1?} at most, {typical:.1} ms at the median, {} times", times.len())
        };
        let withdrawn: Vec<_> = trials.iter().filter_map(|trial| trial.withdrawn).collect();
        report.claim(
            format!("{}: the router of the site withdraws the appliance within {bound:?}", fault.name()),
            millis(withdrawn.clone()),
            withdrawn.len() == trials.len() && withdrawn.iter().all(|time| *time < bound),
        );
        let far: Vec<_> = trials.iter().filter_map(|trial| trial.withdrawn_far).collect();
        report.claim(
            format!("{}: the router of the other site withdraws its peer", fault.name()),
            millis(far.clone()),
            far.len() == trials.len(),
        );
        report.claim(
            format!("{}: its flows take the other pair within {bound:?}", fault.name()),
            millis(trials.iter().map(|trial| trial.longest).collect()),
            trials.iter().all(|trial| trial.longest < bound) && !trials.is_empty(),
        );
    }
    let sum = |of: fn(&Trial) -> u64| found.trials.iter().map(of).sum::<u64>();
    let (twice, missing) = (sum(|trial| trial.twice), sum(|trial| trial.missing_at_return));
    report.claim("nothing is delivered twice", format!("{twice} packets"), twice == 0);
    report.claim("the return loses nothing", format!("{missing} packets"), missing == 0);
    report.claim(
        "TCP connections live, and each request is answered",
        format!("{:?} answers", found.answers),
        !found.answers.is_empty() && found.answers.iter().all(|answers| *answers > 0),
    );
}

fn claim_commits(found: &Found, report: &mut Report) {
    let [accepted, ended] = found.connections;
    let idle = found.trials.iter().filter(|trial| trial.commits == 0).count();
    report.claim(
        "no connection of the gate ends, and commits go on in each trial",
        format!("{accepted} new, {ended} ended; {} commits, {idle} trials without", found.commits),
        accepted == 0 && ended == 0 && idle == 0,
    );
    let moved = &found.moved;
    let away: Vec<_> = found.trials.iter().filter_map(|trial| trial.away.as_ref()).chain([&moved.away]).collect();
    let released: u64 = away.iter().map(|away| away.released).sum();
    let commits: u64 = away.iter().map(|away| away.commits).sum();
    let silent = away.iter().filter(|away| away.reason.is_none()).count();
    report.claim(
        "while its flow is on the other pair, the gate acknowledges nothing early and says why",
        format!("{released} early of {commits} commits, {silent} of {} times without a reason", away.len()),
        released == 0 && silent == 0 && away.iter().all(|away| away.commits > 0),
    );
    report.claim(
        "commits then take a round trip, and less while it is protected",
        format!("{:.1} ms and {:.1} ms at the median", found.away_ms, found.calm_ms),
        found.away_ms >= (2 * ONE_WAY).as_secs_f64() * 1e3 && found.calm_ms < found.away_ms,
    );
    report.claim(
        "moved to the pair that has its flow, it acknowledges early, and back again",
        format!(
            "{:.1?} and {:.1?} later, {} early of {} commits",
            moved.early_there.unwrap_or_default(),
            moved.early_back.unwrap_or_default(),
            moved.released,
            moved.commits
        ),
        moved.early_there.is_some() && moved.early_back.is_some() && moved.released > 0,
    );
    let left = &moved.left_behind;
    report.claim(
        "left behind by its flow, it acknowledges nothing early",
        format!("{} early of {} commits", left.released, left.commits),
        left.released == 0 && left.commits > 0,
    );
    let never = found.trials.iter().filter(|trial| trial.early_again.is_none()).count();
    let longest = found.trials.iter().filter_map(|trial| trial.early_again).max().unwrap_or_default();
    report.claim(
        "once both pairs carry again, the gate acknowledges early again",
        format!("{longest:.1?} later at most, {never} times never"),
        never == 0,
    );
}

fn add_metrics(found: &Found, report: &mut Report) {
    let millis = |time: Option<Duration>| time.map(|time| time.as_secs_f64() * 1e3);
    let trials = found.trials.iter().map(|trial| {
        let away = trial.away.as_ref().map_or(
            Value::Null,
            |away| json!({ "commits": away.commits, "early": away.released, "reason": away.reason }),
        );
        json!({ "fault": trial.fault.name(), "node": trial.node, "withdrawn_ms": millis(trial.withdrawn),
                "withdrawn_far_ms": millis(trial.withdrawn_far), "longest_ms": millis(Some(trial.longest)),
                "longest_before_ms": millis(Some(trial.longest_before)),
                "twice": trial.twice, "missing": trial.missing, "missing_at_return": trial.missing_at_return,
                "returned_ms": millis(Some(trial.returned)), "early_again_ms": millis(trial.early_again),
                "commits": trial.commits, "away": away })
    });
    report.metric("trials", trials.collect::<Vec<_>>());
    let disasters = found.disasters.iter().map(|it| {
        json!({ "fault": it.fault.name(), "node": it.node, "moment": it.moment, "dies_after_ms": millis(Some(it.dies_after)),
                "acknowledged": it.acknowledged, "lost": it.lost, "drains": it.drains })
    });
    report.metric("disasters", disasters.collect::<Vec<_>>());
    let Spread { flows, packets, parted } = &found.spread;
    report.metric("spread", json!({ "flows": flows, "packets": packets, "parted": parted }));
    report.metric(
        "commits",
        json!({ "count": found.commits, "early_p50_ms": found.calm_ms, "away_p50_ms": found.away_ms }),
    );
    report.metric(
        "moved",
        json!({ "early_there_ms": millis(found.moved.early_there), "early_back_ms": millis(found.moved.early_back),
                "commits": found.moved.commits, "early": found.moved.released }),
    );
    report.metric("answers", found.answers.clone());
    report.metric("control_longest_ms", millis(Some(found.control)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(90);

    fn good() -> Found {
        let trial = |fault| Trial {
            fault,
            node: "ithaca-a".to_owned(),
            withdrawn: Some(SHORT),
            withdrawn_far: Some(SHORT),
            longest_before: SHORT,
            longest: SHORT,
            twice: 0,
            missing: 3,
            missing_at_return: 0,
            returned: SHORT,
            early_again: Some(SHORT),
            commits: 3,
            away: Some(Away { commits: 2, released: 0, reason: Some("it is so".to_owned()) }),
        };
        let away = Away { commits: 2, released: 0, reason: Some("it is so".to_owned()) };
        let disaster = Disaster {
            fault: Fault::Kill,
            node: "ithaca-a".to_owned(),
            moment: "meanwhile",
            dies_after: SHORT,
            acknowledged: 9,
            lost: 0,
            drains: ["complete"; 2],
        };
        let moved = Moved {
            left_behind: Away { reason: None, ..away.clone() },
            away,
            early_there: Some(SHORT),
            early_back: Some(SHORT),
            commits: 4,
            released: 2,
        };
        Found {
            spread: Spread { flows: [[5, 7], [6, 6]], packets: [[9; 2]; 2], parted: Some([0, 9]) },
            trials: [Fault::Kill, Fault::Halt].map(trial).to_vec(),
            disasters: vec![disaster],
            moved,
            commits: 12,
            calm_ms: 2.0,
            away_ms: 21.0,
            connections: [0, 0],
            answers: vec![4, 5],
            control: LASTS,
            slack: 1.0,
        }
    }

    #[test]
    fn each_broken_claim_fails() {
        fn away(found: &mut Found) -> &mut Away {
            found.trials[0].away.as_mut().expect("a trial of the gate's pair")
        }
        assert!(report(&good()).passes());
        let broken: [fn(&mut Found); 33] = [
            |found| found.spread.flows[1][0] = 0,
            |found| found.spread.packets[0][1] = 0,
            |found| found.spread.parted = Some([1, 9]),
            |found| found.spread.parted = Some([0, 0]),
            |found| found.trials[0].withdrawn = Some(Duration::from_millis(101)),
            |found| found.trials[0].withdrawn = None,
            |found| found.trials[1].withdrawn = Some(Duration::from_millis(1001)),
            |found| found.trials[0].withdrawn_far = None,
            |found| found.trials[0].longest = Duration::from_millis(101),
            |found| found.trials[1].longest = Duration::from_millis(1001),
            |found| found.trials[0].twice = 1,
            |found| found.trials[1].missing_at_return = 1,
            |found| drop(found.trials.remove(1)),
            |found| found.trials[0].commits = 0,
            |found| found.trials[1].early_again = None,
            |found| away(found).released = 1,
            |found| away(found).commits = 0,
            |found| away(found).reason = None,
            |found| found.moved.away.reason = None,
            |found| found.moved.left_behind.released = 1,
            |found| found.moved.left_behind.commits = 0,
            |found| found.moved.early_there = None,
            |found| found.moved.early_back = None,
            |found| found.moved.released = 0,
            |found| found.calm_ms = 22.0,
            |found| found.away_ms = 19.0,
            |found| found.connections = [1, 0],
            |found| found.connections = [0, 1],
            |found| found.answers[1] = 0,
            |found| found.answers.clear(),
            |found| found.disasters[0].lost = 1,
            |found| found.disasters.clear(),
            |found| found.control = LASTS / 3,
        ];
        for (number, change) in broken.into_iter().enumerate() {
            let mut found = good();
            change(&mut found);
            assert!(!report(&found).passes(), "{number}");
        }
        let mut slow = good();
        slow.trials[1].longest = Duration::from_millis(900);
        slow.spread.parted = None;
        assert!(report(&slow).passes(), "it stood still, and the kernel has no seed");
    }
}
