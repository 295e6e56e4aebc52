//! One direction of an unreliable path: what it does to each datagram is drawn from a seeded generator.
//!
//! It decides and damages; when things arrive is kept by the world.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

/// How bad one direction is.
#[derive(Clone, Debug, Default)]
pub struct LinkSettings {
    /// What every datagram takes.
    pub delay: Duration,
    /// At most so much on top, so that datagrams overtake each other.
    pub jitter: Duration,
    /// Each datagram is lost with this probability.
    pub loss: f64,
    /// A burst of losses begins with this probability.
    pub burst: f64,
    /// At most so many datagrams are lost in a burst.
    pub burst_len: u32,
    /// A datagram arrives twice.
    pub duplication: f64,
    /// Bits of a datagram are flipped, or it is cut short.
    pub corruption: f64,
    /// An attacker sends an old datagram again.
    pub replay: f64,
    /// An attacker sends bytes of its own.
    pub forgery: f64,
}

impl LinkSettings {
    /// A link; a `stormy` one has every fault now and then.
    pub fn random(stormy: bool, random: &mut SmallRng) -> Self {
        // From one room to another continent, each power of ten as likely.
        let delay = Duration::from_micros(20).mul_f64(10f64.powf(random.random_range(0.0..3.0)));
        if !stormy {
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

/// What arrives of one datagram.
#[derive(Debug, Default)]
pub struct Fate {
    /// After how long each copy arrives; `true` if it is damaged.
    pub copies: Vec<(Duration, bool)>,
    /// When an old datagram arrives again.
    pub replay: Option<Duration>,
    /// When a datagram of an attacker's own arrives.
    pub forgery: Option<Duration>,
}

/// One direction with its state.
#[derive(Debug)]
pub struct Link {
    settings: LinkSettings,
    burst_left: u32,
    /// Nothing that enters before this arrives.
    black_until: Duration,
}

impl Link {
    /// A link in its quiet state.
    pub fn new(settings: LinkSettings) -> Self {
        Self { settings, burst_left: 0, black_until: Duration::ZERO }
    }

    /// The delay without jitter.
    pub fn delay(&self) -> Duration {
        self.settings.delay
    }

    /// It swallows everything until then.
    pub fn blacken(&mut self, until: Duration) {
        self.black_until = until;
    }

    /// No faults from now on.
    pub fn heal(&mut self) {
        self.settings = LinkSettings { delay: self.settings.delay, ..LinkSettings::default() };
        self.burst_left = 0;
        self.black_until = Duration::ZERO;
    }

    /// Decides on one datagram that enters at `now`.
    pub fn fate(&mut self, random: &mut SmallRng, now: Duration) -> Fate {
        let settings = &self.settings;
        let mut fate = Fate::default();
        if now < self.black_until {
            return fate;
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
                fate.copies.push((when(random), damaged));
            }
        }
        if random.random_bool(settings.replay) {
            fate.replay = Some(when(random));
        }
        if random.random_bool(settings.forgery) {
            fate.forgery = Some(when(random));
        }
        fate
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

/// Bytes that no sender of ours made, some of them looking much like a datagram for `receiver_index`.
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
