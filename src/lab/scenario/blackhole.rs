//! E10: the WAN drops everything, or one direction. How soon "protected" stops, and how soon it is back.
//!
//! Observes only as a subscriber, not through an appliance's status. Only claims about new bytes count, because a
//! repetition of an earlier claim stays true.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde_json::json;

use super::Stage;
use crate::{
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        report::Report,
        subscriber::Subscriber,
        workload::steady_writes::SteadyWrites,
    },
    notify::message::{FlowKey, LinkState, Message},
};

/// The dropped directions, with the emulator's command for them.
const SWALLOWED: [(&str, &str); 3] =
    [("both ways", "blackhole"), ("forth", "blackhole forth"), ("back", "blackhole back")];
const ROUND_TRIPS: [Duration; 2] = [Duration::from_millis(10), Duration::from_millis(100)];
/// The limit is three round trips, and at least this.
const FLOOR: Duration = Duration::from_millis(100);
/// Time before the blackhole, with traffic or at rest.
const BEFORE: Duration = Duration::from_secs(1);
/// Dropping goes on for this long after the last moment at which a claim is allowed.
const AFTER: Duration = Duration::from_millis(700);
/// Upper bound of a recovery.
const RECOVERY: Duration = Duration::from_secs(10);
/// Minimum number of claims before the blackhole; otherwise the absence of later ones would prove nothing.
const LIVELY: usize = 50;

/// What a subscriber recorded, with times.
#[derive(Debug, Default)]
struct Notes {
    positions: HashMap<(FlowKey, u64), u64>,
    /// Each time new bytes were called protected.
    claims: Vec<Instant>,
    /// Each change of the link's state.
    states: Vec<(Instant, LinkState)>,
}

impl Notes {
    fn take(&mut self, message: &Message, now: Instant) {
        match message {
            Message::Flow(flow) => {
                let position = flow.positions.on_wire.unwrap_or(0);
                let known = self.positions.entry((flow.key, flow.instance)).or_default();
                if position > *known {
                    *known = position;
                    self.claims.push(now);
                }
            }
            Message::State(peer) => self.on_state(peer.state, now),
            Message::Heartbeat(heartbeat) => heartbeat.peers.iter().for_each(|peer| self.on_state(peer.state, now)),
            _ => {}
        }
    }

    fn on_state(&mut self, state: LinkState, now: Instant) {
        if self.states.last().is_none_or(|(_, last)| *last != state) {
            self.states.push((now, state));
        }
    }

    /// How long after `since` the link was first reported up, or not up; zero if that was already its state.
    fn told(&self, is_up: bool, since: Instant) -> Option<Duration> {
        let is_it = |state: LinkState| (state == LinkState::Up) == is_up;
        let before = self.states.iter().rev().find(|(at, _)| *at <= since);
        if before.is_some_and(|(_, state)| is_it(*state)) {
            return Some(Duration::ZERO);
        }
        let after = self.states.iter().find(|(at, state)| *at > since && is_it(*state));
        after.map(|(at, _)| *at - since)
    }
}

struct Row {
    round_trip: Duration,
    swallowed: &'static str,
    at_rest: bool,
    claims_before: usize,
    last_claim: Option<Duration>,
    limit: Duration,
    degraded: Option<Duration>,
    up: Option<Duration>,
    protected: Option<Duration>,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    stage.say(
        "blackhole: small TCP and UDP writes from primary to mirror; the WAN begins to swallow them, and no packet says so.\n\
         A subscriber at the appliance notes each new \"protected\" and each change of the link's state. At rest: no traffic\n\
         for a second before, writes begin with the blackhole.\n",
    );
    let network = stage.build()?;
    let no_address = || LabError::Sentence("the topology gives mirror no IPv4 address".to_owned());
    let address = network.topology().address("mirror", false).ok_or_else(no_address)?;
    let mut rows = Vec::new();
    for round_trip in ROUND_TRIPS {
        network.tell_wan(&format!("set delay {}ms", round_trip.as_millis() / 2))?;
        let label = format!("rtt{}", round_trip.as_millis());
        let pair = Pair::start(&network, &PairOptions { label, notify: Some("on_wire"), ..PairOptions::default() })?;
        for (name, command) in SWALLOWED {
            for at_rest in [false, true] {
                let rest = if at_rest { ", at rest" } else { "" };
                stage.say(&format!("  round trip {round_trip:?}, swallowed {name}{rest} ..."));
                let mut row = measure(stage, &network, &pair, address, (round_trip, command, at_rest))?;
                row.swallowed = name;
                rows.push(row);
            }
        }
        pair.stop()?;
    }
    Ok(report(&rows, stage.options.slack))
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    address: IpAddr,
    (round_trip, command, at_rest): (Duration, &str, bool),
) -> Result<Row, LabError> {
    let near = &pair.appliances[0];
    let steady_writes = SteadyWrites::open(network, "primary", "mirror", address)?;
    let notes = Arc::new(Mutex::new(Notes::default()));
    let taking = notes.clone();
    let look = move |message: &Message, at| lock(&taking).take(message, at);
    let subscriber = Subscriber::start(network, near.node(), near.publisher()?, look)?;
    let until = |is_done: &dyn Fn(&Notes) -> bool| -> Result<(), LabError> {
        let deadline = Instant::now() + RECOVERY;
        while !is_done(&lock(&notes)) && Instant::now() < deadline {
            stage.pause(Duration::from_millis(5))?;
        }
        Ok(())
    };
    until(&|notes| notes.states.last().is_some_and(|(_, state)| *state == LinkState::Up))?;
    steady_writes.set_flowing(!at_rest);
    stage.pause(BEFORE)?;
    let told = near.status(network)?.peer().rtt_ms.map_or(Duration::ZERO, |ms| Duration::from_secs_f64(ms / 1e3));
    let limit = (3 * round_trip.max(told)).max(FLOOR);

    network.tell_wan(command)?;
    let swallowed = Instant::now();
    steady_writes.set_flowing(true);
    stage.pause(limit + AFTER)?;
    network.tell_wan("open")?;
    let healed = Instant::now();
    until(&|notes| {
        notes.told(true, healed).is_some_and(|told| !told.is_zero())
            && notes.claims.last().is_some_and(|at| *at > healed)
    })?;
    subscriber.finish()?;
    steady_writes.end();

    let notes = lock(&notes);
    let claims = || notes.claims.iter();
    Ok(Row {
        round_trip,
        swallowed: "",
        at_rest,
        claims_before: claims().filter(|at| **at <= swallowed && **at + BEFORE > swallowed).count(),
        last_claim: claims().rfind(|at| **at > swallowed && **at < healed).map(|at| *at - swallowed),
        limit,
        degraded: notes.told(false, swallowed).filter(|told| swallowed + *told < healed),
        up: notes.told(true, healed).filter(|told| !told.is_zero()),
        protected: claims().find(|at| **at > healed).map(|at| *at - healed),
    })
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(rows: &[Row], slack: f64) -> Report {
    let mut report = Report::default();
    let lively = rows.iter().filter(|row| !row.at_rest).map(|row| row.claims_before).min().unwrap_or(0);
    report.claim(
        "control: with traffic there are new claims until the blackhole",
        format!("{lively} in its last second, at the least"),
        lively >= LIVELY,
    );
    let late = rows.iter().filter(|row| row.last_claim.is_some_and(|last| last > row.limit.mul_f64(slack))).count();
    let last = rows.iter().filter_map(|row| row.last_claim).max();
    report.claim(
        "nothing new is called protected later than three round trips (100 ms at the least) after",
        format!("{late} times of {}; the last {} after", rows.len(), ms(last)),
        late == 0,
    );
    for (claim, of) in [
        ("that the link is degraded is told", (|row| row.degraded) as fn(&Row) -> Option<Duration>),
        ("that it is up again is told", |row| row.up),
        ("new bytes are called protected again", |row| row.protected),
    ] {
        let told = rows.iter().filter(|row| of(row).is_some()).count();
        let longest = rows.iter().filter_map(of).max();
        report.claim(
            claim,
            format!("{told} times of {}, after {} at most", rows.len(), ms(longest)),
            told == rows.len(),
        );
    }
    report.table(
        &[
            "round trip",
            "swallowed",
            "before",
            "claims before",
            "last claim",
            "limit",
            "degraded",
            "up",
            "protected again",
        ],
        rows.iter().map(|row| {
            vec![
                format!("{:?}", row.round_trip),
                row.swallowed.to_owned(),
                (if row.at_rest { "at rest" } else { "traffic" }).to_owned(),
                row.claims_before.to_string(),
                ms(row.last_claim),
                ms(Some(row.limit)),
                ms(row.degraded),
                ms(row.up),
                ms(row.protected),
            ]
        }),
    );
    let number = |duration: Option<Duration>| duration.map(|duration| duration.as_secs_f64() * 1e3);
    let cases = rows.iter().map(|row| {
        json!({
            "round_trip_ms": number(Some(row.round_trip)),
            "swallowed": row.swallowed,
            "at_rest": row.at_rest,
            "claims_before": row.claims_before,
            "last_claim_ms": number(row.last_claim),
            "limit_ms": number(Some(row.limit)),
            "degraded_told_ms": number(row.degraded),
            "up_told_ms": number(row.up),
            "protected_again_ms": number(row.protected),
        })
    });
    report.metric("cases", cases.collect::<Vec<_>>());
    report
}

fn ms(duration: Option<Duration>) -> String {
    duration.map_or("never".to_owned(), |duration| format!("{:.0} ms", duration.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(claims_before: usize, last_claim: Option<u64>, degraded: Option<u64>, up: Option<u64>) -> Row {
        let ms = |value: Option<u64>| value.map(Duration::from_millis);
        Row {
            round_trip: ROUND_TRIPS[0],
            swallowed: "forth",
            at_rest: false,
            claims_before,
            last_claim: ms(last_claim),
            limit: FLOOR,
            degraded: ms(degraded),
            up: ms(up),
            protected: ms(up),
        }
    }

    #[test]
    fn a_late_claim_and_an_unreported_failure_or_recovery_fail() {
        let good = || row(400, Some(60), Some(95), Some(30));
        assert!(report(&[good(), row(400, None, Some(95), Some(30))], 1.0).passes());
        let bad = [
            row(3, None, Some(95), Some(30)),
            row(400, Some(101), Some(95), Some(30)),
            row(400, None, None, Some(30)),
            row(400, None, Some(95), None),
        ];
        for bad in bad {
            assert!(!report(&[good(), bad], 1.0).passes());
        }
        assert!(report(&[row(400, Some(150), Some(160), Some(1))], 2.0).passes());
    }

    #[test]
    fn equal_states_count_once_and_told_measures_from_a_moment() {
        let mut notes = Notes::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        notes.on_state(LinkState::Up, at(0));
        notes.on_state(LinkState::Up, at(100));
        notes.on_state(LinkState::Degraded, at(250));
        notes.on_state(LinkState::Up, at(900));
        assert_eq!(notes.states.len(), 3);
        assert_eq!(notes.told(false, at(150)), Some(Duration::from_millis(100)));
        assert_eq!(notes.told(true, at(800)), Some(Duration::from_millis(100)));
        assert_eq!(notes.told(true, at(950)), Some(Duration::ZERO));
        assert_eq!(notes.told(false, at(950)), None);
    }
}
