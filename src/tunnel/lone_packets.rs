//! Whether the packet that opens a block will stay alone in it.
//!
//! A block waits for `close_when_idle` after the TUN is empty, so that packets which follow closely share its repair
//! symbols. A commit, a request, an answer come alone, one after the other: for them this wait, its timer and a second
//! train buy nothing, and the second train meets the answer on its way. After a few such blocks the next one closes at
//! once, with its repair symbols in the same train. One packet that comes too soon ends this.
//!
//! No clock here: the caller gives the times.

use std::time::{Duration, Instant};

/// So many blocks in a row had a single packet before the next one is expected to.
const RUN: u8 = 4;

/// What the last blocks of a sender were like.
#[derive(Debug, Default)]
pub struct LonePackets {
    /// Blocks in a row that had a single packet.
    run: u8,
    /// When the last block closed, if it closed at once.
    closed_at: Option<Instant>,
}

impl LonePackets {
    /// A packet opens a block whose profile has this `close_when_idle`.
    pub fn on_open(&mut self, close_when_idle: Duration, now: Instant) {
        // The block before would have taken it.
        if self.closed_at.take().is_some_and(|at| now.saturating_duration_since(at) < close_when_idle) {
            self.run = 0;
        }
    }

    /// A block closes; `is_alone`: with a single packet, after which the TUN was empty.
    pub fn on_close(&mut self, is_alone: bool) {
        self.run = if is_alone { self.run.saturating_add(1).min(RUN) } else { 0 };
    }

    /// The block closes at once.
    pub fn on_close_at_once(&mut self, now: Instant) {
        self.closed_at = Some(now);
    }

    /// The packet that has just come is expected to stay alone.
    pub fn expects(&self) -> bool {
        self.run == RUN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_micros(50);

    #[test]
    fn a_few_lone_packets_are_followed_by_another_until_one_comes_too_soon() {
        let (mut lone, start) = (LonePackets::default(), Instant::now());
        let mut now = start;
        for _ in 0..RUN {
            lone.on_open(IDLE, now);
            assert!(!lone.expects());
            lone.on_close(true);
            now += IDLE;
        }
        for _ in 0..3 {
            lone.on_open(IDLE, now);
            assert!(lone.expects());
            lone.on_close_at_once(now);
            lone.on_close(true);
            now += IDLE;
        }
        lone.on_open(IDLE, now - Duration::from_micros(1));
        assert!(!lone.expects(), "the block before would have taken this one");
    }

    #[test]
    fn a_block_of_several_packets_ends_a_run() {
        let mut lone = LonePackets::default();
        (0..RUN).for_each(|_| lone.on_close(true));
        assert!(lone.expects());
        lone.on_close(false);
        assert!(!lone.expects());
    }
}
