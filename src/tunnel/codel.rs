//! CoDel (RFC 8289): which packets tell their senders that a queue stands.
//!
//! A queue that a burst fills and that drains again does no harm. A queue that stays only adds delay: its senders must
//! slow down. So CoDel looks at how long packets wait. When all of them have waited for [`TARGET`] or longer during one
//! [`INTERVAL`], one packet is picked; while that lasts, the next ones are picked at intervals that shrink with the
//! square root of their number, which lowers the rate of TCP linearly.
//!
//! RFC 8289 judges a packet when it leaves. Here it is judged when it is read: the rate of the path is known, so its wait
//! is known too, and a packet that is not put into a block needs no repair symbols. What happens to a packet that is
//! picked is decided elsewhere: it is marked, or dropped.

use std::time::{Duration, Instant};

/// The wait that a queue may have for long.
pub const TARGET: Duration = Duration::from_millis(5);
/// How long the wait may be longer: a round trip of a sender that is to be heard.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// After a pause of this many intervals the rate of picking is learned anew.
const REMEMBERED: u32 = 16;

/// The control law for one queue.
#[derive(Debug)]
pub struct Codel {
    target: Duration,
    /// When the wait will have been long for one interval; `None` while it is short.
    standing_at: Option<Instant>,
    /// The queue stands, and packets are picked.
    picking: bool,
    /// When the next packet is picked, or would have been.
    next: Option<Instant>,
    /// Packets picked since the queue stands, less what was forgotten.
    count: u32,
    /// `count` when it began to stand.
    first_count: u32,
}

impl Codel {
    /// For a queue that may hold packets for `longest`; the target is below that.
    pub fn new(longest: Duration) -> Self {
        Self {
            target: TARGET.min(longest / 2),
            standing_at: None,
            picking: false,
            next: None,
            count: 0,
            first_count: 0,
        }
    }

    /// A packet will wait for `wait`. Returns whether it is picked.
    pub fn on_packet(&mut self, wait: Duration, now: Instant) -> bool {
        let stands = if wait < self.target {
            self.standing_at = None;
            false
        } else {
            *self.standing_at.get_or_insert(now + INTERVAL) <= now
        };
        match (stands, self.picking) {
            (false, _) => {
                self.picking = false;
                false
            }
            (true, true) => {
                let Some(next) = self.next.filter(|&next| next <= now) else { return false };
                self.count = self.count.saturating_add(1);
                self.next = Some(next + spacing(self.count));
                true
            }
            (true, false) => {
                self.picking = true;
                // If it stood a moment ago, the rate of picking that ended that was about right.
                let before = self.count - self.first_count;
                let was_recent =
                    self.next.is_some_and(|next| now.saturating_duration_since(next) < INTERVAL * REMEMBERED);
                self.count = if before > 1 && was_recent { before } else { 1 };
                self.first_count = self.count;
                self.next = Some(now + spacing(self.count));
                true
            }
        }
    }

    /// With this wait the queue is one that stands, not one that a burst has filled.
    pub fn stands(&self, wait: Duration, now: Instant) -> bool {
        wait >= self.target && self.standing_at.is_some_and(|at| at <= now)
    }
}

/// The interval to the next pick after `count` of them.
fn spacing(count: u32) -> Duration {
    INTERVAL.div_f64(f64::from(count.max(1)).sqrt())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// A queue that drains at a fixed rate, in front of it `codel`.
    struct Queue {
        codel: Codel,
        /// How long a packet occupies the link.
        cost: Duration,
        empty_at: Instant,
    }

    impl Queue {
        fn new(cost: Duration, now: Instant) -> Self {
            Self { codel: Codel::new(Duration::from_secs(1)), cost, empty_at: now }
        }

        fn wait(&self, now: Instant) -> Duration {
            self.empty_at.saturating_duration_since(now)
        }

        /// Offers a packet; `Err` if it is picked and dropped, else when it has left.
        fn offer(&mut self, now: Instant) -> Result<Instant, ()> {
            if self.codel.on_packet(self.wait(now), now) {
                return Err(());
            }
            self.empty_at = self.empty_at.max(now) + self.cost;
            Ok(self.empty_at)
        }
    }

    /// What a sender hears one round trip after it sent.
    enum Answer {
        Arrived,
        Lost,
    }

    /// A sender that grows its window by one packet a round trip and halves it for a loss, at most once a round trip
    /// (RFC 5681, without slow start), over a queue of `cost` a packet. Returns the waits of its packets in the last
    /// half of `time`, and the share of the link that it used.
    fn run(
        cost: Duration,
        round_trip: Duration,
        time: Duration,
        start: Instant,
        with_codel: bool,
    ) -> (Vec<Duration>, f64) {
        let (mut queue, mut window, mut in_flight) = (Queue::new(cost, start), 10.0f64, 0.0);
        let (mut heard, mut deaf_until): (VecDeque<(Instant, Answer)>, _) = (VecDeque::new(), start);
        let (mut waits, mut sent, mut now) = (Vec::new(), 0, start);
        while now < start + time {
            while heard.front().is_some_and(|(at, _)| *at <= now) {
                let (_, what) = heard.pop_front().unwrap();
                in_flight -= 1.0;
                match what {
                    Answer::Arrived => window += 1.0 / window,
                    Answer::Lost if now >= deaf_until => {
                        window = (window / 2.0).max(2.0);
                        deaf_until = now + round_trip + queue.wait(now);
                    }
                    Answer::Lost => {}
                }
            }
            while in_flight < window {
                in_flight += 1.0;
                if now > start + time / 2 {
                    waits.push(queue.wait(now));
                }
                let wait = queue.wait(now);
                let outcome = if with_codel {
                    queue.offer(now)
                } else {
                    queue.empty_at = queue.empty_at.max(now) + cost;
                    Ok(queue.empty_at)
                };
                match outcome {
                    Ok(left) => {
                        sent += u32::from(now > start + time / 2);
                        heard.push_back((left + round_trip, Answer::Arrived));
                    }
                    Err(()) => heard.push_back((now + wait + round_trip, Answer::Lost)),
                }
            }
            let next = heard.front().map_or(now + MS, |(at, _)| *at);
            now = next.max(now + Duration::from_micros(1));
        }
        (waits, f64::from(sent) * cost.as_secs_f64() / (time / 2).as_secs_f64())
    }

    #[test]
    fn a_sender_that_would_fill_any_queue_is_held_near_the_target_and_uses_the_link() {
        for (cost, round_trip) in [(MS / 4, 20 * MS), (MS, 40 * MS), (MS / 2, 50 * MS)] {
            let (start, time) = (Instant::now(), Duration::from_secs(40));
            let (mut waits, used) = run(cost, round_trip, time, start, true);
            waits.sort();
            let median = waits[waits.len() / 2];
            assert!(median < 2 * TARGET, "median wait {median:?} at {cost:?} a packet, {round_trip:?}");
            assert!(used > 0.7, "{used} of the link at {cost:?} a packet, {round_trip:?}");
            let (mut unbounded, _) = run(cost, round_trip, time, start, false);
            unbounded.sort();
            assert!(unbounded[unbounded.len() / 2] > 4 * TARGET, "without CoDel the queue stands");
        }
    }

    #[test]
    fn packets_are_picked_faster_while_the_queue_stands() {
        let (start, mut codel) = (Instant::now(), Codel::new(Duration::from_secs(1)));
        let picked: Vec<u128> =
            (0..1000).filter(|&ms| codel.on_packet(20 * MS, start + ms * MS)).map(u128::from).collect();
        // The first after one interval; then 100 / sqrt(n) ms apart.
        let mut expected = vec![100.0, 200.0];
        for count in 2..30u32 {
            expected.push(expected.last().unwrap() + 100.0 / f64::from(count).sqrt());
        }
        assert!(picked.len() > 15);
        for (number, (&at, expected)) in picked.iter().zip(expected).enumerate() {
            assert!((at as f64 - expected).abs() <= 1.0, "pick {number} at {at} ms, not {expected}");
        }
    }

    #[test]
    fn the_rate_of_picking_is_remembered_for_a_while_only() {
        for (pause, remembers) in [(200u32, true), (5000, false)] {
            let (start, mut codel) = (Instant::now(), Codel::new(Duration::from_secs(1)));
            (0..1000u32).for_each(|ms| _ = codel.on_packet(20 * MS, start + ms * MS));
            codel.on_packet(Duration::ZERO, start + 1000 * MS);
            let begin = start + (1000 + pause) * MS;
            let picked = (0..300u32).filter(|&ms| codel.on_packet(20 * MS, begin + ms * MS)).count();
            assert_eq!(picked > 4, remembers, "{picked} picked in 200 ms after a pause of {pause} ms");
        }
    }

    #[test]
    fn the_target_is_below_the_longest_wait() {
        let (now, mut codel) = (Instant::now(), Codel::new(2 * MS));
        let wait = Duration::from_micros(1500);
        codel.on_packet(wait, now);
        assert!(!codel.stands(wait, now));
        assert!(codel.stands(wait, now + INTERVAL) && !codel.stands(MS / 2, now + INTERVAL));
        assert!(codel.on_packet(wait, now + INTERVAL));
    }

    proptest! {
        #[test]
        fn a_burst_shorter_than_the_interval_is_not_touched(
            bursts in prop::collection::vec((0u32..95, 1usize..300, 0u32..50), 1..20),
        ) {
            // A burst drains in less than an interval; the next begins when it has drained.
            let mut now = Instant::now();
            let mut queue = Queue::new(MS / 4, now);
            for (spread, packets, pause) in bursts {
                let step = MS * spread / packets as u32;
                let begin = now;
                for _ in 0..packets {
                    if (queue.empty_at.max(now) + queue.cost).saturating_duration_since(begin) > INTERVAL {
                        break;
                    }
                    prop_assert!(queue.offer(now).is_ok());
                    now += step;
                }
                now = now.max(queue.empty_at) + pause * MS;
            }
        }

        #[test]
        fn no_packet_is_picked_that_waits_less_than_the_target(
            steps in prop::collection::vec((0u64..30_000, 0u64..20_000), 1..400),
        ) {
            let (mut now, mut codel) = (Instant::now(), Codel::new(Duration::from_secs(1)));
            // The model: since when every packet has waited for the target or longer.
            let mut long_since: Option<Instant> = None;
            for (pause, wait) in steps {
                now += Duration::from_micros(pause);
                let wait = Duration::from_micros(wait);
                long_since = if wait < TARGET { None } else { long_since.or(Some(now)) };
                let may = long_since.is_some_and(|since| now - since >= INTERVAL);
                let picked = codel.on_packet(wait, now);
                prop_assert!(may || !picked);
                prop_assert_eq!(codel.stands(wait, now), may);
            }
        }
    }
}
