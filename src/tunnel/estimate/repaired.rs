//! Losses of a full queue that the code has repaired: the senders of those packets have not heard of them.
//!
//! TCP slows down when it hears of a loss. A repaired flow does not hear, keeps its rate, and takes the share of flows beside
//! it that do (RFC 9265, section 4). So as many packets as the code has repaired are due to be dropped before they are put into
//! blocks, while the link is congested. Those losses do not count that the link always has: no sender needs to hear of them.
//! Where these are not known, only long runs count, each once: a queue that overflows drops whole trains.

use super::evidence::Interval;

/// More are not kept: what was not dropped soon is no news for anybody.
const DUE_MAX: f64 = 64.0;

/// How many repaired losses no sender has heard of.
#[derive(Debug, Default)]
pub struct RepairedLosses {
    /// What the peer has repaired of what was sent to its present run.
    repaired: Option<u64>,
    due: f64,
}

impl RepairedLosses {
    /// A report: the peer has repaired `repaired` symbols since its start. In the time of the report `usual` losses come without
    /// congestion, `None` if that is not known.
    pub fn on_report(&mut self, repaired: u64, usual: Option<f64>, interval: &Interval, is_congested: bool) {
        let more = self.repaired.replace(repaired).map_or(0, |last| repaired.saturating_sub(last));
        // A peer that claims to have repaired more than was lost is not believed.
        let more = (more as f64).min(interval.lost.max(0.0));
        let unheard = usual.map_or(interval.long_runs.min(more), |usual| more - usual);
        self.due = if is_congested { (self.due + unheard).clamp(0.0, DUE_MAX) } else { 0.0 };
    }

    /// The peer was restarted: it counts from zero.
    pub fn on_new_epoch(&mut self) {
        self.repaired = None;
    }

    /// Whether one is due to be told; it is then.
    pub fn take(&mut self) -> bool {
        let is_due = self.due >= 1.0;
        self.due -= f64::from(u8::from(is_due));
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(losses: &mut RepairedLosses, repaired: u64, usual: f64, lost: f64, is_congested: bool) {
        let interval = Interval { datagrams: 1e4, lost, runs: lost, long_runs: 0.0 };
        losses.on_report(repaired, Some(usual), &interval, is_congested);
    }

    fn taken(losses: &mut RepairedLosses) -> usize {
        std::iter::from_fn(|| losses.take().then_some(())).take(1000).count()
    }

    #[test]
    fn repaired_losses_are_told_once_while_congested_less_the_usual_ones() {
        let mut losses = RepairedLosses::default();
        report(&mut losses, 1000, 0.0, 1000.0, true);
        assert_eq!(taken(&mut losses), 0, "the first report has only sums");
        report(&mut losses, 1005, 0.0, 5.0, false);
        assert_eq!(taken(&mut losses), 0, "no congestion");
        report(&mut losses, 1015, 2.0, 12.0, true);
        assert_eq!((taken(&mut losses), taken(&mut losses)), (8, 0));
        for _ in 0..100 {
            report(&mut losses, 1015, 2.0, 0.0, true);
        }
        report(&mut losses, 1018, 2.0, 3.0, true);
        assert_eq!(taken(&mut losses), 1, "there is no debt");
    }

    #[test]
    fn a_peer_that_lies_or_is_restarted_has_little_dropped() {
        let mut losses = RepairedLosses::default();
        report(&mut losses, 0, 0.0, 0.0, true);
        report(&mut losses, u64::MAX, 0.0, 3.0, true);
        assert_eq!(taken(&mut losses), 3, "no more than was lost");
        report(&mut losses, 5, 0.0, 100.0, true);
        report(&mut losses, u64::MAX / 2, 0.0, 1e9, true);
        assert_eq!(taken(&mut losses), DUE_MAX as usize);
        losses.on_new_epoch();
        report(&mut losses, 40, 0.0, 40.0, true);
        assert_eq!(taken(&mut losses), 0);
    }

    #[test]
    fn where_the_usual_loss_is_unknown_a_long_run_counts_once() {
        let mut losses = RepairedLosses::default();
        let interval = |long_runs| Interval { datagrams: 1e4, lost: 40.0, runs: 20.0, long_runs };
        losses.on_report(0, None, &interval(0.0), true);
        losses.on_report(40, None, &interval(0.0), true);
        assert_eq!(taken(&mut losses), 0, "random losses");
        losses.on_report(80, None, &interval(2.0), true);
        assert_eq!(taken(&mut losses), 2);
        losses.on_report(80, None, &interval(2.0), true);
        assert_eq!(taken(&mut losses), 0, "nothing was repaired: the senders have heard");
    }
}
