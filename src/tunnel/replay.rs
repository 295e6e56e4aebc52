//! The replay window of one sender lane in one session: each counter is accepted once, in any order of arrival.
//!
//! A ring of words as in RFC 6479: moving forward clears whole words instead of shifting bits. Check a counter only
//! after the datagram was opened, or a forger could move the window. The window knows neither lanes nor sessions: the
//! receiving side keeps one for each lane of each session.

/// Words of the ring: a power of two, 16 KiB in all.
const WORDS: usize = 2048;

/// Whether a counter is new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// First time: accept the datagram.
    Fresh,
    /// Seen before.
    Replayed,
    /// Too far behind the highest to be remembered.
    TooOld,
}

/// Remembers at least the 131,008 counters behind the highest one.
#[derive(Clone)]
pub struct ReplayWindow {
    highest: u64,
    /// Bit c % 64 of word c / 64 % WORDS: counter c was seen. Words ahead of the highest are stale, those behind are
    /// valid.
    seen: Box<[u64; WORDS]>,
}

impl ReplayWindow {
    /// Counters behind the highest that are always remembered.
    pub const SPAN: u64 = (WORDS as u64 - 1) * 64;

    /// A window that has seen nothing.
    pub fn new() -> Self {
        Self { highest: 0, seen: Box::new([0; WORDS]) }
    }

    /// Checks a counter and remembers it.
    #[inline]
    pub fn accept(&mut self, counter: u64) -> Freshness {
        let word = counter / 64;
        let newest = self.highest / 64;
        if word > newest {
            // A jump over the whole ring clears each word once, whatever its length.
            for stale in 1..=(word - newest).min(WORDS as u64) {
                self.seen[Self::slot(newest.wrapping_add(stale))] = 0;
            }
            self.highest = counter;
        } else if newest - word >= WORDS as u64 {
            return Freshness::TooOld;
        } else {
            self.highest = self.highest.max(counter);
        }
        let bit = 1 << (counter % 64);
        let word = &mut self.seen[Self::slot(word)];
        if *word & bit != 0 {
            return Freshness::Replayed;
        }
        *word |= bit;
        Freshness::Fresh
    }

    /// The highest counter accepted so far; 0 also before the first.
    pub fn highest(&self) -> u64 {
        self.highest
    }

    fn slot(word: u64) -> usize {
        (word % WORDS as u64) as usize
    }
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for ReplayWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplayWindow(highest {})", self.highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Freshness::{Fresh, Replayed, TooOld};
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn counters_at_the_edges_of_the_window() {
        let span = ReplayWindow::SPAN;
        assert!(span >= 65_536);
        let rows: &[&[(u64, Freshness)]] = &[
            &[(0, Fresh), (0, Replayed), (1, Fresh), (0, Replayed), (1, Replayed)],
            &[(63, Fresh), (64, Fresh), (63, Replayed), (62, Fresh), (64, Replayed)],
            &[(5, Fresh), (span + 5, Fresh), (5, Replayed), (6, Fresh), (span + 5, Replayed)],
            &[(span + 64, Fresh), (0, TooOld), (63, TooOld), (64, Fresh), (64, Replayed)],
            &[(7, Fresh), (7 + 64 * WORDS as u64, Fresh), (7, TooOld), (7 + 64 * WORDS as u64, Replayed)],
            &[(1, Fresh), (u64::MAX, Fresh), (u64::MAX, Replayed), (1, TooOld), (u64::MAX - span, Fresh)],
            &[(u64::MAX, Fresh), (0, TooOld), (u64::MAX - 1, Fresh)],
        ];
        for row in rows {
            let mut window = ReplayWindow::new();
            for (step, &(counter, wanted)) in row.iter().enumerate() {
                assert_eq!(window.accept(counter), wanted, "step {step} of {row:?}");
            }
        }
    }

    /// Steps relative to the highest so far, at every distance that matters.
    fn steps() -> impl Strategy<Value = Vec<i64>> {
        let near = -130..130i64;
        let edge = 64 * WORDS as i64;
        let far = prop_oneof![-edge - 200..-edge + 200, edge - 200..edge + 200, -edge..edge];
        proptest::collection::vec(prop_oneof![4 => near, 1 => far, 1 => 0..1_000_000_000i64], 1..400)
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_all_counters_seen(start in prop_oneof![Just(0), 0..u64::MAX], steps in steps()) {
            let mut window = ReplayWindow::new();
            let mut model = HashSet::new();
            let mut highest = start;
            for step in std::iter::once(0).chain(steps) {
                let counter = highest.saturating_add_signed(step);
                highest = highest.max(counter);
                let wanted = if highest / 64 - counter / 64 >= WORDS as u64 {
                    TooOld
                } else if model.insert(counter) {
                    Fresh
                } else {
                    Replayed
                };
                prop_assert_eq!(window.accept(counter), wanted);
                prop_assert_eq!(window.highest(), highest);
            }
        }
    }
}
