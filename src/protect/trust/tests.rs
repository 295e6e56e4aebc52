//! The rules of trust, and trust against an attacker on the path who delays, holds, reorders and drops datagrams.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::tunnel::reporting::{Reporting, WHILE_ACTIVE};
use crate::wire::report::Report;

const RTT: Duration = Duration::from_millis(10);
const STEP: Duration = Duration::from_millis(20);

/// A link that is checked every 20 ms, as a lane does.
struct Link {
    trust: Trust,
    now: Instant,
}

impl Link {
    fn new() -> Self {
        Self { trust: Trust::new(TRUST_MAX), now: Instant::now() }
    }

    /// Lets time pass, with or without proofs; returns how long the link was trusted.
    fn pass(&mut self, time: Duration, is_good: bool) -> Duration {
        let end = self.now + time;
        let mut trusted = Duration::ZERO;
        while self.now < end {
            self.now += STEP;
            if is_good {
                self.trust.on_proof(Some(self.now - RTT), Some(RTT), self.now);
            }
            trusted += if self.trust.holds(self.now) { STEP } else { Duration::ZERO };
        }
        trusted
    }
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

#[test]
fn a_proof_is_valid_for_three_least_round_trips_between_the_floor_and_the_cap() {
    for (max, rtt, life) in
        [(600, 0, 100), (600, 30, 100), (600, 50, 150), (600, 200, 600), (600, 3000, 600), (100, 99, 100)]
    {
        let mut link = Link { trust: Trust::new(ms(max)), ..Link::new() };
        let mut proven_at = link.now;
        for _ in 0..3 {
            link.now += STEP;
            proven_at = link.now;
            link.trust.on_proof(Some(proven_at), Some(ms(rtt)), link.now);
        }
        assert!(link.trust.holds(proven_at + ms(life)), "{rtt} ms");
        assert_eq!(link.trust.deadlines(), [Some(proven_at + ms(life) + Duration::from_micros(1)), None]);
        assert!(!link.trust.holds(proven_at + ms(life) + Duration::from_micros(1)), "{rtt} ms");
    }
}

#[test]
fn trust_needs_three_proofs() {
    let mut link = Link::new();
    for (proofs, is_trusted) in [(1, false), (2, false), (3, true)] {
        link.now += STEP;
        link.trust.on_proof(Some(link.now - RTT), Some(RTT), link.now);
        assert_eq!(link.trust.holds(link.now), is_trusted, "{proofs}");
        // The same proof again does not count.
        link.trust.on_proof(Some(link.now - RTT), Some(RTT), link.now);
        assert_eq!(link.trust.holds(link.now), is_trusted, "{proofs}");
    }
}

#[test]
fn proofs_with_a_gap_between_them_do_not_add_up() {
    let mut link = Link::new();
    for _ in 0..10 {
        link.pass(STEP * 2, true);
        assert_eq!(link.pass(ms(200), false), Duration::ZERO);
    }
    assert!(!link.trust.holds(link.now));
}

#[test]
fn queued_reports_that_have_expired_restore_no_trust() {
    let mut link = Link::new();
    link.pass(ms(200), true);
    let held = link.now;
    link.pass(ms(800), false);
    for written in 0..100 {
        link.trust.on_proof(Some(held + ms(written)), Some(RTT), link.now);
        assert!(!link.trust.holds(link.now));
    }
}

#[test]
fn a_new_path_or_a_new_run_of_the_peer_must_be_proven() {
    let mut link = Link::new();
    for (is_moved, trusted_after) in [(false, STEP * 3), (true, STEP * 6), (true, STEP * 11), (false, STEP * 11)] {
        link.pass(ms(900), true);
        for _ in 0..3 {
            link.now += STEP;
            link.trust.on_proof(Some(link.now), Some(ms(190)), link.now);
        }
        assert!(link.trust.holds(link.now));
        match is_moved {
            true => link.trust.on_new_path(link.now),
            false => link.trust.on_new_run(),
        }
        assert!(!link.trust.holds(link.now));
        assert_eq!(link.trust.life(), PROOF_FLOOR, "its round trip is unknown, too");
        assert_eq!(link.pass(trusted_after - STEP, true), Duration::ZERO, "{is_moved}");
        assert_eq!(link.pass(STEP, true), STEP, "{is_moved}");
    }
}

#[test]
fn a_link_that_comes_and_goes_is_trusted_later_each_time_and_finally_never() {
    let mut link = Link::new();
    let mut trusted = Vec::new();
    for _ in 0..8 {
        let on = link.pass(ms(300), true);
        trusted.push(on + link.pass(ms(300), false));
    }
    assert!(trusted.windows(2).all(|pair| pair[0] > pair[1] || pair[1].is_zero()), "{trusted:?}");
    assert!(!trusted[0].is_zero() && trusted[4..].iter().all(Duration::is_zero), "{trusted:?}");
}

#[test]
fn the_deadline_is_the_time_when_trust_returns() {
    let mut link = Link::new();
    link.pass(ms(200), true);
    link.pass(ms(300), false);
    let returns = link.now + STEP + PROBATION;
    assert_eq!(link.pass(PROBATION, true), Duration::ZERO);
    assert_eq!(link.trust.deadlines()[1], Some(returns));
    assert!(!link.trust.holds(returns - ms(1)));
    assert!(link.trust.holds(returns));
    assert_eq!(link.trust.deadlines()[1], None);
}

#[test]
fn trust_returns_within_two_seconds_and_ten_trusted_seconds_halve_the_probation() {
    let mut link = Link::new();
    for _ in 0..20 {
        assert!(link.pass(PROBATION_MAX + ms(200), true) >= ms(100));
        link.pass(ms(300), false);
        assert!(!link.trust.holds(link.now));
    }
    assert_eq!(link.trust.probation, PROBATION_MAX);
    for (seconds, probation) in [(12, 2000), (22, 1000), (32, 250), (62, 100), (3, 200)] {
        link.pass(PROBATION_MAX + Duration::from_secs(seconds), true);
        link.pass(ms(300), false);
        assert!(!link.trust.holds(link.now));
        assert_eq!(link.trust.probation, ms(probation), "after {seconds} s");
    }
}

#[test]
fn the_first_proof_after_a_standstill_starts_a_new_count() {
    let mut link = Link::new();
    link.pass(ms(200), true);
    link.now += ms(400);
    for is_trusted in [false, false, true] {
        link.trust.on_proof(Some(link.now - RTT), Some(RTT), link.now);
        assert_eq!(link.trust.holds(link.now), is_trusted);
        link.now += STEP;
    }
}

#[test]
fn a_standstill_of_the_host_ends_trust_but_adds_no_probation() {
    let mut link = Link::new();
    for _ in 0..10 {
        assert!(link.pass(ms(200), true) >= ms(140), "three proofs are enough");
        let written = link.now;
        link.now += ms(400);
        link.trust.on_proof(Some(written), Some(RTT), link.now);
        assert!(!link.trust.holds(link.now), "a report that waited in the socket is as old as the standstill");
    }
    assert_eq!(link.trust.probation, Duration::ZERO);
}

/// The attacker's behaviour in one direction for a while.
#[derive(Clone, Copy, Debug)]
enum AttackerAction {
    Pass,
    Delay(Duration),
    /// All reports leave at the end, perhaps in reverse order.
    Hold {
        reversed: bool,
    },
    Swallow,
}

/// One direction: the reports under way, with their departure time and their order at that time.
#[derive(Default)]
struct Direction {
    mood: Option<(AttackerAction, Instant)>,
    under_way: Vec<(Instant, i64, Report)>,
    taken: i64,
}

impl Direction {
    fn take(&mut self, report: Report, base: Duration, random: &mut SmallRng, now: Instant) {
        let (mood, until) = match self.mood {
            Some((mood, until)) if until > now => (mood, until),
            _ => {
                let mood = match random.random_range(0..6) {
                    0..=2 => AttackerAction::Pass,
                    3 => AttackerAction::Delay(ms(random.random_range(0..1500))),
                    4 => AttackerAction::Hold { reversed: random.random() },
                    _ => AttackerAction::Swallow,
                };
                (mood, now + ms(random.random_range(20..3000)))
            }
        };
        self.mood = Some((mood, until));
        self.taken += 1;
        let (at, place) = match mood {
            AttackerAction::Pass => (now + base, self.taken),
            AttackerAction::Delay(most) => (now + base + most.mul_f64(random.random()), self.taken),
            AttackerAction::Hold { reversed } => (until + base, if reversed { -self.taken } else { self.taken }),
            AttackerAction::Swallow => return,
        };
        self.under_way.push((at, place, report));
        self.under_way.sort_by_key(|(at, place, _)| (*at, *place));
    }

    fn arrived(&mut self, now: Instant) -> Option<Report> {
        self.under_way.first().filter(|(at, ..)| *at <= now)?;
        Some(self.under_way.remove(0).2)
    }
}

#[test]
fn an_attacker_on_the_path_cannot_extend_trust_beyond_the_cap() {
    let (mut trusted, mut capped) = (0, 0);
    for seed in 0..150 {
        let random = &mut SmallRng::seed_from_u64(seed);
        let max = ms([100, 300, 600, 1000][random.random_range(0..4)]);
        let base = ms(random.random_range(0..120));
        let start = Instant::now();
        let (mut near, mut far) = (Reporting::new(start), Reporting::new(start));
        near.set_claims(true);
        let (mut forth, mut back) = (Direction::default(), Direction::default());
        let mut trust = Trust::new(max);
        // When each report that reached the peer was written: the attacker passed it on then or later.
        let mut written = Vec::<(u64, Instant)>::new();
        let mut passed: Option<Instant> = None;
        let mut samples = Vec::<(Instant, Duration)>::new();
        let mut now = start;
        let end = start + Duration::from_secs(20);
        while now < end {
            now += ms(1);
            if near.is_due(now) {
                let report = near.begin(true, now);
                written.push((report.sent_at, now));
                forth.take(report, base, random, now);
            }
            while let Some(report) = forth.arrived(now) {
                let at = written.iter().find(|(sent_at, _)| *sent_at == report.sent_at).map(|(_, at)| *at);
                passed = passed.max(at);
                far.handle_report(&report, now);
            }
            if far.is_due(now) {
                back.take(far.begin(true, now), base, random, now);
            }
            while let Some(report) = back.arrived(now) {
                if near.handle_report(&report, now) && report.echo > 0 {
                    let at = written.iter().find(|(sent_at, _)| *sent_at == report.echo).map(|(_, at)| *at);
                    let held = Duration::from_micros(report.echo_delay.into());
                    samples.push((now, (now - at.expect("it was written")).saturating_sub(held)));
                }
                trust.on_proof(near.proven_at(), near.least_rtt(), now);
            }
            if !trust.holds(now) {
                continue;
            }
            trusted += 1;
            let age = now - passed.expect("nothing is trusted before a report has passed");
            assert!(age <= max, "seed {seed}: trusted {age:?} after the last report that passed");
            let lately = samples.iter().rev().take_while(|(at, _)| now - *at <= Duration::from_secs(9));
            let least = lately.map(|(_, sample)| *sample).min().expect("it was measured");
            assert!(
                age <= (least * 3 + ms(1)).max(PROOF_FLOOR),
                "seed {seed}: {age:?}, the least recent round trip is {least:?}"
            );
            capped += u64::from(least * 3 > max);
        }
        assert!(near.due_at().is_some_and(|due| due <= now + WHILE_ACTIVE));
    }
    assert!(trusted > 100_000 && capped > 1000, "trusted in {trusted} steps, {capped} of them by the cap");
}

#[test]
fn an_undisturbed_path_is_always_trusted() {
    for (rtt, max) in [(1, 100), (50, 600), (200, 600), (500, 600), (900, 1000)] {
        let start = Instant::now();
        let (mut near, mut far) = (Reporting::new(start), Reporting::new(start));
        near.set_claims(true);
        let (mut forth, mut back) = (Direction::default(), Direction::default());
        let mut trust = Trust::new(ms(max));
        for millis in 0..20_000 {
            let now = start + ms(millis);
            for (from, way) in [(&mut near, &mut forth), (&mut far, &mut back)] {
                way.mood = Some((AttackerAction::Pass, now + ms(1)));
                if from.is_due(now) {
                    way.take(from.begin(true, now), ms(rtt) / 2, &mut SmallRng::seed_from_u64(0), now);
                }
            }
            while let Some(report) = forth.arrived(now) {
                far.handle_report(&report, now);
            }
            while let Some(report) = back.arrived(now) {
                near.handle_report(&report, now);
                trust.on_proof(near.proven_at(), near.least_rtt(), now);
            }
            assert!(trust.holds(now) || millis < 2 * rtt + 100, "{rtt} ms: after {millis} ms");
        }
    }
}
