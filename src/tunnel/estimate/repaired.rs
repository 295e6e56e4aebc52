//! Losses of a full queue that the code has repaired: the senders of those packets have not heard of them.
//!
//! TCP slows down when it hears of a loss. A repaired flow does not hear, keeps its rate, and takes the share of flows beside
//! it that do (RFC 9265, section 4). So as many packets as the code has repaired are due to be dropped before they are put into
//! blocks, while the link is congested. Those losses do not count that the link always has: no sender needs to hear of them.

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
    /// A report: the peer has repaired `repaired` symbols since its start; `usual` losses come in the time of the report without
    /// congestion, and no more than `lost` were lost in it.
    pub fn on_report(&mut self, repaired: u64, usual: f64, lost: f64, is_congested: bool) {
        let more = self.repaired.replace(repaired).map_or(0, |last| repaired.saturating_sub(last));
        if is_congested {
            // A peer that claims to have repaired more than was lost is not believed.
            self.due = (self.due + (more as f64).min(lost.max(0.0)) - usual).clamp(0.0, DUE_MAX);
        } else {
            self.due = 0.0;
        }
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

    fn taken(losses: &mut RepairedLosses) -> usize {
        std::iter::from_fn(|| losses.take().then_some(())).take(1000).count()
    }

    #[test]
    fn repaired_losses_are_told_once_while_congested_less_the_usual_ones() {
        let mut losses = RepairedLosses::default();
        losses.on_report(1000, 0.0, 1000.0, true);
        assert_eq!(taken(&mut losses), 0, "the first report has only sums");
        losses.on_report(1005, 0.0, 5.0, false);
        assert_eq!(taken(&mut losses), 0, "no congestion");
        losses.on_report(1015, 2.0, 12.0, true);
        assert_eq!((taken(&mut losses), taken(&mut losses)), (8, 0));
        for _ in 0..100 {
            losses.on_report(1015, 2.0, 0.0, true);
        }
        losses.on_report(1018, 2.0, 3.0, true);
        assert_eq!(taken(&mut losses), 1, "there is no debt");
    }

    #[test]
    fn a_peer_that_lies_or_is_restarted_has_little_dropped() {
        let mut losses = RepairedLosses::default();
        losses.on_report(0, 0.0, 0.0, true);
        losses.on_report(u64::MAX, 0.0, 3.0, true);
        assert_eq!(taken(&mut losses), 3, "no more than was lost");
        losses.on_report(5, 0.0, 100.0, true);
        losses.on_report(u64::MAX / 2, 0.0, 1e9, true);
        assert_eq!(taken(&mut losses), DUE_MAX as usize);
        losses.on_new_epoch();
        losses.on_report(40, 0.0, 40.0, true);
        assert_eq!(taken(&mut losses), 0);
    }
}
