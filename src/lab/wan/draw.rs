//! Random events, drawn ahead: how many datagrams pass before the next one is hit.
//!
//! Gaps between events of a fixed probability are geometric, so one random number serves a whole run of datagrams, and
//! the cost is per event, not per datagram. This module knows positions in a run, not packets.

use rand::Rng;

/// Events of one fixed probability per datagram.
#[derive(Clone, Debug)]
pub struct Draw {
    probability: f64,
    /// Datagrams that pass before the next event.
    clear: u64,
}

impl Draw {
    /// Creates events that hit each datagram independently with `probability`.
    pub fn new(probability: f64, rng: &mut impl Rng) -> Self {
        Self { probability, clear: gap(probability, rng) }
    }

    /// Passes `count` datagrams and calls `hit` with the position of each hit datagram, in rising order.
    #[inline]
    pub fn pass(&mut self, count: u64, rng: &mut impl Rng, mut hit: impl FnMut(u64)) {
        let mut at = 0;
        while self.clear < count - at {
            at += self.clear;
            hit(at);
            at += 1;
            self.clear = gap(self.probability, rng);
        }
        self.clear = self.clear.saturating_sub(count - at);
        if self.probability <= 0.0 {
            self.clear = u64::MAX;
        }
    }
}

/// Datagrams that pass before an event of this probability: geometric, from 0.
pub(super) fn gap(probability: f64, rng: &mut impl Rng) -> u64 {
    if probability <= 0.0 {
        return u64::MAX;
    }
    if probability >= 1.0 {
        return 0;
    }
    // In (0, 1]: the logarithm of zero would give an infinite gap.
    let uniform = 1.0 - rng.random::<f64>();
    let gap = uniform.ln() / (-probability).ln_1p();
    if gap >= 1e18 { u64::MAX - 1 } else { gap as u64 }
}
