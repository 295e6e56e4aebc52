//! The last hop: the LAN between the mirror's appliance and the mirror loses packets and the primary's site is lost, so
//! that no sender can retransmit them. The appliance keeps delivered packets and delivers them again.
//!
//! The control is the same with `last_hop: off`. A router of the mirror's site drops single packets in both directions,
//! where the appliance's host cannot see it. At the end many flows go to a mirror that acknowledges nothing: the memory
//! kept for it has a bound.
//!
//! Start with [`run`]; `many_flows` is the part about the bound.

mod many_flows;

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;

use self::many_flows::ManyFlows;
use super::{
    Stage,
    disaster::{
        arm::Arm,
        drain::{self, Verdict},
        messages::{RECORD, Writer},
    },
    stage::{WAN_TCP, ends, wait_up},
};
use crate::{
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        report::Report,
        subscriber,
        workload::stream::Sink,
    },
    notify::client::Wish,
};

const TRIALS: u32 = 20;
/// The control needs to lose only once.
const CONTROL_TRIALS: u32 = 3;
/// Per cent of the packets that the LAN loses, in either direction.
const LOSS: &str = "3";
/// How long the program works before the LAN begins to lose packets, and then until the cut.
const BEFORE: std::ops::Range<Duration> = Duration::from_millis(200)..Duration::from_millis(600);
const LOSING: std::ops::Range<Duration> = Duration::from_millis(40)..Duration::from_millis(300);
/// After the drain, a silence of this length means that nothing more will arrive.
const QUIET: Duration = Duration::from_millis(300);
/// Time between two progress lines.
const PROGRESS_EVERY: Duration = Duration::from_secs(5);

/// All trials with `last_hop` on, or off.
#[derive(Debug, Default)]
struct Cell {
    trials: u32,
    acknowledged: u64,
    lost: u64,
    /// Trials in which something was lost.
    lossy: u32,
    /// Packets that the router dropped.
    dropped: u64,
    /// Packets that the appliance delivered again.
    repeated: u64,
    /// The drains by their verdict; `found`: those with `incomplete` in trials with a loss.
    complete: u32,
    unfinished: u32,
    incomplete: u32,
    found: u32,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let trials = stage.options.trials.unwrap_or(TRIALS);
    let least = (trials / 5).max(CONTROL_TRIALS);
    stage.say(&format!(
        "last-hop: a program writes records of 4 KB, and each is acknowledged when it is protected. The LAN between the mirror's\n\
         appliance and the mirror begins to lose {LOSS} % of all packets; a moment later the primary's site is lost. Which of the\n\
         acknowledged records does the mirror not have after it was drained? {trials} trials, and {least} and more with last_hop: off.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    let lan = Lan::make(&network)?;
    let mut rng = SmallRng::seed_from_u64(stage.options.seed);
    let kept = measure(stage, &network, &lan, true, trials..trials + 1, &mut rng)?;
    let control = measure(stage, &network, &lan, false, least..trials.max(least) + 1, &mut rng)?;
    let many_flows = many_flows::measure(stage, &network, &lan)?;
    Ok(report(&kept, &control, &many_flows))
}

/// The router between the mirror's appliance and the mirror.
#[derive(Debug)]
struct Lan<'n> {
    network: &'n Network<'n>,
}

impl<'n> Lan<'n> {
    fn make(network: &'n Network<'n>) -> Result<Self, LabError> {
        // Otherwise the router would drop whole super-packets, and with them everything.
        for (node, device) in [("syracuse", "site0"), ("mirror", "site0"), ("lan", "site0"), ("lan", "site1")] {
            network.run(node, &["ethtool", "-K", device, "tso", "off", "gso", "off"])?;
        }
        let lan = Self { network };
        lan.nft("add table inet lan")?;
        lan.nft("add chain inet lan hop { type filter hook forward priority 0 ; }")?;
        Ok(lan)
    }

    fn lose(&self) -> Result<(), LabError> {
        self.nft(&format!("add rule inet lan hop numgen random mod 100 < {LOSS} counter drop"))
    }

    /// Drops everything to and from the mirror.
    fn cut(&self) -> Result<(), LabError> {
        self.nft("add rule inet lan hop counter drop")
    }

    /// Stops all loss; returns how many packets were lost.
    fn mend(&self) -> Result<u64, LabError> {
        let rules = self.network.run("lan", &["nft", "list", "chain", "inet", "lan", "hop"])?;
        self.nft("flush chain inet lan hop")?;
        let counts = rules.split("packets ").skip(1).filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        Ok(counts.sum())
    }

    fn nft(&self, rule: &str) -> Result<(), LabError> {
        let words: Vec<&str> = ["nft"].into_iter().chain(rule.split(' ')).collect();
        self.network.run("lan", &words).map(drop)
    }
}

fn options(last_hop: bool) -> PairOptions {
    let label = if last_hop { "kept" } else { "control" };
    PairOptions { label: label.to_owned(), notify: Some("on_wire"), last_hop, ..PairOptions::default() }
}

/// Runs as many trials as the range starts with; then more, until something was lost or the range ends.
fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    lan: &Lan<'_>,
    last_hop: bool,
    trials: std::ops::Range<u32>,
    rng: &mut SmallRng,
) -> Result<Cell, LabError> {
    let mut pair = Pair::start(network, &options(last_hop))?;
    let [_, mirror] = ends(network)?;
    let sink = Sink::listen(network, "primary", "mirror", mirror)?;
    let (mut cell, mut said) = (Cell::default(), Instant::now());
    while cell.trials < trials.start || (cell.trials + 1 < trials.end && cell.lost == 0) {
        if said.elapsed() > PROGRESS_EVERY {
            stage.say(&format!("  last_hop: {last_hop}, trial {}", cell.trials));
            said = Instant::now();
        }
        network.tell_wan("open")?;
        lan.mend()?;
        pair.restart()?;
        trial(stage, network, lan, &mut pair, &sink, rng, &mut cell)?;
    }
    lan.mend()?;
    network.tell_wan("open")?;
    pair.appliances.iter_mut().for_each(|appliance| appliance.process.kill());
    let name = if last_hop { "kept" } else { "control" };
    stage.say(&format!("  {name}: {} of {} records lost", cell.lost, cell.acknowledged));
    Ok(cell)
}

fn trial(
    stage: &Stage<'_>,
    network: &Network<'_>,
    lan: &Lan<'_>,
    pair: &mut Pair<'_>,
    sink: &Sink,
    rng: &mut SmallRng,
    cell: &mut Cell,
) -> Result<(), LabError> {
    let stream = sink.open(None)?;
    let publisher = pair.appliances[0].publisher()?;
    let mut client = subscriber::connect(network, "primary", publisher.address, publisher, Wish::default())?;
    wait_up(stage, &mut client)?;
    client.watch(stream.key());
    let writer = Writer::start(&stream, Some(client), Arm::NetworkSync)?;
    stage.pause(rng.random_range(BEFORE))?;
    lan.lose()?;
    stage.pause(rng.random_range(LOSING))?;
    let cut = Instant::now();
    network.tell_wan("cut")?;
    writer.end();
    pair.appliances[0].process.kill();
    let told = writer.finish(&stream)?;
    let verdict = drain::ask(network.trace(), pair.appliances[1].socket())?;
    let record = RECORD.len() as u64;
    let acknowledged = told.iter().filter(|(at, _)| *at < cut).count() as u64;
    let arrived = stream.drain(acknowledged * record, QUIET) / record;
    stream.abort();
    let status = pair.appliances[1].status(network)?;
    let lost = acknowledged.saturating_sub(arrived);
    cell.trials += 1;
    cell.acknowledged += acknowledged;
    cell.lost += lost;
    cell.lossy += u32::from(lost > 0);
    cell.dropped += lan.mend()?;
    cell.repeated += status.lanes.iter().filter_map(|lane| lane.last_hop).map(|kept| kept.repeated).sum::<u64>();
    if lost > 0 {
        stage.say(&format!("    trial {}: {lost} of {acknowledged} records lost; drain: {verdict:?}", cell.trials));
    }
    match verdict {
        Verdict::Complete => cell.complete += 1,
        Verdict::Unfinished => cell.unfinished += 1,
        Verdict::Incomplete => {
            cell.incomplete += 1;
            cell.found += u32::from(lost > 0);
        }
    }
    Ok(())
}

fn report(kept: &Cell, control: &Cell, many_flows: &ManyFlows) -> Report {
    let mut report = Report::default();
    let lost =
        |cell: &Cell| format!("{} of {}, in {} of {} trials", cell.lost, cell.acknowledged, cell.lossy, cell.trials);
    report.claim(
        "no record is lost that was acknowledged, although the LAN loses packets and their sender is gone",
        lost(kept),
        kept.lost == 0 && kept.acknowledged > 0,
    );
    report.claim(
        "because packets are handed on again",
        format!("{} of them; the LAN lost {}", kept.repeated, kept.dropped),
        kept.repeated > 0 && kept.dropped > 0,
    );
    let verdicts = |cell: &Cell| format!("{}, {}, {}", cell.complete, cell.unfinished, cell.incomplete);
    report.claim(
        "drain waits until the mirror has everything, and says so",
        format!("complete, unfinished, incomplete: {}", verdicts(kept)),
        kept.incomplete == 0,
    );
    report.claim("control: with last_hop: off some are lost", lost(control), control.lost > 0);
    report.claim(
        "control: drain says incomplete whenever something is missing",
        format!("in {} of {} trials", control.found, control.lossy),
        control.found == control.lossy,
    );
    many_flows.claim(&mut report);
    let names =
        ["last_hop", "trials", "acknowledged", "lost", "in trials", "lost on the LAN", "handed on again", "drain"];
    let row = |name: &str, cell: &Cell| {
        let numbers = [cell.acknowledged, cell.lost, cell.lossy.into(), cell.dropped, cell.repeated];
        let numbers = numbers.map(|number| number.to_string());
        [vec![name.to_owned(), cell.trials.to_string()], numbers.to_vec(), vec![verdicts(cell)]].concat()
    };
    report.table(&names, [row("on", kept), row("off", control)]);
    for (name, cell) in [("kept", kept), ("control", control)] {
        report.metric(
            name,
            json!({
                "trials": cell.trials,
                "acknowledged": cell.acknowledged,
                "lost": cell.lost,
                "trials_with_loss": cell.lossy,
                "lost_on_lan": cell.dropped,
                "repeated": cell.repeated,
                "complete": cell.complete,
                "unfinished": cell.unfinished,
                "incomplete": cell.incomplete,
            }),
        );
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(lost: u64, repeated: u64) -> Cell {
        let is_lossy = u32::from(lost > 0);
        Cell {
            trials: 1,
            acknowledged: 100,
            lost,
            lossy: is_lossy,
            dropped: 7,
            repeated,
            complete: 1 - is_lossy,
            incomplete: is_lossy,
            found: is_lossy,
            ..Cell::default()
        }
    }

    #[test]
    fn a_lost_record_a_lossless_control_and_an_exceeded_bound_fail() {
        let many_flows = || ManyFlows { flows: 10_000, sent: 1, memory: 60 << 20, dropped: 5, grown: 70 << 20 };
        assert!(report(&cell(0, 9), &cell(3, 0), &many_flows()).passes());
        assert!(!report(&cell(1, 9), &cell(3, 0), &many_flows()).passes());
        assert!(!report(&cell(0, 0), &cell(3, 0), &many_flows()).passes(), "nothing was handed on again");
        assert!(!report(&cell(0, 9), &cell(0, 0), &many_flows()).passes());
        let overlooked = Cell { complete: 1, incomplete: 0, found: 0, ..cell(3, 0) };
        assert!(!report(&cell(0, 9), &overlooked, &many_flows()).passes(), "drain did not find it");
        for wrong in [
            ManyFlows { memory: 65 << 20, ..many_flows() },
            ManyFlows { memory: 1 << 20, ..many_flows() },
            ManyFlows { dropped: 0, ..many_flows() },
            ManyFlows { grown: 300 << 20, ..many_flows() },
        ] {
            assert!(!report(&cell(0, 9), &cell(3, 0), &wrong).passes(), "{wrong:?}");
        }
    }
}
