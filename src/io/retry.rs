//! Something that the kernel refuses, and is asked for again after a while: nothing is given up for good on weak evidence.

use std::time::{Duration, Instant};

/// How long it is not asked for: at first, and at most.
const WAIT_MIN: Duration = Duration::from_secs(10);
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Refusals of one thing.
#[derive(Debug)]
pub struct Retry {
    /// So many refusals in a row and it is not asked for.
    most: u8,
    in_row: u8,
    until: Option<Instant>,
    wait: Duration,
}

impl Retry {
    /// Gives up after so many refusals in a row: one alone may have another cause.
    pub fn after(most: u8) -> Self {
        Self { most, in_row: 0, until: None, wait: WAIT_MIN }
    }

    /// It may be asked for. Reads the clock only while it is given up.
    pub fn is_allowed(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() >= until)
    }

    /// It is given up for now.
    pub fn is_given_up(&self) -> bool {
        self.until.is_some()
    }

    /// It was refused. Tells whether it is given up now and was not before.
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

    /// It was not refused. Tells whether it had been given up.
    pub fn on_taken(&mut self) -> bool {
        self.in_row = 0;
        self.wait = WAIT_MIN;
        self.until.take().is_some()
    }

    /// As if the time had come.
    #[cfg(test)]
    pub(crate) fn expire(&mut self) {
        self.until = self.until.map(|_| Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_again_and_again_is_asked_for_less_and_less_often_and_comes_back_at_once() {
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
        assert!(!retry.on_taken(), "said once");
        assert_eq!([(); 3].map(|()| retry.on_refused()), [false, false, true]);
        retry.on_taken();
        retry.on_refused();
        retry.on_taken();
        assert_eq!([(); 2].map(|()| retry.on_refused()), [false, false], "in a row");
    }
}
