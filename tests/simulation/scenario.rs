//! What a seed stands for: links, profiles, traffic and disasters, all chosen before anything runs.

use std::time::Duration;

use onwire::fec::plan::Plan;
use onwire::tunnel::receiver::Delivery;
use onwire::tunnel::sender::Profile;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::link::LinkSettings;
use crate::protection_driver::{HostSettings, QUEUE_MAX};
use crate::side::Side;

/// Something that happens to a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disaster {
    /// It forgets everything and begins a new epoch.
    Restart,
    /// It agrees on new keys, in the same epoch.
    Rekey,
    /// Its link swallows everything for so long.
    Blackhole(Duration),
}

/// What is configured at one side.
#[derive(Clone, Debug)]
pub struct SideSettings {
    /// Its redundancy profiles.
    pub profiles: Vec<Profile>,
    /// Bytes of a full symbol that it sends.
    pub symbol_size: usize,
    /// Its pacing.
    pub bytes_per_second: Option<u64>,
    /// It claims protection from what it is told.
    pub claims: bool,
    /// What is between it and its link.
    pub host: HostSettings,
    /// How what it receives leaves.
    pub delivery: Delivery,
    /// The link that it sends into.
    pub link: LinkSettings,
    /// When each packet comes from its TUN, and its profile.
    pub traffic: Vec<(Duration, u8)>,
    /// When something happens to each of the connections that its hosts begin.
    pub connections: Vec<Vec<Duration>>,
}

/// Everything about one run.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The lane at both ends.
    pub lane: u8,
    /// By side.
    pub sides: [SideSettings; 2],
    /// What happens, to whom and when.
    pub disasters: Vec<(Duration, Side, Disaster)>,
    /// Outputs are polled this often in a turn at most.
    pub budget: usize,
    /// After the last packet and the last disaster; the links are perfect from here on.
    pub calm: Duration,
    /// All is over.
    pub end: Duration,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn of(seed: u64) -> Self {
        let random = &mut SmallRng::seed_from_u64(seed);
        let stormy = random.random_bool(0.85);
        let claims = random.random_bool(0.4).then(|| [random.random_bool(0.8), random.random_bool(0.5)]);
        let [length, lead] = match claims {
            // A link is trusted after some round trips and reports.
            Some(_) => [random.random_range(5_000..100_000), [0, 90_000, 90_000, 90_000][random.random_range(0..4)]],
            None => [random.random_range(500..60_000), 0],
        }
        .map(Duration::from_micros);
        let sides = [0, 1].map(|side| random_side(claims.is_some_and(|it| it[side]), length, lead, stormy, random));
        let mut disasters = Vec::new();
        for (disaster, chance) in [(Disaster::Restart, 0.25), (Disaster::Rekey, 0.25)] {
            if random.random_bool(chance) {
                for _ in 0..random.random_range(1..=3) {
                    let side = Side::BOTH[random.random_range(0..2)];
                    disasters.push((lead + length.mul_f64(random.random_range(0.0..1.2)), side, disaster));
                }
            }
        }
        if claims.is_some() && random.random_bool(0.2) {
            for _ in 0..random.random_range(1..=2) {
                let disaster = Disaster::Blackhole(Duration::from_millis(random.random_range(5..250)));
                let side = Side::BOTH[random.random_range(0..2)];
                disasters.push((lead + length.mul_f64(random.random()), side, disaster));
            }
        }
        let hold = sides.iter().map(|side| side.delivery.hold_max).max().unwrap_or_default();
        let slowest = sides.iter().map(|side| side.link.delay + side.link.jitter).max().unwrap_or_default();
        // Long enough for every handshake to end and for what was held or under way to have its fate.
        let calm = lead + length.mul_f64(1.2) + slowest * 8;
        // Two reports of an idle line.
        let reports = if sides.iter().any(|side| side.claims) { 300 } else { 2200 };
        let end = calm + QUEUE_MAX + hold * 2 + slowest * 4 + Duration::from_millis(reports);
        let budget = if random.random_bool(0.5) { 1000 } else { random.random_range(1..6) };
        Self { lane: if random.random_bool(0.8) { 0 } else { 3 }, sides, disasters, budget, calm, end }
    }
}

fn random_side(claims: bool, length: Duration, lead: Duration, stormy: bool, random: &mut SmallRng) -> SideSettings {
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
        link: LinkSettings::random(stormy, random),
        traffic,
        profiles,
    }
}

fn random_profile(number: u8, random: &mut SmallRng) -> Profile {
    let block_symbols = random.random_range(1..=40);
    let repair_symbols = [0, 1, 2, 4, 8, 20][random.random_range(0..6)];
    // Some blocks stay open for so long that whole handshakes fit in.
    let (idle, after) = if random.random_bool(0.3) { (10_000, 20_000) } else { (600, 4000) };
    Profile {
        number,
        block_symbols,
        close_when_idle: Duration::from_micros(random.random_range(0..idle)),
        close_after: Duration::from_micros(random.random_range(100..after)),
        plan: Plan::fixed(block_symbols, repair_symbols, 0.01),
    }
}
