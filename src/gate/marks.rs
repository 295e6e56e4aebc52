//! The marks that wait in one connection: positions in the stream toward the mirror that the primary waits for.
//!
//! Memory is bounded: when there are too many marks, every second one is dropped, and what it stood for is released
//! with the next: later, never earlier. This module does not know whether an offset is protected.

use std::collections::VecDeque;
use std::time::Instant;

/// Marks of a connection that may wait.
const MOST: usize = 16_384;

/// A mark that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Bytes of the stream toward the mirror, as its socket counts them, up to and including the last byte of the mark.
    pub offset: u64,
    /// The protocol's own number.
    pub mark: u64,
    /// When it was noted.
    pub since: Instant,
}

/// All marks that wait, in the order of the stream.
#[derive(Debug)]
pub struct Marks {
    queue: VecDeque<Waiting>,
    most: usize,
}

impl Default for Marks {
    fn default() -> Marks {
        Marks::bounded(MOST)
    }
}

impl Marks {
    /// At most `most` marks, 2 or more.
    fn bounded(most: usize) -> Marks {
        Marks { queue: VecDeque::new(), most }
    }

    /// Notes that the mark ends at `offset`, which never falls. A mark below an earlier one begins a new count: the
    /// marks of the old count are forgotten, and so are never released.
    pub fn note(&mut self, offset: u64, mark: u64, now: Instant) {
        match self.queue.back() {
            Some(last) if mark < last.mark => self.queue.clear(),
            // Released at the offset that was noted for it first.
            Some(last) if mark == last.mark => return,
            Some(last) if offset <= last.offset => {
                self.queue.pop_back();
            }
            _ => {}
        }
        if self.queue.len() >= self.most {
            self.thin_out();
        }
        self.queue.push_back(Waiting { offset, mark, since: now });
    }

    /// The mirror has acknowledged everything up to `mark` itself: these marks no longer wait. Returns the last of
    /// them.
    pub fn on_acknowledged(&mut self, mark: u64) -> Option<Waiting> {
        let done = self.queue.partition_point(|waiting| waiting.mark <= mark);
        self.queue.drain(..done).next_back()
    }

    /// Removes all marks up to the last one for which `holds`, and returns that one. `holds` must be true of every
    /// earlier one too.
    pub fn release(&mut self, holds: impl Fn(&Waiting) -> bool) -> Option<Waiting> {
        // Usually nothing is to be released, or everything.
        if !self.queue.front().is_some_and(&holds) {
            return None;
        }
        let done = match self.queue.back().is_some_and(&holds) {
            true => self.queue.len(),
            false => self.queue.partition_point(holds),
        };
        self.queue.drain(..done).next_back()
    }

    /// The mark that has waited longest.
    pub fn oldest(&self) -> Option<&Waiting> {
        self.queue.front()
    }

    /// Whether no mark waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many marks wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Drops every second mark, but never the last.
    fn thin_out(&mut self) {
        let count = self.queue.len();
        let mut at = 0;
        self.queue.retain(|_| {
            at += 1;
            at % 2 == 0 || at == count
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn marks_are_released_in_order_and_acknowledged_ones_never() {
        let now = Instant::now();
        let mut marks = Marks::default();
        for (offset, mark) in [(10, 1), (20, 2), (20, 3), (30, 4), (40, 4)] {
            marks.note(offset, mark, now);
        }
        assert_eq!(marks.len(), 3);
        assert_eq!(marks.release(|waiting| waiting.offset <= 9), None);
        assert_eq!(marks.release(|waiting| waiting.offset <= 25).map(|it| it.mark), Some(3));
        marks.on_acknowledged(4);
        assert!(marks.is_empty());
        assert_eq!(marks.release(|_| true), None);
    }

    #[test]
    fn a_new_count_forgets_the_old_one() {
        let now = Instant::now();
        let mut marks = Marks::default();
        marks.note(10, 900, now);
        marks.note(20, 5, now);
        assert_eq!(marks.len(), 1);
        assert_eq!(marks.release(|waiting| waiting.offset <= 10), None, "offset 10 belonged to the old count");
        assert_eq!(marks.release(|_| true), Some(Waiting { offset: 20, mark: 5, since: now }));
    }

    proptest! {
        /// Whatever is noted, acknowledged and released, the bounded queue never releases a mark before the exact one.
        #[test]
        fn a_bounded_queue_releases_later_and_never_earlier(
            steps in proptest::collection::vec((0..4u8, 0..20u64, 0..4u64), 1..300), most in 2..9usize,
        ) {
            let start = Instant::now();
            let mut marks = Marks::bounded(most);
            let mut exact: Vec<(u64, u64)> = vec![];
            let (mut offset, mut mark, mut covered) = (0, 0, 0);
            for (what, far, more) in steps {
                match what {
                    0 | 1 => {
                        offset += far;
                        mark += more;
                        marks.note(offset, mark, start);
                        exact.push((offset, mark));
                    }
                    2 => drop(marks.on_acknowledged(mark.saturating_sub(more))),
                    _ => {
                        covered = (covered + far * 3).min(offset);
                        if let Some(released) = marks.release(|waiting| waiting.offset <= covered) {
                            let may = exact.iter().filter(|(at, _)| *at <= covered).map(|(_, mark)| *mark).max();
                            prop_assert!(may.is_some_and(|may| released.mark <= may));
                            prop_assert!(released.offset <= covered);
                        }
                    }
                }
                prop_assert!(marks.len() <= most);
            }
            // Nothing is lost: when everything is covered, the last mark that was not acknowledged is released.
            let last = marks.queue.back().map(|waiting| waiting.mark);
            prop_assert!(last.is_none_or(|last| last == mark));
            prop_assert_eq!(marks.release(|_| true).map(|it| it.mark), last);
        }
    }
}
