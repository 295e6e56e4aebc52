//! The violations that are known here, out of those that the publisher has counted.
//!
//! While one is unknown, no claim can be trusted: the unknown violation may have made it void.

use std::collections::BTreeSet;

/// The most numbers remembered individually.
const MAX_AHEAD: usize = 1024;

/// The numbers of the violations of one run of the publisher.
#[derive(Debug)]
pub struct Violations {
    /// All violations up to this number are known, or older than the subscription.
    known: u64,
    ahead: BTreeSet<u64>,
    /// How many the publisher has counted.
    highest: u64,
}

impl Violations {
    /// `before` violations were counted when the subscription began: the affected flows report those themselves.
    pub fn new(before: u64) -> Violations {
        Violations { known: before, ahead: BTreeSet::new(), highest: before }
    }

    /// Violation `number` is known now. Returns whether it was unknown before.
    pub fn on_number(&mut self, number: u64) -> bool {
        self.on_highest(number);
        let mut news = number > self.known;
        if news && self.ahead.len() < MAX_AHEAD {
            news = self.ahead.insert(number);
        }
        while self.ahead.first().is_some_and(|first| *first == self.known + 1) {
            self.ahead.pop_first();
            self.known += 1;
        }
        news
    }

    /// The publisher has counted `count` violations.
    pub fn on_highest(&mut self, count: u64) {
        self.highest = self.highest.max(count);
    }

    /// Whether all counted violations are known.
    pub fn are_known(&self) -> bool {
        self.known == self.highest
    }

    /// A dump is complete. At its end `count` violations were counted, and it contains the flows that they affect.
    pub fn settle(&mut self, count: u64) {
        self.known = self.known.max(count);
        self.ahead = self.ahead.split_off(&(self.known + 1));
        self.on_highest(count);
        self.on_number(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_violation_is_noticed() {
        let mut violations = Violations::new(5);
        assert!(violations.are_known());
        assert!(violations.on_number(7));
        assert!(!violations.are_known() && !violations.on_number(7), "received twice");
        assert!(violations.on_number(6) && !violations.on_number(6) && !violations.on_number(5));
        assert!(violations.are_known());
        violations.on_highest(8);
        assert!(!violations.are_known());
        violations.settle(8);
        assert!(violations.are_known());
        violations.on_number(10);
        violations.on_number(11);
        assert!(!violations.are_known());
        violations.settle(9);
        assert!(violations.are_known());
    }

    #[test]
    fn numbers_far_ahead_cost_bounded_memory_and_a_page_settles_them() {
        let mut violations = Violations::new(0);
        (2..10_000).for_each(|number| _ = violations.on_number(number));
        assert!(violations.ahead.len() <= MAX_AHEAD && !violations.are_known());
        violations.settle(9_999);
        assert!(violations.are_known() && violations.ahead.is_empty());
    }
}
