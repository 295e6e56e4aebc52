//! Bytes that the policy `available` acknowledged without protection: how many still are exposed, and the alarm.
//!
//! [`super::policy`] decides when to expose bytes.

use std::time::{Duration, Instant};

/// Minimum time between two alarms of a connection.
const INTERVAL: Duration = Duration::from_secs(1);

/// A range of the stream and the marks that it was acknowledged with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first byte, and the byte after the last.
    pub offsets: (u64, u64),
    /// The marks released, first and last.
    pub marks: (u64, u64),
}

/// What one connection has exposed.
#[derive(Debug, Default)]
pub struct Exposure {
    /// The end of what was exposed: offset and mark.
    reach: Option<(u64, u64)>,
    unlogged: Option<Range>,
    logged: Option<Instant>,
}

impl Exposure {
    /// Marks were released without protection, up to `mark` at `offset`; below `safe` nothing is exposed. Returns how
    /// many more bytes are exposed than before.
    pub fn on_released(&mut self, safe: u64, (offset, mark): (u64, u64)) -> u64 {
        let start = self.reach.map_or(safe, |(reach, _)| reach.max(safe)).min(offset);
        self.reach = Some((offset, mark));
        self.unlogged = Some(match self.unlogged {
            Some(earlier) => Range { offsets: (earlier.offsets.0, offset), marks: (earlier.marks.0, mark) },
            None => Range { offsets: (start, offset), marks: (mark, mark) },
        });
        offset - start
    }

    /// The mirror has acknowledged everything up to `mark` itself. Returns the offset up to which the exposed bytes are
    /// at the mirror: their marks wait in no queue any more, so only this struct knows that offset.
    pub fn on_acknowledged(&mut self, mark: u64) -> Option<u64> {
        self.reach.take_if(|(_, exposed)| *exposed <= mark).map(|(reach, _)| reach)
    }

    /// Bytes that are exposed, given that everything below `safe` is not.
    pub fn bytes(&self, safe: u64) -> u64 {
        self.reach.map_or(0, |(reach, _)| reach.saturating_sub(safe))
    }

    /// The alarm to log now; at most once a second, and nothing is left out.
    pub fn poll_alarm(&mut self, now: Instant) -> Option<Range> {
        let lately = self.logged.is_some_and(|at| now < at + INTERVAL);
        let range = if lately { None } else { self.unlogged.take() };
        if range.is_some() {
            self.logged = Some(now);
        }
        range
    }

    /// The alarm that is still to be logged when the connection ends.
    pub fn last_alarm(&mut self) -> Option<Range> {
        self.unlogged.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_exposed_byte_is_counted_once_and_logged_once() {
        let start = Instant::now();
        let mut exposure = Exposure::default();
        assert_eq!(exposure.on_released(100, (250, 7)), 150);
        assert_eq!(exposure.poll_alarm(start), Some(Range { offsets: (100, 250), marks: (7, 7) }));
        assert_eq!(exposure.on_released(100, (300, 8)), 50);
        assert_eq!(exposure.on_released(280, (400, 9)), 100);
        assert_eq!(exposure.poll_alarm(start + Duration::from_millis(999)), None);
        assert_eq!(exposure.poll_alarm(start + INTERVAL), Some(Range { offsets: (250, 400), marks: (8, 9) }));
        assert_eq!((exposure.bytes(0), exposure.bytes(390), exposure.bytes(500)), (400, 10, 0));
        assert_eq!(exposure.on_acknowledged(8), None);
        assert_eq!(exposure.bytes(300), 100);
        assert_eq!(exposure.on_acknowledged(9), Some(400));
        assert_eq!((exposure.bytes(0), exposure.last_alarm()), (0, None));
    }
}
