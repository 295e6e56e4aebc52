//! An attacker on the path delays, holds, reorders, and then drops everything. How long does "protected" go on?
//!
//! A subscriber with a message for each block observes. Time counts from the last datagram of the primary's appliance
//! that the attacker forwarded, which only the attacker knows. Each trial starts fresh appliances, so that no trial
//! depends on an earlier one.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::json;

use super::{Stage, stage};
use crate::{
    config::DEFAULT_TRUST_MAX,
    lab::{
        error::LabError,
        network::Network,
        pair::{Pair, PairOptions},
        path_attacker::{Order, PathAttacker},
        report::Report,
        subscriber::Subscriber,
        workload::steady_writes::SteadyWrites,
    },
    notify::message::{Level, LinkState, Message},
};

/// The nodes of the attacker's sockets.
const SIDES: [&str; 2] = ["one-side", "other-side"];
const ROUND_TRIPS: [u64; 4] = [2, 20, 60, 150];
const TRIALS: u32 = 100;
/// At first the attacker only forwards for this long, with traffic.
const BEFORE: Duration = Duration::from_millis(300);
/// Dropping goes on for this long after the last moment at which a claim is allowed.
const AFTER: Duration = Duration::from_millis(400);
/// Allowance for a notification's way from the appliance's clock to the subscriber's.
const WAY: Duration = Duration::from_millis(20);
/// Minimum validity of a proof of the round trip.
const FLOOR: Duration = Duration::from_millis(100);
/// Upper bound of the time a link may take to come up.
const UP_WITHIN: Duration = Duration::from_secs(20);
/// Minimum number of claims before the attack; otherwise the absence of later ones would prove nothing.
const LIVELY: usize = 5;

/// What the attacker does before it drops everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attack {
    Nothing,
    HoldsBack,
    HoldsForth,
    HoldsBoth,
    DelaysMore,
    Scatters,
    ComesAndGoes,
    SlowFromTheStart,
}

const ATTACKS: [(Attack, &str); 8] = [
    (Attack::Nothing, "does nothing"),
    (Attack::HoldsBack, "holds what comes back, lets it go"),
    (Attack::HoldsForth, "holds what goes forth, lets it go"),
    (Attack::HoldsBoth, "holds both, lets them go"),
    (Attack::DelaysMore, "delays more and more"),
    (Attack::Scatters, "scatters"),
    (Attack::ComesAndGoes, "swallows now and then"),
    (Attack::SlowFromTheStart, "is slow from the start"),
];

/// What a subscriber recorded.
#[derive(Debug, Default)]
struct Notes {
    /// Each time a block was called protected.
    claims: Vec<Instant>,
    is_up: bool,
}

impl Notes {
    fn take(&mut self, message: &Message, now: Instant) {
        match message {
            Message::Block(block) if block.level >= Some(Level::OnWire) => self.claims.push(now),
            Message::State(peer) => self.is_up = peer.state == LinkState::Up,
            Message::Heartbeat(heartbeat) => self.is_up = heartbeat.peers.iter().all(|it| it.state == LinkState::Up),
            _ => {}
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Row {
    attack: Attack,
    round_trip: Duration,
    claims_before: usize,
    /// Time after the last forwarded datagram; none if no claim came later than that.
    last_claim: Option<Duration>,
}

/// Runs the scenario.
pub fn run(stage: &Stage<'_>) -> Result<Report, LabError> {
    stage.say(
        "held-link: small TCP and UDP writes from primary to mirror; between the appliances stands a man without keys. He lets\n\
         everything pass at first, then delays, holds or reorders, and at last swallows all. A subscriber at the appliance\n\
         notes each block that is called protected.\n",
    );
    let network = stage.build()?;
    let addresses = network.topology().appliances().map(|(_, plan)| plan.listen).collect::<Vec<_>>();
    let [first, second] = addresses[..] else {
        return Err(LabError::Sentence(format!("needs two appliances; the topology has {}", addresses.len())));
    };
    let attacker = PathAttacker::start(&network, SIDES, [first, second], stage.options.seed)?;
    let mut pair = Pair::start(&network, &PairOptions { notify: Some("on_wire"), ..PairOptions::default() })?;
    let mut rows = Vec::new();
    let trials = stage.options.trials.unwrap_or(TRIALS);
    for trial in 0..trials {
        let (attack, words) = ATTACKS[trial as usize % ATTACKS.len()];
        let mut random = SmallRng::seed_from_u64(stage.options.seed << 32 | u64::from(trial));
        let is_plain = matches!(attack, Attack::Nothing | Attack::SlowFromTheStart);
        let place = if is_plain { 0 } else { random.random_range(0..ROUND_TRIPS.len()) };
        let round_trip = Duration::from_millis(ROUND_TRIPS[place]);
        attacker.set_path(round_trip / 2);
        attacker.order(at_first(attack));
        pair.restart()?;
        let row = measure(stage, &network, &pair, &attacker, (attack, round_trip, &mut random))?;
        stage.say(&format!("  {} of {trials}: {round_trip:?}, {words}: last claim {}", trial + 1, ms(row.last_claim)));
        rows.push(row);
    }
    attacker.order([Order::Pass; 2]);
    pair.stop()?;
    Ok(report(&rows, stage.options.slack))
}

fn at_first(attack: Attack) -> [Order; 2] {
    // Three such round trips are longer than the maximum trust time.
    let slow = Order::Delay(Duration::from_millis(250));
    [Order::Pass, if attack == Attack::SlowFromTheStart { slow } else { Order::Pass }]
}

fn measure(
    stage: &Stage<'_>,
    network: &Network<'_>,
    pair: &Pair<'_>,
    attacker: &PathAttacker,
    (attack, round_trip, random): (Attack, Duration, &mut SmallRng),
) -> Result<Row, LabError> {
    let near = &pair.appliances[0];
    let [_, mirror] = stage::ends(network)?;
    let steady_writes = SteadyWrites::open(network, "primary", "mirror", mirror)?;
    let notes = Arc::new(Mutex::new(Notes::default()));
    let taking = notes.clone();
    let look = move |message: &Message, at| lock(&taking).take(message, at);
    let subscriber = Subscriber::start_with_blocks(network, near.node(), near.publisher()?, look)?;
    let deadline = Instant::now() + UP_WITHIN;
    while !lock(&notes).is_up {
        if Instant::now() > deadline {
            return Err(LabError::Sentence(format!("the link is not up within {UP_WITHIN:?}")));
        }
        stage.pause(Duration::from_millis(2))?;
    }
    steady_writes.set_flowing(true);
    stage.pause(BEFORE)?;
    let begins = Instant::now();
    hinder(stage, attacker, attack, random)?;
    attacker.order([Order::Swallow; 2]);
    let nothing = || LabError::Sentence("the man has let nothing go on".to_owned());
    let last_forth = attacker.last_forth().ok_or_else(nothing)?;
    stage.pause(DEFAULT_TRUST_MAX + AFTER)?;
    subscriber.finish()?;
    steady_writes.end();
    let notes = lock(&notes);
    let claims = || notes.claims.iter();
    Ok(Row {
        attack,
        round_trip,
        claims_before: claims().filter(|at| **at <= begins).count(),
        last_claim: claims().next_back().filter(|at| **at > last_forth).map(|at| *at - last_forth),
    })
}

/// Runs the attack without its end, the dropping.
fn hinder(stage: &Stage<'_>, attacker: &PathAttacker, attack: Attack, random: &mut SmallRng) -> Result<(), LabError> {
    let longest = if random.random_bool(0.1) { 3000 } else { 1500 };
    let long = Duration::from_millis(random.random_range(100..=longest));
    let hold = Order::Hold { reversed: random.random() };
    let then = Duration::from_millis(random.random_range(0..300));
    let order_for = |orders, time| {
        attacker.order(orders);
        stage.pause(time)
    };
    match attack {
        Attack::HoldsBack => order_for([Order::Pass, hold], long)?,
        Attack::HoldsForth => order_for([hold, Order::Pass], long)?,
        Attack::HoldsBoth => order_for([hold, hold], long)?,
        Attack::DelaysMore => {
            // Like a queue that fills: the datagrams arrive, only later.
            let step = Duration::from_millis(50);
            for steps in 1..=(long.as_millis() / step.as_millis()) as u32 {
                order_for([Order::Pass, Order::Delay(step * steps)], step)?;
            }
            return Ok(());
        }
        Attack::Scatters => return order_for([Order::Scatter(long); 2], Duration::from_millis(1200)),
        Attack::ComesAndGoes => {
            for _ in 0..3 {
                order_for([Order::Swallow; 2], Duration::from_millis(300))?;
                order_for([Order::Pass; 2], Duration::from_millis(300))?;
            }
            return Ok(());
        }
        Attack::Nothing | Attack::SlowFromTheStart => return Ok(()),
    }
    order_for([Order::Pass; 2], then)
}

fn lock(notes: &Mutex<Notes>) -> MutexGuard<'_, Notes> {
    notes.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report(rows: &[Row], slack: f64) -> Report {
    let mut report = Report::default();
    let limit = (DEFAULT_TRUST_MAX + WAY).mul_f64(slack);
    let lively = rows.iter().map(|row| row.claims_before).min().unwrap_or(0);
    report.claim(
        "control: blocks are called protected before he does anything",
        format!("{lively} in {BEFORE:?}, at the least"),
        lively >= LIVELY,
    );
    let beyond = rows.iter().filter(|row| row.last_claim.is_some()).count();
    report.claim(
        "control: a cut is noticed late, so that there is something to measure",
        format!("claims after his last datagram in {beyond} of {} trials", rows.len()),
        beyond > 0,
    );
    let late = rows.iter().filter(|row| row.last_claim.is_some_and(|last| last > limit)).count();
    let last = rows.iter().filter_map(|row| row.last_claim).max();
    report.claim(
        format!(
            "no block is called protected later than {DEFAULT_TRUST_MAX:?} after the last datagram that he let go on"
        ),
        format!("{late} times of {}; the last {} after", rows.len(), ms(last)),
        late == 0,
    );
    let mut plain: Vec<_> =
        rows.iter().filter(|row| row.attack == Attack::Nothing).filter_map(|row| row.last_claim).collect();
    plain.sort();
    let median = plain.get(plain.len() / 2).copied();
    report.claim(
        format!("when he did nothing before, half of the time no later than {FLOOR:?} after"),
        format!("{} trials, half of them until {}", plain.len(), ms(median)),
        median.is_some_and(|median| median <= FLOOR.mul_f64(slack)),
    );
    report.table(
        &["what he does", "trials", "claims before", "last claim"],
        ATTACKS.iter().map(|(attack, words)| {
            let of = || rows.iter().filter(|row| row.attack == *attack);
            vec![
                (*words).to_owned(),
                of().count().to_string(),
                of().map(|row| row.claims_before).min().unwrap_or(0).to_string(),
                ms(of().filter_map(|row| row.last_claim).max()),
            ]
        }),
    );
    let cases = rows.iter().map(|row| {
        let words = ATTACKS.iter().find(|(attack, _)| *attack == row.attack).map_or("", |(_, words)| words);
        json!({
            "what": words,
            "round_trip_ms": row.round_trip.as_secs_f64() * 1e3,
            "claims_before": row.claims_before,
            "last_claim_ms": row.last_claim.map(|last| last.as_secs_f64() * 1e3),
        })
    });
    report.metric("cases", cases.collect::<Vec<_>>());
    report.metric("limit_ms", DEFAULT_TRUST_MAX.as_secs_f64() * 1e3);
    report
}

fn ms(duration: Option<Duration>) -> String {
    duration.map_or("none".to_owned(), |duration| format!("{:.0} ms", duration.as_secs_f64() * 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(attack: Attack, claims_before: usize, last_claim: Option<u64>) -> Row {
        Row {
            attack,
            round_trip: Duration::from_millis(2),
            claims_before,
            last_claim: last_claim.map(Duration::from_millis),
        }
    }

    #[test]
    fn a_late_claim_and_a_control_without_claims_fail() {
        use Attack::{Nothing, Scatters};
        let plain = |millis| row(Nothing, 300, Some(millis));
        let passes = |rows: &[Row], slack| report(rows, slack).passes();
        assert!(passes(
            &[plain(80), plain(95), plain(130), row(Scatters, 300, Some(590)), row(Scatters, 300, None)],
            1.0
        ));
        assert!(!passes(&[plain(80), row(Scatters, 3, Some(10))], 1.0));
        assert!(!passes(&[plain(80), row(Scatters, 300, Some(621))], 1.0));
        assert!(!passes(&[plain(80), plain(101), plain(130)], 1.0), "half of them");
        assert!(!passes(&[row(Nothing, 300, None), row(Scatters, 300, Some(9))], 1.0));
        assert!(!passes(&[row(Nothing, 300, None)], 1.0));
        assert!(passes(&[plain(190), row(Scatters, 300, Some(1200))], 2.0));
    }
}
