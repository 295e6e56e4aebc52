//! Repair symbols that leave later than the rest of their block.
//!
//! An interruption of the link takes all that leaves within it. A block survives one of length T if no window of that length holds
//! more of its symbols than it has repair symbols. So some repair symbols, the *late part*, leave T after the others are
//! known to have left; how many must is counted from the moments at which the others were sent.
//!
//! The late parts of closed blocks wait here, unsealed, in the order of their blocks. Bytes and blocks are bounded: what finds no
//! room is not kept, and the block's promise is broken. Data is never delayed or dropped for a late part.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::fec::burst;
use crate::wire::payload_id::RepairId;
use crate::wire::traffic_class::TrafficClass;

/// Bytes of late parts that may wait in one profile.
const BYTES_MAX: usize = 8 << 20;
/// Late parts that may wait in one profile.
const PARTS_MAX: usize = 4096;
/// A late part whose early part is not known to have left after this time is dropped: the peer has given the block up.
const EARLY_WITHIN: Duration = Duration::from_millis(400);
/// How much later than T after the early part the late part may leave.
pub const LATE_SLACK: Duration = Duration::from_millis(20);

/// How much later than the early part of a block its late part may come; none without late parts. The peer is told.
pub fn spread(survive_burst: Duration) -> Duration {
    if survive_burst.is_zero() { survive_burst } else { survive_burst + LATE_SLACK }
}

/// The late part of one block.
#[derive(Debug)]
pub struct LatePart {
    /// The payload id of its first symbol.
    pub first: RepairId,
    /// Its symbols, end to end.
    pub symbols: Vec<u8>,
    /// Bytes of each.
    pub symbol_size: usize,
    /// DSCP and ECN field of their datagrams.
    pub class: TrafficClass,
    closed_at: Instant,
    /// The interruption that the block is promised to survive, which is also how much later the late part leaves.
    survive: Duration,
    /// The interruption that it survives if nothing lags.
    survives: Duration,
    due: Option<Instant>,
}

impl LatePart {
    /// The number of its symbols.
    pub fn count(&self) -> u64 {
        (self.symbols.len() / self.symbol_size.max(1)) as u64
    }
}

/// What became of a late part when its early part had left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spread {
    /// The symbols are far enough apart.
    Kept,
    /// They may have left closer together than they were sent: the promise is broken.
    Broken,
}

/// When the symbols of a block were sent that do not leave late.
#[derive(Clone, Copy, Debug)]
pub struct EarlyPart<'a> {
    /// Each source symbol, rising.
    pub source: &'a [Instant],
    /// How many repair symbols left with them, when the block closed.
    pub repair_symbols: usize,
    /// When it closed.
    pub closed_at: Instant,
}

impl EarlyPart<'_> {
    /// How many repair symbols must leave late, so that no interruption of length `survive` takes more symbols than the
    /// block has repair symbols. What was sent may lag by up to `lag` in this host.
    pub fn late_symbols(&self, survive: Duration, lag: Duration) -> usize {
        let most = burst::most_within(&self.schedule(), burst::provided_for(survive) + lag.max(burst::LAG_MIN));
        most.saturating_sub(self.repair_symbols)
    }

    fn schedule(&self) -> Vec<Duration> {
        let Some(&first) = self.source.first() else { return Vec::new() };
        let repair = std::iter::repeat_n(self.closed_at, self.repair_symbols);
        self.source.iter().copied().chain(repair).map(|at| at.saturating_duration_since(first)).collect()
    }
}

/// The late parts of one profile toward one peer.
#[derive(Debug, Default)]
pub struct LateRepair {
    parts: VecDeque<LatePart>,
    bytes: usize,
    /// When the next one is due or is dropped.
    next: Option<Instant>,
}

impl LateRepair {
    /// No late part waits.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Adds the late part of a block: `symbols` of `symbol_size` bytes end to end, the first with the id `first`, of class
    /// `class`, to leave `survive` after the early part. Returns false if there is no room.
    #[must_use]
    pub fn push(
        &mut self,
        first: RepairId,
        symbols: &[u8],
        symbol_size: usize,
        class: TrafficClass,
        early: EarlyPart<'_>,
        survive: Duration,
    ) -> bool {
        if self.parts.len() >= PARTS_MAX || self.bytes + symbols.len() > BYTES_MAX {
            return false;
        }
        let survives = burst::longest_survived(&early.schedule(), first.repair_symbols.into());
        self.bytes += symbols.len();
        let symbols = symbols.to_vec();
        let closed_at = early.closed_at;
        let expires = closed_at + EARLY_WITHIN;
        self.next = Some(self.next.map_or(expires, |next| next.min(expires)));
        self.parts.push_back(LatePart { first, symbols, symbol_size, class, closed_at, survive, survives, due: None });
        true
    }

    /// The early part of block `sbn` has left by `now`, nothing of it more than `lag` after it was sent. `None` if it has no late
    /// part.
    pub fn on_early_left(&mut self, sbn: u64, lag: Duration, now: Instant) -> Option<Spread> {
        let part = self.parts.iter_mut().find(|part| part.first.sbn == sbn && part.due.is_none())?;
        part.due = Some(now + burst::provided_for(part.survive));
        self.next = self.next.min(part.due).or(part.due);
        // Each symbol left at most `lag` after it was sent, so two of them are at most that much closer together.
        Some(if part.survives >= part.survive.saturating_add(lag) { Spread::Kept } else { Spread::Broken })
    }

    /// When the next late part is due or is dropped.
    pub fn deadline(&self) -> Option<Instant> {
        self.next
    }

    /// The next late part that leaves at `now`.
    pub fn poll_due(&mut self, now: Instant) -> Option<LatePart> {
        let at = self.parts.iter().position(|part| part.due.is_some_and(|due| due <= now))?;
        self.remove(at)
    }

    /// The next late part that is dropped at `now`, because its early part has not left in time.
    pub fn poll_expired(&mut self, now: Instant) -> Option<LatePart> {
        let is_expired = |part: &LatePart| part.due.is_none() && part.closed_at + EARLY_WITHIN <= now;
        let at = self.parts.iter().position(is_expired)?;
        self.remove(at)
    }

    /// Takes any late part: its session has ended.
    pub fn pop(&mut self) -> Option<LatePart> {
        self.remove(0)
    }

    fn remove(&mut self, at: usize) -> Option<LatePart> {
        let part = self.parts.remove(at)?;
        self.bytes -= part.symbols.len();
        self.next = self.parts.iter().map(|part| part.due.unwrap_or(part.closed_at + EARLY_WITHIN)).min();
        Some(part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);
    const CLASS: TrafficClass = TrafficClass(0);

    fn first(sbn: u64, k: usize, m: usize) -> RepairId {
        let (source_symbols, repair_symbols) = (k as u16, m as u16);
        RepairId { profile: 0, esi: source_symbols, sbn, source_symbols, repair_symbols, previous_symbols: 0 }
    }

    /// The late part of a block whose source symbols were sent at `times`.
    fn push(late: &mut LateRepair, sbn: u64, times: &[Instant], early: usize, survive: Duration) -> usize {
        let early = part(times, early);
        let symbols = early.late_symbols(survive, Duration::ZERO);
        let id = first(sbn, times.len(), early.repair_symbols + symbols);
        assert!(late.push(id, &vec![0; symbols * 10], 10, CLASS, early, survive));
        symbols
    }

    fn part(source: &[Instant], repair_symbols: usize) -> EarlyPart<'_> {
        EarlyPart { source, repair_symbols, closed_at: *source.last().unwrap() }
    }

    #[test]
    fn a_lone_commit_is_sent_again_and_a_stream_gets_what_leaves_within_the_interruption() {
        let start = Instant::now();
        let commit = vec![start; 4];
        assert_eq!(part(&commit, 2).late_symbols(2 * MS, Duration::ZERO), 4);
        let stream: Vec<_> = (0..200).map(|number| start + Duration::from_micros(100) * number).collect();
        let late = part(&stream, 2).late_symbols(2 * MS, Duration::ZERO);
        assert!((25..=29).contains(&late), "20 in two milliseconds, and what is provided for: {late}");
        assert!(part(&stream, 2).late_symbols(2 * MS, MS) >= late + 4, "lag costs symbols");
        let nothing = EarlyPart { source: &[], repair_symbols: 0, closed_at: start };
        assert_eq!(nothing.late_symbols(2 * MS, Duration::ZERO), 0);
    }

    #[test]
    fn a_late_part_leaves_after_the_early_one_and_never_without_it() {
        let start = Instant::now();
        let mut late = LateRepair::default();
        for sbn in 0..3 {
            push(&mut late, sbn, &[start; 4], 2, 2 * MS);
        }
        assert_eq!(late.deadline(), Some(start + EARLY_WITHIN));
        assert_eq!(late.on_early_left(1, Duration::ZERO, start + MS), Some(Spread::Kept));
        assert_eq!(late.on_early_left(1, Duration::ZERO, start + MS), None, "it left before");
        assert_eq!(late.on_early_left(7, Duration::ZERO, start + MS), None);
        let due = start + MS + burst::provided_for(2 * MS);
        assert_eq!(late.deadline(), Some(due));
        assert!(late.poll_due(due - Duration::from_nanos(1)).is_none());
        assert_eq!(late.poll_due(due).unwrap().first.sbn, 1);
        assert!(late.poll_due(due).is_none() && late.poll_expired(due).is_none());
        assert_eq!(late.poll_expired(start + EARLY_WITHIN).unwrap().first.sbn, 0);
        assert_eq!(late.pop().unwrap().first.sbn, 2);
        assert!(late.is_empty() && late.deadline().is_none() && late.bytes == 0);
    }

    #[test]
    fn a_stream_whose_symbols_lagged_more_than_was_provided_for_keeps_no_promise() {
        let start = Instant::now();
        let stream: Vec<_> = (0..100).map(|number| start + Duration::from_micros(100) * number).collect();
        let mut late = LateRepair::default();
        let now = start + 10 * MS;
        for (sbn, lag, expected) in [(0, burst::LAG_MIN, Spread::Kept), (1, 5 * MS, Spread::Broken)] {
            push(&mut late, sbn, &stream, 2, 2 * MS);
            assert_eq!(late.on_early_left(sbn, lag, now), Some(expected), "{lag:?}");
        }
        // All symbols of a lone commit may be lost together, so lag cannot bring them too close.
        push(&mut late, 2, &[start; 4], 2, 2 * MS);
        assert_eq!(late.on_early_left(2, 300 * MS, now), Some(Spread::Kept));
    }

    #[test]
    fn memory_is_bounded_and_what_finds_no_room_is_refused() {
        let start = Instant::now();
        let mut late = LateRepair::default();
        let mut offer = |sbn, bytes| late.push(first(sbn, 1, 2), &vec![0; bytes], 1000, CLASS, part(&[start], 1), MS);
        assert!((0..8).all(|sbn| offer(sbn, BYTES_MAX / 8)) && !offer(8, 1));
        let mut late = LateRepair::default();
        let mut offer = |sbn| late.push(first(sbn, 1, 2), &[0], 1, CLASS, part(&[start], 1), MS);
        assert!((0..PARTS_MAX as u64).all(&mut offer) && !offer(PARTS_MAX as u64));
    }

    proptest! {
        #[test]
        fn no_interruption_takes_more_than_there_are_repair_symbols_whatever_lagged(
            pauses in prop::collection::vec(0u64..900, 1..60),
            lags in prop::collection::vec(0u64..3000, 70),
            early in 1usize..6,
            survive_us in 100u64..6000,
            known_lag in 0u64..3000,
            after in 0u64..400,
        ) {
            let us = Duration::from_micros;
            let start = Instant::now();
            let mut at = start;
            let times: Vec<_> = pauses.iter().map(|pause| { at += us(*pause); at }).collect();
            let (closed_at, survive) = (at, us(survive_us));
            let count = part(&times, early).late_symbols(survive, us(known_lag));
            let mut late = LateRepair::default();
            let id = first(0, times.len(), early + count);
            prop_assert!(late.push(id, &vec![0; count], 1, CLASS, part(&times, early), survive));
            // Datagrams leave in order, each with its own lag.
            let mut left: Vec<Instant> = Vec::new();
            for (sent, lag) in times.iter().copied().chain(vec![closed_at; early]).zip(lags) {
                left.push((sent + us(lag)).max(left.last().copied().unwrap_or(sent)));
            }
            let sent = times.iter().copied().chain(vec![closed_at; early]);
            let lag = sent.zip(&left).map(|(sent, left)| *left - sent).max().unwrap();
            let known = *left.last().unwrap() + us(after);
            let kept = late.on_early_left(0, lag, known).unwrap() == Spread::Kept;
            let part = late.poll_due(known + burst::provided_for(survive)).unwrap();
            left.extend(vec![known + burst::provided_for(survive); part.count() as usize]);
            let most = left.iter().map(|begin| left.iter().filter(|at| (*begin..*begin + survive).contains(*at)).count());
            let most = most.max().unwrap();
            prop_assert!(!kept || most <= early + count, "{most} of {} within {survive:?}", early + count);
            // What was provided for is kept.
            prop_assert!(kept || lag > us(known_lag).max(burst::LAG_MIN), "{lag:?}");
        }
    }
}
