//! How fast, and at what cost: the plain route, the tunnel without and with repair, and the simple back-end.

use std::{net::IpAddr, time::Duration};

use serde_json::json;

use super::Stage;
use crate::lab::{
    error::LabError,
    network::Network,
    pair::{Pair, PairOptions},
    report::Report,
    workload::iperf::{Bulk, BulkPlan},
};

/// Buffers as kernels ship them: they grow far enough where there is no delay.
const TCP: [(&str, &str); 2] =
    [("net.ipv4.tcp_rmem", "4096 131072 6291456"), ("net.ipv4.tcp_wmem", "4096 16384 4194304")];
const FLOWS: [u32; 2] = [1, 4];

/// One way to carry the traffic.
struct Way {
    name: &'static str,
    label: &'static str,
    /// `repair` and `offload` of the appliances; none: the plain route.
    pair: Option<(&'static str, &'static str)>,
}

const WAYS: [Way; 4] = [
    Way { name: "plain route", label: "plain_route", pair: None },
    Way { name: "onwire, repair: none", label: "no_repair", pair: Some(("none", "auto")) },
    Way { name: "onwire, repair 4 for 32", label: "repair_4_32", pair: Some(("{ fixed: 4 }", "auto")) },
    Way { name: "onwire, simple back-end, 4 for 32", label: "simple", pair: Some(("{ fixed: 4 }", "off")) },
];

/// A measured way; processor seconds per GB of user data for the near and the far appliance.
struct Row {
    way: &'static Way,
    bulks: [Bulk; 2],
    cpu_per_gb: [[f64; 2]; 2],
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let seconds = stage.options.seconds.unwrap_or(5);
    stage.say(&format!(
        "throughput: iperf3 from primary to mirror over a perfect link, one flow and four, {seconds} s each. All of it shares\n\
         this machine's processors, so trust the ratios more than the digits.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &TCP)?;
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let mut rows = Vec::new();
    for way in &WAYS {
        rows.push(measure(stage, &network, way, address, seconds)?);
    }
    Ok(report(&rows))
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    way: &'static Way,
    address: IpAddr,
    seconds: u64,
) -> Result<Row, LabError> {
    let routes = [("ithaca", "10.2.0.0/24", "192.0.2.2"), ("syracuse", "10.1.0.0/24", "192.0.2.1")];
    let pair = match way.pair {
        Some((repair, offload)) => {
            let label = way.label.to_owned();
            let options = PairOptions { label, repair: repair.to_owned(), offload, ..PairOptions::default() };
            Some(Pair::start(network, &options)?)
        }
        None => {
            for (node, prefix, via) in routes {
                network.run(node, &["ip", "route", "add", prefix, "via", via])?;
            }
            None
        }
    };
    let mut row = Row { way, bulks: [Bulk::default(); 2], cpu_per_gb: [[0.0; 2]; 2] };
    for (at, flows) in FLOWS.into_iter().enumerate() {
        let name = format!("{}-{flows}", way.label);
        let before = pair.as_ref().map(Pair::cpu_times);
        let plan =
            BulkPlan { name: &name, from: "primary", to: "mirror", address, flows, seconds, congestion: "cubic" };
        let bulk = plan.run(network)?;
        row.bulks[at] = bulk;
        if let (Some(pair), Some(before)) = (&pair, before) {
            for (side, (now, before)) in pair.cpu_times().into_iter().zip(before).enumerate() {
                row.cpu_per_gb[at][side] = now.saturating_sub(before).as_secs_f64() / (bulk.bytes / 1e9).max(1e-9);
            }
        }
        let plural = if flows == 1 { "flow " } else { "flows" };
        stage.say(&format!("  {:<34} {flows} {plural}  {:.2} Gbit/s", way.name, bulk.bits_per_second / 1e9));
        stage.pause(Duration::from_millis(200))?;
    }
    match pair {
        Some(pair) => drop(pair.stop()?),
        None => {
            for (node, prefix, _) in routes {
                network.run(node, &["ip", "route", "del", prefix])?;
            }
        }
    }
    Ok(row)
}

fn report(rows: &[Row]) -> Report {
    let mut report = Report::default();
    let speed = |label: &str, at: usize| {
        rows.iter().find(|row| row.way.label == label).map_or(0.0, |row| row.bulks[at].bits_per_second / 1e9)
    };
    for (at, flows) in FLOWS.into_iter().enumerate() {
        let ratio = speed("repair_4_32", at) / speed("simple", at).max(1e-9);
        report.claim(
            format!("super-packets with repair are at least 6 times the simple back-end, {flows} flow(s)"),
            format!("{ratio:.1} times"),
            ratio >= 6.0,
        );
    }
    let of_plain = |row: &Row, at: usize| row.bulks[at].bits_per_second / 1e9 / speed("plain_route", at).max(1e-9);
    report.table(
        &["", "1 flow", "of plain", "4 flows", "of plain", "CPU s per GB: near, far (1 flow)", "TCP sent again"],
        rows.iter().map(|row| {
            let cpu = match row.way.pair {
                Some(_) => format!("{:.2}, {:.2}", row.cpu_per_gb[0][0], row.cpu_per_gb[0][1]),
                None => "(no process)".to_owned(),
            };
            vec![
                row.way.name.to_owned(),
                format!("{:.2} Gbit/s", row.bulks[0].bits_per_second / 1e9),
                format!("{:.2}", of_plain(row, 0)),
                format!("{:.2} Gbit/s", row.bulks[1].bits_per_second / 1e9),
                format!("{:.2}", of_plain(row, 1)),
                cpu,
                format!("{}, {}", row.bulks[0].retransmits, row.bulks[1].retransmits),
            ]
        }),
    );
    for row in rows {
        let flows = FLOWS.iter().enumerate().map(|(at, flows)| {
            let value = json!({
                "gbit": row.bulks[at].bits_per_second / 1e9,
                "of_plain_route": of_plain(row, at),
                "cpu_seconds_per_gb_near": row.cpu_per_gb[at][0],
                "cpu_seconds_per_gb_far": row.cpu_per_gb[at][1],
                "tcp_retransmits": row.bulks[at].retransmits,
            });
            (format!("flows_{flows}"), value)
        });
        report.metric(row.way.label, serde_json::Value::Object(flows.collect()));
    }
    report
}
