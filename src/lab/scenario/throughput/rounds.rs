//! All ways to carry the traffic, measured once a round: speed, processor time by place, round trips, and what was lost in our
//! own hosts.

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};

use super::{FIXED, FLOWS, MANY_FLOWS, gather_many_flows, plan, variant::Variant};
use crate::lab::{
    error::LabError,
    median::median,
    network::Network,
    report::Report,
    scenario::Stage,
    workload::{
        iperf::Bulk,
        request_response::{RequestResponse, Talk},
    },
};

/// Every other round goes through the variants backwards, so that a machine that becomes slower favours none.
const ROUNDS: usize = 5;
/// How long lone requests are asked: some thousands.
const LONE_TIME: Duration = Duration::from_millis(500);

/// What the planner makes the same of on this link, which loses nothing.
const PLANNED: &str = "{ residual: 1e-9, min: 4 }";

/// The ways, plain route first.
pub const VARIANTS: [Variant; 8] = [
    Variant::plain_route(),
    Variant::bare_tunnel(),
    Variant::pair("onwire, repair: none", "no_repair", "none"),
    Variant::pair("onwire, repair 4 for 32", "repair_4_32", FIXED),
    Variant::pair("the same, subscriber, level queued", "queued", FIXED).notifying("queued"),
    Variant::pair("the same, with timestamps", "subscriber", FIXED).notifying("on_wire"),
    Variant::pair("planned: residual, at least 4", "planned", PLANNED),
    Variant::pair("onwire, simple back-end, 4 for 32", "simple", FIXED).simple(),
];

/// A variant measured in one round, with one flow and with four.
#[derive(Clone, Copy, Debug, Default)]
pub struct Round {
    pub bulks: [Bulk; 2],
    /// Flows in the table of the near appliance.
    pub flows_followed: u64,
    /// Processor seconds per GB of user data, for the near and the far appliance, in user mode and in the kernel.
    cpu_per_gb: [[[f64; 2]; 2]; 2],
    /// The median round trip of one small request after the other, in microseconds.
    lone_us: f64,
    /// The round trip of small requests beside the flows that 99 of 100 did not exceed, in milliseconds.
    beside_ms: [f64; 2],
    /// What was lost in our own hosts: packets in the near TUN, datagrams in the far socket.
    lost_here: [[u64; 2]; 2],
}

/// A variant and its rounds.
pub struct Row {
    pub way: &'static Variant,
    pub rounds: Vec<Round>,
}

impl Row {
    /// The median over the rounds.
    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of).collect())
    }

    fn gbit(&self, at: usize) -> f64 {
        self.median(|round| round.gbit(at))
    }

    /// Speed relative to another variant in the same round, round by round.
    fn ratios(&self, other: &Self, at: usize) -> Vec<f64> {
        self.beside(other, |own, other| own.gbit(at) / other.gbit(at).max(1e-9))
    }

    /// A comparison with another variant in the same round, round by round.
    fn beside(&self, other: &Self, of: impl Fn(&Round, &Round) -> f64) -> Vec<f64> {
        self.rounds.iter().zip(&other.rounds).map(|(own, other)| of(own, other)).collect()
    }
}

impl Round {
    fn gbit(&self, at: usize) -> f64 {
        self.bulks[at].bits_per_second / 1e9
    }

    /// Processor seconds per GB of both ends.
    fn cpu_of_both(&self, at: usize) -> f64 {
        self.cpu_per_gb[at].as_flattened().iter().sum()
    }
}

/// How many rounds to take.
pub fn rounds(stage: &Stage<'_>) -> usize {
    stage.options.trials.map_or(ROUNDS, |rounds| rounds as usize)
}

/// Measures each variant once a round, in one order and in the other.
pub fn take(stage: &Stage<'_>, network: &Network<'_>, address: IpAddr, seconds: u64) -> Result<[Row; 8], LabError> {
    let mut rows = VARIANTS.each_ref().map(|way| Row { way, rounds: Vec::new() });
    let count = rounds(stage);
    for number in 1..=count {
        stage.say(&format!("round {number} of {count}"));
        let mut ways: Vec<_> = rows.iter_mut().collect();
        if number % 2 == 0 {
            ways.reverse();
        }
        for row in ways {
            row.rounds.push(measure(stage, network, row.way, number, address, seconds)?);
        }
    }
    Ok(rows)
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    way: &Variant,
    number: usize,
    address: IpAddr,
    seconds: u64,
) -> Result<Round, LabError> {
    let label = format!("{}-{number}", way.label);
    let carrier = way.start(network, &label)?;
    let mut round = Round::default();
    let listener = way.listen(network, &carrier)?;
    if listener.is_some() {
        gather_many_flows(stage, network, address)?;
    }
    let talk = |talk| RequestResponse::start(network, "primary", "mirror", address, talk);
    let lone = talk(Talk::LONE)?;
    stage.pause(LONE_TIME)?;
    round.lone_us = lone.finish()?.percentile_ms(50.0) * 1e3;
    for (at, flows) in FLOWS.into_iter().enumerate() {
        let name = format!("{label}-{flows}");
        let before = carrier.spent()?;
        let beside = talk(Talk::INTERACTIVE)?;
        let bulk = plan(&name, address, flows, seconds).run(network)?;
        round.bulks[at] = bulk;
        let spent = carrier.spent()?.since(&before);
        round.cpu_per_gb[at] = spent.cpu_for_each(bulk.bytes / 1e9);
        round.lost_here[at] = [spent.lost_in_tun, spent.lost_in_socket];
        round.beside_ms[at] = beside.finish()?.percentile_ms(99.0);
        let plural = if flows == 1 { "flow " } else { "flows" };
        stage.say(&format!("  {:<34} {flows} {plural}  {:.2} Gbit/s", way.name, round.gbit(at)));
        stage.pause(Duration::from_millis(100))?;
    }
    if let Some(listener) = listener {
        let (messages, dropped) = (listener.messages(), listener.finish()?);
        stage.say(&format!("  (the subscriber took {messages} messages and dropped {dropped})"));
    }
    if let Some(pair) = carrier.pair() {
        let protection = pair.appliances[0].status(network)?.peer().protection;
        round.flows_followed = protection.map_or(0, |protection| protection.flows);
    }
    carrier.stop()?;
    Ok(round)
}

/// What the rounds show.
pub fn report(report: &mut Report, rows: &[Row; 8], but: &str) {
    let [plain, bare, _, repair, queued, watched, _, simple] = rows;
    for (at, flows) in FLOWS.into_iter().enumerate() {
        let ratios = repair.ratios(simple, at);
        let each = ratios.iter().map(|ratio| format!("{ratio:.1}")).collect::<Vec<_>>().join(", ");
        let ratio = median(ratios);
        report.claim(
            format!("super-packets with repair are at least 3 times the simple back-end, {flows} flow(s)"),
            format!("{ratio:.1} times ({each}{but})"),
            ratio >= 3.0,
        );
    }
    let followed = watched.rounds.iter().map(|round| round.flows_followed).min().unwrap_or(0);
    report.claim(
        format!("the subscriber's appliance follows {MANY_FLOWS} flows and more, in each round"),
        format!("{followed}, at the least"),
        followed >= MANY_FLOWS.into(),
    );
    let mut ratios = |what: &str, row: &Row, other: &Row, label: &str| {
        let each = FLOWS.iter().enumerate().map(|(at, flows)| {
            let ratios = row.ratios(other, at);
            let each = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect::<Vec<_>>().join(", ");
            let ratio = median(ratios);
            report.metric(&format!("{label}_ratio_flows_{flows}"), ratio);
            format!("{ratio:.2} ({each})")
        });
        [what.to_owned()].into_iter().chain(each).collect::<Vec<_>>()
    };
    let costs = [
        ratios("notifications and a subscriber, of none", watched, repair, "subscriber"),
        ratios("timestamps of every send, of level queued", watched, queued, "timestamps"),
    ];
    report.table(&["speed with, of the speed without, by rounds", "1 flow", "4 flows"], costs);
    report_bare(report, repair, bare);
    let of_plain = |row: &Row, at: usize| median(row.ratios(plain, at));
    report.table(
        &["", "1 flow", "of plain", "4 flows", "of plain", "TCP sent again", "lost here: TUN, socket"],
        rows.iter().map(|row| {
            let count = |of: &dyn Fn(&Round) -> u64| row.median(|round| of(round) as f64);
            let again = |at: usize| count(&|round| round.bulks[at].retransmits);
            let lost =
                |at: usize| [0, 1].map(|place| count(&|round| round.lost_here[at][place]).to_string()).join(" + ");
            vec![
                row.way.name.to_owned(),
                format!("{:.2} Gbit/s", row.gbit(0)),
                format!("{:.2}", of_plain(row, 0)),
                format!("{:.2} Gbit/s", row.gbit(1)),
                format!("{:.2}", of_plain(row, 1)),
                format!("{}, {}", again(0), again(1)),
                if row.way.has_processes() { format!("{}, {}", lost(0), lost(1)) } else { String::new() },
            ]
        }),
    );
    report.table(
        &[
            "processor time in s per GB, 4 flows; round trips",
            "near: user, kernel",
            "far: user, kernel",
            "both",
            "lone request, p50",
            "above plain",
            "beside 1 flow, 4 flows, p99",
        ],
        rows.iter().map(|row| {
            let cpu = |side: usize, place: usize| row.median(|round| round.cpu_per_gb[1][side][place]);
            let side = |side: usize| match row.way.has_processes() {
                true => format!("{:.2}, {:.2}", cpu(side, 0), cpu(side, 1)),
                false => "(no process)".to_owned(),
            };
            let both = row.median(|round| round.cpu_of_both(1));
            let lone = |row: &Row| row.median(|round| round.lone_us);
            vec![
                row.way.name.to_owned(),
                side(0),
                side(1),
                if row.way.has_processes() { format!("{both:.2}") } else { String::new() },
                format!("{:.0} us", lone(row)),
                format!("{:+.0} us", lone(row) - lone(plain)),
                format!("{:.1} ms, {:.1} ms", row.median(|it| it.beside_ms[0]), row.median(|it| it.beside_ms[1])),
            ]
        }),
    );
    for row in rows {
        let flows = FLOWS.iter().enumerate().map(|(at, flows)| (format!("flows_{flows}"), numbers(row, plain, at)));
        report.metric(row.way.label, Value::Object(flows.collect()));
    }
}

/// What repair, cipher and handling of loss cost: the pair beside a bare tunnel. No claim: the machine decides much of it.
fn report_bare(report: &mut Report, pair: &Row, bare: &Row) {
    let speed = |at: usize| pair.ratios(bare, at);
    let cpu = |at: usize| pair.beside(bare, |own, bare| own.cpu_of_both(at) / bare.cpu_of_both(at).max(1e-9));
    let lone = pair.beside(bare, |own, bare| own.lone_us - bare.lone_us);
    let rows = [
        ("speed, 1 flow", "bare_speed_ratio_flows_1", 2, speed(0)),
        ("speed, 4 flows", "bare_speed_ratio_flows_4", 2, speed(1)),
        ("processor time per GB, 1 flow", "bare_cpu_ratio_flows_1", 2, cpu(0)),
        ("processor time per GB, 4 flows", "bare_cpu_ratio_flows_4", 2, cpu(1)),
        ("round trip of a lone request, difference in us", "bare_lone_difference_us", 0, lone),
    ];
    let rows = rows.map(|(what, label, digits, each)| {
        let rounds = each.iter().map(|value| format!("{value:.digits$}")).collect::<Vec<_>>().join(", ");
        let middle = median(each);
        report.metric(label, middle);
        vec![what.to_owned(), format!("{middle:.digits$}"), rounds]
    });
    report.table(&["onwire with repair 4 for 32, relative to a bare tunnel", "median", "by rounds"], rows);
}

/// The numbers of a variant with one flow or four: medians, and below them each round.
fn numbers(row: &Row, plain: &Row, at: usize) -> Value {
    let rounds = row.rounds.iter().zip(row.ratios(plain, at)).map(|(round, of_plain)| {
        json!({
            "gbit": round.gbit(at),
            "of_plain_route": of_plain,
            "cpu_seconds_per_gb_near": round.cpu_per_gb[at][0].iter().sum::<f64>(),
            "cpu_seconds_per_gb_far": round.cpu_per_gb[at][1].iter().sum::<f64>(),
            "kernel_seconds_per_gb_near": round.cpu_per_gb[at][0][1],
            "kernel_seconds_per_gb_far": round.cpu_per_gb[at][1][1],
            "tcp_retransmits": round.bulks[at].retransmits,
            "lost_in_tun": round.lost_here[at][0],
            "lost_in_socket": round.lost_here[at][1],
            "lone_request_us": round.lone_us,
            "beside_p99_ms": round.beside_ms[at],
        })
    });
    let rounds: Vec<Value> = rounds.collect();
    let median = |key: &str| median(rounds.iter().filter_map(|round| round[key].as_f64()).collect());
    json!({
        "gbit": median("gbit"),
        "of_plain_route": median("of_plain_route"),
        "cpu_seconds_per_gb_near": median("cpu_seconds_per_gb_near"),
        "cpu_seconds_per_gb_far": median("cpu_seconds_per_gb_far"),
        "kernel_seconds_per_gb_near": median("kernel_seconds_per_gb_near"),
        "kernel_seconds_per_gb_far": median("kernel_seconds_per_gb_far"),
        "tcp_retransmits": median("tcp_retransmits") as u64,
        "lost_in_tun": median("lost_in_tun") as u64,
        "lost_in_socket": median("lost_in_socket") as u64,
        "lone_request_us": median("lone_request_us"),
        "beside_p99_ms": median("beside_p99_ms"),
        "rounds": rounds,
    })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A way in three rounds of these speeds.
    pub fn row(way: &'static Variant, gbits: [f64; 3]) -> Row {
        let bulk = |gbit: f64| Bulk { bits_per_second: gbit * 1e9, bytes: 1e9, retransmits: 2 };
        let rounds = gbits.map(|gbit| Round {
            bulks: [bulk(gbit); 2],
            cpu_per_gb: [[[0.375, 0.125], [0.1875, 0.0625]]; 2],
            flows_followed: 10_001,
            lone_us: 120.0,
            beside_ms: [1.5, 4.0],
            lost_here: [[0, 3]; 2],
        });
        Row { way, rounds: rounds.to_vec() }
    }
}
