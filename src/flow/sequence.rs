//! Maps TCP's 32-bit sequence numbers to 64-bit offsets, and tells two connections on the same ports apart.
//!
//! This module compares numbers only; it does not know what they are evidence of.

use std::time::{Duration, Instant};

/// No window is larger (RFC 7323, section 2.3): a segment further away than this is not of the connection.
pub(super) const REACH: i64 = 1 << 30;

/// How long packets of the previous connection may still arrive from the network.
const REUSE_TIME: Duration = Duration::from_secs(3);

/// Packets of the previous connection are expected within this distance of its last byte, on both sides. Linux advances
/// its initial numbers by 15.6 million a second, so a port reused after one second is clear of it.
const REUSE_BYTES: u32 = 1 << 22;

/// The offset of `sequence`, counted from `base`, that is nearest to `near`; negative before `base`.
pub(super) fn offset(sequence: u32, base: u32, near: u64) -> i64 {
    let reference = base.wrapping_add(near as u32);
    let distance = sequence.wrapping_sub(reference) as i32;
    // A flow would have to carry eight exabytes to overflow this.
    near as i64 + i64::from(distance)
}

/// What is remembered of the previous connection on the same ports.
#[derive(Clone, Copy, Debug)]
pub(super) struct Previous {
    base: u32,
    next: u32,
    until: Instant,
}

impl Previous {
    /// A connection whose first byte had the number `base` and whose known bytes ended before `next`; replaced at
    /// `now`.
    pub fn new(base: u32, next: u32, now: Instant) -> Self {
        Self { base, next, until: now + REUSE_TIME }
    }

    pub fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// Whether a SYN with this base, or the answer to it, belongs to the previous connection.
    pub fn began_at(&self, base: u32) -> bool {
        self.base == base
    }

    /// Whether `len` bytes at `sequence` may belong to the previous connection.
    ///
    /// They may belong to its successor as well, if that began nearby; its first bytes then count only when
    /// acknowledged.
    pub fn covers(&self, sequence: u32, len: u32) -> bool {
        let low = self.next.wrapping_sub(REUSE_BYTES);
        sequence.wrapping_add(len).wrapping_sub(low) <= 2 * REUSE_BYTES + len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_continue_across_the_sequence_wrap() {
        let gib = 1i64 << 30;
        let table = [
            ("the first byte", 100, 100, 0, 0),
            ("over the wrap", 5, 0xffff_fff0, 0, 21),
            ("before the base", 95, 100, 0, -5),
            ("the second time around", 7, 0, 0x1_0000_0000, 0x1_0000_0007),
            ("a retransmission from before the wrap", 0xffff_ffff, 0, 0x1_0000_0000, 0xffff_ffff),
            ("far ahead", 0x4000_0000, 0, 0, gib),
            ("far behind", 0xc000_0000, 0, 0, -gib),
        ];
        for (case, sequence, base, near, expected) in table {
            assert_eq!(offset(sequence, base, near), expected, "{case}");
        }
    }

    #[test]
    fn the_previous_connection_is_recognised_around_its_end() {
        let now = Instant::now();
        let previous = Previous::new(10, 1000, now);
        let bytes = REUSE_BYTES;
        let table = [
            (1000, 1, true),
            (1000u32.wrapping_sub(bytes), 1, true),
            (1000u32.wrapping_sub(bytes + 10), 10, true),
            (1000u32.wrapping_sub(bytes + 10), 9, false),
            (1000 + bytes, 1, true),
            (1001 + bytes, 1, false),
        ];
        for (sequence, len, expected) in table {
            assert_eq!(previous.covers(sequence, len), expected, "{sequence} {len}");
        }
        assert!(!previous.is_over(now) && previous.is_over(now + REUSE_TIME));
    }
}
