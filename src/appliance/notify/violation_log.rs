//! Logs violations, with the bytes concerned: the first at once, later ones at most once a second; and when there was none
//! for a minute, how many there were and for how long. A program may already have acknowledged these bytes. Counters are kept
//! elsewhere.

use std::time::Instant;

use crate::io::episode::Episode;
use crate::io::paced::Paced;
use crate::notify::message::Range;

/// Losses that are not logged yet.
#[derive(Debug, Default)]
pub struct ViolationLog {
    losses: u64,
    bytes: u64,
    ranges: Paced,
    episode: Episode,
    /// Losses and bytes since the episode began.
    total: (u64, u64),
}

impl ViolationLog {
    /// These ranges toward `peer` had been called protected and cannot be rebuilt. Empty if their flows are no longer
    /// known.
    pub fn note(&mut self, peer: &str, ranges: &[Range], now: Instant) {
        self.episode.note(now);
        self.losses += 1;
        self.total.0 += 1;
        for Range { key, start, end, .. } in ranges {
            self.bytes += end.saturating_sub(*start);
            self.total.1 += end.saturating_sub(*start);
            self.ranges.add(format_args!("{} > {} ({peer}) bytes {start}..{end}", key.source, key.destination));
        }
        self.log_due(now);
    }

    /// When there is more to log.
    pub fn deadline(&self) -> Option<Instant> {
        let line = self.ranges.deadline().filter(|_| self.losses > 0);
        line.into_iter().chain(self.episode.deadline()).min()
    }

    /// Logs what is not logged yet, if the last line is old enough.
    pub fn log_due(&mut self, now: Instant) {
        if self.ranges.is_due(now)
            && let Some(words) = self.take_message()
        {
            self.ranges.on_logged(now);
            tracing::error!("{words}");
        }
        if let Some(words) = self.take_end(now) {
            tracing::info!("{words}");
        }
    }

    fn take_end(&mut self, now: Instant) -> Option<String> {
        let lasted = self.episode.poll_ended(now)?.as_secs_f64();
        let (losses, bytes) = std::mem::take(&mut self.total);
        Some(format!(
            "no promise was broken for a minute: there were {losses} losses of {bytes} bytes, the last {lasted:.1} s after the first"
        ))
    }

    fn take_message(&mut self) -> Option<String> {
        let (losses, bytes) = (std::mem::take(&mut self.losses), std::mem::take(&mut self.bytes));
        if losses == 0 {
            return None;
        }
        let which = match self.ranges.take("ranges") {
            (0, _) => "of flows that are not known any more".to_owned(),
            (_, named) => named,
        };
        Some(format!(
            "a promise was broken: blocks that were called protected lost more than their repair symbols ({losses} losses, \
             {bytes} bytes: {which}). What was acknowledged for them is not at the mirror until it is sent again. If it \
             happens again, the path loses more than `redundancy` repairs: raise `repair`, and look at the losses in \
             `onwire status`"
        ))
    }
}

impl Drop for ViolationLog {
    fn drop(&mut self) {
        if let Some(words) = self.take_message() {
            tracing::error!("{words}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::io::episode::QUIET;
    use crate::io::paced::INTERVAL;
    use crate::notify::message::FlowKey;

    fn range(port: u16, start: u64) -> Range {
        let key = FlowKey::tcp(([10, 1, 0, 1], port).into(), ([10, 2, 0, 1], 80).into());
        Range { key, instance: 1, start, end: start + 10 }
    }

    #[test]
    fn the_first_violation_is_logged_at_once_and_those_of_the_next_second_in_one_line() {
        let start = Instant::now();
        let mut log = ViolationLog::default();
        log.note("syracuse", &[range(1, 0)], start);
        assert_eq!((log.losses, log.deadline()), (0, Some(start + QUIET)), "logged");
        (2..12).for_each(|port| log.note("syracuse", &[range(port, 100)], start + Duration::from_millis(1)));
        assert_eq!((log.losses, log.deadline()), (10, Some(start + INTERVAL)));
        log.log_due(start + INTERVAL - Duration::from_nanos(1));
        let words = log.take_message().unwrap();
        assert!(
            words.contains("10 losses, 100 bytes: 10.1.0.1:2 > 10.2.0.1:80 (syracuse) bytes 100..110; 10.1."),
            "{words}"
        );
        assert!(words.contains("10.1.0.1:9 > ") && !words.contains("10.1.0.1:10 > "), "{words}");
        assert!(words.contains("; and 2 ranges more)"), "{words}");
        assert_eq!(log.take_message(), None);
        log.note("syracuse", &[], start + INTERVAL / 2);
        assert!(log.take_message().unwrap().contains("of flows that are not known any more"));
        let last = start + INTERVAL / 2;
        assert_eq!(log.take_end(last + QUIET - Duration::from_nanos(1)), None);
        let words = log.take_end(last + QUIET).unwrap();
        assert_eq!(
            words,
            "no promise was broken for a minute: there were 12 losses of 110 bytes, the last 0.5 s after the first"
        );
        assert_eq!((log.take_end(last + QUIET * 9), log.deadline().is_some()), (None, false));
    }
}
