//! Whether a lane under load pauses before it looks for more, so that more has come by then: what a network card calls
//! adaptive interrupt coalescing.
//!
//! To be woken for each packet costs more than to carry it, for the lane and for whoever wakes it. A lane that pauses is
//! not woken. A pause is far shorter than what packets wait under such a load, and ends before anything is due.

use std::time::{Duration, Instant};

/// The longest pause.
const PAUSE: Duration = Duration::from_micros(200);
/// A lane is under load that carried so many bytes a second (1 Gbit/s),
const LOAD: u128 = 125_000_000;
/// at least this long.
const WINDOW: Duration = Duration::from_millis(4);
/// A packet costs much the same whatever its length: a shorter one counts as so many bytes, and 50,000 a second are a load.
/// One small request after the other is less, wherever its round trip takes 40 µs or more.
const PACKET: usize = 2500;

/// What a lane has carried lately.
#[derive(Debug)]
pub struct Coalescing {
    since: Instant,
    bytes: usize,
    is_loaded: bool,
    paused: Duration,
}

impl Coalescing {
    /// Nothing was carried before `now`.
    pub fn new(now: Instant) -> Self {
        Self { since: now, bytes: 0, is_loaded: false, paused: Duration::ZERO }
    }

    /// A packet or a train of so many bytes was read.
    #[inline]
    pub fn on_read(&mut self, bytes: usize) {
        self.bytes += bytes.max(PACKET);
    }

    /// How long to pause when nothing more is there and the next deadline is `due`.
    pub fn pause(&mut self, due: Option<Instant>, now: Instant) -> Option<Duration> {
        let window = now.saturating_duration_since(self.since);
        if window >= WINDOW {
            self.is_loaded = self.bytes as u128 * 1_000_000_000 >= LOAD * window.as_nanos();
            (self.since, self.bytes) = (now, 0);
        }
        let pause = due.map_or(PAUSE, |due| due.saturating_duration_since(now).min(PAUSE));
        (self.is_loaded && !pause.is_zero()).then_some(pause)
    }

    /// The lane has paused so long.
    pub fn on_paused(&mut self, lasted: Duration) {
        self.paused += lasted;
    }

    /// How long it has paused altogether.
    pub fn paused(&self) -> Duration {
        self.paused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pauses of a lane that reads so many bytes every 50 µs, in the second half of some time.
    fn pauses(bytes: usize) -> Vec<Option<Duration>> {
        let start = Instant::now();
        let mut coalescing = Coalescing::new(start);
        let mut turn = |number: u32| {
            coalescing.on_read(bytes);
            coalescing.pause(None, start + number * Duration::from_micros(50))
        };
        for number in 0..400 {
            turn(number);
        }
        (400..800).map(turn).collect()
    }

    #[test]
    fn a_lane_pauses_from_a_gigabit_a_second() {
        assert!(pauses(6_251).iter().all(|pause| *pause == Some(PAUSE)));
        assert!(pauses(6_200).iter().all(Option::is_none));
        // One small request after the other, 10,000 a second, is 20,000 packets and no load.
        assert!(pauses(40).iter().all(Option::is_none));
    }

    #[test]
    fn many_small_packets_are_a_load() {
        let start = Instant::now();
        let mut coalescing = Coalescing::new(start);
        let later = start + WINDOW;
        (0..199).for_each(|_| coalescing.on_read(40));
        assert_eq!(coalescing.pause(None, later), None);
        (0..200).for_each(|_| coalescing.on_read(40));
        assert_eq!(coalescing.pause(None, later + WINDOW), Some(PAUSE));
    }

    #[test]
    fn a_pause_ends_before_what_is_due_and_with_the_load() {
        let start = Instant::now();
        let mut coalescing = Coalescing::new(start);
        coalescing.on_read(1_000_000);
        let now = start + WINDOW;
        assert_eq!(coalescing.pause(Some(now + PAUSE / 4), now), Some(PAUSE / 4));
        assert_eq!(coalescing.pause(Some(now), now), None);
        assert_eq!(coalescing.pause(Some(start), now), None);
        assert_eq!(coalescing.pause(Some(now + PAUSE * 4), now + PAUSE), Some(PAUSE));
        // The first packet after an idle second is not late.
        coalescing.on_read(64_000);
        assert_eq!(coalescing.pause(None, now + Duration::from_secs(1)), None);
    }
}
