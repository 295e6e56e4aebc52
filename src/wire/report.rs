//! The report: what a receiver saw of the datagrams of one lane. It is also the keepalive and the clock of the link.
//!
//! ```text
//!  sent_at (64) | echo (64) | echo_delay (32) | flags (8) | profiles (8) | 0 (16)
//!  received | lost | recovered_symbols | recovered_blocks | blocks | unrecoverable_blocks | late | duplicates | adus | adu_bytes   (10 x 64)
//!  burst_lengths (8 x 64)
//!  per profile:  profile (8) | 0 (24) | highest sbn (64) | decoded below sbn (64)
//! ```
//!
//! Big-endian, inside the seal. All counts are since the receiver was started and only grow, but for losses that a late
//! datagram takes back: a lost report costs nothing. Times are microseconds since the start of whoever wrote them. Bytes
//! behind the last profile are ignored, so that later versions can add to the end.

/// How many lengths of bursts are told apart; see [`burst_class`].
pub const BURST_CLASSES: usize = 8;
/// The most profiles whose progress one report carries.
pub const PROFILES_MAX: usize = 32;

const FIXED_LEN: usize = 24 + COUNTS * 8 + BURST_CLASSES * 8;
/// Counts in front of the burst lengths.
const COUNTS: usize = 10;
const PROFILE_LEN: usize = 20;

/// The class of a run of `length` lost datagrams: 1, 2, 3-4, 5-8, ... 33-64, more.
pub fn burst_class(length: u64) -> usize {
    let class = u64::BITS - length.saturating_sub(1).leading_zeros();
    (class as usize).min(BURST_CLASSES - 1)
}

/// Counts of what arrived on one lane, since the receiver was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reception {
    /// Datagrams that arrived and were authentic, each counted once.
    pub received: u64,
    /// Datagrams that were sent before one that arrived, and did not arrive.
    pub lost: u64,
    /// Source symbols rebuilt from repair symbols.
    pub recovered_symbols: u64,
    /// Blocks in which a symbol was rebuilt.
    pub recovered_blocks: u64,
    /// Blocks that are done with, whole or given up.
    pub blocks: u64,
    /// Of them, those given up with symbols missing.
    pub unrecoverable_blocks: u64,
    /// Symbols of blocks that were already given up.
    pub late: u64,
    /// Datagrams seen before.
    pub duplicates: u64,
    /// ADUs handed on.
    pub adus: u64,
    /// Bytes of the packets in them.
    pub adu_bytes: u64,
    /// Runs of lost datagrams, by [`burst_class`].
    pub burst_lengths: [u64; BURST_CLASSES],
}

impl Reception {
    /// Adds the counts of another lane or an earlier session.
    pub fn add(&mut self, other: &Self) {
        self.received += other.received;
        self.lost += other.lost;
        self.recovered_symbols += other.recovered_symbols;
        self.recovered_blocks += other.recovered_blocks;
        self.blocks += other.blocks;
        self.unrecoverable_blocks += other.unrecoverable_blocks;
        self.late += other.late;
        self.duplicates += other.duplicates;
        self.adus += other.adus;
        self.adu_bytes += other.adu_bytes;
        for (sum, count) in self.burst_lengths.iter_mut().zip(other.burst_lengths) {
            *sum += count;
        }
    }
}

/// How far the blocks of one profile have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The sender's profile.
    pub profile: u8,
    /// The highest block of which anything arrived.
    pub highest: u64,
    /// What is said of blocks begins with this one: of those before it nothing was ever heard.
    pub decoded_from: u64,
    /// Every block below this one is whole or given up.
    pub decoded_below: u64,
}

/// Consecutive blocks that were given up with something missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRun {
    /// The sender's profile.
    pub profile: u8,
    /// The first of them.
    pub first: u64,
    /// How many.
    pub count: u32,
    /// Of a single block, how many of its first source symbols are there: its sender knows whether those are all.
    pub symbols: u16,
}

/// One report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// When it was written, microseconds on the writer's clock.
    pub sent_at: u64,
    /// The newest `sent_at` that the writer has received; 0 for none.
    pub echo: u64,
    /// How long the writer had held that, microseconds.
    pub echo_delay: u32,
    /// The writer asks for a report in return, soon.
    pub wants_reply: bool,
    /// What arrived.
    pub reception: Reception,
    /// How far each profile's blocks have come.
    pub progress: Vec<Progress>,
}

impl Report {
    /// Appends the report's bytes to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let progress = &self.progress[..self.progress.len().min(PROFILES_MAX)];
        out.extend(self.sent_at.to_be_bytes());
        out.extend(self.echo.to_be_bytes());
        out.extend(self.echo_delay.to_be_bytes());
        out.extend([u8::from(self.wants_reply), progress.len() as u8, 0, 0]);
        let r = &self.reception;
        let counts = [
            r.received,
            r.lost,
            r.recovered_symbols,
            r.recovered_blocks,
            r.blocks,
            r.unrecoverable_blocks,
            r.late,
            r.duplicates,
            r.adus,
            r.adu_bytes,
        ];
        for count in counts.iter().chain(&r.burst_lengths) {
            out.extend(count.to_be_bytes());
        }
        for entry in progress {
            out.extend([entry.profile, 0, 0, 0]);
            out.extend(entry.highest.to_be_bytes());
            out.extend(entry.decoded_below.to_be_bytes());
        }
    }

    /// Reads a report; `None` if it is too short for what it announces.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = bytes.split_first_chunk::<FIXED_LEN>()?;
        let u64_at = |at: usize| {
            let mut value = [0; 8];
            value.copy_from_slice(&fixed[at..at + 8]);
            u64::from_be_bytes(value)
        };
        let count = |index: usize| u64_at(24 + index * 8);
        let mut burst_lengths = [0; BURST_CLASSES];
        for (class, runs) in burst_lengths.iter_mut().enumerate() {
            *runs = count(COUNTS + class);
        }
        let mut progress = Vec::new();
        for _ in 0..fixed[21] {
            let (entry, behind) = rest.split_first_chunk::<PROFILE_LEN>()?;
            let field = |at: usize| entry[at..at + 8].iter().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
            progress.push(Progress { profile: entry[0], highest: field(4), decoded_from: 0, decoded_below: field(12) });
            rest = behind;
        }
        Some(Self {
            sent_at: u64_at(0),
            echo: u64_at(8),
            echo_delay: u32::from_be_bytes([fixed[16], fixed[17], fixed[18], fixed[19]]),
            wants_reply: fixed[20] & 1 != 0,
            reception: Reception {
                received: count(0),
                lost: count(1),
                recovered_symbols: count(2),
                recovered_blocks: count(3),
                blocks: count(4),
                unrecoverable_blocks: count(5),
                late: count(6),
                duplicates: count(7),
                adus: count(8),
                adu_bytes: count(9),
                burst_lengths,
            },
            progress,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_round_trips_and_ignores_what_later_versions_add() {
        let report = Report {
            sent_at: 1,
            echo: 2,
            echo_delay: 3,
            wants_reply: true,
            reception: Reception {
                received: 4,
                lost: 5,
                recovered_symbols: 6,
                recovered_blocks: 7,
                blocks: 30,
                unrecoverable_blocks: 8,
                late: 9,
                duplicates: 10,
                adus: 11,
                adu_bytes: 12,
                burst_lengths: [13, 14, 15, 16, 17, 18, 19, 20],
            },
            progress: vec![
                Progress { profile: 0, highest: 21, decoded_from: 0, decoded_below: 22 },
                Progress { profile: 200, highest: u64::MAX, decoded_from: 0, decoded_below: 0 },
            ],
        };
        let mut bytes = Vec::new();
        report.emit(&mut bytes);
        assert_eq!(Report::parse(&bytes), Some(report.clone()));
        for len in 0..bytes.len() {
            assert_eq!(Report::parse(&bytes[..len]), None, "{len} bytes");
        }
        bytes.extend([0xff; 9]);
        assert_eq!(Report::parse(&bytes), Some(report));
    }

    #[test]
    fn bursts_are_classed_by_powers_of_two() {
        for (length, class) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (64, 6), (65, 7), (9000, 7)] {
            assert_eq!(burst_class(length), class, "a run of {length}");
        }
    }
}
