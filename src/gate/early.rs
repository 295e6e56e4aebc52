//! What a connection has acknowledged early and the mirror has not acknowledged itself yet, and how much of it was lost
//! later. Memory is bounded: when there are too many acknowledgements, two are joined to one. Decides nothing; the
//! appliance reports what is lost.

use std::collections::VecDeque;
use std::ops::Range;

/// Acknowledgements remembered one by one.
const MOST: usize = 4096;
/// Lost ranges remembered one by one; more than that count as one range from the first to the last.
const MOST_LOST: usize = 64;

/// An acknowledgement given early, or several.
#[derive(Clone, Copy, Debug)]
struct Given {
    /// The end of the bytes it acknowledges, in the stream toward the mirror.
    offset: u64,
    mark: u64,
    /// How many of its acknowledgements no loss has hit.
    whole: u64,
}

/// What a loss has hit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hit {
    /// Bytes that were not known to be lost.
    pub bytes: u64,
    /// How many of these were acknowledged early and not acknowledged by the mirror itself.
    pub acknowledged: u64,
    /// Early acknowledgements that depend on lost bytes, and that the mirror has not given itself.
    pub acknowledgements: u64,
}

/// What one connection has acknowledged early.
#[derive(Debug, Default)]
pub struct Early {
    given: VecDeque<Given>,
    /// The mirror has acknowledged everything up to this offset itself.
    real: u64,
    lost: Vec<Range<u64>>,
}

impl Early {
    /// Everything up to `offset`, which never falls, was acknowledged early with this mark.
    pub fn on_released(&mut self, offset: u64, mark: u64) {
        if self.given.back().is_some_and(|last| mark < last.mark) {
            // A new count has begun: the marks of the old one do not come again.
            self.given.clear();
        }
        if self.given.len() == MOST {
            self.thin_out();
        }
        self.given.push_back(Given { offset, mark, whole: 1 });
    }

    /// The mirror has acknowledged everything up to `mark` itself, which ends at `offset` if that is known.
    pub fn on_acknowledged(&mut self, mark: u64, offset: Option<u64>) {
        let done = self.given.partition_point(|given| given.mark <= mark);
        let last = self.given.drain(..done).next_back().map(|given| given.offset);
        self.real = self.real.max(last.unwrap_or(0)).max(offset.unwrap_or(0));
    }

    /// These bytes are lost although they had been called protected; the bytes sent end at `sent`.
    pub fn on_lost(&mut self, range: &Range<u64>, sent: u64) -> Hit {
        let range = range.start.min(sent)..range.end.min(sent);
        let reach = self.given.back().map_or(0, |last| last.offset);
        let mut hit = Hit::default();
        for new in self.news(&range) {
            let acknowledged = new.start.max(self.real)..new.end.min(reach);
            hit.bytes += new.end - new.start;
            hit.acknowledged += acknowledged.end.saturating_sub(acknowledged.start);
        }
        if range.end > self.real {
            // Each acknowledgement also covers everything before it.
            let behind = self.given.partition_point(|given| given.offset <= range.start);
            let behind = self.given.iter_mut().skip(behind);
            hit.acknowledgements = behind.map(|given| std::mem::take(&mut given.whole)).sum();
        }
        self.remember(range);
        hit
    }

    /// Whether a loss of this byte was reported.
    pub fn knows(&self, offset: u64) -> bool {
        self.lost.iter().any(|range| range.contains(&offset))
    }

    /// The parts of a range that were not known to be lost.
    fn news(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut start = range.start;
        let mut news = Vec::new();
        // The ranges are in order, and none overlaps another.
        for known in self.lost.iter().filter(|known| known.end > range.start && known.start < range.end) {
            if known.start > start {
                news.push(start..known.start);
            }
            start = start.max(known.end);
        }
        if start < range.end {
            news.push(start..range.end);
        }
        news
    }

    fn remember(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let touches = |known: &Range<u64>| known.start <= range.end && range.start <= known.end;
        let mut joined = range.clone();
        for known in self.lost.iter().filter(|known| touches(known)) {
            joined = joined.start.min(known.start)..joined.end.max(known.end);
        }
        self.lost.retain(|known| !touches(known));
        let at = self.lost.partition_point(|known| known.start < joined.start);
        self.lost.insert(at, joined);
        if self.lost.len() > MOST_LOST
            && let (Some(first), Some(last)) = (self.lost.first(), self.lost.last())
        {
            let all = first.start..last.end;
            self.lost.clear();
            self.lost.push(all);
        }
    }

    /// Joins every second acknowledgement with the next.
    fn thin_out(&mut self) {
        let mut rest = std::mem::take(&mut self.given).into_iter();
        while let Some(first) = rest.next() {
            self.given.push_back(match rest.next() {
                Some(second) => Given { whole: first.whole + second.whole, ..second },
                None => first,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_and_acknowledgements_hit_by_a_loss_are_counted_once() {
        let mut early = Early::default();
        for (offset, mark) in [(100, 1), (200, 2), (300, 3)] {
            early.on_released(offset, mark);
        }
        // All three depend on the range; some of its bytes are acknowledged by none of them.
        let hit = |bytes, acknowledged, acknowledgements| Hit { bytes, acknowledged, acknowledgements };
        assert_eq!(early.on_lost(&(90..110), 500), hit(20, 20, 3));
        assert_eq!(early.on_lost(&(90..110), 500), hit(0, 0, 0), "reported again");
        early.on_released(400, 4);
        assert_eq!(early.on_lost(&(100..150), 500), hit(40, 40, 1));
        assert_eq!(early.on_lost(&(390..450), 500), hit(60, 10, 0));
        assert_eq!(early.on_lost(&(490..u64::MAX), 500), hit(10, 0, 0), "no more than was sent");
        assert!(early.knows(149) && !early.knows(150) && early.knows(499));
        early.on_acknowledged(4, None);
        early.on_released(480, 5);
        assert_eq!(early.on_lost(&(200..300), 500), hit(100, 0, 0), "the mirror has it");
        assert_eq!(early.on_lost(&(450..470), 500), hit(20, 20, 1));
    }

    #[test]
    fn the_mirrors_own_acknowledgement_may_reach_further_than_the_early_ones() {
        let mut early = Early::default();
        early.on_released(100, 1);
        early.on_acknowledged(7, Some(400));
        early.on_released(500, 8);
        assert_eq!(early.on_lost(&(0..450), 600), Hit { bytes: 450, acknowledged: 50, acknowledgements: 1 });
    }

    proptest! {
        /// Compares with a model that remembers every byte and every acknowledgement.
        #[test]
        fn bytes_and_acknowledgements_are_those_of_a_model(
            steps in proptest::collection::vec((0..4u8, 0..40u64, 0..30u64), 1..60),
        ) {
            let mut early = Early::default();
            let (mut sent, mut mark, mut real, mut reach) = (0u64, 0u64, 0u64, 0u64);
            let mut lost = std::collections::BTreeSet::new();
            let mut given: Vec<(u64, u64, bool)> = vec![];
            for (what, at, len) in steps {
                match what {
                    0 => sent += at,
                    1 if sent > reach => {
                        (mark, reach) = (mark + 1, sent);
                        early.on_released(sent, mark);
                        given.push((sent, mark, false));
                    }
                    2 => {
                        let acknowledged = mark.saturating_sub(at % 3);
                        early.on_acknowledged(acknowledged, None);
                        for (offset, _, _) in given.iter().filter(|(_, mark, _)| *mark <= acknowledged) {
                            real = real.max(*offset);
                        }
                        given.retain(|(_, mark, _)| *mark > acknowledged);
                    }
                    _ => {
                        let range = at..at + len;
                        let clipped = range.start.min(sent)..range.end.min(sent);
                        let new: Vec<u64> = clipped.clone().filter(|byte| lost.insert(*byte)).collect();
                        let reach = given.last().map_or(0, |given| given.0);
                        let acknowledged = new.iter().filter(|byte| **byte >= real && **byte < reach).count() as u64;
                        let mut acknowledgements = 0;
                        for given in given.iter_mut().filter(|given| given.0 > clipped.start && clipped.end > real) {
                            acknowledgements += u64::from(!std::mem::replace(&mut given.2, true));
                        }
                        let hit = early.on_lost(&range, sent);
                        prop_assert_eq!(hit, Hit { bytes: new.len() as u64, acknowledged, acknowledgements });
                    }
                }
            }
        }

        #[test]
        fn memory_is_bounded_and_no_acknowledgement_is_forgotten(many in 1..20_000u64) {
            let mut early = Early::default();
            (1..=many).for_each(|mark| early.on_released(mark * 10, mark));
            prop_assert!(early.given.len() <= MOST);
            prop_assert_eq!(early.on_lost(&(0..1), many * 10).acknowledgements, many);
            (0..1000).for_each(|at| _ = early.on_lost(&(at * 8..at * 8 + 1), u64::MAX));
            prop_assert!(early.lost.len() <= MOST_LOST);
        }
    }
}
