//! Losses of a flow that are reported before its instance is known: a violation may overtake the answer that tells it. They
//! count once the instance is known to be theirs.

use std::ops::Range;

/// Losses kept. If there are more, each counts for every instance.
const MOST: usize = 32;

/// Losses of instances, as positions.
#[derive(Debug, Default)]
pub struct EarlyLosses {
    kept: Vec<(u64, Range<u64>)>,
    is_full: bool,
}

impl EarlyLosses {
    /// These positions of an instance were lost after they had been called protected.
    pub fn note(&mut self, instance: u64, range: Range<u64>) {
        if self.kept.contains(&(instance, range.clone())) {
            return;
        }
        match self.kept.len() < MOST {
            true => self.kept.push((instance, range)),
            false => self.is_full = true,
        }
    }

    /// Those of this instance, which is the right one; all others are forgotten.
    pub fn take(&mut self, instance: u64) -> Vec<Range<u64>> {
        let EarlyLosses { kept, is_full } = std::mem::take(self);
        let everything = is_full.then_some(0..u64::MAX);
        kept.into_iter().filter(|(of, _)| *of == instance).map(|(_, range)| range).chain(everything).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_the_right_instance_are_taken_once_and_too_many_are_everything() {
        let mut early = EarlyLosses::default();
        (0..3).for_each(|_| early.note(7, 10..20));
        early.note(6, 0..5);
        early.note(7, 40..50);
        assert_eq!(early.take(7), [10..20, 40..50]);
        assert_eq!(early.take(6), [], "forgotten");
        (0..=MOST as u64).for_each(|at| early.note(6, at..at + 1));
        assert_eq!(early.take(7).first(), Some(&(0..u64::MAX)), "one that was not kept may be of it");
        assert_eq!(early.take(7), []);
    }
}
