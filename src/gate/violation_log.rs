//! Logs violations of protection in a gate: the first at once, then at most one line per second, with the lost ranges
//! and what was acknowledged early for them; and when there was none for a minute, how many there were and for how long.
//! Counters are kept elsewhere.

use std::ops::Range;
use std::time::Instant;

use super::early::Hit;
use crate::io::episode::Episode;
use crate::io::paced::Paced;
use crate::notify::message::FlowKey;

/// What was lost and not logged yet.
#[derive(Debug, Default)]
pub struct ViolationLog {
    hit: Hit,
    ranges: Paced,
    /// A loss that is not yet part of the episode.
    is_new: bool,
    episode: Episode,
    /// What was hit since the episode began.
    total: Hit,
}

impl ViolationLog {
    /// These bytes of the flow of `connection` were called protected and are lost; `hit` is what the loss hits.
    pub fn note(&mut self, gate: &str, connection: u64, (key, range): (&FlowKey, &Range<u64>), hit: Hit) {
        for sum in [&mut self.hit, &mut self.total] {
            sum.bytes += hit.bytes;
            sum.acknowledged += hit.acknowledged;
            sum.acknowledgements += hit.acknowledgements;
        }
        self.is_new = true;
        let (source, destination, Range { start, end }) = (key.source, key.destination, range);
        self.ranges.add(format_args!("{gate}, connection {connection}: {source} > {destination} bytes {start}..{end}"));
    }

    /// When the next line may be logged, if there is something to log.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let line = self.ranges.deadline().filter(|_| !self.ranges.is_empty());
        line.into_iter().chain(self.episode.deadline()).min()
    }

    /// Logs what was not logged yet, if the last line was long enough ago.
    pub fn flush(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_new) {
            self.episode.note(now);
        }
        if self.ranges.is_due(now)
            && let Some(message) = self.take_message()
        {
            self.ranges.on_logged(now);
            tracing::error!("{message}");
        }
        if let Some(message) = self.take_end(now) {
            tracing::info!("{message}");
        }
    }

    fn take_end(&mut self, now: Instant) -> Option<String> {
        let lasted = self.episode.poll_ended(now)?.as_secs_f64();
        let Hit { bytes, acknowledged, acknowledgements } = std::mem::take(&mut self.total);
        Some(format!(
            "no promise was broken for a minute: {bytes} bytes were lost, {acknowledged} of them acknowledged early in \
             {acknowledgements} acknowledgements, the last {lasted:.1} s after the first"
        ))
    }

    fn take_message(&mut self) -> Option<String> {
        let (ranges, named) = self.ranges.take("ranges");
        let hit = std::mem::take(&mut self.hit);
        if ranges == 0 {
            return None;
        }
        let acknowledged = match hit.acknowledgements {
            0 => "Nothing was acknowledged early for them that the mirror has not acknowledged since".to_owned(),
            count => format!(
                "{count} early acknowledgements stood on them, {} of these bytes were acknowledged early. What was \
                 acknowledged is not at the mirror until it is sent again",
                hit.acknowledged
            ),
        };
        Some(format!(
            "a promise was broken: bytes that were called protected are lost on the path ({ranges} ranges, {} bytes: \
             {named}). {acknowledged}. If it happens again, the path loses more than `redundancy` of the appliance \
             repairs: raise `repair` there, and look at the losses in its `onwire status`",
            hit.bytes
        ))
    }
}

impl Drop for ViolationLog {
    fn drop(&mut self) {
        if let Some(message) = self.take_message() {
            tracing::error!("{message}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::io::episode::QUIET;
    use crate::io::paced::INTERVAL;

    #[test]
    fn the_first_violation_is_logged_at_once_and_those_of_the_next_second_in_one_line() {
        let start = Instant::now();
        let key = FlowKey::tcp(([10, 1, 0, 1], 1).into(), ([10, 2, 0, 1], 80).into());
        let hit = Hit { bytes: 10, acknowledged: 6, acknowledgements: 2 };
        let mut broken = ViolationLog::default();
        broken.note("pg", 3, (&key, &(0..10)), Hit { acknowledged: 0, acknowledgements: 0, ..hit });
        broken.flush(start);
        assert_eq!(broken.poll_timeout(), Some(start + QUIET), "logged");
        (1..=10).for_each(|at| broken.note("pg", 3, (&key, &(at * 100..at * 100 + 10)), hit));
        broken.flush(start + INTERVAL - Duration::from_nanos(1));
        assert_eq!(broken.poll_timeout(), Some(start + INTERVAL));
        let message = broken.take_message().unwrap();
        assert!(
            message.contains("(10 ranges, 100 bytes: pg, connection 3: 10.1.0.1:1 > 10.2.0.1:80 bytes 100..110; pg"),
            "{message}"
        );
        assert!(message.contains("bytes 800..810; and 2 ranges more)"), "{message}");
        assert!(message.contains("20 early acknowledgements stood on them, 60 of these bytes"), "{message}");
        assert_eq!(broken.take_message(), None);
        let last = start + INTERVAL - Duration::from_nanos(1);
        assert_eq!(broken.take_end(last + QUIET - Duration::from_nanos(1)), None);
        assert_eq!(
            broken.take_end(last + QUIET).unwrap(),
            "no promise was broken for a minute: 110 bytes were lost, 60 of them acknowledged early in 20 acknowledgements, \
             the last 1.0 s after the first"
        );
        assert_eq!(broken.poll_timeout(), None);
    }
}
