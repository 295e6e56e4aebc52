//! The state of a receiver, for reports to its sender, and for status and drain.
//!
//! Nothing is received or delivered here. Only [`Receiver::retire`] gives up blocks, when the sender's run has ended.

use std::time::Duration;

use super::{OpenBlock, Receiver};
use crate::tunnel::lost_blocks::Losses;
use crate::tunnel::unreported_losses::UnreportedLosses;
use crate::wire::report::{LostRun, Progress};

/// No sender's late repair symbols are waited for longer, whatever it reports.
const LATE_SPREAD_MAX: Duration = Duration::from_millis(500);

/// What waits, and what will not be whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveProgress {
    /// The sender's profile.
    pub profile: u8,
    /// Blocks that hold back something, or of which something may still come.
    pub waiting: usize,
    /// The last known block, if something of it is missing and its sender is not known to have closed it.
    pub unfinished: Option<u64>,
}

impl Receiver {
    /// The peer was restarted: nothing more comes, so ADUs behind a hole may leave now.
    pub fn retire(&mut self) {
        self.retired = true;
        self.give_up_below = self.next + self.blocks.len() as u64;
    }

    /// The sender's number of this profile.
    pub fn profile(&self) -> u8 {
        self.profile
    }

    /// How long a hole waits now: as the lateness seen demands, and at least until late repair symbols may have come.
    pub fn hold(&self) -> Duration {
        self.reordering.hold().max(self.late_hold)
    }

    /// Late repair symbols may leave this much later than the rest of their block.
    pub fn set_late_spread(&mut self, spread: Duration) {
        let spread = spread.min(LATE_SPREAD_MAX);
        self.late_hold = if spread.is_zero() { spread } else { self.reordering.least() + spread };
    }

    /// No block is held.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The blocks that were given up.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// What waits, and what will not be whole.
    pub fn receive_progress(&self) -> ReceiveProgress {
        let is_open_end = |open: &OpenBlock| !open.block.has_hole() && !open.closed && open.missing_since.is_none();
        let torn = match self.blocks.back() {
            Some(Some(open)) if self.blocks.len() == 1 && is_open_end(open) => {
                // Only its first symbols came: they may be all.
                Some(open.block.delivered_symbols() == 0)
            }
            _ => None,
        };
        let waiting = if torn.is_some() { 0 } else { self.blocks.len() };
        let unfinished = torn.unwrap_or(false).then_some(self.next).or(self.unfinished);
        ReceiveProgress { profile: self.profile, waiting, unfinished }
    }

    /// The progress of this profile. Call it after [`name_given_up`](Self::name_given_up) for the same report.
    pub fn progress(&self) -> Option<Progress> {
        self.heard_from?;
        Some(Progress {
            profile: self.profile,
            highest: (self.next + self.blocks.len() as u64).saturating_sub(1),
            decoded_from: self.decoded_from,
            decoded_below: self.given_up.first_unnamed(self.decoded_from).unwrap_or(self.next),
        })
    }

    /// Adds given-up blocks to the report written at `sent_at`, those named before first.
    pub fn name_given_up(&mut self, sent_at: u64, room: &mut usize, lost: &mut Vec<LostRun>) {
        self.given_up.name(self.profile, sent_at, room, lost);
    }

    /// The sender has received our report written at `sent_at`.
    pub fn on_acknowledged(&mut self, sent_at: u64) {
        self.given_up.on_acknowledged(sent_at);
    }

    /// Given-up blocks whose report is not acknowledged.
    pub fn given_up(&self) -> &UnreportedLosses {
        &self.given_up
    }
}
