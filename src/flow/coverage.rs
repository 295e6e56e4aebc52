//! Which bytes of one flow have reached one level: a contiguous beginning, and a bounded number of islands behind it.
//!
//! Offsets count from the beginning of the flow. Sequence numbers and blocks are not known here.

/// Islands remembered. Beyond, the highest is forgotten; its bytes count once the peer acknowledges them.
pub(super) const ISLANDS_MAX: usize = 32;

/// A place in a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub offset: u64,
    /// Packets before the offset, in flows that count packets; such a flow has marks between packets only.
    pub packets: u64,
}

/// From one place to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: Mark,
    pub end: Mark,
}

impl Span {
    fn join(self, other: Self) -> Self {
        let start = if other.start.offset < self.start.offset { other.start } else { self.start };
        let end = if other.end.offset > self.end.offset { other.end } else { self.end };
        Self { start, end }
    }
}

#[derive(Debug, Default)]
pub(super) struct Coverage {
    mark: Mark,
    /// Sorted, not touching each other, all behind `mark`.
    islands: Vec<Span>,
}

impl Coverage {
    pub fn mark(&self) -> Mark {
        self.mark
    }

    /// Starts empty again; keeps its memory.
    pub fn clear(&mut self) {
        self.mark = Mark::default();
        self.islands.clear();
    }

    /// Adds `span`. Returns false if a span had to be forgotten.
    pub fn add(&mut self, span: Span) -> bool {
        if span.start.offset <= self.mark.offset {
            self.advance_to(span.end);
            return true;
        }
        let first = self.islands.partition_point(|island| island.end.offset < span.start.offset);
        let touching = self.islands[first..].iter().take_while(|island| island.start.offset <= span.end.offset);
        let (count, joined) = touching.fold((0, span), |(count, sum), island| (count + 1, sum.join(*island)));
        if count > 0 {
            self.islands[first] = joined;
            self.islands.drain(first + 1..first + count);
            return true;
        }
        let full = self.islands.len() == ISLANDS_MAX;
        if full {
            if first == ISLANDS_MAX {
                return false;
            }
            self.islands.pop();
        }
        self.islands.insert(first, span);
        !full
    }

    /// Everything before `mark` is covered, whatever was recorded.
    pub fn advance_to(&mut self, mark: Mark) {
        if mark.offset <= self.mark.offset {
            return;
        }
        self.mark = mark;
        let mut reached = 0;
        while let Some(island) = self.islands.get(reached).filter(|island| island.start.offset <= self.mark.offset) {
            if island.end.offset > self.mark.offset {
                self.mark = island.end;
            }
            reached += 1;
        }
        if reached > 0 {
            self.islands.drain(..reached);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn span(start: u64, end: u64) -> Span {
        let mark = |offset| Mark { offset, packets: offset / 10 };
        Span { start: mark(start), end: mark(end) }
    }

    #[test]
    fn beyond_the_limit_the_highest_island_is_forgotten() {
        let mut coverage = Coverage::default();
        for island in 1..=ISLANDS_MAX as u64 {
            assert!(coverage.add(span(island * 10, island * 10 + 5)));
        }
        let last = ISLANDS_MAX as u64 * 10;
        assert!(!coverage.add(span(last + 10, last + 15)), "the new one is the highest");
        assert!(!coverage.add(span(6, 8)), "the last one is forgotten");
        assert!(coverage.islands.iter().all(|island| island.end.offset < last));
        assert_eq!(coverage.islands.len(), ISLANDS_MAX);
    }

    #[test]
    fn packet_counts_follow_the_marks() {
        let mut coverage = Coverage::default();
        for (start, end) in [(20, 30), (10, 20), (40, 50)] {
            coverage.add(span(start, end));
        }
        coverage.advance_to(Mark { offset: 20, packets: 2 });
        assert_eq!(coverage.mark(), Mark { offset: 30, packets: 3 });
        coverage.add(span(30, 40));
        assert_eq!(coverage.mark(), Mark { offset: 50, packets: 5 });
    }

    proptest! {
        #[test]
        fn agrees_with_a_set_of_bytes(steps in prop::collection::vec((0usize..190, 1usize..12, prop::bool::weighted(0.1)), 1..120)) {
            let mut coverage = Coverage::default();
            let mut bytes = [false; 256];
            let mut forgotten = false;
            for (start, len, acknowledged) in steps {
                if acknowledged {
                    bytes[..start].fill(true);
                    coverage.advance_to(Mark { offset: start as u64, packets: 0 });
                } else {
                    bytes[start..start + len].fill(true);
                    forgotten |= !coverage.add(span(start as u64, (start + len) as u64));
                }
                let contiguous = bytes.iter().take_while(|&&set| set).count() as u64;
                prop_assert!(coverage.mark().offset <= contiguous);
                prop_assert!(forgotten || coverage.mark().offset == contiguous);
                prop_assert!(coverage.islands.windows(2).all(|pair| pair[0].end.offset < pair[1].start.offset));
                prop_assert!(coverage.islands.first().is_none_or(|first| first.start.offset > coverage.mark().offset));
            }
        }
    }
}
