//! What was found, and what is claimed of it.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use crate::lab::{fault::Fault, median::median, report::Report};

/// How long a bypass may take when the process is gone, and when it stands still.
const AFTER_CRASH: Duration = Duration::from_millis(100);
const AFTER_STALL: Duration = Duration::from_secs(1);

/// One fault.
#[derive(Clone, Copy, Debug)]
pub struct Trial {
    pub fault: Fault,
    /// The longest time without a packet, of both directions.
    pub longest: Duration,
    /// Packets that arrived twice.
    pub twice: u64,
    /// Packets missing of those that were sent while the appliance came back.
    pub missing_at_return: u64,
    /// Commits from the fault until the appliances carried again.
    pub commits: u64,
}

/// A fault and the death of the site.
#[derive(Clone, Copy, Debug)]
pub struct Disaster {
    pub fault: Fault,
    pub acknowledged: usize,
    pub lost: usize,
}

/// All that was found.
#[derive(Debug, Default)]
pub struct Found {
    pub trials: Vec<Trial>,
    pub disasters: Vec<Disaster>,
    pub commits: usize,
    /// Connections that the gate accepted, and those that ended.
    pub connections: [u64; 2],
    pub slack: f64,
}

/// The claims.
pub fn report(found: &Found) -> Report {
    let mut report = Report::default();
    let mut by_fault: BTreeMap<Fault, Vec<Trial>> = BTreeMap::new();
    found.trials.iter().for_each(|trial| by_fault.entry(trial.fault).or_default().push(*trial));
    for (fault, trials) in &by_fault {
        let bound = if fault.is_crash() { AFTER_CRASH } else { AFTER_STALL }.mul_f64(found.slack.max(1.0));
        let longest = trials.iter().map(|trial| trial.longest).max().unwrap_or_default();
        let typical = median(trials.iter().map(|trial| trial.longest.as_secs_f64() * 1e3).collect());
        report.claim(
            format!("{}: packets take the plain route within {bound:?}", fault.name()),
            format!("{longest:.1?} at most, {typical:.1} ms at the median, {} times", trials.len()),
            longest < bound,
        );
    }
    let sum = |of: fn(&Trial) -> u64| found.trials.iter().map(of).sum::<u64>();
    let (twice, missing) = (sum(|trial| trial.twice), sum(|trial| trial.missing_at_return));
    report.claim("nothing is delivered twice", format!("{twice} packets"), twice == 0 && !found.trials.is_empty());
    report.claim("the return loses nothing", format!("{missing} packets"), missing == 0);
    let [accepted, ended] = found.connections;
    let idle = found.trials.iter().filter(|trial| trial.commits == 0).count();
    report.claim(
        "no connection of the gate ends, and commits go on in each trial",
        format!("{accepted} new, {ended} ended; {} commits, {idle} trials without", found.commits),
        accepted == 0 && ended == 0 && idle == 0,
    );
    let acknowledged: usize = found.disasters.iter().map(|disaster| disaster.acknowledged).sum();
    let lost: usize = found.disasters.iter().map(|disaster| disaster.lost).sum();
    report.claim(
        format!("{} times the site dies during the bypass: nothing acknowledged is lost", found.disasters.len()),
        format!("{lost} of {acknowledged}"),
        lost == 0 && found.disasters.iter().all(|disaster| disaster.acknowledged > 0) && acknowledged > 0,
    );
    let trials = found.trials.iter().map(|trial| {
        let longest_ms = trial.longest.as_secs_f64() * 1e3;
        json!({ "fault": trial.fault.name(), "longest_ms": longest_ms, "twice": trial.twice,
                "missing_at_return": trial.missing_at_return, "commits": trial.commits })
    });
    report.metric("trials", trials.collect::<Vec<_>>());
    let disasters = found
        .disasters
        .iter()
        .map(|it| json!({ "fault": it.fault.name(), "acknowledged": it.acknowledged, "lost": it.lost }));
    report.metric("disasters", disasters.collect::<Vec<_>>());
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_claim_fails() {
        let good = || {
            let trial =
                |fault| Trial { fault, longest: Duration::from_millis(90), twice: 0, missing_at_return: 0, commits: 3 };
            let disaster = Disaster { fault: Fault::Kill, acknowledged: 9, lost: 0 };
            Found { trials: Fault::ALL.map(trial).to_vec(), disasters: vec![disaster], commits: 12, ..Found::default() }
        };
        let passes = |change: fn(&mut Found)| {
            let mut found = good();
            change(&mut found);
            report(&found).passes()
        };
        assert!(passes(|_| ()));
        assert!(passes(|found| found.trials[1].longest = Duration::from_millis(900)), "it stood still");
        assert!(!passes(|found| found.trials[0].longest = Duration::from_millis(101)));
        assert!(!passes(|found| found.trials[3].longest = Duration::from_millis(1001)));
        assert!(!passes(|found| found.trials[0].twice = 1));
        assert!(!passes(|found| found.trials[0].missing_at_return = 1));
        assert!(!passes(|found| found.trials[2].commits = 0));
        assert!(!passes(|found| found.connections = [1, 0]));
        assert!(!passes(|found| found.connections = [0, 1]));
        assert!(!passes(|found| found.disasters[0].lost = 1));
        assert!(!passes(|found| found.disasters[0].acknowledged = 0));
        assert!(!passes(|found| found.disasters.clear()));
    }
}
