//! How much work requests may cause: token buckets, on the caller's clock.
//!
//! A turn of the publisher is a turn of the lane that carries packets. The work is bounded in each turn, over time, for
//! each subscriber and for all together, so that no number of subscribers can delay the lane.
//!
//! No subscriber loses by the requests of another:
//!
//! - renewals are paid from the subscriber's own share only;
//! - requests to the appliance are paid from a share of all, and when that is empty from the subscriber's own;
//! - pages wait, take turns of a few datagrams each, and are paid for when they are sent;
//! - newcomers (senders without a subscription) are counted by address and port and by key: they have proven nothing
//!   else.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::envelope::MAX_KEYS;

/// Page work is one unit for each message, the end included, and one for this many entries looked at.
pub const LOOKED_AT: u32 = 16;

/// Pages, all subscribers together: 64,000 messages a second.
const PAGES: Rate = Rate { each: Duration::from_nanos(15_625), burst: 32_000 };
/// Pages of one subscriber: the largest table, 65,536 flows, is sent in less than two seconds.
const PAGES_OF_ONE: Rate = Rate { each: Duration::from_nanos(31_250), burst: 24_000 };
/// Pages in one turn: more than its datagrams can hold, unless filters skip many entries.
const PAGES_IN_A_TURN: u32 = 2048;
/// Waiting pages continue when this much work is earned: the lane does not wake up for each message.
const PAGES_AT_ONCE: u32 = 64;
/// Requests to the appliance, all subscribers together.
const ASKS: Rate = Rate { each: Duration::from_micros(250), burst: 4096 };
/// Requests to the appliance that one subscriber may make whatever the others do; refused requests count, too.
const ASKS_OF_ONE: Rate = Rate { each: Duration::from_millis(10), burst: 128 };
/// Renewals of one subscriber. The shortest lease is half a second. A renewal is due each quarter of it, repeated each
/// 40 ms over a bad path: at most 25 a second are needed.
const RENEWALS: Rate = Rate { each: Duration::from_millis(10), burst: 128 };
/// Newcomers at one address and port; each needs two answers.
const NEWCOMERS_AT_ONE: Rate = Rate { each: Duration::from_millis(60), burst: 16 };
/// Newcomers with one key. When the appliance restarts, all subscribers with a key come at once.
const NEWCOMERS_OF_KEY: Rate = Rate { each: Duration::from_millis(2), burst: 512 };
/// Buckets that the addresses and ports of newcomers with one key share.
const PLACES: usize = 256;

/// A rate and the burst that it allows.
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// The time in which one unit is earned.
    each: Duration,
    burst: u32,
}

/// A token bucket. It stores the time at which it will be full again: exact, and without updates while it is unused.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    whole: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Bucket {
        Bucket { rate, whole: now }
    }

    /// With an eighth of the burst: ending a subscription and beginning it again must gain nothing.
    fn begun(rate: Rate, now: Instant) -> Bucket {
        Bucket { rate, whole: now + rate.each * (rate.burst - rate.burst / 8) }
    }

    fn has(&self, wanted: u32, now: Instant) -> bool {
        self.whole + self.rate.each * wanted <= now + self.rate.each * self.rate.burst
    }

    /// May take more than is left: then the bucket needs longer to earn the next unit.
    fn spend(&mut self, spent: u32, now: Instant) {
        self.whole = self.whole.max(now) + self.rate.each * spent;
    }

    fn take(&mut self, now: Instant) -> bool {
        let has = self.has(1, now);
        if has {
            self.spend(1, now);
        }
        has
    }

    /// When `wanted` units are there, if none is spent until then.
    fn when(&self, wanted: u32, now: Instant) -> Instant {
        let spare = self.rate.each * self.rate.burst.saturating_sub(wanted);
        self.whole.checked_sub(spare).map_or(now, |at| at.max(now))
    }
}

/// The own buckets of one subscriber.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pages: Bucket,
    asks: Bucket,
    renewals: Bucket,
}

impl Share {
    /// The share of a new subscription.
    pub fn new(now: Instant) -> Share {
        Share {
            pages: Bucket::full(PAGES_OF_ONE, now),
            asks: Bucket::begun(ASKS_OF_ONE, now),
            renewals: Bucket::begun(RENEWALS, now),
        }
    }

    /// Takes one renewal; false when none is left.
    pub fn take_renewal(&mut self, now: Instant) -> bool {
        self.renewals.take(now)
    }
}

/// The newcomers with one key.
#[derive(Debug)]
struct Newcomers {
    key: u16,
    all: Bucket,
    /// Other keys have their own places: a sender with made-up addresses can use up all places of its key.
    places: Vec<Bucket>,
}

/// The buckets of all subscribers together.
#[derive(Debug)]
pub struct Allowance {
    pages: Bucket,
    /// Page work left in this turn.
    turn: u32,
    asks: Bucket,
    newcomers: Vec<Newcomers>,
    /// Hides which addresses share a bucket.
    secret: [u8; 32],
}

impl Allowance {
    /// `secret` is the publisher's.
    pub fn new(secret: &[u8; 32], now: Instant) -> Allowance {
        Allowance {
            pages: Bucket::full(PAGES, now),
            turn: PAGES_IN_A_TURN,
            asks: Bucket::full(ASKS, now),
            newcomers: Vec::with_capacity(MAX_KEYS),
            secret: *secret,
        }
    }

    /// Another turn begins.
    pub fn begin_turn(&mut self) {
        self.turn = PAGES_IN_A_TURN;
    }

    /// No more of any page may be sent in this turn.
    pub fn is_spent(&self, now: Instant) -> bool {
        self.turn == 0 || !self.pages.has(1, now)
    }

    /// Whether part of a page may be sent to the subscriber with this share.
    pub fn may_send(&self, share: &Share, now: Instant) -> bool {
        !self.is_spent(now) && share.pages.has(1, now)
    }

    /// `work` units of a page were sent.
    pub fn on_sent(&mut self, share: &mut Share, work: u32, now: Instant) {
        self.turn = self.turn.saturating_sub(work);
        self.pages.spend(work, now);
        share.pages.spend(work, now);
    }

    /// When pages for the subscriber with this share continue.
    pub fn when_sent(&self, share: &Share, now: Instant) -> Instant {
        match self.pages.has(1, now) && share.pages.has(1, now) {
            // Only the limit of this turn is reached.
            true => now,
            false => self.pages.when(PAGES_AT_ONCE, now).max(share.pages.when(PAGES_AT_ONCE, now)),
        }
    }

    /// Takes one request to the appliance for the subscriber with this share; false when none is left.
    pub fn take_ask(&mut self, share: &mut Share, now: Instant) -> bool {
        // The own share comes last: it is for times when others leave nothing.
        self.asks.take(now) || share.asks.take(now)
    }

    /// Whether a sender without a subscription may be answered.
    pub fn take_newcomer(&mut self, address: SocketAddr, key: u16, now: Instant) -> bool {
        let mut hasher = DefaultHasher::new();
        (self.secret, address.ip().to_canonical(), address.port()).hash(&mut hasher);
        // There are at most as many keys as the ring holds: every sender here has sealed with one.
        let at = self.newcomers.iter().position(|newcomers| newcomers.key == key).unwrap_or_else(|| {
            let places = vec![Bucket::full(NEWCOMERS_AT_ONE, now); PLACES];
            self.newcomers.push(Newcomers { key, all: Bucket::full(NEWCOMERS_OF_KEY, now), places });
            self.newcomers.len() - 1
        });
        let Newcomers { all, places, .. } = &mut self.newcomers[at];
        // A place that asks too often takes nothing from other places with its key.
        places[(hasher.finish() % PLACES as u64) as usize].take(now) && all.take(now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The reference model of a bucket, in nanoseconds of earning.
    struct Model {
        left: i128,
        at: Instant,
    }

    impl Model {
        fn earn(&mut self, rate: Rate, now: Instant) {
            let full = i128::from(rate.burst) * rate.each.as_nanos() as i128;
            self.left = full.min(self.left + (now - self.at).as_nanos() as i128);
            self.at = now;
        }
    }

    proptest! {
        #[test]
        fn a_bucket_equals_its_reference_model(
            steps in prop::collection::vec((0u64..5_000, 1u32..40, any::<bool>()), 1..400)
        ) {
            let rate = Rate { each: Duration::from_micros(100), burst: 50 };
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::full(rate, start);
            let each = rate.each.as_nanos() as i128;
            let mut model = Model { left: each * 50, at: start };
            let mut taken = 0;
            for (micros, wanted, in_debt) in steps {
                now += Duration::from_micros(micros);
                model.earn(rate, now);
                let enough = model.left >= each * i128::from(wanted);
                prop_assert_eq!(bucket.has(wanted, now), enough);
                let when = bucket.when(wanted, now);
                prop_assert!(bucket.has(wanted, when));
                prop_assert!(when == now || !bucket.has(wanted, when - Duration::from_nanos(1)));
                // Pages are paid for afterwards, everything else before.
                if in_debt && bucket.has(1, now) || enough {
                    bucket.spend(wanted, now);
                    model.left -= each * i128::from(wanted);
                    taken += i128::from(wanted);
                }
                let earned = (now - start).as_nanos() as i128 / each;
                prop_assert!(taken <= 50 + earned + 40, "{} after {:?}", taken, now - start);
            }
        }
    }

    #[test]
    fn a_new_bucket_has_an_eighth_of_the_burst() {
        let now = Instant::now();
        let mut bucket = Bucket::begun(RENEWALS, now);
        assert_eq!((0..200).filter(|_| bucket.take(now)).count(), 16);
        let later = now + RENEWALS.each * 1000;
        assert_eq!((0..200).filter(|_| bucket.take(later)).count(), 128);
    }

    #[test]
    fn requests_of_others_leave_each_subscriber_its_own_share() {
        let start = Instant::now();
        let mut all = Allowance::new(&[1; 32], start);
        let (mut loud, mut quiet) = (Share::new(start), Share::new(start));
        for millis in 0..10_000 {
            let now = start + Duration::from_millis(millis);
            (0..100).filter(|_| all.take_ask(&mut loud, now)).for_each(|_| {});
            if millis % 20 == 0 {
                assert!(all.take_ask(&mut quiet, now), "{millis}");
            }
            assert!(millis % 10 != 0 || quiet.take_renewal(now), "{millis}");
        }
    }

    #[test]
    fn newcomers_are_counted_by_place_and_by_key() {
        let start = Instant::now();
        let mut all = Allowance::new(&[1; 32], start);
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        let mut count =
            |ports: std::ops::Range<u16>, key, now| ports.filter(|port| all.take_newcomer(at(*port), key, now)).count();
        assert_eq!((0..1000).map(|_| count(1..2, 1, start)).sum::<usize>(), 16, "one place");
        assert_eq!(count(2..3, 1, start), 1, "another place");
        assert_eq!(count(0..5000, 1, start), 512 - 17, "all places with a key");
        assert_eq!(count(5000..5001, 2, start + Duration::from_secs(1)), 1, "another key");
    }
}
