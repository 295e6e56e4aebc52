//! The numbers of the notifications that arrived: a gap means that a notification is missing.
//!
//! It decides nothing; see [`super::core`].

/// How far ahead of the first missing number others are remembered individually.
const WIDTH: u32 = 64;

/// The numbers seen in one subscription.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    /// The lowest number that has not arrived.
    next: u32,
    /// Bit i: number `next + i` has arrived.
    ahead: u64,
    /// The highest number known to have been used.
    highest: u32,
    /// A missing number is too far behind to be remembered.
    lost: bool,
}

impl Sequence {
    /// A subscription begins: the first notification has the number 1.
    pub fn new() -> Sequence {
        Sequence { next: 1, ahead: 0, highest: 0, lost: false }
    }

    /// A notification arrived.
    pub fn on_number(&mut self, number: u32) {
        self.on_highest(number);
        let distance = number.wrapping_sub(self.next);
        if distance >= 1 << 31 {
            return;
        }
        if distance >= WIDTH {
            self.lost = true;
            self.next = number;
            self.ahead = 0;
        }
        self.ahead |= 1 << number.wrapping_sub(self.next);
        self.skip_run();
    }

    /// A message reports that numbers up to this one have been used.
    pub fn on_highest(&mut self, number: u32) {
        if number.wrapping_sub(self.highest) < 1 << 31 {
            self.highest = number;
        }
    }

    /// Whether a notification is missing.
    pub fn has_gap(&self) -> bool {
        // `highest - next` is -1 when everything has arrived.
        self.lost || self.highest.wrapping_sub(self.next) < 1 << 31
    }

    /// A dump covers everything up to this number.
    pub fn settle(&mut self, number: u32) {
        self.lost = false;
        let distance = number.wrapping_add(1).wrapping_sub(self.next);
        if distance < 1 << 31 {
            self.ahead = self.ahead.checked_shr(distance).unwrap_or(0);
            self.next = number.wrapping_add(1);
            self.skip_run();
        }
        self.on_highest(number);
    }

    fn skip_run(&mut self) {
        let run = self.ahead.trailing_ones();
        self.ahead = self.ahead.checked_shr(run).unwrap_or(0);
        self.next = self.next.wrapping_add(run);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_gap_is_seen_exactly_when_there_is_one(numbers in proptest::collection::vec(1..60u32, 1..80)) {
            let mut sequence = Sequence::new();
            let mut seen = BTreeSet::new();
            for number in numbers {
                sequence.on_number(number);
                seen.insert(number);
                let whole = seen.len() as u32 == *seen.last().unwrap();
                prop_assert_eq!(sequence.has_gap(), !whole);
            }
        }
    }

    #[test]
    fn a_dump_closes_a_gap() {
        let mut sequence = Sequence::new();
        for number in [1, 2, 5, 6] {
            sequence.on_number(number);
        }
        assert!(sequence.has_gap());
        sequence.settle(4);
        assert!(!sequence.has_gap());
        sequence.on_highest(9);
        assert!(sequence.has_gap());
        sequence.on_number(5000);
        sequence.settle(5000);
        assert!(!sequence.has_gap());
        sequence.on_number(5001);
        assert!(!sequence.has_gap());
        sequence.on_number(3);
        assert!(!sequence.has_gap());
    }
}
