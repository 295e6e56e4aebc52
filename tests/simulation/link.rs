//! One direction of an unreliable path: random faults, drawn from a seeded generator.
//!
//! The link decides and damages; the world schedules the arrivals.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

/// The faults of one direction.
#[derive(Clone, Debug, Default)]
pub struct LinkSettings {
    /// The delay of every datagram.
    pub delay: Duration,
    /// The most that is added to the delay, so that datagrams overtake each other.
    pub jitter: Duration,
    /// The probability that a datagram is lost.
    pub loss: f64,
    /// The probability that a burst of losses begins.
    pub burst: f64,
    /// The longest burst, in datagrams.
    pub burst_len: u32,
    /// The probability that a datagram arrives twice.
    pub duplication: f64,
    /// The probability that bits of a datagram are flipped or its end is cut off.
    pub corruption: f64,
    /// The probability that an attacker replays an old datagram.
    pub replay: f64,
    /// The probability that an attacker sends bytes of its own.
    pub forgery: f64,
}

impl LinkSettings {
    /// A random link; each kind of fault may occur on a `faulty` one.
    pub fn random(faulty: bool, random: &mut SmallRng) -> Self {
        // From one room to another continent, each power of ten equally likely.
        let delay = Duration::from_micros(20).mul_f64(10f64.powf(random.random_range(0.0..3.0)));
        if !faulty {
            return Self { delay, ..Self::default() };
        }
        let mut chance = |of: f64, at_most: f64| {
            if random.random_bool(of) { random.random_range(0.0..at_most) } else { 0.0 }
        };
        Self {
            loss: chance(0.7, 0.2),
            burst: chance(0.4, 0.03),
            duplication: chance(0.4, 0.2),
            corruption: chance(0.4, 0.1),
            replay: chance(0.4, 0.2),
            forgery: chance(0.3, 0.2),
            delay,
            burst_len: random.random_range(2..20),
            jitter: if random.random_bool(0.6) {
                Duration::from_micros(random.random_range(0..3000))
            } else {
                Duration::ZERO
            },
        }
    }
}

/// The effect of the link on one datagram.
#[derive(Debug, Default)]
pub struct Transmission {
    /// The delay of each copy; `true` if it is damaged.
    pub copies: Vec<(Duration, bool)>,
    /// The delay of a replayed datagram.
    pub replay: Option<Duration>,
    /// The delay of a forged datagram.
    pub forgery: Option<Duration>,
}

/// One direction with its state.
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    burst_left: u32,
    /// Datagrams that enter before this are lost.
    black_until: Duration,
}

impl Link {
    /// A link outside a burst.
    pub fn new(settings: LinkSettings) -> Self {
        Self { settings, burst_left: 0, black_until: Duration::ZERO }
    }

    /// The delay without jitter.
    pub fn delay(&self) -> Duration {
        self.settings.delay
    }

    /// Loses every datagram until then.
    pub fn black_out(&mut self, until: Duration) {
        self.black_until = until;
    }

    /// No faults from now on.
    pub fn heal(&mut self) {
        self.settings = LinkSettings { delay: self.settings.delay, ..LinkSettings::default() };
        self.burst_left = 0;
        self.black_until = Duration::ZERO;
    }

    /// Decides what happens to one datagram that enters at `now`.
    pub fn transmit(&mut self, random: &mut SmallRng, now: Duration) -> Transmission {
        let settings = &self.settings;
        let mut transmission = Transmission::default();
        if now < self.black_until {
            return transmission;
        }
        let when = |random: &mut SmallRng| settings.delay + settings.jitter.mul_f64(random.random());
        if self.burst_left > 0 {
            self.burst_left -= 1;
        } else if random.random_bool(settings.burst) {
            self.burst_left = random.random_range(1..=settings.burst_len);
        } else if !random.random_bool(settings.loss) {
            let copies = if random.random_bool(settings.duplication) { 2 } else { 1 };
            for _ in 0..copies {
                let damaged = random.random_bool(settings.corruption);
                transmission.copies.push((when(random), damaged));
            }
        }
        if random.random_bool(settings.replay) {
            transmission.replay = Some(when(random));
        }
        if random.random_bool(settings.forgery) {
            transmission.forgery = Some(when(random));
        }
        transmission
    }
}

/// Flips one to three bits, or cuts off the end.
pub fn damage(datagram: &mut Vec<u8>, random: &mut SmallRng) {
    if random.random_bool(0.2) {
        let len = random.random_range(0..datagram.len());
        datagram.truncate(len);
        return;
    }
    let first = random.random_range(0..datagram.len() * 8);
    datagram[first / 8] ^= 1 << (first % 8);
    for _ in 0..random.random_range(0..3) {
        let bit = random.random_range(0..datagram.len() * 8);
        if bit != first {
            datagram[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

/// Random bytes, some of them similar to a datagram for `receiver_index`.
pub fn forge(receiver_index: u32, lane: u8, random: &mut SmallRng) -> Vec<u8> {
    let mut datagram = vec![0; random.random_range(0..200)];
    random.fill(&mut datagram[..]);
    if datagram.len() >= 12 && random.random_bool(0.7) {
        datagram[..4].copy_from_slice(&receiver_index.to_be_bytes());
        datagram[0] = random.random_range(0..8);
        datagram[4] = lane;
        datagram[5..11].fill(0);
    }
    datagram
}
