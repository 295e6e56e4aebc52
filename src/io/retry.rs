//! A feature that the kernel refuses and that is tried again after a while: weak evidence never disables it for good.

use std::time::{Duration, Instant};

/// How long the feature stays off: at first, and at most.
const WAIT_MIN: Duration = Duration::from_secs(10);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Refusals of one feature.
#[derive(Debug)]
pub struct Retry {
    /// After this many refusals in a row the feature is off.
    most: u8,
    in_row: u8,
    until: Option<Instant>,
    wait: Duration,
}

impl Retry {
    /// Switches the feature off after `most` refusals in a row: a single one may have another cause.
    pub fn after(most: u8) -> Self {
        Self { most, in_row: 0, until: None, wait: WAIT_MIN }
    }

    /// The feature may be used. Reads the clock only while it is off.
    pub fn is_allowed(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    /// The feature is off for now.
    pub fn is_given_up(&self) -> bool {
        self.until.is_some()
    }

    /// The kernel refused it. Returns whether it is off now and was not before.
    pub fn on_refused(&mut self) -> bool {
        self.in_row = self.in_row.saturating_add(1);
        if self.in_row < self.most {
            return false;
        }
        let is_new = self.until.is_none();
        self.until = Some(Instant::now() + self.wait);
        self.wait = (2 * self.wait).min(WAIT_MAX);
        is_new
    }

    /// The kernel took it. Returns whether it had been off.
    pub fn on_taken(&mut self) -> bool {
        self.in_row = 0;
        self.wait = WAIT_MIN;
        self.until.take().is_some()
    }

    /// As if the wait were over.
    #[cfg(test)]
    pub(crate) fn expire(&mut self) {
        self.until = self.until.map(|_| Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_refusals_lengthen_the_wait_and_one_success_ends_it() {
        let mut retry = Retry::after(3);
        assert_eq!([(); 3].map(|()| retry.on_refused()), [false, false, true]);
        assert!(!retry.is_allowed() && retry.is_given_up());
        for next in [40, 80, 160, 320, 600, 600] {
            retry.expire();
            assert!(retry.is_allowed(), "for another try");
            assert!(!retry.on_refused(), "known already");
            assert!(!retry.is_allowed());
            assert_eq!(retry.wait, Duration::from_secs(next));
        }
        assert!(retry.on_taken() && retry.is_allowed());
        assert!(!retry.on_taken(), "returned once");
        assert_eq!([(); 3].map(|()| retry.on_refused()), [false, false, true]);
        retry.on_taken();
        retry.on_refused();
        retry.on_taken();
        assert_eq!([(); 2].map(|()| retry.on_refused()), [false, false], "in a row");
    }
}
