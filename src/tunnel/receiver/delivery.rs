//! The order in which ADUs leave, and how long a hole waits.

use std::ops::RangeInclusive;
use std::time::Duration;

/// The order in which ADUs leave, and how long a hole waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// ADUs leave in the order in which they were sent; otherwise each leaves as soon as it is whole.
    pub strict: bool,
    /// The least time that a hole waits.
    pub hold: Duration,
    /// The most, if symbols come that late.
    pub hold_max: Duration,
}

impl Delivery {
    /// The shortest and the longest wait of a hole.
    pub(super) fn bounds(&self) -> RangeInclusive<Duration> {
        self.hold..=self.hold_max.max(self.hold)
    }
}
