//! The estimator at the end of simulated links, on virtual time. The peer counts as it does in truth.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::Estimator;
use super::link_estimate::LinkEstimate;
use crate::tunnel::datagram_loss::Loss;
use crate::wire::report::{BURST_CLASSES, Extension, LossRun, Reception, Report};

const MS: Duration = Duration::from_millis(1);
const REPORTS_EVERY: Duration = Duration::from_millis(20);
/// The round trip without a queue.
const ROUND_TRIP: Duration = Duration::from_millis(30);

/// A sender, a link and a peer.
struct Link {
    start: Instant,
    /// Time since `start`.
    now: Duration,
    estimator: Estimator,
    peer: Loss,
    /// Reports on their way, with the round trip that they show.
    reports: VecDeque<(Duration, Report, Duration)>,
    report_due: Duration,
    rtt: Duration,
    least: VecDeque<(Duration, Duration)>,
    sent: u64,
    /// How long a datagram waits in the queue of the link now.
    queued: Duration,
    /// One report in this many is lost.
    report_loss: u64,
    tells_runs: bool,
    was_congested: bool,
}

impl Link {
    fn new() -> Self {
        let start = Instant::now();
        Self {
            start,
            now: Duration::ZERO,
            estimator: Estimator::new(start),
            peer: Loss::default(),
            reports: VecDeque::new(),
            report_due: Duration::ZERO,
            rtt: ROUND_TRIP,
            least: VecDeque::new(),
            sent: 0,
            queued: Duration::ZERO,
            report_loss: 7,
            tells_runs: true,
            was_congested: false,
        }
    }

    /// Sends `train` datagrams each `apart`, for `time`. `loses` decides for each.
    fn send(&mut self, time: Duration, apart: Duration, train: u64, mut loses: impl FnMut(&mut Self) -> bool) {
        let until = self.now + time;
        while self.now < until {
            let now = self.start + self.now;
            self.estimator.on_sent(self.sent, train, train * 1400, now);
            for _ in 0..train {
                if !loses(self) {
                    self.peer.on_datagram(self.sent);
                }
                self.sent += 1;
            }
            self.now += apart;
            self.report();
        }
    }

    fn report(&mut self) {
        while self.report_due <= self.now {
            let at = self.report_due;
            self.report_due += REPORTS_EVERY;
            let mut runs = Vec::new();
            if self.tells_runs {
                self.peer.tell_runs(16, &mut runs, self.start + at);
            }
            let sample = ROUND_TRIP + self.queued;
            self.rtt = sample;
            let reception = Reception {
                received: self.peer.received(),
                lost: self.peer.lost(),
                // All is repaired.
                recovered_symbols: self.peer.lost(),
                burst_lengths: self.peer.burst_lengths(),
                ..Reception::default()
            };
            let report = Report {
                sent_at: at.as_micros() as u64 + 1,
                reception,
                extension: self.tells_runs.then(|| Extension { runs, ..Extension::default() }),
                ..Report::default()
            };
            self.least.push_back((at, sample));
            if !report.sent_at.is_multiple_of(self.report_loss) {
                self.reports.push_back((at + ROUND_TRIP / 2, report, self.rtt));
            }
        }
        while self.least.front().is_some_and(|(at, _)| *at + 10_000 * MS < self.now) {
            self.least.pop_front();
        }
        while self.reports.front().is_some_and(|(due, ..)| *due <= self.now) {
            let Some((due, report, rtt)) = self.reports.pop_front() else { return };
            let least = self.least.iter().map(|(_, rtt)| *rtt).min();
            self.estimator.on_report(&report, Some(rtt), least, self.start + due);
            self.was_congested |= self.estimator.is_congested(self.start + due);
        }
    }

    fn estimate(&self) -> LinkEstimate {
        self.estimator.estimate(self.start + self.now)
    }
}

/// A link that is good and bad for times of an exponential distribution.
struct States {
    random: SmallRng,
    good_loss: f64,
    /// Mean times in seconds.
    means: [f64; 2],
    is_bad: bool,
    until: Duration,
}

impl States {
    fn new(seed: u64, good_loss: f64, means: [f64; 2]) -> Self {
        let mut states =
            Self { random: SmallRng::seed_from_u64(seed), good_loss, means, is_bad: true, until: Duration::ZERO };
        states.loses(Duration::ZERO);
        states
    }

    fn loses(&mut self, now: Duration) -> bool {
        while self.until <= now {
            self.is_bad = !self.is_bad;
            let mean = self.means[usize::from(self.is_bad)];
            self.until += Duration::from_secs_f64(-mean * (1.0 - self.random.random::<f64>()).ln());
        }
        self.is_bad || self.random.random::<f64>() < self.good_loss
    }

    fn mean_loss(&self) -> f64 {
        let bad = self.means[1] / (self.means[0] + self.means[1]);
        bad + (1.0 - bad) * self.good_loss
    }
}

fn independent(loss: f64, seed: u64) -> impl FnMut(&mut Link) -> bool {
    let mut random = SmallRng::seed_from_u64(seed);
    move |_| random.random::<f64>() < loss
}

#[test]
fn the_loss_is_below_its_bound_and_near_its_value() {
    for (loss, apart, train) in [(0.0003, 100, 1), (0.01, 1000, 5), (0.05, 10_000, 4)] {
        let mut inside = 0;
        for seed in 0..20 {
            let mut link = Link::new();
            link.send(20_000 * MS, Duration::from_micros(apart), train, independent(loss, seed));
            let found = link.estimate();
            inside += u32::from(found.loss_upper >= loss);
            assert!(found.loss_upper <= loss * 2.0, "seed {seed}: {found:?}");
            assert!(
                found.fit.is_none_or(|fit| fit.bad.is_none()),
                "seed {seed}: bursts of independent losses: {found:?}"
            );
            assert!(!link.was_congested && found.violated_by.is_none(), "seed {seed}: {found:?}");
            assert!(found.age.is_some_and(|age| age <= REPORTS_EVERY * 4), "seed {seed}: {found:?}");
        }
        assert!(inside >= 18, "loss {loss}: {inside} of 20");
    }
}

#[test]
fn the_loss_of_interruptions_is_below_its_bound_and_their_time_is_found() {
    for (good_loss, good, bad, apart, train) in
        [(0.0, 0.3, 0.003, 250, 1), (0.005, 0.5, 0.005, 200, 2), (0.01, 0.4, 0.02, 2000, 4)]
    {
        let (mut inside, mut near, mut violated) = (0, 0, 0);
        for seed in 0..20 {
            let mut states = States::new(seed, good_loss, [good, bad]);
            let loss = states.mean_loss();
            let mut link = Link::new();
            // The first interruption of all violates the model that there are none.
            link.send(80_000 * MS, Duration::from_micros(apart), train, |link| states.loses(link.now));
            let found = link.estimate();
            inside += u32::from(found.loss_upper >= loss);
            let fitted = found.fit.and_then(|fit| fit.bad).map_or(0.0, |bad| bad.as_secs_f64());
            near += u32::from((fitted / bad - 1.0).abs() < 0.3);
            violated += u32::from(found.violated_by.is_some());
            assert!(!link.was_congested, "seed {seed}: no queue: {found:?}");
            assert!(found.fit.is_some_and(|fit| fit.error < 0.2), "seed {seed}: {found:?}");
            assert!(
                found.last_minute.count > 20 && found.last_minute.longest.at_least.as_secs_f64() > bad,
                "{found:?}"
            );
            assert!(found.last_minute.longest.at_least.as_secs_f64() < bad * 14.0, "seed {seed}: {found:?}");
        }
        assert!(inside >= 18 && near >= 18 && violated <= 1, "{bad} s bad: {inside}, {near}, {violated} of 20");
    }
}

#[test]
fn a_run_that_the_fit_does_not_allow_violates_it_for_an_hour() {
    for seed in 0..3 {
        let mut link = Link::new();
        let mut states = States::new(seed, 0.001, [0.3, 0.002]);
        link.send(65_000 * MS, MS / 5, 2, |link| states.loses(link.now));
        assert!(link.estimate().violated_by.is_none(), "seed {seed}: {:?}", link.estimate());
        link.send(300 * MS, MS / 5, 2, |_| true);
        link.send(1_000 * MS, MS / 5, 2, |link| states.loses(link.now));
        let found = link.estimate();
        assert!(found.violated_by.is_some(), "seed {seed}: {found:?}");
        let longest = found.last_minute.longest;
        assert!(longest.at_least >= 299 * MS && longest.at_most <= 330 * MS, "seed {seed}: {longest:?}");
        link.send(62_000 * MS, MS / 5, 2, |link| states.loses(link.now));
        let found = link.estimate();
        assert!(found.violated_by == Some(longest), "seed {seed}: {found:?}");
        assert!(found.last_minute.longest.at_least < 100 * MS, "seed {seed}: {found:?}");
        assert!(found.ever.longest == longest && found.last_hour.longest == longest, "seed {seed}: {found:?}");
        // Silence proves nothing.
        let reported = link.report_due;
        (link.now, link.report_due) = (link.now + 7_200_000 * MS, reported + 7_200_000 * MS);
        link.send(1_000 * MS, MS * 5, 1, |link| states.loses(link.now));
        assert!(link.estimate().violated_by == Some(longest), "seed {seed}: {:?}", link.estimate());
        link.send(3_540_000 * MS, MS * 5, 1, |link| states.loses(link.now));
        let found = link.estimate();
        assert!(found.violated_by.is_none() && found.ever.longest == longest, "seed {seed}: {found:?}");
    }
}

#[test]
fn runs_that_come_again_and_again_become_part_of_the_model() {
    for seed in 0..3 {
        let mut link = Link::new();
        let mut states = States::new(seed, 0.001, [0.3, 0.002]);
        link.send(65_000 * MS, MS / 5, 2, |link| states.loses(link.now));
        // From now on each second has an interruption of 50 ms.
        let mut loses = |link: &mut Link| link.now.as_millis() % 1000 < 50 || states.loses(link.now);
        link.send(2_000 * MS, MS / 5, 2, &mut loses);
        assert!(link.estimate().violated_by.is_some(), "seed {seed}: {:?}", link.estimate());
        link.send(180_000 * MS, MS / 5, 2, &mut loses);
        assert!(link.estimate().violated_by.is_none(), "seed {seed}: {:?}", link.estimate());
    }
}

/// A queue of `most` in front of a link that takes `capacity` datagrams a second.
fn queue(capacity: f64, most: Duration, loss: f64, seed: u64) -> impl FnMut(&mut Link) -> bool {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut last = Duration::ZERO;
    move |link| {
        let waited = link.now - std::mem::replace(&mut last, link.now);
        link.queued = link.queued.saturating_sub(waited);
        let is_full = link.queued + Duration::from_secs_f64(capacity.recip()) > most;
        if !is_full {
            link.queued += Duration::from_secs_f64(capacity.recip());
        }
        is_full || random.random::<f64>() < loss
    }
}

#[test]
fn losses_of_a_full_queue_are_congestion() {
    // The queue is deep, so delay shows it; or shallow, so only the rate does.
    for (most, loss) in [(60, 0.0), (60, 0.01), (2, 0.0), (2, 0.003)] {
        for seed in 0..5 {
            let mut link = Link::new();
            let mut lossy = queue(5000.0, MS * most, loss, seed);
            // Below the capacity nothing is lost for long; the sender then sends a third more than the link takes.
            for _ in 0..4 {
                link.send(3_000 * MS, MS / 2, 1, &mut lossy);
                link.send(1_500 * MS, MS * 3 / 20, 1, &mut lossy);
            }
            assert!(link.estimate().congested, "seed {seed}, {most} ms: {:?}", link.estimator.congestion);
            link.send(12_000 * MS, MS / 2, 1, &mut lossy);
            assert!(!link.estimate().congested, "seed {seed}, {most} ms: {:?}", link.estimator.congestion);
        }
    }
}

#[test]
fn repaired_losses_of_a_full_queue_are_due_to_be_heard_and_those_of_the_link_are_not() {
    let taken = |link: &mut Link| {
        let now = link.start + link.now;
        std::iter::from_fn(|| link.estimator.takes_repaired_loss(now).then_some(())).count()
    };
    for seed in 0..8 {
        let mut link = Link::new();
        let mut rain = independent(0.01, seed);
        link.send(10_000 * MS, MS / 2, 1, &mut rain);
        assert_eq!(taken(&mut link), 0, "seed {seed}: no congestion");
        let mut full = queue(1500.0, 40 * MS, 0.01, seed);
        let (mut due, mut lost) = (0, 0);
        for _ in 0..100 {
            let before = link.peer.lost();
            link.send(100 * MS, MS / 2, 1, &mut full);
            due += taken(&mut link);
            lost += link.peer.lost() - before;
        }
        // A quarter is too much for the queue, a hundredth is what the link always loses.
        let share = due as f64 / lost as f64;
        assert!((0.7..1.0).contains(&share), "seed {seed}: {due} of {lost}");
    }
}

#[test]
fn random_losses_behind_a_full_queue_are_not_held_against_it() {
    let taken = |link: &mut Link| {
        let now = link.start + link.now;
        std::iter::from_fn(|| link.estimator.takes_repaired_loss(now).then_some(())).count()
    };
    for (seed, loss) in (0..4).flat_map(|seed| [0.001, 0.01, 0.05].map(|loss| (seed, loss))) {
        // From the first datagram on the queue is long, and nothing tells what the link loses without it.
        let mut link = Link::new();
        link.queued = 40 * MS;
        let mut rain = independent(loss, seed);
        link.send(10_000 * MS, MS / 8, 1, |link| {
            link.queued = 40 * MS;
            rain(link)
        });
        assert_eq!(taken(&mut link), 0, "seed {seed}, {loss}");
    }
}

#[test]
fn an_overload_without_pause_is_congestion() {
    let mut link = Link::new();
    let mut lossy = queue(5000.0, MS * 50, 0.0, 0);
    link.send(1_000 * MS, MS / 2, 1, &mut lossy);
    for second in 0..60 {
        link.send(1_000 * MS, MS * 3 / 20, 1, &mut lossy);
        assert!(second < 3 || link.estimate().congested, "after {second} s: {:?}", link.estimator.congestion);
    }
}

#[test]
fn a_first_overflow_does_not_hide_the_next_ones() {
    for seed in 0..5 {
        let mut link = Link::new();
        link.send(1_000 * MS, MS / 2, 1, |_| false);
        // Slow start: the queue overflows by hundreds at once.
        link.queued = 40 * MS;
        link.send(60 * MS, MS / 10, 1, |_| true);
        let mut full = queue(5000.0, 40 * MS, 0.0, seed);
        link.send(8_000 * MS, MS * 9 / 50, 1, &mut full);
        assert!(link.estimate().congested, "seed {seed}: {:?}", link.estimator.congestion);
    }
}

#[test]
fn losses_that_do_not_depend_on_delay_and_rate_are_not_congestion() {
    for (loss, jitter) in [(0.01, 0), (0.05, 0), (0.02, 8), (0.05, 4)] {
        for seed in 0..5 {
            let mut link = Link::new();
            let mut random = SmallRng::seed_from_u64(seed);
            let mut lossy = |link: &mut Link| {
                link.queued = MS * random.random_range(0..=jitter);
                random.random::<f64>() < loss
            };
            // The rate changes all the time.
            for turn in 1..60 {
                link.send(1_000 * MS, Duration::from_micros(60 + 400 * (turn * seed % 4)), 1 + turn % 3, &mut lossy);
            }
            assert!(!link.was_congested, "seed {seed}, {loss}, {jitter} ms: {:?}", link.estimator.congestion);
        }
    }
}

#[test]
fn losses_on_a_link_that_is_always_delayed_are_those_that_it_always_has() {
    for seed in 0..2 {
        let mut link = Link::new();
        let mut lossy = independent(0.02, seed);
        link.send(5_000 * MS, MS, 1, &mut lossy);
        // Something else fills the queue, perhaps that of the other direction.
        link.queued = 40 * MS;
        link.send(150_000 * MS, MS / 2, 1, &mut lossy);
        assert!(!link.was_congested, "seed {seed}: {:?}", link.estimator.congestion);
    }
}

#[test]
fn interruptions_at_a_changing_rate_are_not_congestion() {
    for seed in 0..5 {
        let mut link = Link::new();
        let mut states = States::new(seed, 0.001, [0.5, 0.004]);
        for turn in 1..60 {
            link.send(1_000 * MS, Duration::from_micros(60 + 400 * (turn * seed % 4)), 1, |link| {
                states.loses(link.now)
            });
        }
        assert!(!link.was_congested, "seed {seed}: {:?}", link.estimator.congestion);
    }
}

#[test]
fn interruptions_that_always_hit_a_message_are_not_congestion() {
    let mut link = Link::new();
    for message in 0..300 {
        // Between messages only keepalives are sent, and they arrive.
        link.send(150 * MS, 20 * MS, 1, |_| false);
        let lost = message % 3 == 0;
        link.send(10 * MS, 10 * MS, 40, |_| lost);
        assert!(!link.was_congested, "after {message} messages");
    }
}

#[test]
fn an_idle_link_teaches_nothing_and_says_its_age() {
    let mut link = Link::new();
    link.send(30_000 * MS, MS, 10, independent(0.01, 1));
    let before = link.estimate();
    link.now += 600_000 * MS;
    let idle = link.estimate();
    assert_eq!((idle.loss, idle.loss_upper, idle.datagrams), (before.loss, before.loss_upper, before.datagrams));
    assert!(idle.age.is_some_and(|age| age >= 600_000 * MS) && idle.datagrams_per_second < 1e-3, "{idle:?}");
    assert!(before.datagrams_per_second > 9_500.0 && before.bytes_per_second > 9_500.0 * 1400.0, "{before:?}");
}

#[test]
fn a_peer_of_an_earlier_release_gives_the_loss_and_no_times() {
    let mut link = Link::new();
    link.tells_runs = false;
    let mut states = States::new(3, 0.001, [0.3, 0.01]);
    link.send(20_000 * MS, MS, 4, |link| states.loses(link.now));
    let found = link.estimate();
    assert!(found.loss > 0.01 && found.run_classes.iter().sum::<f64>() > 20.0, "{found:?}");
    assert_eq!((found.fit, found.ever.count), (None, 0));
}

#[test]
fn a_new_session_of_the_peer_does_not_confuse_runs() {
    let mut link = Link::new();
    link.send(5_000 * MS, MS, 1, independent(0.0, 0));
    // The counts begin again; the report that names a run of the earlier session comes late.
    let at = link.start + link.now;
    let report = |first| {
        let runs = vec![LossRun { first, length: 30 }];
        Report { sent_at: 9_000_000, extension: Some(Extension { runs, ..Extension::default() }), ..Report::default() }
    };
    link.estimator.on_sent(0, 100, 1000, at);
    link.estimator.on_report(&report(4000), None, None, at);
    assert_eq!(link.estimate().ever.count, 0);
    link.estimator.on_sent(100, 1, 10, at + 5 * MS);
    for _ in 0..3 {
        link.estimator.on_report(&report(10), None, None, at);
    }
    assert_eq!(link.estimate().ever.count, 1, "each run counts once");
}

/// Any report at all.
fn any_report() -> impl Strategy<Value = Report> {
    let number = || prop_oneof![any::<u64>(), 0u64..2000, Just(u64::MAX), Just(0)];
    let run = (number(), any::<u32>(), 0u32..32)
        .prop_map(|(first, length, shift)| LossRun { first, length: length >> shift });
    let runs = prop::collection::vec(run, 0..40);
    let counts = (number(), number(), prop::array::uniform8(number()));
    (number(), counts, prop::option::of(runs)).prop_map(|(sent_at, (received, lost, burst_lengths), runs)| Report {
        sent_at,
        reception: Reception { received, lost, burst_lengths, ..Reception::default() },
        extension: runs.map(|runs| Extension { runs, ..Extension::default() }),
        ..Report::default()
    })
}

/// No number is out of its range.
fn assert_sound(found: &LinkEstimate, sent: f64) {
    assert!((0.0..=1.0).contains(&found.loss) && (found.loss..=1.0).contains(&found.loss_upper), "{found:?}");
    assert!((0.0..=sent).contains(&found.datagrams) && (0.0..=found.datagrams).contains(&found.lost), "{found:?}");
    assert!(found.clumping >= 1.0 && found.clumping.is_finite(), "{found:?}");
    assert!(
        found.run_classes.len() == BURST_CLASSES && found.run_classes.iter().all(|runs| (0.0..=sent).contains(runs))
    );
    assert!(found.datagrams_per_second.is_finite() && found.bytes_per_second.is_finite(), "{found:?}");
    if let Some(fit) = found.fit {
        assert!((0.0..=1.0).contains(&fit.error) && (0.0..=1.0).contains(&fit.link.mean_loss()), "{found:?}");
    }
}

proptest! {
    #[test]
    fn no_report_makes_an_unsound_estimate(
        steps in prop::collection::vec(
            (any_report(), prop::option::of((any::<u64>(), 0u64..100, any::<u64>())), 0u64..100_000, any::<[u32; 2]>()), 1..60
        ),
        epoch in 0usize..60,
    ) {
        let start = Instant::now();
        let mut estimator = Estimator::new(start);
        let mut now = start;
        let (mut sent, mut counter) = (0.0, 0);
        for (step, (report, jump, millis, [rtt, least])) in steps.into_iter().enumerate() {
            now += MS * millis as u32;
            let (first, datagrams, bytes) = jump.unwrap_or((counter, 20, 20_000));
            estimator.on_sent(first, datagrams, bytes, now);
            counter = first.wrapping_add(datagrams) % 5000;
            sent += datagrams as f64;
            if step == epoch {
                estimator.on_new_epoch(now);
            }
            let [rtt, least] = [rtt, least].map(|micros| Some(Duration::from_micros(micros.into())));
            estimator.on_report(&report, rtt, least, now);
            assert_sound(&estimator.estimate(now), sent);
        }
    }
}
