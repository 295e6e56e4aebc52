//! A link that loses in bursts, and the chance that a block is lost on it.
//!
//! The link is good or bad (E. N. Gilbert 1960, E. O. Elliott 1963). It changes at random: a state ends at a constant rate,
//! whatever came before. In each state a datagram is lost with the probability of that state. The states are in time, not in
//! datagrams: two symbols that leave together share one state, and a symbol that leaves long after another does not.
//!
//! [`GilbertElliott::block_failure`] is exact for a given send schedule. It counts the losses symbol by symbol, for both states,
//! and adds up the chance of one loss too many. All terms are positive, so small results are as exact as large ones, down to
//! about 1e-300. With equal losses in both states the result is [`residual`](super::residual::residual).

use std::time::Duration;

/// A link with two states.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GilbertElliott {
    pub(super) good_loss: f64,
    pub(super) bad_loss: f64,
    /// Changes from good to bad a second, while the link is good.
    worsens: f64,
    /// Changes from bad to good a second, while the link is bad.
    recovers: f64,
}

impl GilbertElliott {
    /// A link that is good for `good` and bad for `bad` in the mean, with a loss from 0 to 1 in each state. `None` where a
    /// loss is no probability or a time is zero.
    pub fn new(good_loss: f64, good: Duration, bad_loss: f64, bad: Duration) -> Option<Self> {
        let is_probability = |loss: f64| (0.0..=1.0).contains(&loss);
        let is_valid = is_probability(good_loss) && is_probability(bad_loss) && !good.is_zero() && !bad.is_zero();
        let (worsens, recovers) = (good.as_secs_f64().recip(), bad.as_secs_f64().recip());
        is_valid.then_some(Self { good_loss, bad_loss, worsens, recovers })
    }

    /// The loss while the link is good.
    pub fn good_loss(&self) -> f64 {
        self.good_loss
    }

    /// The loss while the link is bad.
    pub fn bad_loss(&self) -> f64 {
        self.bad_loss
    }

    /// How long the link stays good, in the mean, in seconds.
    pub fn good_seconds(&self) -> f64 {
        self.worsens.recip()
    }

    /// How long the link stays bad, in the mean, in seconds.
    pub fn bad_seconds(&self) -> f64 {
        self.recovers.recip()
    }

    /// The share of time in which the link is bad.
    pub fn bad_share(&self) -> f64 {
        self.worsens / (self.worsens + self.recovers)
    }

    /// The share of datagrams that is lost, if they leave evenly.
    pub fn mean_loss(&self) -> f64 {
        let bad = self.bad_share();
        (1.0 - bad) * self.good_loss + bad * self.bad_loss
    }

    /// The chances to be bad after `time` if good now, and to be good after it if bad now.
    pub(super) fn changes(&self, time: Duration) -> (f64, f64) {
        let forgotten = -(-(self.worsens + self.recovers) * time.as_secs_f64()).exp_m1();
        let bad = self.bad_share();
        (bad * forgotten, (1.0 - bad) * forgotten)
    }

    /// The chance that more than `repair_symbols` of the symbols that leave at these times are lost. The times rise, from any
    /// beginning; the block begins in either state as often as the link is in it.
    pub fn block_failure(&self, schedule: &[Duration], repair_symbols: usize) -> f64 {
        if schedule.len() <= repair_symbols {
            return 0.0;
        }
        // How likely the link is in each state after so many losses.
        let mut good = vec![0.0; repair_symbols + 1];
        let mut bad = good.clone();
        (good[0], bad[0]) = (1.0 - self.bad_share(), self.bad_share());
        let mut failed = 0.0;
        let mut last = schedule[0];
        for (sent, &at) in schedule.iter().enumerate() {
            let losses = sent.min(repair_symbols);
            if at > last {
                let (to_bad, to_good) = self.changes(at - last);
                for (good, bad) in good.iter_mut().zip(&mut bad).take(losses + 1) {
                    let change = (*good * to_bad, *bad * to_good);
                    *good = *good * (1.0 - to_bad) + change.1;
                    *bad = *bad * (1.0 - to_good) + change.0;
                }
                last = at;
            }
            if sent >= repair_symbols {
                failed += good[repair_symbols] * self.good_loss + bad[repair_symbols] * self.bad_loss;
            }
            for (state, loss) in [(&mut good, self.good_loss), (&mut bad, self.bad_loss)] {
                for count in (1..=(sent + 1).min(repair_symbols)).rev() {
                    state[count] = state[count] * (1.0 - loss) + state[count - 1] * loss;
                }
                state[0] *= 1.0 - loss;
            }
        }
        failed
    }

    /// The fewest repair symbols, up to `most`, with which a block is lost no likelier than `target`. `schedule` gives the
    /// times of all symbols for a number of repair symbols; one more may only add times behind those that there are. `None` if
    /// even `most` is not enough.
    pub fn fewest_repair_symbols(
        &self,
        target: f64,
        most: usize,
        mut schedule: impl FnMut(usize) -> Vec<Duration>,
    ) -> Option<usize> {
        let mut is_enough = |m: usize| self.block_failure(&schedule(m), m) <= target;
        // One symbol more is at most one loss more, so more repair symbols never make it worse.
        let (mut too_few, mut enough) = (None, 1);
        if is_enough(0) {
            return Some(0);
        }
        while !is_enough(enough.min(most)) {
            if enough >= most {
                return None;
            }
            (too_few, enough) = (Some(enough), 2 * enough);
        }
        let (mut low, mut high) = (too_few.unwrap_or(0), enough.min(most));
        while high - low > 1 {
            let middle = low.midpoint(high);
            if is_enough(middle) { high = middle } else { low = middle }
        }
        Some(high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fec::residual::residual;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn link(good_loss: f64, good_ms: u32, bad_loss: f64, bad_ms: u32) -> GilbertElliott {
        GilbertElliott::new(good_loss, MS * good_ms, bad_loss, MS * bad_ms).unwrap()
    }

    fn evenly(symbols: usize, apart: Duration) -> Vec<Duration> {
        (0..symbols as u32).map(|number| apart * number).collect()
    }

    #[track_caller]
    fn assert_close(found: f64, expected: f64, within: f64) {
        let error = (found / expected - 1.0).abs();
        assert!(error < within || (found == 0.0 && expected == 0.0), "{found:e} is not {expected:e}: off by {error:e}");
    }

    /// The sum over all sequences of states and all patterns of losses.
    fn enumerated(link: &GilbertElliott, schedule: &[Duration], m: usize) -> f64 {
        let n = schedule.len();
        let mut failed = 0.0;
        for states in 0_u32..1 << n {
            let is_bad = |at: usize| states >> at & 1 == 1;
            let mut path = if is_bad(0) { link.bad_share() } else { 1.0 - link.bad_share() };
            for at in 1..n {
                let (to_bad, to_good) = link.changes(schedule[at] - schedule[at - 1]);
                path *= match (is_bad(at - 1), is_bad(at)) {
                    (false, true) => to_bad,
                    (false, false) => 1.0 - to_bad,
                    (true, false) => to_good,
                    (true, true) => 1.0 - to_good,
                };
            }
            for lost in (0_u32..1 << n).filter(|lost| lost.count_ones() as usize > m) {
                let chance = |at: usize| {
                    let loss = if is_bad(at) { link.bad_loss } else { link.good_loss };
                    if lost >> at & 1 == 1 { loss } else { 1.0 - loss }
                };
                failed += path * (0..n).map(chance).product::<f64>();
            }
        }
        failed
    }

    proptest! {
        #[test]
        fn the_chance_equals_the_sum_over_all_states_and_patterns(
            (good_loss, bad_loss) in (0.0..=0.2, 0.0..=1.0),
            (good_ms, bad_ms) in (1u32..1000, 1u32..50),
            pauses in prop::collection::vec(0u32..30, 1..6),
            m in 0usize..6,
        ) {
            let link = link(good_loss, good_ms, bad_loss, bad_ms);
            let mut at = Duration::from_secs(3);
            let schedule: Vec<_> = pauses.iter().map(|&pause| { at += MS * pause; at }).collect();
            assert_close(link.block_failure(&schedule, m), enumerated(&link, &schedule, m), 1e-9);
        }

        #[test]
        fn more_repair_symbols_never_make_a_block_likelier_to_be_lost(
            bad_loss in 0.0..=1.0,
            (k, apart_us) in (1usize..40, 0u32..3000),
            m in 0usize..12,
        ) {
            let link = link(0.001, 400, bad_loss, 3);
            let failure = |m| link.block_failure(&evenly(k + m, Duration::from_micros(apart_us.into())), m);
            prop_assert!(failure(m + 1) <= failure(m) * (1.0 + 1e-12));
        }
    }

    #[test]
    fn a_link_with_equal_losses_has_no_bursts() {
        for (k, m, p) in [(32, 8, 0.001), (32, 4, 0.01), (1, 1, 8e-9), (1000, 100, 0.05), (2000, 30, 0.002)] {
            let found = link(p, 100, p, 7).block_failure(&evenly(k + m, Duration::from_micros(17)), m);
            assert_close(found, residual(k, m, p), 1e-9);
        }
    }

    #[test]
    fn thirty_two_with_eight_are_safe_from_single_losses_and_not_from_bursts() {
        let schedule = evenly(40, MS);
        assert_close(link(0.001, 100, 0.001, 7).block_failure(&schedule, 8), 2.66e-19, 0.01);
        // The same mean loss in interruptions of five milliseconds.
        let bursts = link(0.0, 4995, 1.0, 5);
        assert_close(bursts.mean_loss(), 0.001, 1e-9);
        let found = bursts.block_failure(&schedule, 8);
        assert!((5e-4..5e-3).contains(&found), "{found:e}");
    }

    #[test]
    fn repair_that_leaves_after_the_burst_saves_a_lone_commit() {
        // Four symbols at once and four behind them; interruptions of about a millisecond, each second.
        let link = link(0.0, 1000, 1.0, 1);
        let together = vec![Duration::ZERO; 8];
        let apart: Vec<_> = [Duration::ZERO; 4].into_iter().chain([20 * MS; 4]).collect();
        let [together, apart] = [together, apart].map(|schedule| link.block_failure(&schedule, 4));
        assert_close(together, link.bad_share(), 1e-9);
        assert!(apart < together / 100.0, "{apart:e} of {together:e}");
    }

    #[test]
    fn the_fewest_repair_symbols_are_enough_and_one_less_is_not() {
        for (link, k) in
            [(link(0.001, 500, 0.3, 5), 32), (link(0.0001, 5000, 1.0, 1), 4), (link(0.0, 900, 0.9, 9), 200)]
        {
            let schedule = |m| evenly(k + m, Duration::from_micros(300));
            for target in [1e-3, 1e-6, 1e-9] {
                let m = link.fewest_repair_symbols(target, 2000, schedule).unwrap();
                assert!(link.block_failure(&schedule(m), m) <= target);
                assert!(m == 0 || link.block_failure(&schedule(m - 1), m - 1) > target, "{m} for {target}");
            }
        }
        let at_once = |m| vec![Duration::ZERO; 4 + m];
        assert_eq!(link(0.0, 900, 1.0, 9).fewest_repair_symbols(1e-6, 4000, at_once), None, "no time to spread over");
        assert_eq!(link(0.0, 900, 0.0, 9).fewest_repair_symbols(1e-6, 10, at_once), Some(0));
    }

    #[test]
    fn what_is_no_link_is_refused() {
        for (good_loss, bad_loss) in [(-0.1, 0.5), (0.1, 1.1), (f64::NAN, 0.5), (0.1, f64::INFINITY)] {
            assert_eq!(GilbertElliott::new(good_loss, MS, bad_loss, MS), None);
        }
        assert_eq!(GilbertElliott::new(0.1, Duration::ZERO, 0.2, MS), None);
        assert_eq!(GilbertElliott::new(0.1, MS, 0.2, Duration::ZERO), None);
    }
}
