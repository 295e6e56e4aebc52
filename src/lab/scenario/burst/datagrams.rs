//! The bound in datagrams: of one block a burst takes exactly as many symbols as it has repair symbols, or one more.
//!
//! The emulator loses the next long datagrams that enter; reports are short and pass.

use serde_json::{Value, json};

use super::bench::Bench;
use crate::lab::{error::LabError, network::Network, report::Report, scenario::Stage, times::Times};

/// Short full blocks, which close when they are full or when nothing came for long: each flow is one block.
const BLOCK_SYMBOLS: u32 = 8;
const REPAIR: &str = "{ fixed: 3 }";
const PROFILE: &str = "close_when_idle: 20ms\n    close_after: 30ms";
const PACKETS: u32 = 6;
const PACKET: usize = 1300;
/// Every datagram with a symbol of such a block is longer, every report shorter.
const LONG: usize = 700;

/// The flows that lost this many datagrams of their block.
#[derive(Debug, Default)]
pub struct Burst {
    /// Datagrams beyond the repair symbols.
    pub beyond: u64,
    pub flows: u32,
    /// Of all flows together: blocks that were not rebuilt, and those that were.
    pub lost_blocks: u64,
    pub rebuilt_blocks: u64,
    pub missing: u64,
    pub violations: u64,
    /// Flows that were called protected.
    pub protected: u32,
    /// Flows in which the emulator lost another number of datagrams, or that were more than one block.
    pub invalid: u32,
    pub waits: Times,
}

/// Measures both bursts.
pub fn measure(stage: &Stage<'_>, network: &Network<'_>, trials: u32) -> Result<Vec<Burst>, LabError> {
    let mut bench = Bench::start(stage, network, "datagrams", (REPAIR, PROFILE, BLOCK_SYMBOLS))?;
    let mut bursts = Vec::new();
    let repair = one_block(&mut bench, 0, &mut Burst::default())?;
    stage.say(&format!("  blocks of {PACKETS} packets have {repair} repair symbols"));
    for beyond in [0, 1] {
        let mut burst = Burst { beyond, ..Burst::default() };
        for _ in 0..trials {
            stage.trace.check_stop()?;
            one_block(&mut bench, repair + beyond, &mut burst)?;
        }
        stage.say(&format!("  {} datagrams lost in a row: {} blocks lost", repair + beyond, burst.lost_blocks));
        bursts.push(burst);
    }
    bench.end()?;
    Ok(bursts)
}

/// Sends one block of which the first `lost` datagrams are lost; returns its number of repair symbols.
fn one_block(bench: &mut Bench<'_>, lost: u64, burst: &mut Burst) -> Result<u64, LabError> {
    let truth = |bench: &Bench<'_>| bench.wan()?.truth().map_err(LabError::doing("read the emulator's counters"));
    let (mut flow, violations) = bench.begin()?;
    let [near_before, far_before] = bench.pair.status()?;
    let truth_before = truth(bench)?;
    if lost > 0 {
        bench.network.tell_wan(&format!("lose forth {lost} longer {LONG}B"))?;
    }
    for _ in 0..PACKETS {
        flow.send(PACKET)?;
    }
    let judged = bench.judge(flow, violations)?;
    let [near, far] = bench.pair.status()?;
    let sent = |count: fn(&crate::lab::status::Sent) -> u64| count(&near.peer().sent) - count(&near_before.peer().sent);
    let received = far.peer().received.since(&far_before.peer().received);
    let swallowed = truth(bench)?.since(&truth_before).forth.lost.chance;
    let repair = sent(|sent| sent.repair_symbols);
    burst.flows += 1;
    burst.lost_blocks += received.unrecoverable_blocks;
    burst.rebuilt_blocks += received.recovered_blocks;
    burst.missing += judged.missing;
    burst.violations += judged.violations;
    burst.protected += u32::from(judged.protected_after.is_some());
    burst.invalid += u32::from(swallowed != lost || sent(|sent| sent.blocks) != 1);
    if let Some(wait) = judged.protected_after {
        burst.waits.record(wait);
    }
    Ok(repair)
}

/// Adds the claims.
pub fn claim(report: &mut Report, bursts: &[Burst]) {
    for burst in bursts {
        let Burst { flows, lost_blocks, rebuilt_blocks, missing, violations, protected, invalid, .. } = burst;
        let found = format!(
            "{flows} blocks, {protected} called protected: {rebuilt_blocks} rebuilt, {lost_blocks} lost, {missing} packets \
             missing, {violations} violations; {invalid} invalid"
        );
        let all = u64::from(*flows);
        let is_valid = *flows > 0 && protected == flows && *invalid == 0;
        if burst.beyond == 0 {
            let holds = *lost_blocks == 0 && *missing == 0 && *violations == 0 && *rebuilt_blocks == all;
            report.claim("a burst of as many datagrams as repair symbols is rebuilt", found, is_valid && holds);
        } else {
            let holds = *lost_blocks == all && *missing > 0 && *violations == all;
            let claim = "control: one datagram more loses exactly that block, and each is told as a violation";
            report.claim(claim, found, is_valid && holds);
        }
    }
}

/// The result as JSON.
pub fn to_json(bursts: &[Burst]) -> Value {
    let one = |burst: &Burst| {
        json!({
            "beyond_repair_symbols": burst.beyond,
            "blocks": burst.flows,
            "protected": burst.protected,
            "lost_blocks": burst.lost_blocks,
            "rebuilt_blocks": burst.rebuilt_blocks,
            "missing_packets": burst.missing,
            "violations": burst.violations,
            "invalid": burst.invalid,
            "wait_p50_us": burst.waits.micros(0.5),
        })
    };
    bursts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn burst(beyond: u64, lost: u64, violations: u64) -> Burst {
        Burst {
            beyond,
            flows: 9,
            lost_blocks: lost,
            rebuilt_blocks: 9 - lost,
            missing: lost,
            violations,
            protected: 9,
            ..Burst::default()
        }
    }

    #[test]
    fn one_lost_block_and_an_untold_or_missing_loss_fail() {
        let passes = |bursts: &[Burst]| {
            let mut report = Report::default();
            claim(&mut report, bursts);
            report.passes()
        };
        assert!(passes(&[burst(0, 0, 0), burst(1, 9, 9)]));
        assert!(!passes(&[burst(0, 1, 1)]));
        assert!(!passes(&[burst(1, 0, 0)]), "a control that loses nothing proves nothing");
        assert!(!passes(&[burst(1, 9, 8)]), "an untold loss");
        assert!(!passes(&[Burst { invalid: 1, ..burst(0, 0, 0) }]));
        assert!(!passes(&[Burst { protected: 8, ..burst(1, 9, 9) }]));
        assert!(!passes(&[Burst::default()]));
    }
}
