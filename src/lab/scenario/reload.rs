//! A thousand changes of the configuration under load: is a packet lost, does a session or a connection of a gate end? And is a
//! broken file refused whole?
//!
//! Numbered UDP packets are not sent again, so what a reload loses is missing. PostgreSQL commits through a gate meanwhile. The WAN
//! loses nothing.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Stage,
    disaster::site::ONE_WAY,
    stage::{WAN_TCP, ends},
};
use crate::lab::{
    error::LabError,
    network::Network,
    pair::{Pair, PairOptions, RunningAppliance},
    report::Report,
    servers::postgres_pair::PostgresPair,
    workload::{
        numbered::{NumberedFlow, NumberedSink},
        rows::{ClientPlan, Clients, Rhythm},
    },
};

const RELOADS: u32 = 1000;
/// Every so many reloads a broken file is offered.
const BROKEN_EVERY: u32 = 50;
const INTERVAL: Duration = Duration::from_micros(500);
const BYTES: usize = 900;
/// After the last packet, another one may come within this time.
const QUIET: Duration = Duration::from_secs(1);
const CLIENTS: ClientPlan<'static> = ClientPlan {
    clients: 2,
    from: 1,
    bytes: 400,
    before: "SET synchronous_commit = remote_write",
    rhythm: Rhythm::steady(Duration::from_millis(4)),
};

/// What takes the place of `repair: { fixed: 4 }`, one after the other; the first is the original.
const REPAIRS: [&str; 4] = [
    "{ fixed: 4 }",
    "{ fixed: 9 }",
    "{ residual: 1e-6, max_overhead: 100%, min: 2 }",
    "{ survive_burst: 1ms, max_overhead: 400%, min: 2 }",
];
/// What takes the place of the beginning of `path`.
const PATHS: [&str; 3] = ["{ mtu: 1500", "{ mtu: 1500, rate: 500mbit", "{ mtu: 1500, rate: 800mbit, queue: 20ms"];

/// What was counted.
#[derive(Debug, Default)]
struct Found {
    asked: u32,
    followed: u32,
    refused_broken: u32,
    offered_broken: u32,
    packets: u32,
    missing: u64,
    commits: usize,
    /// New sessions between the appliances.
    sessions: u64,
    /// Connections that the gate accepted, and those still open that it had at the start.
    connections: [u64; 2],
    took: Duration,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    let reloads = stage.options.trials.unwrap_or(RELOADS).max(4);
    stage.say(&format!(
        "reload: {reloads} changes of the configuration, on both sides in turn, with a UDP packet each {INTERVAL:?} and PostgreSQL\n\
         commits through a gate meanwhile. Each {BROKEN_EVERY}th file is broken.\n"
    ));
    let network = stage.build()?;
    stage.set_tcp(&network, &WAN_TCP)?;
    network.tell_wan(&format!("set delay {}ms", ONE_WAY.as_millis()))?;
    let pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let servers = PostgresPair::prepare(&network, ends(&network)?)?;
    let (gate, primary, mirror) = servers.start_behind_gate(pair.appliances[0].publisher()?)?;
    let gate_before = gate.connections(&network)?;
    let sessions = |pair: &Pair<'_>| -> Result<u64, LabError> {
        Ok(pair.status()?.iter().map(|status| status.peer().sessions).sum())
    };
    let sessions_before = sessions(&pair)?;
    let clients = Clients::start(&primary, CLIENTS)?;
    let [from, to] = ends(&network)?;
    let sink = NumberedSink::listen(&network, ("primary", from), ("mirror", to))?;
    let (mut flow, is_over) = (sink.open()?, AtomicBool::new(false));
    let (begin, mut found) = (Instant::now(), Found::default());
    thread::scope(|scope| {
        let sending = scope.spawn(|| send(&mut flow, &is_over));
        let outcome = reload_all(stage, &network, &pair, reloads, &mut found);
        is_over.store(true, Ordering::Relaxed);
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        outcome.and(sent)
    })?;
    found.took = begin.elapsed();
    found.missing = sink.drain(&flow, QUIET);
    found.packets = flow.packets;
    found.commits = clients.finish().len();
    found.sessions = sessions(&pair)? - sessions_before;
    let [accepted, open] = gate.connections(&network)?;
    found.connections = [accepted - gate_before[0], gate_before[1].saturating_sub(open)];
    sink.forget(flow);
    sink.end();
    drop((mirror, primary, gate));
    pair.stop()?;
    Ok(report(&found))
}

fn send(flow: &mut NumberedFlow, is_over: &AtomicBool) -> Result<(), LabError> {
    let mut next = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        flow.send(BYTES)?;
        next += INTERVAL;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

/// Changes the files of both sides in turn, and reloads.
fn reload_all(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    reloads: u32,
    found: &mut Found,
) -> Result<(), LabError> {
    let read = |appliance: &RunningAppliance| {
        fs::read_to_string(appliance.config()).map_err(LabError::doing("read a configuration"))
    };
    let originals = [read(&pair.appliances[0])?, read(&pair.appliances[1])?];
    let mut said = Instant::now();
    for number in 0..reloads {
        stage.trace.check_stop()?;
        if said.elapsed() > Duration::from_secs(5) {
            stage.say(&format!("    {number} of {reloads}"));
            said = Instant::now();
        }
        let (side, turn) = ((number % 2) as usize, (number / 2 + 1) as usize);
        let appliance = &pair.appliances[side];
        let write = |text: &str| fs::write(appliance.config(), text).map_err(LabError::doing("write a configuration"));
        let text = originals[side]
            .replace(REPAIRS[0], REPAIRS[turn % REPAIRS.len()])
            .replace(PATHS[0], PATHS[turn % PATHS.len()]);
        if number % BROKEN_EVERY == BROKEN_EVERY - 1 {
            found.offered_broken += 1;
            write(&text.replace("name: ow0", "nam: ow0").replace("mtu: 1500", "mtu: 15"))?;
            found.refused_broken += u32::from(appliance.reload(network).is_err());
        }
        write(&text)?;
        found.asked += 1;
        appliance.reload(network)?;
        found.followed += 1;
    }
    Ok(())
}

fn report(found: &Found) -> Report {
    let mut report = Report::default();
    let Found { asked, followed, refused_broken, offered_broken, packets, missing, commits, sessions, .. } = found;
    let [accepted, ended] = found.connections;
    report.claim(
        format!("{asked} reloads under load lose no packet"),
        format!("{missing} of {packets}"),
        missing == &0 && *packets > 0 && followed == asked && *asked > 0,
    );
    report.claim("no session between the appliances is made anew", format!("{sessions} new"), *sessions == 0);
    report.claim(
        "no connection of the gate ends, and commits go on",
        format!("{accepted} new, {ended} ended; {commits} commits"),
        accepted == 0 && ended == 0 && *commits > 0,
    );
    report.claim(
        "each broken file is refused",
        format!("{refused_broken} of {offered_broken}"),
        refused_broken == offered_broken,
    );
    report.metric("reloads", *followed);
    report.metric("seconds", found.took.as_secs_f64());
    report.metric("packets", json!({ "sent": packets, "missing": missing }));
    report.metric("commits", *commits as u64);
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_packet_a_new_session_and_a_broken_file_that_is_followed_fail() {
        let good = || Found {
            asked: 10,
            followed: 10,
            refused_broken: 1,
            offered_broken: 1,
            packets: 100,
            commits: 5,
            ..Found::default()
        };
        let passes = |change: fn(&mut Found)| {
            let mut found = good();
            change(&mut found);
            report(&found).passes()
        };
        assert!(passes(|_| ()));
        assert!(!passes(|found| found.missing = 1));
        assert!(!passes(|found| found.followed = 9));
        assert!(!passes(|found| found.packets = 0));
        assert!(!passes(|found| found.sessions = 1));
        assert!(!passes(|found| found.connections = [0, 1]));
        assert!(!passes(|found| found.connections = [1, 0]));
        assert!(!passes(|found| found.commits = 0));
        assert!(!passes(|found| found.refused_broken = 0));
    }
}
