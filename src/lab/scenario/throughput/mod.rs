//! Throughput and its cost: the plain route, a bare tunnel, the tunnel without and with repair, with a subscriber, and the
//! simple back-end.
//!
//! Every variant is measured once per round, and medians over the rounds count: a temporary disturbance then affects
//! all variants, or a round that the median leaves out. A subscriber, a plan or a scrape of metrics alone costs too little for this
//! method; [`subscription`], [`planning`] and [`scraping`] measure them within one transfer. [`packets`] counts
//! packets per second instead of bytes, from many busy flows.
//!
//! Start with [`run`].

mod packets;
mod planning;
mod rounds;
mod scraping;
mod slices;
mod subscription;
mod variant;

use std::{net::IpAddr, time::Duration};

use self::{packets::Packets, planning::PlanTurns, rounds::Row, scraping::ScrapeTurns, subscription::Turns};
use super::Stage;
use crate::lab::{
    error::LabError,
    load::Load,
    network::Network,
    pair::{Pair, PairOptions},
    report::Report,
    workload::{iperf::BulkPlan, many_flows},
};

/// Default kernel buffers: they grow far enough without delay on the path.
const TCP: [(&str, &str); 2] =
    [("net.ipv4.tcp_rmem", "4096 131072 6291456"), ("net.ipv4.tcp_wmem", "4096 16384 4194304")];
const FLOWS: [u32; 2] = [1, 4];
/// The parts, for `--arm`.
const PARTS: [&str; 5] = ["rounds", "packets", "subscriber", "plan", "metrics"];
const SECONDS: u64 = 3;

const FIXED: &str = "{ fixed: 4 }";
/// For a plan the longest; a short block closes as early by itself.
const LONGEST: &str = "close_after: 500us";
/// Idle flows beside the measured ones, in variants with a subscriber.
const MANY_FLOWS: u16 = 10_000;
/// A new flow is reported repeatedly for ten seconds; after that an idle flow stays in the table and sends nothing.
const UNTIL_SILENT: Duration = Duration::from_secs(12);

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let chosen = &stage.options.arms;
    if let Some(unknown) = chosen.iter().find(|name| !PARTS.contains(&name.as_str())) {
        return Err(LabError::Sentence(format!("--arm: found \"{unknown}\"; allowed: {}", PARTS.join(", "))));
    }
    let runs = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    let seconds = stage.options.seconds.unwrap_or(SECONDS);
    stage.say(&format!(
        "throughput: iperf3 from primary to mirror over a perfect link, one flow and four, {seconds} s each, {} rounds over\n\
         all ways; medians count. All of it shares this machine's processors, so trust the ratios more than the digits.\n",
        rounds::rounds(stage)
    ));
    let load = Load::now()?;
    stage.say(&load.to_string());
    let mut network = stage.build()?;
    stage.set_tcp(&network, &TCP)?;
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let mut measured = Measured::default();
    if runs("rounds") {
        measured.rounds = Some(rounds::take(stage, &network, address, seconds)?);
    }
    if runs("packets") {
        stage.say("packets per second: UDP, IP packets of 64 bytes, from 1, 1,000 and 10,000 busy flows");
        measured.packets = Some(packets::take(stage, &network, address)?);
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

/// What was measured, by parts.
#[derive(Default)]
struct Measured {
    rounds: Option<[Row; 8]>,
    packets: Option<Packets>,
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
        rounds::report(&mut report, rows, but);
    }
    if let Some(measured) = &measured.packets {
        packets::report(&mut report, measured);
    }
    report.metric("load", load.to_json());
    report
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::rounds::tests::row;
    use super::*;

    #[test]
    fn one_disturbed_round_does_not_decide() {
        let [plain, bare, none, repair, queued, watched, planned, simple] = rounds::VARIANTS.each_ref();
        let rows = |simple_gbits| {
            let [plain, bare, none] = [row(plain, [16.0; 3]), row(bare, [14.0; 3]), row(none, [8.0; 3])];
            let [queued, watched] = [row(queued, [6.9; 3]), row(watched, [6.8, 6.8, 1.0])];
            let planned = row(planned, [7.0; 3]);
            [plain, bare, none, row(repair, [7.0, 0.7, 7.0]), queued, watched, planned, row(simple, simple_gbits)]
        };
        let calm = Load::parse("0.10 0.2 0.3 1/100 7", 2).unwrap();
        let judged = |rows: [Row; 8], subscriber: [f64; 2], plan: [f64; 2]| {
            let subscriber = Some(subscriber.map(|ratio| subscription::tests::turns(ratio, 0, 9)));
            let plan = Some(plan.map(|ratio| planning::tests::turns(ratio, 0)));
            report(&Measured { rounds: Some(rows), subscriber, plan, ..Measured::default() }, &calm)
        };
        let passes = judged(rows([1.0; 3]), [1.0; 2], [1.0; 2]);
        assert!(passes.passes());
        let value = passes.to_json("throughput", 1);
        let claims = value["claims"].as_array().unwrap();
        assert!(claims.iter().any(|claim| claim["found"] == "7.0 times (7.0, 0.7, 7.0)"), "{claims:?}");
        // The disturbed round is one of three.
        assert_eq!(value["metrics"]["bare_speed_ratio_flows_1"], 0.5);
        assert_eq!(value["metrics"]["bare_lone_difference_us"], 0.0);
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
        untracked[5].rounds[1].flows_followed = 9_999;
        assert!(!judged(untracked, [1.0; 2], [1.0; 2]).passes());
        assert!(report(&Measured::default(), &calm).passes(), "nothing was claimed");
    }
}
