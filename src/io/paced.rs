//! Log lines about events that come in bursts: the first is logged at once, those of the next second in one line that
//! names some of them. The caller decides the text.

use std::fmt::{Arguments, Write};
use std::time::{Duration, Instant};

/// The interval between two lines.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Events that are named in one line; others are only counted.
const NAMED_MAX: u64 = 8;

/// Events that are not logged yet, and the time of the last line.
#[derive(Debug, Default)]
pub struct Paced {
    said_at: Option<Instant>,
    count: u64,
    named: String,
}

impl Paced {
    /// Adds one event.
    pub fn add(&mut self, name: Arguments<'_>) {
        self.count += 1;
        if self.count <= NAMED_MAX {
            let separator = if self.named.is_empty() { "" } else { "; " };
            // Writing to a string cannot fail.
            let _ = write!(self.named, "{separator}{name}");
        }
    }

    /// Everything that was added is logged.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A line may be written.
    pub fn is_due(&self, now: Instant) -> bool {
        self.said_at.is_none_or(|at| now >= at + INTERVAL)
    }

    /// When the next line may be written, if there was one.
    pub fn deadline(&self) -> Option<Instant> {
        self.said_at.map(|at| at + INTERVAL)
    }

    /// A line is written now.
    pub fn on_logged(&mut self, now: Instant) {
        self.said_at = Some(now);
    }

    /// How many events there were, and their names; "and N `what` more" stands for those that are not named.
    pub fn take(&mut self, what: &str) -> (u64, String) {
        let (count, mut named) = (std::mem::take(&mut self.count), std::mem::take(&mut self.named));
        if count > NAMED_MAX {
            // Cannot fail, as above.
            let _ = write!(named, "; and {} {what} more", count - NAMED_MAX);
        }
        (count, named)
    }
}
