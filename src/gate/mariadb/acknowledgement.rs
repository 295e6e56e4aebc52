//! Acknowledgements of semi-synchronous replication: `ef`, a position of 64 bits, the name of the binary log.
//!
//! [`Places`] keeps the positions that the primary waits for, in the order of the stream, each under a number that the
//! gate's marks carry; file names and positions alone could not be compared across files. Both sides can cause lookups
//! as often as they like, so a lookup costs very little, however many places wait. This module sends nothing.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::SEMI_SYNC;

/// Places remembered at most. Beyond that, a new place replaces the newest one, which is then acknowledged together
/// with it, later than it could be.
const MOST_PLACES: usize = 65_536;

/// A position that an acknowledgement names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its number on this connection, rising from 1.
    pub(super) number: u64,
    pub(super) file: Arc<[u8]>,
    pub(super) position: u64,
}

impl Place {
    /// Appends the packet that acknowledges it. The packet number is 0, as for everything that a replica sends during a
    /// dump.
    pub(super) fn emit(&self, out: &mut Vec<u8>) {
        let len = (1 + 8 + self.file.len()) as u32;
        out.extend_from_slice(&len.to_le_bytes()[..3]);
        out.extend_from_slice(&[0, SEMI_SYNC]);
        out.extend_from_slice(&self.position.to_le_bytes());
        out.extend_from_slice(&self.file);
    }
}

/// Reads the content of a replica's acknowledgement: position and file.
pub(super) fn parse(content: &[u8]) -> Option<(u64, &[u8])> {
    let (&SEMI_SYNC, rest) = content.split_first()? else { return None };
    let (position, file) = rest.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*position), file))
}

/// What to do with a real acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Real {
    /// The primary does not have it yet. The number is that of the last place it covers.
    News(u64),
    /// The primary has it from the gate already; a second one could count as another replica's.
    Known(u64),
    /// It names a file that is not being sent.
    Foreign,
}

/// A binary log, and the first number that a place in it has, or could have had.
#[derive(Debug)]
struct Log {
    name: Arc<[u8]>,
    first: u64,
}

/// The places that the primary waits for.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// The files in which a place waits, in the order of the stream, and the present file.
    logs: VecDeque<Log>,
    waiting: VecDeque<Place>,
    last: u64,
    /// The last number that the replica has acknowledged itself.
    real: Option<u64>,
    released: u64,
    acknowledged: Option<Place>,
}

impl Places {
    /// Numbers go on after `last`, the last number of an earlier dump on the same connection: marks of that dump may
    /// still be released, and must not match a place here.
    pub(super) fn after(last: u64) -> Self {
        Self { last, released: last, ..Self::default() }
    }

    /// The last number given out.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// The present file.
    pub(super) fn file(&self) -> Option<&Arc<[u8]>> {
        self.logs.back().map(|log| &log.name)
    }

    /// Whether the replica has sent an acknowledgement of its own.
    pub(super) fn has_acknowledged(&self) -> bool {
        self.real.is_some()
    }

    /// The events that follow are in this file.
    pub(super) fn on_file(&mut self, name: &[u8]) {
        if self.logs.back().is_some_and(|log| *log.name == *name) {
            return;
        }
        let first = self.last + 1;
        // No place was ever noted in the previous file, so no acknowledgement will name it.
        if self.logs.back().is_some_and(|log| log.first == first) {
            self.logs.pop_back();
        }
        self.logs.push_back(Log { name: name.into(), first });
        self.forget_logs();
    }

    /// Forgets binary logs in which no place waits any more, but never the present one.
    fn forget_logs(&mut self) {
        let next = self.waiting.front().map_or(self.last + 1, |place| place.number);
        while self.logs.get(1).is_some_and(|log| log.first <= next) {
            self.logs.pop_front();
        }
    }

    /// The primary waits for this position in the present file. Returns its number; none before a file is known.
    pub(super) fn on_wanted(&mut self, end: u32) -> Option<u64> {
        let file = Arc::clone(&self.logs.back()?.name);
        self.last += 1;
        if self.waiting.len() == MOST_PLACES
            && let Some(given_up) = self.waiting.pop_back()
        {
            while let Some(before) = self.logs.len().checked_sub(2)
                && self.logs[before].first >= given_up.number
            {
                self.logs.remove(before);
            }
        }
        self.waiting.push_back(Place { number: self.last, file, position: end.into() });
        Some(self.last)
    }

    /// The replica has acknowledged everything up to there itself.
    pub(super) fn on_real(&mut self, position: u64, file: &[u8]) -> Real {
        let covered = match self.logs.iter().position(|log| *log.name == *file) {
            Some(log) => self.covered(position, log),
            // An earlier file, in which no place waits any more.
            None if self.acknowledged.as_ref().is_some_and(|told| *told.file == *file) => 0,
            None => return Real::Foreign,
        };
        let before = self.real.unwrap_or(0);
        let number = self.waiting.drain(..covered).next_back().map_or(before, |place| place.number);
        self.real = Some(number);
        self.forget_logs();
        let has = |told: &Place| number < told.number || *told.file == *file && position <= told.position;
        if self.acknowledged.as_ref().is_some_and(has) {
            return Real::Known(number);
        }
        self.acknowledged = Some(Place { number, file: file.into(), position });
        Real::News(number)
    }

    /// How many waiting places lie at or before this one. They are in the order of the stream, so those of earlier
    /// files come first.
    fn covered(&self, position: u64, log: usize) -> usize {
        let first = self.logs[log].first;
        let behind = self.logs.get(log + 1).map_or(u64::MAX, |next| next.first);
        let is_covered = |place: &Place| place.number < first || place.number < behind && place.position <= position;
        self.waiting.partition_point(is_covered)
    }

    /// Everything up to the place `number` may be acknowledged. Returns the place to acknowledge now, if the primary
    /// does not have it yet.
    ///
    /// None before the replica's first own acknowledgement: only that proves that the replica writes what it receives,
    /// and that it names places as the gate does.
    pub(super) fn on_released(&mut self, number: u64) -> Option<&Place> {
        self.released = self.released.max(number.min(self.last));
        self.real?;
        let told = self.acknowledged.as_ref().map_or(0, |told| told.number);
        let at = self.waiting.partition_point(|place| place.number <= self.released).checked_sub(1)?;
        let place = self.waiting.get(at).filter(|place| place.number > told)?;
        self.acknowledged = Some(place.clone());
        self.acknowledged.as_ref()
    }

    /// The place that was released before the replica's first acknowledgement, if the primary does not have it yet.
    pub(super) fn poll_released(&mut self) -> Option<&Place> {
        self.on_released(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn position(place: Option<&Place>) -> Option<u64> {
        place.map(|place| place.position)
    }

    #[test]
    fn an_acknowledgement_reads_as_it_was_written() {
        let place = Place { number: 1, file: b"bin.000001".as_slice().into(), position: 0x0102_0304_0506 };
        let mut bytes = vec![];
        place.emit(&mut bytes);
        assert_eq!(bytes, b"\x13\0\0\0\xef\x06\x05\x04\x03\x02\x01\0\0bin.000001");
        assert_eq!(parse(&bytes[4..]), Some((0x0102_0304_0506, b"bin.000001".as_slice())));
        for wrong in [b"".as_slice(), b"\x01", b"\xef", b"\xef1234567"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn each_place_is_acknowledged_once_and_in_order() {
        let mut places = Places::default();
        assert_eq!(places.on_wanted(4), None, "no file yet");
        places.on_file(b"bin.000001");
        assert_eq!([places.on_wanted(100), places.on_wanted(200), places.on_wanted(300)], [Some(1), Some(2), Some(3)]);
        assert_eq!(places.on_released(2), None, "before the replica's first");
        assert_eq!(places.on_real(100, b"bin.000001"), Real::News(1));
        assert_eq!(position(places.poll_released()), Some(200));
        assert_eq!(position(places.on_released(2)), None);
        assert_eq!(places.on_real(200, b"bin.000001"), Real::Known(2));
        places.on_file(b"bin.000002");
        assert_eq!(places.on_wanted(50), Some(4), "lower, and in a later file");
        assert_eq!(position(places.on_released(4)), Some(50));
        assert_eq!(places.on_real(300, b"bin.000001"), Real::Known(3), "already acknowledged with a later place");
        assert_eq!(places.on_real(50, b"bin.000002"), Real::Known(4));
        assert_eq!(places.on_wanted(80), Some(5));
        assert_eq!(places.on_real(80, b"bin.000002"), Real::News(5));
        assert_eq!(position(places.on_released(5)), None);
        assert!(places.waiting.is_empty());
    }

    #[test]
    fn a_real_acknowledgement_between_places_covers_the_places_before() {
        let mut places = Places::default();
        places.on_file(b"bin.000001");
        places.on_wanted(100);
        places.on_wanted(200);
        assert_eq!(places.on_real(90, b"bin.000001"), Real::News(0));
        assert_eq!(places.on_real(150, b"bin.000001"), Real::News(1));
        assert_eq!(places.on_real(140, b"bin.000001"), Real::Known(1));
        assert_eq!(position(places.on_released(2)), Some(200));
        assert_eq!(places.on_real(7, b"other.000001"), Real::Foreign);
        places.on_file(b"bin.000002");
        assert_eq!(places.on_wanted(60), Some(3));
        assert_eq!(places.on_real(4, b"bin.000002"), Real::News(2), "covers the places in the file before");
        assert_eq!(places.on_real(60, b"bin.000002"), Real::News(3));
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_acknowledged_too_early() {
        let mut places = Places::default();
        places.on_file(b"bin.000001");
        let last = MOST_PLACES as u32 + 10;
        for end in 1..=last {
            places.on_wanted(end);
        }
        assert_eq!(places.waiting.len(), MOST_PLACES);
        assert_eq!(places.on_real(1, b"bin.000001"), Real::News(1));
        assert_eq!(position(places.on_released(u64::from(last) - 1)), Some(MOST_PLACES as u64 - 1));
        assert_eq!(position(places.on_released(last.into())), Some(last.into()));
    }

    #[test]
    fn binary_logs_are_forgotten_with_their_places() {
        let mut places = Places::default();
        let name = |number: u32| format!("bin.{number}").into_bytes();
        for number in 0..MOST_PLACES as u32 + 100 {
            places.on_file(&name(number));
            places.on_wanted(4);
        }
        assert!(places.waiting.len() == MOST_PLACES && places.logs.len() <= MOST_PLACES);
        assert_eq!(places.on_real(4, &name(1000)), Real::News(1001));
        let last = places.last();
        assert_eq!(places.on_real(4, &name(last as u32 - 1)), Real::News(last));
        assert_eq!((places.waiting.len(), places.logs.len()), (0, 1));
        for number in 0..100 {
            places.on_file(&name(number));
        }
        assert_eq!(places.logs.len(), 1, "no place waits in them");
    }

    #[test]
    fn repeated_acknowledgements_cost_very_little() {
        let mut places = Places::default();
        places.on_file(b"bin.000001");
        places.on_wanted(1000);
        assert_eq!(places.on_real(1000, b"bin.000001"), Real::News(1));
        places.on_file(b"bin.000002");
        for end in 1..=MOST_PLACES as u32 {
            places.on_wanted(end);
        }
        let begun = std::time::Instant::now();
        for _ in 0..300_000 {
            assert_eq!(places.on_real(1000, b"bin.000001"), Real::Known(1));
        }
        // Comparing every waiting place each time would take minutes.
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    }

    proptest! {
        /// Compares with a model that remembers every place with its file and looks at all of them.
        #[test]
        fn a_real_acknowledgement_covers_exactly_the_places_before_it(
            steps in proptest::collection::vec((0..6u8, 1..30u32), 1..200),
        ) {
            let name = |file: usize| format!("bin.{file:06}").into_bytes();
            let (mut places, mut all) = (Places::default(), Vec::<(usize, u32)>::new());
            let (mut file, mut end, mut real) = (0, 4, 0);
            places.on_file(&name(file));
            for (what, more) in steps {
                match what {
                    0..=2 => {
                        end += more;
                        all.push((file, end));
                        prop_assert_eq!(places.on_wanted(end), Some(all.len() as u64));
                    }
                    3 => {
                        (file, end) = (file + 1, 4);
                        places.on_file(&name(file));
                    }
                    4 => drop(places.on_released(u64::from(more)).cloned()),
                    _ => {
                        // As a replica does: a place that was sent, or a position between two places, never before the
                        // last one.
                        let wanted = (file, end.saturating_sub(more % 7));
                        let covered = all.iter().take_while(|place| **place <= wanted).count() as u64;
                        real = covered.max(real);
                        let told = places.on_real(wanted.1.into(), &name(file));
                        prop_assert!(told == Real::News(real) || told == Real::Known(real), "{:?}, not {}", told, real);
                    }
                }
                prop_assert_eq!(places.waiting.len() as u64, all.len() as u64 - real);
                prop_assert!(places.logs.len() <= places.waiting.len() + 1);
            }
        }
    }

    #[test]
    fn a_release_of_an_earlier_dump_acknowledges_nothing_of_a_later_one() {
        let mut places = Places::after(7);
        places.on_file(b"bin.000002");
        assert_eq!(places.on_released(7), None);
        assert_eq!([places.on_wanted(100), places.on_wanted(200)], [Some(8), Some(9)]);
        assert_eq!(places.on_real(4, b"bin.000002"), Real::News(0));
        assert_eq!(position(places.poll_released()), None);
        assert_eq!(position(places.on_released(8)), Some(100));
        assert_eq!(position(places.on_released(u64::MAX)), Some(200));
        assert_eq!(places.on_wanted(300), Some(10));
        assert_eq!(position(places.poll_released()), None, "a release is never about what was noted after it");
    }
}
