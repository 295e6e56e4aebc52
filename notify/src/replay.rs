//! Which counters of one sender were seen: each is taken once, in whatever order they come.
//!
//! A small window of its own: this module imports nothing of ours, so that other programs can use it alone. Ask only
//! after the datagram was opened, or a forger could move the window.

/// Counters that are told apart below the highest one.
pub const SPAN: u64 = 1024;
const WORDS: usize = SPAN as usize / 64;

/// The window of one sender in one of its runs.
#[derive(Clone, Debug, Default)]
pub struct ReplayWindow {
    /// One past the highest counter taken.
    next: u64,
    /// Bit `c % SPAN`: counter `c` was taken, for the last [`SPAN`] counters.
    taken: [u64; WORDS],
}

impl ReplayWindow {
    /// Takes a counter; false when it was taken before or is too old to tell.
    pub fn accept(&mut self, counter: u64) -> bool {
        // The very last counter would leave no next one.
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
        fn agrees_with_a_set(steps in proptest::collection::vec((0..3u64, 0..3000u64), 1..400)) {
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
    fn far_leaps_are_cheap_and_the_end_is_refused() {
        let mut window = ReplayWindow::default();
        assert!(window.accept(3));
        assert!(window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX - 1));
        assert!(!window.accept(u64::MAX));
        assert!(!window.accept(3));
    }
}
