//! What arrived from a peer, for whoever wants to use it when the peer is gone: what waits, what was given up, when
//! something last came. What follows from it is not decided here.

use std::time::{Duration, Instant};

use super::Peer;
use crate::tunnel::lost_blocks::Losses;
use crate::tunnel::receiver::ReceiveProgress;
use crate::wire::report::Reception;

impl Peer {
    /// What waits of each profile that was heard, in the present run of the peer.
    pub fn receive_progress(&self) -> impl Iterator<Item = ReceiveProgress> + '_ {
        self.receivers.iter().flatten().map(|receiver| receiver.receive_progress())
    }

    /// What earlier runs of the peer sent has all left.
    pub fn earlier_runs_drained(&self) -> bool {
        self.retiring.is_empty()
    }

    /// What was given up.
    pub fn losses(&self) -> Losses {
        let mut losses = self.losses.clone();
        self.retiring
            .iter()
            .chain(self.receivers.iter().flatten())
            .for_each(|receiver| losses.append(receiver.losses()));
        losses
    }

    /// How long a hole waits now, in the profile in which it waits longest.
    pub fn hold(&self) -> Duration {
        self.receivers.iter().flatten().map(|receiver| receiver.hold()).fold(self.delivery.hold, Duration::max)
    }

    /// When a block will be given up, if nothing more comes.
    pub fn held_until(&self) -> Option<Instant> {
        self.receivers.iter().flatten().filter_map(|receiver| receiver.deadline()).min()
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
