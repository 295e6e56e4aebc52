//! What the notification port tells the control thread, for hooks: states of links, and broken promises.
//!
//! It waits here until the channel has room. Of each peer at most one state and one sum of violations waits, so it stays bounded,
//! and the control thread learns the last state in any case.

use std::collections::BTreeMap;

use crate::notify::message::{LinkState, Range, StateReason};

/// The ranges that are kept of a peer's violations.
const RANGES_MAX: usize = 32;

/// A piece of news about a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// The state of its link.
    State(LinkState, StateReason),
    /// Bytes toward it that were called protected are lost.
    Violation(Lost),
}

/// Lost bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Losses; each is a block.
    pub losses: u64,
    /// Bytes, over all ranges.
    pub bytes: u64,
    /// The first ranges.
    pub ranges: Vec<Range>,
    /// Ranges that were not kept.
    pub ranges_left_out: u64,
}

/// The news that wait, by peer.
#[derive(Debug, Default)]
pub struct PortNews {
    states: BTreeMap<u32, (LinkState, StateReason)>,
    violations: BTreeMap<u32, Lost>,
}

impl PortNews {
    /// The link to a peer has this state.
    pub fn on_state(&mut self, peer: u32, state: LinkState, reason: StateReason) {
        self.states.insert(peer, (state, reason));
    }

    /// These ranges toward a peer are lost.
    pub fn on_violation(&mut self, peer: u32, ranges: &[Range]) {
        let lost = self.violations.entry(peer).or_default();
        lost.losses += 1;
        for range in ranges {
            lost.bytes = lost.bytes.saturating_add(range.end.saturating_sub(range.start));
            if lost.ranges.len() < RANGES_MAX {
                lost.ranges.push(*range);
            } else {
                lost.ranges_left_out += 1;
            }
        }
    }

    /// The next piece, with its peer. It stays until [`on_told`](Self::on_told).
    pub fn first(&self) -> Option<(u32, News)> {
        let state = self.states.first_key_value().map(|(peer, (state, reason))| (*peer, News::State(*state, *reason)));
        state.or_else(|| self.violations.first_key_value().map(|(peer, lost)| (*peer, News::Violation(lost.clone()))))
    }

    /// The first piece was told.
    pub fn on_told(&mut self) {
        if self.states.pop_first().is_none() {
            self.violations.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::message::FlowKey;

    #[test]
    fn the_last_state_and_the_sum_of_losses_wait_until_they_are_told() {
        let key = FlowKey::tcp(([10, 1, 0, 1], 40000).into(), ([10, 2, 0, 1], 80).into());
        let range = Range { key, instance: 1, start: 5, end: 15 };
        let mut news = PortNews::default();
        for _ in 0..1000 {
            news.on_state(0, LinkState::Up, StateReason::None);
            news.on_violation(1, &[range]);
        }
        news.on_state(0, LinkState::Down, StateReason::NoSession);
        let state = (0, News::State(LinkState::Down, StateReason::NoSession));
        assert_eq!((news.first(), news.first()), (Some(state.clone()), Some(state)), "told again until it has room");
        news.on_told();
        let Some((1, News::Violation(lost))) = news.first() else { panic!("{:?}", news.first()) };
        assert_eq!((lost.losses, lost.bytes, lost.ranges.len(), lost.ranges_left_out), (1000, 10_000, RANGES_MAX, 968));
        news.on_told();
        assert_eq!(news.first(), None);
        news.on_told();
    }
}
