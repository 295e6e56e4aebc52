//! The arrival time of a datagram, as the kernel noted it: from its wall clock to the clock of deadlines.
//!
//! The kernel stamps arrivals with the wall clock, which may be set at any time. So a stamp is trusted only while the
//! two clocks have kept their distance since the socket was last found empty: nothing unread is older than that. In
//! doubt no time is returned, and the caller takes the datagram as having come just now.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::control::{leading_u32, leading_u64};

/// How far the clocks may drift apart before stamps are not trusted: more than a clock is slewed while datagrams wait,
/// less than matters to a deadline.
const DRIFT_MAX: Duration = Duration::from_millis(1);
/// The wall clock is read between two readings of the other clock that are at most this far apart.
const READING_MAX: Duration = Duration::from_micros(200);
/// Attempts to read both clocks. A thread that is interrupted in the middle of each has no reading.
const READINGS: u32 = 3;

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug)]
struct Moment {
    now: Instant,
    /// Since 1970.
    wall: Duration,
}

impl Moment {
    fn read() -> Option<Self> {
        (0..READINGS).find_map(|_| {
            let before = Instant::now();
            let wall = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
            let now = Instant::now();
            (now.saturating_duration_since(before) <= READING_MAX).then_some(Self { now, wall })
        })
    }

    /// How far the wall clock was moved between this moment and `later`.
    fn drift(&self, later: &Self) -> Duration {
        let passed = later.now.saturating_duration_since(self.now);
        (self.wall + passed).abs_diff(later.wall)
    }
}

/// Converts the kernel's arrival times of one socket.
#[derive(Debug, Default)]
pub(super) struct ArrivalClock {
    /// A moment not before the socket was last found empty.
    empty: Option<Moment>,
}

impl ArrivalClock {
    /// The socket was found empty just now.
    pub(super) fn on_empty(&mut self) {
        self.empty = Moment::read();
    }

    /// When a datagram with this stamp came, which was read just now. The stamp is the wall clock's time since 1970.
    pub(super) fn tell(&mut self, stamp: Option<Duration>) -> Option<Instant> {
        self.place(stamp?, Moment::read()?)
    }

    fn place(&mut self, stamp: Duration, read: Moment) -> Option<Instant> {
        if self.empty.get_or_insert(read).drift(&read) > DRIFT_MAX {
            return None;
        }
        match read.wall.checked_sub(stamp) {
            Some(age) => read.now.checked_sub(age),
            None => (stamp - read.wall <= DRIFT_MAX).then_some(read.now),
        }
    }
}

/// The stamp in an `SCM_TIMESTAMPNS` control message: a `timespec` of either word size.
pub(super) fn parse_stamp(data: &[u8]) -> Option<Duration> {
    let half = data.len() / 2;
    let (seconds, nanos) = match half {
        8 => (leading_u64(data)?, leading_u64(&data[half..])?),
        4 => (leading_u32(data)?.into(), leading_u32(&data[half..])?.into()),
        _ => return None,
    };
    // Reject times before 1970 and nanoseconds of a second or more.
    let is_time = seconds <= i64::MAX as u64 && nanos < 1_000_000_000;
    is_time.then(|| Duration::new(seconds, nanos as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_becomes_an_instant_unless_a_clock_was_moved() {
        let start = Instant::now();
        let wall = Duration::from_secs(1_700_000_000);
        let ms = Duration::from_millis;
        let moment = |at: u64, set: i64| {
            let wall = wall + ms(at);
            Moment {
                now: start + ms(at),
                wall: if set < 0 { wall - ms(set.unsigned_abs()) } else { wall + ms(set as u64) },
            }
        };
        // The socket is found empty at 0. Each row: when the stamp is read, how far the wall clock was set since, the
        // stamp, and the expected result.
        let rows = [
            (300, 0, 100, Some(100)),
            (300, 0, 300, Some(300)),
            (300, 1, 100, Some(99)),
            (300, 2, 100, None),
            (300, -2, 100, None),
            (300, -200, 100, None),
            (300, 3_600_000, 100, None),
            // A stamp of the future is not trusted, unless it is very near.
            (300, 0, 301, Some(300)),
            (300, 0, 302, None),
        ];
        for (read, set, stamp, expected) in rows {
            let mut clock = ArrivalClock { empty: Some(moment(0, 0)) };
            let found = clock.place(wall + ms(stamp), moment(read, set));
            assert_eq!(found, expected.map(|at| start + ms(at)), "read at {read}, set by {set}, stamped {stamp}");
        }
        // Distrust ends when the socket is found empty.
        let mut clock = ArrivalClock { empty: Some(moment(0, 0)) };
        assert_eq!(clock.place(wall + ms(4100), moment(200, 4000)), None);
        clock.empty = Some(moment(201, 4000));
        assert_eq!(clock.place(wall + ms(4210), moment(220, 4000)), Some(start + ms(210)));
    }

    #[test]
    fn stamps_of_either_word_size_are_read_and_nonsense_is_none() {
        let wide = |seconds: i64, nanos: i64| [seconds.to_ne_bytes(), nanos.to_ne_bytes()].concat();
        assert_eq!(parse_stamp(&wide(7, 9)), Some(Duration::new(7, 9)));
        assert_eq!(parse_stamp(&[7u32.to_ne_bytes(), 9u32.to_ne_bytes()].concat()), Some(Duration::new(7, 9)));
        for nonsense in [wide(-1, 0), wide(0, -1), wide(0, 1_000_000_000), vec![], vec![0; 3], vec![0; 12], vec![0; 40]]
        {
            assert_eq!(parse_stamp(&nonsense), None, "{nonsense:?}");
        }
    }
}
