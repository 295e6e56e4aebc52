//! What arrived from a peer, for whoever wants to use it when the peer is gone: what waits, what was given up, when
//! something last came. What follows from it is not decided here.

use std::time::{Duration, Instant};

use super::Peer;
use crate::tunnel::inbound::Standing;
use crate::tunnel::lost_blocks::Losses;
use crate::wire::report::Reception;

impl Peer {
    /// What waits of each profile that was heard, in the present run of the peer.
    pub fn standings(&self) -> impl Iterator<Item = Standing> + '_ {
        self.inbounds.iter().flatten().map(|inbound| inbound.standing())
    }

    /// What earlier runs of the peer sent has all left.
    pub fn has_retired(&self) -> bool {
        self.retiring.is_empty()
    }

    /// What was given up.
    pub fn losses(&self) -> Losses {
        let mut losses = self.losses.clone();
        self.retiring.iter().chain(self.inbounds.iter().flatten()).for_each(|inbound| losses.append(inbound.losses()));
        losses
    }

    /// How long a hole waits now, in the profile in which it waits longest.
    pub fn hold(&self) -> Duration {
        self.inbounds.iter().flatten().map(|inbound| inbound.hold()).fold(self.delivery.hold, Duration::max)
    }

    /// When a block will be given up, if nothing more comes.
    pub fn held_until(&self) -> Option<Instant> {
        self.inbounds.iter().flatten().filter_map(|inbound| inbound.deadline()).min()
    }

    /// What was received.
    pub fn reception(&self) -> Reception {
        let mut reception = self.reception;
        self.sessions.add_to(&mut reception);
        reception
    }

    /// When something authentic last came.
    pub fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }
}
