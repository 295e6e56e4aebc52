//! The replay window of one sender: each counter is accepted once, in any order.
//!
//! It imports nothing of the appliance, so that other programs can use this crate alone. Call it only after the
//! datagram was opened, or a forger could move the window.

/// Counters that the window covers, the highest one included.
pub const SPAN: u64 = 1024;
const WORDS: usize = SPAN as usize / 64;

/// The window of one run of one sender.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    /// One past the highest counter taken.
    next: u64,
    /// Bit `c % SPAN`: counter `c` was taken, for the last [`SPAN`] counters.
    taken: [u64; WORDS],
}

impl ReplayWindow {
    /// Accepts a counter; false if it was taken before or is below the window.
    pub fn accept(&mut self, counter: u64) -> bool {
        // `next` would overflow.
        if counter == u64::MAX {
            return false;
        }
        if counter >= self.next {
            let skipped = (counter - self.next).min(SPAN);
            for stale in 0..skipped {
                self.clear(self.next + stale);
            }
            self.clear(counter);
            self.next = counter + 1;
        } else if self.next - counter > SPAN || self.is_taken(counter) {
            return false;
        }
        self.taken[Self::word(counter)] |= 1 << (counter % 64);
        true
    }

    fn word(counter: u64) -> usize {
        (counter / 64) as usize % WORDS
    }

    fn is_taken(&self, counter: u64) -> bool {
        self.taken[Self::word(counter)] & (1 << (counter % 64)) != 0
    }

    fn clear(&mut self, counter: u64) {
        self.taken[Self::word(counter)] &= !(1 << (counter % 64));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_window_accepts_what_a_set_accepts(steps in proptest::collection::vec((0..3u64, 0..3000u64), 1..400)) {
            let mut window = ReplayWindow::default();
            let (mut taken, mut next, mut base) = (HashSet::new(), 0, 0);
            for (leap, offset) in steps {
                base += leap * 700;
                let counter = base + offset;
                let fresh = counter + SPAN >= next && !taken.contains(&counter);
                prop_assert_eq!(window.accept(counter), fresh);
                if fresh {
                    taken.insert(counter);
                    next = next.max(counter + 1);
                }
            }
        }
    }

    #[test]
    fn a_far_leap_works_and_the_last_counter_is_refused() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(3));
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(3));
    }
}
