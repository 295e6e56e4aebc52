//! Promises that were broken, said in the log: at once, and then no more often than each second, with the bytes that they
//! were about. Each of them may have been acknowledged to somebody. Counters are kept elsewhere.

use std::fmt::Write;
use std::time::{Duration, Instant};

use crate::notify::message::Range;

/// How often it is said.
const INTERVAL: Duration = Duration::from_secs(1);
/// Ranges that are named in one line.
const NAMED_MAX: usize = 8;

/// What was lost and not said yet.
#[derive(Debug, Default)]
pub struct BrokenPromises {
    said_at: Option<Instant>,
    losses: u64,
    ranges: u64,
    bytes: u64,
    named: String,
}

impl BrokenPromises {
    /// These ranges toward `peer` had been called protected and cannot be rebuilt; none are those of flows that are not
    /// known any more.
    pub fn note(&mut self, peer: &str, ranges: &[Range], now: Instant) {
        self.losses += 1;
        for range in ranges {
            let bytes = range.end.saturating_sub(range.start);
            (self.ranges, self.bytes) = (self.ranges + 1, self.bytes + bytes);
            if self.ranges <= NAMED_MAX as u64 {
                let (key, separator) = (&range.key, if self.named.is_empty() { "" } else { "; " });
                // Writing to a string cannot fail.
                let _ = write!(
                    self.named,
                    "{separator}{} > {} ({peer}) bytes {}..{}",
                    key.source, key.destination, range.start, range.end
                );
            }
        }
        self.say(now);
    }

    /// When there is more to say.
    pub fn deadline(&self) -> Option<Instant> {
        self.said_at.filter(|_| self.losses > 0).map(|at| at + INTERVAL)
    }

    /// Says what was not said yet, if the last time was long enough ago.
    pub fn say(&mut self, now: Instant) {
        if self.said_at.is_none_or(|at| now >= at + INTERVAL)
            && let Some(words) = self.take_words()
        {
            self.said_at = Some(now);
            tracing::error!("{words}");
        }
    }

    fn take_words(&mut self) -> Option<String> {
        let Self { losses, ranges, bytes, .. } = *self;
        if losses == 0 {
            return None;
        }
        let named = std::mem::take(&mut self.named);
        (self.losses, self.ranges, self.bytes) = (0, 0, 0);
        let which = match ranges {
            0 => "of flows that are not known any more".to_owned(),
            _ if ranges > NAMED_MAX as u64 => format!("{named}; and {} ranges more", ranges - NAMED_MAX as u64),
            _ => named,
        };
        Some(format!(
            "a promise was broken: blocks that were called protected lost more than their repair symbols ({losses} losses, \
             {bytes} bytes: {which}). What was acknowledged for them is not at the mirror until it is sent again. If it \
             happens again, the path loses more than `redundancy` repairs: raise `repair`, and look at the losses in \
             `onwire status`"
        ))
    }
}

impl Drop for BrokenPromises {
    fn drop(&mut self) {
        if let Some(words) = self.take_words() {
            tracing::error!("{words}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::message::FlowKey;

    fn range(port: u16, start: u64) -> Range {
        let key = FlowKey::tcp(([10, 1, 0, 1], port).into(), ([10, 2, 0, 1], 80).into());
        Range { key, instance: 1, start, end: start + 10 }
    }

    #[test]
    fn the_first_is_said_at_once_and_those_of_the_next_second_in_one_line() {
        let start = Instant::now();
        let mut broken = BrokenPromises::default();
        broken.note("syracuse", &[range(1, 0)], start);
        assert_eq!((broken.losses, broken.deadline()), (0, None), "said");
        (2..12).for_each(|port| broken.note("syracuse", &[range(port, 100)], start + Duration::from_millis(1)));
        assert_eq!((broken.losses, broken.deadline()), (10, Some(start + INTERVAL)));
        broken.say(start + INTERVAL - Duration::from_nanos(1));
        let words = broken.take_words().unwrap();
        assert!(
            words.contains("10 losses, 100 bytes: 10.1.0.1:2 > 10.2.0.1:80 (syracuse) bytes 100..110; 10.1."),
            "{words}"
        );
        assert!(words.contains("10.1.0.1:9 > ") && !words.contains("10.1.0.1:10 > "), "{words}");
        assert!(words.contains("; and 2 ranges more)"), "{words}");
        assert_eq!(broken.take_words(), None);
        broken.note("syracuse", &[], start + INTERVAL / 2);
        assert!(broken.take_words().unwrap().contains("of flows that are not known any more"));
    }
}
