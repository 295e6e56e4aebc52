//! The cost of a planner: the same flows through the same pair, in short slices alternately with a fixed repair and with a
//! plan. A reload changes from one to the other, and loses nothing.

use std::{
    fs,
    net::IpAddr,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    FIXED, Stage, plan,
    slices::{LEAD, Pairs, SLICE, alternate, slice},
};
use crate::lab::{
    error::LabError,
    median::{median, median_bounds},
    network::Network,
    pair::{Pair, RunningAppliance},
    report::Report,
};

/// An odd number, so that the median is one of the values.
const PAIRS: usize = 61;
/// Time until a plan follows what is known of the link.
const SETTLE: Duration = Duration::from_millis(400);
/// A plan is followed within this time; without that there is nothing to measure.
const FOLLOWED_WITHIN: Duration = Duration::from_secs(10);
/// The repair symbols of both.
const REPAIR: u64 = 4;
/// A plan that is bound to have the same repair: beside an appliance whose receive buffer was full once, it may have more.
const PINNED: &str = "{ residual: 1e-9, min: 4, max_overhead: 12.5% }";
/// A plan must leave at least this share of the speed.
const LEAST: f64 = 0.98;

/// All slices of one transfer.
#[derive(Debug)]
pub struct PlanTurns {
    flows: u32,
    /// With the fixed repair, and with the plan.
    pairs: Pairs,
}

/// Measures slices alternately, while this many flows go through the pair.
pub fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    address: IpAddr,
    flows: u32,
) -> Result<PlanTurns, LabError> {
    let near = &pair.appliances[0];
    let fixed = fs::read_to_string(near.config()).map_err(LabError::doing("read a configuration"))?;
    let texts = [fixed.clone(), fixed.replace(FIXED, PINNED)];
    let lasts = LEAD + (SETTLE + SLICE) * 2 * PAIRS as u32;
    // The transfer is ended after the last slice; a slow machine must not reach its end earlier.
    let mut bulk = plan(&format!("plan-turns-{flows}"), address, flows, 3 * lasts.as_secs()).start(network)?;
    stage.pause(LEAD)?;
    let pairs = alternate(stage, (PAIRS, flows), |_, which| {
        fs::write(near.config(), &texts[which]).map_err(LabError::doing("write a configuration"))?;
        near.reload(network)?;
        stage.pause(SETTLE)?;
        wait_for_repair(stage, network, near, which == 1)?;
        slice(stage, network, pair, || 0)
    })?;
    // The last slice may have been one with a plan, and the next measurement reads the file.
    fs::write(near.config(), &texts[0]).map_err(LabError::doing("write a configuration"))?;
    near.reload(network)?;
    if !bulk.is_running() {
        return Err(LabError::Sentence("iperf3 ended before the last slice".to_owned()));
    }
    Ok(PlanTurns { flows, pairs })
}

/// Waits until the appliance has the repair of the slice: from a plan, or fixed.
fn wait_for_repair(
    stage: &Stage<'_>,
    network: &Network<'_>,
    near: &RunningAppliance,
    is_planned: bool,
) -> Result<(), LabError> {
    let deadline = Instant::now() + FOLLOWED_WITHIN.mul_f64(stage.options.slack);
    loop {
        let repair: Vec<u64> = near.status(network)?.peer().plans.iter().map(|plan| plan.repair_symbols).collect();
        if repair.is_empty() != is_planned && repair.iter().all(|symbols| *symbols == REPAIR) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LabError::Sentence(format!(
                "a slice has not the repair that it is to measure: the plans have {repair:?} symbols; wanted: {}",
                if is_planned { format!("a plan with {REPAIR}") } else { "no plan".to_owned() }
            )));
        }
        stage.pause(SETTLE / 4)?;
    }
}

impl PlanTurns {
    /// Adds the claim.
    pub fn report(&self, report: &mut Report, but: &str) {
        let (ratio, [low, high]) = (median(self.pairs.ratios()), median_bounds(self.pairs.ratios()));
        report.claim(
            format!("with a planner at least {LEAST} of the same repair without, {} flow(s)", self.flows),
            format!(
                "{ratio:.3} ({low:.3} to {high:.3} with 95 % certainty, {} pairs of slices{but}); CPU s per GB, both appliances: {:.2} \
                 without, {:.2} with",
                self.pairs.0.len(),
                self.pairs.cpu_per_gb(0),
                self.pairs.cpu_per_gb(1)
            ),
            ratio >= LEAST,
        );
    }

    /// The numbers.
    pub fn to_json(&self) -> Value {
        let [low, high] = median_bounds(self.pairs.ratios());
        json!({
            "ratio": median(self.pairs.ratios()),
            "ratio_least": low,
            "ratio_most": high,
            "cpu_seconds_per_gb_fixed": self.pairs.cpu_per_gb(0),
            "cpu_seconds_per_gb_planned": self.pairs.cpu_per_gb(1),
        })
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::slices::Slice;
    use super::*;

    /// Turns whose slices with a plan have this share of the speed, except some that were disturbed.
    pub fn turns(with: f64, disturbed: usize) -> PlanTurns {
        let slice = |gbit: f64| Slice { seconds: 0.5, bytes: gbit / 16.0 * 1e9, cpu_seconds: 0.4375, messages: 0 };
        let pair = |at| [slice(7.0), slice(if at < disturbed { 1.0 } else { 7.0 * with })];
        PlanTurns { flows: 4, pairs: Pairs((0..PAIRS).map(pair).collect()) }
    }

    #[test]
    fn a_minority_of_disturbed_slices_is_ignored_and_a_costly_plan_fails() {
        let passes = |turns: PlanTurns| {
            let mut report = Report::default();
            turns.report(&mut report, "");
            report.passes()
        };
        assert!(passes(turns(0.985, 0)) && passes(turns(0.985, PAIRS / 2)));
        assert!(!passes(turns(0.985, PAIRS / 2 + 1)) && !passes(turns(0.975, 0)));
        assert_eq!(turns(0.5, 0).to_json()["ratio"], json!(0.5));
    }
}
