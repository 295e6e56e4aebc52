//! The notifications of one trial: for each flow, how much of it is reported as on the wire, and when.
//!
//! Only records. A UDP flow whose block failed begins again with a new instance, whose packets are counted from there:
//! only the first instance counts the packets as its program numbers them.
//!
//! The first instance is the first that is heard of. Its first message need not be the one of its beginning: a message has
//! the present state, and a packet that comes alone is protected in the turn in which it was read.

use std::{collections::HashMap, time::Instant};

use crate::notify::message::{Flow, FlowKey, LinkState, Message};

/// A claim about a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// When it arrived.
    pub at: Instant,
    /// Bytes since the first one.
    pub bytes: u64,
    /// UDP: packets since the first one.
    pub packets: u64,
}

#[derive(Debug)]
struct FlowClaims {
    instance: u64,
    /// The last instance heard of.
    newest: u64,
    claims: Vec<Claim>,
}

/// All notifications.
#[derive(Debug, Default)]
pub struct Notes {
    flows: HashMap<FlowKey, FlowClaims>,
    /// The last instance of flows that have ended: what is repeated about them concerns no later flow.
    ended: HashMap<FlowKey, u64>,
    /// The numbers of violations in the first and in the last heartbeat.
    violations: Option<(u64, u64)>,
    /// Claims that arrived before any feedback from the peer: they rely on timestamps.
    pub by_departure: u64,
    /// When the last of them arrived.
    pub last_by_departure: Option<Instant>,
    state: Option<LinkState>,
    /// The smallest number of repair symbols of a block.
    pub least_repair: Option<u16>,
}

impl Notes {
    /// Records a message.
    pub fn take(&mut self, message: &Message, now: Instant) {
        match message {
            Message::Flow(flow) => self.on_flow(flow, now),
            Message::State(peer) => self.state = Some(peer.state),
            Message::Heartbeat(heartbeat) => {
                self.state = heartbeat.peers.first().map(|peer| peer.state).or(self.state);
                let first = self.violations.map_or(heartbeat.violations, |(first, _)| first);
                self.violations = Some((first, heartbeat.violations));
            }
            _ => {}
        }
    }

    /// Whether the link is up, and the number of earlier violations is known.
    pub fn is_up(&self) -> bool {
        self.state == Some(LinkState::Up) && self.violations.is_some()
    }

    /// Violations during the trial; a heartbeat also counts those before it.
    pub fn violations(&self) -> u64 {
        self.violations.map_or(0, |(first, last)| last.saturating_sub(first))
    }

    fn on_flow(&mut self, flow: &Flow, now: Instant) {
        if self.ended.get(&flow.key).is_some_and(|last| flow.instance <= *last) {
            return;
        }
        let first = || FlowClaims { instance: flow.instance, newest: flow.instance, claims: Vec::new() };
        let told = self.flows.entry(flow.key).or_insert_with(first);
        told.newest = told.newest.max(flow.instance);
        if told.instance != flow.instance {
            return;
        }
        let positions = &flow.positions;
        let bytes = positions.on_wire.unwrap_or(0);
        let claim = Claim { at: now, bytes, packets: flow.packets.unwrap_or(0) };
        if told.claims.last().map_or(0, |last| last.bytes) >= bytes {
            return;
        }
        told.claims.push(claim);
        if let Some((_, repair)) = flow.block {
            self.least_repair = Some(self.least_repair.map_or(repair, |least| least.min(repair)));
        }
        if positions.decoded.max(positions.acked).is_none_or(|back| back < bytes) {
            self.by_departure += 1;
            self.last_by_departure = Some(now);
        }
    }

    /// A flow is over: a later one may have the same ports.
    pub fn end(&mut self, key: &FlowKey) {
        if let Some(told) = self.flows.remove(key) {
            self.ended.insert(*key, told.newest);
        }
    }

    /// The last claim about a flow before a moment.
    pub fn before(&self, key: &FlowKey, moment: Instant) -> Option<Claim> {
        self.flows.get(key)?.claims.iter().rev().find(|claim| claim.at < moment).copied()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::notify::message::{Event, Heartbeat, Level, Origin, Peer, Positions, StateReason};

    use super::*;

    fn flow(instance: u64, event: Event, on_wire: u64) -> Message {
        let positions = Positions { on_wire: Some(on_wire), ..Positions::default() };
        Message::Flow(Flow {
            key: key(),
            instance,
            peer: 1,
            event,
            level: Level::OnWire,
            origin: Origin::Start,
            origin_seq: None,
            positions,
            violated: None,
            packets: Some(on_wire / 100),
            cookie: None,
            block: Some((2, 3)),
            survives_burst: 0,
        })
    }

    fn key() -> FlowKey {
        FlowKey::tcp(([10, 1, 0, 1], 7).into(), ([10, 2, 0, 1], 8).into())
    }

    #[test]
    fn the_last_claim_before_a_moment_counts() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut notes = Notes::default();
        notes.take(&flow(1, Event::New, 0), at(0));
        notes.take(&flow(1, Event::Protected, 500), at(10));
        notes.take(&flow(1, Event::Protected, 500), at(15));
        notes.take(&flow(1, Event::Protected, 900), at(20));
        assert_eq!(notes.before(&key(), at(10)), None);
        assert_eq!(notes.before(&key(), at(20)).map(|claim| (claim.bytes, claim.packets)), Some((500, 5)));
        assert_eq!(notes.before(&key(), at(21)).map(|claim| claim.bytes), Some(900));
        assert_eq!((notes.by_departure, notes.last_by_departure), (2, Some(at(20))));
        assert_eq!(notes.least_repair, Some(3));
    }

    #[test]
    fn violations_before_the_trial_do_not_count() {
        let mut notes = Notes::default();
        let peer = |state| Peer { id: 1, name: None, state, reason: StateReason::None };
        notes.take(&Message::State(peer(LinkState::Up)), Instant::now());
        assert!(!notes.is_up());
        for (violations, state) in [(7, LinkState::Up), (7, LinkState::Degraded), (9, LinkState::Up)] {
            let peers = vec![peer(state)];
            notes.take(&Message::Heartbeat(Heartbeat { version: 1, violations, peers }), Instant::now());
            assert_eq!((notes.is_up(), notes.violations()), (state == LinkState::Up, violations - 7));
        }
    }

    #[test]
    fn what_is_repeated_about_a_flow_that_has_ended_is_no_claim_about_a_later_one_with_its_ports() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut notes = Notes::default();
        notes.take(&flow(1, Event::Protected, 300), now);
        notes.take(&flow(2, Event::Protected, 400), now);
        notes.end(&key());
        for old in [flow(1, Event::Protected, 300), flow(2, Event::Protected, 400)] {
            notes.take(&old, now);
            assert_eq!(notes.before(&key(), later), None);
        }
        notes.take(&flow(3, Event::Protected, 100), now);
        assert_eq!(notes.before(&key(), later).map(|claim| claim.bytes), Some(100));
    }

    #[test]
    fn a_later_instance_is_ignored_however_the_first_was_told() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        for (first, claimed) in [(flow(1, Event::New, 0), None), (flow(1, Event::Protected, 300), Some(300))] {
            let mut notes = Notes::default();
            notes.take(&first, now);
            notes.take(&flow(2, Event::New, 0), now);
            notes.take(&flow(2, Event::Protected, 700), now);
            assert_eq!(notes.before(&key(), later).map(|claim| claim.bytes), claimed);
        }
    }
}
