//! One replication stream: what was sent to the mirror, what the mirror has acknowledged, what was acknowledged to the
//! primary.
//!
//! ```text
//! primary  w: 'w' | start u64 | end of WAL u64 | clock i64 | data          k: 'k' | end u64 | clock i64 | reply u8
//! mirror   r: 'r' | write u64 | flush u64 | apply u64 | clock i64 | reply u8
//! ```
//!
//! Each is in a CopyData message. Only `write` is ever raised, and only to what was sent in this stream: raising
//! `flush` would move replication slots, and the primary could recycle WAL that the mirror lacks. This module sends
//! nothing itself.

use std::fmt;

use super::command::Start;
use super::lsn::Lsn;
use super::records::Records;

/// Bytes of `w` before its data.
pub(super) const DATA: usize = 25;
/// Bytes of `k`.
const KEEPALIVE: usize = 18;
/// Bytes of `r`.
pub(super) const STATUS: usize = 34;

/// A standby status update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    /// Up to here received and written.
    pub write: Lsn,
    /// Up to here on the mirror's disk.
    pub flush: Lsn,
    /// Up to here visible at the mirror.
    pub apply: Lsn,
    /// The mirror's clock, microseconds since 2000.
    pub clock: u64,
    /// Asks for an answer at once.
    pub reply: u8,
}

impl Status {
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let body: &[u8; STATUS] = body.try_into().ok()?;
        if body[0] != b'r' {
            return None;
        }
        let (write, flush) = (Lsn(number(body, 1)), Lsn(number(body, 9)));
        Some(Self { write, flush, apply: Lsn(number(body, 17)), clock: number(body, 25), reply: body[33] })
    }

    /// Whether the update comes from a server that applies what it receives. Programs that only keep WAL
    /// (`pg_receivewal`, `pg_basebackup`, `pg_recvlogical`) report what they have flushed, as a server does, but never
    /// that anything was applied.
    fn is_of_mirror(&self) -> bool {
        self.flush != Lsn(0) && self.apply != Lsn(0)
    }

    /// The whole message, including the CopyData header.
    pub(super) fn emit(&self) -> [u8; 5 + STATUS] {
        let mut bytes = [0; 5 + STATUS];
        bytes[..6].copy_from_slice(&[b'd', 0, 0, 0, 4 + STATUS as u8, b'r']);
        for (at, value) in [(6, self.write.0), (14, self.flush.0), (22, self.apply.0), (30, self.clock)] {
            bytes[at..at + 8].copy_from_slice(&value.to_be_bytes());
        }
        bytes[38] = self.reply;
        bytes
    }
}

/// Why nothing more can be acknowledged early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    /// A replication message is too short.
    Short(char),
    /// WAL does not continue where the last message ended.
    Gap {
        /// The end of what was sent.
        sent: Lsn,
        /// Where the next message began.
        next: Lsn,
    },
    /// A position or a mark exceeds 64 bits.
    Beyond,
}

impl fmt::Display for Doubt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Short(tag) => write!(f, "a message `{tag}` is too short"),
            Self::Gap { sent, next } => write!(f, "WAL was sent up to {sent} and goes on at {next}"),
            Self::Beyond => f.write_str("a position is beyond the end of all WAL"),
        }
    }
}

/// One replication stream.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    logical: bool,
    /// The end of what was sent to the mirror; in a logical stream 0 until something was sent.
    sent: Lsn,
    /// The highest mark of earlier streams. Marks never fall within a connection; positions may fall from one stream to
    /// the next.
    floor: u64,
    /// Added to a position to make its mark, once the first position is known.
    shift: Option<u64>,
    /// The position up to which the gate has released marks.
    released: Lsn,
    /// The highest write position sent to the primary.
    acknowledged: Lsn,
    /// The mirror's last status, once it has flushed and applied something. A client that never does is no mirror.
    last: Option<Status>,
    /// It has flushed something and applied nothing, so far.
    only_keeps: bool,
    /// The position of the next WAL in the present message.
    passing: Option<Lsn>,
    /// Finds how much the mirror should have when it reconnects.
    records: Option<Records>,
    /// The position applied in its first status, if it is a mirror. By then the mirror has applied all WAL that it
    /// kept, because only then it asks for more. Its flushed position would be no measure: it starts at the same place,
    /// and then counts WAL that is sent again.
    came_with: Option<Option<Lsn>>,
}

impl Stream {
    /// A stream begins. `floor` is the highest mark noted on the connection, `early_position` the position acknowledged early
    /// for the mirror on earlier connections.
    pub(super) fn new(start: &Start, floor: u64, early_position: Option<Lsn>) -> Self {
        let sent = if start.logical { Lsn(0) } else { start.from };
        Self {
            logical: start.logical,
            sent,
            floor,
            shift: None,
            released: Lsn(0),
            acknowledged: Lsn(0),
            last: None,
            only_keeps: false,
            passing: None,
            records: early_position.filter(|_| !start.logical).map(|limit| Records::new(start.from, limit)),
            came_with: None,
        }
    }

    /// A CopyData message from the primary: `seen` is its beginning, up to [`DATA`] bytes, `len` its whole length.
    /// Returns the mark for its last byte.
    pub(super) fn on_data(&mut self, seen: &[u8], len: usize) -> Result<Option<u64>, Doubt> {
        self.passing = None;
        let end = match seen.first() {
            Some(b'w') if seen.len() < DATA => return Err(Doubt::Short('w')),
            Some(b'w') if self.logical => Lsn(number(seen, 1)),
            Some(b'w') => {
                let next = Lsn(number(seen, 1));
                if next != self.sent {
                    return Err(Doubt::Gap { sent: self.sent, next });
                }
                self.passing = Some(next);
                Lsn(next.0.checked_add((len - DATA) as u64).ok_or(Doubt::Beyond)?)
            }
            // The part that a logical stream leaves out, because no subscription includes it, ends with only a
            // keepalive.
            Some(b'k') if self.logical && seen.len() < KEEPALIVE => return Err(Doubt::Short('k')),
            Some(b'k') if self.logical => Lsn(number(seen, 1)),
            _ => return Ok(None),
        };
        // The changes of a transaction have positions before its commit, and may come before the commit that was sent
        // last.
        if end <= self.sent {
            return Ok(None);
        }
        self.sent = end;
        let shift = *self.shift.get_or_insert(if end.0 > self.floor { 0 } else { self.floor - end.0 + 1 });
        end.0.checked_add(shift).map(Some).ok_or(Doubt::Beyond)
    }

    /// The rest of that message.
    pub(super) fn on_more(&mut self, more: &[u8]) {
        if let (Some(records), Some(at)) = (&mut self.records, self.passing) {
            records.on_wal(at, more);
            self.passing = Some(Lsn(at.0.saturating_add(more.len() as u64)));
        }
    }

    /// The mirror's own status update. Returns the update to forward in its place, and the mark that it acknowledges.
    pub(super) fn on_status(&mut self, status: Status) -> (Status, u64) {
        self.came_with.get_or_insert(status.is_of_mirror().then_some(status.apply));
        if self.last.is_some() || status.is_of_mirror() {
            self.last = Some(status);
        }
        self.only_keeps = self.last.is_none() && status.flush != Lsn(0);
        let write = status.write.max(if self.last.is_some() { self.released } else { Lsn(0) });
        self.acknowledged = self.acknowledged.max(write);
        let mark = match self.shift {
            Some(shift) => status.write.0.saturating_add(shift),
            None => status.write.0.min(self.floor),
        };
        (Status { write: self.acknowledged, ..status }, mark)
    }

    /// Whether the receiver has flushed something and never applied anything: a program that keeps WAL, and no mirror.
    pub(super) fn only_keeps(&self) -> bool {
        self.only_keeps
    }

    /// Whether the receiver has proven to be a mirror.
    pub(super) fn is_of_mirror(&self) -> bool {
        self.last.is_some()
    }

    /// The position acknowledged early, if it is beyond what the mirror has acknowledged itself. None for a logical
    /// stream: a reconnecting subscriber reports the end of a transaction that it subscribes to, not a position in all
    /// WAL.
    pub(super) fn early_position(&self) -> Option<Lsn> {
        self.last.filter(|last| !self.logical && self.acknowledged > last.write).map(|_| self.acknowledged)
    }

    /// What the mirror came back with, once it is proven that it lacks a record that was acknowledged early.
    pub(super) fn poll_shortfall(&mut self) -> Option<Lsn> {
        let (needed, has) = (self.records.as_ref()?.found()?, self.came_with?);
        self.records = None;
        has.filter(|has| *has < needed)
    }

    /// The gate releases a mark, perhaps of an earlier stream.
    pub(super) fn on_released(&mut self, mark: u64) {
        if let Some(shift) = self.shift
            && mark > self.floor
        {
            self.released = self.released.max(Lsn(mark.saturating_sub(shift)).min(self.sent));
        }
    }

    /// From now on nothing is raised beyond what the primary already received.
    pub(super) fn stop(&mut self) {
        self.released = self.released.min(self.acknowledged);
    }

    /// The status update to send to the primary in the mirror's place now.
    pub(super) fn poll_early_status(&mut self) -> Option<Status> {
        let last = self.last.filter(|_| self.released > self.acknowledged)?;
        self.acknowledged = self.released;
        Some(Status { write: self.acknowledged, reply: 0, ..last })
    }
}

fn number(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_be_bytes(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(logical: bool, from: u64, floor: u64) -> Stream {
        Stream::new(&Start { slot: None, logical, from: Lsn(from), timeline: None }, floor, None)
    }

    fn data(start: u64, len: usize) -> (Vec<u8>, usize) {
        // The end of the primary's WAL is far ahead: it must not count.
        ([&b"w"[..], &start.to_be_bytes(), &u64::MAX.to_be_bytes(), &[0; 8]].concat(), DATA + len)
    }

    fn keepalive(end: u64) -> (Vec<u8>, usize) {
        ([&b"k"[..], &end.to_be_bytes(), &[0; 9]].concat(), KEEPALIVE)
    }

    fn mark(stream: &mut Stream, (bytes, len): (Vec<u8>, usize)) -> Result<Option<u64>, Doubt> {
        stream.on_data(&bytes, len)
    }

    fn status(write: u64, flush: u64) -> Status {
        Status { write: Lsn(write), flush: Lsn(flush), apply: Lsn(7), clock: 99, reply: 1 }
    }

    #[test]
    fn positions_are_written_as_postgresql_writes_them() {
        for (text, wanted) in [
            ("0/0", Some(0)),
            ("16/B374D848", Some(0x16_b374_d848)),
            ("ffffffff/ffffffff", Some(u64::MAX)),
            ("0", None),
            ("/1", None),
            ("0/", None),
            ("123456789/0", None),
            ("0/1/2", None),
        ] {
            assert_eq!(Lsn::parse(text).map(|lsn| lsn.0), wanted, "{text}");
        }
        assert_eq!(Lsn(0x16_b374_d848).to_string(), "16/B374D848");
    }

    #[test]
    fn a_status_reads_as_it_was_written() {
        let bytes = status(1 << 40, 5).emit();
        assert_eq!(bytes[..6], *b"d\0\0\0\x26r");
        assert_eq!(Status::parse(&bytes[5..]), Some(status(1 << 40, 5)));
        assert_eq!(Status::parse(&bytes[5..38]), None);
        assert_eq!(Status::parse(&[b'h'; STATUS]), None);
    }

    #[test]
    fn a_mark_is_the_end_of_what_was_sent() {
        let mut wal = stream(false, 1000, 0);
        assert_eq!(mark(&mut wal, data(1000, 24)), Ok(Some(1024)));
        assert_eq!(mark(&mut wal, keepalive(9000)), Ok(None));
        assert_eq!(mark(&mut wal, data(1024, 0)), Ok(None), "nothing new");
        assert_eq!(mark(&mut wal, data(1024, 1)), Ok(Some(1025)));
        assert_eq!(wal.on_data(b"s", 1), Ok(None), "messages of later versions");
        assert_eq!(wal.on_data(b"", 0), Ok(None));
    }

    #[test]
    fn wal_with_a_gap_raises_doubt() {
        let gap = |sent, next| Err(Doubt::Gap { sent: Lsn(sent), next: Lsn(next) });
        assert_eq!(mark(&mut stream(false, 1000, 0), data(1001, 5)), gap(1000, 1001));
        assert_eq!(mark(&mut stream(false, 1000, 0), data(999, 5)), gap(1000, 999));
        assert_eq!(mark(&mut stream(false, u64::MAX, 0), data(u64::MAX, 1)), Err(Doubt::Beyond));
        assert_eq!(mark(&mut stream(false, 5, u64::MAX), data(5, 1)), Err(Doubt::Beyond), "no mark is left");
        assert_eq!(stream(false, 0, 0).on_data(b"w1234", 5), Err(Doubt::Short('w')));
        assert_eq!(stream(true, 0, 0).on_data(b"k1234", 5), Err(Doubt::Short('k')));
    }

    #[test]
    fn a_logical_stream_counts_positions_and_not_bytes() {
        let mut changes = stream(true, 500, 0);
        assert_eq!(mark(&mut changes, data(400, 30)), Ok(Some(400)));
        assert_eq!(mark(&mut changes, data(450, 3000)), Ok(Some(450)), "a commit ends here");
        assert_eq!(mark(&mut changes, data(420, 10)), Ok(None), "a change of a transaction that commits later");
        assert_eq!(mark(&mut changes, keepalive(600)), Ok(Some(600)), "what was left out");
    }

    #[test]
    fn write_is_raised_once_the_mirror_has_flushed_and_applied_and_flush_never() {
        let mut wal = stream(false, 100, 0);
        let _ = mark(&mut wal, data(100, 50));
        wal.on_released(150);
        assert_eq!(wal.poll_early_status(), None, "the mirror has acknowledged nothing");
        assert_eq!(wal.on_status(status(0, 0)), (status(0, 0), 0), "it receives and keeps nothing");
        assert_eq!(wal.poll_early_status(), None);
        assert_eq!(wal.on_status(status(110, 100)), (status(150, 100), 110), "its first real status is raised");
        assert_eq!(wal.poll_early_status(), None, "sent already");
        let _ = mark(&mut wal, data(150, 50));
        wal.on_released(200);
        assert_eq!(wal.poll_early_status(), Some(Status { reply: 0, ..status(200, 100) }));
        assert_eq!(wal.poll_early_status(), None);
        assert_eq!(wal.on_status(status(160, 160)), (status(200, 160), 160), "write never falls");
        assert_eq!(wal.on_status(status(260, 210)), (status(260, 210), 260), "the mirror may be ahead");
        wal.on_released(200);
        assert_eq!(wal.poll_early_status(), None);
    }

    /// `pg_receivewal -S` and `pg_basebackup -S` report what they have flushed, and must not count as the mirror.
    #[test]
    fn a_receiver_that_keeps_wal_and_applies_none_is_not_the_mirror() {
        let kept = |write, flush| Status { apply: Lsn(0), ..status(write, flush) };
        let mut wal = stream(false, 100, 0);
        let _ = mark(&mut wal, data(100, 50));
        assert_eq!(wal.on_status(kept(110, 0)), (kept(110, 0), 110));
        assert!(!wal.only_keeps(), "it may be about to begin");
        assert_eq!(wal.on_status(kept(120, 110)), (kept(120, 110), 120));
        wal.on_released(150);
        assert_eq!((wal.poll_early_status(), wal.only_keeps()), (None, true));
        assert_eq!(wal.on_status(kept(130, 130)), (kept(130, 130), 130), "its own status is not raised");
        // A standby that had nothing to apply until now.
        assert_eq!(wal.on_status(status(140, 140)), (status(150, 140), 140));
        assert!(!wal.only_keeps());
    }

    #[test]
    fn a_mark_beyond_what_was_sent_claims_nothing() {
        let mut wal = stream(false, 100, 0);
        let _ = wal.on_status(status(100, 100));
        wal.on_released(500);
        assert_eq!(wal.poll_early_status(), None, "nothing was sent");
        let _ = mark(&mut wal, data(100, 50));
        wal.on_released(500);
        assert_eq!(wal.poll_early_status().map(|early| early.write), Some(Lsn(150)));
    }

    #[test]
    fn a_mark_of_an_earlier_stream_releases_nothing_of_a_later_one() {
        // The earlier stream went up to 200; this one begins again at 100, as after a change of timeline.
        let mut wal = stream(false, 100, 200);
        assert_eq!(wal.on_status(status(90, 90)).1, 90);
        let first = mark(&mut wal, data(100, 50)).unwrap().unwrap();
        assert!(first > 200, "marks never fall: {first}");
        wal.on_released(200);
        assert_eq!(wal.poll_early_status(), None, "that was the earlier stream's mark");
        wal.on_released(first);
        assert_eq!(wal.poll_early_status().map(|early| early.write), Some(Lsn(150)));
        let second = mark(&mut wal, data(150, 1000)).unwrap().unwrap();
        assert_eq!(second, first + 1000);
        assert_eq!(wal.on_status(status(150, 150)).1, first, "a real status acknowledges the mark of its position");
        // Further on than the earlier stream: a position is its own mark.
        assert_eq!(mark(&mut stream(false, 200, 200), data(200, 1)), Ok(Some(201)));
    }

    /// Positions released but not sent to the primary when doubt arises are never sent later, not even with the
    /// mirror's own status.
    #[test]
    fn doubt_stops_positions_that_were_released_and_not_sent() {
        let mut wal = stream(false, 100, 0);
        let _ = mark(&mut wal, data(100, 50));
        assert_eq!(wal.on_status(status(110, 100)), (status(110, 100), 110));
        wal.on_released(150);
        wal.stop();
        assert_eq!(wal.poll_early_status(), None);
        assert_eq!(wal.on_status(status(120, 120)), (status(120, 120), 120));
    }

    /// A mirror receives WAL from 0x50000 on again; its first status reports `applied`.
    fn reconnected_at(early_position: Option<u64>, applied: u64) -> Option<Lsn> {
        let (wal, _) = super::super::records::tests::wal(0x5_0000, 0, &[100, 200, 300], false);
        let mut stream = Stream::new(
            &Start { slot: None, logical: false, from: Lsn(0x5_0000), timeline: Some(1) },
            0,
            early_position.map(Lsn),
        );
        let (bytes, len) = data(0x5_0000, wal.len());
        let _ = stream.on_data(&bytes, len);
        assert_eq!(stream.poll_shortfall(), None);
        let _ = stream.on_status(Status { apply: Lsn(applied), ..status(0x5_1000, applied.max(1)) });
        for more in wal.chunks(7) {
            stream.on_more(more);
        }
        // It has replayed more by now.
        let _ = stream.on_status(Status { apply: Lsn(0x5_1000), ..status(0x5_1000, 0x5_1000) });
        let acknowledged = stream.poll_shortfall();
        assert_eq!(stream.poll_shortfall(), None, "reported once");
        acknowledged
    }

    #[test]
    fn a_mirror_that_comes_back_without_an_acknowledged_record_is_reported() {
        // Records end 104, 304 and 608 bytes after the header of the segment.
        let end = |bytes: u64| 0x5_0000 + 40 + bytes;
        assert_eq!(reconnected_at(Some(end(304)), end(104)), Some(Lsn(end(104))));
        assert_eq!(reconnected_at(Some(end(304)), 0x5_0000), Some(Lsn(0x5_0000)));
        assert_eq!(reconnected_at(Some(end(303)), end(104)), None, "a partial record is never acknowledged");
        assert_eq!(reconnected_at(Some(end(304)), end(304)), None, "it asks from the segment's beginning, as ever");
        assert_eq!(reconnected_at(Some(end(304)), end(608)), None, "it has more");
        assert_eq!(reconnected_at(Some(end(304)), 0), None, "what applies nothing is no mirror");
        assert_eq!(reconnected_at(None, end(104)), None, "nothing was acknowledged early for it");
    }

    #[test]
    fn the_early_position_is_kept_until_the_mirror_has_acknowledged_it() {
        let mut wal = stream(false, 100, 0);
        let _ = mark(&mut wal, data(100, 50));
        let _ = wal.on_status(status(110, 100));
        assert_eq!(wal.early_position(), None);
        wal.on_released(150);
        let _ = wal.poll_early_status();
        assert_eq!(wal.early_position(), Some(Lsn(150)));
        let _ = wal.on_status(status(149, 100));
        assert_eq!(wal.early_position(), Some(Lsn(150)));
        let _ = wal.on_status(status(150, 100));
        assert_eq!(wal.early_position(), None);
    }
}
