//! Sets of bytes as sorted spans.
//!
//! The meaning of the bytes is not known here.

/// A set of bytes, as spans that neither overlap nor touch.
#[derive(Clone, Debug, Default)]
pub struct Spans(Vec<(u32, u32)>);

impl Spans {
    /// Adds the bytes from `start` to before `end`.
    pub fn add(&mut self, start: u32, end: u32) {
        if start >= end {
            return;
        }
        let first = self.0.partition_point(|&(_, known)| known < start);
        let last = first + self.0[first..].partition_point(|&(known, _)| known <= end);
        let touched = &self.0[first..last];
        let start = touched.first().map_or(start, |&(known, _)| known.min(start));
        let end = touched.last().map_or(end, |&(_, known)| known.max(end));
        self.0.splice(first..last, [(start, end)]);
    }

    /// The first byte that is missing.
    pub fn contiguous(&self) -> u32 {
        self.0.first().filter(|&&(start, _)| start == 0).map_or(0, |&(_, end)| end)
    }

    /// Whether all bytes before `end` are in the set.
    pub fn has_all_before(&self, end: u32) -> bool {
        self.contiguous() >= end
    }
}

#[test]
fn spans_are_joined_where_they_touch() {
    let mut spans = Spans::default();
    for (start, end, contiguous) in
        [(5, 9, 0), (0, 3, 3), (12, 20, 3), (9, 12, 3), (2, 6, 20), (7, 8, 20), (20, 21, 21)]
    {
        spans.add(start, end);
        assert_eq!(spans.contiguous(), contiguous, "{spans:?}");
    }
    assert!(spans.has_all_before(21) && !spans.has_all_before(22));
}
