//! The log: everything that is published, in the order of its last change, with the schedule of repetitions.
//!
//! Each change gets the next *version* and moves its entry to the end. A subscriber is a cursor into this order: it
//! gets every entry after its cursor once, in its present state, however often the entry changed meanwhile. A
//! repetition moves an entry to the end without a change. So changes, repetitions and dumps are one walk, and a slow
//! reader costs nothing.
//!
//! The log does not know flows or subscribers.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::time::{Duration, Instant};

/// A change is sent at once and again after these delays: a lost datagram costs milliseconds.
const TAIL: [Duration; 4] =
    [Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(25), Duration::from_millis(100)];
/// Then it is sent [`SLOW_TIMES`] more times, this far apart. A subscriber that still missed it sees the gap in the
/// notification numbers and asks: ten thousand idle flows must not cost ten thousand messages a second for ever.
const SLOW: Duration = Duration::from_secs(1);
const SLOW_TIMES: u8 = 10;
/// The queue of the slow repetitions; each queue before it holds one step of the tail.
const SLOW_QUEUE: usize = TAIL.len();

/// Where an entry is stored; valid until the entry is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot(u32);

#[derive(Debug)]
struct Entry<T> {
    value: T,
    version: u64,
    changed: Instant,
    /// Repetitions so far.
    repeated: u8,
    /// When the next one is due.
    due: Instant,
}

#[derive(Debug)]
struct Place<T> {
    entry: Option<Entry<T>>,
    /// Bit q: queue q holds this slot. It outlives the entry, so that a queue never holds a slot twice.
    queued: u8,
}

/// The log of everything that is published.
#[derive(Debug)]
pub struct Log<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
    order: BTreeMap<u64, u32>,
    version: u64,
    /// Each is nearly sorted by time, because each has one delay.
    queues: [VecDeque<(Instant, u32)>; SLOW_QUEUE + 1],
}

impl<T> Log<T> {
    /// An empty log.
    pub fn new() -> Log<T> {
        Log { places: vec![], free: vec![], order: BTreeMap::new(), version: 0, queues: Default::default() }
    }

    /// The newest version.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Adds an entry.
    pub fn insert(&mut self, value: T, now: Instant) -> Slot {
        self.version += 1;
        let entry = Entry { value, version: self.version, changed: now, repeated: 0, due: now };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.places.push(Place { entry: None, queued: 0 });
                (self.places.len() - 1) as u32
            }
        };
        self.places[slot as usize].entry = Some(entry);
        self.order.insert(self.version, slot);
        self.schedule(slot, now);
        Slot(slot)
    }

    /// The value in a slot.
    pub fn value(&self, slot: Slot) -> Option<&T> {
        self.places.get(slot.0 as usize)?.entry.as_ref().map(|entry| &entry.value)
    }

    /// Changes an entry: it moves to the end and its repetitions start again.
    pub fn change(&mut self, slot: Slot, now: Instant, change: impl FnOnce(&mut T)) {
        let Some(entry) = self.places.get_mut(slot.0 as usize).and_then(|place| place.entry.as_mut()) else {
            return;
        };
        change(&mut entry.value);
        entry.changed = now;
        entry.repeated = 0;
        self.advance(slot.0);
        self.schedule(slot.0, now);
    }

    /// Removes an entry; returns its value and its last version.
    pub fn remove(&mut self, slot: Slot) -> Option<(T, u64)> {
        let entry = self.places.get_mut(slot.0 as usize)?.entry.take()?;
        self.order.remove(&entry.version);
        self.free.push(slot.0);
        Some((entry.value, entry.version))
    }

    /// The entries after a version, oldest first.
    pub fn after(&self, version: u64) -> impl Iterator<Item = (u64, &T)> {
        self.order.range((Excluded(version), Unbounded)).filter_map(|(version, slot)| {
            let entry = self.places[*slot as usize].entry.as_ref();
            entry.map(|entry| (*version, &entry.value))
        })
    }

    /// Moves the entries that are due for repetition to the end.
    pub fn handle_timeout(&mut self, now: Instant) {
        for queue in 0..self.queues.len() {
            // Only entries that waited at the start: an entry queued meanwhile waits for its own time.
            for _ in 0..self.queues[queue].len() {
                match self.queues[queue].front() {
                    Some((due, _)) if *due <= now => {}
                    _ => break,
                }
                if let Some((_, slot)) = self.queues[queue].pop_front() {
                    self.on_due(queue, slot, now);
                }
            }
        }
    }

    /// When to call [`Log::handle_timeout`] next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queues.iter().filter_map(|queue| queue.front().map(|(due, _)| *due)).min()
    }

    fn on_due(&mut self, queue: usize, slot: u32, now: Instant) {
        let place = &mut self.places[slot as usize];
        place.queued &= !(1 << queue);
        let Some(entry) = place.entry.as_mut() else {
            return;
        };
        if queue != queue_of(entry.repeated) {
            return;
        }
        if entry.due > now {
            place.queued |= 1 << queue;
            self.queues[queue].push_back((entry.due, slot));
            return;
        }
        entry.repeated += 1;
        self.advance(slot);
        self.schedule(slot, now);
    }

    /// Moves a slot to the end.
    fn advance(&mut self, slot: u32) {
        if let Some(entry) = self.places[slot as usize].entry.as_mut() {
            self.version += 1;
            self.order.remove(&entry.version);
            self.order.insert(self.version, slot);
            entry.version = self.version;
        }
    }

    /// Queues a slot for its next repetition, if there is one.
    fn schedule(&mut self, slot: u32, now: Instant) {
        let place = &mut self.places[slot as usize];
        let Some(entry) = place.entry.as_mut().filter(|entry| entry.repeated < TAIL.len() as u8 + SLOW_TIMES) else {
            return;
        };
        let queue = queue_of(entry.repeated);
        entry.due = match TAIL.get(queue) {
            Some(delay) => entry.changed + *delay,
            None => now + SLOW,
        };
        if place.queued & (1 << queue) == 0 {
            place.queued |= 1 << queue;
            self.queues[queue].push_back((entry.due, slot));
        }
    }
}

fn queue_of(repeated: u8) -> usize {
    usize::from(repeated).min(SLOW_QUEUE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(log: &Log<&'static str>, cursor: &mut u64) -> Vec<&'static str> {
        let entries: Vec<_> = log.after(*cursor).map(|(_, value)| *value).collect();
        *cursor = log.version();
        entries
    }

    #[test]
    fn a_change_is_repeated_on_schedule_and_then_rests() {
        let start = Instant::now();
        let mut log = Log::new();
        let mut cursor = 0;
        log.insert("a", start);
        assert_eq!(read(&log, &mut cursor), ["a"]);
        let mut times = vec![];
        while let Some(due) = log.poll_timeout() {
            log.handle_timeout(due);
            if !read(&log, &mut cursor).is_empty() {
                times.push((due - start).as_millis());
            }
        }
        assert_eq!(times[..6], [1, 5, 25, 100, 1100, 2100]);
        assert_eq!(times.len(), 14);
    }

    #[test]
    fn a_new_change_starts_the_schedule_again() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut log = Log::new();
        let mut cursor = 0;
        let slot = log.insert("a", start);
        for millis in 1..30 {
            log.handle_timeout(at(millis));
        }
        log.change(slot, at(30), |value| *value = "b");
        read(&log, &mut cursor);
        let mut times = vec![];
        for millis in 31..200 {
            log.handle_timeout(at(millis));
            times.extend(read(&log, &mut cursor).iter().map(|_| millis - 30));
        }
        assert_eq!(times, [1, 5, 25, 100]);
    }

    #[test]
    fn an_entry_that_changes_constantly_waits_in_each_queue_at_most_once() {
        let start = Instant::now();
        let mut log = Log::new();
        let slot = log.insert("a", start);
        for micros in 0..500_000 {
            let now = start + Duration::from_micros(micros);
            log.handle_timeout(now);
            if micros % 700 == 0 {
                log.change(slot, now, |_| {});
            }
            assert!(log.queues.iter().all(|queue| queue.len() <= 1));
        }
        log.remove(slot);
        log.insert("b", start + Duration::from_millis(500));
        assert!(log.queues.iter().all(|queue| queue.len() <= 1));
        assert_eq!(log.order.len(), 1);
    }

    #[test]
    fn the_order_is_that_of_the_last_change() {
        let now = Instant::now();
        let mut log = Log::new();
        let a = log.insert("a", now);
        let b = log.insert("b", now);
        log.insert("c", now);
        let mut cursor = 1;
        log.change(a, now, |_| {});
        assert_eq!(read(&log, &mut cursor), ["b", "c", "a"]);
        assert_eq!(log.remove(b), Some(("b", 2)));
        assert_eq!(read(&log, &mut 0), ["c", "a"]);
    }
}
