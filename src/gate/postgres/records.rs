//! Finds where WAL records end, in WAL that is sent from the beginning of a segment. The result is the position up to
//! which a mirror must have replayed to have every record that was acknowledged early for it.
//!
//! ```text
//! page    magic u16 | info u16 | timeline u32 | address u64 | rest of a record begun before u32 | 4 B    data
//! first of a segment: the same, then  system u64 | segment size u32 | page size u32, 40 B in all         data
//! record  length u32 | ...   begins at a multiple of 8, continues after the next page's header
//! ```
//!
//! Numbers are in the byte order of the primary. A reconnecting mirror starts at the end of a record: it discards a
//! record that it has only in part. An acknowledged commit ends within what was sent, so a partial record at the end is
//! no loss. This module reads only lengths, keeps no WAL, and gives no result for WAL of an unknown form.

use super::lsn::Lsn;

/// A page's header, and the header of a segment's first page.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: usize = 40;
/// High byte of the magic number in all versions since 9.6; the low byte is the version.
const MAGIC: u8 = 0xd1;
/// In `info`: the header is that of a segment.
const IS_LONG: u16 = 2;
/// A record's header. A length of zero means that the rest of the segment is unused.
const RECORD_HEADER: u64 = 24;
/// No record is longer.
const LONGEST: u64 = 1 << 30;

/// Finds the end of the last record that ends at or before `limit`.
#[derive(Clone, Debug)]
pub(super) struct Records {
    limit: u64,
    /// The end of a record, at or before the limit; at first the start of the WAL.
    reached: u64,
    stage: Stage,
    /// The position of what is read next.
    at: u64,
    bytes: [u8; SEGMENT_HEADER],
    have: usize,
    is_big_endian: bool,
    page: u64,
    segment: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Segment,
    Length,
    Found,
    Unreadable,
}

impl Records {
    /// For WAL that is sent from `start` on.
    pub(super) fn new(start: Lsn, limit: Lsn) -> Self {
        Self {
            limit: limit.0,
            reached: start.0,
            stage: if limit > start { Stage::Segment } else { Stage::Found },
            at: start.0,
            bytes: [0; SEGMENT_HEADER],
            have: 0,
            is_big_endian: false,
            page: 0,
            segment: 0,
        }
    }

    /// The end of the last record, once it is known.
    pub(super) fn found(&self) -> Option<Lsn> {
        (self.stage == Stage::Found).then_some(Lsn(self.reached))
    }

    /// The next WAL passes, in order.
    pub(super) fn on_wal(&mut self, start: Lsn, wal: &[u8]) {
        let end = start.0.saturating_add(wal.len() as u64);
        loop {
            let need = match self.stage {
                Stage::Segment => SEGMENT_HEADER,
                Stage::Length => 4,
                Stage::Found | Stage::Unreadable => return,
            };
            let from = self.at.saturating_add(self.have as u64);
            if from < start.0 {
                self.stage = Stage::Unreadable;
            }
            if from < start.0 || from >= end {
                return;
            }
            let here = &wal[(from - start.0) as usize..];
            let taken = (need - self.have).min(here.len());
            self.bytes[self.have..self.have + taken].copy_from_slice(&here[..taken]);
            self.have += taken;
            if self.have < need {
                return;
            }
            self.have = 0;
            let is_sound = if self.stage == Stage::Segment { self.on_segment() } else { self.on_length() };
            if !is_sound {
                self.stage = Stage::Unreadable;
            }
        }
    }

    /// Reads the header of the first page. False if it has another form.
    fn on_segment(&mut self) -> bool {
        self.is_big_endian = self.bytes[0] == MAGIC;
        let known = self.bytes[0] == MAGIC || self.bytes[1] == MAGIC;
        let info = self.number(2, 2) as u16;
        let rest = self.number(16, 4);
        (self.segment, self.page) = (self.number(32, 4), self.number(36, 4));
        let is_sound = known
            && info & IS_LONG != 0
            && self.number(8, 8) == self.at
            && rest <= LONGEST
            && self.page.is_power_of_two()
            && self.page >= 1024
            && self.segment.is_power_of_two()
            && self.segment > self.page
            && self.at.is_multiple_of(self.segment);
        let begin = self.at.saturating_add(SEGMENT_HEADER as u64);
        match (is_sound, rest) {
            (false, _) => {}
            // A record begins here, and none ends.
            (true, 0) => self.begin_record(begin),
            (true, rest) => self.on_end(self.behind(begin, rest)),
        }
        is_sound
    }

    /// Reads the length of a record. False if no record has this length.
    fn on_length(&mut self) -> bool {
        match self.number(0, 4) {
            // Nothing follows in this segment.
            0 => self.on_end((self.at / self.segment).saturating_add(1).saturating_mul(self.segment)),
            length @ RECORD_HEADER..=LONGEST => self.on_end(self.behind(self.at, length)),
            _ => return false,
        }
        true
    }

    /// A record ends there.
    fn on_end(&mut self, end: u64) {
        if end <= self.limit {
            self.reached = end;
        }
        // The next record begins after the page header.
        self.begin_record(if end.is_multiple_of(self.page) { end.saturating_add(self.header(end)) } else { end });
    }

    fn begin_record(&mut self, at: u64) {
        self.at = at;
        self.stage = if at.saturating_add(RECORD_HEADER) > self.limit { Stage::Found } else { Stage::Length };
    }

    /// The position after `count` bytes of a record that starts at `at`.
    fn behind(&self, mut at: u64, count: u64) -> u64 {
        let mut rest = count.next_multiple_of(8);
        loop {
            let page_end = (at / self.page).saturating_add(1).saturating_mul(self.page);
            if rest <= page_end - at {
                return at + rest;
            }
            rest -= page_end - at;
            at = page_end.saturating_add(self.header(page_end));
            if at >= self.limit {
                // Beyond the limit; how far does not matter.
                return u64::MAX;
            }
        }
    }

    fn header(&self, page: u64) -> u64 {
        if page.is_multiple_of(self.segment) { SEGMENT_HEADER as u64 } else { PAGE_HEADER }
    }

    fn number(&self, at: usize, len: usize) -> u64 {
        let bytes = &self.bytes[at..at + len];
        let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
        if self.is_big_endian { bytes.iter().fold(0, fold) } else { bytes.iter().rev().fold(0, fold) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    const SEGMENT: u64 = 64 * 1024;

    /// WAL from `start`, the beginning of a segment: `rest` bytes of a record begun before, then records of these
    /// lengths. Also returns where each record ends.
    pub(in super::super) fn wal(start: u64, rest: u32, lengths: &[u32], is_big_endian: bool) -> (Vec<u8>, Vec<u64>) {
        let (page, mut out, mut ends) = (8192, Vec::new(), Vec::new());
        let order = |mut bytes: Vec<u8>| {
            if is_big_endian {
                bytes.reverse();
            }
            bytes
        };
        let header = |out: &mut Vec<u8>, rest: u32| {
            let at = start + out.len() as u64;
            let is_first = at.is_multiple_of(SEGMENT);
            out.extend(order(0xd110_u16.to_le_bytes().to_vec()));
            out.extend(order((u16::from(is_first) * 2 + u16::from(rest > 0)).to_le_bytes().to_vec()));
            out.extend(order(1_u32.to_le_bytes().to_vec()));
            out.extend(order(at.to_le_bytes().to_vec()));
            out.extend(order(rest.to_le_bytes().to_vec()));
            out.extend([0; 4]);
            if is_first {
                out.extend([7; 8]);
                out.extend(order((SEGMENT as u32).to_le_bytes().to_vec()));
                out.extend(order((page as u32).to_le_bytes().to_vec()));
            }
        };
        header(&mut out, rest);
        let record = |out: &mut Vec<u8>, length: u32, has_length: bool| {
            let mut bytes = vec![0xee; length.next_multiple_of(8) as usize];
            if has_length {
                bytes[..4].copy_from_slice(&order(length.to_le_bytes().to_vec()));
            }
            let mut bytes = bytes.as_slice();
            while !bytes.is_empty() {
                if (start + out.len() as u64).is_multiple_of(page) {
                    header(out, bytes.len() as u32);
                }
                let room = page - (start + out.len() as u64) % page;
                let (now, later) = bytes.split_at(bytes.len().min(room as usize));
                out.extend(now);
                bytes = later;
            }
            start + out.len() as u64
        };
        if rest > 0 {
            ends.push(record(&mut out, rest, false));
        }
        for length in lengths {
            // A record does not begin before a page header.
            if (start + out.len() as u64).is_multiple_of(page) {
                header(&mut out, 0);
            }
            ends.push(record(&mut out, *length, true));
        }
        (out, ends)
    }

    fn find(start: u64, limit: u64, wal: &[u8], piece: usize) -> Option<u64> {
        let mut records = Records::new(Lsn(start), Lsn(limit));
        for (at, bytes) in wal.chunks(piece).enumerate() {
            records.on_wal(Lsn(start + (at * piece) as u64), bytes);
        }
        records.found().map(|lsn| lsn.0)
    }

    proptest! {
        #[test]
        fn the_last_record_within_the_limit_is_found(
            rest in prop_oneof![Just(0_u32), 1..30_000_u32],
            lengths in proptest::collection::vec(prop_oneof![24..200_u32, 24..40_000_u32], 1..40),
            share in 0.0..1.0, piece in 1..9000_usize, is_big_endian: bool,
        ) {
            let start = 5 * SEGMENT;
            let (wal, ends) = wal(start, rest, &lengths, is_big_endian);
            let limit = start + 1 + (share * (wal.len() - 1) as f64) as u64;
            let wanted = ends.iter().copied().filter(|end| *end <= limit).max().unwrap_or(start);
            // What was acknowledged was sent, and is sent again; nothing after it is read.
            let sent = (limit - start) as usize;
            let found = find(start, limit, &wal[..sent], piece);
            // If the header of the first page is incomplete, no record end is found.
            prop_assert_eq!(found, (sent >= SEGMENT_HEADER).then_some(wanted));
            prop_assert_eq!(found.is_none() || find(start, limit, &wal, wal.len()) == found, true);
        }

        #[test]
        fn any_bytes_are_read_without_failing(wal: Vec<u8>, start: u64, limit: u64) {
            let mut records = Records::new(Lsn(start), Lsn(limit));
            records.on_wal(Lsn(start), &wal);
            prop_assert!(records.found().is_none_or(|found| found.0 <= limit.max(start)));
        }
    }

    /// A mirror that has replayed everything up to the beginning of a segment lacks nothing.
    #[test]
    fn no_record_ends_with_the_header_of_a_segment() {
        let start = 5 * SEGMENT;
        let (wal, ends) = wal(start, 0, &[100], false);
        assert_eq!(find(start, start + 60, &wal, 1000), Some(start));
        assert_eq!(find(start, ends[0], &wal, 1000), Some(start + 144));
    }

    #[test]
    fn a_segment_with_an_unused_rest_ends_where_the_next_begins() {
        let start = 5 * SEGMENT;
        let (mut first, ends) = wal(start, 0, &[100, 24], false);
        first.resize(SEGMENT as usize, 0);
        let (second, next) = wal(start + SEGMENT, 0, &[50, 60], false);
        let both = [first, second].concat();
        assert_eq!(find(start, ends[1] + 3, &both, 1000), Some(ends[1]));
        assert_eq!(find(start, start + SEGMENT, &both, 1000), Some(start + SEGMENT));
        assert_eq!(find(start, next[0] + 8, &both, 1000), Some(next[0]));
    }

    #[test]
    fn wal_of_an_unknown_form_gives_no_result() {
        let start = 5 * SEGMENT;
        let (whole, _) = wal(start, 0, &[100, 100, 100], false);
        assert!(find(start, start + 200, &whole, 64).is_some());
        for (at, byte) in [(1, 0xd0), (2, 0), (8, 1), (37, 0x21), (34, 3), (18, 0xff), (43, 0x7f), (40, 23)] {
            let mut other = whole.clone();
            other[at] = byte;
            if at == 18 {
                other[19] = 0xff;
            }
            assert_eq!(find(start, start + 300, &other, 64), None, "byte {at} is {byte}");
        }
        assert_eq!(find(start + 8192, start + 9000, &whole, 64), None, "not from a segment's beginning");
        assert_eq!(find(start, start, &whole, 64), Some(start), "nothing was acknowledged");
    }
}
