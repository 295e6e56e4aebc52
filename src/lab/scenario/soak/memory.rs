//! What processes use over their lives: memory, descriptors, threads; and whether any of it grows.
//!
//! Memory is the resident size. Its slope is that of Theil and Sen over medians of equal spans after the warm-up, with the
//! interval of Kendall's statistic: a few outliers do not move it, and no distribution is assumed. Within a span the size
//! at one second is nearly the size a second before, so the spans count, not the seconds.

use std::time::Duration;

use serde_json::{Value, json};

use crate::lab::{error::LabError, process::Process};

/// All bounded buffers are in use after this share of a run, but not before this time; in a short run after half of it.
const WARM_SHARE: u32 = 5;
const WARM_TIME: Duration = Duration::from_secs(10);
/// The memory at a time is the median over this share of the run.
const SPAN_SHARE: u32 = 10;
/// Spans after the warm-up, for the slope.
const SPANS: usize = 24;
/// Allowed growth of a process from its warm size to its size at the end: this share, or this number of bytes.
const GROWTH_SHARE: f64 = 0.05;
const GROWTH: u64 = 1 << 20;
/// Bytes an hour that a process may grow by.
pub const SLOPE_MAX: f64 = 1e6;
/// A life that lasts so long after its warm-up shows its slope; in a shorter one a late buffer is more than the limit.
const TELLING: Duration = Duration::from_secs(20 * 60);

/// What a process uses at one time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Since the process began to be watched.
    pub at: Duration,
    /// Resident bytes.
    pub bytes: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Threads.
    pub threads: u64,
}

/// A process from its start, or from the start of the run, to its end.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// When it began, since the start of the run.
    pub begin: Duration,
    /// What was seen, in order.
    pub looks: Vec<Look>,
}

/// The memory of a process: at first, when warm, at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Growth {
    /// Bytes at first.
    pub first: u64,
    /// When all bounded buffers are in use.
    pub warm: u64,
    /// At the end.
    pub last: u64,
}

/// Bytes an hour: the slope, and between which two values it lies with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slope {
    /// The slope.
    pub per_hour: f64,
    /// The least and the most that the data allow.
    pub bounds: [f64; 2],
}

impl Look {
    /// Looks at a process; none if it has ended.
    pub fn at(process: &Process, at: Duration) -> Option<Self> {
        let [descriptors, threads] = process.descriptors_and_threads()?;
        Some(Self { at, bytes: process.memory()?, descriptors, threads })
    }

    /// Looks at a process that must live.
    pub fn at_living(process: &Process, at: Duration) -> Result<Self, LabError> {
        let ended = || LabError::Sentence(format!("{} has ended; see {}", process.name(), process.log().display()));
        Self::at(process, at).ok_or_else(ended)
    }
}

/// When all bounded buffers of a process that lives so long are in use.
pub fn warm(duration: Duration) -> Duration {
    (duration / WARM_SHARE).max(WARM_TIME).min(duration / 2)
}

impl Life {
    /// How long it was watched.
    pub fn length(&self) -> Duration {
        self.looks.last().map_or(Duration::ZERO, |look| look.at)
    }

    /// The median of something over a part of the life; none without a look there.
    pub fn median(&self, from: Duration, to: Duration, of: impl Fn(&Look) -> u64) -> Option<u64> {
        let mut values: Vec<_> = self.looks.iter().filter(|look| look.at >= from && look.at <= to).map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    }

    /// Something when warm, and at the end.
    pub fn warm_and_last(&self, of: impl Fn(&Look) -> u64 + Copy) -> Option<[u64; 2]> {
        let (warm, end, span) = (warm(self.length()), self.length(), self.length() / SPAN_SHARE);
        Some([self.median(warm, warm + span, of)?, self.median(end.saturating_sub(span), end, of)?])
    }

    /// The memory over time; none without looks.
    pub fn growth(&self) -> Option<Growth> {
        let [warm, last] = self.warm_and_last(|look| look.bytes)?;
        Some(Growth { first: self.looks.first()?.bytes, warm, last })
    }

    /// The slope of the memory after the warm-up; none where there are not enough looks.
    pub fn slope(&self) -> Option<Slope> {
        let (warm, end) = (warm(self.length()), self.length());
        let span = (end - warm) / SPANS as u32;
        let middle = |number: u32| {
            let (from, to) = (warm + span * number, warm + span * (number + 1));
            let hours = (from + span / 2).as_secs_f64() / 3600.0;
            Some((hours, self.median(from, to, |look| look.bytes)? as f64))
        };
        theil_sen(&(0..SPANS as u32).filter_map(middle).collect::<Vec<_>>())
    }

    /// Whether it lasts long enough to show its slope.
    pub fn is_telling(&self) -> bool {
        self.length().saturating_sub(warm(self.length())) >= TELLING
    }

    /// Whether it grows less than is allowed, as far as it lasts long enough to show that.
    pub fn is_level(&self) -> bool {
        self.slope().is_some_and(|slope| !self.is_telling() || slope.per_hour < SLOPE_MAX)
    }

    /// Every look, as JSON.
    pub fn to_json(&self) -> Value {
        let looks = self.looks.iter().map(|look| {
            let at = (look.at.as_secs_f64() * 10.0).round() / 10.0;
            json!({ "at_s": at, "bytes": look.bytes, "descriptors": look.descriptors, "threads": look.threads })
        });
        json!({ "begin_s": self.begin.as_secs_f64(), "looks": looks.collect::<Vec<_>>() })
    }
}

impl Growth {
    /// The most that a process that was so large may become.
    pub fn limit(from: u64) -> u64 {
        from + GROWTH.max((from as f64 * GROWTH_SHARE) as u64)
    }

    /// It has not grown since it was warm.
    pub fn is_level(&self) -> bool {
        self.last <= Self::limit(self.warm)
    }

    /// For the result.
    pub fn to_json(self) -> Value {
        json!({ "first": self.first, "warm": self.warm, "last": self.last })
    }
}

impl Slope {
    /// For the result.
    pub fn to_json(self) -> Value {
        json!({ "bytes_per_hour": self.per_hour, "least": self.bounds[0], "most": self.bounds[1] })
    }
}

/// The median of the slopes of all pairs of points, and the 95 % interval of Sen (1968); none for fewer than six points,
/// which cannot give that confidence.
fn theil_sen(points: &[(f64, f64)]) -> Option<Slope> {
    if points.len() < 6 {
        return None;
    }
    let pairs =
        points.iter().enumerate().flat_map(|(at, first)| points[at + 1..].iter().map(move |second| (first, second)));
    let mut slopes: Vec<f64> = pairs.map(|(first, second)| (second.1 - first.1) / (second.0 - first.0)).collect();
    slopes.sort_by(f64::total_cmp);
    let (count, n) = (slopes.len() as f64, points.len() as f64);
    let width = 1.96 * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    let at = |rank: f64| slopes[(rank.max(0.0) as usize).min(slopes.len() - 1)];
    let bounds = [at(((count - width) / 2.0).floor()), at(((count + width) / 2.0).ceil())];
    Some(Slope { per_hour: at((count / 2.0).floor()), bounds })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1 << 20;

    fn life(seconds: u64, bytes: impl Fn(u64) -> u64) -> Life {
        let look = |second| Look { at: Duration::from_secs(second), bytes: bytes(second), descriptors: 9, threads: 3 };
        Life { begin: Duration::ZERO, looks: (0..=seconds).map(look).collect() }
    }

    #[test]
    fn memory_may_grow_only_until_it_is_warm() {
        for (words, bytes, is_level) in [
            ("level", (|_| 8 * MB) as fn(u64) -> u64, true),
            ("warms up", |second| 8 * MB + second.min(15) * MB, true),
            ("one late buffer", |second| 8 * MB + (second / 60) * MB, true),
            ("a leak", |second| 8 * MB + second * MB / 50, false),
            ("a leak of a large process", |second| 100 * MB + second * MB / 10, false),
            ("a large process", |second| 100 * MB + second * MB / 20, true),
            ("one outlier", |second| if second == 99 { 90 * MB } else { 8 * MB }, true),
        ] {
            assert_eq!(life(100, bytes).growth().unwrap().is_level(), is_level, "{words}");
        }
        let growth = life(100, |second| second).growth();
        assert_eq!(growth, Some(Growth { first: 0, warm: 25, last: 95 }));
    }

    #[test]
    fn a_short_run_is_warm_after_its_first_half() {
        assert_eq!([300, 40, 8].map(|it| warm(Duration::from_secs(it)).as_secs()), [60, 10, 4]);
        assert!(Life::default().growth().is_none() && Life::default().slope().is_none() && !Life::default().is_level());
    }

    #[test]
    fn a_slope_above_the_limit_is_found_in_half_an_hour_and_one_below_is_not_taken_for_it() {
        // Noise without a generator: the size jumps within 200 kB.
        let noise = |second: u64| second.wrapping_mul(2_654_435_761) % 200_000;
        for (per_hour, is_level) in [(0, true), (400_000, true), (2_000_000, false), (9_000_000, false)] {
            let run = life(1800, |second| 20 * MB + noise(second) + second * per_hour / 3600);
            let slope = run.slope().unwrap();
            assert!((slope.per_hour - per_hour as f64).abs() < 200_000.0, "{per_hour}: {slope:?}");
            assert!(slope.bounds[0] <= slope.per_hour && slope.per_hour <= slope.bounds[1], "{slope:?}");
            assert_eq!(run.is_level(), is_level, "{per_hour}: {slope:?}");
        }
        // Five minutes cannot tell two megabytes an hour; sixty are more than the process may grow by.
        let short = |per_hour: u64| life(300, move |second| 20 * MB + noise(second) + second * per_hour / 3600);
        assert!(!short(2_000_000).is_telling() && short(2_000_000).is_level());
        assert!(!short(60_000_000).growth().unwrap().is_level());
    }

    #[test]
    fn the_slope_of_few_points_is_not_known_and_an_outlier_does_not_move_it() {
        let points = |count: u32| (0..count).map(|x| (f64::from(x), 3.0 * f64::from(x))).collect::<Vec<_>>();
        assert!(theil_sen(&points(5)).is_none());
        let mut many = points(20);
        many[4].1 = 1e9;
        assert_eq!(theil_sen(&many).unwrap().per_hour, 3.0);
    }
}
