//! The connections of a loop that have something to do, so that a turn visits only these.
//!
//! A connection is known here by the number of its slot. The queue decides nothing about connections.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Slots with something to do.
#[derive(Debug, Default)]
pub struct RunQueue {
    ready: BTreeSet<usize>,
    waiting: BTreeSet<usize>,
    due: BTreeMap<usize, Instant>,
}

impl RunQueue {
    /// Its sockets may be ready, or it has not finished its work.
    pub fn on_ready(&mut self, at: usize) {
        self.ready.insert(at);
    }

    /// Whether marks wait in a slot for the appliance, and when something is due there if no event comes.
    pub fn on_state(&mut self, at: usize, waits: bool, due: Option<Instant>) {
        match waits {
            true => self.waiting.insert(at),
            false => self.waiting.remove(&at),
        };
        match due {
            Some(due) => self.due.insert(at, due),
            None => self.due.remove(&at),
        };
    }

    /// The slot is empty now.
    pub fn forget(&mut self, at: usize) {
        self.ready.remove(&at);
        self.on_state(at, false, None);
    }

    /// Takes the slots that are ready, to be served now.
    pub fn poll_ready(&mut self) -> BTreeSet<usize> {
        std::mem::take(&mut self.ready)
    }

    /// Whether some are ready.
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The slots with waiting marks.
    pub fn waiting(&self) -> Vec<usize> {
        self.waiting.iter().copied().collect()
    }

    /// The slots for which something is due at `now`.
    pub fn overdue(&self, now: Instant) -> Vec<usize> {
        self.due.iter().filter(|(_, due)| **due <= now).map(|(at, _)| *at).collect()
    }

    /// When the next thing is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_last_state_of_each_slot_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut run_queue = RunQueue::default();
        run_queue.on_ready(7);
        run_queue.on_ready(3);
        run_queue.on_ready(7);
        assert_eq!(run_queue.poll_ready().into_iter().collect::<Vec<_>>(), [3, 7]);
        assert!(!run_queue.has_ready());
        run_queue.on_state(3, true, Some(at(20)));
        run_queue.on_state(7, true, Some(at(10)));
        assert_eq!((run_queue.waiting(), run_queue.poll_timeout()), (vec![3, 7], Some(at(10))));
        assert_eq!((run_queue.overdue(at(9)), run_queue.overdue(at(10))), (vec![], vec![7]));
        run_queue.on_state(7, false, None);
        assert_eq!((run_queue.waiting(), run_queue.poll_timeout()), (vec![3], Some(at(20))));
        run_queue.on_ready(3);
        run_queue.forget(3);
        assert_eq!((run_queue.waiting(), run_queue.poll_timeout(), run_queue.has_ready()), (vec![], None, false));
    }
}
