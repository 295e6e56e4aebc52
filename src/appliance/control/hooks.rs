//! What the appliance tells its hooks, and when.
//!
//! Where notifications are configured, the state of a link is the one that subscribers are told. Without them a peer is up while
//! it has a session that is answered, and down otherwise.

use std::collections::BTreeMap;

use super::Control;
use super::request::Drained;
use crate::appliance::hooks::event::{Fact, LostRange, NAMED_MAX};
use crate::appliance::notify::port_news::{Lost, News};
use crate::config::hooks::HookEvent;
use crate::notify::message::{LinkState, Range};
use crate::tunnel::PeerId;

/// The states of links that hooks were told, by peer. A link begins as down.
#[derive(Debug, Default)]
pub(super) struct ToldStates(BTreeMap<u16, &'static str>);

impl ToldStates {
    /// The state before, if this is another one.
    fn replace(&mut self, peer: PeerId, state: &'static str) -> Option<&'static str> {
        let before = self.0.insert(peer.0, state).unwrap_or(LinkState::Down.name());
        (before != state).then_some(before)
    }
}

impl Control {
    /// The notification port has news of a peer.
    pub(super) fn on_port_news(&mut self, peer: u32, news: News) {
        let Ok(peer) = u16::try_from(peer).map(PeerId) else { return };
        match news {
            News::State(state, reason) => self.tell_state(peer, state.name(), reason.name()),
            News::Violation(lost) => self.tell_hooks(peer, fact_of(&lost)),
        }
    }

    /// Tells hooks which peers have a session now, and which have none any more. Reads how their runs went.
    pub(super) fn turn_hooks(&mut self) {
        while let Some((peer, is_up)) = self.peering.poll_contact() {
            if self.config.notify.is_none() {
                let state = if is_up { LinkState::Up } else { LinkState::Down };
                self.tell_state(peer, state.name(), if is_up { "none" } else { "silent" });
            }
        }
        self.hooks.turn();
    }

    fn tell_state(&mut self, peer: PeerId, state: &'static str, reason: &str) {
        if let Some(before) = self.told_states.replace(peer, state) {
            let [state, reason, before] = [state, reason, before].map(str::to_owned);
            self.tell_hooks(peer, Fact::Link { state, reason, before });
        }
    }

    fn tell_hooks(&mut self, peer: PeerId, fact: Fact) {
        // A peer that is none any more is no news.
        if let Some(peer) = self.config.peers.get(usize::from(peer.0)).filter(|peer| !peer.is_removed) {
            self.hooks.tell(&peer.name, fact);
        }
    }

    /// A drain has ended, of which its caller tells.
    pub(super) fn on_drained(&mut self, peers: &[Drained], waited_s: f64) -> Result<String, String> {
        if let Some(unknown) = peers.iter().find(|of| !self.config.peers.iter().any(|peer| peer.name == of.peer)) {
            return Err(format!("{:?} is no peer of this appliance", unknown.peer));
        }
        for Drained { peer, verdict, reasons } in peers {
            tracing::info!(peer, verdict = verdict.name(), "drained");
            self.hooks.tell(peer, Fact::of_drain(verdict.name(), reasons, waited_s));
        }
        Ok(match self.hooks.wants(HookEvent::Drain) {
            true => "hooks are run".to_owned(),
            false => "no hook is run for a drain".to_owned(),
        })
    }
}

fn fact_of(lost: &Lost) -> Fact {
    let range = |Range { key, start, end, .. }: &Range| LostRange {
        source: key.source.to_string(),
        destination: key.destination.to_string(),
        start: *start,
        end: *end,
    };
    let ranges: Vec<_> = lost.ranges.iter().take(NAMED_MAX).map(range).collect();
    let ranges_left_out = lost.ranges_left_out + (lost.ranges.len() - ranges.len()) as u64;
    Fact::Violation { losses: lost.losses, bytes: lost.bytes, ranges, ranges_left_out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_told_when_it_differs_and_the_first_is_down() {
        let mut told = ToldStates::default();
        let peer = PeerId(3);
        assert_eq!(told.replace(peer, "down"), None);
        assert_eq!(told.replace(peer, "degraded"), Some("down"));
        assert_eq!(told.replace(peer, "degraded"), None);
        assert_eq!(told.replace(PeerId(4), "up"), Some("down"));
        assert_eq!(told.replace(peer, "up"), Some("degraded"));
    }
}
