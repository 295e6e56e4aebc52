//! What leaves for a peer: what the socket took, when late parts of blocks follow their early parts, and what the peer
//! knows of that.

use std::time::{Duration, Instant};

use super::Peer;
use crate::tunnel::block_event::{BlockEvent, Part};
use crate::tunnel::late_repair::Spread;
use crate::tunnel::outbox::Outbox;
use crate::tunnel::sender::Profile;
use crate::wire::payload_id::BlockId;

impl Peer {
    /// The socket took `bytes` of the front train.
    pub fn on_sent(&mut self, bytes: usize, now: Instant) {
        self.note_sent(bytes, now);
        self.advance(now, |outbox, taken| outbox.on_sent(bytes, now, taken));
    }

    /// Datagrams were dropped unsent.
    pub fn on_unsendable(&mut self) {
        if self.settings.claims {
            self.block_events.push_back(BlockEvent::Unsendable);
        }
    }

    /// Skips the datagram of `bytes` at the front of the front train, which cannot be sent.
    pub fn skip(&mut self, bytes: usize, now: Instant) {
        self.on_unsendable();
        self.advance(now, |outbox, taken| outbox.skip(bytes, now, taken));
    }

    fn advance(&mut self, now: Instant, act: impl FnOnce(&mut Outbox, &mut dyn FnMut((BlockId, Part), u64, bool))) {
        let (events, senders) = (&mut self.block_events, &mut self.senders);
        let (claims, shows_departures) = (self.settings.claims, self.shows_departures);
        let peer_waits = self.reporting.peer_waits_for_late();
        act(&mut self.outbox, &mut |(block, part), last, alone| {
            if claims {
                events.push_back(BlockEvent::Sent { block, part, last, alone });
            }
            if part == Part::Early && !shows_departures {
                // Nothing shows when it leaves. The kernel has it, which is the best that is known.
                let sender = senders.get_mut(usize::from(block.profile)).and_then(Option::as_mut);
                let spread = sender.and_then(|sender| sender.on_early_left(block.sbn, Duration::ZERO, now));
                if claims && is_broken(spread, peer_waits) {
                    events.push_back(BlockEvent::PromiseBroken { block });
                }
            }
        });
    }

    /// The caller learns when blocks have left this host, and calls [`on_early_left`](Self::on_early_left).
    pub fn set_shows_departures(&mut self, shows: bool) {
        self.shows_departures = shows;
    }

    /// See [`set_shows_departures`](Self::set_shows_departures).
    pub fn shows_departures(&self) -> bool {
        self.shows_departures
    }

    /// The early part of `block` has left this host by now, nothing of it more than `lag` after it was sent.
    pub fn on_early_left(&mut self, block: BlockId, lag: Duration, now: Instant) {
        let sender = self.senders.get_mut(usize::from(block.profile)).and_then(Option::as_mut);
        let spread = sender.and_then(|sender| sender.on_early_left(block.sbn, lag, now));
        if is_broken(spread, self.reporting.peer_waits_for_late()) {
            self.block_events.push_back(BlockEvent::PromiseBroken { block });
        }
    }

    /// From the next block on, blocks of this profile follow it.
    pub fn set_profile(&mut self, profile: &Profile) {
        let index = usize::from(profile.number);
        if self.profiles.len() <= index {
            self.profiles.resize(index + 1, None);
        }
        self.profiles[index] = Some(profile.clone());
        if let Some(sender) = self.senders.get_mut(index).and_then(Option::as_mut) {
            sender.set_profile(profile.clone());
        }
    }
}

/// Whether a block with a late part, if it has one, cannot keep its promise. A peer that does not know how late it comes may have
/// given up the block by then.
fn is_broken(spread: Option<Spread>, peer_waits: bool) -> bool {
    spread.is_some_and(|spread| spread == Spread::Broken || !peer_waits)
}
