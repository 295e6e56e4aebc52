//! Do trains arrive? Some drivers and kernels lose or damage what they segment, and nobody says so.
//!
//! Reports travel alone and data in trains. When the peer's reports go on, and echo ours, while hardly any data
//! arrives, it is not the path that loses but the segmentation. The remedy is not taken here.

use std::time::{Duration, Instant};

use crate::wire::report::Report;

/// How long data has to go missing, twice in a row: an outage of the path is over sooner or stops reports too.
const WINDOW: Duration = Duration::from_millis(500);
/// How many datagrams have to be sent meanwhile; few, because a starving TCP sends no more.
const DATAGRAMS: u64 = 8;
/// And when neither most nor few of them were lost.
const DECISIVE: u64 = 32;

/// Compares what was sent in trains with what the peer says has arrived.
#[derive(Debug, Default)]
pub struct TrainWatch {
    mark: Option<Mark>,
    /// The window before this one was bad.
    bad_before: bool,
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    sent: u64,
    lost: u64,
    echo: u64,
}

impl TrainWatch {
    /// Takes a report of the peer; `sent` is how many symbols were sent so far. Tells whether trains are suspected.
    pub fn handle_report(&mut self, report: &Report, sent: u64, now: Instant) -> bool {
        let lost = report.reception.lost;
        let Some(mark) = &self.mark else {
            self.mark = Some(Mark { at: now, sent, lost, echo: report.echo });
            return false;
        };
        let sent_since = sent.saturating_sub(mark.sent);
        if now.saturating_duration_since(mark.at) < WINDOW || sent_since < DATAGRAMS {
            return false;
        }
        // Reports share the counter with data, so what they close behind them is counted as lost at once.
        let lost_since = lost.saturating_sub(mark.lost);
        let echoes = report.echo > mark.echo;
        let bad = echoes && lost_since > sent_since / 4 * 3;
        // Of so few the last may have been sent after the report was: more of them decide.
        if echoes && !bad && lost_since > sent_since / 4 && sent_since < DECISIVE {
            return false;
        }
        self.mark = Some(Mark { at: now, sent, lost, echo: report.echo });
        std::mem::replace(&mut self.bad_before, bad) && bad
    }

    /// Another run of the peer counts anew.
    pub fn on_new_epoch(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::report::Reception;

    fn report(lost: u64, echo: u64) -> Report {
        Report { echo, reception: Reception { lost, ..Reception::default() }, ..Report::default() }
    }

    /// Whether trains are suspected after some reports 100 ms apart, in each interval of which so much was sent.
    fn suspected_within(intervals: u32, sent: u64, lost: u64, echo: u64) -> bool {
        let (mut watch, start) = (TrainWatch::default(), Instant::now());
        (0..=intervals).any(|step| {
            let now = start + Duration::from_millis(100) * step;
            let step = u64::from(step);
            watch.handle_report(&report(lost * step, 1 + echo * step), sent * step, now)
        })
    }

    fn suspected(sent: u64, lost: u64, echo: u64) -> bool {
        suspected_within(20, sent, lost, echo)
    }

    #[test]
    fn trains_are_suspected_only_when_reports_arrive_and_data_does_not() {
        assert!(suspected(1000, 990, 20));
        assert!(!suspected(1000, 300, 20), "a bad path, but data arrives");
        assert!(!suspected(1000, 990, 0), "our reports do not arrive either: the path is dead");
        assert!(!suspected(0, 0, 20), "nothing was sent");
        assert!(!suspected_within(9, 1000, 1000, 20), "an outage of less than a second");
    }

    #[test]
    fn the_last_burst_of_a_starving_sender_that_no_report_covered_cleared_the_trains() {
        let (mut watch, start) = (TrainWatch::default(), Instant::now());
        // Seconds, symbols sent by then, and how many of them the peer knew to be lost; six at a time.
        let reports = [(0, 0, 0), (1, 12, 12), (3, 24, 18), (6, 30, 30), (12, 42, 36)];
        let told = reports.map(|(second, sent, lost)| {
            watch.handle_report(&report(lost, 1 + second), sent, start + Duration::from_secs(second))
        });
        assert_eq!(told, [false, false, false, true, false]);
    }
}
