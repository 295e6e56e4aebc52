//! The report: what a receiver saw of the datagrams of one lane, and the state of the blocks. It is also the keepalive
//! and the clock of the link.
//!
//! ```text
//!  sent_at (64) | echo (64) | echo_delay (32) | flags (8) | profiles (8) | sent (8) | lost (8)
//!  received | lost | recovered_symbols | recovered_blocks | blocks | unrecoverable_blocks | late | duplicates
//!    | adus | adu_bytes (10 x 64)
//!  burst_lengths (8 x 64)
//!  per profile:  profile (8) | 0 (24)               | highest sbn (64) | decoded from sbn (64) | decoded below (64)
//!  per sent:     profile (8) | 0 (8) | symbols (16) | from sbn (64)    | below sbn (64)
//!  per lost:     profile (8) | 0 (8) | symbols (16) | count (32)       | first sbn (64)
//!  extension:    late_spread (32) | flags (8) | runs (8) | receive_wait (16)
//!  per run:      first count (64) | length (32)
//! ```
//!
//! Big-endian, inside the seal. All counts start when the receiver starts and only grow, except that a late datagram
//! takes back a loss: so a lost report costs nothing. Times are microseconds since the start of the writer. Bytes
//! behind the last entry are ignored, so that later versions can add to the end: earlier versions neither write nor read
//! the [`Extension`]. This file does not know when a report is due, or which lost blocks it must name again.

use std::time::Duration;

use super::payload_id::{SBN_MAX, SOURCE_SYMBOLS_MAX};

/// How many classes of burst lengths there are; see [`burst_class`].
pub const BURST_CLASSES: usize = 8;
/// The most entries of each kind that one report carries.
pub const ENTRIES_MAX: usize = 16;

const FIXED_LEN: usize = 24 + COUNTS * 8 + BURST_CLASSES * 8;
/// Counts in front of the burst lengths.
const COUNTS: usize = 10;
const PROGRESS_LEN: usize = 28;
const SENT_LEN: usize = 20;
const LOST_LEN: usize = 16;
const EXTENSION_LEN: usize = 8;
const RUN_LEN: usize = 12;
/// The unit of [`Extension::receive_wait`].
pub const WAIT_STEP: Duration = Duration::from_micros(10);
/// The payload of a report on the smallest configurable path (576 bytes): every list has room in it.
const ROOM_MIN: usize = 464;

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
    /// Datagrams that did not arrive although a later one did.
    pub lost: u64,
    /// Source symbols rebuilt from repair symbols.
    pub recovered_symbols: u64,
    /// Blocks in which a symbol was rebuilt.
    pub recovered_blocks: u64,
    /// Finished blocks, whole or given up.
    pub blocks: u64,
    /// The finished blocks that were given up with symbols missing.
    pub unrecoverable_blocks: u64,
    /// Symbols of blocks that were already given up.
    pub late: u64,
    /// Datagrams seen before.
    pub duplicates: u64,
    /// ADUs delivered.
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

/// The receiver's progress in the blocks of one profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The sender's profile.
    pub profile: u8,
    /// The highest known block.
    pub highest: u64,
    /// The receiver began to count at this block: the report does not cover blocks below it.
    pub decoded_from: u64,
    /// Every block from `decoded_from` to below this one is whole and delivered, except those named lost in this
    /// report, or in an earlier one that the writer knows to have arrived.
    pub decoded_below: u64,
}

/// What the writer has sent in one of its own profiles, so that the reader notices what did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentBelow {
    /// The writer's profile.
    pub profile: u8,
    /// The first block begun for the present run of the reader.
    pub from: u64,
    /// Every block below this one is closed.
    pub below: u64,
    /// k of block `below - 1`; 0 if that block was abandoned and has none.
    pub symbols: u16,
}

/// A run of blocks that were given up with symbols missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LostRun {
    /// The sender's profile.
    pub profile: u8,
    /// The first block.
    pub first: u64,
    /// How many blocks, at least 1.
    pub count: u32,
    /// For a single block whose k is unknown: exactly source symbols `0..symbols` arrived, and every ADU in them was
    /// delivered. If `symbols` is its k, the block is whole after all. Otherwise 0.
    pub symbols: u16,
}

/// What reports of this version say behind the last block entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extension {
    /// The writer's late repair symbols follow the other symbols of their block at most this much later, in whole
    /// microseconds: the reader holds a block that long.
    pub late_spread: Duration,
    /// The writer takes the losses on the way to the reader for those of a full queue.
    pub congested: bool,
    /// The least time that datagrams have waited of late until the writer read them, in whole steps of [`WAIT_STEP`], and at
    /// most 65,535 of them. Zero: they did not, or the writer does not know it.
    pub receive_wait: Duration,
    /// The newest final runs of the reader's datagrams that did not arrive, oldest first; at most [`ENTRIES_MAX`]. They
    /// are of the session that seals the report. Nothing in them was checked.
    pub runs: Vec<LossRun>,
}

/// A run of datagrams that did not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LossRun {
    /// The count of the first.
    pub first: u64,
    /// How many.
    pub length: u32,
}

/// How many entries fit into a report on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Entries of [`Report::progress`].
    pub progress: usize,
    /// Entries of [`Report::sent`].
    pub sent: usize,
    /// Entries of [`Report::lost`].
    pub lost: usize,
    /// Entries of [`Extension::runs`].
    pub runs: usize,
}

impl Capacity {
    /// What fits into a payload of `bytes`: a third for each list about blocks, and what they leave for the runs.
    pub fn of(bytes: usize) -> Self {
        let room = bytes.max(ROOM_MIN) - FIXED_LEN - EXTENSION_LEN;
        let fitting = |len: usize| (room / 3 / len).min(ENTRIES_MAX);
        let (progress, sent, lost) = (fitting(PROGRESS_LEN), fitting(SENT_LEN), fitting(LOST_LEN));
        let left = room - progress * PROGRESS_LEN - sent * SENT_LEN - lost * LOST_LEN;
        Self { progress, sent, lost, runs: (left / RUN_LEN).min(ENTRIES_MAX) }
    }
}

/// One report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// When it was written, in microseconds on the writer's clock; unique among the reports of a writer.
    pub sent_at: u64,
    /// The newest `sent_at` that the writer has received; 0 for none.
    pub echo: u64,
    /// How long before this report the writer received that, in microseconds.
    pub echo_delay: u32,
    /// The writer asks for a report soon.
    pub wants_reply: bool,
    /// The writer derives protection from reports: it wants them often, even while no packets flow.
    pub wants_reports: bool,
    /// What arrived.
    pub reception: Reception,
    /// Progress in the blocks of the reader's profiles; at most [`ENTRIES_MAX`].
    pub progress: Vec<Progress>,
    /// What the writer has sent in its own profiles; at most [`ENTRIES_MAX`].
    pub sent: Vec<SentBelow>,
    /// Blocks of the reader's profiles that were given up; at most [`ENTRIES_MAX`].
    pub lost: Vec<LostRun>,
    /// `None`: the writer is of an earlier version.
    pub extension: Option<Extension>,
}

impl Report {
    /// Appends the report's bytes to `out`.
    pub fn emit(&self, out: &mut Vec<u8>) {
        let progress = &self.progress[..self.progress.len().min(ENTRIES_MAX)];
        let sent = &self.sent[..self.sent.len().min(ENTRIES_MAX)];
        let lost = &self.lost[..self.lost.len().min(ENTRIES_MAX)];
        out.extend(self.sent_at.to_be_bytes());
        out.extend(self.echo.to_be_bytes());
        out.extend(self.echo_delay.to_be_bytes());
        let flags = u8::from(self.wants_reply) | u8::from(self.wants_reports) << 1;
        out.extend([flags, progress.len() as u8, sent.len() as u8, lost.len() as u8]);
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
            out.extend(entry.decoded_from.to_be_bytes());
            out.extend(entry.decoded_below.to_be_bytes());
        }
        for entry in sent {
            out.extend([entry.profile, 0]);
            out.extend(entry.symbols.to_be_bytes());
            out.extend(entry.from.to_be_bytes());
            out.extend(entry.below.to_be_bytes());
        }
        for entry in lost {
            out.extend([entry.profile, 0]);
            out.extend(entry.symbols.to_be_bytes());
            out.extend(entry.count.to_be_bytes());
            out.extend(entry.first.to_be_bytes());
        }
        if let Some(extension) = &self.extension {
            extension.emit(out);
        }
    }

    /// Reads a report; `None` if it is too short for its announced lists, or an entry is out of bounds.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, mut rest) = bytes.split_first_chunk::<FIXED_LEN>()?;
        let [flags, profiles, sent_entries, lost_entries] = [fixed[20], fixed[21], fixed[22], fixed[23]];
        let count = |index: usize| number(&fixed[24 + index * 8..][..8]);
        let mut burst_lengths = [0; BURST_CLASSES];
        for (class, runs) in burst_lengths.iter_mut().enumerate() {
            *runs = count(COUNTS + class);
        }
        let entries = |entries: u8| usize::from(entries) <= ENTRIES_MAX;
        if !(entries(profiles) && entries(sent_entries) && entries(lost_entries)) {
            return None;
        }
        let progress: Option<Vec<_>> = (0..profiles).map(|_| Progress::parse(take(&mut rest)?)).collect();
        let sent: Option<Vec<_>> = (0..sent_entries).map(|_| SentBelow::parse(take(&mut rest)?)).collect();
        let lost: Option<Vec<_>> = (0..lost_entries).map(|_| LostRun::parse(take(&mut rest)?)).collect();
        Some(Self {
            sent_at: number(&fixed[..8]),
            echo: number(&fixed[8..16]),
            echo_delay: number(&fixed[16..20]) as u32,
            wants_reply: flags & 1 != 0,
            wants_reports: flags & 2 != 0,
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
            progress: progress?,
            sent: sent?,
            lost: lost?,
            extension: match rest.split_first_chunk() {
                Some((fixed, runs)) => Some(Extension::parse(fixed, runs)?),
                None => None,
            },
        })
    }
}

impl Extension {
    fn emit(&self, out: &mut Vec<u8>) {
        let runs = &self.runs[..self.runs.len().min(ENTRIES_MAX)];
        out.extend(u32::try_from(self.late_spread.as_micros()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend([u8::from(self.congested), runs.len() as u8]);
        let steps = self.receive_wait.as_micros() / WAIT_STEP.as_micros();
        out.extend(u16::try_from(steps).unwrap_or(u16::MAX).to_be_bytes());
        for run in runs {
            out.extend(run.first.to_be_bytes());
            out.extend(run.length.to_be_bytes());
        }
    }

    /// `None` if fewer runs follow than are announced, or too many are.
    fn parse(fixed: &[u8; EXTENSION_LEN], mut rest: &[u8]) -> Option<Self> {
        let [flags, runs] = [fixed[4], fixed[5]];
        let runs: Option<Vec<_>> = (0..runs).map(|_| Some(LossRun::parse(take(&mut rest)?))).collect();
        Some(Self {
            late_spread: Duration::from_micros(number(&fixed[..4])),
            congested: flags & 1 != 0,
            receive_wait: WAIT_STEP * number(&fixed[6..]) as u32,
            runs: runs.filter(|runs| runs.len() <= ENTRIES_MAX)?,
        })
    }
}

impl LossRun {
    fn parse(entry: &[u8; RUN_LEN]) -> Self {
        Self { first: number(&entry[..8]), length: number(&entry[8..]) as u32 }
    }
}

impl Progress {
    fn parse(entry: &[u8; PROGRESS_LEN]) -> Option<Self> {
        let (highest, decoded_from, decoded_below) =
            (number(&entry[4..12]), number(&entry[12..20]), number(&entry[20..]));
        let bounded = highest <= SBN_MAX && decoded_from <= SBN_MAX + 1 && decoded_below <= SBN_MAX + 1;
        bounded.then_some(Self { profile: entry[0], highest, decoded_from, decoded_below })
    }
}

impl SentBelow {
    fn parse(entry: &[u8; SENT_LEN]) -> Option<Self> {
        let (symbols, from, below) = (number(&entry[2..4]) as u16, number(&entry[4..12]), number(&entry[12..]));
        let bounded = usize::from(symbols) <= SOURCE_SYMBOLS_MAX && from <= below && below <= SBN_MAX + 1;
        bounded.then_some(Self { profile: entry[0], from, below, symbols })
    }
}

impl LostRun {
    fn parse(entry: &[u8; LOST_LEN]) -> Option<Self> {
        let (symbols, count, first) = (number(&entry[2..4]) as u16, number(&entry[4..8]) as u32, number(&entry[8..]));
        let bounded = usize::from(symbols) <= SOURCE_SYMBOLS_MAX && count > 0 && first <= SBN_MAX;
        bounded.then_some(Self { profile: entry[0], first, count, symbols })
    }
}

/// Cuts the next entry off.
fn take<'a, const LEN: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; LEN]> {
    let (entry, behind) = rest.split_first_chunk::<LEN>()?;
    *rest = behind;
    Some(entry)
}

/// At most 8 bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, &byte| value << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every report that a writer may write.
    fn reports() -> impl Strategy<Value = Report> {
        let progress = (any::<u8>(), 0..=SBN_MAX, 0..=SBN_MAX + 1, 0..=SBN_MAX + 1).prop_map(
            |(profile, highest, decoded_from, decoded_below)| Progress {
                profile,
                highest,
                decoded_from,
                decoded_below,
            },
        );
        let sent = (any::<u8>(), 0..=SBN_MAX / 2, 0..=SBN_MAX / 2, 0..=8192u16)
            .prop_map(|(profile, from, more, symbols)| SentBelow { profile, from, below: from + more, symbols });
        let lost = (any::<u8>(), 0..=SBN_MAX, 1..=u32::MAX, 0..=8192u16)
            .prop_map(|(profile, first, count, symbols)| LostRun { profile, first, count, symbols });
        let run = any::<(u64, u32)>().prop_map(|(first, length)| LossRun { first, length });
        let runs = prop::collection::vec(run, 0..=ENTRIES_MAX);
        let extension =
            (any::<u32>(), any::<bool>(), any::<u16>(), runs).prop_map(|(micros, congested, steps, runs)| Extension {
                late_spread: Duration::from_micros(micros.into()),
                congested,
                receive_wait: WAIT_STEP * u32::from(steps),
                runs,
            });
        let reception = any::<([u64; COUNTS], [u64; BURST_CLASSES])>().prop_map(|(counts, burst_lengths)| {
            let [received, lost, recovered_symbols, recovered_blocks, blocks, unrecoverable_blocks, late, ..] = counts;
            let [.., duplicates, adus, adu_bytes] = counts;
            Reception {
                received,
                lost,
                recovered_symbols,
                recovered_blocks,
                blocks,
                unrecoverable_blocks,
                late,
                duplicates,
                adus,
                adu_bytes,
                burst_lengths,
            }
        });
        let lists = (
            prop::collection::vec(progress, 0..=ENTRIES_MAX),
            prop::collection::vec(sent, 0..=ENTRIES_MAX),
            prop::collection::vec(lost, 0..=ENTRIES_MAX),
            prop::option::of(extension),
        );
        (any::<(u64, u64, u32, bool, bool)>(), reception, lists).prop_map(
            |(
                (sent_at, echo, echo_delay, wants_reply, wants_reports),
                reception,
                (progress, sent, lost, extension),
            )| {
                Report {
                    sent_at,
                    echo,
                    echo_delay,
                    wants_reply,
                    wants_reports,
                    reception,
                    progress,
                    sent,
                    lost,
                    extension,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn a_report_round_trips_and_ignores_additions_of_later_versions(
            report in reports(),
            addition in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = Vec::new();
            report.emit(&mut bytes);
            prop_assert_eq!(Report::parse(&bytes), Some(report.clone()));
            if report.extension.is_some() {
                bytes.extend(addition);
                prop_assert_eq!(Report::parse(&bytes), Some(report));
            }
        }

        #[test]
        fn a_report_is_read_in_full_or_not_at_all(report in reports()) {
            let earlier = Report { extension: None, ..report.clone() };
            let (mut bytes, mut without) = (Vec::new(), Vec::new());
            report.emit(&mut bytes);
            earlier.emit(&mut without);
            // Up to here an earlier version reads, and it ignores the rest.
            prop_assert!(bytes.starts_with(&without));
            for len in 0..bytes.len() {
                let is_earlier = (without.len()..without.len() + EXTENSION_LEN).contains(&len);
                prop_assert_eq!(Report::parse(&bytes[..len]), is_earlier.then(|| earlier.clone()), "{} bytes", len);
            }
        }
    }

    #[test]
    fn a_report_has_these_bytes() {
        let runs = vec![LossRun { first: 0x0102_0304_0506_0708, length: 0x090a_0b0c }];
        let (late_spread, receive_wait) = (Duration::from_micros(0x1020), WAIT_STEP * 0x304);
        let extension = Extension { late_spread, congested: true, receive_wait, runs };
        let mut bytes = Vec::new();
        Report { sent_at: 1, extension: Some(extension), ..Report::default() }.emit(&mut bytes);
        assert_eq!((bytes[..8].to_vec(), bytes.len()), (vec![0, 0, 0, 0, 0, 0, 0, 1], 188));
        assert_eq!(bytes[168..], [0, 0, 0x10, 0x20, 1, 1, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let long = Extension { late_spread: Duration::MAX, receive_wait: Duration::MAX, ..Extension::default() };
        bytes.clear();
        Report { extension: Some(long), ..Report::default() }.emit(&mut bytes);
        assert_eq!(bytes[168..], [0xff, 0xff, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    }

    #[test]
    fn more_runs_than_a_report_may_have_are_refused() {
        let mut bytes = Vec::new();
        Report { extension: Some(Extension::default()), ..Report::default() }.emit(&mut bytes);
        bytes.extend([1; 17 * RUN_LEN]);
        for (runs, is_readable) in [(16, true), (17, false), (255, false)] {
            bytes[173] = runs;
            assert_eq!(Report::parse(&bytes).is_some(), is_readable, "{runs} runs");
        }
    }

    #[test]
    fn each_flag_and_each_list_has_its_own_place() {
        let sent = SentBelow { profile: 1, from: 0, below: 1, symbols: 1 };
        let lost = LostRun { profile: 1, first: 1, count: 1, symbols: 0 };
        let progress = Progress { profile: 1, highest: 1, decoded_from: 1, decoded_below: 1 };
        let rows = [
            Report { wants_reply: true, ..Report::default() },
            Report { wants_reports: true, ..Report::default() },
            Report { progress: vec![progress; ENTRIES_MAX], ..Report::default() },
            Report { sent: vec![sent; ENTRIES_MAX], ..Report::default() },
            Report { lost: vec![lost; ENTRIES_MAX], ..Report::default() },
            Report { extension: Some(Extension::default()), ..Report::default() },
            Report { extension: Some(Extension { congested: true, ..Extension::default() }), ..Report::default() },
        ];
        for report in rows {
            let mut bytes = Vec::new();
            report.emit(&mut bytes);
            assert_eq!(Report::parse(&bytes), Some(report));
        }
    }

    #[test]
    fn entries_out_of_bounds_are_refused() {
        let sent = SentBelow { profile: 0, from: 0, below: 1, symbols: 0 };
        let lost = LostRun { profile: 0, first: 0, count: 1, symbols: 0 };
        let progress = Progress { profile: 0, highest: 0, decoded_from: 0, decoded_below: 0 };
        let rows = [
            Report { sent: vec![SentBelow { below: SBN_MAX + 2, ..sent }], ..Report::default() },
            Report { sent: vec![SentBelow { from: 2, ..sent }], ..Report::default() },
            Report { sent: vec![SentBelow { symbols: 8193, ..sent }], ..Report::default() },
            Report { lost: vec![LostRun { first: SBN_MAX + 1, ..lost }], ..Report::default() },
            Report { lost: vec![LostRun { count: 0, ..lost }], ..Report::default() },
            Report { lost: vec![LostRun { symbols: 8193, ..lost }], ..Report::default() },
            Report { progress: vec![Progress { highest: SBN_MAX + 1, ..progress }], ..Report::default() },
            Report { progress: vec![Progress { decoded_from: SBN_MAX + 2, ..progress }], ..Report::default() },
            Report { progress: vec![Progress { decoded_below: SBN_MAX + 2, ..progress }], ..Report::default() },
        ];
        for report in rows {
            let mut bytes = Vec::new();
            report.emit(&mut bytes);
            assert_eq!(Report::parse(&bytes), None, "{report:?}");
        }
        let mut bytes = Vec::new();
        Report::default().emit(&mut bytes);
        bytes.extend([0; 17 * PROGRESS_LEN]);
        for list in 21..24 {
            bytes[list] = 17;
            assert_eq!(Report::parse(&bytes), None);
            bytes[list] = 0;
        }
    }

    #[test]
    fn a_full_report_fits_the_path() {
        for bytes in [464, 500, 1168, 1424, 9104] {
            let capacity = Capacity::of(bytes);
            let report = Report {
                progress: vec![
                    Progress { profile: 0, highest: 0, decoded_from: 0, decoded_below: 0 };
                    capacity.progress
                ],
                sent: vec![SentBelow { profile: 0, from: 0, below: 0, symbols: 0 }; capacity.sent],
                lost: vec![LostRun { profile: 0, first: 0, count: 1, symbols: 0 }; capacity.lost],
                extension: Some(Extension {
                    runs: vec![LossRun { first: 0, length: 1 }; capacity.runs],
                    ..Extension::default()
                }),
                ..Report::default()
            };
            let mut written = Vec::new();
            report.emit(&mut written);
            assert!(written.len() <= bytes, "{capacity:?} takes {} of {bytes} bytes", written.len());
            assert!(capacity.progress >= 3 && capacity.sent >= 3 && capacity.lost >= 3, "{capacity:?}");
            assert!(capacity.runs >= 2, "{capacity:?}");
        }
        assert_eq!(Capacity::of(1424), Capacity { progress: 14, sent: 16, lost: 16, runs: 16 });
    }

    #[test]
    fn bursts_are_classed_by_powers_of_two() {
        for (length, class) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4), (64, 6), (65, 7), (9000, 7)] {
            assert_eq!(burst_class(length), class, "a run of {length}");
        }
    }
}
