//! Lines of the log about things that come in bursts: the first is said at once, those of the next second in one line that names
//! some of them. What is said is up to the caller.

use std::fmt::{Arguments, Write};
use std::time::{Duration, Instant};

/// How often it is said.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Things that are named in one line; others are counted.
const NAMED_MAX: u64 = 8;

/// What was not said yet, and when something last was.
#[derive(Debug, Default)]
pub struct Paced {
    said_at: Option<Instant>,
    count: u64,
    named: String,
}

impl Paced {
    /// One more.
    pub fn add(&mut self, name: Arguments<'_>) {
        self.count += 1;
        if self.count <= NAMED_MAX {
            let separator = if self.named.is_empty() { "" } else { "; " };
            // Writing to a string cannot fail.
            let _ = write!(self.named, "{separator}{name}");
        }
    }

    /// Nothing was added that was not said.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Something may be said.
    pub fn is_due(&self, now: Instant) -> bool {
        self.said_at.is_none_or(|at| now >= at + INTERVAL)
    }

    /// When something may be said, if something was.
    pub fn deadline(&self) -> Option<Instant> {
        self.said_at.map(|at| at + INTERVAL)
    }

    /// Something is said now.
    pub fn on_said(&mut self, now: Instant) {
        self.said_at = Some(now);
    }

    /// How many there were, and their names, with "and N `what` more" behind those that are named.
    pub fn take(&mut self, what: &str) -> (u64, String) {
        let (count, mut named) = (std::mem::take(&mut self.count), std::mem::take(&mut self.named));
        if count > NAMED_MAX {
            // As above.
            let _ = write!(named, "; and {} {what} more", count - NAMED_MAX);
        }
        (count, named)
    }
}
