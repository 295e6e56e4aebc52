//! Do trains arrive? Some drivers and kernels lose or damage what they segment, and nobody says so.
//!
//! Reports travel alone and data in trains. When the peer's reports go on, and echo ours, while hardly any data
//! arrives, it is not the path that loses but the segmentation. The remedy is not taken here.

use std::time::{Duration, Instant};

use crate::wire::report::Report;

/// How long data has to go missing.
const WINDOW: Duration = Duration::from_millis(500);
/// How many datagrams have to go missing.
const DATAGRAMS: u64 = 256;

/// Compares what was sent in trains with what the peer says has arrived.
#[derive(Debug, Default)]
pub struct TrainWatch {
    mark: Option<Mark>,
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    sent: u64,
    received: u64,
    echo: u64,
}

impl TrainWatch {
    /// Takes a report of the peer; `sent` is how many symbols were sent so far. Tells whether trains are suspected.
    pub fn handle_report(&mut self, report: &Report, sent: u64, now: Instant) -> bool {
        let received = report.reception.received;
        let Some(mark) = &self.mark else {
            self.mark = Some(Mark { at: now, sent, received, echo: report.echo });
            return false;
        };
        let sent_since = sent.saturating_sub(mark.sent);
        if now.saturating_duration_since(mark.at) < WINDOW || sent_since < DATAGRAMS {
            return false;
        }
        let arrived = received.saturating_sub(mark.received);
        let suspected = report.echo > mark.echo && arrived < sent_since / 4;
        self.mark = Some(Mark { at: now, sent, received, echo: report.echo });
        suspected
    }

    /// Another run of the peer counts anew.
    pub fn on_new_epoch(&mut self) {
        self.mark = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::report::Reception;

    fn report(received: u64, echo: u64) -> Report {
        Report { echo, reception: Reception { received, ..Reception::default() }, ..Report::default() }
    }

    /// Whether trains are suspected after ten reports 100 ms apart.
    fn suspected(sent: u64, received: u64, echo: u64) -> bool {
        let (mut watch, start) = (TrainWatch::default(), Instant::now());
        (0..=10).any(|step| {
            let now = start + Duration::from_millis(100) * step;
            let step = u64::from(step);
            watch.handle_report(&report(received * step, 1 + echo * step), sent * step, now)
        })
    }

    #[test]
    fn trains_are_suspected_only_when_reports_arrive_and_data_does_not() {
        assert!(suspected(1000, 5, 20));
        assert!(!suspected(1000, 700, 20), "a bad path, but data arrives");
        assert!(!suspected(1000, 5, 0), "our reports do not arrive either: the path is dead");
        assert!(!suspected(10, 0, 20), "too little was sent to tell");
    }
}
