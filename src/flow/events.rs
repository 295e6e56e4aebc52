//! Changes of flows, queued in order until the reader polls them.
//!
//! Positions are cumulative, so a flow whose position changes often is queued only once. This module publishes nothing.

use std::collections::VecDeque;

use super::state::{FlowId, FlowState};
use crate::notify::message::{GoneReason, Level};
use crate::wire::payload_id::BlockId;

/// New and gone flows that are queued at most; beyond, the reader must read all flows again.
const WAITING_MAX: usize = 4096;

/// A change reported to subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flow or a new instance of one.
    New(FlowState),
    /// Positions have risen.
    Protected {
        /// The flow, with all its positions.
        flow: FlowState,
        /// Which of them have risen since the last event of the flow, by [`Level::index`].
        raised: [bool; Level::COUNT],
        /// The block that last raised a position of the flow; none if an acknowledgement did.
        block: Option<BlockId>,
    },
    /// The instance is no longer followed. Reported positions stand; missing ones will not come.
    Gone {
        /// Its last state.
        flow: FlowState,
        /// Why.
        reason: GoneReason,
    },
    /// The reader was too slow: some new flows were not reported, and some of those have gone. All reported flows whose
    /// end was not reported still exist.
    Overflow,
}

#[derive(Debug, Default)]
pub(super) struct Events {
    waiting: VecDeque<Event>,
    /// Set once the reader was too slow: the lowest instance whose beginning was not reported; `u64::MAX` before there
    /// is one.
    unreported_from: Option<u64>,
    /// The ends of earlier instances since then: no other event would report them. Bounded by the number of live flows.
    gone: VecDeque<Event>,
    /// Flows whose positions changed, each once.
    changed: VecDeque<FlowId>,
}

impl Events {
    pub fn new(flows: usize) -> Self {
        Self { changed: VecDeque::with_capacity(2 * flows + 1), ..Self::default() }
    }

    pub fn push(&mut self, event: Event) {
        if self.unreported_from.is_none() && self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(event);
            return;
        }
        let unreported_from = self.unreported_from.get_or_insert(u64::MAX);
        match &event {
            Event::New(flow) => *unreported_from = flow.id.instance().min(*unreported_from),
            Event::Gone { flow, .. } if flow.id.instance() < *unreported_from => self.gone.push_back(event),
            Event::Gone { .. } | Event::Protected { .. } | Event::Overflow => {}
        }
    }

    /// The caller ensures that each flow is queued only once.
    pub fn push_changed(&mut self, flow: FlowId) {
        self.changed.push_back(flow);
    }

    /// The next event other than a position change.
    pub fn pop(&mut self) -> Option<Event> {
        let event = self.waiting.pop_front().or_else(|| self.gone.pop_front());
        event.or_else(|| self.unreported_from.take().map(|_| Event::Overflow))
    }

    pub fn changed_len(&self) -> usize {
        self.changed.len()
    }

    pub fn retain_changed(&mut self, lives: impl Fn(FlowId) -> bool) {
        self.changed.retain(|&id| lives(id));
    }

    pub fn first_changed(&self) -> Option<FlowId> {
        self.changed.front().copied()
    }

    pub fn pop_changed(&mut self) {
        self.changed.pop_front();
        // Starts at the beginning of the buffer again. Otherwise the queue would walk through all of its memory and
        // make the kernel back all pages for a few flows.
        if self.changed.is_empty() {
            self.changed.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::time::Instant;

    use super::super::instance::Flow;
    use super::super::key::FlowKey;
    use super::*;
    use crate::notify::message::Origin;

    #[test]
    fn a_slow_reader_gets_one_overflow_at_the_end() {
        let mut events = Events::new(0);
        let any = IpAddr::from([10, 0, 0, 1]);
        let key = FlowKey { protocol: 17, source: any, source_port: 1, destination: any, destination_port: 2 };
        let flow = Flow::new(FlowId { slot: 0, instance: 1 }, key, Origin::Start, 0, None, Instant::now());
        let event = Event::New(flow.state());
        for _ in 0..WAITING_MAX + 5 {
            events.push(event);
        }
        let mut events_read = Vec::new();
        while let Some(event) = events.pop() {
            events_read.push(event);
        }
        assert_eq!(events_read.len(), WAITING_MAX + 1);
        assert_eq!(events_read.last(), Some(&Event::Overflow));
    }

    #[test]
    fn the_end_of_a_reported_flow_is_reported_even_to_a_slow_reader() {
        let mut events = Events::new(0);
        let any = IpAddr::from([10, 0, 0, 1]);
        let key = FlowKey { protocol: 17, source: any, source_port: 1, destination: any, destination_port: 2 };
        let state = |instance| {
            let id = FlowId { slot: 0, instance };
            Flow::new(id, key, Origin::Start, 0, None, Instant::now()).state()
        };
        let gone = |instance| Event::Gone { flow: state(instance), reason: GoneReason::Idle };
        let last = WAITING_MAX as u64;
        (1..=last).for_each(|instance| events.push(Event::New(state(instance))));
        // The reader does not poll: a reported flow ends, an unreported one begins and ends, another reported one ends.
        for event in [gone(1), Event::New(state(last + 1)), gone(last + 1), gone(2)] {
            events.push(event);
        }
        // Any number of flows may come and go meanwhile.
        for instance in last + 2..3 * last {
            events.push(Event::New(state(instance)));
            events.push(gone(instance));
        }
        assert_eq!((events.waiting.len(), events.gone.len()), (WAITING_MAX, 2));
        let ends = std::iter::from_fn(|| events.pop()).skip(WAITING_MAX).map(|event| match event {
            Event::Gone { flow, .. } => Some(flow.id.instance()),
            Event::Overflow => None,
            other => panic!("{other:?}"),
        });
        assert_eq!(ends.collect::<Vec<_>>(), [Some(1), Some(2), None], "the ends of reported flows, then one overflow");
        assert_eq!(events.pop(), None, "reported once");
    }

    #[test]
    fn few_flows_use_only_the_start_of_the_buffer() {
        let mut events = Events::new(100);
        for instance in 0..1000 {
            let place = events.changed.as_slices().0.as_ptr();
            (0..2).for_each(|slot| events.push_changed(FlowId { slot, instance }));
            (0..2).for_each(|_| events.pop_changed());
            assert_eq!(events.changed.as_slices().0.as_ptr(), place, "{instance}");
        }
    }
}
