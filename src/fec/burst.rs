//! What an interruption of the link can take from a block, whatever moment it comes at.
//!
//! An interruption of length T swallows every symbol that leaves in some window of that length. A block with m repair symbols
//! survives if no window holds more than m of its symbols. This is certain, no probability: see
//! [`gilbert_elliott`](super::gilbert_elliott) for those.

use std::time::Duration;

/// An interruption may be anywhere on the path, and symbols do not come there exactly as far apart as they left. So repair
/// provides for one that is longer by a sixteenth, at least by the first and at most by the second of these. A commit waits that
/// much longer, so it is no more than what measurements ask for; see the scenario `burst`.
const JITTER: [Duration; 2] = [Duration::from_micros(125), Duration::from_millis(1)];
/// What is sent may wait in its host, for longer than what is sent later. At least so much is provided for: the length of a
/// turn of a busy lane.
pub const LAG_MIN: Duration = Duration::from_micros(500);

/// The interruption that repair provides for, so that one of length `survive` is survived.
pub fn provided_for(survive: Duration) -> Duration {
    survive + (survive / 16).clamp(JITTER[0], JITTER[1])
}

/// The longest interruption that a block survives with certainty, at any moment. `schedule` has the times at which its symbols
/// leave, rising. [`Duration::MAX`] if it may lose all of them.
pub fn longest_survived(schedule: &[Duration], repair_symbols: usize) -> Duration {
    let apart =
        schedule.iter().zip(schedule.iter().skip(repair_symbols)).map(|(first, last)| last.saturating_sub(*first));
    apart.min().unwrap_or(Duration::MAX)
}

/// The most symbols that leave within some window of this length.
pub fn most_within(schedule: &[Duration], window: Duration) -> usize {
    let mut first = 0;
    let within = schedule.iter().enumerate().map(|(last, &at)| {
        while at.saturating_sub(schedule[first]) >= window && first < last {
            first += 1;
        }
        last + 1 - first
    });
    within.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_lone_commit_survives_what_lies_between_its_symbols() {
        let commit: Vec<_> = [0, 0, 0, 0, 2, 2, 2, 2].map(|at| MS * at).into();
        assert_eq!(longest_survived(&commit, 4), 2 * MS);
        assert_eq!(longest_survived(&commit, 3), Duration::ZERO, "what leaves at once is too much");
        assert_eq!(longest_survived(&commit, 8), Duration::MAX);
        assert_eq!(longest_survived(&[], 0), Duration::MAX);
    }

    #[test]
    fn a_stream_survives_its_repair_symbols_at_its_rate() {
        let stream: Vec<_> = (0..120).map(|number| Duration::from_micros(100) * number).collect();
        assert_eq!(longest_survived(&stream, 20), 2 * MS);
        assert_eq!(most_within(&stream, 2 * MS), 20);
    }

    proptest! {
        #[test]
        fn exactly_what_is_no_longer_than_the_bound_is_survived(
            pauses in prop::collection::vec(0u32..5, 1..30),
            m in 0usize..30,
            length in 1u32..60,
            begin in -60i64..200,
        ) {
            let mut at = 100;
            let times: Vec<i64> = pauses.iter().map(|&pause| { at += i64::from(pause); at }).collect();
            let schedule: Vec<_> = times.iter().map(|&at| MS * at as u32).collect();
            let longest = longest_survived(&schedule, m);
            let lost = |begin: i64| times.iter().filter(|&&at| (begin..begin + i64::from(length)).contains(&at)).count();
            if MS * length <= longest {
                prop_assert!(lost(100 + begin) <= m);
            } else {
                prop_assert!(times.iter().any(|&at| lost(at) > m), "some moment is worse than the bound");
            }
            prop_assert_eq!(most_within(&schedule, MS * length), times.iter().map(|&at| lost(at)).max().unwrap());
        }
    }
}
