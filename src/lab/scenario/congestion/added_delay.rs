//! The delay that the appliance itself adds to a ping beside a bulk transfer, both through the tunnel.
//!
//! With `path.rate` the bulk waits before the path, in the appliance, whose queue must be short in time. Without it the queue of
//! the path itself fills up: the control.

use std::time::Duration;

use serde_json::json;

use crate::lab::{
    error::LabError,
    network::Network,
    pair::{Pair, PairOptions},
    report::Report,
    scenario::{Stage, stage::ends},
    times::Times,
    workload::{iperf::BulkPlan, ping::Ping},
};

const RATE_MBIT: u64 = 100;
/// A path of a tenth more than `path.rate`, with a queue of about 70 ms.
const PATH: &str = "set rate 110mbit, queue 1MB";
const WHOLE: &str = "set rate unlimited, queue 1MB";
const ADDED: Duration = Duration::from_millis(10);
const IDLE_SECONDS: u64 = 2;

/// What was measured.
#[derive(Debug)]
pub struct Added {
    idle: Times,
    paced: Times,
    unpaced: Times,
    /// Of the bulk at `path.rate`.
    paced_mbit: f64,
}

/// Measures pings with and without `path.rate`.
pub fn measure(stage: &Stage<'_>, network: &Network<'_>, seconds: u64) -> Result<Added, LabError> {
    network.tell_wan(PATH)?;
    let address = ends(network)?[1];
    let to = address.to_string();
    let (mut idle, mut found) = (Times::default(), Vec::new());
    for (label, path) in [("paced", format!(", rate: {RATE_MBIT}mbit")), ("unpaced", String::new())] {
        let pair = Pair::start(network, &PairOptions { label: label.to_owned(), path, ..PairOptions::default() })?;
        if label == "paced" {
            idle = Ping::start(network, "idle-ping", "primary", &to, IDLE_SECONDS)?.finish()?;
        }
        let plan = BulkPlan::to_mirror(label, address, seconds);
        let bulk = plan.start(network)?;
        let ping = Ping::start(network, &format!("{label}-ping"), "primary", &to, seconds)?;
        let bulk = bulk.finish()?;
        let times = ping.finish()?;
        let mbit = bulk.bits_per_second / 1e6;
        stage.say(&format!("  ping beside a bulk, {label}: p50 {:?}, {mbit:.0} Mbit/s", times.quantile(0.5)));
        found.push((times, mbit));
        pair.stop()?;
    }
    network.tell_wan(WHOLE)?;
    let mut found = found.into_iter();
    let (paced, paced_mbit) = found.next().unwrap_or_default();
    let (unpaced, _) = found.next().unwrap_or_default();
    Ok(Added { idle, paced, unpaced, paced_mbit })
}

/// Adds the claims.
pub fn claim(report: &mut Report, added: &Added, slack: f64) {
    let Added { idle, paced, unpaced, paced_mbit } = added;
    let more = |times: &Times| times.quantile(0.5).saturating_sub(idle.quantile(0.5));
    let answered = [idle, paced, unpaced].iter().all(|times| times.count() > 0);
    let limit = ADDED.mul_f64(slack);
    let found = format!("{:?}; p99 {:?}, {paced_mbit:.0} Mbit/s", more(paced), paced.quantile(0.99));
    let uses_it = *paced_mbit * slack >= 0.6 * RATE_MBIT as f64;
    report.claim(
        format!("a ping beside a bulk at path.rate takes at most {limit:?} longer than an idle one, at the median"),
        found,
        answered && more(paced) <= limit && uses_it,
    );
    report.claim(
        format!("control: without path.rate it takes more than {ADDED:?} longer"),
        format!("{:?}", more(unpaced)),
        more(unpaced) > ADDED,
    );
    report.metric(
        "added_delay",
        json!({
            "path_rate_mbit": RATE_MBIT,
            "bulk_mbit": paced_mbit,
            "idle_p50_us": idle.micros(0.5),
            "paced_p50_us": paced.micros(0.5),
            "paced_p99_us": paced.micros(0.99),
            "unpaced_p50_us": unpaced.micros(0.5),
        }),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_queue_an_unused_path_and_a_weak_control_fail() {
        let times = |ms: u64| {
            let mut times = Times::default();
            times.record(Duration::from_millis(ms));
            times
        };
        let passes = |paced, unpaced, paced_mbit| {
            let mut report = Report::default();
            let added = Added { idle: times(20), paced: times(paced), unpaced: times(unpaced), paced_mbit };
            claim(&mut report, &added, 1.0);
            report.passes()
        };
        assert!(passes(28, 60, 80.0));
        assert!(!passes(35, 60, 80.0));
        assert!(!passes(28, 60, 20.0), "a bulk that leaves room has no queue");
        assert!(!passes(28, 29, 80.0));
    }
}
