//! The interruption that blocks of each profile are promised to survive, also while profiles change.
//!
//! A block may have closed under the profile before and be on its way when the profile changes. Until all of those are decided,
//! the lower promise of both holds.

use std::time::{Duration, Instant};

/// A block is decided so long after the profile has changed: the longest time that it may be open, and then on its way.
const CHANGES_WITHIN: Duration = Duration::from_secs(2);

/// The promises, by profile.
#[derive(Debug, Default)]
pub(super) struct Promises {
    present: Vec<Duration>,
    /// The longest ever: the peer was told to wait for late repair for as long.
    longest: Vec<Duration>,
    next: Option<(Instant, Vec<Duration>)>,
}

impl Promises {
    /// These hold at once: nothing was sent before.
    pub fn set(&mut self, promises: Vec<Duration>) {
        self.longest.clone_from(&promises);
        self.present = promises;
    }

    /// These hold as soon as no earlier block is on its way, and until then as far as the present ones do.
    pub fn change(&mut self, promises: Vec<Duration>, now: Instant) {
        let lower = |(at, &promise): (usize, &Duration)| promise.min(self.present(at));
        let present = promises.iter().enumerate().map(lower).collect();
        let longest = promises.iter().enumerate().map(|(at, &promise)| promise.max(self.longest(at))).collect();
        (self.present, self.longest) = (present, longest);
        self.next = Some((now + CHANGES_WITHIN, promises));
    }

    /// True if others hold from now on.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let due = self.next.take_if(|(at, _)| *at <= now);
        let is_due = due.is_some();
        self.present = due.map_or_else(|| std::mem::take(&mut self.present), |(_, promises)| promises);
        is_due
    }

    /// When others hold.
    pub fn deadline(&self) -> Option<Instant> {
        self.next.as_ref().map(|(at, _)| *at)
    }

    /// All that hold now.
    pub fn all(&self) -> &[Duration] {
        &self.present
    }

    fn present(&self, profile: usize) -> Duration {
        self.present.get(profile).copied().unwrap_or_default()
    }

    /// The longest that this profile ever promised.
    pub fn longest(&self, profile: usize) -> Duration {
        self.longest.get(profile).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_promise_holds_while_earlier_blocks_are_on_their_way() {
        let (ms, start) = (Duration::from_millis, Instant::now());
        let mut promises = Promises::default();
        promises.set(vec![ms(2), ms(9)]);
        promises.change(vec![ms(5), ms(1), ms(7)], start);
        assert_eq!(promises.all(), [ms(2), ms(1), ms(0)]);
        assert_eq!([0, 1, 2].map(|profile| promises.longest(profile)), [ms(5), ms(9), ms(7)]);
        assert!(!promises.handle_timeout(start + ms(1999)));
        assert!(promises.handle_timeout(promises.deadline().unwrap()));
        assert_eq!((promises.all(), promises.deadline()), (&[ms(5), ms(1), ms(7)][..], None));
        assert!(!promises.handle_timeout(start + ms(9000)));
    }

    #[test]
    fn a_second_change_promises_no_more_than_both_before() {
        let (ms, start) = (Duration::from_millis, Instant::now());
        let mut promises = Promises::default();
        promises.set(vec![ms(2)]);
        promises.change(vec![ms(0)], start);
        promises.change(vec![ms(2)], start + ms(1000));
        assert_eq!(promises.all(), [ms(0)], "a block without late repair may be on its way");
        assert!(!promises.handle_timeout(start + ms(2500)) && promises.handle_timeout(start + ms(3000)));
        assert_eq!(promises.all(), [ms(2)]);
    }
}
