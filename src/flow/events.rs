//! What happened to flows, in order, until somebody asks.
//!
//! Positions are cumulative, so a flow whose position changes often waits only once. It publishes nothing.

use std::collections::VecDeque;

use super::state::{FlowId, FlowState, Position};
use crate::notify::message::{GoneReason, Level};
use crate::wire::payload_id::BlockId;

/// News and ends of flows that wait at most; beyond, the reader is told to look at all flows again.
const WAITING_MAX: usize = 4096;

/// A change that subscribers want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A flow or a new instance of one.
    New(FlowState),
    /// Everything before `position` has reached `level`.
    Protected {
        /// The flow, with its other levels, too.
        flow: FlowState,
        /// What is known of it.
        level: Level,
        /// Up to where.
        position: Position,
        /// The block whose fate raised a position of the flow last; none if an acknowledgement did.
        block: Option<BlockId>,
    },
    /// The instance is no longer followed; what was said of it stands, what is missing will not come.
    Gone {
        /// Its last state.
        flow: FlowState,
        /// Why.
        reason: GoneReason,
    },
    /// The reader was too slow: flows came untold, and some of them went. Those that it was told of have not.
    Overflow,
}

#[derive(Debug, Default)]
pub(super) struct Events {
    waiting: VecDeque<Event>,
    /// The reader was too slow: the first instance whose beginning it is not told, or a later one.
    untold_from: Option<u64>,
    /// The ends of earlier ones since then: nothing else would tell that they are gone. As many at the most as lived.
    gone: VecDeque<Event>,
    /// Flows whose positions changed, each once.
    changed: VecDeque<FlowId>,
}

impl Events {
    pub fn new(flows: usize) -> Self {
        Self { changed: VecDeque::with_capacity(2 * flows + 1), ..Self::default() }
    }

    pub fn push(&mut self, event: Event) {
        if self.untold_from.is_none() && self.waiting.len() < WAITING_MAX {
            self.waiting.push_back(event);
            return;
        }
        let untold_from = self.untold_from.get_or_insert(u64::MAX);
        match &event {
            Event::New(flow) => *untold_from = flow.id.instance().min(*untold_from),
            Event::Gone { flow, .. } if flow.id.instance() < *untold_from => self.gone.push_back(event),
            Event::Gone { .. } | Event::Protected { .. } | Event::Overflow => {}
        }
    }

    /// The caller makes sure that no flow waits twice.
    pub fn push_changed(&mut self, flow: FlowId) {
        self.changed.push_back(flow);
    }

    /// The next that is not a change of a position.
    pub fn pop(&mut self) -> Option<Event> {
        let event = self.waiting.pop_front().or_else(|| self.gone.pop_front());
        event.or_else(|| self.untold_from.take().map(|_| Event::Overflow))
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
        // Begins at its beginning again: the queue would else wander through all of its memory, and make the system give it
        // for the sake of a few flows.
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
    fn a_slow_reader_is_told_so_once_and_last() {
        let mut events = Events::new(0);
        let any = IpAddr::from([10, 0, 0, 1]);
        let key = FlowKey { protocol: 17, source: any, source_port: 1, destination: any, destination_port: 2 };
        let flow = Flow::new(FlowId { slot: 0, instance: 1 }, key, Origin::Start, 0, None, Instant::now());
        let event = Event::New(flow.state());
        for _ in 0..WAITING_MAX + 5 {
            events.push(event);
        }
        let mut told = Vec::new();
        while let Some(event) = events.pop() {
            told.push(event);
        }
        assert_eq!(told.len(), WAITING_MAX + 1);
        assert_eq!(told.last(), Some(&Event::Overflow));
    }

    #[test]
    fn the_end_of_a_flow_is_told_however_slow_the_reader_is() {
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
        // The reader sleeps: an old one ends, one that it never heard of comes and ends, another old one ends.
        for event in [gone(1), Event::New(state(last + 1)), gone(last + 1), gone(2)] {
            events.push(event);
        }
        // However many come and go meanwhile.
        for instance in last + 2..3 * last {
            events.push(Event::New(state(instance)));
            events.push(gone(instance));
        }
        assert_eq!((events.waiting.len(), events.gone.len()), (WAITING_MAX, 2));
        let told = std::iter::from_fn(|| events.pop()).skip(WAITING_MAX).map(|event| match event {
            Event::Gone { flow, .. } => Some(flow.id.instance()),
            Event::Overflow => None,
            other => panic!("{other:?}"),
        });
        assert_eq!(
            told.collect::<Vec<_>>(),
            [Some(1), Some(2), None],
            "the ends of those it knows, then that it missed some"
        );
        assert_eq!(events.pop(), None, "said once");
    }

    #[test]
    fn few_flows_touch_little_of_the_memory() {
        let mut events = Events::new(100);
        for instance in 0..1000 {
            let place = events.changed.as_slices().0.as_ptr();
            (0..2).for_each(|slot| events.push_changed(FlowId { slot, instance }));
            (0..2).for_each(|_| events.pop_changed());
            assert_eq!(events.changed.as_slices().0.as_ptr(), place, "{instance}");
        }
    }
}
