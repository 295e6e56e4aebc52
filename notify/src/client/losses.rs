//! The losses of one flow: bytes that were called protected and then lost, until the mirror has acknowledged them.
//!
//! Two kinds of message report a loss: a violation, with its range, and the flow itself, which repeats its lowest lost
//! position while the loss lasts. Either may arrive late, twice or never. So each alone must be enough, and an old
//! message must not end a loss that a newer one reported. The mirror's acknowledgement puts messages in order: within
//! an instance it only rises.

use std::ops::Range;

/// Losses remembered individually. If there are more, they become one range from the first to the last.
const MOST: usize = 32;

/// The lowest loss that the flow itself reported.
#[derive(Clone, Copy, Debug)]
struct ReportedLoss {
    start: u64,
    /// What the mirror had acknowledged at that report.
    acked: u64,
}

/// The losses of one flow, as offsets in its stream.
#[derive(Debug, Default)]
pub struct Losses {
    ranges: Vec<Range<u64>>,
    reported: Option<ReportedLoss>,
}

impl Losses {
    /// The lowest lost offset; `None` when nothing is lost.
    pub fn lowest(&self) -> Option<u64> {
        let ranges = self.ranges.iter().map(|range| range.start);
        ranges.chain(self.reported.map(|reported| reported.start)).min()
    }

    /// A violation reports `range`; the mirror has acknowledged everything below `acked`.
    pub fn on_range(&mut self, range: Range<u64>, acked: u64) {
        if range.end <= acked || self.ranges.contains(&range) {
            return;
        }
        self.ranges.push(range);
        if self.ranges.len() > MOST {
            let start = self.ranges.iter().map(|range| range.start).min().unwrap_or(0);
            let end = self.ranges.iter().map(|range| range.end).max().unwrap_or(u64::MAX);
            self.ranges.clear();
            self.ranges.push(start..end);
        }
    }

    /// A message of the flow reports its lowest loss, if any, and `told_acked`, the mirror's acknowledgement at that
    /// time. Before this message the acknowledgement was known to be `acked`.
    pub fn on_reported(&mut self, lowest: Option<u64>, told_acked: u64, acked: u64) {
        match (lowest, self.reported) {
            // The message that reported `acked` is newer, and decides.
            (Some(_), _) if told_acked < acked => {}
            (Some(start), reported) => {
                let start = reported.map_or(start, |reported| reported.start.min(start));
                self.reported = Some(ReportedLoss { start, acked: told_acked });
            }
            // Only a later message can report the end of the loss, and then the mirror has its first byte.
            (None, Some(reported)) if told_acked > reported.acked && told_acked > reported.start => {
                self.reported = None;
            }
            (None, _) => {}
        }
    }

    /// The mirror has acknowledged everything below `acked`.
    pub fn on_acked(&mut self, acked: u64) {
        self.ranges.retain(|range| range.end > acked);
    }

    /// The appliance restarted, and its next run does not know these losses. They end at `claimed`, where the claims
    /// end: nothing above can be void.
    pub fn on_restart(&mut self, claimed: u64) {
        if let Some(ReportedLoss { start, acked }) = self.reported.take() {
            self.on_range(start..claimed.max(start.saturating_add(1)), acked.min(start));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_ends_when_the_mirror_has_all_of_it_and_not_before() {
        let mut losses = Losses::default();
        losses.on_range(40..60, 10);
        losses.on_range(50..90, 10);
        losses.on_acked(60);
        assert_eq!(losses.lowest(), Some(50));
        losses.on_acked(89);
        assert_eq!(losses.lowest(), Some(50));
        losses.on_acked(90);
        assert_eq!(losses.lowest(), None);
        losses.on_range(40..60, 90);
        assert_eq!(losses.lowest(), None, "reported again");
    }

    #[test]
    fn a_loss_reported_by_the_flow_ends_only_with_its_later_messages() {
        let mut losses = Losses::default();
        losses.on_reported(Some(40), 10, 10);
        for earlier in [0, 9, 10, 39, 40] {
            losses.on_reported(None, earlier, 10);
            assert_eq!(losses.lowest(), Some(40), "{earlier}");
        }
        losses.on_reported(None, 60, 10);
        assert_eq!(losses.lowest(), None);
        losses.on_reported(Some(40), 10, 60);
        assert_eq!(losses.lowest(), None, "an old message that came late");
        losses.on_reported(Some(70), 60, 60);
        assert_eq!(losses.lowest(), Some(70), "another loss");
    }

    #[test]
    fn a_loss_outlives_the_run_that_reported_it() {
        let mut losses = Losses::default();
        losses.on_reported(Some(40), 10, 10);
        losses.on_restart(100);
        losses.on_reported(None, 80, 10);
        losses.on_acked(99);
        assert_eq!(losses.lowest(), Some(40));
        losses.on_acked(100);
        assert_eq!(losses.lowest(), None);
    }

    #[test]
    fn many_losses_become_one_range_that_covers_them_all() {
        let mut losses = Losses::default();
        (0..1000).for_each(|at| losses.on_range(at * 10 + 100..at * 10 + 105, 0));
        assert!(losses.ranges.len() <= MOST);
        assert_eq!(losses.lowest(), Some(100));
        losses.on_acked(10_000);
        assert!(losses.lowest().is_some());
        losses.on_acked(10_095);
        assert_eq!(losses.lowest(), None);
    }

    #[test]
    fn a_later_higher_loss_does_not_hide_the_lower_one() {
        let mut losses = Losses::default();
        losses.on_reported(Some(40), 10, 10);
        losses.on_reported(Some(70), 10, 10);
        assert_eq!(losses.lowest(), Some(40));
    }
}
