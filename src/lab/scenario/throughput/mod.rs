//! Throughput and its cost: the plain route, the tunnel without and with repair, with a subscriber, and the simple
//! back-end.
//!
//! Every variant is measured once per round, and medians over the rounds count: a temporary disturbance then affects
//! all variants, or a round that the median leaves out. A subscriber, a plan or a scrape of metrics alone costs too little for this
//! method; [`subscription`], [`planning`] and [`scraping`] measure them within one transfer.
//!
//! Start with [`run`].

mod planning;
mod scraping;
mod slices;
mod subscription;

use std::{net::IpAddr, time::Duration};

use serde_json::{Value, json};

use self::{
    planning::PlanTurns,
    scraping::ScrapeTurns,
    subscription::{Listener, Turns},
};
use super::Stage;
use crate::lab::{
    error::LabError,
    load::Load,
    median::median,
    network::Network,
    pair::{Pair, PairOptions},
    report::Report,
    workload::{
        iperf::{Bulk, BulkPlan},
        many_flows,
    },
};

/// Default kernel buffers: they grow far enough without delay on the path.
const TCP: [(&str, &str); 2] =
    [("net.ipv4.tcp_rmem", "4096 131072 6291456"), ("net.ipv4.tcp_wmem", "4096 16384 4194304")];
const FLOWS: [u32; 2] = [1, 4];
/// Every other round goes through the variants backwards, so that a machine that becomes slower favours none.
const ROUNDS: usize = 5;
/// The parts, for `--arm`.
const PARTS: [&str; 4] = ["rounds", "subscriber", "plan", "metrics"];
const SECONDS: u64 = 3;

/// A way to carry the traffic.
struct Variant {
    name: &'static str,
    label: &'static str,
    /// `repair` and `offload` of the appliances; none: the plain route.
    pair: Option<(&'static str, &'static str)>,
    /// The appliances notify at this level, and a subscriber receives the notifications of all flows.
    notify: Option<&'static str>,
}

const FIXED: &str = "{ fixed: 4 }";
/// What the planner makes the same of on this link, which loses nothing.
const PLANNED: &str = "{ residual: 1e-9, min: 4 }";
/// For a plan the longest; a short block closes as early by itself.
const LONGEST: &str = "close_after: 500us";
const VARIANTS: [Variant; 7] = [
    Variant { name: "plain route", label: "plain_route", pair: None, notify: None },
    Variant { name: "onwire, repair: none", label: "no_repair", pair: Some(("none", "auto")), notify: None },
    Variant { name: "onwire, repair 4 for 32", label: "repair_4_32", pair: Some((FIXED, "auto")), notify: None },
    Variant {
        name: "the same, subscriber, level queued",
        label: "queued",
        pair: Some((FIXED, "auto")),
        notify: Some("queued"),
    },
    Variant {
        name: "the same, with timestamps",
        label: "subscriber",
        pair: Some((FIXED, "auto")),
        notify: Some("on_wire"),
    },
    Variant { name: "planned: residual, at least 4", label: "planned", pair: Some((PLANNED, "auto")), notify: None },
    Variant { name: "onwire, simple back-end, 4 for 32", label: "simple", pair: Some((FIXED, "off")), notify: None },
];
/// Idle flows beside the measured ones, in variants with a subscriber.
const MANY_FLOWS: u16 = 10_000;
/// A new flow is reported repeatedly for ten seconds; after that an idle flow stays in the table and sends nothing.
const UNTIL_SILENT: Duration = Duration::from_secs(12);

/// A variant measured in one round, with one flow and with four.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    bulks: [Bulk; 2],
    /// Flows in the table of the near appliance.
    flows_followed: u64,
    /// Processor seconds per GB of user data for the near and the far appliance.
    cpu_per_gb: [[f64; 2]; 2],
}

/// A variant and its rounds.
struct Row {
    way: &'static Variant,
    rounds: Vec<Round>,
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
        self.rounds.iter().zip(&other.rounds).map(|(own, other)| own.gbit(at) / other.gbit(at).max(1e-9)).collect()
    }
}

impl Round {
    fn gbit(&self, at: usize) -> f64 {
        self.bulks[at].bits_per_second / 1e9
    }
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let chosen = &stage.options.arms;
    if let Some(unknown) = chosen.iter().find(|name| !PARTS.contains(&name.as_str())) {
        return Err(LabError::Sentence(format!("--arm: found \"{unknown}\"; allowed: {}", PARTS.join(", "))));
    }
    let runs = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    let seconds = stage.options.seconds.unwrap_or(SECONDS);
    stage.say(&format!(
        "throughput: iperf3 from primary to mirror over a perfect link, one flow and four, {seconds} s each, {ROUNDS} rounds over\n\
         all ways; medians count. All of it shares this machine's processors, so trust the ratios more than the digits.\n"
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let mut network = stage.build()?;
    stage.set_tcp(&network, &TCP)?;
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let mut measured = Measured::default();
    if runs("rounds") {
        measured.rounds = Some(take_rounds(stage, &network, address, seconds)?);
    }
    // Without this, the placement of programs on processors would matter more than what is compared.
    stage.part_sites(&mut network)?;
    if runs("subscriber") {
        stage.say("what a subscriber costs: the same flows with it and without, in turns");
        measured.subscriber = Some(take_turns(stage, &network, address)?);
    }
    if runs("plan") {
        stage.say("what a plan costs: the same flows with it and with a fixed repair, in turns");
        measured.plan = Some(take_plan_turns(stage, &network, address)?);
    }
    if runs("metrics") {
        stage.say("what metrics cost: the same flows with scrapes and without, in turns");
        measured.scrapes = Some(take_scrape_turns(stage, &network, address)?);
    }
    Ok(report(&measured, &load))
}

/// Measures each variant once a round, in one order and in the other.
fn take_rounds(stage: &Stage<'_>, network: &Network<'_>, address: IpAddr, seconds: u64) -> Result<[Row; 7], LabError> {
    let mut rows = VARIANTS.each_ref().map(|way| Row { way, rounds: Vec::new() });
    for number in 1..=ROUNDS {
        stage.say(&format!("round {number} of {ROUNDS}"));
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

/// Starts the appliances of the variant with a subscriber, and measures one transfer for each number of flows.
fn take_turns(stage: &Stage<'_>, network: &Network<'_>, address: IpAddr) -> Result<[Turns; 2], LabError> {
    let options = PairOptions {
        label: "turns".to_owned(),
        repair: FIXED.to_owned(),
        notify: Some("on_wire"),
        ..PairOptions::default()
    };
    let pair = Pair::start(network, &options)?;
    gather_many_flows(stage, network, address)?;
    let [one, four] = FLOWS;
    let turns = [
        subscription::measure(stage, network, &pair, address, one)?,
        subscription::measure(stage, network, &pair, address, four)?,
    ];
    pair.stop()?;
    Ok(turns)
}

/// Starts appliances without notifications, and measures one transfer for each number of flows.
fn take_plan_turns(stage: &Stage<'_>, network: &Network<'_>, address: IpAddr) -> Result<[PlanTurns; 2], LabError> {
    let options = PairOptions {
        label: "plan-turns".to_owned(),
        repair: FIXED.to_owned(),
        profile: LONGEST.to_owned(),
        ..PairOptions::default()
    };
    let pair = Pair::start(network, &options)?;
    let [one, four] = FLOWS;
    let turns = [
        planning::measure(stage, network, &pair, address, one)?,
        planning::measure(stage, network, &pair, address, four)?,
    ];
    pair.stop()?;
    Ok(turns)
}

/// Starts appliances with a metrics port, and measures one transfer for each number of flows.
fn take_scrape_turns(stage: &Stage<'_>, network: &Network<'_>, address: IpAddr) -> Result<[ScrapeTurns; 2], LabError> {
    let options = PairOptions {
        label: "scrape-turns".to_owned(),
        repair: FIXED.to_owned(),
        further: scraping::METRICS,
        ..PairOptions::default()
    };
    let pair = Pair::start(network, &options)?;
    let [one, four] = FLOWS;
    let turns = [
        scraping::measure(stage, network, &pair, address, one)?,
        scraping::measure(stage, network, &pair, address, four)?,
    ];
    pair.stop()?;
    Ok(turns)
}

fn gather_many_flows(stage: &Stage<'_>, network: &Network<'_>, address: IpAddr) -> Result<(), LabError> {
    many_flows::gather(network, "primary", "mirror", address, MANY_FLOWS)?;
    stage.pause(UNTIL_SILENT)
}

fn plan(name: &str, address: IpAddr, flows: u32, seconds: u64) -> BulkPlan<'_> {
    BulkPlan { flows, ..BulkPlan::to_mirror(name, address, seconds) }
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    way: &Variant,
    number: usize,
    address: IpAddr,
    seconds: u64,
) -> Result<Round, LabError> {
    let routes = [("ithaca", "10.2.0.0/24", "192.0.2.2"), ("syracuse", "10.1.0.0/24", "192.0.2.1")];
    let label = format!("{}-{number}", way.label);
    let pair = match way.pair {
        Some((repair, offload)) => {
            let label = label.clone();
            let (repair, notify) = (repair.to_owned(), way.notify);
            let profile = LONGEST.to_owned();
            let options = PairOptions { label, repair, offload, notify, profile, ..PairOptions::default() };
            Some(Pair::start(network, &options)?)
        }
        None => {
            for (node, prefix, via) in routes {
                network.run(node, &["ip", "route", "add", prefix, "via", via])?;
            }
            None
        }
    };
    let mut round = Round::default();
    let watched = pair.as_ref().filter(|_| way.notify.is_some());
    let listener = watched.map(|pair| Listener::start(network, &pair.appliances[0])).transpose()?;
    if way.notify.is_some() {
        gather_many_flows(stage, network, address)?;
    }
    for (at, flows) in FLOWS.into_iter().enumerate() {
        let name = format!("{label}-{flows}");
        let before = pair.as_ref().map(Pair::cpu_times);
        let bulk = plan(&name, address, flows, seconds).run(network)?;
        round.bulks[at] = bulk;
        if let (Some(pair), Some(before)) = (&pair, before) {
            for (side, (now, before)) in pair.cpu_times().into_iter().zip(before).enumerate() {
                round.cpu_per_gb[at][side] = now.saturating_sub(before).as_secs_f64() / (bulk.bytes / 1e9).max(1e-9);
            }
        }
        let plural = if flows == 1 { "flow " } else { "flows" };
        stage.say(&format!("  {:<34} {flows} {plural}  {:.2} Gbit/s", way.name, round.gbit(at)));
        stage.pause(Duration::from_millis(100))?;
    }
    if let Some(listener) = listener {
        let (messages, dropped) = (listener.messages(), listener.finish()?);
        stage.say(&format!("  (the subscriber took {messages} messages and dropped {dropped})"));
    }
    if let Some(pair) = &pair {
        let protection = pair.appliances[0].status(network)?.peer().protection;
        round.flows_followed = protection.map_or(0, |protection| protection.flows);
    }
    match pair {
        Some(pair) => drop(pair.stop()?),
        None => {
            for (node, prefix, _) in routes {
                network.run(node, &["ip", "route", "del", prefix])?;
            }
        }
    }
    Ok(round)
}

/// What was measured, by parts.
#[derive(Default)]
struct Measured {
    rounds: Option<[Row; 7]>,
    subscriber: Option<[Turns; 2]>,
    plan: Option<[PlanTurns; 2]>,
    scrapes: Option<[ScrapeTurns; 2]>,
}

fn report(measured: &Measured, load: &Load) -> Report {
    let mut report = Report::default();
    let but = if load.is_busy() { "; the machine was busy" } else { "" };
    for (turns, label) in measured.plan.iter().flatten().zip(["plan_turns_flows_1", "plan_turns_flows_4"]) {
        turns.report(&mut report, but);
        report.metric(label, turns.to_json());
    }
    for (turns, label) in measured.scrapes.iter().flatten().zip(["scrape_turns_flows_1", "scrape_turns_flows_4"]) {
        turns.report(&mut report, but);
        report.metric(label, turns.to_json());
    }
    let labels = ["subscriber_turns_flows_1", "subscriber_turns_flows_4"];
    for (turns, label) in measured.subscriber.iter().flatten().zip(labels) {
        turns.report(&mut report, MANY_FLOWS.into(), but);
        report.metric(label, turns.to_json());
    }
    if let Some(rows) = &measured.rounds {
        report_rounds(&mut report, rows, but);
    }
    report.metric("load", load.to_json());
    report
}

fn report_rounds(report: &mut Report, rows: &[Row; 7], but: &str) {
    let [plain, _, repair, queued, watched, _, simple] = rows;
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
    let of_plain = |row: &Row, at: usize| median(row.ratios(plain, at));
    report.table(
        &["", "1 flow", "of plain", "4 flows", "of plain", "CPU s per GB: near, far (1 flow)", "TCP sent again"],
        rows.iter().map(|row| {
            let cpu = |side: usize| row.median(|round| round.cpu_per_gb[0][side]);
            let cpu = match row.way.pair {
                Some(_) => format!("{:.2}, {:.2}", cpu(0), cpu(1)),
                None => "(no process)".to_owned(),
            };
            let again = |at: usize| row.median(|round| round.bulks[at].retransmits as f64);
            vec![
                row.way.name.to_owned(),
                format!("{:.2} Gbit/s", row.gbit(0)),
                format!("{:.2}", of_plain(row, 0)),
                format!("{:.2} Gbit/s", row.gbit(1)),
                format!("{:.2}", of_plain(row, 1)),
                cpu,
                format!("{}, {}", again(0), again(1)),
            ]
        }),
    );
    for row in rows {
        let flows = FLOWS.iter().enumerate().map(|(at, flows)| (format!("flows_{flows}"), numbers(row, plain, at)));
        report.metric(row.way.label, Value::Object(flows.collect()));
    }
}

/// The numbers of a variant with one flow or four: medians, and below them each round.
fn numbers(row: &Row, plain: &Row, at: usize) -> Value {
    let rounds = row.rounds.iter().zip(row.ratios(plain, at)).map(|(round, of_plain)| {
        json!({
            "gbit": round.gbit(at),
            "of_plain_route": of_plain,
            "cpu_seconds_per_gb_near": round.cpu_per_gb[at][0],
            "cpu_seconds_per_gb_far": round.cpu_per_gb[at][1],
            "tcp_retransmits": round.bulks[at].retransmits,
        })
    });
    let rounds: Vec<Value> = rounds.collect();
    let median = |key: &str| median(rounds.iter().filter_map(|round| round[key].as_f64()).collect());
    json!({
        "gbit": median("gbit"),
        "of_plain_route": median("of_plain_route"),
        "cpu_seconds_per_gb_near": median("cpu_seconds_per_gb_near"),
        "cpu_seconds_per_gb_far": median("cpu_seconds_per_gb_far"),
        "tcp_retransmits": median("tcp_retransmits") as u64,
        "rounds": rounds,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(way: &'static Variant, gbits: [f64; 3]) -> Row {
        let bulk = |gbit: f64| Bulk { bits_per_second: gbit * 1e9, bytes: 1e9, retransmits: 2 };
        let rounds =
            gbits.map(|gbit| Round { bulks: [bulk(gbit); 2], cpu_per_gb: [[0.5, 0.25]; 2], flows_followed: 10_001 });
        Row { way, rounds: rounds.to_vec() }
    }

    #[test]
    fn one_disturbed_round_does_not_decide() {
        let [plain, none, repair, queued, watched, planned, simple] = VARIANTS.each_ref();
        let rows = |simple_gbits| {
            let [plain, none] = [row(plain, [16.0; 3]), row(none, [8.0; 3])];
            let [queued, watched] = [row(queued, [6.9; 3]), row(watched, [6.8, 6.8, 1.0])];
            let planned = row(planned, [7.0; 3]);
            [plain, none, row(repair, [7.0, 0.7, 7.0]), queued, watched, planned, row(simple, simple_gbits)]
        };
        let calm = Load::parse("0.10 0.2 0.3 1/100 7", 2).unwrap();
        let judged = |rows: [Row; 7], subscriber: [f64; 2], plan: [f64; 2]| {
            let subscriber = Some(subscriber.map(|ratio| subscription::tests::turns(ratio, 0, 9)));
            let plan = Some(plan.map(|ratio| planning::tests::turns(ratio, 0)));
            report(&Measured { rounds: Some(rows), subscriber, plan, scrapes: None }, &calm)
        };
        let passes = judged(rows([1.0; 3]), [1.0; 2], [1.0; 2]);
        assert!(passes.passes());
        let value = passes.to_json("throughput", 1);
        let claims = value["claims"].as_array().unwrap();
        assert!(claims.iter().any(|claim| claim["found"] == "7.0 times (7.0, 0.7, 7.0)"), "{claims:?}");
        let flows = &value["metrics"]["repair_4_32"]["flows_4"];
        assert_eq!((&flows["gbit"], &flows["tcp_retransmits"]), (&json!(7.0), &json!(2)));
        assert_eq!(flows["rounds"][1]["gbit"], 0.7);
        assert_eq!(flows["rounds"][1]["cpu_seconds_per_gb_far"], 0.25);
        // A disturbance of a whole round affects both sides of the ratio.
        assert!(judged(rows([1.0, 0.1, 1.0]), [1.0; 2], [1.0; 2]).passes());
        assert!(!judged(rows([1.0, 1.0, 2.0].map(|gbit| gbit * 1.2)), [1.0; 2], [1.0; 2]).passes());
        assert!(!judged(rows([1.0; 3]), [1.0; 2], [1.0, 0.97]).passes(), "a planner that costs something");
        assert!(!judged(rows([1.0; 3]), [1.0, 0.94], [1.0; 2]).passes());
        let mut untracked = rows([1.0; 3]);
        untracked[4].rounds[1].flows_followed = 9_999;
        assert!(!judged(untracked, [1.0; 2], [1.0; 2]).passes());
        assert!(report(&Measured::default(), &calm).passes(), "nothing was claimed");
    }
}
