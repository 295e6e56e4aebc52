//! The residual loss: a sweep over single losses and bursts, with a bulk TCP flow through the appliances.

use std::time::Duration;

use serde_json::json;

use super::{Stage, stage::WAN_TCP};
use crate::lab::{
    error::LabError,
    pair::{Pair, PairOptions},
    report::Report,
    status::{Received, Status},
    wan::counters::Counters,
    workload::{
        iperf::{Bulk, BulkPlan},
        kernel::dropped_by_device,
    },
};

const REPAIR: &str = "{ fixed: 10, assume_loss: 1% }";
const BLOCK_SYMBOLS: u32 = 64;
/// Losses toward the mirror; the other direction has the same.
const SWEEP: [&str; 8] = ["0%", "0.1%", "0.5%", "1%", "2%", "5%", "bursts 0.025% 25%", "bursts 0.25% 25%"];

struct Row {
    loss: String,
    bulk: Bulk,
    received: Received,
    truth: Counters,
    /// Datagrams that this host dropped before or after the WAN because a process read too slowly.
    own_drops: u64,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(5);
    stage.say(&format!(
        "loss: one cubic flow of iperf3 through the appliances over 50 ms round trip, {seconds} s at each loss. \"raw\" is what\n\
         the WAN lost, \"rebuilt\" what the repair symbols gave back, \"left\" the blocks that could not be rebuilt. Bursts are\n\
         Gilbert-Elliott: mean length 4. Blocks of {BLOCK_SYMBOLS} symbols, repair {REPAIR}.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let Some(wan) = network.wan() else {
        return Err(LabError::Sentence("this scenario needs a topology with kind: emulator".to_owned()));
    };
    let options = PairOptions { repair: REPAIR.to_owned(), block_symbols: BLOCK_SYMBOLS, ..PairOptions::default() };
    let pair = Pair::start(&network, &options)?;
    let mut rows = Vec::new();
    let sweep = match &stage.options.loss_trace {
        Some(file) => vec![SWEEP[0].to_owned(), format!("trace {}", file.display())],
        None => SWEEP.map(str::to_owned).to_vec(),
    };
    for (number, loss) in sweep.into_iter().enumerate() {
        stage.say(&format!("  loss {loss} ..."));
        network.tell_wan(&format!("set loss {loss}"))?;
        let truth = || wan.truth().map_err(LabError::doing("read the emulator's counters"));
        let (truth_before, before) = (truth()?, pair.appliances[1].status(&network)?);
        let own_drops = |status: &Status| -> Result<u64, LabError> {
            Ok(status.receive_overflows() + dropped_by_device(&network, "ithaca", "wan0")?)
        };
        let own_before = own_drops(&before)?;
        let name = format!("loss-{number}");
        let plan = BulkPlan::to_mirror(&name, address, seconds);
        let bulk = plan.run(&network)?;
        stage.pause(Duration::from_millis(400))?;
        let after = pair.appliances[1].status(&network)?;
        let received = after.peer().received.since(&before.peer().received);
        let own_drops = own_drops(&after)?.saturating_sub(own_before);
        rows.push(Row { loss, bulk, received, truth: truth()?.since(&truth_before).forth, own_drops });
    }
    pair.stop()?;
    Ok(report(&rows))
}

fn report(rows: &[Row]) -> Report {
    let mut report = Report::default();
    let free = rows.first().map_or(0.0, |row| row.bulk.bits_per_second).max(1.0);
    for row in rows {
        let is_light = ["0.1%", "0.5%", "1%"].contains(&row.loss.as_str());
        if is_light {
            let left = row.received.unrecoverable_blocks;
            let found = format!("{left} blocks; this machine itself dropped {}", row.own_drops);
            report.claim(format!("nothing is left of {} loss", row.loss), found, left == 0);
        }
        if row.loss == "1%" {
            let kept = row.bulk.bits_per_second / free;
            let found = format!("{:.0} %", kept * 100.0);
            report.claim("TCP keeps its goodput at 1 % loss (over 85 %: this machine is shared)", found, kept > 0.85);
            let (told, real) = (row.received.lost, row.truth.lost.total());
            let agree = told.abs_diff(real) as f64 <= (real as f64 * 0.01).max(3.0);
            report.claim(
                "receiver and emulator agree on losses within 1 %",
                format!("{told} told, {real} real"),
                agree,
            );
        }
        if row.loss == "5%" {
            let rebuilt = row.received.recovered_symbols;
            report.claim("control: 5 % loss is seen and rebuilt", format!("{rebuilt} symbols"), rebuilt > 0);
        }
        if row.loss.starts_with("trace ") {
            let (told, real) = (row.received.lost, row.truth.lost.chance);
            let found =
                format!("{real} datagrams lost, {told} told, {} blocks left", row.received.unrecoverable_blocks);
            report.claim("the losses of the trace are seen", found, real > 0 && told > 0);
        }
    }
    report.table(
        &["loss", "raw", "rebuilt symbols", "left blocks", "residual", "goodput", "of loss-free", "TCP sent again"],
        rows.iter().map(|row| {
            vec![
                row.loss.clone(),
                format!("{:.2} %", row.truth.loss() * 100.0),
                row.received.recovered_symbols.to_string(),
                row.received.unrecoverable_blocks.to_string(),
                format!("{:.1e}", row.received.residual_loss()),
                format!("{:.0} Mbit/s", row.bulk.bits_per_second / 1e6),
                format!("{:.0} %", row.bulk.bits_per_second / free * 100.0),
                row.bulk.retransmits.to_string(),
            ]
        }),
    );
    let sweep: Vec<_> = rows
        .iter()
        .map(|row| {
            json!({
                "loss": row.loss,
                "emulator_loss": row.truth.loss(),
                "receiver_loss": row.received.raw_loss(),
                "recovered_symbols": row.received.recovered_symbols,
                "unrecoverable_blocks": row.received.unrecoverable_blocks,
                "residual_loss": row.received.residual_loss(),
                "goodput_mbit": row.bulk.bits_per_second / 1e6,
                "of_loss_free": row.bulk.bits_per_second / free,
                "tcp_retransmits": row.bulk.retransmits,
                "own_drops": row.own_drops,
            })
        })
        .collect();
    report.metric("sweep", sweep);
    report
}
