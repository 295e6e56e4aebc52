//! Events that wait for their hook. Of each kind and peer at most one waits: a later one becomes part of it.

use std::collections::VecDeque;

use super::event::Event;

/// Events that may wait. With few peers it is never reached; beyond, the oldest is dropped.
const WAITING_MAX: usize = 256;

/// The events, in the order in which they happened first.
#[derive(Debug, Default)]
pub struct Waiting {
    events: VecDeque<Event>,
    dropped: u64,
}

impl Waiting {
    /// Adds an event.
    pub fn push(&mut self, event: Event) {
        if let Some(waiting) = self.events.iter_mut().find(|waiting| waiting.is_like(&event)) {
            waiting.merge(event);
            return;
        }
        if self.events.len() == WAITING_MAX {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back(event);
    }

    /// The oldest, which stays.
    pub fn first(&self) -> Option<&Event> {
        self.events.front()
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// How many wait.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.events.len()
    }

    /// None waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// How many were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::hooks::event::tests::{link, violation};

    #[test]
    fn events_of_the_same_kind_and_peer_become_one_in_the_place_of_the_first() {
        let mut waiting = Waiting::default();
        waiting.push(link("syracuse", "up", "degraded"));
        waiting.push(violation(1));
        for _ in 0..1000 {
            waiting.push(link("syracuse", "degraded", "down"));
            waiting.push(link("syracuse", "down", "up"));
            waiting.push(violation(1));
        }
        assert_eq!((waiting.len(), waiting.dropped()), (2, 0));
        let first = waiting.pop().unwrap();
        assert_eq!((first.merged, first.fact), (2000, link("syracuse", "up", "up").fact));
        assert_eq!(waiting.first().map(|event| event.merged), Some(1000));
    }

    #[test]
    fn a_flood_over_many_peers_stays_bounded_and_is_counted() {
        let mut waiting = Waiting::default();
        for number in 0..WAITING_MAX + 10 {
            waiting.push(link(&number.to_string(), "up", "down"));
        }
        assert_eq!((waiting.len(), waiting.dropped()), (WAITING_MAX, 10));
        assert_eq!(waiting.pop().unwrap().peer, "10");
    }
}
