//! The first scenario a new user runs: a copy over a lossy WAN with the appliances, then without them as the control.

use std::time::Duration;

use serde_json::json;

use super::{Stage, stage::WAN_TCP};
use crate::lab::{
    error::LabError,
    network::Network,
    pair::{Pair, PairOptions},
    report::Report,
    status::{Received, share},
    timeline::Timeline,
    wan::{control::Truth, counters::Counters},
    workload::{
        data,
        kernel::{TcpCounters, dropped_by_device},
        request_response::{Latencies, RequestResponse, Talk},
        rsync::Daemon,
    },
};

const BYTES: u64 = 256 << 20;
/// Cubic reaches about 3 Mbit/s at 50 ms and 1 % loss: this amount takes ten to twenty seconds.
const DIRECT_BYTES: u64 = 8 << 20;
const LOSS: &str = "1%";
/// At 1 % loss, more than 10 of 74 datagrams are lost once in 4 × 10^9 blocks.
const BLOCK_SYMBOLS: u32 = 64;
const REPAIR: &str = "{ fixed: 10, assume_loss: 1% }";

/// One transfer, with all counters of its time.
struct Transfer {
    bytes: u64,
    elapsed: Duration,
    tcp: TcpCounters,
    truth: Truth,
    latencies: Latencies,
    is_equal: bool,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    stage.say(
        "quickstart: copies 256 MB with rsync from primary to mirror over a WAN of 50 ms round trip that loses 1 % of all\n\
         datagrams each way, first through a pair of appliances, then (less) without them. TCP takes every loss for\n\
         congestion; through the appliances it should not see any.\n",
    );
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(&format!("set loss {LOSS}"))?;
    let address = |node: &str| {
        let address = network.topology().address(node, false);
        address.ok_or_else(|| LabError::Sentence(format!("the topology gives {node} no IPv4 address")))
    };
    let (primary, mirror) = (address("primary")?, address("mirror")?);
    let directory = stage.trace.directory();
    stage.say("making the data ...");
    let make = |name: &str, bytes| {
        let path = directory.join(name);
        data::generate(&path, bytes, stage.options.seed).map(|()| path).map_err(LabError::doing("generate data"))
    };
    let (large, small) = (make("large", BYTES)?, make("small", DIRECT_BYTES)?);
    let copies = directory.join("copies");
    let daemon = Daemon::start(&network, "mirror", mirror, &copies)?;
    if daemon.is_nested() {
        stage.say(
            "(without root: rsync's daemon has a second user namespace, in which it is not root, because the root of the\n\
             first may not change its groups and the daemon would insist)",
        );
    }

    stage.say(&format!("starting the appliances (blocks of {BLOCK_SYMBOLS} symbols, repair {REPAIR}) ..."));
    let options = PairOptions { repair: REPAIR.to_owned(), block_symbols: BLOCK_SYMBOLS, ..PairOptions::default() };
    let pair = Pair::start(&network, &options)?;
    let before = pair.status()?;
    let transfer = |name: &str, source: &std::path::Path, bytes, settle| -> Result<Transfer, LabError> {
        let truth_before = truth(&network)?;
        let tcp_before = TcpCounters::of(&network, "primary")?;
        let request_response = RequestResponse::start(&network, "mirror", "primary", primary, Talk::INTERACTIVE)?;
        let mut copy = daemon.copy(&network, "primary", source, name)?;
        let sent = || truth(&network).map_or(0, |now| now.forth.entered_bytes - truth_before.forth.entered_bytes);
        let elapsed = stage.watch(&mut copy, bytes, Duration::from_secs(180), sent)?;
        let latencies = request_response.finish()?;
        // Datagrams in flight must arrive, and the last report must be sent, before the counters are compared.
        stage.pause(settle)?;
        let tcp = TcpCounters::of(&network, "primary")?.since(&tcp_before);
        let truth = truth(&network)?.since(&truth_before);
        let sums = [data::checksum(source), data::checksum(&copies.join(name))];
        let is_equal = matches!(&sums, [Ok(sent), Ok(arrived)] if sent == arrived);
        Ok(Transfer { bytes, elapsed, tcp, truth, latencies, is_equal })
    };
    stage.say("256 MB with rsync through the appliances, and small requests from mirror to primary beside it ...");
    let timeline = Timeline::start(&pair, Duration::from_millis(250));
    let through = transfer("large", &large, BYTES, Duration::from_millis(500))?;
    let seen = timeline.finish();
    let after = pair.status()?;
    let uplinks = [dropped_by_device(&network, "ithaca", "wan0")?, dropped_by_device(&network, "syracuse", "wan0")?];
    let ended = pair.stop()?;

    stage.say("the control: 8 MB with rsync over the same WAN without the appliances ...");
    let namespaces = [("ithaca", "10.2.0.0/24"), ("syracuse", "10.1.0.0/24")];
    for (node, prefix) in namespaces {
        network.run(node, &["ip", "route", "add", prefix, "dev", "wan0"])?;
    }
    let direct = transfer("small", &small, DIRECT_BYTES, Duration::from_millis(100))?;

    let received = |at: usize| after[at].peer().received.since(&before[at].peer().received);
    // Syracuse receives the direction `forth`.
    let (forth, back) = (received(1), received(0));
    let mut report = Report::default();
    claim(&mut report, &through, &direct, [forth, back], uplinks);
    let ended_well = ended.iter().all(|ended| ended.exit.success());
    report.claim("both appliances end cleanly on SIGTERM", format!("{}, {}", ended[0].exit, ended[1].exit), ended_well);
    let overflows: u64 = after.iter().map(|status| status.receive_overflows()).sum();
    report.metric("receive_overflows", overflows);
    report.metric(
        "cpu_seconds",
        json!({ &ended[0].node: ended[0].cpu.as_secs_f64(), &ended[1].node: ended[1].cpu.as_secs_f64() }),
    );
    seen.into_iter().for_each(|plot| report.draw(plot));
    Ok(report)
}

fn truth(network: &Network<'_>) -> Result<Truth, LabError> {
    let remote = network
        .wan()
        .ok_or_else(|| LabError::Sentence("this scenario needs a topology with kind: emulator".to_owned()))?;
    remote.truth().map_err(LabError::doing("read the emulator's counters"))
}

fn claim(report: &mut Report, through: &Transfer, direct: &Transfer, received: [Received; 2], uplinks: [u64; 2]) {
    report.claim("equal checksums through the appliances", yes(through.is_equal), through.is_equal);
    report.claim("equal checksums without them", yes(direct.is_equal), direct.is_equal);
    let unrecoverable: u64 = received.iter().map(|received| received.unrecoverable_blocks).sum();
    let recovered: u64 = received.iter().map(|received| received.recovered_symbols).sum();
    report.claim(
        "residual loss is 0",
        format!("{unrecoverable} blocks, {recovered} symbols rebuilt"),
        unrecoverable == 0 && recovered > 0,
    );
    let share_again = share(through.tcp.retransmitted, through.tcp.sent);
    report.claim(
        "TCP sends nearly nothing again (< 0.02 %) through the appliances",
        format!("{} of {} segments ({:.3} %)", through.tcp.retransmitted, through.tcp.sent, share_again * 100.0),
        share_again < 0.0002,
    );
    let control = share(direct.tcp.retransmitted, direct.tcp.sent);
    report.claim(
        "control: without them TCP has to send again (> 0.3 %)",
        format!("{} of {} segments ({:.2} %)", direct.tcp.retransmitted, direct.tcp.sent, control * 100.0),
        control > 0.003,
    );
    let directions = [("primary to mirror", &through.truth.forth, 0), ("mirror to primary", &through.truth.back, 1)];
    for (name, truth, at) in directions {
        let (told, real) = (received[at].lost, truth.lost.total());
        report.claim(
            format!("receiver and emulator agree on losses, {name} (within 1 %)"),
            format!("{told} told, {real} real of {}", truth.entered),
            agree(told, real) && real > 0,
        );
        report.metric(["losses_forth", "losses_back"][at], losses(&received[at], truth, uplinks[at]));
    }
    for (name, transfer) in [("through", through), ("direct", direct)] {
        let seconds = transfer.elapsed.as_secs_f64();
        report.metric(
            name,
            json!({
                "bytes": transfer.bytes,
                "seconds": seconds,
                "goodput_mbit": transfer.bytes as f64 * 8e-6 / seconds,
                "tcp_segments": transfer.tcp.sent,
                "tcp_retransmits": transfer.tcp.retransmitted,
                "tcp_timeouts": transfer.tcp.timeouts,
                "interactive_answers": transfer.latencies.count(),
                "interactive_p50_ms": transfer.latencies.percentile_ms(50.0),
                "interactive_p99_ms": transfer.latencies.percentile_ms(99.0),
            }),
        );
    }
    report.metric("checksums_equal", through.is_equal && direct.is_equal);
    report.metric("residual_blocks", unrecoverable);
    let row = |name: &str, transfer: &Transfer| {
        let seconds = transfer.elapsed.as_secs_f64();
        vec![
            name.to_owned(),
            format!("{} MB in {seconds:.1} s", transfer.bytes >> 20),
            format!("{:.1} Mbit/s", transfer.bytes as f64 * 8e-6 / seconds),
            transfer.tcp.retransmitted.to_string(),
            format!("{:.0} / {:.0} ms", transfer.latencies.percentile_ms(50.0), transfer.latencies.percentile_ms(99.0)),
        ]
    };
    report.table(
        &["50 ms, 1 % loss", "rsync", "goodput", "TCP sent again", "interactive p50 / p99"],
        [row("onwire", through), row("without", direct)],
    );
}

fn losses(received: &Received, truth: &Counters, uplink: u64) -> serde_json::Value {
    json!({
        "emulator_datagrams": truth.entered,
        "emulator_lost": truth.lost.total(),
        "receiver_lost": received.lost,
        "uplink_queue_drops": uplink,
        "recovered_symbols": received.recovered_symbols,
        "unrecoverable_blocks": received.unrecoverable_blocks,
    })
}

/// Within one per cent, or within three datagrams if one per cent is less than that.
fn agree(told: u64, real: u64) -> bool {
    told.abs_diff(real) as f64 <= (real as f64 * 0.01).max(3.0)
}

fn yes(is_so: bool) -> &'static str {
    if is_so { "yes" } else { "no" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_agree_within_one_per_cent_or_three_datagrams() {
        for (told, real, is_so) in
            [(1000, 1000, true), (1010, 1000, true), (1011, 1000, false), (8, 5, true), (9, 5, false)]
        {
            assert_eq!(agree(told, real), is_so, "{told} {real}");
        }
    }
}
