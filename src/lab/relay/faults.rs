//! One direction of a faulty path for notifications: loses, duplicates, delays, replays and forges datagrams.
//!
//! A pure state machine with a seed: no socket, no clock. The forger reads all datagrams and knows the protocol, but
//! not the key.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::{Duration, Instant},
};

use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};
use serde::Serialize;

use crate::notify::{
    envelope::{self, Direction, Envelope, Key},
    message::{Event, Flow, FlowKey, Header, Level, Origin, Positions},
};

/// Recordings kept; a new one replaces a random one, so that some stay from the first run to the last.
const RECORDINGS: usize = 4096;
/// A byte position far beyond what any program has written.
const FORGED_POSITION: u64 = 1 << 40;

/// How often each fault happens to a datagram, as probabilities.
#[derive(Clone, Copy, Debug)]
pub struct FaultPlan {
    /// It is lost.
    pub loss: f64,
    /// It arrives twice.
    pub duplicate: f64,
    /// It is delayed, so that others overtake it.
    pub reorder: f64,
    /// The longest delay.
    pub hold: Duration,
    /// A recorded datagram of any age follows it.
    pub replay: f64,
    /// A forged datagram follows it.
    pub forge: f64,
}

/// How often each fault happened, in datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FaultCounters {
    /// Received.
    pub taken: u64,
    /// Lost.
    pub lost: u64,
    /// Duplicated.
    pub duplicated: u64,
    /// Delayed.
    pub held: u64,
    /// Replayed, recorded in the present run.
    pub replayed: u64,
    /// Replayed, recorded in an earlier run.
    pub replayed_of_earlier_run: u64,
    /// Forged with flipped bits.
    pub flipped: u64,
    /// Forged by truncation.
    pub truncated: u64,
    /// Forged with random bytes after a valid envelope.
    pub garbage: u64,
    /// Forged with a wrong key and a claim of protected bytes.
    pub wrong_key: u64,
    /// Forged with the envelope of one datagram and the messages of another.
    pub spliced: u64,
}

/// One direction of the path.
#[derive(Debug)]
pub struct Faults {
    plan: FaultPlan,
    rng: SmallRng,
    due: BinaryHeap<Reverse<Due>>,
    order: u64,
    run: u32,
    recorded: VecDeque<(u32, Vec<u8>)>,
    /// The flow about which datagrams are forged.
    target: Option<FlowKey>,
    counters: FaultCounters,
}

/// The time at which a datagram leaves, and its number: datagrams with equal times leave in the order of arrival.
type Due = (Instant, u64, Vec<u8>);

impl Faults {
    /// A path with the faults of `plan`, drawn at random from `seed`.
    pub fn new(plan: FaultPlan, seed: u64) -> Self {
        Self {
            plan,
            rng: SmallRng::seed_from_u64(seed),
            due: BinaryHeap::new(),
            order: 0,
            run: 0,
            recorded: VecDeque::new(),
            target: None,
            counters: FaultCounters::default(),
        }
    }

    /// The counters so far.
    pub fn counters(&self) -> FaultCounters {
        self.counters
    }

    /// From now on the existing recordings count as those of an earlier run.
    pub fn on_restart(&mut self) {
        self.run += 1;
    }

    /// Sets the flow about which datagrams are forged.
    pub fn aim(&mut self, target: FlowKey) {
        self.target = Some(target);
    }

    /// Takes a datagram.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Instant) {
        let plan = self.plan;
        self.counters.taken += 1;
        if self.recorded.len() == RECORDINGS {
            let at = self.rng.random_range(0..RECORDINGS);
            self.recorded.swap_remove_back(at);
        }
        self.recorded.push_back((self.run, datagram.to_vec()));
        match self.chance(plan.loss) {
            true => self.counters.lost += 1,
            false => {
                let is_held = self.chance(plan.reorder);
                self.counters.held += u64::from(is_held);
                let hold = if is_held { plan.hold.mul_f64(self.rng.random()) } else { Duration::ZERO };
                self.put(datagram.to_vec(), now + hold);
                if self.chance(plan.duplicate) {
                    self.counters.duplicated += 1;
                    let hold = plan.hold.mul_f64(self.rng.random());
                    self.put(datagram.to_vec(), now + hold);
                }
            }
        }
        if self.chance(plan.replay) {
            let at = self.rng.random_range(0..self.recorded.len());
            let (run, recording) = self.recorded[at].clone();
            match run == self.run {
                true => self.counters.replayed += 1,
                false => self.counters.replayed_of_earlier_run += 1,
            }
            self.put(recording, now);
        }
        if self.chance(plan.forge) {
            let forged = self.forge(datagram);
            self.put(forged, now);
        }
    }

    /// The next datagram that is due.
    pub fn poll_datagram(&mut self, now: Instant) -> Option<Vec<u8>> {
        match self.due.peek() {
            Some(Reverse((at, ..))) if *at <= now => self.due.pop().map(|Reverse((_, _, datagram))| datagram),
            _ => None,
        }
    }

    /// When the next one is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((at, ..))| *at)
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.rng.random_bool(probability)
    }

    fn put(&mut self, datagram: Vec<u8>, at: Instant) {
        self.order += 1;
        self.due.push(Reverse((at, self.order, datagram)));
    }

    fn forge(&mut self, genuine: &[u8]) -> Vec<u8> {
        let mut forged = genuine.to_vec();
        let body = forged.len().min(envelope::LEN);
        match self.rng.random_range(0..5) {
            0 => {
                // An odd number of flips cannot restore the original.
                for _ in 0..1 + 2 * self.rng.random_range(0..2) {
                    let bit = self.rng.random_range(0..forged.len().max(1) * 8);
                    if let Some(byte) = forged.get_mut(bit / 8) {
                        *byte ^= 1 << (bit % 8);
                    }
                }
                self.counters.flipped += 1;
            }
            1 => {
                forged.truncate(self.rng.random_range(0..forged.len().max(1)));
                self.counters.truncated += 1;
            }
            2 => {
                self.rng.fill_bytes(&mut forged[body..]);
                self.counters.garbage += 1;
            }
            3 => {
                let at = self.rng.random_range(0..self.recorded.len());
                let other = &self.recorded[at].1;
                // Four more bytes ensure that the messages differ from the genuine ones.
                forged.truncate(body);
                forged.extend(other.iter().skip(envelope::LEN));
                forged.extend([0; 4]);
                self.counters.spliced += 1;
            }
            _ => {
                forged = self.forge_claim(genuine);
                self.counters.wrong_key += 1;
            }
        }
        forged
    }

    /// Forges a claim that everything is protected, in an envelope that continues the genuine one, sealed with another
    /// key.
    fn forge_claim(&mut self, genuine: &[u8]) -> Vec<u8> {
        let word = |at: usize| {
            let bytes = genuine.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
            u64::from_le_bytes(bytes.unwrap_or_default())
        };
        let is_notification = genuine.get(5) == Some(&1);
        let id = genuine.get(6..8).and_then(|bytes| bytes.try_into().ok()).map_or(1, u16::from_le_bytes);
        let mut forged = vec![0; envelope::LEN];
        if let Some(key) = self.target {
            let positions = Positions {
                queued: Some(FORGED_POSITION),
                early: Some(FORGED_POSITION),
                on_wire: Some(FORGED_POSITION),
                decoded: Some(FORGED_POSITION),
                acked: Some(FORGED_POSITION),
            };
            let flow = Flow {
                key,
                instance: self.rng.random_range(1..64),
                peer: 0,
                event: Event::Protected,
                level: Level::OnWire,
                origin: Origin::Start,
                origin_seq: None,
                positions,
                violated: None,
                packets: None,
                cookie: None,
                block: None,
                survives_burst: 0,
            };
            flow.emit(Header { flags: 0, seq: self.rng.random_range(1..100_000), port: 0 }, &mut forged);
        }
        let envelope = Envelope {
            direction: if is_notification { Direction::Notification } else { Direction::Request },
            key: id,
            sender: word(8),
            receiver: word(16),
            counter: word(24) + 1,
        };
        let key = Key::new(id, b"not the key that they have").expect("the secret is long enough");
        key.seal(&envelope, &mut forged);
        forged
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::envelope::KeyRing;

    const PLAN: FaultPlan =
        FaultPlan { loss: 0.3, duplicate: 0.1, reorder: 0.1, hold: Duration::from_millis(5), replay: 0.2, forge: 0.3 };

    fn sealed(key: &Key, sender: u64, counter: u64) -> Vec<u8> {
        let mut datagram = vec![0; envelope::LEN];
        datagram.extend_from_slice(&counter.to_le_bytes());
        let envelope = Envelope { direction: Direction::Notification, key: 1, sender, receiver: 9, counter };
        key.seal(&envelope, &mut datagram);
        datagram
    }

    fn run(seed: u64) -> (Vec<Vec<u8>>, FaultCounters) {
        let key = Key::new(1, &[7; 32]).unwrap();
        let mut faults = Faults::new(PLAN, seed);
        faults.aim(FlowKey::tcp("10.1.0.1:1".parse().unwrap(), "10.2.0.1:2".parse().unwrap()));
        let mut now = Instant::now();
        let mut left = Vec::new();
        for counter in 0..10_000 {
            if counter == 5000 {
                faults.on_restart();
            }
            now += Duration::from_millis(1);
            faults.handle_datagram(&sealed(&key, 1 + counter / 5000, counter), now);
            left.extend(std::iter::from_fn(|| faults.poll_datagram(now)));
        }
        let end = faults.poll_timeout().map_or(now, |at| at.max(now)) + PLAN.hold;
        left.extend(std::iter::from_fn(|| faults.poll_datagram(end)));
        assert_eq!(faults.poll_timeout(), None);
        (left, faults.counters())
    }

    #[test]
    fn each_fault_happens_as_often_as_planned_and_a_seed_repeats_it() {
        let (left, counters) = run(3);
        assert_eq!(run(3), (left.clone(), counters));
        assert_ne!(run(4).0, left);
        let FaultCounters { taken, lost, duplicated, held, replayed, replayed_of_earlier_run, .. } = counters;
        let forged = counters.flipped + counters.truncated + counters.garbage + counters.wrong_key + counters.spliced;
        let near = |found: u64, wanted: u64| found.abs_diff(wanted) < wanted / 5;
        assert_eq!(taken, 10_000);
        for (found, wanted) in [(lost, 3000), (duplicated, 700), (held, 700), (forged, 3000)] {
            assert!(near(found, wanted), "{counters:?}");
        }
        assert!(near(replayed + replayed_of_earlier_run, 2000) && replayed_of_earlier_run > 200, "{counters:?}");
        let all = taken - lost + duplicated + replayed + replayed_of_earlier_run + forged;
        assert_eq!(left.len() as u64, all);
    }

    #[test]
    fn no_forged_datagram_passes_authentication() {
        let key = Key::new(1, &[7; 32]).unwrap();
        let mut ring = KeyRing::new();
        ring.insert(key.clone()).unwrap();
        let only_forge = FaultPlan { loss: 1.0, duplicate: 0.0, reorder: 0.0, replay: 0.0, forge: 1.0, ..PLAN };
        let mut faults = Faults::new(only_forge, 1);
        let now = Instant::now();
        for counter in 0..2000 {
            faults.handle_datagram(&sealed(&key, 1, counter), now);
            let forged = faults.poll_datagram(now).unwrap();
            assert!(ring.open(Direction::Notification, &forged).is_err());
        }
        assert!(faults.counters().wrong_key > 300 && faults.counters().spliced > 300);
    }
}
