//! The scenario of a seed: links, profiles, traffic and disruptions, all chosen before the run starts.

use std::time::Duration;

use onwire::fec::plan::Plan;
use onwire::tunnel::late_repair::{self, LATE_SLACK};
use onwire::tunnel::receiver::Delivery;
use onwire::tunnel::sender::Profile;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::link::LinkSettings;
use crate::protection_driver::{HostSettings, QUEUE_MAX};
use crate::side::Side;

/// The longest interruption that a profile promises to survive.
const SPREAD_MAX: Duration = Duration::from_millis(20);

/// A disruption of one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disruption {
    /// It restarts without state and begins a new epoch.
    Restart,
    /// It agrees on new keys, in the same epoch.
    Rekey,
    /// Its link loses everything for this long.
    Blackhole(Duration),
}

/// The configuration of one side.
#[derive(Clone, Debug)]
pub struct SideSettings {
    /// Its redundancy profiles.
    pub profiles: Vec<Profile>,
    /// The size of a full symbol that it sends, in bytes.
    pub symbol_size: usize,
    /// Its pacing rate.
    pub bytes_per_second: Option<u64>,
    /// It claims protection from the reports it gets.
    pub claims: bool,
    /// The host between it and its link.
    pub host: HostSettings,
    /// How it delivers received packets.
    pub delivery: Delivery,
    /// The link that it sends into.
    pub link: LinkSettings,
    /// When each packet comes from its TUN, with its profile.
    pub traffic: Vec<(Duration, u8)>,
    /// The times at which the ends of each connection act.
    pub connections: Vec<Vec<Duration>>,
}

/// One scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The lane at both ends.
    pub lane: u8,
    /// By side.
    pub sides: [SideSettings; 2],
    /// Disruptions, with their time and side.
    pub disruptions: Vec<(Duration, Side, Disruption)>,
    /// The most outputs polled of each kind in a turn.
    pub budget: usize,
    /// The end of all faults, after the last packet and the last disruption.
    pub faults_end: Duration,
    /// The end of the run.
    pub end: Duration,
}

impl Scenario {
    /// How much longer the peer of a side waits for late repair symbols.
    pub fn late_spread(&self, side: Side) -> Duration {
        let longest = self.sides[side.index()].profiles.iter().map(|profile| profile.survive_burst).max();
        late_repair::spread(longest.unwrap_or_default())
    }

    /// The scenario of a seed.
    pub fn of(seed: u64) -> Self {
        let random = &mut SmallRng::seed_from_u64(seed);
        let faulty = random.random_bool(0.85);
        let claims = random.random_bool(0.4).then(|| [random.random_bool(0.8), random.random_bool(0.5)]);
        let [length, lead] = match claims {
            // A link is trusted only after some round trips and reports.
            Some(_) => [random.random_range(5_000..100_000), [0, 90_000, 90_000, 90_000][random.random_range(0..4)]],
            None => [random.random_range(500..60_000), 0],
        }
        .map(Duration::from_micros);
        let sides = [0, 1].map(|side| random_side(claims.is_some_and(|it| it[side]), length, lead, faulty, random));
        let mut disruptions = Vec::new();
        for (disruption, chance) in [(Disruption::Restart, 0.25), (Disruption::Rekey, 0.25)] {
            if random.random_bool(chance) {
                for _ in 0..random.random_range(1..=3) {
                    let side = Side::BOTH[random.random_range(0..2)];
                    disruptions.push((lead + length.mul_f64(random.random_range(0.0..1.2)), side, disruption));
                }
            }
        }
        if claims.is_some() && random.random_bool(0.2) {
            for _ in 0..random.random_range(1..=2) {
                let disruption = Disruption::Blackhole(Duration::from_millis(random.random_range(5..250)));
                let side = Side::BOTH[random.random_range(0..2)];
                disruptions.push((lead + length.mul_f64(random.random()), side, disruption));
            }
        }
        let hold = sides.iter().map(|side| side.delivery.hold_max).max().unwrap_or_default() + SPREAD_MAX + LATE_SLACK;
        let slowest = sides.iter().map(|side| side.link.delay + side.link.jitter).max().unwrap_or_default();
        // Long enough for every handshake to end and for every held or travelling datagram to be decided.
        let faults_end = lead + length.mul_f64(1.2) + slowest * 8;
        // Time for two reports on an idle line.
        let reports = if sides.iter().any(|side| side.claims) { 300 } else { 2200 };
        let end = faults_end + QUEUE_MAX + hold * 2 + slowest * 4 + Duration::from_millis(reports);
        let budget = if random.random_bool(0.5) { 1000 } else { random.random_range(1..6) };
        Self { lane: if random.random_bool(0.8) { 0 } else { 3 }, sides, disruptions, budget, faults_end, end }
    }
}

fn random_side(claims: bool, length: Duration, lead: Duration, faulty: bool, random: &mut SmallRng) -> SideSettings {
    let symbol_size = [64, 128, 256, 576, 1408, 1408][random.random_range(0..6)];
    let profiles: Vec<Profile> = (0..random.random_range(1..=3)).map(|number| random_profile(number, random)).collect();
    let close_after = profiles.iter().map(|profile| profile.close_after).max().unwrap_or_default();
    let packets = match random.random_range(0..10) {
        0 => 0,
        1..8 => random.random_range(1..30),
        _ => random.random_range(30..120),
    };
    let bursts = random.random_bool(0.5);
    let mut at = Duration::ZERO;
    let mut traffic: Vec<(Duration, u8)> = (0..packets)
        .map(|_| {
            if !bursts || random.random_bool(0.15) {
                at = length.mul_f64(random.random());
            }
            (lead + at, random.random_range(0..profiles.len()) as u8)
        })
        .collect();
    traffic.sort();
    let connections = (0..if claims { random.random_range(0..4) } else { 0 })
        .map(|_| {
            let mut at = lead.mul_f64(random.random());
            let pause = random.random_range(20_000..8_000_000);
            let acts = random.random_range(4..40);
            let times = (0..acts).map(|_| {
                at += Duration::from_nanos(random.random_range(0..pause));
                at
            });
            times.take_while(|at| *at < lead + length).collect()
        })
        .collect();
    let hold = close_after * random.random_range(1..4) + Duration::from_micros(random.random_range(200..8000));
    SideSettings {
        symbol_size,
        bytes_per_second: random.random_bool(0.3).then(|| random.random_range(5_000_000..200_000_000)),
        claims,
        host: HostSettings::random(random),
        connections,
        delivery: Delivery { strict: random.random_bool(0.7), hold, hold_max: hold * random.random_range(1..6) },
        link: LinkSettings::random(faulty, random),
        traffic,
        profiles,
    }
}

fn random_profile(number: u8, random: &mut SmallRng) -> Profile {
    let block_symbols = random.random_range(1..=40);
    let repair_symbols = [0, 1, 2, 4, 8, 20][random.random_range(0..6)];
    // Some blocks stay open for so long that whole handshakes fit in between.
    let (idle, after) = if random.random_bool(0.3) { (10_000, 20_000) } else { (600, 4000) };
    Profile {
        number,
        block_symbols,
        close_when_idle: Duration::from_micros(random.random_range(0..idle)),
        close_after: Duration::from_micros(random.random_range(100..after)),
        plan: Plan::fixed(block_symbols, repair_symbols, 0.01),
        survive_burst: if repair_symbols > 0 && random.random_bool(0.3) {
            SPREAD_MAX.mul_f64(random.random::<f64>().powi(2))
        } else {
            Duration::ZERO
        },
        keeps_promise: random.random_bool(0.95),
    }
}
