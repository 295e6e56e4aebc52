//! What arrived from a peer, for status and drain: what waits, what was given up, when the last datagram came. What
//! follows from it is not decided here.

use std::time::{Duration, Instant};

use super::Peer;
use crate::tunnel::lost_blocks::Losses;
use crate::tunnel::receiver::ReceiveProgress;
use crate::wire::report::Reception;

impl Peer {
    /// What waits of each profile of the peer's present run.
    pub fn receive_progress(&self) -> impl Iterator<Item = ReceiveProgress> + '_ {
        self.receivers.iter().flatten().map(|receiver| receiver.receive_progress())
    }

    /// All ADUs of the peer's earlier runs have left.
    pub fn earlier_runs_drained(&self) -> bool {
        self.retiring.is_empty()
    }

    /// The blocks that were given up.
    pub fn losses(&self) -> Losses {
        let mut losses = self.losses.clone();
        self.retiring
            .iter()
            .chain(self.receivers.iter().flatten())
            .for_each(|receiver| losses.append(receiver.losses()));
        losses
    }

    /// How long a hole waits now: the longest hold of all profiles.
    pub fn hold(&self) -> Duration {
        self.receivers.iter().flatten().map(|receiver| receiver.hold()).fold(self.delivery.hold, Duration::max)
    }

    /// When the next block is given up if nothing more comes.
    pub fn held_until(&self) -> Option<Instant> {
        self.receivers.iter().flatten().filter_map(|receiver| receiver.deadline()).min()
    }

    /// Counts of what was received.
    pub fn reception(&self) -> Reception {
        let mut reception = self.reception;
        self.sessions.add_to(&mut reception);
        reception
    }

    /// When the last authentic datagram came.
    pub fn last_heard(&self) -> Option<Instant> {
        self.last_heard
    }
}
