//! One disaster with standstill: records of a program, or rows of PostgreSQL behind a gate.
//!
//! The primary's appliance is halted only before the cut, because it dies with it; the processes at the mirror are
//! halted around the cut and during drain.

use std::{ops::Range, time::Duration};

use rand::{Rng, rngs::SmallRng};

use super::{
    Outcome, Target,
    halts::{Halter, plan},
};
use crate::lab::{
    error::LabError,
    scenario::disaster::{
        drain,
        messages::{self, RECORD},
        rows as disaster_rows,
        site::Site,
    },
    servers::postgres_pair::{Follows, PostgresPair},
    workload::{
        rows::Clients,
        stream::{Sink, Stream},
    },
};

/// How long the program works before the WAN begins to lose datagrams; the cut follows half a second later.
const BEFORE: Range<Duration> = Duration::from_millis(150)..Duration::from_millis(400);
/// When the first halt begins, counted from the end of that time: around the cut.
const AROUND_CUT: Range<Duration> = Duration::from_millis(200)..Duration::from_millis(650);
/// The same for an appliance that must be halted during drain.
const AT_DRAIN: Range<Duration> = Duration::from_millis(450)..Duration::from_millis(620);
/// The same for the primary's appliance, which dies with the cut.
const BEFORE_CUT: Range<Duration> = Duration::from_millis(0)..Duration::from_millis(450);
/// How long rows are inserted before that.
const BEFORE_ROWS: Range<Duration> = Duration::from_millis(400)..Duration::from_millis(800);
/// After the cut, a silence of this length means that nothing more will arrive.
const QUIET: Duration = Duration::from_millis(300);

/// One trial with records of 4 KB.
pub fn records(site: &mut Site<'_>, sink: &Sink, target: Target, rng: &mut SmallRng) -> Result<Outcome, LabError> {
    site.mend()?;
    let (stream, writer) = messages::begin(site, sink)?;
    site.stage.pause(rng.random_range(BEFORE))?;
    let first = if target == Target::Asked { AT_DRAIN } else { AROUND_CUT };
    let far = Halter::of_process(plan(first, rng), site.appliance(1)?.process.id());
    let near = match target {
        Target::Both => Some(Halter::of_process(plan(BEFORE_CUT, rng), site.appliance(0)?.process.id())),
        _ => None,
    };
    let mut halted = (0, Duration::ZERO);
    let strike = site.strike(|| {
        writer.end();
        halted = near.map_or((0, Duration::ZERO), Halter::finish);
    })?;
    let told = writer.finish(&stream)?;
    let acknowledged = told.iter().filter(|(at, _)| *at < strike.cut).count() as u64;
    let wanted = acknowledged * RECORD.len() as u64;
    let (verdict, document) = drain::ask_in_full(site.network.trace(), site.appliance(1)?.socket())?;
    let in_flight = in_flight(site)?;
    let (count, long) = far.finish();
    let handed_on = handed_on(&document, &stream);
    let arrived = {
        site.wait_empty()?;
        stream.drain(wanted, QUIET)
    };
    stream.abort();
    let records = |bytes: u64| bytes.div_ceil(RECORD.len() as u64);
    Ok(Outcome {
        acknowledged,
        lost: records(wanted.saturating_sub(arrived)),
        verdict,
        unheard: records(wanted.saturating_sub(handed_on)),
        in_flight,
        halted: (halted.0 + count, halted.1 + long),
    })
}

/// One trial with PostgreSQL.
pub fn rows(site: &mut Site<'_>, servers: &PostgresPair<'_>, rng: &mut SmallRng) -> Result<Outcome, LabError> {
    site.mend()?;
    servers.renew()?;
    let silent = || LabError::Sentence("the appliances were started without notifications".to_owned());
    let mut gate = servers.start_gate(site.publisher()?.ok_or_else(silent)?, "auto")?;
    let mut primary = servers.start_primary("remote_write", "mirror")?;
    let mut mirror = servers.launch_mirror(Follows::Gate)?;
    servers.wait_followed(&primary)?;
    let clients = Clients::start(&primary, disaster_rows::CLIENTS)?;
    site.stage.pause(rng.random_range(BEFORE_ROWS))?;
    let far = [
        Halter::of_process(plan(AROUND_CUT, rng), site.appliance(1)?.process.id()),
        Halter::start(plan(AROUND_CUT, rng), mirror.server.signals()),
    ];
    let near = [
        Halter::of_process(plan(BEFORE_CUT, rng), site.appliance(0)?.process.id()),
        Halter::of_process(plan(BEFORE_CUT, rng), gate.process.id()),
    ];
    let mut halts = Vec::new();
    let strike = site.strike(|| {
        // A process that is halted when its site dies is killed while halted.
        halts.extend(near.map(Halter::finish));
        primary.server.crash();
        gate.crash();
    })?;
    let told = clients.finish();
    let acknowledged: Vec<_> = told.iter().filter(|row| row.at < strike.cut).copied().collect();
    let verdict = drain::ask(site.network.trace(), site.appliance(1)?.socket())?;
    let in_flight = in_flight(site)?;
    halts.extend(far.map(Halter::finish));
    site.wait_empty()?;
    let lost = disaster_rows::missing(site, servers, &mut mirror, &acknowledged)?.len() as u64;
    mirror.server.crash();
    let halted = halts.iter().fold((0, Duration::ZERO), |(count, sum), halt| (count + halt.0, sum + halt.1));
    // Only lost rows are compared, not the rows delivered at the time of the verdict.
    Ok(Outcome { acknowledged: acknowledged.len() as u64, lost, verdict, unheard: 0, in_flight, halted })
}

/// Datagrams in flight to the mirror, by the emulator's count.
fn in_flight(site: &Site<'_>) -> Result<u64, LabError> {
    let truth = site.network.wan().map(|wan| wan.truth()).transpose();
    let truth = truth.map_err(LabError::doing("read the emulator's counters"))?;
    Ok(truth.map_or(0, |truth| truth.forth.in_flight))
}

/// How many bytes of the stream were delivered without a gap, as drain reports it.
fn handed_on(document: &serde_json::Value, stream: &Stream) -> u64 {
    let Ok(source) = stream.near.local_addr() else { return 0 };
    let flows = document["peers"][0]["arrived"]["flows"].as_array();
    let flow = flows.into_iter().flatten().find(|flow| flow["source"] == source.to_string().as_str());
    flow.and_then(|flow| flow["bytes"].as_u64()).unwrap_or(0)
}
